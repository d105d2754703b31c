#include "train/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

hl_status hl_meter_create(int64_t classes, hl_meter **meter)
{
    *meter = NULL;
    size_t cells;
    if (classes < 1 || !hl_size_mul((size_t)classes, (size_t)classes, &cells))
        return hl_fail(HL_E_ARG, "metrics", NULL, "%lld classes", (long long)classes);
    hl_meter *m = calloc(1, sizeof *m);
    if (m == NULL)
        return hl_fail_nomem("metrics", sizeof *m);
    m->classes = classes;
    hl_status status =
        hl_alloc_array(cells, sizeof *m->confusion, "confusion matrix", (void **)&m->confusion);
    if (status != HL_OK) {
        hl_meter_destroy(m);
        return status;
    }
    *meter = m;
    return HL_OK;
}

void hl_meter_destroy(hl_meter *m)
{
    if (m == NULL)
        return;
    free(m->confusion);
    free(m->scores);
    free(m->positive);
    free(m);
}

void hl_meter_reset(hl_meter *m)
{
    m->count = m->top1 = m->top5 = 0;
    m->loss = 0.0;
    memset(m->confusion, 0, (size_t)(m->classes * m->classes) * sizeof *m->confusion);
}

/* Number of classes that come before `label` when sorted by falling logits, equal ones by number. */
static int64_t rank_of(const float *logits, int64_t classes, int32_t label)
{
    int64_t rank = 0;
    for (int64_t c = 0; c < classes; c++)
        rank += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
    return rank;
}

static int64_t largest(const float *logits, int64_t classes)
{
    int64_t best = 0;
    for (int64_t c = 1; c < classes; c++)
        if (logits[c] > logits[best])
            best = c;
    return best;
}

int64_t hl_count_correct(const float *logits, const int32_t *labels, int64_t n, int64_t classes)
{
    int64_t correct = 0;
    for (int64_t i = 0; i < n; i++)
        correct += largest(logits + i * classes, classes) == labels[i];
    return correct;
}

hl_status hl_meter_add(hl_meter *m, const float *logits, const float *losses, const int32_t *labels,
                       int64_t n)
{
    if (m->classes == 2) {
        HL_TRY(hl_grow((void **)&m->scores, &m->score_capacity, (size_t)(m->count + n), sizeof *m->scores,
                       "scores"));
        HL_TRY(hl_grow((void **)&m->positive, &m->positive_capacity, (size_t)(m->count + n),
                       sizeof *m->positive, "scores"));
    }
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * m->classes;
        int64_t rank = rank_of(row, m->classes, labels[i]);
        m->top1 += rank < 1;
        m->top5 += rank < 5;
        m->loss += (double)losses[i];
        m->confusion[labels[i] * m->classes + largest(row, m->classes)]++;
        if (m->classes == 2) {
            /* Rises with the probability of class 1, and does not run into its limits. */
            m->scores[m->count + i] = (double)row[1] - (double)row[0];
            m->positive[m->count + i] = labels[i] == 1;
        }
    }
    m->count += n;
    return HL_OK;
}

static double accuracy_by_class(const hl_meter *m)
{
    double sum = 0.0;
    int64_t present = 0;
    for (int64_t c = 0; c < m->classes; c++) {
        int64_t samples = 0;
        for (int64_t k = 0; k < m->classes; k++)
            samples += m->confusion[c * m->classes + k];
        if (samples == 0)
            continue;
        sum += (double)m->confusion[c * m->classes + c] / (double)samples;
        present++;
    }
    return present > 0 ? sum / (double)present : NAN;
}

hl_status hl_meter_read(const hl_meter *m, hl_metrics *metrics)
{
    double n = (double)m->count;
    *metrics = (hl_metrics){.count = m->count,
                            .loss = m->count > 0 ? m->loss / n : NAN,
                            .acc1 = m->count > 0 ? (double)m->top1 / n : NAN,
                            .acc5 = m->count > 0 ? (double)m->top5 / n : NAN,
                            .acc_class = accuracy_by_class(m),
                            .auroc = NAN};
    return m->classes == 2 ? hl_auroc(m->scores, m->positive, m->count, &metrics->auroc) : HL_OK;
}

typedef struct scored {
    double score;
    uint8_t positive;
} scored;

static int by_score(const void *a, const void *b)
{
    double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x > y) - (x < y);
}

hl_status hl_auroc(const double *scores, const uint8_t *positive, int64_t n, double *area)
{
    *area = NAN;
    scored *sorted;
    HL_TRY(hl_alloc_array((size_t)n, sizeof *sorted, "scores", (void **)&sorted));
    for (int64_t i = 0; i < n; i++)
        sorted[i] = (scored){scores[i], positive[i]};
    qsort(sorted, (size_t)n, sizeof *sorted, by_score);
    /* Pairs of a positive and a negative sample in which the positive one has the higher score; twice, so
     * that ties count one and all is exact. */
    int64_t twice = 0, negatives = 0, positives = 0;
    for (int64_t first = 0, end; first < n; first = end) {
        int64_t here[2] = {0, 0};
        for (end = first; end < n && sorted[end].score == sorted[first].score; end++)
            here[sorted[end].positive != 0]++;
        twice += here[1] * (2 * negatives + here[0]);
        negatives += here[0];
        positives += here[1];
    }
    free(sorted);
    if (negatives > 0 && positives > 0)
        *area = (double)twice / (2.0 * (double)negatives * (double)positives);
    return HL_OK;
}
