/* Where launches go. */
#ifndef CUDA_SHIM_STREAM_HPP
#define CUDA_SHIM_STREAM_HPP

#include <functional>

/* Runs the work at once. Weak: a double of the CUDA runtime puts it into its stream instead. */
void cuda_shim_enqueue(void *stream, std::function<void()> work);

#endif
