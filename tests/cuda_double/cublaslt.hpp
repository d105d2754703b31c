/* cuBLASLt's descriptors as the double keeps them, in the space of the opaque structures. */
#ifndef CUDA_DOUBLE_CUBLASLT_HPP
#define CUDA_DOUBLE_CUBLASLT_HPP

#include <cublasLt.h>

namespace cuda_double
{
/* The marks tell descriptors from other memory, and kinds from each other. */
constexpr uint64_t matmul_mark = 0x6d61746d756c6465, layout_mark = 0x6c61796f75746465,
                   preference_mark = 0x7072656665726465, destroyed_mark = 0x646573747279edde;

struct matmul_desc {
    uint64_t mark;
    int32_t compute, scale, pointer_mode, transa, transb, transc, fill;
    uint32_t epilogue;
    void *bias;
    int32_t bias_type; /* -1: D's */
    int32_t padding;
    int64_t bias_stride;
};

struct matrix_layout {
    uint64_t mark;
    int32_t type, order;
    uint64_t rows, columns;
    int64_t leading, batch_stride;
    int32_t batches, padding;
};

struct preference {
    uint64_t mark, workspace, implementations;
    uint32_t search, reductions, alignment[4];
    float waves;
    uint32_t padding;
};

static_assert(sizeof(matmul_desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
static_assert(sizeof(matrix_layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
static_assert(sizeof(preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");

/* Null with a complaint where it is none. */
const matmul_desc *open_matmul(cublasLtMatmulDesc_t d);
const matrix_layout *open_layout(cublasLtMatrixLayout_t l, const char *what);
const preference *open_preference(cublasLtMatmulPreference_t p);
bool is_blas_handle(cublasLtHandle_t handle);
} // namespace cuda_double

#endif
