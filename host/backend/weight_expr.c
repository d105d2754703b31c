#include <math.h>
#include <stddef.h>

#include "backend/weight_change.h"
#include "base/simd.h"

static bool changes(const hl_param *p)
{
    return p != NULL && (p->trained || p->moves);
}

int hl_weight_expr_params(const hl_weight_expr *e, hl_param *params[HL_EXPR_PARAMS])
{
    const hl_weight_change *c = e->change;
    hl_param *const all[HL_EXPR_PARAMS] = {e->gate,
                                           c != NULL ? c->factor[0].left : NULL,
                                           c != NULL ? c->factor[0].right : NULL,
                                           c != NULL ? c->factor[1].left : NULL,
                                           c != NULL ? c->factor[1].right : NULL,
                                           c != NULL ? c->magnitude : NULL};
    int count = 0;
    for (int i = 0; i < HL_EXPR_PARAMS; i++)
        if (all[i] != NULL)
            params[count++] = all[i];
    return count;
}

bool hl_weight_expr_changes_weight(const hl_weight_expr *e)
{
    return hl_weight_expr_trains_weight(e) || changes(e->norm_scale) || changes(e->norm_var);
}

bool hl_weight_expr_is_dynamic(const hl_weight_expr *e)
{
    return hl_weight_expr_changes_weight(e) || changes(e->bias) || changes(e->offset) ||
           changes(e->norm_shift) || changes(e->norm_mean);
}

bool hl_weight_expr_trains_weight(const hl_weight_expr *e)
{
    hl_param *params[HL_EXPR_PARAMS];
    bool trained = e->weight->trained;
    for (int i = hl_weight_expr_params(e, params); i-- > 0;)
        trained = trained || params[i]->trained;
    return trained;
}

static bool trains(const hl_param *p)
{
    return p != NULL && p->trained;
}

bool hl_weight_expr_trains_bias(const hl_weight_expr *e)
{
    return trains(e->bias) || trains(e->offset) || trains(e->norm_shift);
}

static float row_scale(const hl_weight_expr *e, int64_t o)
{
    float scale = e->norm_scale != NULL ? e->norm_scale->host[o] : 1.0f;
    return e->norm_var != NULL ? scale / sqrtf(e->norm_var->host[o] + e->eps) : scale;
}

/* The factor of a ROW. */
static float row_factor(const hl_weight_expr *e, int64_t o)
{
    return e->kind == HL_WEIGHT_ROW ? 1.0f + e->gate->host[o] : 1.0f;
}

void hl_weight_expr_scale(const hl_weight_expr *e, int64_t first, int64_t last, float *scale)
{
    for (int64_t o = first; o < last; o++)
        scale[o - first] = row_scale(e, o);
}

/* One row of s f(W). Windows of one element (1x1 convolutions, most of a network's weights) have a loop of
 * their own that vectorises. */
static void fold_row(const hl_weight_expr *e, int64_t o, float scale, float *restrict out)
{
    int64_t inputs = e->weight->shape[1], k = hl_weight_expr_window(e);
    const float *restrict w = e->weight->host + o * inputs * k;
    if (e->kind != HL_WEIGHT_GATED) {
        scale *= row_factor(e, o);
        for (int64_t j = 0; j < inputs * k; j++)
            out[j] = scale * w[j];
        return;
    }
    const float *restrict delta = e->gate->host + o * inputs;
    if (k == 1) {
        for (int64_t i = 0; i < inputs; i++)
            out[i] = scale * ((1.0f + delta[i]) * w[i]);
        return;
    }
    for (int64_t i = 0; i < inputs; i++) {
        float gate = 1.0f + delta[i];
        for (int64_t j = 0; j < k; j++)
            out[i * k + j] = scale * (gate * w[i * k + j]);
    }
}

void hl_weight_expr_fold(const hl_weight_expr *e, int64_t first, int64_t last, float *out)
{
    int64_t row = e->weight->count / e->weight->shape[0];
    for (int64_t o = first; o < last; o++)
        fold_row(e, o, row_scale(e, o), out + (o - first) * row);
}

void hl_weight_expr_merge(const hl_weight_expr *e, float *out)
{
    if (e->kind == HL_WEIGHT_CHANGED) {
        hl_weight_change_value(e, out);
        return;
    }
    int64_t outputs = e->weight->shape[0], row = e->weight->count / outputs;
    for (int64_t o = 0; o < outputs; o++)
        fold_row(e, o, 1.0f, out + o * row);
}

void hl_weight_expr_bias(const hl_weight_expr *e, float *out)
{
    for (int64_t o = 0; o < e->weight->shape[0]; o++) {
        float b = e->bias != NULL ? row_factor(e, o) * e->bias->host[o] : 0.0f;
        if (e->offset != NULL)
            b += e->offset->host[o];
        if (e->norm_mean != NULL)
            b -= e->norm_mean->host[o];
        if (hl_weight_expr_is_scaled(e))
            b *= row_scale(e, o);
        out[o] = e->norm_shift != NULL ? b + e->norm_shift->host[o] : b;
    }
}

static void put(hl_param *p, int64_t o, float grad, float keep)
{
    if (trains(p))
        p->grad[o] = (keep != 0.0f ? p->grad[o] : 0.0f) + grad;
}

void hl_weight_expr_bias_grad(const hl_weight_expr *e, int64_t o, float db_eff, float keep)
{
    float scaled = row_scale(e, o) * db_eff;
    put(e->bias, o, row_factor(e, o) * scaled, keep);
    put(e->offset, o, scaled, keep);
    put(e->norm_shift, o, db_eff, keep);
}

/* g = factor dw, added to what is there with `keep`. */
HL_CLONES static void add_scaled(float factor, const float *restrict dw, float *restrict g, int64_t n,
                                 bool keep)
{
    if (keep)
        for (int64_t j = 0; j < n; j++)
            g[j] += factor * dw[j];
    else
        for (int64_t j = 0; j < n; j++)
            g[j] = factor * dw[j];
}

void hl_weight_expr_grad(const hl_weight_expr *e, int64_t first, int64_t last, const float *dw_eff,
                         float keep)
{
    int64_t inputs = e->weight->shape[1], k = hl_weight_expr_window(e), row = inputs * k;
    for (int64_t o = first; o < last; o++) {
        float scale = row_scale(e, o);
        bool gated = e->kind == HL_WEIGHT_GATED;
        const float *restrict dw = dw_eff + (o - first) * row;
        const float *restrict w = e->weight->host + o * row;
        const float *delta = gated ? e->gate->host + o * inputs : NULL;
        if (e->weight->trained && delta == NULL)
            add_scaled(scale * row_factor(e, o), dw, e->weight->grad + o * row, row, keep != 0.0f);
        else if (e->weight->trained)
            for (int64_t i = 0; i < inputs; i++)
                add_scaled(scale * (1.0f + delta[i]), dw + i * k, e->weight->grad + o * row + i * k, k,
                           keep != 0.0f);
        if (!gated || !e->gate->trained)
            continue;
        float *restrict g = e->gate->grad + o * inputs;
        if (k == 1) {
            for (int64_t i = 0; i < inputs; i++)
                g[i] = (keep != 0.0f ? g[i] : 0.0f) + scale * (dw[i] * w[i]);
            continue;
        }
        for (int64_t i = 0; i < inputs; i++) {
            float sum = 0.0f;
            for (int64_t j = i * k; j < (i + 1) * k; j++)
                sum += dw[j] * w[j];
            g[i] = (keep != 0.0f ? g[i] : 0.0f) + scale * sum;
        }
    }
}
