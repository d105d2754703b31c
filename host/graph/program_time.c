/* How long each step of a program takes. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "graph/program_memory.h"

enum { REPEATS = 3 }; /* of a convolution that is timed alone */

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static hl_status run_timed(hl_backend *backend, hl_sealed *list, double *seconds)
{
    double start = seconds_now();
    HL_TRY(backend->ops->run(backend, list));
    HL_TRY(backend->ops->finish(backend));
    *seconds = seconds_now() - start;
    return HL_OK;
}

static bool is_convolution(hl_step_kind kind)
{
    return kind == HL_STEP_CONV || kind == HL_STEP_CONV_DATA || kind == HL_STEP_CONV_WEIGHT;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static hl_status time_step(hl_program *p, hl_step_kind kind, hl_sealed *list, double *once, double *alone)
{
    HL_TRY(run_timed(p->backend, list, once));
    *alone = 0.0;
    for (int i = 0; is_convolution(kind) && i < REPEATS; i++) {
        double seconds;
        HL_TRY(run_timed(p->backend, list, &seconds));
        *alone = i == 0 || seconds < *alone ? seconds : *alone;
    }
    return HL_OK;
}

/* samples: [steps][2][rounds] */
static hl_status time_rounds(hl_program *p, hl_sealed *const *lists, int count, int rounds, double *samples)
{
    int first = (int)p->code.once.count;
    for (int round = -1; round < rounds; round++)
        for (int i = first; i < count; i++) {
            double once, alone, *at = samples + (size_t)i * 2 * (size_t)rounds;
            HL_TRY(time_step(p, hl_program_step(p, i)->kind, lists[i], &once, &alone));
            if (round < 0) /* warms up */
                continue;
            at[round] = once;
            at[rounds + round] = alone;
        }
    return HL_OK;
}

hl_status hl_program_time(hl_program *p, int rounds, hl_step_time *times)
{
    int count = hl_program_step_count(p);
    size_t samples_count = (size_t)count * 2 * (size_t)rounds;
    hl_sealed **lists = NULL;
    double *samples = NULL;
    hl_status status = hl_alloc_array((size_t)count, sizeof(hl_sealed *), "profile", (void **)&lists);
    if (status == HL_OK)
        status = hl_alloc_array(samples_count, sizeof *samples, "profile", (void **)&samples);
    for (int i = 0; status == HL_OK && i < count; i++) {
        hl_step *step = (hl_step *)hl_program_step(p, i);
        status = p->backend->ops->seal(p->backend, &step, 1, &lists[i]);
    }
    if (status == HL_OK)
        status = time_rounds(p, lists, count, rounds, samples);
    for (int i = 0; status == HL_OK && i < count; i++) {
        double *at = samples + (size_t)i * 2 * (size_t)rounds;
        for (int k = 0; k < 2; k++)
            qsort(at + k * rounds, (size_t)rounds, sizeof *at, by_value);
        times[i] = (hl_step_time){.once = at[rounds / 2], .alone = at[rounds + rounds / 2]};
    }
    for (int i = 0; lists != NULL && i < count; i++)
        p->backend->ops->unseal(p->backend, lists[i]);
    free(lists);
    free(samples);
    return status;
}
