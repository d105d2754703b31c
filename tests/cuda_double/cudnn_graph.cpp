/* Tensors, and operations as a graph of them. */
#include <set>

#include "cuda_double/cudnn.hpp"

namespace cuda_double
{
namespace
{
bool known_element(int type, element *out)
{
    switch (type) {
    case CUDNN_DATA_FLOAT:
        *out = element::f32;
        return true;
    case CUDNN_DATA_BFLOAT16:
        *out = element::bf16;
        return true;
    case CUDNN_DATA_HALF:
        *out = element::f16;
        return true;
    case CUDNN_DATA_INT8:
        *out = element::i8;
        return true;
    case CUDNN_DATA_UINT8:
        *out = element::u8;
        return true;
    case CUDNN_DATA_INT32:
        *out = element::i32;
        return true;
    default:
        return false;
    }
}

bool same(const tensor &a, const tensor &b)
{
    return a.type == b.type && a.dims == b.dims && a.strides == b.strides && a.is_virtual == b.is_virtual &&
           a.by_value == b.by_value;
}

/* Two elements in one place? Decided from the sizes of dimensions in order of their strides. */
bool self_overlapping(const tensor &t)
{
    std::multimap<int64_t, int64_t> by_stride;
    for (size_t i = 0; i < t.dims.size(); i++)
        if (t.dims[i] > 1)
            by_stride.insert({t.strides[i], t.dims[i]});
    int64_t reach = 0;
    for (auto &d : by_stride) {
        if (d.first <= reach)
            return true;
        reach += (d.second - 1) * d.first;
    }
    return false;
}

/* Every tensor by its id: one meaning each, made at most once. */
struct collected {
    std::map<int64_t, tensor> tensors;
    std::set<int64_t> made, used;
};

cudnnStatus_t collect(const std::vector<operation> &operations, collected *all)
{
    for (const operation &o : operations)
        for (const std::vector<tensor> *list : {&o.inputs, &o.outputs})
            for (const tensor &t : *list) {
                auto known = all->tensors.insert({t.uid, t});
                if (!known.second && !same(known.first->second, t))
                    return refuse(CUDNN_STATUS_BAD_PARAM, "two different tensors have the unique id %lld",
                                  (long long)t.uid);
                if (list == &o.inputs)
                    all->used.insert(t.uid);
                else if (!all->made.insert(t.uid).second)
                    return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld is made twice", (long long)t.uid);
            }
    for (auto &entry : all->tensors) {
        const tensor &t = entry.second;
        bool made = all->made.count(t.uid) > 0, used = all->used.count(t.uid) > 0;
        if (t.is_virtual && !(made && used))
            return refuse(CUDNN_STATUS_BAD_PARAM, "virtual tensor %lld is %s", (long long)t.uid,
                          made ? "never used" : "never made");
        if (t.by_value && made)
            return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld is a value, it cannot be made",
                          (long long)t.uid);
    }
    return CUDNN_STATUS_SUCCESS;
}

/* Puts operations behind those that make their inputs. */
cudnnStatus_t sort(std::vector<operation> list, const collected &all, std::vector<operation> *sorted)
{
    std::set<int64_t> ready;
    while (!list.empty()) {
        size_t before = list.size();
        for (size_t i = 0; i < list.size(); i++) {
            bool can = true;
            for (const tensor &t : list[i].inputs)
                can = can && (all.made.count(t.uid) == 0 || ready.count(t.uid) > 0);
            if (!can)
                continue;
            for (const tensor &t : list[i].outputs)
                ready.insert(t.uid);
            sorted->push_back(list[i]);
            list.erase(list.begin() + (std::ptrdiff_t)i--);
        }
        if (list.size() == before)
            return refuse(CUDNN_STATUS_BAD_PARAM, "the operations form a circle");
    }
    return CUDNN_STATUS_SUCCESS;
}
} // namespace

tensor tensor_of(const descriptor &d)
{
    tensor t;
    t.uid = d.get<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID, 0);
    t.alignment = d.get<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
    (void)known_element(d.get<int>(CUDNN_ATTR_TENSOR_DATA_TYPE, -1), &t.type);
    t.dims = d.all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
    t.strides = d.all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    t.is_virtual = d.get<uint8_t>(CUDNN_ATTR_TENSOR_IS_VIRTUAL, 0) != 0;
    t.by_value = d.get<uint8_t>(CUDNN_ATTR_TENSOR_IS_BY_VALUE, 0) != 0;
    return t;
}

std::string describe(const tensor &t)
{
    std::string dims, strides;
    for (size_t i = 0; i < t.dims.size(); i++) {
        dims += (i > 0 ? "," : "") + std::to_string(t.dims[i]);
        strides += (i > 0 ? "," : "") + std::to_string(t.strides[i]);
    }
    return format("%lld:%s[%s]/%s%s", (long long)t.uid, element_name(t.type), dims.c_str(), strides.c_str(),
                  t.is_virtual ? " virtual"
                  : t.by_value ? " value"
                               : "");
}

cudnnStatus_t finalize_tensor(descriptor &d)
{
    element type;
    int wanted = d.get<int>(CUDNN_ATTR_TENSOR_DATA_TYPE, -1);
    if (!known_element(wanted, &type))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE, "the double has no data type %d", wanted);
    tensor t = tensor_of(d);
    if (t.dims.size() != t.strides.size())
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld has %zu dimensions but %zu strides",
                      (long long)t.uid, t.dims.size(), t.strides.size());
    for (size_t i = 0; i < t.dims.size(); i++)
        if (t.dims[i] < 1 || t.strides[i] < 0)
            return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %s: dimensions are at least 1, strides not below 0",
                          describe(t).c_str());
    if (self_overlapping(t))
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %s overlaps itself", describe(t).c_str());
    if (t.alignment < 1 || (t.alignment & (t.alignment - 1)) != 0 ||
        t.alignment % (int64_t)element_size(t.type) != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld: an alignment of %lld", (long long)t.uid,
                      (long long)t.alignment);
    if (t.by_value && (t.is_virtual || t.count() != 1))
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %s: only one stored element can be a value",
                      describe(t).c_str());
    if (d.has(CUDNN_ATTR_TENSOR_VECTOR_COUNT) && d.get<int64_t>(CUDNN_ATTR_TENSOR_VECTOR_COUNT, 1) != 1)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "the double has no vectorized tensors");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t read_operation(const descriptor &d, operation *o)
{
    switch (d.type) {
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return read_pointwise(d, o);
    case CUDNN_BACKEND_OPERATION_RESAMPLE_FWD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_RESAMPLE_BWD_DESCRIPTOR:
        return read_resample(d, o);
    case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR:
        return read_norm(d, o);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return read_matmul(d, o);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return read_reduction(d, o);
    default:
        return read_convolution(d, o);
    }
}

cudnnStatus_t finalize_graph(descriptor &d)
{
    std::vector<operation> list;
    collected all;
    auto graph = std::make_shared<compiled_graph>();
    for (const shared_descriptor &child : d.values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).children) {
        list.emplace_back();
        cudnnStatus_t status = read_operation(*child, &list.back());
        if (status != CUDNN_STATUS_SUCCESS)
            return status;
    }
    cudnnStatus_t status = collect(list, &all);
    if (status == CUDNN_STATUS_SUCCESS)
        status = sort(list, all, &graph->operations);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    for (const operation &o : list) {
        graph->text += (graph->text.empty() ? "" : " ") + o.name;
        for (const tensor &t : o.inputs)
            graph->single = graph->single && (!o.multiplies || t.type == element::f32);
    }
    graph->text += ";";
    for (auto &entry : all.tensors) {
        const tensor &t = entry.second;
        graph->text += " " + describe(t);
        if (!t.is_virtual)
            (all.made.count(t.uid) > 0 ? graph->outputs : graph->inputs).push_back(t);
    }
    d.graph = graph;
    d.put<int64_t>(CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, CUDNN_TYPE_INT64, {3});
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double
