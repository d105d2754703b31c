/* Metrics of a pass over a split, gathered batch by batch. */
#ifndef HL_TRAIN_METRICS_H
#define HL_TRAIN_METRICS_H

#include <heirloom/train.h>

#include "base/memory.h"

typedef struct hl_meter {
    int64_t classes;
    int64_t count, top1, top5;
    double loss;
    int64_t *confusion; /* [classes, classes] by (true, predicted) */
    double *scores;     /* two classes: of class 1, one for each sample */
    uint8_t *positive;  /* two classes: is it of class 1? */
    size_t score_capacity, positive_capacity;
} hl_meter;

hl_status hl_meter_create(int64_t classes, hl_meter **meter);
void hl_meter_destroy(hl_meter *meter); /* NULL is fine */
void hl_meter_reset(hl_meter *meter);

/* Adds n samples: logits [n, classes], their losses and true classes. The predicted class is the first of the
 * largest logits. */
hl_status hl_meter_add(hl_meter *meter, const float *logits, const float *losses, const int32_t *labels,
                       int64_t n);

/* What was added since the last reset. Classes without a sample do not enter acc_class. */
hl_status hl_meter_read(const hl_meter *meter, hl_metrics *metrics);

/* How many of n samples have their true class's logit as the first largest. */
int64_t hl_count_correct(const float *logits, const int32_t *labels, int64_t n, int64_t classes);

/* Area under the ROC curve of n scores, tied ones counted half, as sklearn.metrics.roc_auc_score; NaN when
 * one of the two kinds is missing. */
hl_status hl_auroc(const double *scores, const uint8_t *positive, int64_t n, double *area);

#endif
