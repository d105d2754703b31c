/* Learned gates: what a run of model projection made of the contributions of a network, and the network
 * without those that it made small. A gate a[o,i] = 1 + delta[o,i] weighs what input channel i gives to
 * output channel o. */
#ifndef HEIRLOOM_GATES_H
#define HEIRLOOM_GATES_H

#include <heirloom/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hl_gates hl_gates;

/* Reads the gates of a run folder's best result; its weights are not needed. The caller destroys them.
 * HL_E_INPUT where the run has none. */
HL_API hl_status hl_gates_open(const char *run, hl_gates **gates);
HL_API void hl_gates_destroy(hl_gates *gates); /* NULL is fine */

/* Layers with gates, in the adapter's order of names (numbers in them by value). */
HL_API int hl_gates_layer_count(const hl_gates *gates);
typedef struct hl_gate_layer {
    const char *name;        /* valid as long as the gates */
    int64_t outputs, inputs; /* inputs: of a group */
    const float *delta;      /* [outputs, inputs] */
} hl_gate_layer;
HL_API void hl_gates_layer(const hl_gates *gates, int layer, hl_gate_layer *info);

enum { HL_GATE_QUANTILES = 5 };
typedef struct hl_gate_stats {
    int64_t count;
    double mean, deviation, least, most;
    double quantiles[HL_GATE_QUANTILES]; /* 5, 25, 50, 75 and 95 % of the gates lie at or below */
    int64_t small;                       /* with |a| <= threshold */
} hl_gate_stats;
/* Of a layer's gates a; of all layers' for -1. */
HL_API hl_status hl_gates_measure(const hl_gates *gates, int layer, double threshold, hl_gate_stats *stats);

/* How many gates lie in each of `bins` equal parts of [low, high]; those outside are counted in the first or
 * last. */
HL_API void hl_gates_histogram(const hl_gates *gates, int layer, double low, double high, int bins,
                               int64_t *counts);

typedef struct hl_gate_change {
    int layer;
    int64_t output, input;
    double gate;
} hl_gate_change;
/* The `count` gates that are farthest from one, of a layer or of all (-1), the farthest first; returns how
 * many there are. */
HL_API int hl_gates_largest(const hl_gates *gates, int layer, int count, hl_gate_change *changes);

/* What two runs of one network agree in. NaN where a run has not moved the layer's gates. */
typedef struct hl_gate_similarity {
    int64_t count;
    double cosine;      /* of the deltas */
    double correlation; /* Pearson's, of the same */
    double sign;        /* share of the gates that both have moved, in the same direction */
} hl_gate_similarity;
/* `layer` is one of `a` (-1: all that both have); *found is false where `b` has none of that name and shape.
 */
HL_API void hl_gates_compare(const hl_gates *a, const hl_gates *b, int layer, bool *found,
                             hl_gate_similarity *similarity);

/* Gates of a model that has projection applied (hl_model_open_run without `merge`): those with |a| <=
 * threshold become 0. *pruned: how many that are now, of *total. */
HL_API hl_status hl_model_prune(hl_model *model, double threshold, int64_t *pruned, int64_t *total);

typedef struct hl_shrink_report {
    int64_t params_before, params_after; /* statistics not counted */
    int64_t macs_before, macs_after;
    int64_t removed; /* channels that are gone */
    int64_t
        left; /* channels of which the same could be said, in places where they cannot be taken out exactly */
} hl_shrink_report;
/* Writes the network with its gates multiplied in and without the channels that then do nothing: nobody reads
 * them, or nothing goes in and what they put out is constant, which moves into the biases behind. That is
 * done in chains (a convolution, norms, activations, pooling and depthwise convolutions, and a convolution or
 * linear layer that alone reads it all), where zeros around a map do not tell; sums, concatenations and
 * squeeze-excite keep theirs. Outputs are the same but for rounding. .onnx, or a safetensors file of the
 * smaller tensors. The model must not have computed yet, and is good for nothing else afterwards. */
HL_API hl_status hl_model_export_shrunk(hl_model *model, const char *path, hl_shrink_report *report);

#ifdef __cplusplus
}
#endif
#endif
