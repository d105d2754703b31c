/* The double of cuBLASLt. */
#include <cublasLt.h>
#include <math.h>
#include <string.h>

#include "cuda/cudnn_builder.hpp"

static cudaDataType_t blas_type(hl_elem elem)
{
    return elem == HL_ELEM_BF16 ? CUDA_R_16BF : elem == HL_ELEM_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* D [m, n] = A [m, k] B [k, n], by columns. */
struct product {
    int64_t m, n, k;
    bool ta, tb;
    hl_elem elem, out;
    cublasLtEpilogue_t epilogue;
    float alpha, beta;
    cublasComputeType_t compute;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t results[2];
    int found;
};

static void open(product *p, size_t workspace)
{
    const int32_t transposed = CUBLAS_OP_T;
    const uint32_t epilogue = (uint32_t)p->epilogue;
    const uint64_t limit = workspace;
    cr_assert_eq(cublasLtCreate(&p->handle), CUBLAS_STATUS_SUCCESS);
    cr_assert_eq(cublasLtMatmulDescCreate(&p->desc, p->compute, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    if (p->ta)
        cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (p->tb)
        cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof transposed);
    cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    uint64_t rows = (uint64_t)(p->ta ? p->k : p->m), columns = (uint64_t)(p->ta ? p->m : p->k);
    cublasLtMatrixLayoutCreate(&p->a, blas_type(p->elem), rows, columns, (int64_t)rows);
    rows = (uint64_t)(p->tb ? p->n : p->k);
    columns = (uint64_t)(p->tb ? p->k : p->n);
    cublasLtMatrixLayoutCreate(&p->b, blas_type(p->elem), rows, columns, (int64_t)rows);
    cublasLtMatrixLayoutCreate(&p->c, blas_type(p->out), (uint64_t)p->m, (uint64_t)p->n, p->m);
    cublasLtMatmulPreferenceCreate(&p->preference);
    cublasLtMatmulPreferenceSetAttribute(p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                         sizeof limit);
    cr_assert_eq(cublasLtMatmulAlgoGetHeuristic(p->handle, p->desc, p->a, p->b, p->c, p->c, p->preference, 2,
                                                p->results, &p->found),
                 CUBLAS_STATUS_SUCCESS);
}

static void close(product *p)
{
    cublasLtMatmulPreferenceDestroy(p->preference);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatmulDescDestroy(p->desc);
    cublasLtDestroy(p->handle);
}

static product make_product(int64_t m, int64_t n, int64_t k)
{
    product p = {};
    p.m = m;
    p.n = n;
    p.k = k;
    p.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    p.alpha = 1;
    p.compute = CUBLAS_COMPUTE_32F;
    return p;
}

static double finish(const product &p, double v, double bias)
{
    switch (p.epilogue) {
    case CUBLASLT_EPILOGUE_RELU:
        return fmax(v, 0);
    case CUBLASLT_EPILOGUE_BIAS:
        return v + bias;
    case CUBLASLT_EPILOGUE_RELU_BIAS:
        return fmax(v + bias, 0);
    case CUBLASLT_EPILOGUE_GELU_BIAS:
        v += bias;
        return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    default:
        return v;
    }
}

/* Runs it and compares with plain loops. */
static void check_product(product p)
{
    int64_t na = p.m * p.k, nb = p.k * p.n, nd = p.m * p.n;
    numbers a(random_doubles(na, -1, 1, p.elem, 1)), b(random_doubles(nb, -1, 1, p.elem, 2)),
        c(random_doubles(nd, -1, 1, p.out, 3)), bias(random_doubles(p.m + p.n, -1, 1, p.out, 4)),
        want(doubles(nd)), gradient(doubles(p.m + p.n));
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            double sum = 0;
            for (int64_t k = 0; k < p.k; k++) {
                double x = a[p.ta ? i * p.k + k : k * p.m + i], y = b[p.tb ? k * p.n + j : j * p.k + k];
                sum += x * y;
                if (p.epilogue == CUBLASLT_EPILOGUE_BGRADA && j == 0)
                    gradient[i] += x;
                if (p.epilogue == CUBLASLT_EPILOGUE_BGRADB && i == 0)
                    gradient[j] += y;
            }
            want[j * p.m + i] = finish(p, (double)p.alpha * sum + (double)p.beta * c[j * p.m + i], bias[i]);
        }
    buffer ba(p.elem, na, a), bb(p.elem, nb, b), bc(p.out, nd, c), bd(p.out, nd),
        bbias(p.out, p.m + p.n, bias), workspace(HL_ELEM_F32, 1024);
    open(&p, 4096);
    cr_assert_eq(p.found, 2);
    cr_expect_neq(p.results[0].workspaceSize, p.results[1].workspaceSize);
    cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bbias.memory,
                                   sizeof bbias.memory);
    for (int algorithm = 0; algorithm < 2; algorithm++) {
        cr_assert_eq(cublasLtMatmul(p.handle, p.desc, &p.alpha, ba.memory, p.a, bb.memory, p.b, &p.beta,
                                    bc.memory, p.c, bd.memory, p.c, &p.results[algorithm].algo,
                                    workspace.memory, p.results[algorithm].workspaceSize, nullptr),
                     CUBLAS_STATUS_SUCCESS, "%s", double_complaint(0));
        expect_close("product", p.out, bd.read().data(), want, nd, (double)p.k + 2, 2);
    }
    if (p.epilogue == CUBLASLT_EPILOGUE_BGRADA || p.epilogue == CUBLASLT_EPILOGUE_BGRADB)
        expect_close("bias gradient", p.out, bbias.read().data(), gradient,
                     p.epilogue == CUBLASLT_EPILOGUE_BGRADA ? p.m : p.n, (double)p.k, 1);
    close(&p);
    for (buffer *old : {&ba, &bb, &bc, &bd, &bbias, &workspace})
        old->release();
}

Test(matmul, transposes_types_and_sums_agree_with_plain_loops)
{
    for (int transposes = 0; transposes < 4; transposes++)
        for (hl_elem elem : {HL_ELEM_F32, HL_ELEM_BF16, HL_ELEM_F16})
            for (hl_elem out : {HL_ELEM_F32, elem})
                for (float beta : {0.0f, 1.0f, -0.5f}) {
                    product p = make_product(7, 5, 11);
                    p.ta = (transposes & 1) != 0;
                    p.tb = (transposes & 2) != 0;
                    p.elem = elem;
                    p.out = out;
                    p.alpha = 1.5f;
                    p.beta = beta;
                    check_product(p);
                }
    cr_expect_eq(double_report(), 0);
}

Test(matmul, epilogues_agree_with_plain_loops)
{
    for (cublasLtEpilogue_t epilogue :
         {CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS,
          CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB})
        for (hl_elem elem : {HL_ELEM_F32, HL_ELEM_BF16}) {
            product p = make_product(6, 9, 4);
            p.epilogue = epilogue;
            p.elem = p.out = elem;
            check_product(p);
        }
    cr_expect_eq(double_report(), 0);
}

Test(matmul, tf32_rounds_the_factors_where_it_is_allowed)
{
    for (cublasComputeType_t compute : {CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32}) {
        product p = make_product(1, 1, 1);
        p.compute = compute;
        const double one = 1, fine = 1 + 0x1p-12;
        buffer a(HL_ELEM_F32, 1, &fine), b(HL_ELEM_F32, 1, &one), d(HL_ELEM_F32, 1);
        open(&p, 0);
        cr_expect_eq(p.found, 1); /* the other one wants a workspace */
        cr_expect_eq(cublasLtMatmul(p.handle, p.desc, &p.alpha, a.memory, p.a, b.memory, p.b, &p.beta,
                                    d.memory, p.c, d.memory, p.c, &p.results[0].algo, nullptr, 0, nullptr),
                     CUBLAS_STATUS_SUCCESS);
        cr_expect_eq(d.read()[0], compute == CUBLAS_COMPUTE_32F ? fine : 1.0);
    }
}

static cublasStatus_t multiply(const product &p, void *a, void *b, void *d, int algorithm, void *workspace,
                               size_t bytes)
{
    return cublasLtMatmul(p.handle, p.desc, &p.alpha, a, p.a, b, p.b, &p.beta, d, p.c, d, p.c,
                          &p.results[algorithm].algo, workspace, bytes, nullptr);
}

Test(matmul, misuse_is_noticed)
{
    product p = make_product(8, 8, 8), other = make_product(8, 8, 4);
    open(&p, 1 << 20);
    open(&other, 1 << 20);
    buffer a(HL_ELEM_F32, 64), small(HL_ELEM_F32, 63), d(HL_ELEM_F32, 64), workspace(HL_ELEM_F32, 512);
    size_t bytes = p.results[0].workspaceSize;
    cr_expect_eq(multiply(p, a.memory, a.memory, d.memory, 0, workspace.memory, bytes),
                 CUBLAS_STATUS_SUCCESS);
    cr_expect_eq(double_complaint_count(), 0);
    /* A matrix that is too small, no device memory, a pointer that is not aligned, too little workspace. */
    std::vector<double> host(64);
    char *shifted = static_cast<char *>(a.memory) + 16;
    cr_expect_neq(multiply(p, small.memory, a.memory, d.memory, 1, nullptr, 0), CUBLAS_STATUS_SUCCESS);
    cr_expect_neq(multiply(p, host.data(), a.memory, d.memory, 1, nullptr, 0), CUBLAS_STATUS_SUCCESS);
    cr_expect_neq(multiply(p, shifted, a.memory, d.memory, 1, nullptr, 0), CUBLAS_STATUS_SUCCESS);
    cr_expect_neq(multiply(p, a.memory, a.memory, d.memory, 0, workspace.memory, bytes - 1),
                  CUBLAS_STATUS_SUCCESS);
    cr_expect_eq(double_complaint_count(), 4);
    /* An algorithm of another product. */
    product mixed = p;
    mixed.results[1] = other.results[1];
    cr_expect_neq(multiply(mixed, a.memory, a.memory, d.memory, 1, nullptr, 0), CUBLAS_STATUS_SUCCESS);
    cr_expect_eq(double_complaint_count(), 5);
    /* The result in place of a factor. */
    cr_expect_eq(multiply(p, a.memory, a.memory, a.memory, 1, nullptr, 0), CUBLAS_STATUS_SUCCESS);
    cr_expect_gt(double_complaint_count(), 5);
    /* A wrong size of an attribute, a descriptor of another kind. */
    int count = double_complaint_count();
    const int64_t wide = CUBLAS_OP_T;
    cr_expect_neq(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &wide, sizeof wide),
                  CUBLAS_STATUS_SUCCESS);
    cr_expect_neq(cublasLtMatrixLayoutDestroy(reinterpret_cast<cublasLtMatrixLayout_t>(&host[0])),
                  CUBLAS_STATUS_SUCCESS);
    cr_expect_eq(double_complaint_count(), count + 2);
}

Test(matmul, what_it_cannot_do_is_no_misuse)
{
    product p = make_product(4, 4, 4);
    p.elem = HL_ELEM_BF16;
    p.out = HL_ELEM_F32;
    open(&p, 0);
    const int32_t narrow = CUDA_R_16F;
    const uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &narrow, sizeof narrow);
    cr_expect_eq(cublasLtMatmulAlgoGetHeuristic(p.handle, p.desc, p.a, p.b, p.c, p.c, p.preference, 2,
                                                p.results, &p.found),
                 CUBLAS_STATUS_NOT_SUPPORTED);
    cr_expect_eq(p.found, 0);
    cr_expect_eq(double_complaint_count(), 0);
}

Test(matmul, what_stays_is_reported)
{
    product p = make_product(1, 1, 1);
    open(&p, 0);
    cr_expect_eq(double_leak_count(), 6);
    close(&p);
    cr_expect_eq(double_leak_count(), 0);
}
