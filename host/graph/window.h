/* Windows of convolutions and pooling: paddings and output sizes, one dimension at a time. */
#ifndef HL_GRAPH_WINDOW_H
#define HL_GRAPH_WINDOW_H

#include <stdbool.h>

#include "base/compute.h"

/* Sets the paddings of one dimension and returns the output extent, < 1 when the window does not fit.
 * same: TensorFlow's SAME, instead of `padding`. */
int64_t hl_window_extent(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t padding,
                         bool same, bool ceil_mode, int64_t *before, int64_t *after);

/* Output extent of a dimension whose two paddings make `paddings` together; 0 where the window does not fit.
 */
int64_t hl_window_count(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t paddings);

/* Are window, strides and dilations 1 to 4096, and paddings 0 to 4096? */
bool hl_window_is_fit(const hl_window *window);

#endif
