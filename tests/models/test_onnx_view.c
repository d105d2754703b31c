/* How dimensions of ONNX are made of our axes. */
#include <criterion/criterion.h>

#include "models/onnx_view.h"

static const hl_shape shape = {1, 4, 6, 8}; /* 4 rows, 6 columns, 8 channels */

static bool reshape(hl_view *v, int ndim, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e)
{
    const int64_t dims[] = {a, b, c, d, e};
    return hl_view_reshape(v, ndim, dims);
}

Test(onnx_view, transposing_turns_one_layout_into_the_other)
{
    hl_view v = hl_view_nhwc(shape, 1), nchw = hl_view_nchw(shape, 1);
    cr_expect(!hl_view_is_nchw(&v, shape) && hl_view_is_nchw(&nchw, shape));
    hl_view_transpose(&v, (const int64_t[]){0, 3, 1, 2});
    cr_expect(hl_view_same(&v, &nchw));
    hl_view_transpose(&v, (const int64_t[]){0, 1, 3, 2});
    cr_expect(!hl_view_is_nchw(&v, shape), "columns in front of rows");
}

Test(onnx_view, dimensions_of_one_come_and_go)
{
    hl_view v = hl_view_nchw((hl_shape){1, 1, 1, 8}, 1);
    cr_expect(reshape(&v, 2, 1, 8, 0, 0, 0) && v.ndim == 2);
    cr_expect(reshape(&v, 5, 1, 1, 8, 1, 1));
    cr_expect(reshape(&v, 4, 1, 8, 1, 1, 0));
    cr_expect(hl_view_is_nchw(&v, (hl_shape){1, 1, 1, 8}));
}

Test(onnx_view, flattening_and_unfolding_is_no_change)
{
    hl_view v = hl_view_nchw(shape, 1);
    cr_expect(reshape(&v, 2, 1, 192, 0, 0, 0));
    cr_expect(!hl_view_is(&v, 1, HL_AXIS_C, shape) && hl_view_count(&v) == 192);
    cr_expect(reshape(&v, 4, 1, 8, 4, 6, 0) && hl_view_is_nchw(&v, shape));
    cr_expect(reshape(&v, 3, 1, 8, 24, 0, 0) && hl_view_is_spatial(&v, 2) && !hl_view_is_spatial(&v, 1));
}

Test(onnx_view, swapped_parts_of_channels_are_a_shuffle)
{
    hl_view v = hl_view_nchw(shape, 1);
    cr_expect(reshape(&v, 5, 1, 2, 4, 4, 6));
    cr_expect_eq(hl_view_shuffle(&v, 1), 0);
    hl_view_transpose(&v, (const int64_t[]){0, 2, 1, 3, 4});
    cr_expect(reshape(&v, 4, 1, 8, 4, 6, 0));
    cr_expect_eq(hl_view_shuffle(&v, 1), 2);
    cr_expect(!hl_view_is_nchw(&v, shape), "not before they are shuffled");
    /* And back. */
    cr_expect(reshape(&v, 5, 1, 4, 2, 4, 6));
    hl_view_transpose(&v, (const int64_t[]){0, 2, 1, 3, 4});
    cr_expect(reshape(&v, 4, 1, 8, 4, 6, 0) && hl_view_is_nchw(&v, shape));
}

Test(onnx_view, what_cuts_across_axes_is_refused_and_changes_nothing)
{
    hl_view v = hl_view_nchw(shape, 1), before = v;
    cr_expect_not(reshape(&v, 3, 1, 5, 38, 0, 0));
    cr_expect_not(reshape(&v, 3, 1, 12, 16, 0, 0));
    cr_expect_not(reshape(&v, 2, 1, 96, 0, 0, 0), "something is left over");
    cr_expect_not(reshape(&v, 2, 1, 384, 0, 0, 0), "something is missing");
    cr_expect(hl_view_same(&v, &before));
}

Test(onnx_view, a_batch_of_several_stays_whole)
{
    hl_view v = hl_view_nchw(shape, 4);
    cr_expect(reshape(&v, 2, 4, 192, 0, 0, 0));
    cr_expect_not(reshape(&v, 3, 2, 2, 192, 0, 0));
    cr_expect(reshape(&v, 4, 4, 8, 4, 6, 0) && hl_view_is_nchw(&v, shape));
}
