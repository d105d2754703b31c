#include "cli/bench_profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

json_t *cli_profile_json(const hl_bench_result *r)
{
    json_t *rows = json_array();
    for (int64_t i = 0; i < r->row_count; i++) {
        const hl_profile_row *row = &r->rows[i];
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:f, s:f, s:f}", "layer", row->layer, "kind",
                                              row->kind, "pass", row->pass, "ms", row->ms, "floor_ms",
                                              row->floor_ms, "gflops", row->gflops));
    }
    return rows;
}

/* One kind of operation in one pass. */
typedef struct total {
    const hl_profile_row *first;
    double ms, floor_ms;
    int64_t count;
} total;

static int by_time(const void *a, const void *b)
{
    double x = ((const total *)a)->ms, y = ((const total *)b)->ms;
    return (x < y) - (x > y);
}

static int64_t sum_by_kind(const hl_bench_result *r, total *totals)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->row_count; i++) {
        const hl_profile_row *row = &r->rows[i];
        int64_t at = 0;
        while (at < n && (strcmp(totals[at].first->kind, row->kind) != 0 ||
                          strcmp(totals[at].first->pass, row->pass) != 0))
            at++;
        if (at == n)
            totals[n++] = (total){.first = row};
        totals[at].ms += row->ms;
        totals[at].floor_ms += row->floor_ms;
        totals[at].count++;
    }
    qsort(totals, (size_t)n, sizeof *totals, by_time);
    return n;
}

hl_status cli_print_profile(const hl_bench_result *r)
{
    total *totals;
    double sum = 0.0;
    HL_TRY(hl_alloc_array((size_t)r->row_count, sizeof *totals, "profile", (void **)&totals));
    for (int64_t i = 0; i < r->row_count; i++)
        sum += r->rows[i].ms;
    printf("\n%-9s %-16s %-44s %9s %9s %9s\n", "pass", "operation", "layer", "ms", "alone", "GFLOP/s");
    for (int64_t i = 0; i < r->row_count; i++) {
        const hl_profile_row *row = &r->rows[i];
        printf("%-9s %-16s %-44s %9.3f", row->pass, row->kind, row->layer, row->ms);
        if (row->floor_ms > 0.0)
            printf(" %9.3f %9.0f", row->floor_ms, row->gflops);
        printf("\n");
    }
    int64_t n = sum_by_kind(r, totals);
    printf("\n%-9s %-16s %6s %9s %7s %9s\n", "pass", "operation", "count", "ms", "share", "alone");
    for (int64_t i = 0; i < n; i++) {
        const total *t = &totals[i];
        printf("%-9s %-16s %6lld %9.2f %6.1f%%", t->first->pass, t->first->kind, (long long)t->count, t->ms,
               100.0 * t->ms / sum);
        if (t->floor_ms > 0.0)
            printf(" %9.2f", t->floor_ms);
        printf("\n");
    }
    free(totals);
    return HL_OK;
}

static const char *const passes[] = {"weights", "forward", "backward", "update"};
enum { PASSES = sizeof passes / sizeof *passes };

static int pass_number(const char *name)
{
    int n = 0;
    while (n + 1 < PASSES && strcmp(passes[n], name) != 0)
        n++;
    return n + 1;
}

/* Complete events ("X") one after another, in microseconds; a row of the picture for each pass, named by a
 * metadata event ("M"). */
hl_status cli_write_trace(const hl_bench_result *r, const char *path)
{
    json_t *events = json_array();
    double at = 0.0;
    for (int n = 0; n < PASSES; n++)
        json_array_append_new(events, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name", "ph",
                                                "M", "pid", 1, "tid", n + 1, "args", "name", passes[n]));
    for (int64_t i = 0; i < r->row_count; i++) {
        const hl_profile_row *row = &r->rows[i];
        json_array_append_new(events, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:{s:f, s:f}}", "name",
                                                row->layer, "cat", row->kind, "ph", "X", "pid", 1, "tid",
                                                pass_number(row->pass), "ts", at, "dur", 1e3 * row->ms,
                                                "args", "floor_ms", row->floor_ms, "gflops", row->gflops));
        at += 1e3 * row->ms;
    }
    json_t *trace = json_pack("{s:o, s:s}", "traceEvents", events, "displayTimeUnit", "ms");
    hl_status status = hl_json_write(path, trace);
    json_decref(trace);
    return status;
}
