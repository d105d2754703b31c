/* The shim's settings, for tests in C. */
#ifndef CUDA_SHIM_SHIM_H
#define CUDA_SHIM_SHIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order the blocks of a launch run, and the threads of a block that can go on do so. */
typedef enum cuda_shim_order { CUDA_SHIM_FORWARD, CUDA_SHIM_REVERSE, CUDA_SHIM_RANDOM } cuda_shim_order;
void cuda_shim_set_order(cuda_shim_order order, uint32_t seed);
/* Launches so far. */
int64_t cuda_shim_launches(void);

#ifdef __cplusplus
}
#endif
#endif
