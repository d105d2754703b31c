/* Shapes and element types of the tensors that backends compute on. */
#ifndef HL_BASE_SHAPE_H
#define HL_BASE_SHAPE_H

#include <stddef.h>
#include <stdint.h>

/* Element types of compute. Parameters, their gradients and optimizer state are always f32. */
typedef enum hl_elem { HL_ELEM_F32, HL_ELEM_BF16, HL_ELEM_F16, HL_ELEM_U8, HL_ELEM_I32 } hl_elem;

static inline size_t hl_elem_size(hl_elem elem)
{
    return elem == HL_ELEM_F32 || elem == HL_ELEM_I32 ? 4 : elem == HL_ELEM_U8 ? 1 : 2;
}

/* Channels-last: element (n, y, x, c) lies at ((n * h + y) * w + x) * c_count + c. Vectors are
 * [n, 1, 1, c]. */
typedef struct hl_shape {
    int64_t n, h, w, c;
} hl_shape;

static inline int64_t hl_shape_count(hl_shape s)
{
    return s.n * s.h * s.w * s.c;
}

#endif
