/* Weights and inputs from a formula, so that a network of any size can be filled alike here and in
 * scripts/make_model_goldens.py without storing its weights.
 *
 *     hash(name)       32-bit FNV-1a of the name's bytes
 *     unit(name, i)    x = hash(name) + i * 0x9e3779b9 (mod 2^32), mixed by MurmurHash3's finalizer; its
 * upper 24 bits times 2^-24, so in [0, 1) value(name, i)   low + (high - low) * unit(name, i) in double,
 * rounded once to float
 *
 * with the range of a parameter, named as in PyTorch, i counting in C order:
 *     convolution      +-sqrt(6 / (I/G kh kw)), variance 2 / fan-in (He)
 *     linear weight    +-sqrt(3 / I)
 *     bias             +-0.1
 *     norm scale       0.6 .. 1.0        shift    -0.1 .. 0.3
 *     running mean     -0.2 .. 0.2       variance  0.8 .. 1.6
 * Images are value("images", i) in -2 .. 2, i counting channels-last; labels floor(classes unit("labels",
 * n)).
 */
#ifndef TESTS_SUPPORT_FORMULA_H
#define TESTS_SUPPORT_FORMULA_H

#include "graph/graph.h"

uint32_t formula_hash(const char *name);
double formula_unit(uint32_t hash, int64_t index);
void formula_values(const char *name, double low, double high, float *out, int64_t count);

void formula_fill_param(hl_param *param);
/* All parameters of a graph, in host memory. */
void formula_fill(hl_graph *graph);
void formula_images(float *images, int64_t count);
void formula_labels(int32_t *labels, int64_t count, int64_t classes);

/* What goldens keep of a tensor: enough that no wrong one passes. */
enum { SUMMARY_FIRST = 8, SUMMARY_SIZE = SUMMARY_FIRST + 3 };
typedef struct summary {
    double norm, sum;
    double probe; /* sum of x[i] * value("probe", i) in -1 .. 1: notices every misplaced element */
    double first[SUMMARY_FIRST];
} summary;
summary formula_summary(const float *values, int64_t count);

#endif
