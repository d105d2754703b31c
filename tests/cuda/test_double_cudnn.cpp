/* What the double of cuDNN computes, against the references in double. Each test runs in a process of its
 * own, so memory and descriptors may stay. */
#include <math.h>

#include "cuda/cudnn_builder.hpp"

extern "C" {
#include "support/ref_conv.h"
#include "support/ref_ops.h"
}

static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16, HL_ELEM_F16};

static sizes dims_of(hl_shape s)
{
    return {s.n, s.c, s.h, s.w};
}

static int64_t activation(builder &b, hl_elem elem, hl_shape s, tensor_kind kind = STORED)
{
    return b.tensor(data_type(elem), dims_of(s), channels_last(dims_of(s)), kind);
}

static descriptor convolution(builder &b, const hl_window &w)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    descriptor d = b.add(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set_sizes(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, {2});
    set_sizes(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, {w.top, w.left});
    set_sizes(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, {w.bottom, w.right});
    set_sizes(d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, {w.sh, w.sw});
    set_sizes(d, CUDNN_ATTR_CONVOLUTION_DILATIONS, {w.dh, w.dw});
    finalize(d);
    return d;
}

enum pass { FORWARD, DATA, FILTER };

static void convolve(builder &b, pass how, const hl_window &window, int64_t x, int64_t w, int64_t y)
{
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
    } names[] = {
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    const float one = 1, zero = 0;
    descriptor d = b.add(names[how].type);
    set_child(d, names[how].conv, convolution(b, window));
    b.operand(d, names[how].x, x);
    b.operand(d, names[how].w, w);
    b.operand(d, names[how].y, y);
    set(d, names[how].alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(d, names[how].beta, CUDNN_TYPE_FLOAT, 1, &zero);
    b.operation(d);
}

static const struct {
    hl_shape x;
    int64_t outputs, groups;
    hl_window window;
} layers[] = {
    {{2, 9, 7, 3}, 5, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {{1, 5, 5, 6}, 4, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {{2, 8, 9, 6}, 6, 6, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {{1, 11, 6, 8}, 12, 4, {3, 2, 1, 2, 2, 1, 2, 0, 0, 1}},
    {{1, 6, 6, 2}, 3, 1, {5, 5, 3, 3, 1, 1, 4, 4, 4, 4}},
    {{3, 1, 1, 7}, 5, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {{1, 7, 8, 4}, 4, 2, {3, 3, 2, 1, 2, 3, 0, 2, 3, 4}},
};

/* The reference keeps weights [O, I/G, kh, kw]; `last` has the channels innermost. */
static std::vector<double> reorder(const ref_conv *c, const double *w, bool last)
{
    int64_t inputs = c->x.c / c->groups, taps = c->window.kh * c->window.kw;
    std::vector<double> out((size_t)ref_conv_weights(c));
    for (int64_t o = 0; o < c->y.c; o++)
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t t = 0; t < taps; t++) {
                size_t theirs = (size_t)((o * inputs + i) * taps + t),
                       ours = (size_t)((o * taps + t) * inputs + i);
                out[last ? ours : theirs] = w[last ? theirs : ours];
            }
    return out;
}

static void check_layer(const ref_conv &c, hl_elem elem)
{
    int64_t nx = hl_shape_count(c.x), ny = hl_shape_count(c.y), nw = ref_conv_weights(&c);
    numbers x(random_doubles(nx, -1, 1, elem, 1)), w(random_doubles(nw, -1, 1, elem, 2)),
        dy(random_doubles(ny, -1, 1, elem, 3)), y(doubles(ny)), dx(doubles(nx)), dw(doubles(nw));
    ref_conv_forward(&c, x, w, y);
    ref_conv_data(&c, dy, w, dx);
    ref_conv_weight(&c, x, dy, dw);
    buffer bx(elem, nx, x), bw(elem, nw, reorder(&c, w, true).data()), bdy(elem, ny, dy), by(elem, ny),
        bdx(elem, nx), bdw(elem, nw);
    for (pass how : {FORWARD, DATA, FILTER}) {
        builder b;
        sizes filter = {c.y.c, c.x.c / c.groups, c.window.kh, c.window.kw};
        int64_t tx = activation(b, elem, c.x), tw = b.tensor(data_type(elem), filter, channels_last(filter)),
                ty = activation(b, elem, c.y);
        convolve(b, how, c.window, tx, tw, ty);
        b.run({{tx, how == DATA ? bdx.memory : bx.memory},
               {tw, how == FILTER ? bdw.memory : bw.memory},
               {ty, how == FORWARD ? by.memory : bdy.memory}});
        b.close();
    }
    /* Sums are in double on both sides. */
    expect_close("y", elem, by.read().data(), y, ny, (double)ref_conv_terms(&c), 1);
    expect_close("dx", elem, bdx.read().data(), dx, nx, (double)ref_conv_terms(&c), 1);
    std::vector<double> got = bdw.read(), ordered = reorder(&c, got.data(), false);
    expect_close("dw", elem, ordered.data(), dw, nw, (double)ref_conv_terms(&c), 1);
    for (buffer *old : {&bx, &bw, &bdy, &by, &bdx, &bdw})
        old->release();
}

Test(convolution, passes_agree_with_the_reference)
{
    for (auto &l : layers)
        for (hl_elem elem : elems)
            check_layer(ref_conv_make(l.x, l.outputs, l.groups, l.window), elem);
    cr_expect_eq(double_report(), 0);
}

Test(convolution, residual_bias_and_activation_are_fused)
{
    const hl_window window = {3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
    ref_conv c = ref_conv_make({2, 5, 6, 4}, 8, 1, window);
    int64_t nx = hl_shape_count(c.x), ny = hl_shape_count(c.y), nw = ref_conv_weights(&c);
    const hl_shape vector = {1, 1, 1, c.y.c};
    for (hl_elem elem : elems) {
        numbers x(random_doubles(nx, -1, 1, elem, 1)), w(random_doubles(nw, -1, 1, elem, 2)),
            z(random_doubles(ny, -1, 1, elem, 3)), bias(random_doubles(c.y.c, -1, 1, elem, 4)),
            y(doubles(ny));
        ref_conv_forward(&c, x, w, y);
        for (int64_t i = 0; i < ny; i++)
            y[i] = fmin(fmax(y[i] + z[i] + bias[i % c.y.c], 0), 2);
        buffer bx(elem, nx, x), bw(elem, nw, reorder(&c, w, true).data()), bz(elem, ny, z),
            bb(elem, c.y.c, bias), by(elem, ny);
        builder b;
        sizes filter = {c.y.c, c.x.c, 3, 3};
        int64_t tx = activation(b, elem, c.x), tw = b.tensor(data_type(elem), filter, channels_last(filter)),
                tz = activation(b, elem, c.y), tb = activation(b, elem, vector),
                ty = activation(b, elem, c.y), v1 = activation(b, HL_ELEM_F32, c.y, VIRTUAL),
                v2 = activation(b, HL_ELEM_F32, c.y, VIRTUAL), v3 = activation(b, HL_ELEM_F32, c.y, VIRTUAL);
        /* in an order in which they cannot run */
        b.pointwise(CUDNN_POINTWISE_RELU_FWD, v3, 0, ty, 2);
        b.pointwise(CUDNN_POINTWISE_ADD, v2, tb, v3);
        b.pointwise(CUDNN_POINTWISE_ADD, v1, tz, v2);
        convolve(b, FORWARD, window, tx, tw, v1);
        b.run({{tx, bx.memory}, {tw, bw.memory}, {tz, bz.memory}, {tb, bb.memory}, {ty, by.memory}});
        expect_close("y", elem, by.read().data(), y, ny, 40, 4);
    }
}

/* The same numbers in memory that is laid out channel by channel, with gaps. */
Test(convolution, strides_are_followed)
{
    const hl_window window = {2, 2, 1, 1, 1, 1, 0, 0, 0, 0};
    ref_conv c = ref_conv_make({2, 4, 3, 2}, 3, 1, window);
    const int64_t nw = ref_conv_weights(&c), ny = hl_shape_count(c.y);
    numbers x(random_doubles(hl_shape_count(c.x), -1, 1, HL_ELEM_F32, 1)),
        w(random_doubles(nw, -1, 1, HL_ELEM_F32, 2)), y(doubles(ny));
    ref_conv_forward(&c, x, w, y);
    const sizes strides = {40, 20, 5, 1}; /* rows of 5 for 3 columns */
    std::vector<double> spaced(80, NAN);
    for (int64_t i = 0; i < hl_shape_count(c.x); i++) {
        int64_t channel = i % 2, column = i / 2 % 3, row = i / 6 % 4, n = i / 24;
        spaced[(size_t)(n * 40 + channel * 20 + row * 5 + column)] = x[i];
    }
    buffer bx(HL_ELEM_F32, 80, spaced.data()), bw(HL_ELEM_F32, nw, w), by(HL_ELEM_F32, ny);
    builder b;
    sizes filter = {3, 2, 2, 2}, out = dims_of(c.y);
    int64_t tx = b.tensor(CUDNN_DATA_FLOAT, dims_of(c.x), strides),
            tw = b.tensor(CUDNN_DATA_FLOAT, filter, row_by_row(filter)),
            ty = b.tensor(CUDNN_DATA_FLOAT, out, row_by_row(out));
    convolve(b, FORWARD, window, tx, tw, ty);
    b.run({{tx, bx.memory}, {tw, bw.memory}, {ty, by.memory}});
    std::vector<double> got = by.read(), ordered((size_t)ny);
    for (int64_t i = 0; i < ny; i++) {
        int64_t channel = i % 3, pixel = i / 3 % (c.y.h * c.y.w), n = i / 3 / (c.y.h * c.y.w);
        ordered[(size_t)i] = got[(size_t)((n * 3 + channel) * c.y.h * c.y.w + pixel)];
    }
    expect_close("y", HL_ELEM_F32, ordered.data(), y, ny, 8, 1);
}

/* ---- pooling ---- */

static descriptor pooling(builder &b, const hl_window &w, cudnnResampleMode_t mode)
{
    const cudnnFraction_t window[2] = {{w.kh, 1}, {w.kw, 1}}, strides[2] = {{w.sh, 1}, {w.sw, 1}},
                          pre[2] = {{w.top, 1}, {w.left, 1}}, post[2] = {{w.bottom, 1}, {w.right, 1}};
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnPaddingMode_t padding = mode == CUDNN_RESAMPLE_MAXPOOL ? CUDNN_NEG_INF_PAD : CUDNN_ZERO_PAD;
    descriptor d = b.add(CUDNN_BACKEND_RESAMPLE_DESCRIPTOR);
    set(d, CUDNN_ATTR_RESAMPLE_MODE, CUDNN_TYPE_RESAMPLE_MODE, 1, &mode);
    set(d, CUDNN_ATTR_RESAMPLE_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_RESAMPLE_PADDING_MODE, CUDNN_TYPE_PADDING_MODE, 1, &padding);
    set_sizes(d, CUDNN_ATTR_RESAMPLE_SPATIAL_DIMS, {2});
    set(d, CUDNN_ATTR_RESAMPLE_WINDOW_DIMS, CUDNN_TYPE_FRACTION, 2, window);
    set(d, CUDNN_ATTR_RESAMPLE_STRIDES, CUDNN_TYPE_FRACTION, 2, strides);
    set(d, CUDNN_ATTR_RESAMPLE_PRE_PADDINGS, CUDNN_TYPE_FRACTION, 2, pre);
    set(d, CUDNN_ATTR_RESAMPLE_POST_PADDINGS, CUDNN_TYPE_FRACTION, 2, post);
    finalize(d);
    return d;
}

static void check_pooling(cudnnResampleMode_t mode, hl_elem elem)
{
    const hl_window w = {3, 2, 2, 1, 1, 1, 1, 1, 1, 0};
    const hl_shape in = {2, 7, 6, 5}, out = {2, 4, 6, 5};
    hl_pool_attr attr;
    attr.window = w;
    attr.max = mode == CUDNN_RESAMPLE_MAXPOOL;
    attr.count_padding = mode == CUDNN_RESAMPLE_AVGPOOL_INCLUDE_PADDING;
    int64_t nx = hl_shape_count(in), ny = hl_shape_count(out);
    numbers x(random_doubles(nx, -1, 1, elem, 1)), dy(random_doubles(ny, -1, 1, elem, 2)), y(doubles(ny)),
        index(doubles(ny)), dx(doubles(nx));
    ref_pool(&attr, x, in, out, y, index);
    ref_pool_grad(&attr, dy, index, in, out, dx);
    buffer bx(elem, nx, x), by(elem, ny), bi(HL_ELEM_U8, ny), bdy(elem, ny, dy), bdx(elem, nx);
    builder f, g;
    std::vector<std::pair<int64_t, void *>> fp, gp;
    int64_t tx = activation(f, elem, in), ty = activation(f, elem, out), tdx = activation(g, elem, in),
            tdy = activation(g, elem, out);
    fp = {{tx, bx.memory}, {ty, by.memory}};
    gp = {{tdx, bdx.memory}, {tdy, bdy.memory}};
    descriptor forward = f.add(CUDNN_BACKEND_OPERATION_RESAMPLE_FWD_DESCRIPTOR),
               backward = g.add(CUDNN_BACKEND_OPERATION_RESAMPLE_BWD_DESCRIPTOR);
    set_child(forward, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_DESC, pooling(f, w, mode));
    set_child(backward, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DESC, pooling(g, w, mode));
    f.operand(forward, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_XDESC, tx);
    f.operand(forward, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_YDESC, ty);
    g.operand(backward, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DXDESC, tdx);
    g.operand(backward, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DYDESC, tdy);
    if (attr.max) {
        fp.push_back({activation(f, HL_ELEM_U8, out), bi.memory});
        gp.push_back({activation(g, HL_ELEM_U8, out), bi.memory});
        f.operand(forward, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_IDXDESC, fp.back().first);
        g.operand(backward, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_IDXDESC, gp.back().first);
    }
    f.operation(forward);
    g.operation(backward);
    f.run(fp);
    g.run(gp);
    expect_close("y", elem, by.read().data(), y, ny, 6, 1);
    if (attr.max)
        expect_same("index", bi.read().data(), index, ny);
    expect_close("dx", elem, bdx.read().data(), dx, nx, 6, 1);
}

Test(pooling, agrees_with_the_reference)
{
    for (hl_elem elem : elems)
        for (cudnnResampleMode_t mode : {CUDNN_RESAMPLE_MAXPOOL, CUDNN_RESAMPLE_AVGPOOL_INCLUDE_PADDING,
                                         CUDNN_RESAMPLE_AVGPOOL_EXCLUDE_PADDING})
            check_pooling(mode, elem);
}

/* ---- batch norm ---- */

struct norm_numbers {
    int64_t count, channels;
    numbers x, dy, scale, shift, mean, var, inverse, dscale, dshift, y, dx;

    norm_numbers(hl_shape s, hl_elem elem, double eps)
        : count(hl_shape_count(s)), channels(s.c), x(random_doubles(count, -1, 1, elem, 1)),
          dy(random_doubles(count, -1, 1, elem, 2)), scale(random_doubles(s.c, 0.5, 2, HL_ELEM_F32, 3)),
          shift(random_doubles(s.c, -1, 1, HL_ELEM_F32, 4)), mean(doubles(s.c)), var(doubles(s.c)),
          inverse(doubles(s.c)), dscale(doubles(s.c)), dshift(doubles(s.c)), y(doubles(count)),
          dx(doubles(count))
    {
        int64_t rows = count / channels;
        ref_norm_statistics(x, rows, channels, mean, var);
        ref_norm(x, rows, channels, scale, shift, mean, var, eps, y);
        ref_norm_batch_grad(dy, x, rows, channels, scale, eps, dx, dscale, dshift);
        for (int64_t c = 0; c < channels; c++)
            inverse[c] = 1 / sqrt(var[c] + eps);
    }
};

static void check_norm(hl_elem elem)
{
    const hl_shape s = {2, 3, 5, 7}, vector = {1, 1, 1, 7};
    const float eps = 1e-3f, momentum = 0.25f;
    const cudnnBackendNormMode_t mode = CUDNN_BATCH_NORM;
    const cudnnBackendNormFwdPhase_t phase = CUDNN_NORM_FWD_TRAINING;
    norm_numbers n(s, elem, (double)eps);
    double zeros[7] = {0}, rows = (double)(n.count / n.channels);
    buffer x(elem, n.count, n.x), dy(elem, n.count, n.dy), y(elem, n.count), dx(elem, n.count),
        scale(HL_ELEM_F32, 7, n.scale), shift(HL_ELEM_F32, 7, n.shift), mean(HL_ELEM_F32, 7),
        inverse(HL_ELEM_F32, 7), running_mean(HL_ELEM_F32, 7, zeros), running_var(HL_ELEM_F32, 7, zeros),
        dscale(HL_ELEM_F32, 7), dshift(HL_ELEM_F32, 7);

    builder f;
    const sizes one = {1, 1, 1, 1};
    descriptor forward = f.add(CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR);
    set(forward, CUDNN_ATTR_OPERATION_NORM_FWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &mode);
    set(forward, CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_TYPE_NORM_FWD_PHASE, 1, &phase);
    std::vector<std::pair<int64_t, void *>> pointers;
    auto give = [&](builder &b, descriptor d, cudnnBackendAttributeName_t name, int64_t t, const void *p) {
        b.operand(d, name, t);
        pointers.push_back({t, const_cast<void *>(p)});
    };
    give(f, forward, CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, activation(f, elem, s), x.memory);
    give(f, forward, CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, activation(f, elem, s), y.memory);
    give(f, forward, CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, f.tensor(CUDNN_DATA_FLOAT, one, one, VALUE),
         &eps);
    give(f, forward, CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC,
         f.tensor(CUDNN_DATA_FLOAT, one, one, VALUE), &momentum);
    const struct {
        cudnnBackendAttributeName_t name;
        void *memory;
    } vectors[] = {{CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, scale.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, shift.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, mean.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, inverse.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_MEAN_DESC, running_mean.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC, running_mean.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_VAR_DESC, running_var.memory},
                   {CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC, running_var.memory}};
    for (auto &v : vectors)
        give(f, forward, v.name, activation(f, HL_ELEM_F32, vector), v.memory);
    f.operation(forward);
    f.run(pointers);
    expect_close("y", elem, y.read().data(), n.y, n.count, 8, 4);
    expect_close("mean", HL_ELEM_F32, mean.read().data(), n.mean, 7, 1, 1);
    expect_close("inverse deviation", HL_ELEM_F32, inverse.read().data(), n.inverse, 7, 4, 1);
    for (int c = 0; c < 7; c++) {
        n.mean[c] *= (double)momentum;
        n.var[c] *= (double)momentum * rows / (rows - 1);
    }
    expect_close("running mean", HL_ELEM_F32, running_mean.read().data(), n.mean, 7, 1, 1);
    expect_close("running variance", HL_ELEM_F32, running_var.read().data(), n.var, 7, 1, 1);

    builder g;
    pointers.clear();
    descriptor backward = g.add(CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR);
    set(backward, CUDNN_ATTR_OPERATION_NORM_BWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &mode);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, activation(g, elem, s), x.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, activation(g, elem, s), dy.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, activation(g, elem, s), dx.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, activation(g, HL_ELEM_F32, vector),
         mean.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, activation(g, HL_ELEM_F32, vector),
         inverse.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, activation(g, HL_ELEM_F32, vector),
         scale.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, activation(g, HL_ELEM_F32, vector),
         dscale.memory);
    give(g, backward, CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, activation(g, HL_ELEM_F32, vector),
         dshift.memory);
    g.operation(backward);
    g.run(pointers);
    /* from a mean and an inverse deviation that were rounded to float */
    expect_close("dx", elem, dx.read().data(), n.dx, n.count, 8, 8);
    expect_close("dscale", HL_ELEM_F32, dscale.read().data(), n.dscale, 7, 2 * rows, 4);
    expect_close("dshift", HL_ELEM_F32, dshift.read().data(), n.dshift, 7, rows, 1);
}

Test(norm, training_and_its_gradient_agree_with_the_reference)
{
    for (hl_elem elem : elems)
        check_norm(elem);
}

/* ---- pointwise, products, sums ---- */

Test(pointwise, activations_agree_with_the_reference)
{
    const hl_shape s = {1, 3, 5, 11};
    const struct {
        cudnnPointwiseMode_t mode;
        hl_act act;
        double upper;
    } all[] = {
        {CUDNN_POINTWISE_IDENTITY, HL_ACT_NONE, 0},      {CUDNN_POINTWISE_RELU_FWD, HL_ACT_RELU, 0},
        {CUDNN_POINTWISE_RELU_FWD, HL_ACT_RELU6, 6},     {CUDNN_POINTWISE_SIGMOID_FWD, HL_ACT_SIGMOID, 0},
        {CUDNN_POINTWISE_SWISH_FWD, HL_ACT_SILU, 0},     {CUDNN_POINTWISE_GELU_FWD, HL_ACT_GELU, 0},
        {CUDNN_POINTWISE_RELU_BWD, HL_ACT_RELU, 0},      {CUDNN_POINTWISE_RELU_BWD, HL_ACT_RELU6, 6},
        {CUDNN_POINTWISE_SIGMOID_BWD, HL_ACT_SIGMOID, 0}};
    int64_t count = hl_shape_count(s);
    numbers x(random_doubles(count, -9, 9, HL_ELEM_F32, 1)), dy(random_doubles(count, -1, 1, HL_ELEM_F32, 2)),
        want(doubles(count));
    buffer bx(HL_ELEM_F32, count, x), bdy(HL_ELEM_F32, count, dy), by(HL_ELEM_F32, count);
    for (auto &a : all) {
        bool backward = a.mode >= CUDNN_POINTWISE_RELU_BWD && a.mode < CUDNN_POINTWISE_CMP_EQ;
        builder b;
        int64_t tx = activation(b, HL_ELEM_F32, s), ty = activation(b, HL_ELEM_F32, s);
        std::vector<std::pair<int64_t, void *>> pointers = {{tx, bx.memory}, {ty, by.memory}};
        if (backward)
            pointers.push_back({activation(b, HL_ELEM_F32, s), bdy.memory});
        b.pointwise(a.mode, tx, backward ? pointers[2].first : 0, ty, a.upper);
        b.run(pointers);
        for (int64_t i = 0; i < count; i++)
            want[i] = backward ? dy[i] * ref_act_slope(a.act, x[i]) : ref_act(a.act, x[i]);
        expect_close(ref_act_name(a.act), HL_ELEM_F32, by.read().data(), want, count, 9, 1);
    }
}

Test(pointwise, a_broadcast_product_is_reduced_again)
{
    const hl_shape s = {2, 3, 4, 5}, factor = {2, 1, 1, 5};
    int64_t count = hl_shape_count(s);
    numbers x(random_doubles(count, -1, 1, HL_ELEM_BF16, 1)), f(random_doubles(10, -1, 1, HL_ELEM_BF16, 2));
    double want[10] = {0};
    for (int64_t i = 0; i < count; i++)
        want[i / 60 * 5 + i % 5] += x[i] * f[i / 60 * 5 + i % 5];
    buffer bx(HL_ELEM_BF16, count, x), bf(HL_ELEM_BF16, 10, f), by(HL_ELEM_F32, 10);
    builder b;
    int64_t tx = activation(b, HL_ELEM_BF16, s), tf = activation(b, HL_ELEM_BF16, factor),
            product = activation(b, HL_ELEM_F32, s, VIRTUAL), ty = activation(b, HL_ELEM_F32, factor);
    b.pointwise(CUDNN_POINTWISE_MUL, tx, tf, product);
    const cudnnReduceTensorOp_t add = CUDNN_REDUCE_TENSOR_ADD;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    descriptor r = b.add(CUDNN_BACKEND_REDUCTION_DESCRIPTOR),
               o = b.add(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set(r, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &add);
    set(r, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finalize(r);
    set_child(o, CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
    b.operand(o, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, product);
    b.operand(o, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, ty);
    b.operation(o);
    b.run({{tx, bx.memory}, {tf, bf.memory}, {ty, by.memory}});
    expect_close("sum", HL_ELEM_F32, by.read().data(), want, 10, 12, 12);
}

Test(matmul, one_matrix_serves_a_batch)
{
    numbers a(random_doubles(2 * 3 * 4, -1, 1, HL_ELEM_F16, 1)),
        c(random_doubles(4 * 5, -1, 1, HL_ELEM_F16, 2));
    double want[30] = {0};
    for (int i = 0; i < 30; i++)
        for (int k = 0; k < 4; k++)
            want[i] += a[i / 5 * 4 + k] * c[k * 5 + i % 5];
    buffer ba(HL_ELEM_F16, 24, a), bc(HL_ELEM_F16, 20, c), by(HL_ELEM_F16, 30);
    builder b;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    int64_t ta = b.tensor(CUDNN_DATA_HALF, {2, 3, 4}, {12, 4, 1}),
            tc = b.tensor(CUDNN_DATA_HALF, {1, 4, 5}, {20, 5, 1}),
            ty = b.tensor(CUDNN_DATA_HALF, {2, 3, 5}, {15, 5, 1});
    descriptor m = b.add(CUDNN_BACKEND_MATMUL_DESCRIPTOR),
               o = b.add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set(m, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finalize(m);
    set_child(o, CUDNN_ATTR_OPERATION_MATMUL_DESC, m);
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, ta);
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, tc);
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, ty);
    b.operation(o);
    b.run({{ta, ba.memory}, {tc, bc.memory}, {ty, by.memory}});
    expect_close("product", HL_ELEM_F16, by.read().data(), want, 30, 4, 1);
}
