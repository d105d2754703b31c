/* ADD, MUL, MUL_GRAD. */
#include "backend/cpu/act_math.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/tile.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

HL_CLONES static void accumulate(const float *restrict v, float *restrict sum, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] += v[i];
}

HL_CLONES static void activate(hl_act act, float *v, int64_t count)
{
    hl_act_run(act, v, count);
}

static hl_status add_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *y = step->out[0];
    int64_t count = hl_tensor_count(y);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE) {
        float sum[HL_TILE], v[HL_TILE];
        int64_t n = count - at < HL_TILE ? count - at : HL_TILE;
        hl_tile_load(step->in[0], at, n, sum);
        for (int i = 1; i < step->in_count; i++) {
            hl_tile_load(step->in[i], at, n, v);
            accumulate(v, sum, n);
        }
        activate(step->act.act, sum, n);
        hl_tile_store(y, at, n, sum);
    }
    return HL_OK;
}

HL_CLONES static void multiply(const float *restrict v, float *restrict product, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        product[i] *= v[i];
}

HL_CLONES static void multiply_accumulate(const float *restrict a, const float *restrict b,
                                          float *restrict sum, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] += a[i] * b[i];
}

/* Is b one value per sample and channel, while a has several pixels? */
static bool is_broadcast(const hl_tensor *a, const hl_tensor *b)
{
    return hl_tensor_rows(a) != hl_tensor_rows(b);
}

/* Where b's element for a's element `at` lies; elements up to the end of the row follow one another. */
static int64_t broadcast_at(const hl_tensor *a, int64_t at)
{
    int64_t c = a->shape.c, sample = at / (c * a->shape.h * a->shape.w);
    return sample * c + at % c;
}

/* Elements [at, ...) that can be treated as one run: a tile, and not past the end of a row when b is
 * broadcast. */
static int64_t run_length(const hl_tensor *a, bool broadcast, int64_t at, int64_t end)
{
    int64_t n = end - at < HL_TILE ? end - at : HL_TILE, left = a->shape.c - at % a->shape.c;
    return broadcast && left < n ? left : n;
}

static hl_status mul_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *a = step->in[0], *b = step->in[1], *y = step->out[0];
    bool broadcast = is_broadcast(a, b);
    int64_t count = hl_tensor_count(y);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += HL_TILE) {
        float product[HL_TILE], v[HL_TILE];
        int64_t end = count - first < HL_TILE ? count : first + HL_TILE;
        for (int64_t at = first, n; at < end; at += n) {
            n = run_length(a, broadcast, at, end);
            hl_tile_load(a, at, n, product);
            hl_tile_load(b, broadcast ? broadcast_at(a, at) : at, n, v);
            multiply(v, product, n);
            hl_tile_store(y, at, n, product);
        }
    }
    return HL_OK;
}

/* out = dy * factor, factor possibly broadcast over pixels. */
static void gradient_product(const hl_tensor *dy, const hl_tensor *factor, const hl_tensor *out)
{
    bool broadcast = is_broadcast(dy, factor);
    int64_t count = hl_tensor_count(dy);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += HL_TILE) {
        float product[HL_TILE], v[HL_TILE];
        int64_t end = count - first < HL_TILE ? count : first + HL_TILE;
        for (int64_t at = first, n; at < end; at += n) {
            n = run_length(dy, broadcast, at, end);
            hl_tile_load(dy, at, n, product);
            hl_tile_load(factor, broadcast ? broadcast_at(dy, at) : at, n, v);
            multiply(v, product, n);
            hl_tile_store(out, at, n, product);
        }
    }
}

/* db[n, c] = sum over pixels of dy * a. */
static void broadcast_gradient(const hl_tensor *dy, const hl_tensor *a, const hl_tensor *db)
{
    int64_t channels = dy->shape.c, pixels = dy->shape.h * dy->shape.w;
    int64_t parts = (channels + HL_TILE - 1) / HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < dy->shape.n * parts; k++) {
        float sum[HL_TILE] = {0}, g[HL_TILE], v[HL_TILE];
        int64_t sample = k / parts, c = k % parts * HL_TILE,
                n = channels - c < HL_TILE ? channels - c : HL_TILE;
        for (int64_t p = 0; p < pixels; p++) {
            int64_t at = (sample * pixels + p) * channels + c;
            hl_tile_load(dy, at, n, g);
            hl_tile_load(a, at, n, v);
            multiply_accumulate(g, v, sum, n);
        }
        hl_tile_store(db, sample * channels + c, n, sum);
    }
}

static hl_status mul_grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0], *a = step->in[1], *b = step->in[2];
    if (step->out[0] != NULL)
        gradient_product(dy, b, step->out[0]);
    if (step->out[1] != NULL && is_broadcast(a, b))
        broadcast_gradient(dy, a, step->out[1]);
    else if (step->out[1] != NULL)
        gradient_product(dy, a, step->out[1]);
    return HL_OK;
}

const hl_cpu_op hl_cpu_add = {.check = check, .run = add_run};
const hl_cpu_op hl_cpu_mul = {.check = check, .run = mul_run};
const hl_cpu_op hl_cpu_mul_grad = {.check = check, .run = mul_grad_run};
