#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HL_WITH_CUDA
#include "backend/cuda/cuda_backend.h"
#endif

/* "cuda" or "cuda:N": the device's number. */
static bool parse_cuda(const char *device, int *number)
{
    *number = 0;
    if (strcmp(device, "cuda") == 0)
        return true;
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9' || strlen(device + 5) > 4)
        return false;
    char *end;
    *number = (int)strtol(device + 5, &end, 10);
    return *end == '\0';
}

/* Is CUDA device `number` there? */
static hl_status probe_cuda(int number)
{
#ifdef HL_WITH_CUDA
    return hl_cuda_probe(number);
#else
    char subject[32];
    snprintf(subject, sizeof subject, "--device cuda:%d", number);
    return hl_fail(HL_E_DEVICE, subject, "use --device cpu, or build with `make CUDA=1`",
                   "a CUDA device was looked for, but this program was built without CUDA");
#endif
}

hl_status hl_backend_probe(const char *device)
{
    int number;
    if (device == NULL || strcmp(device, "cpu") == 0)
        return HL_OK;
    if (parse_cuda(device, &number))
        return probe_cuda(number);
    return hl_fail(HL_E_ARG, "--device", "choose cpu, cuda or cuda:N", "\"%.40s\" is no such device", device);
}

hl_status hl_backend_open(const hl_backend_options *o, hl_backend **backend)
{
    int number = 0;
    *backend = NULL;
    HL_TRY(hl_backend_probe(o->device));
#ifdef HL_WITH_CUDA
    if (o->device == NULL ? hl_cuda_device_count() > 0 : parse_cuda(o->device, &number))
        return hl_cuda_backend_open(number, o, backend);
#endif
    (void)number;
    return hl_cpu_backend_open(o->threads, o->log, backend);
}

void hl_backend_close(hl_backend *backend)
{
    if (backend != NULL)
        backend->ops->close(backend);
}

const char *hl_step_kind_name(hl_step_kind kind)
{
    static const char *const names[HL_STEP_KIND_COUNT] = {
        [HL_STEP_FOLD] = "fold",
        [HL_STEP_INPUT] = "input",
        [HL_STEP_CONV] = "conv",
        [HL_STEP_RECOMBINE] = "recombine",
        [HL_STEP_NORM] = "norm",
        [HL_STEP_NORM_BATCH] = "norm_batch",
        [HL_STEP_ACT] = "act",
        [HL_STEP_POOL] = "pool",
        [HL_STEP_GLOBAL_POOL] = "global_pool",
        [HL_STEP_ADD] = "add",
        [HL_STEP_MUL] = "mul",
        [HL_STEP_CONCAT] = "concat",
        [HL_STEP_DROPOUT] = "dropout",
        [HL_STEP_LOSS] = "loss",
        [HL_STEP_TALLY] = "tally",
        [HL_STEP_CONV_DATA] = "conv_data",
        [HL_STEP_CONV_WEIGHT] = "conv_weight",
        [HL_STEP_WEIGHT_GRAD] = "weight_grad",
        [HL_STEP_BIAS_GRAD] = "bias_grad",
        [HL_STEP_RECOMBINE_GRAD] = "recombine_grad",
        [HL_STEP_NORM_GRAD] = "norm_grad",
        [HL_STEP_NORM_BATCH_GRAD] = "norm_batch_grad",
        [HL_STEP_ACT_GRAD] = "act_grad",
        [HL_STEP_POOL_GRAD] = "pool_grad",
        [HL_STEP_GLOBAL_POOL_GRAD] = "global_pool_grad",
        [HL_STEP_MUL_GRAD] = "mul_grad",
        [HL_STEP_CONCAT_GRAD] = "concat_grad",
        [HL_STEP_DROPOUT_GRAD] = "dropout_grad",
        [HL_STEP_OPTIMIZE] = "optimize",
    };
    return names[kind];
}
