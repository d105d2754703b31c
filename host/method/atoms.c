/* atoms: filters as combinations of a few kernels, of which the kernels are trained: W[o,i] = sum_m
 * alpha[o,i,m] D_m, the dual of projection. D starts as the m leading right singular vectors of W as the
 * matrix [O I/G, kh kw], alpha is W's least squares fit by them, W D^T, and frozen; it follows from the base
 * weights, so that files hold only d, what training adds to D: f(W) = W + alpha d. With m = kh kw nothing of
 * W is left out of the sum. */
#include <stdlib.h>

#include "method/eigen.h"
#include "method/factors.h"

/* W^T W in double, of W [rows, n]. */
static void gram(const float *w, int64_t rows, int64_t n, double *g)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n; i++) {
            double x = (double)w[row * n + i];
            for (int64_t j = 0; x != 0.0 && j < n; j++)
                g[i * n + j] += x * (double)w[row * n + j];
        }
}

static void fit(const float *w, int64_t rows, int64_t n, const double *atoms, int64_t m, float *alpha)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t a = 0; a < m; a++) {
            double sum = 0.0;
            for (int64_t j = 0; j < n; j++)
                sum += (double)w[row * n + j] * atoms[a * n + j];
            alpha[row * m + a] = (float)sum;
        }
}

static hl_status start(const hl_node *node, const hl_factor *f)
{
    const int64_t n = f->columns;
    double *g;
    HL_TRY(hl_alloc_array((size_t)(2 * n * n), sizeof *g, node->name, (void **)&g));
    for (int64_t k = 0; k < n * n; k++)
        g[k] = 0.0;
    gram(node->expr.weight->host, f->rows, n, g);
    hl_symmetric_eigenvectors(g, n, g + n * n);
    fit(node->expr.weight->host, f->rows, n, g + n * n, f->rank, f->left->host);
    free(g);
    return HL_OK;
}

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    (void)seed;
    if (!hl_is_spatial(node))
        return HL_OK;
    const hl_weight_matrix m = hl_weight_as_matrix(node);
    const int64_t most = (int64_t)hl_method_number(method, "m"), rank = most < m.window ? most : m.window,
                  rows = m.groups * m.rows * m.inputs;
    hl_weight_change *c = hl_add_weight_change(graph, node, HL_CHANGE_ADD, 1.0f);
    hl_param *alpha = hl_add_factor(graph, node, "alpha", 2, (const int64_t[]){rows, rank}),
             *atoms = hl_add_factor(graph, node, "atoms", 2, (const int64_t[]){rank, m.window});
    HL_TRY(hl_change_status(graph, c));
    HL_TRY(hl_change_status(graph, alpha));
    HL_TRY(hl_change_status(graph, atoms));
    alpha->trained = false;
    c->factor[0] = (hl_factor){
        .left = alpha, .right = atoms, .blocks = 1, .rows = rows, .columns = m.window, .rank = rank};
    return start(node, &c->factor[0]);
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)method;
    (void)seed;
    bool spatial = false;
    for (size_t v = 0; v < graph->node_count; v++)
        spatial = spatial || hl_is_spatial(graph->nodes[v]);
    if (!spatial)
        return hl_fail(HL_E_ARG, "--method atoms", "choose another method",
                       "the network has no kernel larger than 1x1");
    return HL_OK;
}

const hl_method_info hl_method_atoms = {
    .name = "atoms",
    .summary = "m kernels of which all filters of a convolution are made, their combinations frozen",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 3e-3,
    .options = {{"m", HL_OPTION_WHOLE, "9",
                 "kernels of a convolution, at most as many as a kernel has weights", 1, 1024}},
    .apply = apply,
    .change = change,
};
