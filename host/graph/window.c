#include "graph/window.h"

int64_t hl_window_extent(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t padding,
                         bool same, bool ceil_mode, int64_t *before, int64_t *after)
{
    int64_t reach = (kernel - 1) * dilation + 1;
    if (same) {
        int64_t out = (in + stride - 1) / stride, total = (out - 1) * stride + reach - in;
        total = total > 0 ? total : 0;
        *before = total / 2;
        *after = total - total / 2;
        return out;
    }
    *before = *after = padding;
    int64_t room = in + 2 * padding - reach;
    if (room < 0)
        return 0;
    int64_t out = room / stride + 1;
    if (ceil_mode && room % stride != 0 && out * stride < in + padding) {
        /* One more window that starts inside the input or its left padding, as PyTorch. */
        *after += (out * stride + reach) - (in + 2 * padding);
        out++;
    }
    return out;
}

enum { MAX_WINDOW = 4096 };

bool hl_window_is_fit(const hl_window *w)
{
    const int64_t least_one[] = {w->kh, w->kw, w->sh, w->sw, w->dh, w->dw},
                  least_zero[] = {w->top, w->bottom, w->left, w->right};
    for (int i = 0; i < 6; i++)
        if (least_one[i] < 1 || least_one[i] > MAX_WINDOW)
            return false;
    for (int i = 0; i < 4; i++)
        if (least_zero[i] < 0 || least_zero[i] > MAX_WINDOW)
            return false;
    return true;
}

int64_t hl_window_count(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t paddings)
{
    int64_t room = in + paddings - ((kernel - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
}
