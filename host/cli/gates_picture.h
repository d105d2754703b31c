/* The picture of heirloom gates. */
#ifndef HL_CLI_GATES_PICTURE_H
#define HL_CLI_GATES_PICTURE_H

#include <heirloom/gates.h>

/* What pruning at a threshold leaves; accuracy NaN: not measured. */
typedef struct cli_pruned {
    double threshold;
    int64_t pruned, total;
    double accuracy, accuracy_class, loss;
} cli_pruned;

/* The range of gates that pictures show. */
void cli_gates_range(const hl_gate_stats *all, double *low, double *high);

/* Eight heights of a layer's distribution in [low, high], as text; into buf, returned. */
enum { CLI_SPARKS = 12, CLI_SPARK_SIZE = CLI_SPARKS * 3 + 1 };
const char *cli_gates_spark(const hl_gates *gates, int layer, double low, double high,
                            char buf[CLI_SPARK_SIZE]);

/* A heat map of all layers, a histogram of each, and accuracy by sparsity where it was measured (`count`
 * thresholds). False where gnuplot is not installed or fails; HL_E_NOMEM is in *status. */
bool cli_gates_picture(const hl_gates *gates, const hl_gate_stats *all, const cli_pruned *rows, int count,
                       const char *path, hl_status *status);

#endif
