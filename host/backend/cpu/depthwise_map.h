/* Depthwise convolutions, forward and data gradient, by kernels of our own for processors with AVX-512: both
 * are maps from one tensor to another in which every channel has a window of its own,
 *
 *     to[n, y, x, c] = behind(sum over the window of from[n, ., ., c] w[., ., c])
 *
 * oneDNN 2.6 does these as fast as memory gives, but a derivative behind a data gradient is another pass over
 * maps that are the widest of a network, and results that will not stay in the cache are read before they are
 * written. Here both are done on the way (docs/performance.md). */
#ifndef HL_BACKEND_CPU_DEPTHWISE_MAP_H
#define HL_BACKEND_CPU_DEPTHWISE_MAP_H

#include "backend/cpu/kernel_behind.h"

typedef struct hl_depthwise_map {
    hl_elem elem;
    bool gradient;
    hl_shape from, to;
    hl_window window; /* from x to y, whichever way the map goes */
    int threads;
    hl_kernel_behind behind;
    /* Bound: addresses. */
    const void *x;
    const float *weights; /* [kh][kw][C] */
} hl_depthwise_map;

/* Should a CONV or CONV_DATA step, which passed its check, be done so? */
bool hl_depthwise_map_takes(const hl_step *step);
/* Lays out the packed weights if nobody has. */
hl_status hl_depthwise_map_prepare(const hl_cpu *cpu, hl_step *step, hl_depthwise_map *map);
/* behind: with what a data gradient has behind it, if hl_conv_behind_takes. */
void hl_depthwise_map_bind(const hl_step *step, bool behind, hl_depthwise_map *map);
void hl_depthwise_map_run(const hl_depthwise_map *map);

#endif
