/* Convolutions over two spatial dimensions: forward, data gradient, weight gradient. */
#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
namespace
{
struct geometry {
    int64_t n, h, w, c, p, q, k, r, s, cg, kg, groups;
    int64_t top, left, sh, sw, dh, dw;

    int64_t x(int64_t image, int64_t row, int64_t column) const
    {
        return ((image * h + row) * w + column) * c;
    }
    int64_t y(int64_t image, int64_t row, int64_t column) const
    {
        return ((image * p + row) * q + column) * k;
    }
};

enum pass { FORWARD, DATA, FILTER };

/* Attributes of the three operations, by pass. */
struct names {
    int conv, x, w, y, alpha, beta;
};
const names names_of[] = {
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

/* The first and behind the last output position that tap `offset` reaches inside of `size`. */
void reach(int64_t offset, int64_t stride, int64_t size, int64_t outputs, int64_t *first, int64_t *last)
{
    *first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
    *last = offset >= size ? 0 : (size - 1 - offset) / stride + 1;
    *last = *last < outputs ? *last : outputs;
}

/* each(x offset, y offset) for the pixels of one image and tap, rows [row, row + 1) of y. */
template <typename F>
void row_pixels(const geometry &g, int64_t image, int64_t p, int64_t r, int64_t s, F each)
{
    int64_t row = p * g.sh + r * g.dh - g.top, first, last;
    if (row < 0 || row >= g.h)
        return;
    reach(s * g.dw - g.left, g.sw, g.w, g.q, &first, &last);
    for (int64_t q = first; q < last; q++)
        each(g.x(image, row, q * g.sw + s * g.dw - g.left), g.y(image, p, q));
}

/* w [k, r, s, cg] as [r, s, group, cg, kg]: outputs innermost. */
std::vector<double> outputs_innermost(const geometry &g, const std::vector<double> &w)
{
    std::vector<double> out(w.size());
    for (int64_t k = 0; k < g.k; k++)
        for (int64_t rs = 0; rs < g.r * g.s; rs++)
            for (int64_t c = 0; c < g.cg; c++)
                out[(size_t)(((rs * g.groups + k / g.kg) * g.cg + c) * g.kg + k % g.kg)] =
                    w[(size_t)((k * g.r * g.s + rs) * g.cg + c)];
    return out;
}

void forward(const geometry &g, const double *x, const std::vector<double> &weights, double *y)
{
    const std::vector<double> packed = outputs_innermost(g, weights);
#pragma omp parallel for
    for (int64_t np = 0; np < g.n * g.p; np++)
        for (int64_t rs = 0; rs < g.r * g.s; rs++)
            row_pixels(g, np / g.p, np % g.p, rs / g.s, rs % g.s, [&](int64_t from, int64_t to) {
                for (int64_t c = 0; c < g.c; c++) {
                    const double *w = &packed[(size_t)((rs * g.c + c) * g.kg)], value = x[from + c];
                    double *out = &y[to + c / g.cg * g.kg];
                    for (int64_t k = 0; k < g.kg; k++)
                        out[k] += value * w[k];
                }
            });
}

void data_gradient(const geometry &g, double *dx, const double *w, const double *dy)
{
#pragma omp parallel for
    for (int64_t n = 0; n < g.n; n++)
        for (int64_t p = 0; p < g.p; p++)
            for (int64_t rs = 0; rs < g.r * g.s; rs++)
                row_pixels(g, n, p, rs / g.s, rs % g.s, [&](int64_t to, int64_t from) {
                    for (int64_t k = 0; k < g.k; k++) {
                        const double *row = &w[(k * g.r * g.s + rs) * g.cg], value = dy[from + k];
                        double *out = &dx[to + k / g.kg * g.cg];
                        for (int64_t c = 0; c < g.cg; c++)
                            out[c] += value * row[c];
                    }
                });
}

void weight_gradient(const geometry &g, const double *x, double *dw, const double *dy)
{
#pragma omp parallel for
    for (int64_t k = 0; k < g.k; k++)
        for (int64_t rs = 0; rs < g.r * g.s; rs++) {
            double *out = &dw[(k * g.r * g.s + rs) * g.cg];
            for (int64_t np = 0; np < g.n * g.p; np++)
                row_pixels(g, np / g.p, np % g.p, rs / g.s, rs % g.s, [&](int64_t at_x, int64_t at_y) {
                    const double *in = &x[at_x + k / g.kg * g.cg], value = dy[at_y + k];
                    for (int64_t c = 0; c < g.cg; c++)
                        out[c] += value * in[c];
                });
        }
}

cudnnStatus_t measure(const descriptor &conv, const tensor &x, const tensor &w, const tensor &y, geometry *g)
{
    auto pre = conv.all<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
         post = conv.all<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS),
         stride = conv.all<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
         dilation = conv.all<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
    size_t spatial = (size_t)conv.get<int64_t>(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 0);
    if (pre.size() != spatial || post.size() != spatial || stride.size() != spatial ||
        dilation.size() != spatial || x.dims.size() != spatial + 2 || w.dims.size() != spatial + 2 ||
        y.dims.size() != spatial + 2)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a convolution of %zu dimensions does not fit its tensors",
                      spatial);
    if (spatial != 2)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "the double has convolutions of two dimensions only");
    if (conv.get<int>(CUDNN_ATTR_CONVOLUTION_CONV_MODE, 0) != CUDNN_CROSS_CORRELATION)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has no convolutions that turn the filter");
    for (size_t i = 0; i < spatial; i++) {
        if (pre[i] < 0 || post[i] < 0 || stride[i] < 1 || dilation[i] < 1)
            return refuse(CUDNN_STATUS_BAD_PARAM,
                          "paddings are at least 0, strides and dilations at least 1");
        int64_t room = x.dims[i + 2] + pre[i] + post[i] - ((w.dims[i + 2] - 1) * dilation[i] + 1);
        if (room < 0 || y.dims[i + 2] != room / stride[i] + 1)
            return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
                          "a convolution of %s with %s does not give %s", describe(x).c_str(),
                          describe(w).c_str(), describe(y).c_str());
    }
    *g = {x.dims[0], x.dims[2], x.dims[3], x.dims[1], y.dims[2],   y.dims[3],
          y.dims[1], w.dims[2], w.dims[3], w.dims[1], 0,           0,
          pre[0],    pre[1],    stride[0], stride[1], dilation[0], dilation[1]};
    g->groups = g->c / g->cg;
    g->kg = g->groups > 0 ? g->k / g->groups : 0;
    if (x.dims[0] != y.dims[0] || w.dims[0] != y.dims[1] || g->groups < 1 || g->c != g->groups * g->cg ||
        g->k != g->groups * g->kg)
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "channels do not fit: %s, %s, %s",
                      describe(x).c_str(), describe(w).c_str(), describe(y).c_str());
    return CUDNN_STATUS_SUCCESS;
}

/* A factor as the engine sees it. */
std::vector<double> factor(environment &e, const tensor &t)
{
    std::vector<double> out = e.at(t).data;
    if (e.tf32 && t.type == element::f32)
        for (double &v : out)
            v = round_to_tf32(v);
    return out;
}

kernel make_kernel(pass how, const geometry &g, const tensor &x, const tensor &w, const tensor &y,
                   double alpha, double beta)
{
    return [=](environment &e) {
        const tensor &out = how == FORWARD ? y : how == DATA ? x : w;
        array result, *target = &e.at(out);
        result.shape(out.dims);
        double *sum = result.data.data();
        if (how == FORWARD)
            forward(g, factor(e, x).data(), factor(e, w), sum);
        else if (how == DATA)
            data_gradient(g, sum, factor(e, w).data(), factor(e, y).data());
        else
            weight_gradient(g, factor(e, x).data(), sum, factor(e, y).data());
        for (size_t i = 0; i < result.data.size(); i++)
            target->data[i] = alpha * sum[i] + (beta != 0 ? beta * target->data[i] : 0.0);
    };
}
} // namespace

cudnnStatus_t read_convolution(const descriptor &d, operation *o)
{
    pass how = d.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR         ? FORWARD
               : d.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ? DATA
                                                                                        : FILTER;
    const names &n = names_of[how];
    tensor x = tensor_of(d.child(n.x)), w = tensor_of(d.child(n.w)), y = tensor_of(d.child(n.y));
    geometry g;
    cudnnStatus_t status = measure(d.child(n.conv), x, w, y, &g);
    double beta = d.number(n.beta, 0);
    if (status != CUDNN_STATUS_SUCCESS || o == nullptr)
        return status;
    if (beta != 0)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double's convolutions do not add to what is there");
    o->name = how == FORWARD ? "conv_forward" : how == DATA ? "conv_data" : "conv_filter";
    o->multiplies = true;
    o->outputs = {how == FORWARD ? y : how == DATA ? x : w};
    for (const tensor &t : {x, w, y})
        if (t.uid != o->outputs[0].uid)
            o->inputs.push_back(t);
    if (o->inputs.size() != 2)
        return refuse(CUDNN_STATUS_BAD_PARAM, "two tensors of a convolution have one unique id");
    o->run = make_kernel(how, g, x, w, y, d.number(n.alpha, 1), beta);
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double
