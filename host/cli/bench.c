/* heirloom bench */
#include "cli/bench_profile.h"
#include "cli/common.h"

static hl_status report_json(const cli_values *values, const hl_model *model, const hl_bench_result *r)
{
    char method[64];
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "model",
        hl_model_name(model), "method", cli_method_name(model, method, sizeof method), "method_options",
        hl_model_method(model), "mode", cli_text(values, "mode"), "batch_size",
        (json_int_t)cli_int(values, "batch-size"), "images_per_second", r->images_per_second, "ms_median",
        r->ms_median, "ms_p95", r->ms_p95, "gflops", r->gflops, "peak_gflops", r->peak_gflops, "roofline",
        r->gflops / r->peak_gflops, "arena_bytes", (json_int_t)r->arena_bytes, "persistent_bytes",
        (json_int_t)r->persistent_bytes, "scratch_bytes", (json_int_t)r->scratch_bytes, "peak_memory_bytes",
        (json_int_t)r->peak_memory_bytes);
    json_object_set_new(object, "loss", json_real(r->loss));
    if (r->row_count > 0) {
        json_object_set_new(object, "floor_ms", json_real(r->floor_ms));
        json_object_set_new(object, "floor_ratio", json_real(r->ms_median / r->floor_ms));
    }
    if (cli_flag(values, "profile"))
        json_object_set_new(object, "profile", cli_profile_json(r));
    return cli_print_json(object);
}

static hl_status report(const cli_values *values, const hl_model *model, const hl_bench_result *r)
{
    if (cli_flag(values, "json"))
        return report_json(values, model, r);
    const double mib = 1024.0 * 1024.0;
    printf("%s, %s, %s, batch %lld\n", hl_model_name(model), hl_model_method(model), cli_text(values, "mode"),
           (long long)cli_int(values, "batch-size"));
    printf("images/s          %10.1f\n", r->images_per_second);
    printf("ms per step       %10.2f median, %.2f p95\n", r->ms_median, r->ms_p95);
    if (r->row_count > 0)
        printf("convolutions alone%10.2f ms: a step takes %.2f times that\n", r->floor_ms,
               r->ms_median / r->floor_ms);
    printf("GFLOP/s           %10.1f (convolutions and linear layers), %.0f %% of the %.0f of a large dense "
           "convolution\n",
           r->gflops, 100.0 * r->gflops / r->peak_gflops, r->peak_gflops);
    printf("memory            %10.0f MiB at the peak: activations %.0f, packed weights %.0f, scratch %.0f\n",
           (double)r->peak_memory_bytes / mib, (double)r->arena_bytes / mib,
           (double)r->persistent_bytes / mib, (double)r->scratch_bytes / mib);
    return cli_flag(values, "profile") ? cli_print_profile(r) : HL_OK;
}

hl_status cli_bench(cli_values *values)
{
    hl_model *model;
    hl_bench_result result = {0};
    const char *trace = cli_text(values, "trace");
    hl_bench_options options = {.batch_size = cli_int(values, "batch-size"),
                                .steps = cli_int(values, "steps"),
                                .infer = cli_choice(values, "mode") == 1,
                                .profile =
                                    cli_flag(values, "floor") || cli_flag(values, "profile") || trace != NULL,
                                .features = cli_flag(values, "features")};
    HL_TRY(cli_compute(values, &options.compute));
    HL_TRY(cli_model(values, 0, &model));
    hl_status status = cli_apply_method(values, model);
    if (status == HL_OK)
        status = hl_bench(model, &options, &result);
    if (status == HL_OK)
        status = report(values, model, &result);
    if (status == HL_OK && trace != NULL)
        status = cli_write_trace(&result, trace);
    hl_bench_clear(&result);
    hl_model_destroy(model);
    return status;
}
