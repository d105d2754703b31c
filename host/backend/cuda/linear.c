#include "backend/cuda/linear.h"

#include "base/memory.h"

static cudaDataType_t data_type(hl_elem elem)
{
    return elem == HL_ELEM_BF16 ? CUDA_R_16BF : elem == HL_ELEM_F16 ? CUDA_R_16F : CUDA_R_32F;
}

static hl_status set(hl_matmul *m, cublasLtMatmulDescAttributes_t name, const void *value, size_t size,
                     const char *subject)
{
    return hl_blas_status(cublasLtMatmulDescSetAttribute(m->desc, name, value, size), subject,
                          "describe a matrix product");
}

/* cuBLASLt counts by columns, where a row-major matrix is its transpose: it computes c^T = b^T a^T, so that
 * its first factor is our b. */
static hl_status describe(const hl_matmul_spec *s, const char *subject, hl_matmul *m)
{
    const cublasOperation_t first = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = s->bias
                                            ? (s->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
                                        : s->relu ? CUBLASLT_EPILOGUE_RELU
                                                  : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t bias_type = data_type(s->out);
    HL_BLAS(cublasLtMatmulDescCreate(&m->desc, s->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                     CUDA_R_32F),
            subject, "describe a matrix product");
    HL_TRY(set(m, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first, subject));
    HL_TRY(set(m, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second, subject));
    HL_TRY(set(m, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, subject));
    if (s->bias)
        HL_TRY(set(m, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type, subject));
    return HL_OK;
}

static hl_status layout(cublasLtMatrixLayout_t *l, hl_elem elem, int64_t rows, int64_t columns,
                        const char *subject)
{
    return hl_blas_status(
        cublasLtMatrixLayoutCreate(l, data_type(elem), (uint64_t)rows, (uint64_t)columns, rows), subject,
        "describe a matrix");
}

static hl_status layouts(const hl_matmul_spec *s, const char *subject, hl_matmul *m)
{
    HL_TRY(s->b_transposed ? layout(&m->b, s->elem, s->inner, s->columns, subject)
                           : layout(&m->b, s->elem, s->columns, s->inner, subject));
    HL_TRY(s->a_transposed ? layout(&m->a, s->elem, s->rows, s->inner, subject)
                           : layout(&m->a, s->elem, s->inner, s->rows, subject));
    return layout(&m->c, s->out, s->columns, s->rows, subject);
}

static hl_status choose(hl_cuda *cuda, const char *subject, hl_matmul *m)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = HL_ALIGNMENT;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    HL_BLAS(cublasLtMatmulPreferenceCreate(&preference), subject, "choose an algorithm");
    cublasStatus_t status =
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &cuda->workspace_limit, sizeof cuda->workspace_limit);
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments && status == CUBLAS_STATUS_SUCCESS; i++)
        status =
            cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &alignment, sizeof alignment);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(cuda->blas, m->desc, m->b, m->a, m->c, m->c, preference, 1,
                                                &result, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    HL_BLAS(status, subject, "choose an algorithm for a matrix product");
    m->algo = result.algo;
    m->workspace = result.workspaceSize;
    return HL_OK;
}

hl_status hl_matmul_prepare(hl_cuda *cuda, const hl_matmul_spec *spec, const char *subject, hl_matmul *m)
{
    *m = (hl_matmul){.accumulate = spec->accumulate, .bias = spec->bias};
    if (cuda->planner) /* cuBLASLt cannot be asked about a device that is not there */
        return HL_OK;
    hl_status status = describe(spec, subject, m);
    if (status == HL_OK)
        status = layouts(spec, subject, m);
    if (status == HL_OK)
        status = choose(cuda, subject, m);
    if (status != HL_OK)
        hl_matmul_release(m);
    return status;
}

hl_status hl_matmul_bind(hl_matmul *m, const void *bias, const char *subject)
{
    return m->bias ? set(m, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias, subject) : HL_OK;
}

hl_status hl_matmul_run(hl_cuda *cuda, const hl_matmul *m, const void *a, const void *b, const void *d,
                        void *c, void *workspace, const char *subject)
{
    const float alpha = 1.0f, beta = m->accumulate ? 1.0f : 0.0f;
    return hl_blas_status(cublasLtMatmul(cuda->blas, m->desc, &alpha, b, m->b, a, m->a, &beta,
                                         m->accumulate ? d : c, m->c, c, m->c, &m->algo, workspace,
                                         m->workspace, cuda->compute),
                          subject, "multiply matrices");
}

void hl_matmul_release(hl_matmul *m)
{
    if (m->desc != NULL)
        cublasLtMatmulDescDestroy(m->desc);
    if (m->a != NULL)
        cublasLtMatrixLayoutDestroy(m->a);
    if (m->b != NULL)
        cublasLtMatrixLayoutDestroy(m->b);
    if (m->c != NULL)
        cublasLtMatrixLayoutDestroy(m->c);
    *m = (hl_matmul){0};
}
