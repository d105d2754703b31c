/* Which devices there are, and what the libraries' status codes mean. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda.h"

hl_status hl_cuda_status(cudaError_t status, const char *subject, const char *what)
{
    if (status == cudaSuccess)
        return HL_OK;
    (void)cudaGetLastError(); /* what is not sticky is not reported twice */
    return hl_fail(status == cudaErrorMemoryAllocation ? HL_E_NOMEM : HL_E_DEVICE, subject, NULL,
                   "CUDA could not %s: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

hl_status hl_cudnn_status(cudnnStatus_t status, const char *subject, const char *what)
{
    char text[512] = "";
    if (status == CUDNN_STATUS_SUCCESS)
        return HL_OK;
    cudnnGetLastErrorString(text, sizeof text);
    text[strcspn(text, "\n")] = '\0';
    hl_status ours = status == CUDNN_STATUS_ALLOC_FAILED ? HL_E_NOMEM
                     : CUDNN_STATUS_CATEGORY((int)status) == (int)CUDNN_STATUS_NOT_SUPPORTED
                         ? HL_E_UNSUPPORTED
                         : HL_E_DEVICE;
    return hl_fail(ours, subject, NULL, "cuDNN could not %s: %s%s%s", what, cudnnGetErrorString(status),
                   text[0] != '\0' ? ", " : "", text);
}

hl_status hl_blas_status(cublasStatus_t status, const char *subject, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return HL_OK;
    return hl_fail(status == CUBLAS_STATUS_ALLOC_FAILED    ? HL_E_NOMEM
                   : status == CUBLAS_STATUS_NOT_SUPPORTED ? HL_E_UNSUPPORTED
                                                           : HL_E_DEVICE,
                   subject, NULL, "cuBLASLt could not %s: %s", what, cublasLtGetStatusString(status));
}

int hl_cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return count;
}

hl_status hl_cuda_probe(int number)
{
    char subject[32];
    int count = 0, driver = 0, runtime = 0;
    snprintf(subject, sizeof subject, "--device cuda:%d", number);
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        (void)cudaGetLastError();
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        char found[64] = "no NVIDIA driver";
        if (driver > 0)
            snprintf(found, sizeof found, "a driver for CUDA %d.%d", driver / 1000, driver % 1000 / 10);
        return hl_fail(
            HL_E_DEVICE, subject, "use --device cpu",
            "a CUDA device was looked for (this program is built with CUDA %d.%d) and %s was found: %s",
            runtime / 1000, runtime % 1000 / 10, found, cudaGetErrorString(status));
    }
    if (number >= count)
        return hl_fail(HL_E_DEVICE, subject, "`heirloom devices` lists them",
                       "there are %d CUDA devices, counted from 0", count);
    return HL_OK;
}

hl_status hl_cuda_describe(int number, hl_cuda_device *device)
{
    struct cudaDeviceProp properties;
    HL_CUDA(cudaGetDeviceProperties(&properties, number), "CUDA", "ask for a device's properties");
    *device = (hl_cuda_device){.memory = properties.totalGlobalMem,
                               .major = properties.major,
                               .minor = properties.minor,
                               .multiprocessors = properties.multiProcessorCount};
    snprintf(device->name, sizeof device->name, "%.127s", properties.name);
    return HL_OK;
}
