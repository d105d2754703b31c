/* Stands in for the CUDA backend (backend/cuda) in a build without it: there is no device. */
#include <stdio.h>

#include "backend/cuda/cuda_backend.h"

int hl_cuda_device_count(void)
{
    return 0;
}

hl_status hl_cuda_probe(int number)
{
    char subject[32];
    snprintf(subject, sizeof subject, "--device cuda:%d", number);
    return hl_fail(HL_E_DEVICE, subject, "use --device cpu, or build with `make CUDA=1`",
                   "a CUDA device was looked for, but this program was built without CUDA");
}

hl_status hl_cuda_describe(int number, hl_cuda_device *device)
{
    (void)device;
    return hl_cuda_probe(number);
}

hl_status hl_cuda_backend_open(int number, const hl_backend_options *options, hl_backend **backend)
{
    (void)options;
    *backend = NULL;
    return hl_cuda_probe(number);
}
