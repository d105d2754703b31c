/* Where the tests of kernels run them: on the CPU (memory_shim.c), or on a CUDA device (memory_device.c). */
#ifndef TESTS_KERNELS_KERNEL_MEMORY_H
#define TESTS_KERNELS_KERNEL_MEMORY_H

#include <stddef.h>

/* Memory for kernels that the host reads and writes too; aligned to 64 bytes. NULL: there is none. */
void *kernel_memory_take(size_t bytes);
void kernel_memory_give(void *memory);
/* The order of blocks and threads from now on, where it can be chosen. */
void kernel_set_order(int order);
/* Waits for what was launched; not 0: it failed. */
int kernel_finish(void);

#endif
