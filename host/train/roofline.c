#include "train/roofline.h"

#include "graph/params.h"
#include "train/session.h"

enum { BATCH = 16, SIDE = 28, CHANNELS = 256, LAYERS = 4, RUNS = 4 };

static hl_status build(hl_graph **graph)
{
    HL_TRY(hl_graph_create(graph));
    hl_value x = hl_graph_input(*graph, SIDE, SIDE, 4);
    x = hl_graph_conv(*graph, "widen", x, (hl_conv_spec){.out = CHANNELS});
    for (int i = 0; i < LAYERS; i++)
        x = hl_graph_conv(*graph, hl_graph_name(*graph, "conv%d", i), x,
                          (hl_conv_spec){.out = CHANNELS, .kernel = 3, .padding = 1});
    x = hl_graph_global_pool(*graph, "pool", x);
    HL_TRY(hl_graph_finish(*graph, hl_graph_head(*graph, "head", x, 2)));
    hl_graph_init(*graph, 0);
    return HL_OK;
}

static hl_status time_runs(hl_backend *backend, hl_program *program, double *gflops)
{
    const double flop = 2.0 * BATCH * SIDE * SIDE * 9.0 * CHANNELS * CHANNELS * LAYERS;
    *gflops = 0.0;
    for (int i = 0; i < RUNS; i++) {
        double start = hl_seconds();
        HL_TRY(hl_program_forward(program));
        HL_TRY(backend->ops->finish(backend));
        double rate = 1e-9 * flop / (hl_seconds() - start);
        *gflops = rate > *gflops ? rate : *gflops;
    }
    return HL_OK;
}

hl_status hl_measure_peak(hl_backend *backend, hl_number_type type, double *gflops)
{
    hl_graph *graph = NULL;
    hl_program *program = NULL;
    const hl_run_state run = {.grad_scale = 1.0f};
    const hl_compile_options options = {
        .batch = BATCH, .raw_input = true, .elem = type.elem, .tf32 = type.tf32, .run = &run};
    hl_status status = build(&graph);
    if (status == HL_OK)
        status = hl_graph_place(graph, backend);
    if (status == HL_OK)
        status = hl_program_compile(graph, backend, &options, &program);
    if (status == HL_OK)
        status = time_runs(backend, program, gflops);
    hl_program_destroy(program);
    hl_graph_destroy(graph);
    return status;
}
