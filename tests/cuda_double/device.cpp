#include "cuda_double/device.hpp"

#include <cuda_runtime_api.h>
#include <string.h>

#include "cuda_double/double.h"

namespace cuda_double
{
namespace
{
constexpr int multiprocessors = 132;
int devices = 1, driver = CUDART_VERSION;
thread_local int selected;
thread_local cudaError_t last_error = cudaSuccess;

void reset()
{
    devices = 1;
    driver = CUDART_VERSION;
    selected = 0;
    last_error = cudaSuccess;
}

const bool added = add_part(9, {nullptr, reset});

cudaError_t no_device()
{
    return driver == 0                             ? cudaErrorInsufficientDriver
           : driver < CUDART_VERSION / 1000 * 1000 ? cudaErrorInsufficientDriver
           : devices == 0                          ? cudaErrorNoDevice
                                                   : cudaSuccess;
}

bool there(int device)
{
    return device >= 0 && device < devices;
}
} // namespace

cudaError_t fail(cudaError_t status)
{
    if (status != cudaSuccess)
        last_error = status;
    return status;
}

cudaError_t begin(const call &c)
{
    return fail(c.injected != 0 ? (cudaError_t)c.injected : no_device());
}

int current_device()
{
    return selected;
}
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
void double_set_devices(int count)
{
    devices = count;
}

void double_set_driver(int version)
{
    driver = version;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    call c("cudaGetDeviceCount");
    *count = 0;
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        *count = devices;
    return status;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    call c("cudaGetDeviceProperties");
    cudaError_t status = begin(c);
    if (status == cudaSuccess && !there(device))
        status = fail(cudaErrorInvalidDevice);
    if (status != cudaSuccess)
        return status;
    *p = cudaDeviceProp();
    strcpy(p->name, "CPU double of a CUDA device");
    size_t available;
    (void)cudaMemGetInfo(&available, &p->totalGlobalMem);
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = 9;
    p->minor = 0;
    p->multiProcessorCount = multiprocessors;
    p->asyncEngineCount = 3;
    p->concurrentKernels = p->unifiedAddressing = 1;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    call c("cudaDeviceGetAttribute");
    cudaError_t status = begin(c);
    if (status == cudaSuccess && !there(device))
        status = fail(cudaErrorInvalidDevice);
    if (status != cudaSuccess)
        return status;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = multiprocessors;
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = 32;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 << 10;
        return cudaSuccess;
    default:
        complain("the double does not know attribute %d", (int)attribute);
        return fail(cudaErrorInvalidValue);
    }
}

cudaError_t cudaSetDevice(int device)
{
    call c("cudaSetDevice");
    cudaError_t status = begin(c);
    if (status == cudaSuccess && !there(device))
        status = fail(cudaErrorInvalidDevice);
    if (status == cudaSuccess)
        selected = device;
    return status;
}

cudaError_t cudaGetDevice(int *device)
{
    call c("cudaGetDevice");
    *device = selected;
    return begin(c);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    call c("cudaRuntimeGetVersion");
    *version = CUDART_VERSION;
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    call c("cudaDriverGetVersion");
    *version = driver;
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t status = last_error;
    last_error = cudaSuccess;
    return status;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

#define ERRORS(X)                                                                                            \
    X(cudaSuccess, "no error")                                                                               \
    X(cudaErrorInvalidValue, "invalid argument")                                                             \
    X(cudaErrorMemoryAllocation, "out of memory")                                                            \
    X(cudaErrorInitializationError, "initialization error")                                                  \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")           \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                               \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                      \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                  \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                             \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                       \
    X(cudaErrorNotReady, "device not ready")                                                                 \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                   \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                              \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")           \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                  \
    X(cudaErrorNotSupported, "operation not supported")                                                      \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                 \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")          \
    X(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")        \
    X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")               \
    X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                  \
    X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")            \
    X(cudaErrorStreamCaptureImplicit,                                                                        \
      "operation would make the legacy stream depend on a capturing blocking stream")                        \
    X(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")     \
    X(cudaErrorStreamCaptureWrongThread,                                                                     \
      "attempt to terminate a thread-local capture sequence from another thread")                            \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, text)                                                                                        \
    case name:                                                                                               \
        return text;
        ERRORS(X)
#undef X
    default:
        return "unrecognized error code";
    }
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, text)                                                                                        \
    case name:                                                                                               \
        return #name;
        ERRORS(X)
#undef X
    default:
        return "unrecognized error code";
    }
}
}
