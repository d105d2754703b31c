#include <string.h>

#include <map>

#include "cuda_double/cublaslt.hpp"
#include "cuda_double/record.hpp"

struct cublasLtContext {
    uint64_t mark; /* as every descriptor has */
};

namespace cuda_double
{
namespace
{
auto &alive = *new std::map<const void *, std::string>; /* made by a Create function, with what it is */

void find_leaks(std::vector<std::string> &found)
{
    for (auto &entry : alive)
        found.push_back(entry.second);
}

void reset()
{
    for (auto &entry : alive)
        ::operator delete(const_cast<void *>(entry.first));
    alive.clear();
}

const bool added = add_part(5, {find_leaks, reset});

template <typename T> const T *open(const void *d, uint64_t mark, const char *what)
{
    const T *out = static_cast<const T *>(d);
    if (d != nullptr && out->mark == mark)
        return out;
    complain("%p is not a %s", d, what);
    return nullptr;
}

/* One attribute's place in a descriptor. */
struct field {
    int name;
    size_t offset, size;
};

cublasStatus_t set(void *d, const std::vector<field> &fields, int name, const void *value, size_t size)
{
    for (const field &f : fields)
        if (f.name == name) {
            if (value == nullptr || size != f.size) {
                complain("attribute %d has %zu bytes, not %zu", name, f.size, size);
                return CUBLAS_STATUS_INVALID_VALUE;
            }
            memcpy(static_cast<char *>(d) + f.offset, value, size);
            return CUBLAS_STATUS_SUCCESS;
        }
    complain("the double does not know attribute %d", name);
    return CUBLAS_STATUS_INVALID_VALUE;
}

#define FIELD(type, name, member)                                                                            \
    {                                                                                                        \
        name, offsetof(type, member), sizeof(((type *)nullptr)->member)                                      \
    }
const std::vector<field> matmul_fields = {
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_POINTER_MODE, pointer_mode),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_TRANSA, transa),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_TRANSB, transb),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_TRANSC, transc),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_FILL_MODE, fill),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias_type),
    FIELD(matmul_desc, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, bias_stride)};
const std::vector<field> layout_fields = {
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, type),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_ORDER, order),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_ROWS, rows),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_COLS, columns),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_LD, leading),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batches),
    FIELD(matrix_layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, batch_stride)};
const std::vector<field> preference_fields = {
    FIELD(preference, CUBLASLT_MATMUL_PREF_SEARCH_MODE, search),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace),
    FIELD(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment[0]),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment[1]),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment[2]),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment[3]),
    FIELD(preference, CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, waves),
    FIELD(preference, CUBLASLT_MATMUL_PREF_IMPL_MASK, implementations)};

/* Memory for a descriptor that the double owns. */
template <typename T> cublasStatus_t create(T **d, const char *what)
{
    *d = static_cast<T *>(::operator new(sizeof(T)));
    alive[*d] = what;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t destroy(void *d)
{
    auto found = alive.find(d);
    if (found == alive.end()) {
        complain("%p is not a descriptor that is alive", d);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(d, &destroyed_mark, sizeof destroyed_mark);
    ::operator delete(d);
    alive.erase(found);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t injected(const call &c)
{
    return (cublasStatus_t)c.injected;
}
} // namespace

const matmul_desc *open_matmul(cublasLtMatmulDesc_t d)
{
    return open<matmul_desc>(d, matmul_mark, "description of a product");
}

const matrix_layout *open_layout(cublasLtMatrixLayout_t l, const char *what)
{
    return open<matrix_layout>(l, layout_mark, what);
}

const preference *open_preference(cublasLtMatmulPreference_t p)
{
    return open<preference>(p, preference_mark, "preference");
}

bool is_blas_handle(cublasLtHandle_t handle)
{
    auto found = alive.find(handle);
    return found != alive.end() && found->second == "a cuBLASLt handle";
}
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

#define STATUSES(X)                                                                                          \
    X(CUBLAS_STATUS_SUCCESS, "the operation completed successfully")                                         \
    X(CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized")                                      \
    X(CUBLAS_STATUS_ALLOC_FAILED, "the resource allocation failed")                                          \
    X(CUBLAS_STATUS_INVALID_VALUE, "an invalid value was used as an argument")                               \
    X(CUBLAS_STATUS_ARCH_MISMATCH, "an absent device architectural feature is required")                     \
    X(CUBLAS_STATUS_MAPPING_ERROR, "an access to GPU memory space failed")                                   \
    X(CUBLAS_STATUS_EXECUTION_FAILED, "the GPU program failed to execute")                                   \
    X(CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed")                                          \
    X(CUBLAS_STATUS_NOT_SUPPORTED, "the functionality requested is not supported")                           \
    X(CUBLAS_STATUS_LICENSE_ERROR, "the license is missing")

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
#define X(name, text)                                                                                        \
    case name:                                                                                               \
        return #name;
        STATUSES(X)
#undef X
    }
    return "unknown status";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
#define X(name, text)                                                                                        \
    case name:                                                                                               \
        return text;
        STATUSES(X)
#undef X
    }
    return "unknown status";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    call c("cublasLtCreate");
    return c.injected != 0 ? injected(c) : create(handle, "a cuBLASLt handle");
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    call c("cublasLtDestroy");
    return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    call c("cublasLtMatmulDescInit_internal");
    matmul_desc content = {matmul_mark,
                           compute,
                           scale,
                           CUBLASLT_POINTER_MODE_HOST,
                           CUBLAS_OP_N,
                           CUBLAS_OP_N,
                           CUBLAS_OP_N,
                           CUBLAS_FILL_MODE_FULL,
                           CUBLASLT_EPILOGUE_DEFAULT,
                           nullptr,
                           -1,
                           0,
                           0};
    if (c.injected != 0)
        return injected(c);
    if (size < sizeof content)
        return CUBLAS_STATUS_ALLOC_FAILED;
    memcpy(d, &content, sizeof content);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    call c("cublasLtMatmulDescCreate");
    if (c.injected != 0)
        return injected(c);
    create(d, "a description of a product");
    return cublasLtMatmulDescInit_internal(*d, sizeof **d, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    call c("cublasLtMatmulDescDestroy");
    return destroy(d);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t size)
{
    call c("cublasLtMatmulDescSetAttribute");
    if (c.injected != 0)
        return injected(c);
    return open_matmul(d) != nullptr ? set(d, matmul_fields, name, value, size) : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t size, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t leading)
{
    call c("cublasLtMatrixLayoutInit_internal");
    matrix_layout content = {layout_mark, type, CUBLASLT_ORDER_COL, rows, columns, leading, 0, 1, 0};
    if (c.injected != 0)
        return injected(c);
    if (size < sizeof content)
        return CUBLAS_STATUS_ALLOC_FAILED;
    memcpy(l, &content, sizeof content);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading)
{
    call c("cublasLtMatrixLayoutCreate");
    if (c.injected != 0)
        return injected(c);
    create(l, "a matrix layout");
    return cublasLtMatrixLayoutInit_internal(*l, sizeof **l, type, rows, columns, leading);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    call c("cublasLtMatrixLayoutDestroy");
    return destroy(l);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t name, const void *value,
                                                size_t size)
{
    call c("cublasLtMatrixLayoutSetAttribute");
    if (c.injected != 0)
        return injected(c);
    return open_layout(l, "matrix layout") != nullptr ? set(l, layout_fields, name, value, size)
                                                      : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t size)
{
    call c("cublasLtMatmulPreferenceInit_internal");
    preference content = {
        preference_mark,      0, ~0ull, CUBLASLT_SEARCH_BEST_FIT, CUBLASLT_REDUCTION_SCHEME_MASK,
        {256, 256, 256, 256}, 0, 0};
    if (c.injected != 0)
        return injected(c);
    if (size < sizeof content)
        return CUBLAS_STATUS_ALLOC_FAILED;
    memcpy(p, &content, sizeof content);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    call c("cublasLtMatmulPreferenceCreate");
    if (c.injected != 0)
        return injected(c);
    create(p, "a preference for products");
    return cublasLtMatmulPreferenceInit_internal(*p, sizeof **p);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    call c("cublasLtMatmulPreferenceDestroy");
    return destroy(p);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t size)
{
    call c("cublasLtMatmulPreferenceSetAttribute");
    if (c.injected != 0)
        return injected(c);
    return open_preference(p) != nullptr ? set(p, preference_fields, name, value, size)
                                         : CUBLAS_STATUS_INVALID_VALUE;
}
}
