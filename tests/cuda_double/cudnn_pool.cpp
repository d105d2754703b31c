/* Pooling: cuDNN calls it resampling. */
#include <math.h>

#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
namespace
{
struct pool {
    int mode;
    int64_t kh, kw, sh, sw, top, left, bottom, right;
};

/* Sizes come as fractions or as whole numbers. */
std::vector<int64_t> sizes(const descriptor &d, int name)
{
    if (d.values.at(name).type == CUDNN_TYPE_INT64)
        return d.all<int64_t>(name);
    std::vector<int64_t> out;
    for (const cudnnFraction_t &f : d.all<cudnnFraction_t>(name))
        out.push_back(f.denominator > 0 && f.numerator % f.denominator == 0 ? f.numerator / f.denominator
                                                                            : INT64_MIN);
    return out;
}

cudnnStatus_t read_pool(const descriptor &d, pool *p)
{
    auto window = sizes(d, CUDNN_ATTR_RESAMPLE_WINDOW_DIMS), stride = sizes(d, CUDNN_ATTR_RESAMPLE_STRIDES),
         pre = sizes(d, CUDNN_ATTR_RESAMPLE_PRE_PADDINGS), post = sizes(d, CUDNN_ATTR_RESAMPLE_POST_PADDINGS);
    int mode = d.get<int>(CUDNN_ATTR_RESAMPLE_MODE, -1),
        padding = d.get<int>(CUDNN_ATTR_RESAMPLE_PADDING_MODE, -1);
    if (mode != CUDNN_RESAMPLE_MAXPOOL && mode != CUDNN_RESAMPLE_AVGPOOL_INCLUDE_PADDING &&
        mode != CUDNN_RESAMPLE_AVGPOOL_EXCLUDE_PADDING)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has no resampling mode %d", mode);
    if (window.size() != 2 || stride.size() != 2 || pre.size() != 2 || post.size() != 2 ||
        d.get<int64_t>(CUDNN_ATTR_RESAMPLE_SPATIAL_DIMS, 0) != 2)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "the double has pooling of two dimensions only");
    for (int i = 0; i < 2; i++)
        if (window[(size_t)i] < 1 || stride[(size_t)i] < 1 || pre[(size_t)i] < 0 || post[(size_t)i] < 0 ||
            pre[(size_t)i] >= window[(size_t)i] || post[(size_t)i] >= window[(size_t)i])
            return refuse(CUDNN_STATUS_BAD_PARAM, "a pooling window of %lld, stride %lld, padding %lld, %lld",
                          (long long)window[(size_t)i], (long long)stride[(size_t)i],
                          (long long)pre[(size_t)i], (long long)post[(size_t)i]);
    if (padding != (mode == CUDNN_RESAMPLE_MAXPOOL ? CUDNN_NEG_INF_PAD : CUDNN_ZERO_PAD))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_PADDING, "the double has no padding mode %d for this",
                      padding);
    *p = {mode, window[0], window[1], stride[0], stride[1], pre[0], pre[1], post[0], post[1]};
    return CUDNN_STATUS_SUCCESS;
}

/* each(tap, offset in x) for what a window covers; the number of elements covered. */
template <typename F>
int64_t window(const pool &p, const array &x, int64_t n, int64_t row, int64_t column, F each)
{
    int64_t c = x.dims[1], h = x.dims[2], w = x.dims[3], covered = 0;
    for (int64_t r = 0; r < p.kh; r++)
        for (int64_t s = 0; s < p.kw; s++) {
            int64_t y0 = row * p.sh + r - p.top, x0 = column * p.sw + s - p.left;
            if (y0 < 0 || y0 >= h || x0 < 0 || x0 >= w)
                continue;
            covered++;
            each(r * p.kw + s, ((n * h + y0) * w + x0) * c);
        }
    return covered;
}

/* each(image, row, column, offset) for the pixels of y. */
template <typename F> void pixels(const array &y, F each)
{
    for (int64_t n = 0; n < y.dims[0]; n++)
        for (int64_t p = 0; p < y.dims[2]; p++)
            for (int64_t q = 0; q < y.dims[3]; q++)
                each(n, p, q, ((n * y.dims[2] + p) * y.dims[3] + q) * y.dims[1]);
}

double divisor(const pool &p, int64_t covered)
{
    return (double)(p.mode == CUDNN_RESAMPLE_AVGPOOL_INCLUDE_PADDING ? p.kh * p.kw : covered);
}

/* The first of equal maxima; a NaN is largest. */
void maxima(const pool &p, const array &x, array &y, array *index)
{
    int64_t c = y.dims[1];
    pixels(y, [&](int64_t n, int64_t row, int64_t column, int64_t to) {
        for (int64_t i = 0; i < c; i++) {
            double best = -INFINITY;
            int64_t at = -1;
            window(p, x, n, row, column, [&](int64_t tap, int64_t from) {
                double v = x.data[(size_t)(from + i)];
                if (at < 0 || v > best || (isnan(v) && !isnan(best))) {
                    best = v;
                    at = tap;
                }
            });
            y.data[(size_t)(to + i)] = best;
            if (index != nullptr)
                index->data[(size_t)(to + i)] = (double)at;
        }
    });
}

void averages(const pool &p, const array &x, array &y)
{
    int64_t c = y.dims[1];
    pixels(y, [&](int64_t n, int64_t row, int64_t column, int64_t to) {
        for (int64_t i = 0; i < c; i++) {
            double sum = 0;
            int64_t covered = window(p, x, n, row, column,
                                     [&](int64_t, int64_t from) { sum += x.data[(size_t)(from + i)]; });
            y.data[(size_t)(to + i)] = sum / divisor(p, covered);
        }
    });
}

void spread(const pool &p, const array &dy, const array *index, array &dx)
{
    int64_t c = dy.dims[1];
    dx.shape(std::vector<int64_t>(dx.dims));
    pixels(dy, [&](int64_t n, int64_t row, int64_t column, int64_t from) {
        int64_t covered = window(p, dx, n, row, column, [](int64_t, int64_t) {});
        window(p, dx, n, row, column, [&](int64_t tap, int64_t to) {
            for (int64_t i = 0; i < c; i++) {
                double g = dy.data[(size_t)(from + i)];
                if (index == nullptr)
                    dx.data[(size_t)(to + i)] += g / divisor(p, covered);
                else if (index->data[(size_t)(from + i)] == (double)tap)
                    dx.data[(size_t)(to + i)] += g;
            }
        });
    });
}

cudnnStatus_t check_shapes(const pool &p, const tensor &x, const tensor &y, const tensor *index)
{
    if (x.dims.size() != 4 || y.dims.size() != 4 || x.dims[0] != y.dims[0] || x.dims[1] != y.dims[1] ||
        y.dims[2] != (x.dims[2] + p.top + p.bottom - p.kh) / p.sh + 1 ||
        y.dims[3] != (x.dims[3] + p.left + p.right - p.kw) / p.sw + 1)
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "pooling of %s does not give %s",
                      describe(x).c_str(), describe(y).c_str());
    if (index != nullptr && (p.mode != CUDNN_RESAMPLE_MAXPOOL || index->dims != y.dims ||
                             (index->type != element::i8 && index->type != element::i32) ||
                             (index->type == element::i8 && p.kh * p.kw > 127)))
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s cannot be the index of pooling to %s",
                      describe(*index).c_str(), describe(y).c_str());
    return CUDNN_STATUS_SUCCESS;
}

void make_forward(const pool &p, const tensor &x, const tensor &y, const tensor *index, operation *o)
{
    o->name = "resample_forward";
    o->inputs = {x};
    o->outputs = index != nullptr ? std::vector<tensor>{y, *index} : std::vector<tensor>{y};
    tensor i = index != nullptr ? *index : tensor();
    bool indexed = index != nullptr;
    o->run = [=](environment &e) {
        if (p.mode == CUDNN_RESAMPLE_MAXPOOL)
            maxima(p, e.at(x), e.at(y), indexed ? &e.at(i) : nullptr);
        else
            averages(p, e.at(x), e.at(y));
    };
}

void make_backward(const pool &p, const tensor &dx, const tensor &dy, const tensor *index, operation *o)
{
    o->name = "resample_backward";
    o->inputs = index != nullptr ? std::vector<tensor>{dy, *index} : std::vector<tensor>{dy};
    o->outputs = {dx};
    tensor i = index != nullptr ? *index : tensor();
    bool indexed = index != nullptr;
    o->run = [=](environment &e) { spread(p, e.at(dy), indexed ? &e.at(i) : nullptr, e.at(dx)); };
}
} // namespace

cudnnStatus_t read_resample(const descriptor &d, operation *o)
{
    bool forward = d.type == CUDNN_BACKEND_OPERATION_RESAMPLE_FWD_DESCRIPTOR;
    int index_name =
        forward ? CUDNN_ATTR_OPERATION_RESAMPLE_FWD_IDXDESC : CUDNN_ATTR_OPERATION_RESAMPLE_BWD_IDXDESC;
    tensor x = tensor_of(d.child(forward ? CUDNN_ATTR_OPERATION_RESAMPLE_FWD_XDESC
                                         : CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DXDESC)),
           y = tensor_of(d.child(forward ? CUDNN_ATTR_OPERATION_RESAMPLE_FWD_YDESC
                                         : CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DYDESC)),
           index;
    bool indexed = d.has(index_name);
    if (indexed)
        index = tensor_of(d.child(index_name));
    pool p;
    cudnnStatus_t status = read_pool(
        d.child(forward ? CUDNN_ATTR_OPERATION_RESAMPLE_FWD_DESC : CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DESC),
        &p);
    if (status == CUDNN_STATUS_SUCCESS)
        status = check_shapes(p, x, y, indexed ? &index : nullptr);
    if (status == CUDNN_STATUS_SUCCESS && !forward && p.mode == CUDNN_RESAMPLE_MAXPOOL && !indexed)
        status = refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has gradients of maxima with an index only");
    if (status != CUDNN_STATUS_SUCCESS || o == nullptr)
        return status;
    (forward ? make_forward : make_backward)(p, x, y, indexed ? &index : nullptr, o);
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double
