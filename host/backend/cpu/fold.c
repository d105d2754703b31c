/* FOLD: effective weights and biases of a weight expression, in the layouts that the convolutions chose. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/product_pack.h"
#include "backend/weight_change.h"

enum { FORWARD, DATA_GRADIENT, BIAS, RESULTS };

typedef struct fold {
    hl_dnnl_exec exec;
    hl_weight_expr expr; /* without the gate in sub-function form; with `changed` as W where there is one */
    bool has_change;
    hl_param changed; /* f(W) of a changed weight, in scratch */
    size_t changed_offset;
    bool permute;         /* rows of W -> sub-functions, by input first */
    bool packs;           /* is there a packed result at all? */
    bool as_is;           /* W_eff is W: layouts are changed straight from the parameter */
    hl_tensor *direct;    /* a packed result whose layout is C order, folded into without a detour; or NULL */
    hl_tensor *panels[2]; /* packed results that are panels, of FORWARD and DATA_GRADIENT; or NULL */
    hl_cpu_layout_kind layout[2]; /* theirs */
    const float *source;          /* what panels are packed from: folded, or the parameter where as_is */
    size_t folded_offset, permuted_offset; /* in scratch */
    float *folded, *permuted;
} fold;

static hl_tensor *result(const hl_step *step, int i)
{
    return i < step->out_count ? step->out[i] : NULL;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->out_count > RESULTS)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "folding has at most 3 results");
    for (int i = FORWARD; i <= DATA_GRADIENT; i++) {
        if (result(step, i) != NULL)
            HL_TRY(hl_dnnl_check_elem(step, result(step, i)));
    }
    if (step->conv.subfunction && result(step, DATA_GRADIENT) != NULL)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "weights in sub-function form have no data gradient");
    return HL_OK;
}

/* Sub-function i * O/G + o' is row o = (i / (I/G)) * O/G + o', input i mod I/G. */
static void permute(const fold *f, int64_t groups)
{
    const hl_param *w = f->expr.weight;
    int64_t per_group = w->shape[1], outputs = w->shape[0] / groups, inputs = per_group * groups;
    int64_t window = w->count / (w->shape[0] * per_group);
    for (int64_t i = 0; i < inputs; i++) {
        for (int64_t j = 0; j < outputs; j++) {
            int64_t o = i / per_group * outputs + j;
            memcpy(f->permuted + (i * outputs + j) * window,
                   f->folded + (o * per_group + i % per_group) * window, (size_t)window * sizeof(float));
        }
    }
}

static hl_status pack(hl_cpu *cpu, hl_step *step, fold *f, hl_tensor *to, hl_dnnl_place plain_place)
{
    const dnnl_memory_desc_t *native = hl_dnnl_native(to);
    if (to->native != NULL && native == NULL) {
        const hl_cpu_layout *layout = to->native;
        int i = to == result(step, DATA_GRADIENT) ? DATA_GRADIENT : FORWARD;
        f->panels[i] = to;
        f->layout[i] = layout->kind;
        return HL_OK;
    }
    if (native == NULL)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "no convolution has laid out the packed weights %s",
                       to->name);
    int64_t count = 1;
    for (int d = 0; d < native->ndims; d++)
        count *= native->dims[d];
    if (count != f->expr.weight->count)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "the convolution has %lld weights, its parameter %lld", (long long)count,
                       (long long)f->expr.weight->count);
    dnnl_memory_desc_t plain;
    HL_TRY(hl_dnnl_plain_desc(step, native->ndims, native->dims, dnnl_f32, &plain));
    if (f->direct == NULL && !f->permute && dnnl_memory_desc_equal(&plain, native)) {
        f->direct = to;
        return HL_OK;
    }
    return hl_dnnl_add_reorder(cpu, step, &f->exec, &plain, plain_place, native,
                               (hl_dnnl_place){.tensor = to});
}

static void release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    fold *f = step->exec;
    if (f != NULL)
        hl_dnnl_exec_release(&f->exec);
    free(f);
    step->exec = NULL;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    fold *f = calloc(1, sizeof *f);
    if (f == NULL)
        return hl_fail_nomem(step->name, sizeof *f);
    step->exec = f;
    f->expr = *step->conv.expr;
    if (step->conv.subfunction) {
        f->expr.kind = HL_WEIGHT_PLAIN;
        f->expr.gate = NULL;
        /* With one input a group the two orders are the same. */
        f->permute = f->expr.weight->shape[1] > 1;
    }
    size_t bytes = (size_t)f->expr.weight->count * sizeof(float);
    f->has_change = f->expr.kind == HL_WEIGHT_CHANGED;
    if (f->has_change) {
        f->changed = *f->expr.weight;
        f->expr.weight = &f->changed;
        f->expr.kind = HL_WEIGHT_PLAIN;
        f->changed_offset = hl_dnnl_reserve(&f->exec, bytes);
    }
    f->as_is = f->expr.kind == HL_WEIGHT_PLAIN && !hl_weight_expr_is_scaled(&f->expr) && !f->permute;
    for (int i = FORWARD; i <= DATA_GRADIENT; i++)
        f->packs = f->packs || result(step, i) != NULL;
    f->folded_offset = f->as_is || !f->packs ? 0 : hl_dnnl_reserve(&f->exec, bytes);
    f->permuted_offset = f->permute ? hl_dnnl_reserve(&f->exec, bytes) : f->folded_offset;
    hl_dnnl_place source =
        f->as_is ? (hl_dnnl_place){.param = f->expr.weight} : (hl_dnnl_place){.offset = f->permuted_offset};
    for (int i = FORWARD; i <= DATA_GRADIENT; i++) {
        if (result(step, i) == NULL)
            continue;
        hl_status status = pack(cpu, step, f, result(step, i), source);
        if (status != HL_OK) {
            release(cpu, step);
            return status;
        }
    }
    step->scratch_bytes = f->exec.scratch_bytes;
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    fold *f = step->exec;
    f->folded = (float *)((char *)scratch + f->folded_offset);
    f->permuted = (float *)((char *)scratch + f->permuted_offset);
    if (f->has_change)
        f->changed.host = f->changed.value = (float *)((char *)scratch + f->changed_offset);
    if (f->direct != NULL && (f->exec.count == 0 || f->as_is))
        f->folded = f->direct->data;
    f->source = f->as_is ? f->expr.weight->value : f->folded;
    return hl_dnnl_exec_bind(cpu, step, &f->exec, scratch);
}

/* Panels are packed while the rows are at hand, two at a time since bf16 goes in pairs. */
static void fold_rows(const fold *f)
{
    const hl_param *w = f->expr.weight;
    int64_t rows = w->shape[0], row = w->count / rows;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < rows; o += 2) {
        int64_t end = o + 2 < rows ? o + 2 : rows;
        if (!f->as_is || f->direct != NULL)
            hl_weight_expr_fold(&f->expr, o, end, f->folded + o * row);
        for (int i = FORWARD; i <= DATA_GRADIENT; i++)
            if (f->panels[i] != NULL)
                hl_panels_pack(f->layout[i], f->panels[i]->elem, rows, row, o, f->source + o * row,
                               f->panels[i]->data);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    const fold *f = step->exec;
    const hl_param *w = f->expr.weight;
    if (f->packs) {
        if (f->has_change)
            hl_weight_change_value(step->conv.expr, f->changed.host);
        fold_rows(f);
        if (f->permute)
            permute(f, step->conv.groups);
        if (f->direct != NULL && f->folded != f->direct->data)
            memcpy(f->direct->data, f->folded, (size_t)w->count * sizeof(float));
        HL_TRY(hl_dnnl_exec_run(cpu, step, &f->exec));
    }
    if (result(step, BIAS) != NULL)
        hl_weight_expr_bias(&f->expr, result(step, BIAS)->data);
    return HL_OK;
}

const hl_cpu_op hl_cpu_fold = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};
