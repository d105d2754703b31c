/* Batch norm: training and inference forward, and backward. */
#include <math.h>

#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
namespace
{
/* The operands of an operation by attribute. */
struct operands {
    std::map<int, tensor> by_name;
    bool has(int name) const
    {
        return by_name.count(name) > 0;
    }
    const tensor &operator[](int name) const
    {
        return by_name.at(name);
    }
};

operands collect(const descriptor &d, const std::vector<int> &names)
{
    operands out;
    for (int name : names)
        if (d.has(name))
            out.by_name[name] = tensor_of(d.child(name));
    return out;
}

cudnnStatus_t need(const operands &have, const std::vector<int> &names)
{
    for (int name : names)
        if (!have.has(name))
            return refuse(CUDNN_STATUS_BAD_PARAM, "a norm operation lacks attribute %d", name);
    return CUDNN_STATUS_SUCCESS;
}

/* x and its like have one shape, numbers are single, all others are vectors of the channels. */
cudnnStatus_t check_shapes(const operands &all, const tensor &x, const std::vector<int> &like_x,
                           const std::vector<int> &numbers)
{
    if (x.dims.size() < 4)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "the double has norms of four dimensions and more");
    std::vector<int64_t> vector(x.dims.size(), 1);
    vector[1] = x.dims[1];
    for (auto &entry : all.by_name) {
        const tensor &t = entry.second;
        bool full = false, number = false;
        for (int name : like_x)
            full = full || name == entry.first;
        for (int name : numbers)
            number = number || name == entry.first;
        if (number ? t.count() != 1 : t.dims != (full ? x.dims : vector))
            return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a norm of %s is given %s",
                          describe(x).c_str(), describe(t).c_str());
        if (!full && t.type != element::f32)
            return refuse(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE, "statistics and parameters are float32: %s",
                          describe(t).c_str());
    }
    return CUDNN_STATUS_SUCCESS;
}

double scalar(environment &e, const operands &in, int name, double otherwise)
{
    return in.has(name) ? e.at(in[name]).data.at(0) : otherwise;
}

/* Mean and biased variance of channel c, in two passes. */
void statistics(const array &x, size_t channels, size_t c, double *mean, double *var)
{
    double sum = 0, squares = 0, n = (double)(x.data.size() / channels);
    for (size_t i = c; i < x.data.size(); i += channels)
        sum += x.data[i];
    *mean = sum / n;
    for (size_t i = c; i < x.data.size(); i += channels)
        squares += (x.data[i] - *mean) * (x.data[i] - *mean);
    *var = squares / n;
}

void move(environment &e, const operands &t, int from, int to, size_t c, double factor, double batch)
{
    e.at(t[to]).data[c] = (1 - factor) * e.at(t[from]).data[c] + factor * batch;
}

void train(environment &e, const operands &t)
{
    const array &x = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_XDESC]);
    array &y = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_YDESC]);
    size_t channels = (size_t)x.dims[1], rows = x.data.size() / channels;
    double eps = scalar(e, t, CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, 0),
           factor = scalar(e, t, CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC, 0);
    for (size_t c = 0; c < channels; c++) {
        double mean, var;
        statistics(x, channels, c, &mean, &var);
        double inverse = 1 / sqrt(var + eps),
               scale = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC]).data[c],
               shift = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC]).data[c];
        e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC]).data[c] = mean;
        e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC]).data[c] = inverse;
        if (t.has(CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC)) {
            move(e, t, CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_MEAN_DESC,
                 CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC, c, factor, mean);
            move(e, t, CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_VAR_DESC,
                 CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC, c, factor,
                 rows > 1 ? var * (double)rows / (double)(rows - 1) : var);
        }
        for (size_t i = c; i < x.data.size(); i += channels)
            y.data[i] = scale * (x.data[i] - mean) * inverse + shift;
    }
}

void infer(environment &e, const operands &t)
{
    const array &x = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_XDESC]),
                &mean = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC]),
                &inverse = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC]),
                &scale = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC]),
                &shift = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC]);
    array &y = e.at(t[CUDNN_ATTR_OPERATION_NORM_FWD_YDESC]);
    size_t channels = (size_t)x.dims[1];
    for (size_t i = 0; i < x.data.size(); i++) {
        size_t c = i % channels;
        y.data[i] = scale.data[c] * (x.data[i] - mean.data[c]) * inverse.data[c] + shift.data[c];
    }
}

void backward(environment &e, const operands &t)
{
    const array &x = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_XDESC]),
                &dy = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC]);
    array &dx = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC]);
    size_t channels = (size_t)x.dims[1];
    double n = (double)(x.data.size() / channels);
    for (size_t c = 0; c < channels; c++) {
        double mean = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC]).data[c],
               inverse = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC]).data[c],
               scale = e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC]).data[c], dshift = 0, dscale = 0;
        for (size_t i = c; i < x.data.size(); i += channels) {
            dshift += dy.data[i];
            dscale += dy.data[i] * (x.data[i] - mean) * inverse;
        }
        for (size_t i = c; i < x.data.size(); i += channels)
            dx.data[i] =
                scale * inverse * (dy.data[i] - dshift / n - (x.data[i] - mean) * inverse * dscale / n);
        e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC]).data[c] = dscale;
        e.at(t[CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC]).data[c] = dshift;
    }
}

const std::vector<int> forward_names = {CUDNN_ATTR_OPERATION_NORM_FWD_XDESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_MEAN_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_VAR_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC,
                                        CUDNN_ATTR_OPERATION_NORM_FWD_YDESC};
const std::vector<int> backward_names = {CUDNN_ATTR_OPERATION_NORM_BWD_XDESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_EPSILON_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC,
                                         CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC};

void fill(const operands &all, const std::vector<int> &outputs, operation *o)
{
    for (auto &entry : all.by_name) {
        bool made = false;
        for (int name : outputs)
            made = made || name == entry.first;
        (made ? o->outputs : o->inputs).push_back(entry.second);
    }
}

cudnnStatus_t read_forward(const descriptor &d, operation *o)
{
    operands all = collect(d, forward_names);
    bool training = d.get<int>(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, -1) == CUDNN_NORM_FWD_TRAINING,
         moves = all.has(CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC);
    std::vector<int> wanted = {
        CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC,
        CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC};
    if (training)
        wanted.push_back(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC);
    for (int name : {CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_MEAN_DESC,
                     CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_VAR_DESC,
                     CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC,
                     CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC}) {
        if (moves)
            wanted.push_back(name);
        else if (all.has(name))
            return refuse(CUDNN_STATUS_BAD_PARAM, "running statistics are given without their factor");
    }
    cudnnStatus_t status = need(all, wanted);
    if (status == CUDNN_STATUS_SUCCESS)
        status = check_shapes(
            all, all[CUDNN_ATTR_OPERATION_NORM_FWD_XDESC],
            {CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, CUDNN_ATTR_OPERATION_NORM_FWD_YDESC},
            {CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC});
    if (status != CUDNN_STATUS_SUCCESS || o == nullptr)
        return status;
    o->name = "norm_forward";
    std::vector<int> outputs = {CUDNN_ATTR_OPERATION_NORM_FWD_YDESC};
    if (training)
        outputs.insert(outputs.end(), {CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC,
                                       CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC,
                                       CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC,
                                       CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC});
    fill(all, outputs, o);
    o->run = [all, training](environment &e) { (training ? train : infer)(e, all); };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t read_backward(const descriptor &d, operation *o)
{
    operands all = collect(d, backward_names);
    cudnnStatus_t status =
        need(all, {CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC});
    if (status == CUDNN_STATUS_SUCCESS)
        status = check_shapes(all, all[CUDNN_ATTR_OPERATION_NORM_BWD_XDESC],
                              {CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC,
                               CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC},
                              {CUDNN_ATTR_OPERATION_NORM_BWD_EPSILON_DESC});
    if (status != CUDNN_STATUS_SUCCESS || o == nullptr)
        return status;
    o->name = "norm_backward";
    fill(all,
         {CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC,
          CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC},
         o);
    o->run = [all](environment &e) { backward(e, all); };
    return CUDNN_STATUS_SUCCESS;
}
} // namespace

cudnnStatus_t read_norm(const descriptor &d, operation *o)
{
    bool forward = d.type == CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR;
    int mode =
        d.get<int>(forward ? CUDNN_ATTR_OPERATION_NORM_FWD_MODE : CUDNN_ATTR_OPERATION_NORM_BWD_MODE, -1);
    if (mode != CUDNN_BATCH_NORM)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has batch norm only, not norm mode %d", mode);
    return forward ? read_forward(d, o) : read_backward(d, o);
}
} // namespace cuda_double
