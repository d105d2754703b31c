/* Kernels for the tests of the shim: right ones, and each mistake that it is to find. Pointers have no
 * alignment beyond their type's unless said otherwise. */
#ifndef CUDA_SHIM_SAMPLE_H
#define CUDA_SHIM_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SAMPLE_THREADS = 96 }; /* of each block, unless said otherwise */

/* ---- right ---- */

/* out[b] = sum of in[b SAMPLE_THREADS + ...], by shuffles within warps and shared memory between them. */
void sample_block_sum(const float *in, float *out, int blocks);
/* out[i] = in[n - 1 - i] within each block, through dynamic shared memory. */
void sample_reverse(const float *in, float *out, int blocks);
/* Neighbours of a warp exchange values through shared memory, with __syncwarp. */
void sample_warp_neighbours(const float *in, float *out);
/* out[i] = i, at every place of a grid of three dimensions, one thread a block. */
void sample_grid(int32_t *out, unsigned x, unsigned y, unsigned z);
/* out[i] = how many threads of thread i's block ran before it. */
void sample_arrival(int32_t *out);

/* ---- wrong ---- */

void sample_reverse_without_barrier(const float *in, float *out);
void sample_warp_neighbours_without_syncwarp(const float *in, float *out);
/* Half of the threads are not there; the last warp is not; two halves stand at different lines; a thread has
 * returned. */
void sample_barrier_of_some(int how);
/* Half a warp takes part in a shuffle. */
void sample_shuffle_of_some(float *out);
/* out[i] = what lies in shared memory that nobody wrote. */
void sample_unwritten(float *out);
/* A template's shared memory is another section's business for the compiler. */
void sample_unwritten_of_template(float *out);
void sample_unwritten_dynamic(float *out);
/* Writes one element behind its array: of `count` floats in out, in shared memory, in dynamic shared memory.
 */
void sample_beyond(float *out, int count);
void sample_beyond_shared(float *out);
void sample_beyond_dynamic(float *out);
/* All blocks write out[thread]. */
void sample_blocks_collide(float *out, int blocks);
/* Block b reads what block b - 1 wrote. */
void sample_block_reads_another(float *out, int blocks);
/* 128 bits from an address that is a multiple of 4. */
void sample_misaligned(const float *in, float *out);
/* Launches of an empty kernel. */
void sample_launch(unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared);

#ifdef __cplusplus
}
#endif
#endif
