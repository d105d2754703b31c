#include "kernels/kernel_rig.h"

#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/f16.h"
#include "kernels/kernel_memory.h"

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

const hl_elem kernel_elems[3] = {HL_ELEM_F32, HL_ELEM_BF16, HL_ELEM_F16};

static void *take(kernel_rig *rig, size_t bytes)
{
    cr_assert(rig->count < KERNEL_BUFFERS);
    int i = rig->count++;
    unsigned char *memory = kernel_memory_take(bytes + 2 * GUARD);
    cr_assert_not_null(memory);
    rig->buffers[i].memory = memory;
    rig->buffers[i].bytes = bytes;
    rig->buffers[i].start = malloc(bytes + 1);
    rig->buffers[i].first = malloc(bytes + 1);
    cr_assert(rig->buffers[i].start != NULL && rig->buffers[i].first != NULL);
    memset(memory, GUARD_BYTE, bytes + 2 * GUARD);
    return memory + GUARD;
}

void *kernel_input(kernel_rig *rig, int64_t count, hl_elem elem, const double *values)
{
    void *data = take(rig, (size_t)count * hl_elem_size(elem));
    for (int64_t i = 0; i < count; i++)
        switch (elem) {
        case HL_ELEM_BF16:
            ((hl_bf16 *)data)[i] = hl_bf16_from_f32((float)values[i]);
            break;
        case HL_ELEM_F16:
            ((hl_f16 *)data)[i] = hl_f16_from_f32((float)values[i]);
            break;
        case HL_ELEM_U8:
            ((uint8_t *)data)[i] = (uint8_t)values[i];
            break;
        case HL_ELEM_I32:
            ((int32_t *)data)[i] = (int32_t)values[i];
            break;
        case HL_ELEM_F32:
            ((float *)data)[i] = (float)values[i];
        }
    return data;
}

void *kernel_output(kernel_rig *rig, int64_t count, hl_elem elem)
{
    size_t bytes = (size_t)count * hl_elem_size(elem);
    void *data = take(rig, bytes);
    memset(data, 0xff, bytes);
    return data;
}

void *kernel_bytes(kernel_rig *rig, const void *bytes, size_t count)
{
    void *data = take(rig, count);
    memcpy(data, bytes, count);
    return data;
}

void kernel_get(const void *buffer, int64_t count, hl_elem elem, double *values)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = elem == HL_ELEM_BF16  ? (double)hl_bf16_to_f32(((const hl_bf16 *)buffer)[i])
                    : elem == HL_ELEM_F16 ? (double)hl_f16_to_f32(((const hl_f16 *)buffer)[i])
                    : elem == HL_ELEM_U8  ? (double)((const uint8_t *)buffer)[i]
                    : elem == HL_ELEM_I32 ? (double)((const int32_t *)buffer)[i]
                                          : (double)((const float *)buffer)[i];
}

bool kernel_takes_case(int one_of)
{
    static int cases;
    return KERNEL_ORDERS > 1 || cases++ % one_of == 0;
}

void kernel_before(kernel_rig *rig, int order)
{
    kernel_set_order(order);
    for (int i = 0; i < rig->count; i++)
        if (order == 0)
            memcpy(rig->buffers[i].start, rig->buffers[i].memory + GUARD, rig->buffers[i].bytes);
        else
            memcpy(rig->buffers[i].memory + GUARD, rig->buffers[i].start, rig->buffers[i].bytes);
}

void kernel_after(kernel_rig *rig, int order)
{
    cr_assert_eq(kernel_finish(), 0, "a kernel failed");
    for (int i = 0; i < rig->count; i++) {
        const unsigned char *memory = rig->buffers[i].memory;
        size_t bytes = rig->buffers[i].bytes;
        for (size_t g = 0; g < GUARD; g++) {
            cr_assert_eq(memory[g], GUARD_BYTE, "something was written before buffer %d", i);
            cr_assert_eq(memory[GUARD + bytes + g], GUARD_BYTE, "byte %zu behind buffer %d was written", g,
                         i);
        }
        if (order == 0)
            memcpy(rig->buffers[i].first, memory + GUARD, bytes);
        else
            cr_assert(memcmp(rig->buffers[i].first, memory + GUARD, bytes) == 0,
                      "the order of threads changes what buffer %d holds", i);
    }
}

void kernel_rig_clear(kernel_rig *rig)
{
    for (int i = 0; i < rig->count; i++) {
        kernel_memory_give(rig->buffers[i].memory);
        free(rig->buffers[i].start);
        free(rig->buffers[i].first);
    }
    *rig = (kernel_rig){0};
}
