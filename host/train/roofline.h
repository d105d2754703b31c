/* What the machine reaches at best, to hold a network's throughput against. */
#ifndef HL_TRAIN_ROOFLINE_H
#define HL_TRAIN_ROOFLINE_H

#include "train/model.h"

/* GFLOP/s of dense 3x3 convolutions, 256 channels on 28x28, batch 16, forward: the fastest of a few runs
 * through the backend itself. Takes well under a second on two cores. */
hl_status hl_measure_peak(hl_backend *backend, hl_number_type type, double *gflops);

#endif
