/* Matrix products: D = epilogue(alpha op(A) op(B) + beta C).
 *
 * Two algorithms compute every product, so that a choice can be seen: the first wants a workspace, the second
 * none; with a compute type that allows it both round float32 factors to tf32. */
#include "cuda_double/cublaslt.hpp"

#include <cuda_runtime_api.h>
#include <math.h>
#include <string.h>

#include "cuda_double/array.hpp"
#include "cuda_double/memory.hpp"
#include "cuda_double/record.hpp"
#include "cuda_double/stream.hpp"

namespace cuda_double
{
namespace
{
constexpr uint64_t algorithm_mark = 0x616c676f;
constexpr size_t first_workspace = 2048;

bool known_element(int type, element *out)
{
    if (type != CUDA_R_32F && type != CUDA_R_16BF && type != CUDA_R_16F)
        return false;
    *out = type == CUDA_R_32F ? element::f32 : type == CUDA_R_16BF ? element::bf16 : element::f16;
    return true;
}

/* A product as described, without pointers. */
struct product {
    matmul_desc desc;
    matrix_layout a, b, c, d;
    element ab_type, c_type, d_type, bias_type;
    int64_t m, n, k;
};

cublasStatus_t invalid(const char *why)
{
    complain("%s", why);
    return CUBLAS_STATUS_INVALID_VALUE;
}

bool has_bias(uint32_t epilogue)
{
    return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
}

bool writes_bias(uint32_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

bool known_epilogue(uint32_t e)
{
    return e == CUBLASLT_EPILOGUE_DEFAULT || e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_BIAS ||
           e == CUBLASLT_EPILOGUE_RELU_BIAS || e == CUBLASLT_EPILOGUE_GELU ||
           e == CUBLASLT_EPILOGUE_GELU_BIAS || writes_bias(e);
}

cublasStatus_t check_types(product *p)
{
    bool computes = p->desc.compute == CUBLAS_COMPUTE_32F ||
                    p->desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
                    p->desc.compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    int bias = p->desc.bias_type < 0 ? p->d.type : p->desc.bias_type;
    if (!computes || p->desc.scale != CUDA_R_32F || p->a.type != p->b.type || p->c.type != p->d.type ||
        !known_element(p->a.type, &p->ab_type) || !known_element(p->c.type, &p->c_type) ||
        !known_element(p->d.type, &p->d_type) || !known_element(bias, &p->bias_type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* Outputs have the type of the factors, or are float32; biases that of the output. */
    if ((p->d.type != p->a.type && p->d.type != CUDA_R_32F) || bias != p->d.type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!known_epilogue(p->desc.epilogue) || p->desc.pointer_mode != CUBLASLT_POINTER_MODE_HOST ||
        p->desc.transc != CUBLAS_OP_N || p->desc.fill != CUBLAS_FILL_MODE_FULL)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_layout(const matrix_layout &l)
{
    bool columns = l.order == CUBLASLT_ORDER_COL;
    if (!columns && l.order != CUBLASLT_ORDER_ROW)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (l.rows < 1 || l.columns < 1 || l.batches < 1 || l.leading < (int64_t)(columns ? l.rows : l.columns))
        return invalid("a matrix has no elements, or a leading dimension below its rows");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check(product *p)
{
    for (const matrix_layout *l : {&p->a, &p->b, &p->c, &p->d}) {
        cublasStatus_t status = check_layout(*l);
        if (status != CUBLAS_STATUS_SUCCESS)
            return status;
        if (l->batches != p->d.batches)
            return invalid("the matrices have different numbers of batches");
    }
    bool ta = p->desc.transa != CUBLAS_OP_N, tb = p->desc.transb != CUBLAS_OP_N;
    p->m = (int64_t)p->d.rows;
    p->n = (int64_t)p->d.columns;
    p->k = (int64_t)(ta ? p->a.rows : p->a.columns);
    if ((int64_t)(ta ? p->a.columns : p->a.rows) != p->m ||
        (int64_t)(tb ? p->b.rows : p->b.columns) != p->n ||
        (int64_t)(tb ? p->b.columns : p->b.rows) != p->k || p->c.rows != p->d.rows ||
        p->c.columns != p->d.columns)
        return invalid("the sizes of the matrices do not fit");
    return check_types(p);
}

cublasStatus_t read_product(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                            cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                            product *p)
{
    const matmul_desc *m = open_matmul(desc);
    const matrix_layout *la = open_layout(a, "layout of A"), *lb = open_layout(b, "layout of B"),
                        *lc = open_layout(c, "layout of C"), *ld = open_layout(d, "layout of D");
    if (!is_blas_handle(handle))
        return invalid("not a handle");
    if (m == nullptr || la == nullptr || lb == nullptr || lc == nullptr || ld == nullptr)
        return CUBLAS_STATUS_INVALID_VALUE;
    *p = {*m, *la, *lb, *lc, *ld, element::f32, element::f32, element::f32, element::f32, 0, 0, 0};
    return check(p);
}

/* Tells products apart: an algorithm is for the one that it was chosen for. */
uint64_t fingerprint(const product &p)
{
    uint64_t h = 1469598103934665603u;
    auto mix = [&](uint64_t v) { h = (h ^ v) * 1099511628211u; };
    for (const matrix_layout *l : {&p.a, &p.b, &p.c, &p.d})
        for (uint64_t v : {(uint64_t)l->type, (uint64_t)l->order, l->rows, l->columns, (uint64_t)l->leading,
                           (uint64_t)l->batches})
            mix(v);
    for (int v : {p.desc.compute, p.desc.transa, p.desc.transb, (int)p.desc.epilogue})
        mix((uint64_t)v);
    return h;
}

/* ---- computing ---- */

int64_t offset(const matrix_layout &l, int64_t batch, int64_t row, int64_t column)
{
    return batch * l.batch_stride +
           (l.order == CUBLASLT_ORDER_COL ? column * l.leading + row : row * l.leading + column);
}

size_t extent(const matrix_layout &l, element type)
{
    return (size_t)(offset(l, l.batches - 1, (int64_t)l.rows - 1, (int64_t)l.columns - 1) + 1) *
           element_size(type);
}

struct launch {
    product p;
    double alpha, beta;
    const void *a, *b, *c;
    void *d;
    range ranges[6]; /* A, B, C, D, bias, workspace */
    std::string text;

    void run() const;
};

/* op(X) of one batch, row by row. */
std::vector<double> read(const matrix_layout &l, const void *from, int64_t batch, bool transposed,
                         element type, bool tf32)
{
    std::vector<double> out;
    int64_t rows = (int64_t)(transposed ? l.columns : l.rows),
            columns = (int64_t)(transposed ? l.rows : l.columns);
    out.reserve((size_t)(rows * columns));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            double v = load_one(type, from, offset(l, batch, transposed ? j : i, transposed ? i : j));
            out.push_back(tf32 && type == element::f32 ? round_to_tf32(v) : v);
        }
    return out;
}

double finish(const launch &l, double v, int64_t row, int64_t batch)
{
    uint32_t e = l.p.desc.epilogue;
    if (has_bias(e))
        v += load_one(l.p.bias_type, l.p.desc.bias, batch * l.p.desc.bias_stride + row);
    if ((e & CUBLASLT_EPILOGUE_RELU) != 0)
        return v > 0 || isnan(v) ? v : 0.0;
    /* cuBLASLt's is the approximation by tanh. */
    return (e & CUBLASLT_EPILOGUE_GELU) != 0
               ? 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))
               : v;
}

/* The gradient of a bias: sums of op(A) or op(B) over the inner dimension. */
void write_bias_gradient(const launch &l, const std::vector<double> &a, const std::vector<double> &b,
                         int64_t batch)
{
    bool of_a = l.p.desc.epilogue == CUBLASLT_EPILOGUE_BGRADA;
    for (int64_t i = 0; i < (of_a ? l.p.m : l.p.n); i++) {
        double sum = 0;
        for (int64_t k = 0; k < l.p.k; k++)
            sum += of_a ? a[(size_t)(i * l.p.k + k)] : b[(size_t)(k * l.p.n + i)];
        store_one(l.p.bias_type, l.p.desc.bias, batch * l.p.desc.bias_stride + i, sum);
    }
}

void launch::run() const
{
    for (const range &r : ranges)
        if (!still_there(r))
            return;
    if (ranges[5].bytes > 0)
        memset(const_cast<void *>(ranges[5].pointer), 0xff, ranges[5].bytes);
    bool tf32 = p.desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    for (int64_t batch = 0; batch < p.d.batches; batch++) {
        std::vector<double> x = read(p.a, a, batch, p.desc.transa != CUBLAS_OP_N, p.ab_type, tf32),
                            y = read(p.b, b, batch, p.desc.transb != CUBLAS_OP_N, p.ab_type, tf32),
                            old = beta != 0 ? read(p.c, c, batch, false, p.c_type, false)
                                            : std::vector<double>();
        std::vector<double> row((size_t)p.n);
        for (int64_t i = 0; i < p.m; i++) {
            std::fill(row.begin(), row.end(), 0.0);
            for (int64_t k = 0; k < p.k; k++)
                for (int64_t j = 0; j < p.n; j++)
                    row[(size_t)j] += x[(size_t)(i * p.k + k)] * y[(size_t)(k * p.n + j)];
            for (int64_t j = 0; j < p.n; j++) {
                double v = alpha * row[(size_t)j] + (beta != 0 ? beta * old[(size_t)(i * p.n + j)] : 0.0);
                store_one(p.d_type, d, offset(p.d, batch, i, j), finish(*this, v, i, batch));
            }
        }
        if (writes_bias(p.desc.epilogue))
            write_bias_gradient(*this, x, y, batch);
    }
}

/* ---- pointers ---- */

bool find_operand(const void *pointer, size_t bytes, uint64_t alignment, const char *what, range *r)
{
    if (alignment > 0 && reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
        complain("%s at %p is not aligned to %llu bytes, as the algorithm was promised", what, pointer,
                 (unsigned long long)alignment);
        return false;
    }
    return find_range(pointer, bytes, what, r);
}

bool find_operands(launch *l, const cublasLtMatmulAlgo_t &algorithm)
{
    const product &p = l->p;
    bool good =
        find_operand(l->a, extent(p.a, p.ab_type), algorithm.data[3] & 0xffff, "A", &l->ranges[0]) &&
        find_operand(l->b, extent(p.b, p.ab_type), algorithm.data[3] >> 16 & 0xffff, "B", &l->ranges[1]) &&
        find_operand(l->d, extent(p.d, p.d_type), algorithm.data[3] >> 48, "D", &l->ranges[3]);
    if (good && l->beta != 0)
        good =
            find_operand(l->c, extent(p.c, p.c_type), algorithm.data[3] >> 32 & 0xffff, "C", &l->ranges[2]);
    if (good && (has_bias(p.desc.epilogue) || writes_bias(p.desc.epilogue))) {
        int64_t length = p.desc.epilogue == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m;
        good = find_operand(p.desc.bias,
                            (size_t)((p.d.batches - 1) * p.desc.bias_stride + length) *
                                element_size(p.bias_type),
                            element_size(p.bias_type), "the bias", &l->ranges[4]);
    }
    static const char *const names[] = {"A", "B", "C", "D", "the bias", "the workspace"};
    for (int i = 0; good && i < 6; i++)
        for (int other : {3, 5}) /* what is written */
            if (i != other && overlap(l->ranges[i], l->ranges[other]) &&
                !(i == 2 && other == 3 && l->c == l->d))
                complain("%s overlaps %s", names[other], names[i]);
    return good;
}
} // namespace
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int room,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    call entry("cublasLtMatmulAlgoGetHeuristic");
    product p;
    *count = 0;
    if (entry.injected != 0)
        return (cublasStatus_t)entry.injected;
    const preference *want = open_preference(wish);
    cublasStatus_t status = read_product(handle, desc, a, b, c, d, &p);
    if (want == nullptr || room < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (uint64_t index = 1; index <= 2 && *count < room; index++) {
        size_t workspace = index == 1 ? first_workspace : 0;
        if (workspace > want->workspace)
            continue;
        cublasLtMatmulHeuristicResult_t &r = results[(*count)++];
        r = cublasLtMatmulHeuristicResult_t();
        r.algo.data[0] = algorithm_mark;
        r.algo.data[1] = index;
        r.algo.data[2] = fingerprint(p);
        for (int i = 0; i < 4; i++)
            r.algo.data[3] |= (uint64_t)(want->alignment[i] & 0xffff) << 16 * i;
        r.workspaceSize = workspace;
        r.state = CUBLAS_STATUS_SUCCESS;
        r.wavesCount = 1;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    call entry("cublasLtMatmul", stream_number(stream));
    auto l = std::make_shared<launch>();
    if (entry.injected != 0)
        return (cublasStatus_t)entry.injected;
    if (alpha == nullptr || beta == nullptr)
        return invalid("no factors are given");
    cublasStatus_t status = read_product(handle, desc, la, lb, lc, ld, &l->p);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    const product &p = l->p;
    const cublasLtMatmulAlgo_t none = {{algorithm_mark, 2, fingerprint(p), 0, 0, 0, 0, 0}},
                               &how = algorithm != nullptr ? *algorithm : none;
    describe_call(format("%lld x %lld x %lld, %s to %s, epilogue %u, algorithm %d", (long long)p.m,
                         (long long)p.n, (long long)p.k, element_name(p.ab_type), element_name(p.d_type),
                         p.desc.epilogue, (int)how.data[1]));
    if (how.data[0] != algorithm_mark || how.data[2] != fingerprint(p))
        return invalid("the algorithm was chosen for another product");
    float factor[2];
    memcpy(&factor[0], alpha, sizeof factor[0]);
    memcpy(&factor[1], beta, sizeof factor[1]);
    l->alpha = (double)factor[0];
    l->beta = (double)factor[1];
    l->a = a;
    l->b = b;
    l->c = c;
    l->d = d;
    size_t needed = how.data[1] == 1 ? first_workspace : 0;
    if (needed > workspace_bytes)
        return invalid("the workspace is smaller than the algorithm needs");
    if (needed > 0 && !find_operand(workspace, needed, 16, "the workspace", &l->ranges[5]))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!find_operands(l.get(), how))
        return CUBLAS_STATUS_INVALID_VALUE;
    return enqueue_on(stream, {[l] { l->run(); }, small_work}) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
