/* Devices, and the last error. */
#ifndef CUDA_DOUBLE_DEVICE_HPP
#define CUDA_DOUBLE_DEVICE_HPP

#include <driver_types.h>

#include "cuda_double/record.hpp"

namespace cuda_double
{
/* Keeps it as the last error, and returns it. */
cudaError_t fail(cudaError_t status);
/* How a function of the runtime begins: the failure that a test wants, or that there is no device. */
cudaError_t begin(const call &c);
int current_device();
} // namespace cuda_double

#endif
