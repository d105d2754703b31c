#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn_graph.h"

const hl_cuda_op *const hl_cuda_ops[HL_STEP_KIND_COUNT] = {
    [HL_STEP_FOLD] = &hl_cuda_fold,
    [HL_STEP_INPUT] = &hl_cuda_input,
    [HL_STEP_CONV] = &hl_cuda_conv,
    [HL_STEP_RECOMBINE] = &hl_cuda_recombine,
    [HL_STEP_NORM] = &hl_cuda_norm,
    [HL_STEP_NORM_BATCH] = &hl_cuda_norm_batch,
    [HL_STEP_LAYER_NORM] = &hl_cuda_layer_norm,
    [HL_STEP_ACT] = &hl_cuda_act,
    [HL_STEP_POOL] = &hl_cuda_pool,
    [HL_STEP_GLOBAL_POOL] = &hl_cuda_global_pool,
    [HL_STEP_GRID_POOL] = &hl_cuda_grid_pool,
    [HL_STEP_ADD] = &hl_cuda_add,
    [HL_STEP_MUL] = &hl_cuda_mul,
    [HL_STEP_CONCAT] = &hl_cuda_concat,
    [HL_STEP_DROPOUT] = &hl_cuda_dropout,
    [HL_STEP_DROP_PATH] = &hl_cuda_drop_path,
    [HL_STEP_LOSS] = &hl_cuda_loss,
    [HL_STEP_TALLY] = &hl_cuda_tally,
    [HL_STEP_CONV_DATA] = &hl_cuda_conv_data,
    [HL_STEP_CONV_WEIGHT] = &hl_cuda_conv_weight,
    [HL_STEP_WEIGHT_GRAD] = &hl_cuda_weight_grad,
    [HL_STEP_BIAS_GRAD] = &hl_cuda_bias_grad,
    [HL_STEP_RECOMBINE_GRAD] = &hl_cuda_recombine_grad,
    [HL_STEP_NORM_GRAD] = &hl_cuda_norm_grad,
    [HL_STEP_NORM_BATCH_GRAD] = &hl_cuda_norm_batch_grad,
    [HL_STEP_LAYER_NORM_GRAD] = &hl_cuda_layer_norm_grad,
    [HL_STEP_ACT_GRAD] = &hl_cuda_act_grad,
    [HL_STEP_POOL_GRAD] = &hl_cuda_pool_grad,
    [HL_STEP_GLOBAL_POOL_GRAD] = &hl_cuda_global_pool_grad,
    [HL_STEP_GRID_POOL_GRAD] = &hl_cuda_grid_pool_grad,
    [HL_STEP_MUL_GRAD] = &hl_cuda_mul_grad,
    [HL_STEP_CONCAT_GRAD] = &hl_cuda_concat_grad,
    [HL_STEP_DROPOUT_GRAD] = &hl_cuda_dropout,
    [HL_STEP_DROP_PATH_GRAD] = &hl_cuda_drop_path,
    [HL_STEP_SPECTRAL_GRAD] = &hl_cuda_spectral_grad,
    [HL_STEP_OPTIMIZE] = &hl_cuda_optimize,
};

static bool is_float(hl_elem elem)
{
    return elem == HL_ELEM_F32 || elem == HL_ELEM_BF16 || elem == HL_ELEM_F16;
}

hl_status hl_cuda_check_floats(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    hl_elem elem = HL_ELEM_U8;
    for (int i = 0; i < step->in_count + step->out_count; i++) {
        const hl_tensor *t = i < step->in_count ? step->in[i] : step->out[i - step->in_count];
        if (t == NULL)
            continue;
        if (elem == HL_ELEM_U8)
            elem = t->elem;
        if (!is_float(t->elem) || t->elem != elem)
            return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "%s takes operands of one floating-point type",
                           hl_step_kind_name(step->kind));
    }
    return HL_OK;
}

hl_status hl_cuda_bind_scratch(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    step->exec = scratch;
    return HL_OK;
}

static void cuda_close(hl_backend *backend)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    if (cuda->compute != NULL)
        cudaStreamSynchronize(cuda->compute);
    hl_cuda_plans_close(cuda);
    if (cuda->memory != NULL)
        hl_cuda_free(backend, cuda->run);
    hl_cuda_memory_close(cuda);
    if (cuda->device_properties != NULL)
        cudnnBackendDestroyDescriptor(cuda->device_properties);
    if (cuda->blas != NULL)
        cublasLtDestroy(cuda->blas);
    if (cuda->cudnn != NULL)
        cudnnDestroy(cuda->cudnn);
    if (cuda->copy != NULL)
        cudaStreamDestroy(cuda->copy);
    if (cuda->compute != NULL)
        cudaStreamDestroy(cuda->compute);
    free(cuda);
}

static bool cuda_supports(hl_backend *backend, const hl_step *step)
{
    const hl_cuda_op *op = hl_cuda_ops[step->kind];
    return op->check == NULL || op->check((hl_cuda *)backend, step) == HL_OK;
}

static hl_status cuda_prepare(hl_backend *backend, hl_step *step)
{
    const hl_cuda_op *op = hl_cuda_ops[step->kind];
    if (op->check != NULL)
        HL_TRY(op->check((hl_cuda *)backend, step));
    return op->prepare != NULL ? op->prepare((hl_cuda *)backend, step) : HL_OK;
}

static hl_status cuda_bind(hl_backend *backend, hl_step *step, void *scratch)
{
    const hl_cuda_op *op = hl_cuda_ops[step->kind];
    return op->bind != NULL ? op->bind((hl_cuda *)backend, step, scratch) : HL_OK;
}

static hl_status cuda_finish(hl_backend *backend)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    if (cuda->planner)
        return HL_OK;
    return hl_cuda_status(cudaStreamSynchronize(cuda->compute), cuda->base.device, "finish its work");
}

static void cuda_release(hl_backend *backend, hl_step *step)
{
    const hl_cuda_op *op = hl_cuda_ops[step->kind];
    if (step->exec != NULL && op->release != NULL)
        op->release((hl_cuda *)backend, step);
    step->exec = NULL;
}

static void cuda_release_tensor(hl_backend *backend, hl_tensor *tensor)
{
    (void)backend;
    tensor->native = NULL; /* a mark, nothing that is owned */
}

static bool cuda_is_native(hl_backend *backend, hl_elem elem)
{
    (void)backend;
    return is_float(elem); /* from compute capability 8.0 on, the least that kernels are built for */
}

static const hl_backend_ops cuda_ops = {
    .name = "cuda",
    .close = cuda_close,
    .alloc = hl_cuda_alloc,
    .free = hl_cuda_free,
    .alloc_host = hl_cuda_alloc_host,
    .free_host = hl_cuda_free_host,
    .upload = hl_cuda_upload,
    .download = hl_cuda_download,
    .supports = cuda_supports,
    .prepare = cuda_prepare,
    .bind = cuda_bind,
    .seal = hl_cuda_seal,
    .unseal = hl_cuda_unseal,
    .run = hl_cuda_run,
    .feed = hl_cuda_feed,
    .finish = cuda_finish,
    .release = cuda_release,
    .release_tensor = cuda_release_tensor,
    .is_native = cuda_is_native,
    .computes = cuda_is_native,
    .memory = hl_cuda_memory_use,
};

static hl_cuda *make(int number, const hl_backend_options *options)
{
    hl_cuda *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL)
        return NULL;
    cuda->base.ops = &cuda_ops;
    cuda->base.one_packing = cuda->base.bias_as_output = true;
    snprintf(cuda->base.device, sizeof cuda->base.device, "cuda:%d", number % 10000);
    if (options->log != NULL)
        cuda->base.log = *options->log;
    cuda->number = number;
    cuda->deterministic = options->deterministic;
    cuda->autotune = options->autotune;
    cuda->workspace_limit = (size_t)1 << 30;
    return cuda;
}

/* Kernels are built for a list of architectures, which need not have the device's. */
static hl_status try_kernel(hl_cuda *cuda)
{
    hl_cuda_device device;
    cudaError_t error =
        (cudaError_t)hl_launch_set_run_state((hl_run_state){.seed = 0}, cuda->run, cuda->compute);
    if (error == cudaSuccess)
        return HL_OK;
    HL_TRY(hl_cuda_describe(cuda->number, &device));
    return hl_fail(HL_E_DEVICE, cuda->base.device,
                   "build with `make CUDA_ARCHS=\"...\"` that has it, or use --device cpu",
                   "this program's kernels do not run on %s, compute capability %d.%d: %s", device.name,
                   device.major, device.minor, cudaGetErrorString(error));
}

static hl_status open_device(hl_cuda *cuda)
{
    const char *name = cuda->base.device;
    HL_CUDA(cudaSetDevice(cuda->number), name, "select the device");
    HL_CUDA(cudaStreamCreateWithFlags(&cuda->compute, cudaStreamNonBlocking), name, "create a stream");
    HL_CUDA(cudaStreamCreateWithFlags(&cuda->copy, cudaStreamNonBlocking), name, "create a stream");
    HL_CUDNN(cudnnCreate(&cuda->cudnn), name, "open");
    HL_CUDNN(cudnnSetStream(cuda->cudnn, cuda->compute), name, "take a stream");
    HL_BLAS(cublasLtCreate(&cuda->blas), name, "open");
    HL_TRY(hl_cuda_plans_open(cuda));
    HL_TRY(hl_cuda_memory_open(cuda));
    HL_TRY(hl_cuda_alloc(&cuda->base, sizeof *cuda->run, "run state", (void **)&cuda->run));
    return try_kernel(cuda);
}

hl_status hl_cuda_backend_open(int number, const hl_backend_options *options, hl_backend **backend)
{
    *backend = NULL;
    HL_TRY(hl_cuda_probe(number));
    hl_cuda *cuda = make(number, options);
    if (cuda == NULL)
        return hl_fail_nomem("CUDA backend", sizeof *cuda);
    hl_status status = open_device(cuda);
    if (status != HL_OK) {
        cuda_close(&cuda->base);
        return status;
    }
    *backend = &cuda->base;
    return HL_OK;
}

static hl_status open_planner(hl_cuda *cuda, const char *json)
{
    HL_TRY(hl_cuda_plans_open(cuda));
    HL_TRY(hl_cuda_memory_open(cuda));
    HL_CUDNN(cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &cuda->device_properties),
             "planner", "describe a device");
    HL_CUDNN(cudnnBackendSetAttribute(cuda->device_properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                      CUDNN_TYPE_CHAR, (int64_t)strlen(json), json),
             "planner", "describe a device");
    HL_CUDNN(cudnnBackendFinalize(cuda->device_properties), "planner", "describe a device");
    return HL_OK;
}

hl_status hl_cuda_planner_open(const char *device_json, const hl_backend_options *options,
                               hl_backend **backend)
{
    *backend = NULL;
    hl_cuda *cuda = make(0, options);
    if (cuda == NULL)
        return hl_fail_nomem("planner", sizeof *cuda);
    cuda->planner = true;
    hl_status status = open_planner(cuda, device_json);
    if (status != HL_OK) {
        cuda_close(&cuda->base);
        return status;
    }
    *backend = &cuda->base;
    return HL_OK;
}
