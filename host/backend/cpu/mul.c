/* MUL and MUL_GRAD. */
#include "backend/cpu/tile.h"
#include "base/simd.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

HL_CLONES static void multiply(const float *restrict v, float *restrict product, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        product[i] *= v[i];
}

/* Every row times `factor`. */
HL_CLONES static void multiply_rows(float *restrict v, int64_t rows, int64_t width,
                                    const float *restrict factor)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            v[r * width + c] *= factor[c];
}

/* sum[c] += a b over the rows of a tile, in float first. */
HL_CLONES static void add_products(float *restrict a, const float *restrict b, int64_t rows, int64_t width,
                                   double *restrict sum)
{
    for (int64_t c = 0; c < width; c++)
        a[c] *= b[c];
    for (int64_t r = 1; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            a[c] += a[r * width + c] * b[r * width + c];
    for (int64_t c = 0; c < width; c++)
        sum[c] += (double)a[c];
}

/* Is b one value per sample and channel, while a has several pixels? */
static bool is_broadcast(const hl_tensor *a, const hl_tensor *b)
{
    return hl_tensor_rows(a) != hl_tensor_rows(b);
}

static void equal_product(const hl_tensor *a, const hl_tensor *b, const hl_tensor *out)
{
    int64_t count = hl_tensor_count(a);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE) {
        float product[HL_TILE], v[HL_TILE];
        int64_t n = count - at < HL_TILE ? count - at : HL_TILE;
        hl_tile_load(a, at, n, product);
        hl_tile_load(b, at, n, v);
        multiply(v, product, n);
        hl_tile_store(out, at, n, product);
    }
}

/* Part of a sample: channels [c, c + n) of pixels [first, last). Whole rows unless they do not fit a tile. */
typedef struct patch {
    int64_t sample, first, last, c, n, together; /* together: rows to a tile */
} patch;

static patch patch_of(const hl_tensor *t, int64_t sample, int64_t part, int64_t first, int64_t last)
{
    int64_t channels = t->shape.c, c = part * HL_TILE, n = channels - c < HL_TILE ? channels - c : HL_TILE;
    return (patch){sample, first, last, c, n, n == channels ? hl_tile_rows(channels) : 1};
}

static int64_t parts_of(const hl_tensor *t)
{
    return (t->shape.c + HL_TILE - 1) / HL_TILE;
}

static int64_t element_at(const hl_tensor *t, const patch *p, int64_t pixel)
{
    return (p->sample * t->shape.h * t->shape.w + pixel) * t->shape.c + p->c;
}

static void patch_product(const hl_tensor *a, const hl_tensor *b, const hl_tensor *out, const patch *p)
{
    float factor[HL_TILE], v[HL_TILE];
    hl_tile_load(b, p->sample * b->shape.c + p->c, p->n, factor);
    for (int64_t pixel = p->first, rows; pixel < p->last; pixel += rows) {
        rows = p->last - pixel < p->together ? p->last - pixel : p->together;
        hl_tile_load(a, element_at(a, p, pixel), rows * p->n, v);
        multiply_rows(v, rows, p->n, factor);
        hl_tile_store(out, element_at(a, p, pixel), rows * p->n, v);
    }
}

/* out = a b, b possibly one value for all pixels of a sample. */
static void product(const hl_tensor *a, const hl_tensor *b, const hl_tensor *out)
{
    if (!is_broadcast(a, b)) {
        equal_product(a, b, out);
        return;
    }
    int64_t pixels = a->shape.h * a->shape.w, chunk = 4 * hl_tile_rows(a->shape.c), parts = parts_of(a);
    int64_t chunks = (pixels + chunk - 1) / chunk;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < a->shape.n * chunks * parts; k++) {
        int64_t first = k / parts % chunks * chunk;
        patch p = patch_of(a, k / parts / chunks, k % parts, first,
                           pixels - first < chunk ? pixels : first + chunk);
        patch_product(a, b, out, &p);
    }
}

static void patch_gradient(const hl_tensor *dy, const hl_tensor *a, const hl_tensor *db, const patch *p)
{
    float g[HL_TILE], v[HL_TILE];
    double sum[HL_TILE] = {0};
    for (int64_t pixel = p->first, rows; pixel < p->last; pixel += rows) {
        rows = p->last - pixel < p->together ? p->last - pixel : p->together;
        hl_tile_load(dy, element_at(a, p, pixel), rows * p->n, g);
        hl_tile_load(a, element_at(a, p, pixel), rows * p->n, v);
        add_products(g, v, rows, p->n, sum);
    }
    for (int64_t i = 0; i < p->n; i++)
        g[i] = (float)sum[i];
    hl_tile_store(db, p->sample * a->shape.c + p->c, p->n, g);
}

/* db[n, c] = sum over pixels of dy a. */
static void broadcast_gradient(const hl_tensor *dy, const hl_tensor *a, const hl_tensor *db)
{
    int64_t parts = parts_of(a);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < a->shape.n * parts; k++) {
        patch p = patch_of(a, k / parts, k % parts, 0, a->shape.h * a->shape.w);
        patch_gradient(dy, a, db, &p);
    }
}

static hl_status mul_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    product(step->in[0], step->in[1], step->out[0]);
    return HL_OK;
}

static hl_status mul_grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0], *a = step->in[1], *b = step->in[2];
    if (step->out[0] != NULL)
        product(dy, b, step->out[0]);
    if (step->out[1] != NULL && is_broadcast(a, b))
        broadcast_gradient(dy, a, step->out[1]);
    else if (step->out[1] != NULL)
        product(dy, a, step->out[1]);
    return HL_OK;
}

const hl_cpu_op hl_cpu_mul = {.check = check, .run = mul_run};
const hl_cpu_op hl_cpu_mul_grad = {.check = check, .run = mul_grad_run};
