/* How hand-written loops are compiled for wider vectors than the baseline. */
#ifndef HL_BASE_SIMD_H
#define HL_BASE_SIMD_H

/* HL_CLONES before a function: compiled for AVX-512, AVX2 and the baseline, chosen when the program starts.
 * It does not reach into the bodies of OpenMP regions: put the inner loop into a function of its own, marked
 * with it, and call that from the region. GCC only; off under sanitizers, whose start-up runs after the
 * choice is made. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define HL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HL_CLONES
#endif

#endif
