/* Matrices of which methods make changes of weights: parameters of their own, and how they start. */
#ifndef HL_METHOD_FACTORS_H
#define HL_METHOD_FACTORS_H

#include "method/layers.h"

/* A change of the layer's weight, to be filled in; the graph owns it. NULL after an error. */
hl_weight_change *hl_add_weight_change(hl_graph *graph, hl_node *node, hl_change_kind kind, float scale);

/* A trained parameter LAYER.NAME of zeros. NULL after an error. */
hl_param *hl_add_factor(hl_graph *graph, const hl_node *node, const char *name, int ndim,
                        const int64_t *shape);

/* Normal with that deviation, or uniform in +-1/sqrt(fan_in) (torch's kaiming_uniform_(a=sqrt(5)), with which
 * its layers start). `p` may be NULL. The numbers depend on the seed and the parameter's place in the graph
 * alone. */
void hl_start_normal(const hl_graph *graph, hl_param *p, float deviation, uint64_t seed);
void hl_start_kaiming(const hl_graph *graph, hl_param *p, int64_t fan_in, uint64_t seed);

/* LoRA (Hu et al., 2021, arXiv 2106.09685): f(W) = W + alpha / r B A, group by group, with A [G r, I/G, kh,
 * kw] (for a linear layer [r, I]), which starts as kaiming_uniform, and B [O, r, 1, 1] ([O, r]) of zeros. r
 * and alpha are the method's options. Returns the change, NULL after an error. */
hl_weight_change *hl_add_lora(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed);

/* NULL after an error, as the status that it is. */
static inline hl_status hl_change_status(const hl_graph *graph, const void *made)
{
    return graph->status != HL_OK ? graph->status : made != NULL ? HL_OK : HL_E_NOMEM;
}

#endif
