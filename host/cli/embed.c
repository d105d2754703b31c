/* heirloom embed */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cli/common.h"

/* "5x7", or "5" for "5x5". */
static hl_status parse_window(const char *text, int64_t *h, int64_t *w)
{
    char *end;
    long long rows = strtoll(text, &end, 10), columns = rows;
    bool fit = end != text;
    if (fit && *end == 'x') {
        const char *from = end + 1;
        columns = strtoll(from, &end, 10);
        fit = end != from;
    }
    if (!fit || *end != '\0' || rows < 1 || columns < 1 || rows > 4096 || columns > 4096) {
        char subject[64];
        snprintf(subject, sizeof subject, "--spatial %.40s", text);
        return hl_fail(HL_E_ARG, subject, "write rows x columns, as 5x5",
                       "this is no window of 1 to 4096 pixels a side");
    }
    *h = rows;
    *w = columns;
    return HL_OK;
}

static json_t *check_json(const hl_embed_check *c)
{
    return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "equal", c->equal, "output",
                     hl_json_real(c->output), "output_share", hl_json_real(c->output_share), "gradient",
                     hl_json_real(c->gradient), "gradient_share", hl_json_real(c->gradient_share), "worst",
                     cli_json_text(c->worst), "tolerance", hl_json_real(c->tolerance), "places",
                     (json_int_t)c->places);
}

static hl_status print(const cli_values *values, const hl_embed_counts *n, const hl_embed_check *c)
{
    const char *out = cli_text(values, "out");
    if (cli_flag(values, "json")) {
        json_t *object =
            json_pack("{s:o, s:i, s:I, s:I, s:I, s:[I,I], s:I}", "out", cli_json_text(out), "layers",
                      n->layers, "params", (json_int_t)n->params, "inputs", (json_int_t)n->inputs, "channels",
                      (json_int_t)n->channels, "kernel", (json_int_t)n->kernel_h, (json_int_t)n->kernel_w,
                      "outputs", (json_int_t)n->outputs);
        if (object != NULL && c != NULL)
            json_object_set_new(object, "verify", check_json(c));
        return cli_print_json(object);
    }
    char params[32];
    printf("%s: %d convolutions, %s parameters, %lldx%lldx%lld features to %lld\n", out, n->layers,
           cli_grouped(n->params, params, sizeof params), (long long)n->channels, (long long)n->kernel_h,
           (long long)n->kernel_w, (long long)n->outputs);
    if (c != NULL)
        printf("largest difference of outputs %.3g (%.2g of the largest), of gradients %.3g (%.2g, %s), on "
               "%lld inputs: "
               "%s (tolerance %.2g)\n",
               c->output, c->output_share, c->gradient, c->gradient_share, c->worst, (long long)c->places,
               c->equal ? "equal" : "NOT equal", c->tolerance);
    return HL_OK;
}

static hl_status verify(const cli_values *values, const hl_embedding *embedding, hl_embed_check *check)
{
    hl_compute compute = {.device = cli_text(values, "device"),
                          .threads = (int)cli_int(values, "threads"),
                          .log = cli_log(values)};
    return hl_embed_verify(embedding, &compute, cli_real(values, "tolerance"),
                           (uint64_t)cli_int(values, "seed"), check);
}

/* What is wrong is not written. */
static hl_status embed(const cli_values *values, const hl_embedding *embedding)
{
    const char *path = values->arguments[0];
    bool checked = cli_flag(values, "verify");
    hl_embed_counts counts;
    hl_embed_check check;
    if (checked)
        HL_TRY(verify(values, embedding, &check));
    hl_embed_count(embedding, &counts);
    if (checked && !check.equal)
        return hl_fail(HL_E_INTERNAL, path, "--tolerance sets the limit",
                       "the convolutions differ from the network: outputs by %.3g of the largest, gradients "
                       "by %.3g (%s), "
                       "beyond %.2g",
                       check.output_share, check.gradient_share, check.worst, check.tolerance);
    HL_TRY(hl_embed_write(embedding, cli_text(values, "out")));
    return print(values, &counts, checked ? &check : NULL);
}

hl_status cli_embed(cli_values *values)
{
    hl_embed_options options = {
        .act = cli_text(values, "act"), .layers = cli_text(values, "layers"), .log = cli_log(values)};
    hl_embedding *embedding;
    HL_TRY(cli_require(values, "out"));
    HL_TRY(cli_check_output(cli_text(values, "out"), true));
    if (cli_text(values, "spatial") != NULL)
        HL_TRY(parse_window(cli_text(values, "spatial"), &options.kernel_h, &options.kernel_w));
    if (cli_flag(values, "verify"))
        HL_TRY(hl_backend_probe(cli_text(values, "device")));
    HL_TRY(hl_embed_open(values->arguments[0], &options, &embedding));
    hl_status status = embed(values, embedding);
    hl_embed_destroy(embedding);
    return status;
}
