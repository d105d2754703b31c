/* Matrix products [batch, m, k] x [batch, k, n]; a batch of one is used for all. */
#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
static void multiply(const array &a, const array &b, array &c, bool tf32)
{
    int64_t batch = c.dims[0], m = c.dims[1], n = c.dims[2], k = a.dims[2];
    for (int64_t i = 0; i < batch; i++)
        for (int64_t row = 0; row < m; row++) {
            const double *from = &a.data[(size_t)(((a.dims[0] == 1 ? 0 : i) * m + row) * k)];
            double *to = &c.data[(size_t)((i * m + row) * n)];
            for (int64_t j = 0; j < n; j++)
                to[j] = 0;
            for (int64_t inner = 0; inner < k; inner++) {
                const double *with = &b.data[(size_t)(((b.dims[0] == 1 ? 0 : i) * k + inner) * n)];
                double factor = tf32 ? round_to_tf32(from[inner]) : from[inner];
                for (int64_t j = 0; j < n; j++)
                    to[j] += factor * (tf32 ? round_to_tf32(with[j]) : with[j]);
            }
        }
}

cudnnStatus_t read_matmul(const descriptor &d, operation *o)
{
    tensor a = tensor_of(d.child(CUDNN_ATTR_OPERATION_MATMUL_ADESC)),
           b = tensor_of(d.child(CUDNN_ATTR_OPERATION_MATMUL_BDESC)),
           c = tensor_of(d.child(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    bool three = a.dims.size() == 3 && b.dims.size() == 3 && c.dims.size() == 3;
    if (!three || a.dims[1] != c.dims[1] || a.dims[2] != b.dims[1] || b.dims[2] != c.dims[2] ||
        (a.dims[0] != c.dims[0] && a.dims[0] != 1) || (b.dims[0] != c.dims[0] && b.dims[0] != 1))
        return refuse(three ? CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH : CUDNN_STATUS_NOT_SUPPORTED_SHAPE,
                      "%s times %s does not give %s", describe(a).c_str(), describe(b).c_str(),
                      describe(c).c_str());
    if (o == nullptr)
        return CUDNN_STATUS_SUCCESS;
    o->name = "matmul";
    o->multiplies = true;
    o->inputs = {a, b};
    o->outputs = {c};
    o->run = [=](environment &e) {
        multiply(e.at(a), e.at(b), e.at(c), e.tf32 && a.type == element::f32 && b.type == element::f32);
    };
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double
