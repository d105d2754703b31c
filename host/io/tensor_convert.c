/* Elements of every stored type as float. */
#include <string.h>

#include "base/bf16.h"
#include "io/tensor_map.h"

size_t hl_named_tensor_count(const hl_named_tensor *tensor)
{
    return tensor->bytes / hl_dtype_size(tensor->dtype);
}

static float half_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu, mantissa = half & 0x3ffu;
    uint32_t bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        /* Zero or subnormal: mantissa * 2^-24, exact in float. */
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define CONVERT_AS(type, expression)                                                                         \
    do {                                                                                                     \
        const type *x = tensor->data;                                                                        \
        for (size_t i = 0; i < count; i++)                                                                   \
            out[i] = (expression);                                                                           \
    } while (0)

void hl_named_tensor_to_f32(const hl_named_tensor *tensor, float *out)
{
    size_t count = hl_named_tensor_count(tensor);
    if (count == 0)
        return;
    switch (tensor->dtype) {
    case HL_DTYPE_F64:
        CONVERT_AS(double, (float)x[i]);
        break;
    case HL_DTYPE_F32:
        memcpy(out, tensor->data, tensor->bytes);
        break;
    case HL_DTYPE_F16:
        CONVERT_AS(uint16_t, half_to_f32(x[i]));
        break;
    case HL_DTYPE_BF16:
        CONVERT_AS(hl_bf16, hl_bf16_to_f32(x[i]));
        break;
    case HL_DTYPE_I64:
        CONVERT_AS(int64_t, (float)x[i]);
        break;
    case HL_DTYPE_I32:
        CONVERT_AS(int32_t, (float)x[i]);
        break;
    case HL_DTYPE_I16:
        CONVERT_AS(int16_t, x[i]);
        break;
    case HL_DTYPE_I8:
        CONVERT_AS(int8_t, x[i]);
        break;
    case HL_DTYPE_U8:
        CONVERT_AS(uint8_t, x[i]);
        break;
    case HL_DTYPE_BOOL:
        CONVERT_AS(uint8_t, x[i] != 0 ? 1.0F : 0.0F);
        break;
    case HL_DTYPE_COUNT:
        break;
    }
}
