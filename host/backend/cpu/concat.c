/* CONCAT and CONCAT_GRAD: channels of several tensors side by side, and apart again. */
#include <string.h>

#include "backend/cpu/tile.h"

static hl_status check_parts(const hl_step *step, const hl_tensor *whole, hl_tensor *const *parts, int count)
{
    HL_TRY(hl_tile_check(step));
    for (int i = 0; i < count; i++)
        if (parts[i] != NULL && parts[i]->elem != whole->elem)
            return hl_fail(HL_E_INTERNAL, step->name, NULL, "concatenated tensors differ in element type");
    return HL_OK;
}

static hl_status concat_check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return check_parts(step, step->out[0], step->in, step->in_count);
}

static hl_status concat_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *y = step->out[0];
    int64_t rows = hl_tensor_rows(y);
    size_t size = hl_elem_size(y->elem), row_bytes = (size_t)y->shape.c * size;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        char *to = (char *)y->data + (size_t)r * row_bytes;
        for (int i = 0; i < step->in_count; i++) {
            size_t bytes = (size_t)step->in[i]->shape.c * size;
            memcpy(to, (const char *)step->in[i]->data + (size_t)r * bytes, bytes);
            to += bytes;
        }
    }
    return HL_OK;
}

static hl_status grad_check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return check_parts(step, step->in[0], step->out, step->out_count);
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0];
    int64_t rows = hl_tensor_rows(dy);
    size_t size = hl_elem_size(dy->elem), row_bytes = (size_t)dy->shape.c * size;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const char *from = (const char *)dy->data + (size_t)r * row_bytes;
        for (int i = 0; i < step->out_count; i++) {
            size_t bytes = (size_t)step->concat.widths[i] * size;
            if (step->out[i] != NULL)
                memcpy((char *)step->out[i]->data + (size_t)r * bytes, from, bytes);
            from += bytes;
        }
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_concat = {.check = concat_check, .run = concat_run};
const hl_cpu_op hl_cpu_concat_grad = {.check = grad_check, .run = grad_run};
