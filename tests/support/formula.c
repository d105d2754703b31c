#include "support/formula.h"

#include <math.h>

uint32_t formula_hash(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

double formula_unit(uint32_t hash, int64_t index)
{
    uint32_t x = hash + (uint32_t)index * 0x9e3779b9u;
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    x ^= x >> 16;
    return (double)(x >> 8) * 0x1p-24;
}

void formula_values(const char *name, double low, double high, float *out, int64_t count)
{
    uint32_t hash = formula_hash(name);
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(low + (high - low) * formula_unit(hash, i));
}

void formula_fill_param(hl_param *p)
{
    double low = 0.0, high = 0.0;
    int64_t rows = p->shape[0] > 0 ? p->shape[0] : 1;
    switch (p->role) {
    case HL_PARAM_WEIGHT:
        high = sqrt((hl_param_is_conv(p) ? 6.0 : 3.0) / (double)(p->count / rows));
        low = -high;
        break;
    case HL_PARAM_BIAS:
        low = -0.1, high = 0.1;
        break;
    case HL_PARAM_NORM_SCALE:
        low = 0.6, high = 1.0;
        break;
    case HL_PARAM_NORM_SHIFT:
        low = -0.1, high = 0.3;
        break;
    case HL_PARAM_NORM_MEAN:
        low = -0.2, high = 0.2;
        break;
    case HL_PARAM_NORM_VAR:
        low = 0.8, high = 1.6;
        break;
    case HL_PARAM_SCALE:
        low = 0.3, high = 0.9;
        break;
    case HL_PARAM_GATE:
    case HL_PARAM_FACTOR:
    case HL_PARAM_MASK:
    case HL_PARAM_ADAPTER:
        break;
    }
    formula_values(p->name, low, high, p->host, p->count);
}

void formula_fill(hl_graph *graph)
{
    for (size_t i = 0; i < graph->param_count; i++)
        formula_fill_param(graph->params[i]);
}

void formula_images(float *images, int64_t count)
{
    formula_values("images", -2.0, 2.0, images, count);
}

void formula_labels(int32_t *labels, int64_t count, int64_t classes)
{
    uint32_t hash = formula_hash("labels");
    for (int64_t i = 0; i < count; i++)
        labels[i] = (int32_t)((double)classes * formula_unit(hash, i));
}

summary formula_summary(const float *values, int64_t count)
{
    summary s = {0};
    uint32_t hash = formula_hash("probe");
    for (int64_t i = 0; i < count; i++) {
        double x = (double)values[i];
        s.norm += x * x;
        s.sum += x;
        s.probe += x * (2.0 * formula_unit(hash, i) - 1.0);
        if (i < SUMMARY_FIRST)
            s.first[i] = x;
    }
    s.norm = sqrt(s.norm);
    return s;
}
