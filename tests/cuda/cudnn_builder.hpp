/* For tests of the double: operation graphs, plans and device memory in few words. Everything is asserted to
 * succeed. */
#ifndef TESTS_CUDA_CUDNN_BUILDER_HPP
#define TESTS_CUDA_CUDNN_BUILDER_HPP

#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <map>
#include <vector>

#include "cuda_double/double.h"

extern "C" {
#include "support/numeric.h"
}

typedef cudnnBackendDescriptor_t descriptor;
typedef std::vector<int64_t> sizes;

static inline descriptor make(cudnnBackendDescriptorType_t type)
{
    descriptor d = nullptr;
    cr_assert_eq(cudnnBackendCreateDescriptor(type, &d), CUDNN_STATUS_SUCCESS);
    return d;
}

static inline void set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t count, const void *value)
{
    cr_assert_eq(cudnnBackendSetAttribute(d, name, type, count, value), CUDNN_STATUS_SUCCESS, "%s",
                 double_complaint(double_complaint_count() - 1));
}

static inline void set_sizes(descriptor d, cudnnBackendAttributeName_t name, const sizes &list)
{
    set(d, name, CUDNN_TYPE_INT64, (int64_t)list.size(), list.data());
}

static inline void set_child(descriptor d, cudnnBackendAttributeName_t name, descriptor child)
{
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &child);
}

static inline void finalize(descriptor d)
{
    cr_assert_eq(cudnnBackendFinalize(d), CUDNN_STATUS_SUCCESS, "%s",
                 double_complaint(double_complaint_count() - 1));
}

static inline int64_t get_number(descriptor d, cudnnBackendAttributeName_t name)
{
    int64_t value = -1, count = 0;
    cr_assert_eq(cudnnBackendGetAttribute(d, name, CUDNN_TYPE_INT64, 1, &count, &value),
                 CUDNN_STATUS_SUCCESS);
    cr_assert_eq(count, 1);
    return value;
}

static inline sizes channels_last(const sizes &d)
{
    return {d[1] * d[2] * d[3], 1, d[3] * d[1], d[1]};
}

static inline sizes row_by_row(const sizes &d)
{
    sizes strides(d.size());
    int64_t step = 1;
    for (size_t i = d.size(); i-- > 0; step *= d[i])
        strides[i] = step;
    return strides;
}

enum tensor_kind { STORED, VIRTUAL, VALUE };

static inline descriptor make_tensor(int64_t uid, cudnnDataType_t type, const sizes &dims,
                                     const sizes &strides, tensor_kind kind)
{
    const bool yes = true;
    descriptor d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set_sizes(d, CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
    set_sizes(d, CUDNN_ATTR_TENSOR_STRIDES, strides);
    set_sizes(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, {uid});
    set_sizes(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {16});
    if (kind != STORED)
        set(d, kind == VIRTUAL ? CUDNN_ATTR_TENSOR_IS_VIRTUAL : CUDNN_ATTR_TENSOR_IS_BY_VALUE,
            CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(d);
    return d;
}

/* A handle with a stream, and a graph that is being made. Tensors are called by their unique id. */
struct builder {
    cudaStream_t stream = nullptr;
    cudnnHandle_t handle = nullptr;
    std::vector<descriptor> made, operations;
    std::map<int64_t, descriptor> tensors;

    builder()
    {
        cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        cr_assert_eq(cudnnCreate(&handle), CUDNN_STATUS_SUCCESS);
        cr_assert_eq(cudnnSetStream(handle, stream), CUDNN_STATUS_SUCCESS);
    }
    void close()
    {
        for (descriptor d : made)
            cudnnBackendDestroyDescriptor(d);
        cudnnDestroy(handle);
        cudaStreamDestroy(stream);
    }
    descriptor keep(descriptor d)
    {
        made.push_back(d);
        return d;
    }
    descriptor add(cudnnBackendDescriptorType_t type)
    {
        return keep(make(type));
    }
    int64_t tensor(cudnnDataType_t type, const sizes &dims, const sizes &strides, tensor_kind kind = STORED)
    {
        int64_t uid = (int64_t)tensors.size() + 1;
        tensors[uid] = keep(make_tensor(uid, type, dims, strides, kind));
        return uid;
    }
    void operand(descriptor d, cudnnBackendAttributeName_t name, int64_t uid)
    {
        set_child(d, name, tensors.at(uid));
    }
    void operation(descriptor d)
    {
        finalize(d);
        operations.push_back(d);
    }
    void pointwise(cudnnPointwiseMode_t mode, int64_t x, int64_t b, int64_t y, double upper = 0)
    {
        const cudnnDataType_t type = CUDNN_DATA_FLOAT;
        descriptor p = add(CUDNN_BACKEND_POINTWISE_DESCRIPTOR),
                   o = add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
        set(p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
        set(p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
        if (upper > 0)
            set(p, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, CUDNN_TYPE_DOUBLE, 1, &upper);
        finalize(p);
        bool backward = mode == CUDNN_POINTWISE_RELU_BWD || mode == CUDNN_POINTWISE_SIGMOID_BWD;
        set_child(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
        operand(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
        if (b > 0)
            operand(o,
                    backward ? CUDNN_ATTR_OPERATION_POINTWISE_DYDESC : CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                    b);
        operand(o, backward ? CUDNN_ATTR_OPERATION_POINTWISE_DXDESC : CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
                y);
        operation(o);
    }
    descriptor graph()
    {
        descriptor d = add(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
        set(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)operations.size(),
            operations.data());
        set(d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        finalize(d);
        return d;
    }
    /* What a heuristic proposes. */
    std::vector<descriptor> ask(descriptor graph, cudnnBackendHeurMode_t mode)
    {
        descriptor h = add(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
        std::vector<descriptor> list;
        int64_t found = 0;
        set_child(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
        set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
        finalize(h);
        for (int i = 0; i < 8; i++)
            list.push_back(add(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
        cr_assert_eq(cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                              8, &found, list.data()),
                     CUDNN_STATUS_SUCCESS);
        list.resize((size_t)found);
        return list;
    }
    descriptor plan_of(descriptor config)
    {
        descriptor p = add(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        set(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        set_child(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
        finalize(p);
        return p;
    }
    /* The second proposal, which is exact. */
    descriptor plan()
    {
        return plan_of(ask(graph(), CUDNN_HEUR_MODE_A).at(1));
    }
    descriptor pack(const std::vector<std::pair<int64_t, void *>> &pointers, void *workspace)
    {
        std::vector<void *> list;
        sizes uids;
        for (auto &p : pointers) {
            uids.push_back(p.first);
            list.push_back(p.second);
        }
        descriptor d = add(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
        set_sizes(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, uids);
        set(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, (int64_t)list.size(), list.data());
        if (workspace != nullptr)
            set(d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
        finalize(d);
        return d;
    }
    /* Plans, runs and waits. */
    void run(const std::vector<std::pair<int64_t, void *>> &pointers)
    {
        void *workspace = nullptr;
        descriptor p = plan();
        cudaMalloc(&workspace, (size_t)get_number(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
        cr_assert_eq(cudnnBackendExecute(handle, p, pack(pointers, workspace)), CUDNN_STATUS_SUCCESS, "%s",
                     double_complaint(double_complaint_count() - 1));
        cr_assert_eq(cudaStreamSynchronize(stream), cudaSuccess);
        cr_assert_eq(double_complaint_count(), 0, "%s", double_complaint(0));
        cudaFree(workspace);
    }
};

static inline cudnnDataType_t data_type(hl_elem elem)
{
    return elem == HL_ELEM_BF16  ? CUDNN_DATA_BFLOAT16
           : elem == HL_ELEM_F16 ? CUDNN_DATA_HALF
           : elem == HL_ELEM_U8  ? CUDNN_DATA_INT8
                                 : CUDNN_DATA_FLOAT;
}

/* Frees what tests/support allocates. */
class numbers
{
  public:
    explicit numbers(double *given) : list(given)
    {
    }
    ~numbers()
    {
        free(list);
    }
    numbers(const numbers &) = delete;
    numbers &operator=(const numbers &) = delete;
    operator double *() const
    {
        return list;
    }

  private:
    double *list;
};

/* Device memory that is filled from doubles and read as doubles. */
struct buffer {
    void *memory = nullptr;
    hl_elem elem;
    int64_t count;

    buffer(hl_elem e, int64_t n) : elem(e), count(n)
    {
        cr_assert_eq(cudaMalloc(&memory, (size_t)n * hl_elem_size(e)), cudaSuccess);
    }
    buffer(hl_elem e, int64_t n, const double *values);
    std::vector<double> read() const;
    void release()
    {
        cudaFree(memory);
    }
};

/* The double's own conversions are those of the project: tests/kernels compares them with the toolkit's. */
#include "cuda_double/array.hpp"

static inline cuda_double::element element_of(hl_elem elem)
{
    return elem == HL_ELEM_BF16  ? cuda_double::element::bf16
           : elem == HL_ELEM_F16 ? cuda_double::element::f16
           : elem == HL_ELEM_U8  ? cuda_double::element::i8
                                 : cuda_double::element::f32;
}

inline buffer::buffer(hl_elem e, int64_t n, const double *values) : buffer(e, n)
{
    std::vector<char> bytes((size_t)n * hl_elem_size(e));
    for (int64_t i = 0; i < n; i++)
        cuda_double::store_one(element_of(e), bytes.data(), i, values[i]);
    cr_assert_eq(cudaMemcpy(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), cudaSuccess);
}

inline std::vector<double> buffer::read() const
{
    std::vector<char> bytes((size_t)count * hl_elem_size(elem));
    std::vector<double> out;
    cr_assert_eq(cudaMemcpy(bytes.data(), memory, bytes.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    for (int64_t i = 0; i < count; i++)
        out.push_back(cuda_double::load_one(element_of(elem), bytes.data(), i));
    return out;
}

#endif
