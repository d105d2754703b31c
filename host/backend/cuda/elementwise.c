/* INPUT, ACT, ADD, ACT_GRAD, MUL, CONCAT, DROPOUT, DROP_PATH, GLOBAL_POOL, GRID_POOL and their gradients: one
 * kernel each. */
#include <string.h>

#include "backend/cuda/cuda.h"

/* ---- input ---- */

static hl_status input_check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    const hl_tensor *x = step->in[0];
    bool raw = step->input.raw;
    if (x->elem != (raw ? HL_ELEM_F32 : HL_ELEM_U8) || (!raw && x->shape.c > 4))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "images are floats, or bytes of up to 4 channels");
    return HL_OK;
}

static hl_status input_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    hl_input_args args = {.images = step->in[0]->data,
                          .flips = hl_data(hl_operand(step, 1)),
                          .mixes = hl_data(hl_operand(step, 2)),
                          .out = y->data,
                          .n = y->shape.n,
                          .h = y->shape.h,
                          .w = y->shape.w,
                          .channels = y->shape.c,
                          .raw = step->input.raw};
    memcpy(args.mean, step->input.mean, sizeof args.mean);
    memcpy(args.std, step->input.std, sizeof args.std);
    return HL_LAUNCHED(hl_launch_input(&args, y->elem, cuda->compute), step);
}

const hl_cuda_op hl_cuda_input = {.check = input_check, .run = input_run};

/* ---- sums and activations ---- */

static hl_status terms_check(const hl_cuda *cuda, const hl_step *step)
{
    int terms = step->in_count - (step->kind == HL_STEP_ACT_GRAD);
    if (terms > HL_KERNEL_MAX_TERMS)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "%d tensors are summed, more than %d", terms,
                       HL_KERNEL_MAX_TERMS);
    return hl_cuda_check_floats(cuda, step);
}

static hl_terms terms_of(const hl_step *step, int first)
{
    hl_terms terms = {.count = step->in_count - first};
    for (int i = 0; i < terms.count; i++)
        terms.term[i] = step->in[first + i]->data;
    return terms;
}

static hl_status sum_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_add(step->act.act, terms_of(step, 0), y->data, y->elem,
                                     hl_shape_count(y->shape), cuda->compute),
                       step);
}

static hl_status act_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_act_grad(step->act.act, hl_data(step->in[0]), terms_of(step, 1), y->data,
                                          y->elem, hl_shape_count(y->shape), cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_act = {.check = terms_check, .run = sum_run};
const hl_cuda_op hl_cuda_add = {.check = terms_check, .run = sum_run};
const hl_cuda_op hl_cuda_act_grad = {.check = terms_check, .run = act_grad_run};

/* ---- products ---- */

static int64_t pixels(const hl_tensor *t)
{
    return t->shape.h * t->shape.w;
}

static hl_status product(hl_cuda *cuda, const hl_step *step, const hl_tensor *a, const hl_tensor *b,
                         const hl_tensor *out)
{
    return HL_LAUNCHED(hl_launch_mul(a->data, b->data, hl_rows(a) != hl_rows(b), out->data, out->elem,
                                     a->shape.n, pixels(a), a->shape.c, cuda->compute),
                       step);
}

static hl_status mul_run(hl_cuda *cuda, hl_step *step)
{
    return product(cuda, step, step->in[0], step->in[1], step->out[0]);
}

static hl_status mul_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[0], *a = step->in[1], *b = step->in[2], *da = step->out[0],
                    *db = step->out[1];
    if (da != NULL)
        HL_TRY(product(cuda, step, dy, b, da));
    if (db == NULL)
        return HL_OK;
    if (hl_rows(a) == hl_rows(b))
        return product(cuda, step, dy, a, db);
    return HL_LAUNCHED(hl_launch_pixel_sum(dy->data, a->data, 1.0f, db->data, a->elem, db->elem, a->shape.n,
                                           pixels(a), a->shape.c, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_mul = {.check = hl_cuda_check_floats, .run = mul_run};
const hl_cuda_op hl_cuda_mul_grad = {.check = hl_cuda_check_floats, .run = mul_grad_run};

/* ---- concatenation ---- */

static hl_status concat_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    int64_t at = 0;
    for (int i = 0; i < step->in_count; i++) {
        const hl_tensor *x = step->in[i];
        HL_TRY(HL_LAUNCHED(hl_launch_copy_channels(x->data, x->shape.c, 0, y->data, y->shape.c, at,
                                                   x->shape.c, hl_rows(y), y->elem, cuda->compute),
                           step));
        at += x->shape.c;
    }
    return HL_OK;
}

static hl_status concat_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[0];
    int64_t at = 0;
    for (int i = 0; i < step->out_count; i++) {
        const hl_tensor *dx = step->out[i];
        int64_t width = step->concat.widths[i];
        if (dx != NULL)
            HL_TRY(HL_LAUNCHED(hl_launch_copy_channels(dy->data, dy->shape.c, at, dx->data, width, 0, width,
                                                       hl_rows(dy), dy->elem, cuda->compute),
                               step));
        at += width;
    }
    return HL_OK;
}

const hl_cuda_op hl_cuda_concat = {.check = hl_cuda_check_floats, .run = concat_run};
const hl_cuda_op hl_cuda_concat_grad = {.check = hl_cuda_check_floats, .run = concat_grad_run};

/* ---- dropout, stochastic depth, global pooling ---- */

static hl_status dropout_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_dropout(step->in[0]->data, step->dropout.p, step->dropout.id, cuda->run,
                                         y->data, y->elem, hl_shape_count(y->shape), cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_dropout = {.check = hl_cuda_check_floats, .run = dropout_run};

static hl_status drop_path_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_drop_path(step->in[0]->data, hl_data(hl_operand(step, 1)), step->dropout.p,
                                           step->dropout.id, cuda->run, y->data, y->elem, y->shape.n,
                                           hl_shape_count(y->shape) / y->shape.n, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_drop_path = {.check = hl_cuda_check_floats, .run = drop_path_run};

static hl_status global_pool_check(const hl_cuda *cuda, const hl_step *step)
{
    const hl_tensor *x = step->in[0], *y = step->out[0];
    bool widens = y->elem == HL_ELEM_F32 && (x->elem == HL_ELEM_BF16 || x->elem == HL_ELEM_F16);
    return widens ? HL_OK : hl_cuda_check_floats(cuda, step);
}

static hl_status global_pool_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *x = step->in[0], *y = step->out[0];
    return HL_LAUNCHED(hl_launch_pixel_sum(x->data, NULL, 1.0f / (float)pixels(x), y->data, x->elem, y->elem,
                                           x->shape.n, pixels(x), x->shape.c, cuda->compute),
                       step);
}

static hl_status global_pool_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[0], *dx = step->out[0];
    return HL_LAUNCHED(hl_launch_pixel_spread(dy->data, 1.0f / (float)pixels(dx), dx->data, dx->elem,
                                              dx->shape.n, pixels(dx), dx->shape.c, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_global_pool = {.check = global_pool_check, .run = global_pool_run};
const hl_cuda_op hl_cuda_global_pool_grad = {.check = hl_cuda_check_floats, .run = global_pool_grad_run};

static hl_status grid_pool(hl_cuda *cuda, hl_step *step, bool grad)
{
    const hl_tensor *in = step->in[0], *out = step->out[0];
    return HL_LAUNCHED(
        hl_launch_grid_pool(in->data, in->shape, out->data, out->shape, grad, in->elem, cuda->compute), step);
}

static hl_status grid_pool_run(hl_cuda *cuda, hl_step *step)
{
    return grid_pool(cuda, step, false);
}

static hl_status grid_pool_grad_run(hl_cuda *cuda, hl_step *step)
{
    return grid_pool(cuda, step, true);
}

const hl_cuda_op hl_cuda_grid_pool = {.check = hl_cuda_check_floats, .run = grid_pool_run};
const hl_cuda_op hl_cuda_grid_pool_grad = {.check = hl_cuda_check_floats, .run = grid_pool_grad_run};
