/* Operations on single elements, and sums over dimensions. */
#include <math.h>

#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
namespace
{
struct settings {
    double lower = 0, upper = INFINITY, slope = 0, beta = 1;
};

double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double relu(double x, const settings &s)
{
    if (isnan(x))
        return x;
    return x <= s.lower ? s.lower + s.slope * (x - s.lower) : fmin(x, s.upper);
}

/* Derivatives take the forward input x and the gradient b. */
double apply(int mode, double x, double b, const settings &s)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_DIV:
        return x / b;
    case CUDNN_POINTWISE_MAX:
        return isnan(x) || isnan(b) ? NAN : fmax(x, b);
    case CUDNN_POINTWISE_MIN:
        return isnan(x) || isnan(b) ? NAN : fmin(x, b);
    case CUDNN_POINTWISE_IDENTITY:
        return x;
    case CUDNN_POINTWISE_NEG:
        return -x;
    case CUDNN_POINTWISE_ABS:
        return fabs(x);
    case CUDNN_POINTWISE_SQRT:
        return sqrt(x);
    case CUDNN_POINTWISE_RSQRT:
        return 1 / sqrt(x);
    case CUDNN_POINTWISE_EXP:
        return exp(x);
    case CUDNN_POINTWISE_RELU_FWD:
        return relu(x, s);
    case CUDNN_POINTWISE_TANH_FWD:
        return tanh(x);
    case CUDNN_POINTWISE_SIGMOID_FWD:
        return sigmoid(x);
    case CUDNN_POINTWISE_SWISH_FWD:
        return x * sigmoid(s.beta * x);
    case CUDNN_POINTWISE_GELU_FWD:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case CUDNN_POINTWISE_RELU_BWD:
        return x > s.lower ? (x < s.upper ? b : isnan(x) ? x : 0.0) : isnan(x) ? x : s.slope * b;
    case CUDNN_POINTWISE_SIGMOID_BWD:
        return b * sigmoid(x) * (1 - sigmoid(x));
    default:
        return NAN;
    }
}

/* The word for a mode in descriptions; null where the double does not know it. */
const char *mode_name(int mode)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return "add";
    case CUDNN_POINTWISE_SUB:
        return "sub";
    case CUDNN_POINTWISE_MUL:
        return "mul";
    case CUDNN_POINTWISE_DIV:
        return "div";
    case CUDNN_POINTWISE_MAX:
        return "max";
    case CUDNN_POINTWISE_MIN:
        return "min";
    case CUDNN_POINTWISE_IDENTITY:
        return "identity";
    case CUDNN_POINTWISE_NEG:
        return "neg";
    case CUDNN_POINTWISE_ABS:
        return "abs";
    case CUDNN_POINTWISE_SQRT:
        return "sqrt";
    case CUDNN_POINTWISE_RSQRT:
        return "rsqrt";
    case CUDNN_POINTWISE_EXP:
        return "exp";
    case CUDNN_POINTWISE_RELU_FWD:
        return "relu";
    case CUDNN_POINTWISE_TANH_FWD:
        return "tanh";
    case CUDNN_POINTWISE_SIGMOID_FWD:
        return "sigmoid";
    case CUDNN_POINTWISE_SWISH_FWD:
        return "swish";
    case CUDNN_POINTWISE_GELU_FWD:
        return "gelu";
    case CUDNN_POINTWISE_RELU_BWD:
        return "relu_backward";
    case CUDNN_POINTWISE_SIGMOID_BWD:
        return "sigmoid_backward";
    default:
        return nullptr;
    }
}

bool is_backward(int mode)
{
    return mode == CUDNN_POINTWISE_RELU_BWD || mode == CUDNN_POINTWISE_SIGMOID_BWD;
}

bool takes_two(int mode)
{
    return mode == CUDNN_POINTWISE_ADD || mode == CUDNN_POINTWISE_SUB || mode == CUDNN_POINTWISE_MUL ||
           mode == CUDNN_POINTWISE_DIV || mode == CUDNN_POINTWISE_MAX || mode == CUDNN_POINTWISE_MIN;
}

/* Each dimension is that of `to`, or 1. */
bool fits(const tensor &t, const tensor &to)
{
    if (t.dims.size() != to.dims.size())
        return false;
    for (size_t i = 0; i < t.dims.size(); i++)
        if (t.dims[i] != to.dims[i] && t.dims[i] != 1)
            return false;
    return true;
}

/* each(offset in a, offset in b, offset in c) for all elements of c; the others broadcast. */
template <typename F> void walk(const array &a, const array &b, const array &c, F each)
{
    size_t rank = c.dims.size(), inner = rank >= 4 ? 1 : rank - 1;
    std::vector<int64_t> sa = a.strides(), sb = b.strides(), sc = c.strides(), index(rank, 0);
    for (;;) {
        int64_t at[3] = {0, 0, 0};
        for (size_t i = 0; i < rank; i++) {
            at[0] += index[i] * sa[i];
            at[1] += index[i] * sb[i];
            at[2] += index[i] * sc[i];
        }
        for (int64_t i = 0; i < c.dims[inner]; i++)
            each(at[0] + i * sa[inner], at[1] + i * sb[inner], at[2] + i * sc[inner]);
        size_t i = rank;
        while (i-- > 0)
            if (i != inner) {
                if (++index[i] < c.dims[i])
                    break;
                index[i] = 0;
            }
        if (i == (size_t)-1)
            return;
    }
}

settings settings_of(const descriptor &d)
{
    settings s;
    s.lower = d.number(CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP, s.lower);
    s.upper = d.number(CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, s.upper);
    s.slope = d.number(CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE, s.slope);
    s.beta = d.number(CUDNN_ATTR_POINTWISE_SWISH_BETA, s.beta);
    return s;
}

/* The operands by mode: x and b to y, or x and dy to dx. */
cudnnStatus_t find_operands(const descriptor &d, int mode, int *second, int *out)
{
    bool backward = is_backward(mode);
    *second = backward ? CUDNN_ATTR_OPERATION_POINTWISE_DYDESC : CUDNN_ATTR_OPERATION_POINTWISE_BDESC;
    *out = backward ? CUDNN_ATTR_OPERATION_POINTWISE_DXDESC : CUDNN_ATTR_OPERATION_POINTWISE_YDESC;
    bool two = backward || takes_two(mode);
    if (d.has(*second) != two || !d.has(*out) ||
        d.has(backward ? CUDNN_ATTR_OPERATION_POINTWISE_BDESC : CUDNN_ATTR_OPERATION_POINTWISE_DYDESC))
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s is given the wrong operands", mode_name(mode));
    return CUDNN_STATUS_SUCCESS;
}
} // namespace

cudnnStatus_t read_pointwise(const descriptor &d, operation *o)
{
    const descriptor &pointwise = d.child(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    int mode = pointwise.get<int>(CUDNN_ATTR_POINTWISE_MODE, -1), second, out;
    if (mode_name(mode) == nullptr)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has no pointwise mode %d", mode);
    cudnnStatus_t status = find_operands(d, mode, &second, &out);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    bool two = d.has(second);
    tensor x = tensor_of(d.child(CUDNN_ATTR_OPERATION_POINTWISE_XDESC)),
           b = two ? tensor_of(d.child(second)) : x, y = tensor_of(d.child(out));
    if (!fits(x, y) || !fits(b, y))
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "%s: %s and %s do not give %s", mode_name(mode),
                      describe(x).c_str(), describe(b).c_str(), describe(y).c_str());
    if (o == nullptr)
        return CUDNN_STATUS_SUCCESS;
    o->name = mode_name(mode);
    o->inputs = two ? std::vector<tensor>{x, b} : std::vector<tensor>{x};
    o->outputs = {y};
    double alpha1 = d.number(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, 1),
           alpha2 = d.number(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, 1);
    settings s = settings_of(pointwise);
    o->run = [=](environment &e) {
        const array &from = e.at(x), &with = e.at(b);
        array &to = e.at(y);
        walk(from, with, to, [&](int64_t i, int64_t j, int64_t k) {
            to.data[(size_t)k] = apply(mode, alpha1 * from.data[(size_t)i], alpha2 * with.data[(size_t)j], s);
        });
    };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t read_reduction(const descriptor &d, operation *o)
{
    int how = d.child(CUDNN_ATTR_OPERATION_REDUCTION_DESC).get<int>(CUDNN_ATTR_REDUCTION_OPERATOR, -1);
    tensor x = tensor_of(d.child(CUDNN_ATTR_OPERATION_REDUCTION_XDESC)),
           y = tensor_of(d.child(CUDNN_ATTR_OPERATION_REDUCTION_YDESC));
    if (how != CUDNN_REDUCE_TENSOR_ADD && how != CUDNN_REDUCE_TENSOR_AVG)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has no reduction %d", how);
    if (!fits(y, x))
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "%s cannot be reduced to %s",
                      describe(x).c_str(), describe(y).c_str());
    if (o == nullptr)
        return CUDNN_STATUS_SUCCESS;
    o->name = "reduction";
    o->inputs = {x};
    o->outputs = {y};
    double factor = how == CUDNN_REDUCE_TENSOR_AVG ? (double)y.count() / (double)x.count() : 1.0;
    o->run = [=](environment &e) {
        const array &from = e.at(x);
        array sum;
        sum.shape(y.dims);
        walk(from, sum, from,
             [&](int64_t i, int64_t j, int64_t) { sum.data[(size_t)j] += from.data[(size_t)i]; });
        for (size_t i = 0; i < sum.data.size(); i++)
            e.at(y).data[i] = factor * sum.data[i];
    };
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double
