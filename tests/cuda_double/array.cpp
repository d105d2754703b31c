#include "cuda_double/array.hpp"

#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "base/f16.h"

namespace cuda_double
{
namespace
{
/* To float with the last bit set where something was cut off: rounding that to 16 bits rounds only once. */
float round_to_odd(double number)
{
    float f = (float)number;
    if (!isfinite(f) || (double)f == number)
        return isinf(f) && !isinf(number) ? (number > 0 ? 3.4e38f : -3.4e38f) : f;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (fabs((double)f) > fabs(number))
        bits--; /* towards zero */
    bits |= 1u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

template <typename T> T at(const void *from, int64_t index)
{
    T out;
    memcpy(&out, static_cast<const char *>(from) + index * (int64_t)sizeof(T), sizeof out);
    return out;
}

template <typename T> void put(void *to, int64_t index, T number)
{
    memcpy(static_cast<char *>(to) + index * (int64_t)sizeof(T), &number, sizeof number);
}

/* Strides of a packed array in our order; not 0 for dimensions of 1. */
std::vector<int64_t> packed_strides(const std::vector<int64_t> &dims)
{
    std::vector<int64_t> strides(dims.size());
    int64_t step = 1;
    bool channels_last = dims.size() >= 4;
    if (channels_last) {
        strides[1] = 1;
        step = dims[1];
    }
    for (size_t i = dims.size(); i-- > 0;) {
        if (channels_last && i == 1)
            continue;
        strides[i] = step;
        step *= dims[i];
    }
    return strides;
}

/* visit(offset in memory, offset in the array) for each element; the channels in the inner loop. */
template <typename F> void visit(const tensor &t, F each)
{
    size_t rank = t.dims.size(), inner = rank >= 4 ? 1 : rank - 1;
    std::vector<int64_t> dense = packed_strides(t.dims), index(rank, 0);
    for (;;) {
        int64_t memory = 0, offset = 0;
        for (size_t i = 0; i < rank; i++) {
            memory += index[i] * t.strides[i];
            offset += index[i] * dense[i];
        }
        for (int64_t i = 0; i < t.dims[inner]; i++)
            each(memory + i * t.strides[inner], offset + i * dense[inner]);
        size_t i = rank;
        while (i-- > 0)
            if (i != inner) {
                if (++index[i] < t.dims[i])
                    break;
                index[i] = 0;
            }
        if (i == (size_t)-1)
            return;
    }
}
} // namespace

size_t element_size(element type)
{
    switch (type) {
    case element::bf16:
    case element::f16:
        return 2;
    case element::i8:
    case element::u8:
        return 1;
    case element::f32:
    case element::i32:
        break;
    }
    return 4;
}

const char *element_name(element type)
{
    static const char *const names[] = {"f32", "bf16", "f16", "i8", "u8", "i32"};
    return names[(int)type];
}

int64_t tensor::count() const
{
    int64_t n = 1;
    for (int64_t d : dims)
        n *= d;
    return n;
}

size_t tensor::extent() const
{
    int64_t last = 0;
    for (size_t i = 0; i < dims.size(); i++)
        last += (dims[i] - 1) * strides[i];
    return (size_t)(last + 1) * element_size(type);
}

void array::shape(const std::vector<int64_t> &to)
{
    size_t n = 1;
    for (int64_t d : to)
        n *= (size_t)d;
    dims = to;
    data.assign(n, 0.0);
}

std::vector<int64_t> array::strides() const
{
    std::vector<int64_t> out = packed_strides(dims);
    for (size_t i = 0; i < dims.size(); i++)
        if (dims[i] == 1)
            out[i] = 0;
    return out;
}

double load_one(element type, const void *from, int64_t index)
{
    switch (type) {
    case element::f32:
        return (double)at<float>(from, index);
    case element::bf16:
        return (double)hl_bf16_to_f32(at<uint16_t>(from, index));
    case element::f16:
        return (double)hl_f16_to_f32(at<uint16_t>(from, index));
    case element::i8:
        return at<int8_t>(from, index);
    case element::u8:
        return at<uint8_t>(from, index);
    case element::i32:
        break;
    }
    return at<int32_t>(from, index);
}

void store_one(element type, void *to, int64_t index, double number)
{
    switch (type) {
    case element::f32:
        put(to, index, (float)number);
        return;
    case element::bf16:
        put(to, index, hl_bf16_from_f32(round_to_odd(number)));
        return;
    case element::f16:
        put(to, index, hl_f16_from_f32(round_to_odd(number)));
        return;
    case element::i8:
        put(to, index, (int8_t)number);
        return;
    case element::u8:
        put(to, index, (uint8_t)number);
        return;
    case element::i32:
        put(to, index, (int32_t)number);
        return;
    }
}

void load(const tensor &t, const void *from, array &a)
{
    a.shape(t.dims);
    double *data = a.data.data();
    visit(t, [&](int64_t memory, int64_t offset) { data[offset] = load_one(t.type, from, memory); });
}

void store(const tensor &t, const array &a, void *to)
{
    const double *data = a.data.data();
    visit(t, [&](int64_t memory, int64_t offset) { store_one(t.type, to, memory, data[offset]); });
}

void round_to_float(array &a)
{
    for (double &x : a.data)
        x = (double)(float)x;
}

double round_to_tf32(double number)
{
    float f = (float)number;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u)
        bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}
} // namespace cuda_double
