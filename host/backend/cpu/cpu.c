#include "backend/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const hl_cpu_op *const table[HL_STEP_KIND_COUNT] = {
    [HL_STEP_FOLD] = &hl_cpu_fold,
    [HL_STEP_INPUT] = &hl_cpu_input,
    [HL_STEP_CONV] = &hl_cpu_conv,
    [HL_STEP_RECOMBINE] = &hl_cpu_recombine,
    [HL_STEP_NORM] = &hl_cpu_norm,
    [HL_STEP_NORM_BATCH] = &hl_cpu_norm_batch,
    [HL_STEP_LAYER_NORM] = &hl_cpu_layer_norm,
    [HL_STEP_ACT] = &hl_cpu_act,
    [HL_STEP_POOL] = &hl_cpu_pool,
    [HL_STEP_GLOBAL_POOL] = &hl_cpu_global_pool,
    [HL_STEP_GRID_POOL] = &hl_cpu_grid_pool,
    [HL_STEP_ADD] = &hl_cpu_add,
    [HL_STEP_MUL] = &hl_cpu_mul,
    [HL_STEP_CONCAT] = &hl_cpu_concat,
    [HL_STEP_DROPOUT] = &hl_cpu_dropout,
    [HL_STEP_DROP_PATH] = &hl_cpu_drop_path,
    [HL_STEP_LOSS] = &hl_cpu_loss,
    [HL_STEP_TALLY] = &hl_cpu_tally,
    [HL_STEP_CONV_DATA] = &hl_cpu_conv_data,
    [HL_STEP_CONV_WEIGHT] = &hl_cpu_conv_weight,
    [HL_STEP_WEIGHT_GRAD] = &hl_cpu_weight_grad,
    [HL_STEP_BIAS_GRAD] = &hl_cpu_bias_grad,
    [HL_STEP_RECOMBINE_GRAD] = &hl_cpu_recombine_grad,
    [HL_STEP_NORM_GRAD] = &hl_cpu_norm_grad,
    [HL_STEP_NORM_BATCH_GRAD] = &hl_cpu_norm_batch_grad,
    [HL_STEP_LAYER_NORM_GRAD] = &hl_cpu_layer_norm_grad,
    [HL_STEP_ACT_GRAD] = &hl_cpu_act_grad,
    [HL_STEP_POOL_GRAD] = &hl_cpu_pool_grad,
    [HL_STEP_GLOBAL_POOL_GRAD] = &hl_cpu_global_pool_grad,
    [HL_STEP_GRID_POOL_GRAD] = &hl_cpu_grid_pool_grad,
    [HL_STEP_MUL_GRAD] = &hl_cpu_mul_grad,
    [HL_STEP_CONCAT_GRAD] = &hl_cpu_concat_grad,
    [HL_STEP_DROPOUT_GRAD] = &hl_cpu_dropout_grad,
    [HL_STEP_DROP_PATH_GRAD] = &hl_cpu_drop_path_grad,
    [HL_STEP_SPECTRAL_GRAD] = &hl_cpu_spectral_grad,
    [HL_STEP_OPTIMIZE] = &hl_cpu_optimize,
};

hl_status hl_cpu_dnnl_status(dnnl_status_t status, const hl_step *step, const char *what)
{
    static const char *const texts[] = {"success",         "out of memory", "invalid arguments",
                                        "not implemented", "iterator ends", "runtime error",
                                        "not required"};
    if (status == dnnl_success)
        return HL_OK;
    const char *text = (size_t)status < sizeof texts / sizeof *texts ? texts[status] : "unknown error";
    hl_status ours = status == dnnl_out_of_memory   ? HL_E_NOMEM
                     : status == dnnl_unimplemented ? HL_E_UNSUPPORTED
                                                    : HL_E_DEVICE;
    return hl_fail(ours, step != NULL ? step->name : "oneDNN", NULL, "oneDNN could not %s: %s", what, text);
}

static void cpu_close(hl_backend *backend)
{
    hl_cpu *cpu = (hl_cpu *)backend;
    if (cpu->stream != NULL)
        dnnl_stream_destroy(cpu->stream);
    if (cpu->engine != NULL)
        dnnl_engine_destroy(cpu->engine);
    free(cpu);
}

static hl_status cpu_alloc(hl_backend *backend, size_t bytes, const char *what, void **memory)
{
    (void)backend;
    return hl_alloc(bytes, what, memory);
}

static void cpu_free(hl_backend *backend, void *memory)
{
    (void)backend;
    free(memory);
}

static hl_status cpu_alloc_host(hl_backend *backend, size_t bytes, void **memory)
{
    (void)backend;
    return hl_alloc(bytes, "input buffers", memory);
}

static hl_status cpu_upload(hl_backend *backend, void *to, const void *from_host, size_t bytes)
{
    (void)backend;
    memmove(to, from_host, bytes);
    return HL_OK;
}

static hl_status cpu_download(hl_backend *backend, void *to_host, const void *from, size_t bytes)
{
    (void)backend;
    memmove(to_host, from, bytes);
    return HL_OK;
}

static bool cpu_supports(hl_backend *backend, const hl_step *step)
{
    const hl_cpu_op *op = table[step->kind];
    return op->check == NULL || op->check((hl_cpu *)backend, step) == HL_OK;
}

static hl_status cpu_prepare(hl_backend *backend, hl_step *step)
{
    const hl_cpu_op *op = table[step->kind];
    if (op->check != NULL)
        HL_TRY(op->check((hl_cpu *)backend, step));
    return op->prepare != NULL ? op->prepare((hl_cpu *)backend, step) : HL_OK;
}

static hl_status cpu_bind(hl_backend *backend, hl_step *step, void *scratch)
{
    const hl_cpu_op *op = table[step->kind];
    return op->bind != NULL ? op->bind((hl_cpu *)backend, step, scratch) : HL_OK;
}

struct hl_sealed {
    int count;
    hl_step *steps[];
};

static hl_status cpu_seal(hl_backend *backend, hl_step *const *steps, int count, hl_sealed **list)
{
    (void)backend;
    size_t bytes = sizeof **list + (size_t)count * sizeof *steps;
    *list = malloc(bytes);
    if (*list == NULL)
        return hl_fail_nomem("list of steps", bytes);
    (*list)->count = count;
    for (int i = 0; i < count; i++)
        (*list)->steps[i] = steps[i];
    return HL_OK;
}

static void cpu_unseal(hl_backend *backend, hl_sealed *list)
{
    (void)backend;
    free(list);
}

static hl_status cpu_run(hl_backend *backend, hl_sealed *list)
{
    hl_cpu *cpu = (hl_cpu *)backend;
    for (int i = 0; i < list->count; i++)
        HL_TRY(table[list->steps[i]->kind]->run(cpu, list->steps[i]));
    return HL_OK;
}

static hl_status cpu_feed(hl_backend *backend, const hl_feed *parts, int count)
{
    (void)backend;
    for (int i = 0; i < count; i++)
        memcpy(parts[i].to, parts[i].from, parts[i].bytes);
    return HL_OK;
}

static hl_status cpu_finish(hl_backend *backend)
{
    (void)backend;
    return HL_OK;
}

static void cpu_release(hl_backend *backend, hl_step *step)
{
    const hl_cpu_op *op = table[step->kind];
    if (step->exec != NULL && op->release != NULL)
        op->release((hl_cpu *)backend, step);
    step->exec = NULL;
}

hl_status hl_cpu_set_layout(const hl_step *step, hl_tensor *tensor, const hl_cpu_layout *layout, size_t bytes)
{
    hl_cpu_layout *native = malloc(sizeof *native);
    if (native == NULL)
        return hl_fail_nomem(step->name, sizeof *native);
    *native = *layout;
    tensor->native = native;
    tensor->bytes = bytes;
    return HL_OK;
}

static void cpu_release_tensor(hl_backend *backend, hl_tensor *tensor)
{
    (void)backend;
    free(tensor->native);
    tensor->native = NULL;
}

static bool cpu_is_native(hl_backend *backend, hl_elem elem)
{
    return elem == HL_ELEM_F32 || (elem == HL_ELEM_BF16 && ((hl_cpu *)backend)->bf16_native);
}

static bool cpu_computes(hl_backend *backend, hl_elem elem)
{
    (void)backend;
    return elem == HL_ELEM_F32 || elem == HL_ELEM_BF16;
}

static const hl_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .alloc_host = cpu_alloc_host,
    .free_host = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .supports = cpu_supports,
    .prepare = cpu_prepare,
    .bind = cpu_bind,
    .seal = cpu_seal,
    .unseal = cpu_unseal,
    .run = cpu_run,
    .feed = cpu_feed,
    .finish = cpu_finish,
    .release = cpu_release,
    .release_tensor = cpu_release_tensor,
    .is_native = cpu_is_native,
    .computes = cpu_computes,
};

hl_status hl_cpu_backend_open(int threads, const hl_log *log, hl_backend **backend)
{
    *backend = NULL;
    hl_cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return hl_fail_nomem("CPU backend", sizeof *cpu);
    cpu->base.ops = &cpu_ops;
    cpu->base.host_memory = true;
    strcpy(cpu->base.device, "cpu");
    cpu->base.threads = threads > 0 ? threads : omp_get_num_procs();
    if (log != NULL)
        cpu->base.log = *log;
    /* oneDNN and our own loops both take their thread count from OpenMP. */
    omp_set_num_threads(cpu->base.threads);
    __builtin_cpu_init();
    cpu->bf16_native = __builtin_cpu_supports("avx512bf16") != 0;
    hl_status status =
        hl_cpu_dnnl_status(dnnl_engine_create(&cpu->engine, dnnl_cpu, 0), NULL, "create an engine");
    if (status == HL_OK)
        status = hl_cpu_dnnl_status(dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags),
                                    NULL, "create a stream");
    if (status != HL_OK) {
        cpu_close(&cpu->base);
        return status;
    }
    *backend = &cpu->base;
    return HL_OK;
}
