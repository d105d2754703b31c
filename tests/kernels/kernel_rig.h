/* Running a CUDA kernel on the CPU (tests/cuda_shim): buffers of exactly their size between guard zones, and
 * the same launch in several orders of threads, which must not matter.
 *
 *     kernel_rig r = {0};
 *     void *x = kernel_input(&r, count, elem, values), *y = kernel_output(&r, count, elem);
 *     KERNEL_RUN(&r, hl_launch_...(x, ..., y, NULL));
 *     kernel_get(y, count, elem, got);
 *     kernel_rig_clear(&r); */
#ifndef TESTS_KERNELS_KERNEL_RIG_H
#define TESTS_KERNELS_KERNEL_RIG_H

#include <criterion/criterion.h>

#include "base/shape.h"

/* Under the thread sanitizer, which finds races in any order and is slow, one order is run. */
#ifdef __SANITIZE_THREAD__
enum { KERNEL_BUFFERS = 24, KERNEL_ORDERS = 1 };
#else
enum { KERNEL_BUFFERS = 24, KERNEL_ORDERS = 4 };
#endif

typedef struct kernel_rig {
    struct {
        unsigned char *memory, *start, *first; /* with guards; as before a run; after the first run */
        size_t bytes;
    } buffers[KERNEL_BUFFERS];
    int count;
} kernel_rig;

/* Filled with values, rounded to `elem`. */
void *kernel_input(kernel_rig *rig, int64_t count, hl_elem elem, const double *values);
/* Filled with NaN. */
void *kernel_output(kernel_rig *rig, int64_t count, hl_elem elem);
/* A copy of these bytes. */
void *kernel_bytes(kernel_rig *rig, const void *bytes, size_t count);
void kernel_get(const void *buffer, int64_t count, hl_elem elem, double *values);
void kernel_rig_clear(kernel_rig *rig);

/* Used by KERNEL_RUN: sets the order of a run and all buffers as they were; checks guards and that all
 * buffers end the same in every order. */
void kernel_before(kernel_rig *rig, int order);
void kernel_after(kernel_rig *rig, int order);

#define KERNEL_RUN(rig, launch)                                                                              \
    for (int kernel_order_ = 0; kernel_order_ < KERNEL_ORDERS; kernel_order_++) {                            \
        kernel_before((rig), kernel_order_);                                                                 \
        cr_assert_eq((launch), 0);                                                                           \
        kernel_after((rig), kernel_order_);                                                                  \
    }

/* Is this one of the cases to run, of a long list? Under the thread sanitizer one of `one_of` is, else all.
 */
bool kernel_takes_case(int one_of);

/* Types that kernels compute with. */
extern const hl_elem kernel_elems[3]; /* f32, bf16, f16 */

#endif
