#include "cli/gates_picture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/gnuplot.h"

enum { BINS = 60, COLUMNS = 6, PANEL_WIDTH = 230, PANEL_HEIGHT = 120, TOP_HEIGHT = 420 };

void cli_gates_range(const hl_gate_stats *all, double *low, double *high)
{
    double spread = 3.0 * (all->quantiles[HL_GATE_QUANTILES - 1] - all->quantiles[0]);
    *low = fmax(all->least, all->quantiles[0] - spread);
    *high = fmin(all->most, all->quantiles[HL_GATE_QUANTILES - 1] + spread);
    if (*high - *low < 1e-6) { /* nothing has moved */
        *low -= 1e-3;
        *high += 1e-3;
    }
}

const char *cli_gates_spark(const hl_gates *gates, int layer, double low, double high,
                            char buf[CLI_SPARK_SIZE])
{
    int64_t counts[CLI_SPARKS], most = 1;
    char *to = buf;
    hl_gates_histogram(gates, layer, low, high, CLI_SPARKS, counts);
    for (int b = 0; b < CLI_SPARKS; b++)
        most = counts[b] > most ? counts[b] : most;
    for (int b = 0; b < CLI_SPARKS; b++) {
        if (counts[b] == 0) {
            *to++ = ' ';
            continue;
        }
        /* U+2581 to U+2588: an eighth to a whole block */
        int height = (int)(8.0 * (double)counts[b] / (double)most + 0.5);
        *to++ = (char)0xe2;
        *to++ = (char)0x96;
        *to++ = (char)(0x80 + (height < 1 ? 1 : height));
    }
    *to = '\0';
    return buf;
}

/* A name as a title: only what means nothing to gnuplot. */
static void put_title(FILE *out, const char *name)
{
    fputs("set title '", out);
    for (int i = 0; name[i] != '\0' && i < 40; i++)
        fputc(strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_", name[i]) != NULL
                  ? name[i]
                  : '_',
              out);
    fputs("'\n", out);
}

static double share_of(int64_t count, int64_t all)
{
    return (double)count / (double)all;
}

/* Blocks: the heat map, a histogram for each layer, accuracy by sparsity. */
static void put_data(FILE *out, const hl_gates *gates, double low, double high, const cli_pruned *rows,
                     int count)
{
    int64_t counts[BINS];
    double width = (high - low) / BINS;
    for (int pass = 0; pass < 2; pass++)
        for (int l = 0; l < hl_gates_layer_count(gates); l++) {
            hl_gate_layer layer;
            hl_gates_layer(gates, l, &layer);
            hl_gates_histogram(gates, l, low, high, BINS, counts);
            for (int b = 0; b < BINS; b++) {
                double share = share_of(counts[b], layer.outputs * layer.inputs);
                if (pass == 0)
                    fprintf(out, "%d %.9g %.6g\n", l, low + (b + 0.5) * width, log10(share + 1e-5));
                else
                    fprintf(out, "%.9g %.6g\n", low + (b + 0.5) * width, share);
            }
            if (pass == 1 || l + 1 == hl_gates_layer_count(gates))
                fputs("\n\n", out);
        }
    for (int i = 0; i < count; i++)
        fprintf(out, "%.9g %.9g\n", 100.0 * share_of(rows[i].pruned, rows[i].total),
                100.0 * rows[i].accuracy);
}

static void put_script(FILE *out, const hl_gates *gates, double low, double high, bool curve)
{
    int layers = hl_gates_layer_count(gates), lines = (layers + COLUMNS - 1) / COLUMNS,
        width = COLUMNS * PANEL_WIDTH, height = TOP_HEIGHT + lines * PANEL_HEIGHT;
    double top = (double)TOP_HEIGHT / height;
    fprintf(out,
            "set terminal pngcairo noenhanced size %d,%d font 'sans,8'\nset output ARG2\nset multiplot\n"
            "set origin 0,%.6f\nset size %.2f,%.6f\nset title 'share of the gates (log10), layer by layer'\n"
            "set xlabel 'gate'\nset ylabel 'layer'\nset xrange [%.9g:%.9g]\nset yrange [-0.5:%d.5]\nset "
            "cbrange [-4:0]\n"
            "plot ARG1 index 0 using 2:1:3 with image notitle\n",
            width, height, 1.0 - top, curve ? 0.65 : 1.0, top, low, high, layers - 1);
    if (curve)
        fprintf(out,
                "set origin 0.65,%.6f\nset size 0.35,%.6f\nset title 'accuracy that pruning leaves'\nset "
                "autoscale\n"
                "set xlabel 'contributions taken out, %%'\nset ylabel 'top-1, %%'\nset grid\n"
                "plot ARG1 index %d using 1:2 with linespoints pt 7 notitle\nunset grid\n",
                1.0 - top, top, layers + 1);
    fprintf(out,
            "unset xlabel\nunset ylabel\nset xrange [%.9g:%.9g]\nset yrange [0:*]\nset style fill solid\n"
            "set xtics font ',6'\nunset ytics\nset boxwidth %.9g\n",
            low, high, (high - low) / BINS);
    for (int l = 0; l < layers; l++) {
        hl_gate_layer layer;
        hl_gates_layer(gates, l, &layer);
        fprintf(out, "set origin %.6f,%.6f\nset size %.6f,%.6f\n", (double)(l % COLUMNS) / COLUMNS,
                (1.0 - top) * (1.0 - (double)(l / COLUMNS + 1) / lines), 1.0 / COLUMNS, (1.0 - top) / lines);
        put_title(out, layer.name);
        fprintf(out, "plot ARG1 index %d using 1:2 with boxes notitle\n", l + 1);
    }
    fputs("unset multiplot\n", out);
}

bool cli_gates_picture(const hl_gates *gates, const hl_gate_stats *all, const cli_pruned *rows, int count,
                       const char *path, hl_status *status)
{
    char *script = NULL, *data = NULL;
    size_t size;
    double low, high;
    bool curve = count > 1 && isfinite(rows[0].accuracy), drawn = false;
    cli_gates_range(all, &low, &high);
    FILE *out = open_memstream(&data, &size);
    if (out != NULL) {
        put_data(out, gates, low, high, rows, curve ? count : 0);
        fclose(out);
    }
    out = open_memstream(&script, &size);
    if (out != NULL) {
        put_script(out, gates, low, high, curve);
        fclose(out);
    }
    *status = data != NULL && script != NULL ? HL_OK : hl_fail_nomem("picture", size);
    if (*status == HL_OK)
        drawn = hl_gnuplot_text(script, data, path);
    free(script);
    free(data);
    return drawn;
}
