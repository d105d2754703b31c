#include "backend/step.h"

#include "base/spectral.h"

const char *hl_step_kind_name(hl_step_kind kind)
{
    static const char *const names[HL_STEP_KIND_COUNT] = {
        [HL_STEP_FOLD] = "fold",
        [HL_STEP_INPUT] = "input",
        [HL_STEP_CONV] = "conv",
        [HL_STEP_RECOMBINE] = "recombine",
        [HL_STEP_NORM] = "norm",
        [HL_STEP_NORM_BATCH] = "norm_batch",
        [HL_STEP_LAYER_NORM] = "layer_norm",
        [HL_STEP_ACT] = "act",
        [HL_STEP_POOL] = "pool",
        [HL_STEP_GLOBAL_POOL] = "global_pool",
        [HL_STEP_GRID_POOL] = "grid_pool",
        [HL_STEP_ADD] = "add",
        [HL_STEP_MUL] = "mul",
        [HL_STEP_CONCAT] = "concat",
        [HL_STEP_DROPOUT] = "dropout",
        [HL_STEP_DROP_PATH] = "drop_path",
        [HL_STEP_LOSS] = "loss",
        [HL_STEP_TALLY] = "tally",
        [HL_STEP_CONV_DATA] = "conv_data",
        [HL_STEP_CONV_WEIGHT] = "conv_weight",
        [HL_STEP_WEIGHT_GRAD] = "weight_grad",
        [HL_STEP_BIAS_GRAD] = "bias_grad",
        [HL_STEP_RECOMBINE_GRAD] = "recombine_grad",
        [HL_STEP_NORM_GRAD] = "norm_grad",
        [HL_STEP_NORM_BATCH_GRAD] = "norm_batch_grad",
        [HL_STEP_LAYER_NORM_GRAD] = "layer_norm_grad",
        [HL_STEP_ACT_GRAD] = "act_grad",
        [HL_STEP_POOL_GRAD] = "pool_grad",
        [HL_STEP_GLOBAL_POOL_GRAD] = "global_pool_grad",
        [HL_STEP_GRID_POOL_GRAD] = "grid_pool_grad",
        [HL_STEP_MUL_GRAD] = "mul_grad",
        [HL_STEP_CONCAT_GRAD] = "concat_grad",
        [HL_STEP_DROPOUT_GRAD] = "dropout_grad",
        [HL_STEP_DROP_PATH_GRAD] = "drop_path_grad",
        [HL_STEP_SPECTRAL_GRAD] = "spectral_grad",
        [HL_STEP_OPTIMIZE] = "optimize",
    };
    return names[kind];
}

/* Positions that a window of k taps takes along one axis; 0 or less where it does not fit. */
static int64_t positions(int64_t size, int64_t k, int64_t stride, int64_t dilation, int64_t before,
                         int64_t after)
{
    int64_t room = size + before + after - ((k - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
}

hl_status hl_step_check_conv(const hl_step *step, hl_shape x, hl_shape y)
{
    const hl_conv_attr *conv = &step->conv;
    const hl_window *w = &conv->window;
    if (w->kh < 1 || w->kw < 1 || w->sh < 1 || w->sw < 1 || w->dh < 1 || w->dw < 1 || w->top < 0 ||
        w->bottom < 0 || w->left < 0 || w->right < 0)
        return hl_fail(
            HL_E_UNSUPPORTED, step->name, NULL,
            "a convolution's window, stride and dilation are at least 1 and its padding at least 0");
    if (conv->groups < 1 || x.c % conv->groups != 0 || y.c % conv->groups != 0)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL,
                       "%lld input and %lld output channels do not split into %lld groups", (long long)x.c,
                       (long long)y.c, (long long)conv->groups);
    if (conv->subfunction && y.c % x.c != 0)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "%lld sub-function outputs of %lld inputs",
                       (long long)y.c, (long long)x.c);
    int64_t h = positions(x.h, w->kh, w->sh, w->dh, w->top, w->bottom);
    int64_t wide = positions(x.w, w->kw, w->sw, w->dw, w->left, w->right);
    if (h < 1 || wide < 1)
        return hl_fail(HL_E_UNSUPPORTED, step->name, "use larger images",
                       "a %lldx%lld window does not fit into %lldx%lld pixels and their padding",
                       (long long)w->kh, (long long)w->kw, (long long)x.h, (long long)x.w);
    if (x.n != y.n || h != y.h || wide != y.w)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "the output is %lldx%lld, the convolution's is %lldx%lld", (long long)y.h,
                       (long long)y.w, (long long)h, (long long)wide);
    return HL_OK;
}

hl_status hl_step_check_pool(const hl_step *step, hl_shape in, hl_shape out)
{
    const hl_window *w = &step->pool.window;
    if (w->dh != 1 || w->dw != 1)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "pooling with dilation %lld x %lld",
                       (long long)w->dh, (long long)w->dw);
    if (w->top >= w->kh || w->left >= w->kw || (out.h - 1) * w->sh - w->top >= in.h ||
        (out.w - 1) * w->sw - w->left >= in.w)
        return hl_fail(HL_E_ARG, step->name, "pad by less than the window",
                       "a pooling window of %lld x %lld lies wholly in the padding", (long long)w->kh,
                       (long long)w->kw);
    return HL_OK;
}

static bool fits(const hl_param *p, int64_t channels)
{
    return p == NULL || p->count == channels;
}

hl_status hl_step_check_norm(const hl_step *step)
{
    const hl_norm_attr *norm = &step->norm;
    int64_t c = step->in[0]->shape.c;
    bool batch = step->kind == HL_STEP_NORM_BATCH || step->kind == HL_STEP_NORM_BATCH_GRAD;
    if ((norm->mean == NULL) != (norm->var == NULL) || (batch && norm->mean == NULL) ||
        !fits(norm->scale, c) || !fits(norm->shift, c) || !fits(norm->mean, c) || !fits(norm->var, c))
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a norm over %lld channels has other parameters",
                       (long long)c);
    return HL_OK;
}

hl_status hl_step_check_spectral(const hl_step *step)
{
    hl_shape f = step->in[0]->shape;
    int64_t columns = f.h * f.w * f.c, smaller = f.n < columns ? f.n : columns;
    if (smaller > HL_SPECTRAL_LARGEST)
        return hl_fail(HL_E_UNSUPPORTED, step->name, "choose a smaller --batch-size",
                       "%lld samples of %lld features have more than %d singular values", (long long)f.n,
                       (long long)columns, (int)HL_SPECTRAL_LARGEST);
    return HL_OK;
}
