/* Matrix products through cuBLASLt: linear layers and their gradients. */
#ifndef HL_BACKEND_CUDA_LINEAR_H
#define HL_BACKEND_CUDA_LINEAR_H

#include "backend/cuda/cuda.h"

/* c [rows, columns] = a [rows, inner] b [inner, columns], all row-major; a_transposed: a is stored as [inner,
 * rows], likewise b. c += d where `accumulate`, with d of c's type and shape. */
typedef struct hl_matmul_spec {
    int64_t rows, columns, inner;
    bool a_transposed, b_transposed, accumulate, tf32;
    hl_elem elem, out; /* of a and b; of c */
    bool bias;         /* of c's type, [columns] */
    bool relu;
} hl_matmul_spec;

typedef struct hl_matmul {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    bool accumulate, bias;
} hl_matmul;

/* HL_E_UNSUPPORTED where cuBLASLt knows no way. */
hl_status hl_matmul_prepare(hl_cuda *cuda, const hl_matmul_spec *spec, const char *subject,
                            hl_matmul *matmul);
/* Before the first run, once addresses are known. */
hl_status hl_matmul_bind(hl_matmul *matmul, const void *bias, const char *subject);
hl_status hl_matmul_run(hl_cuda *cuda, const hl_matmul *matmul, const void *a, const void *b, const void *d,
                        void *c, void *workspace, const char *subject);
void hl_matmul_release(hl_matmul *matmul); /* of zeros: nothing to do */

#endif
