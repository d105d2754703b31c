/* Tensors in device memory, and arrays of doubles that are computed with. */
#ifndef CUDA_DOUBLE_ARRAY_HPP
#define CUDA_DOUBLE_ARRAY_HPP

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace cuda_double
{
enum class element { f32, bf16, f16, i8, u8, i32 };
size_t element_size(element type);
const char *element_name(element type);

struct tensor {
    int64_t uid = 0, alignment = 16;
    element type = element::f32;
    std::vector<int64_t> dims, strides;
    bool is_virtual = false, by_value = false;

    int64_t count() const;
    /* Bytes from the first to behind the last element. */
    size_t extent() const;
};

/* Dense: channels-last from four dimensions on, else row by row. */
struct array {
    std::vector<int64_t> dims;
    std::vector<double> data;

    void shape(const std::vector<int64_t> &to);
    /* Elements from one index of a dimension to the next; 0 where the dimension is 1, so that it broadcasts.
     */
    std::vector<int64_t> strides() const;
};

/* Reads n elements that are `stride` elements apart, and writes them, each rounded once to nearest even. */
double load_one(element type, const void *from, int64_t index);
void store_one(element type, void *to, int64_t index, double number);

void load(const tensor &t, const void *from, array &a);
void store(const tensor &t, const array &a, void *to);
/* As if stored as float32. */
void round_to_float(array &a);
/* The upper 10 bits of the fraction, rounded to nearest, ties away from zero. */
double round_to_tf32(double number);
} // namespace cuda_double

#endif
