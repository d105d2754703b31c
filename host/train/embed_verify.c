/* A feedforward network and its embedding, beside each other on random inputs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/copy.h"
#include "graph/params.h"
#include "graph/program.h"
#include "train/embed.h"

enum { SAMPLES = 8, DRAWS = 4, MORE_ROWS = 2, MORE_COLUMNS = 3 };

/* A network that computes: a copy of one of the embedding's two, on a backend. */
typedef struct side {
    hl_graph *graph;
    hl_backend *backend;
    hl_program *program;
    hl_run_state run;
    int64_t batch;
} side;

static void side_clear(side *s)
{
    hl_program_destroy(s->program);
    hl_graph_destroy(s->graph);
    hl_backend_close(s->backend);
    *s = (side){0};
}

/* Cross-entropy over one class is zero whatever the network says: two features of it are looked at then. */
static hl_status give_two_classes(hl_graph *g)
{
    if (hl_graph_node(g, g->output)->shape.c > 1)
        return HL_OK;
    hl_value y = hl_graph_linear(g, "heirloom.verify", g->output, 2, false);
    HL_TRY(hl_graph_finish(g, y));
    hl_param *w = hl_graph_node(g, y)->expr.weight;
    w->host[0] = 1.0f;
    w->host[1] = -0.5f;
    return HL_OK;
}

/* All parameters are trained where gradients are wanted. */
static hl_status side_open(side *s, const hl_compute *compute, int64_t batch, bool training,
                           const char *device)
{
    hl_backend_options options = {.device = device, .threads = compute != NULL ? compute->threads : 0};
    s->batch = batch;
    s->run = (hl_run_state){.grad_scale = 1.0f};
    for (size_t i = 0; training && i < s->graph->param_count; i++)
        s->graph->params[i]->trained = !hl_param_is_statistic(s->graph->params[i]);
    for (size_t v = 0; v < s->graph->node_count; v++)
        s->graph->nodes[v]->drop = 0.0f;
    HL_TRY(hl_backend_open(&options, &s->backend));
    HL_TRY(hl_graph_place(s->graph, s->backend));
    const hl_compile_options compile = {
        .batch = batch, .training = training, .raw_input = true, .keep_all = !training, .run = &s->run};
    return hl_program_compile(s->graph, s->backend, &compile, &s->program);
}

static hl_status side_run(side *s, const float *x, const int32_t *labels, bool backward)
{
    const hl_backend_ops *ops = s->backend->ops;
    size_t count = (size_t)(s->batch * hl_shape_count(hl_graph_node(s->graph, s->graph->input)->shape));
    HL_TRY(ops->upload(s->backend, hl_program_images(s->program), x, count * sizeof *x));
    HL_TRY(ops->upload(s->backend, hl_program_labels(s->program), labels, (size_t)s->batch * sizeof *labels));
    HL_TRY(hl_program_forward(s->program));
    if (backward)
        HL_TRY(hl_program_backward(s->program));
    return ops->finish(s->backend);
}

typedef struct comparison {
    double difference, largest;
    bool finite;
} comparison;

static void compare(comparison *c, const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double x = (double)a[i], y = (double)b[i];
        c->finite = c->finite && isfinite(x) && isfinite(y);
        c->difference = fmax(c->difference, fabs(x - y));
        c->largest = fmax(c->largest, fabs(x));
    }
}

static double share(const comparison *c)
{
    return !c->finite ? INFINITY : c->difference == 0.0 ? 0.0 : c->difference / c->largest;
}

/* Patches of channels-last images [samples, h, w, c], windows of kh x kw, as rows in the feedforward
 * network's order: vectors are channels first, maps as they are. */
static void take_patches(const float *images, int64_t samples, hl_shape image, int64_t kh, int64_t kw,
                         bool vector, float *rows)
{
    int64_t high = image.h - kh + 1, wide = image.w - kw + 1, c = image.c;
    for (int64_t place = 0; place < samples * high * wide; place++) {
        int64_t n = place / (high * wide), top = place / wide % high, left = place % wide;
        for (int64_t k = 0; k < kh * kw * c; k++) {
            int64_t channel = k % c, column = k / c % kw, row = k / c / kw;
            int64_t to = vector ? (channel * kh + row) * kw + column : k;
            rows[place * kh * kw * c + to] =
                images[((n * image.h + top + row) * image.w + left + column) * c + channel];
        }
    }
}

/* Copies of both networks, since parameters that are placed belong to one backend. The convolutions have the
 * values that the embedding has, which is what is written. */
static hl_status copy_sides(const hl_embedding *e, hl_embed_shape shape, side *a, side *b)
{
    HL_TRY(hl_graph_copy(e->feedforward, &a->graph));
    HL_TRY(hl_feedforward_embed(e->feedforward, shape, &b->graph));
    for (size_t i = 0; i < b->graph->param_count; i++) {
        hl_param *to = b->graph->params[i];
        const hl_param *from = hl_graph_find_param(e->convolutional, to->name);
        if (from == NULL || from->count != to->count)
            return hl_fail(HL_E_INTERNAL, to->name, NULL, "the embedding has no such parameter");
        memcpy(to->host, from->host, (size_t)to->count * sizeof *to->host);
    }
    return HL_OK;
}

static hl_status fetch(side *s, float *to, const float *from, int64_t count)
{
    return s->backend->ops->download(s->backend, to, from, (size_t)count * sizeof *to);
}

static hl_status compare_logits(side *a, side *b, comparison *c)
{
    int64_t count = a->batch * hl_graph_node(a->graph, a->graph->output)->shape.c;
    float *x, *y;
    HL_TRY(hl_alloc_array((size_t)count, 2 * sizeof *x, "outputs", (void **)&x));
    y = x + count;
    hl_status status = fetch(a, x, hl_program_logits(a->program), count);
    if (status == HL_OK)
        status = fetch(b, y, hl_program_logits(b->program), count);
    if (status == HL_OK)
        compare(c, x, y, count);
    free(x);
    return status;
}

static hl_status compare_gradients(side *a, side *b, hl_embed_check *check)
{
    for (size_t i = 0; i < a->graph->param_count; i++) {
        const hl_param *p = a->graph->params[i], *q = hl_graph_find_param(b->graph, p->name);
        comparison c = {.finite = true};
        float *x;
        if (!p->trained)
            continue;
        if (q == NULL || q->count != p->count)
            return hl_fail(HL_E_INTERNAL, p->name, NULL, "the embedding has no such parameter");
        HL_TRY(hl_alloc_array((size_t)p->count, 2 * sizeof *x, p->name, (void **)&x));
        hl_status status = fetch(a, x, p->grad, p->count);
        if (status == HL_OK)
            status = fetch(b, x + p->count, q->grad, p->count);
        if (status == HL_OK)
            compare(&c, x, x + p->count, p->count);
        free(x);
        HL_TRY(status);
        check->gradient = fmax(check->gradient, c.finite ? c.difference : INFINITY);
        if (check->worst[0] == '\0' || share(&c) > check->gradient_share) {
            check->gradient_share = share(&c);
            snprintf(check->worst, sizeof check->worst, "%s", p->name);
        }
    }
    return HL_OK;
}

static void draw(uint64_t seed, uint32_t sub, float *x, int64_t count)
{
    hl_rng rng = hl_rng_make(seed, HL_STREAM_INIT, 3u << 20 | sub, 0);
    for (int64_t i = 0; i < count; i++)
        x[i] = hl_rng_normal(&rng);
}

/* One window: outputs and gradients. */
static hl_status check_window(const hl_embedding *e, side *a, side *b, const hl_compute *compute,
                              uint64_t seed, uint32_t number, hl_embed_check *check, comparison *outputs)
{
    int32_t labels[SAMPLES];
    HL_TRY(copy_sides(e, e->shape, a, b));
    HL_TRY(give_two_classes(a->graph));
    HL_TRY(give_two_classes(b->graph));
    HL_TRY(side_open(a, compute, SAMPLES, true, compute != NULL ? compute->device : NULL));
    HL_TRY(side_open(b, compute, SAMPLES, true, compute != NULL ? compute->device : NULL));
    hl_shape image = hl_graph_node(b->graph, b->graph->input)->shape;
    hl_shape own = hl_graph_node(a->graph, a->graph->input)->shape;
    int64_t classes = hl_graph_node(a->graph, a->graph->output)->shape.c,
            count = SAMPLES * hl_shape_count(image);
    for (int i = 0; i < SAMPLES; i++)
        labels[i] = (int32_t)((5 * i + 1) % classes);
    float *x;
    HL_TRY(hl_alloc_array((size_t)count, 2 * sizeof *x, "inputs", (void **)&x));
    draw(seed, number, x, count);
    take_patches(x, SAMPLES, image, image.h, image.w, own.h == 1 && own.w == 1, x + count);
    hl_status status = side_run(a, x + count, labels, true);
    if (status == HL_OK)
        status = side_run(b, x, labels, true);
    if (status == HL_OK)
        status = compare_logits(a, b, outputs);
    if (status == HL_OK)
        status = compare_gradients(a, b, check);
    free(x);
    return status;
}

/* A larger image: the convolutions' map has what the feedforward network says of each patch. */
static hl_status check_places(const hl_embedding *e, side *a, side *b, const hl_compute *compute,
                              uint64_t seed, hl_embed_check *check, comparison *outputs)
{
    hl_shape window = hl_graph_node(e->convolutional, e->convolutional->input)->shape;
    hl_embed_shape shape = {window.h, window.w, window.h + MORE_ROWS, window.w + MORE_COLUMNS};
    if (e->shape.kernel_h == 0)
        shape.kernel_h = shape.kernel_w = 0; /* the file's own */
    const int64_t samples = 2, places = samples * (MORE_ROWS + 1) * (MORE_COLUMNS + 1);
    HL_TRY(copy_sides(e, shape, a, b));
    hl_value last = b->graph->output;
    const char *name = hl_graph_node(b->graph, last)->name;
    HL_TRY(hl_graph_finish(b->graph, hl_graph_global_pool(b->graph, "heirloom.verify", last)));
    HL_TRY(side_open(a, compute, places, false, compute != NULL ? compute->device : NULL));
    HL_TRY(side_open(b, compute, samples, false, compute != NULL ? compute->device : NULL));
    hl_shape image = hl_graph_node(b->graph, b->graph->input)->shape,
             own = hl_graph_node(a->graph, a->graph->input)->shape;
    int64_t classes = hl_graph_node(a->graph, a->graph->output)->shape.c,
            pixels = samples * hl_shape_count(image), rows = places * hl_shape_count(window);
    float *x, *y;
    int32_t *labels;
    HL_TRY(hl_alloc_array((size_t)(pixels + rows + 2 * places * classes + places), sizeof *x, "inputs",
                          (void **)&x));
    y = x + pixels + rows;
    labels = (int32_t *)(y + 2 * places * classes); /* all of class 0 */
    draw(seed, DRAWS, x, pixels);
    take_patches(x, samples, image, window.h, window.w, own.h == 1 && own.w == 1, x + pixels);
    hl_status status = side_run(a, x + pixels, labels, false);
    if (status == HL_OK)
        status = side_run(b, x, labels, false);
    if (status == HL_OK)
        status = fetch(a, y, hl_program_logits(a->program), places * classes);
    if (status == HL_OK)
        status = hl_program_value(b->program, name, false, y + places * classes, places * classes);
    if (status == HL_OK)
        compare(outputs, y, y + places * classes, places * classes);
    free(x);
    check->places += places;
    return status;
}

static double default_tolerance(const hl_graph *g)
{
    double sum = 0.0;
    for (size_t v = 0; v < g->node_count; v++)
        if (g->nodes[v]->op == HL_OP_LINEAR)
            sum += sqrt((double)(g->nodes[v]->expr.weight->count / g->nodes[v]->expr.weight->shape[0]));
    return 16.0 * 0x1p-24 * sum;
}

hl_status hl_embed_verify(const hl_embedding *e, const hl_compute *compute, double tolerance, uint64_t seed,
                          hl_embed_check *check)
{
    hl_shape window = hl_graph_node(e->convolutional, e->convolutional->input)->shape;
    comparison outputs = {.finite = true};
    hl_status status = HL_OK;
    /* An input of an activation that lies within rounding of its kink has either slope: then other inputs are
     * drawn. A wrong embedding is wrong for all of them. */
    for (uint32_t number = 0; status == HL_OK && number < DRAWS; number++) {
        side a = {0}, b = {0};
        *check =
            (hl_embed_check){.samples = SAMPLES,
                             .places = SAMPLES,
                             .tolerance = tolerance > 0.0 ? tolerance : default_tolerance(e->feedforward)};
        outputs = (comparison){.finite = true};
        status = check_window(e, &a, &b, compute, seed, number, check, &outputs);
        side_clear(&a);
        side_clear(&b);
        if (check->gradient_share <= check->tolerance)
            break;
    }
    if (status == HL_OK && window.h * window.w > 1) {
        side a = {0}, b = {0};
        status = check_places(e, &a, &b, compute, seed, check, &outputs);
        side_clear(&a);
        side_clear(&b);
    }
    check->output = outputs.finite ? outputs.difference : INFINITY;
    check->output_share = share(&outputs);
    check->equal = check->output_share <= check->tolerance && check->gradient_share <= check->tolerance;
    return status;
}
