/* cuDNN's graph API: descriptors, and what operation graphs become. */
#ifndef CUDA_DOUBLE_CUDNN_HPP
#define CUDA_DOUBLE_CUDNN_HPP

#include <cudnn.h>
#include <string.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda_double/array.hpp"
#include "cuda_double/record.hpp"

namespace cuda_double
{
struct descriptor;
typedef std::shared_ptr<descriptor> shared_descriptor;

/* What an attribute was set to. */
struct value {
    cudnnBackendAttributeType_t type;
    int64_t count;
    std::vector<unsigned char> bytes;
    std::vector<shared_descriptor> children; /* for CUDNN_TYPE_BACKEND_DESCRIPTOR, instead of bytes */
};

struct compiled_graph;

/* A descriptor's content. Others that refer to it keep it alive when the user destroys his handle. */
struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<int, value> values;
    std::shared_ptr<compiled_graph> graph; /* of an operation graph */

    bool has(int name) const
    {
        return values.count(name) > 0;
    }
    const descriptor &child(int name) const
    {
        return *values.at(name).children.at(0);
    }
    template <typename T> std::vector<T> all(int name) const
    {
        auto found = values.find(name);
        if (found == values.end())
            return {};
        std::vector<T> out((size_t)found->second.count);
        if (!out.empty())
            memcpy(out.data(), found->second.bytes.data(), out.size() * sizeof(T));
        return out;
    }
    template <typename T> T get(int name, T otherwise) const
    {
        std::vector<T> list = all<T>(name);
        return list.empty() ? otherwise : list[0];
    }
    /* A float or a double. */
    double number(int name, double otherwise) const;
    template <typename T> void put(int name, cudnnBackendAttributeType_t as, const std::vector<T> &list)
    {
        value v = {as, (int64_t)list.size(), {}, {}};
        v.bytes.resize(list.size() * sizeof(T));
        if (!list.empty())
            memcpy(v.bytes.data(), list.data(), v.bytes.size());
        values[name] = v;
    }
    void put_children(int name, const std::vector<shared_descriptor> &list)
    {
        values[name] = {CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)list.size(), {}, list};
    }
};

/* What the header says of one attribute. */
struct attribute {
    int name;
    const char *text;
    cudnnBackendAttributeType_t type, other_type;
    int64_t least, most; /* elements */
    enum { OPTIONAL, MANDATORY, READ_ONLY } use;
    int child; /* descriptor type that is wanted; -1: any operation */
};
/* Null where the double does not know the type. */
const std::vector<attribute> *attributes_of(cudnnBackendDescriptorType_t type, const char **name);
size_t size_of(cudnnBackendAttributeType_t type);

/* Sets the text of cudnnGetLastErrorString; leaves a complaint unless it says "not supported". */
cudnnStatus_t refuse(cudnnStatus_t status, const char *text, ...) __attribute__((format(printf, 2, 3)));
bool is_handle(cudnnHandle_t handle);
cudaStream_t stream_of(cudnnHandle_t handle);
/* The content behind a handle; null with a refusal. */
shared_descriptor open(cudnnBackendDescriptor_t handle, const char *what);

tensor tensor_of(const descriptor &d);
std::string describe(const tensor &t);

/* Arrays by unique id. */
struct environment {
    std::map<int64_t, array> arrays;
    bool tf32 = false;
    array &at(const tensor &t)
    {
        array &a = arrays[t.uid];
        if (a.data.empty())
            a.shape(t.dims);
        return a;
    }
};
typedef std::function<void(environment &)> kernel;

struct operation {
    std::string name;
    std::vector<tensor> inputs, outputs;
    bool multiplies = false;
    kernel run;
};

/* Operations, one function for each subject: they check the shapes, and fill in `o` where it is not null. */
cudnnStatus_t read_convolution(const descriptor &d, operation *o);
cudnnStatus_t read_pointwise(const descriptor &d, operation *o);
cudnnStatus_t read_resample(const descriptor &d, operation *o);
cudnnStatus_t read_norm(const descriptor &d, operation *o);
cudnnStatus_t read_matmul(const descriptor &d, operation *o);
cudnnStatus_t read_reduction(const descriptor &d, operation *o);
cudnnStatus_t read_operation(const descriptor &d, operation *o);

struct compiled_graph {
    std::vector<operation> operations;   /* in an order in which they can run */
    std::vector<tensor> inputs, outputs; /* that are stored */
    std::string text;
    bool single = true; /* all products are of float32 */
};

/* Finalizing, by subject. */
cudnnStatus_t finalize_tensor(descriptor &d);
cudnnStatus_t finalize_graph(descriptor &d);
cudnnStatus_t finalize_heuristic(descriptor &d);
cudnnStatus_t finalize_engine(descriptor &d);
cudnnStatus_t finalize_config(descriptor &d);
cudnnStatus_t finalize_plan(descriptor &d);
cudnnStatus_t finalize_pack(descriptor &d);

/* Does the engine round float32 factors to tf32; how long its plans take. */
bool engine_is_tf32(int64_t engine);
double engine_time(int64_t engine);
} // namespace cuda_double

#endif
