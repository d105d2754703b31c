/* Handles, and descriptors as such: what each attribute means is elsewhere. */
#include <stdarg.h>
#include <stdio.h>

#include <set>

#include "cuda_double/cudnn.hpp"
#include "cuda_double/device.hpp"
#include "cuda_double/double.h"
#include "cuda_double/stream.hpp"

struct cudnnContext {
    cudaStream_t stream;
};

namespace cuda_double
{
namespace
{
/* What a cudnnBackendDescriptor_t points to. */
struct box {
    shared_descriptor content;
};
auto &handles = *new std::set<cudnnHandle_t>;
auto &boxes = *new std::set<void *>;
auto &last_error = *new std::string;

const char *name_of(const descriptor &d)
{
    const char *name = "?";
    (void)attributes_of(d.type, &name);
    return name;
}

void find_leaks(std::vector<std::string> &found)
{
    for (size_t i = 0; i < handles.size(); i++)
        found.push_back("a cuDNN handle");
    for (void *b : boxes)
        found.push_back(format("a cuDNN descriptor: %s", name_of(*static_cast<box *>(b)->content)));
}

void reset()
{
    for (cudnnHandle_t h : handles)
        delete h;
    for (void *b : boxes)
        delete static_cast<box *>(b);
    handles.clear();
    boxes.clear();
    last_error.clear();
}

const bool added = add_part(3, {find_leaks, reset});

box *open_box(cudnnBackendDescriptor_t handle, const char *what)
{
    if (boxes.count(handle) > 0)
        return static_cast<box *>(handle);
    refuse(CUDNN_STATUS_BAD_PARAM, "%s: %p is not a descriptor", what, handle);
    return nullptr;
}

const attribute *find_attribute(const descriptor &d, int name)
{
    const char *text;
    for (const attribute &a : *attributes_of(d.type, &text))
        if (a.name == name)
            return &a;
    refuse(CUDNN_STATUS_BAD_PARAM, "%s has no attribute %d", name_of(d), name);
    return nullptr;
}

bool is_operation(cudnnBackendDescriptorType_t type)
{
    switch (type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_RESAMPLE_FWD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_RESAMPLE_BWD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return true;
    default:
        return false;
    }
}

bool wants_child(const attribute &a, const descriptor &child)
{
    return a.child == -1 ? is_operation(child.type) : (int)child.type == a.child;
}

cudnnStatus_t set_children(descriptor &d, const attribute &a, int64_t count, const void *const *list)
{
    std::vector<shared_descriptor> children;
    for (int64_t i = 0; i < count; i++) {
        shared_descriptor child = open(const_cast<void *>(list[i]), a.text);
        if (child == nullptr)
            return CUDNN_STATUS_BAD_PARAM;
        if (!wants_child(a, *child))
            return refuse(CUDNN_STATUS_BAD_PARAM, "%s is given a descriptor of another kind (%s)", a.text,
                          name_of(*child));
        if (!child->finalized)
            return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "%s is given a descriptor that is not final",
                          a.text);
        children.push_back(child);
    }
    d.put_children(a.name, children);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t check_type(const attribute &a, cudnnBackendAttributeType_t type, int64_t count)
{
    if (type != a.type && type != a.other_type)
        return refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "%s has type %d, not %d", a.text, (int)a.type,
                      (int)type);
    if (count < a.least || count > a.most)
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s takes %lld to %lld elements, not %lld", a.text,
                      (long long)a.least, (long long)a.most, (long long)count);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t get_children(const value &v, const attribute &a, int64_t room, const void *const *list)
{
    for (int64_t i = 0; i < room && i < v.count; i++) {
        box *b = open_box(const_cast<void *>(list[i]), a.text);
        if (b == nullptr)
            return CUDNN_STATUS_BAD_PARAM;
        if (!wants_child(a, *b->content))
            return refuse(CUDNN_STATUS_BAD_PARAM, "%s is to be put into a descriptor of another kind (%s)",
                          a.text, name_of(*b->content));
        b->content = v.children[(size_t)i];
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_by_kind(descriptor &d)
{
    switch (d.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return finalize_tensor(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return finalize_graph(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        return finalize_heuristic(d);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
        return finalize_engine(d);
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR:
        return finalize_config(d);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return finalize_plan(d);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        return finalize_pack(d);
    default:
        return is_operation(d.type) ? read_operation(d, nullptr) : CUDNN_STATUS_SUCCESS;
    }
}
} // namespace

double descriptor::number(int name, double otherwise) const
{
    auto found = values.find(name);
    if (found == values.end())
        return otherwise;
    return found->second.type == CUDNN_TYPE_FLOAT ? (double)get<float>(name, 0) : get<double>(name, 0);
}

cudnnStatus_t refuse(cudnnStatus_t status, const char *text, ...)
{
    char buffer[1024];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    last_error = buffer;
    if (CUDNN_STATUS_CATEGORY((int)status) != CUDNN_STATUS_NOT_SUPPORTED)
        complain("%s", buffer);
    return status;
}

bool is_handle(cudnnHandle_t handle)
{
    return handles.count(handle) > 0;
}

cudaStream_t stream_of(cudnnHandle_t handle)
{
    return handle->stream;
}

shared_descriptor open(cudnnBackendDescriptor_t handle, const char *what)
{
    box *b = open_box(handle, what);
    return b != nullptr ? b->content : nullptr;
}
} // namespace cuda_double

using namespace cuda_double;

static cudnnStatus_t check_handle(const call &c, cudnnHandle_t handle)
{
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    return is_handle(handle) ? CUDNN_STATUS_SUCCESS
                             : refuse(CUDNN_STATUS_BAD_PARAM, "%p is not a handle", (void *)handle);
}

extern "C" {
size_t cudnnGetVersion(void)
{
    return CUDNN_VERSION;
}

size_t cudnnGetCudartVersion(void)
{
    return CUDART_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch ((int)CUDNN_STATUS_CATEGORY((int)status)) {
    case CUDNN_STATUS_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_INTERNAL_ERROR:
        return status == CUDNN_STATUS_ALLOC_FAILED ? "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"
                                                   : "CUDNN_STATUS_INTERNAL_ERROR";
    case CUDNN_STATUS_EXECUTION_FAILED:
        return "CUDNN_STATUS_EXECUTION_FAILED";
    default:
        return status == CUDNN_STATUS_NOT_INITIALIZED ? "CUDNN_STATUS_NOT_INITIALIZED"
                                                      : "CUDNN_UNKNOWN_STATUS";
    }
}

void cudnnGetLastErrorString(char *message, size_t size)
{
    if (size == 0)
        return;
    snprintf(message, size, "%s", last_error.c_str());
    last_error.clear();
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    call c("cudnnCreate");
    int devices;
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    if (handle == nullptr)
        return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "no place for the handle");
    if (cudaGetDeviceCount(&devices) != cudaSuccess) {
        (void)cudaGetLastError();
        return refuse(CUDNN_STATUS_NOT_INITIALIZED, "there is no device");
    }
    *handle = new cudnnContext{nullptr};
    handles.insert(*handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    call c("cudnnDestroy");
    if (!is_handle(handle))
        return refuse(CUDNN_STATUS_BAD_PARAM, "%p is not a handle", (void *)handle);
    handles.erase(handle);
    delete handle;
    return (cudnnStatus_t)c.injected;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t in)
{
    call c("cudnnSetStream", stream_number(in));
    cudnnStatus_t status = check_handle(c, handle);
    if (status == CUDNN_STATUS_SUCCESS && find_stream(in) == nullptr)
        status = CUDNN_STATUS_BAD_PARAM;
    if (status == CUDNN_STATUS_SUCCESS)
        handle->stream = in;
    return status;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *in)
{
    call c("cudnnGetStream");
    cudnnStatus_t status = check_handle(c, handle);
    if (status == CUDNN_STATUS_SUCCESS)
        *in = handle->stream;
    return status;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *handle)
{
    call c("cudnnBackendCreateDescriptor");
    const char *name;
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    if (handle == nullptr)
        return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "no place for the descriptor");
    if (attributes_of(type, &name) == nullptr)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "the double has no descriptors of type %d", (int)type);
    box *b = new box{std::make_shared<descriptor>()};
    b->content->type = type;
    boxes.insert(b);
    *handle = b;
    describe_call(name);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t handle)
{
    call c("cudnnBackendDestroyDescriptor");
    box *b = open_box(handle, "destroying");
    if (b == nullptr)
        return CUDNN_STATUS_BAD_PARAM;
    boxes.erase(handle);
    delete b;
    return (cudnnStatus_t)c.injected;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *elements)
{
    call c("cudnnBackendSetAttribute");
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    shared_descriptor d = open(handle, "setting an attribute");
    const attribute *a = d != nullptr ? find_attribute(*d, (int)name) : nullptr;
    if (a == nullptr)
        return CUDNN_STATUS_BAD_PARAM;
    if (d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s: the descriptor is final already", a->text);
    if (a->use == attribute::READ_ONLY)
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s can only be read", a->text);
    if (elements == nullptr)
        return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "%s: no values are given", a->text);
    cudnnStatus_t status = check_type(*a, type, count);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        return set_children(*d, *a, count, static_cast<const void *const *>(elements));
    if (type == CUDNN_TYPE_HANDLE && !is_handle(*static_cast<const cudnnHandle_t *>(elements)))
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s: not a handle", a->text);
    const unsigned char *bytes = static_cast<const unsigned char *>(elements);
    d->values[a->name] = {type, count, {bytes, bytes + (size_t)count * size_of(type)}, {}};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const handle,
                                       cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t room, int64_t *count, void *elements)
{
    call c("cudnnBackendGetAttribute");
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    shared_descriptor d = open(handle, "reading an attribute");
    const attribute *a = d != nullptr ? find_attribute(*d, (int)name) : nullptr;
    if (a == nullptr)
        return CUDNN_STATUS_BAD_PARAM;
    if (!d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "%s: the descriptor is not final", a->text);
    if ((type != a->type && type != a->other_type) || room < 0 || (room > 0 && elements == nullptr))
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s has type %d, not %d; room for %lld", a->text, (int)a->type,
                      (int)type, (long long)room);
    auto found = d->values.find(a->name);
    const value none = {type, 0, {}, {}}, &v = found != d->values.end() ? found->second : none;
    if (v.type != type)
        return refuse(CUDNN_STATUS_BAD_PARAM, "%s was set as type %d", a->text, (int)v.type);
    if (count != nullptr)
        *count = v.count;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        return get_children(v, *a, room, static_cast<const void *const *>(elements));
    size_t bytes = (size_t)(room < v.count ? room : v.count) * size_of(type);
    if (bytes > 0)
        memcpy(elements, v.bytes.data(), bytes);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle)
{
    call c("cudnnBackendFinalize");
    const char *name;
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    shared_descriptor d = open(handle, "finalizing");
    if (d == nullptr)
        return CUDNN_STATUS_BAD_PARAM;
    if (d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "the descriptor is final already");
    for (const attribute &a : *attributes_of(d->type, &name))
        if (a.use == attribute::MANDATORY && !d->has(a.name))
            return refuse(CUDNN_STATUS_BAD_PARAM, "%s: %s is not set", name, a.text);
    describe_call(name);
    cudnnStatus_t status = finalize_by_kind(*d);
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}
}
