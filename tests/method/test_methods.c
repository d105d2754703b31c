/* Every method on five backbones (tests/support/methods.c has the table): its gradients, an optimizer step
 * beside PyTorch's (scripts/make_method_goldens.py), its adapter file, and its merged form. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/params.h"
#include "io/safetensors.h"
#include "support/device.h"
#include "support/formula.h"
#include "support/methods.h"
#include "support/scratch.h"
#include "train/optimizer.h"

enum { LOGITS = METHODS_BATCH * METHODS_CLASSES };

typedef struct pair {
    int backbone, row;
} pair;

typedef struct rig {
    const method_backbone *backbone;
    const method_row *row;
    hl_model *model;
    hl_program *program;
    hl_run_state run;
    float **start; /* values of all parameters before the steps, by index */
    char label[128];
} rig;

static hl_param *param(const rig *r, size_t i)
{
    return r->model->graph->params[i];
}

static size_t params(const rig *r)
{
    return r->model->graph->param_count;
}

static void finish(const rig *r)
{
    cr_assert_eq(r->model->backend->ops->finish(r->model->backend), HL_OK, "%s: %s", r->label,
                 hl_last_error());
}

/* Are norms on the statistics of the batch? */
static bool uses_batch(const rig *r)
{
    bool moves = r->model->norm == HL_NORM_FULL || r->model->norm == HL_NORM_UPDATE;
    for (size_t i = 0; i < params(r); i++)
        moves = moves || param(r, i)->moves;
    return moves;
}

static void set_up(rig *r, const pair *p)
{
    *r = (rig){
        .backbone = &method_backbones[p->backbone], .row = &method_rows[p->row], .run = {.grad_scale = 1.0f}};
    static const char *const execs[] = {"", ", fold", ", cache"};
    snprintf(r->label, sizeof r->label, "%s on %s%s", r->row->text, r->backbone->model, execs[r->row->exec]);
    r->model = method_model(r->backbone, r->row);
    r->run.lr = uses_batch(r) ? 1e-3f : 3e-2f;
    const hl_compute one_thread = {.threads = 1, .device = test_device()};
    cr_assert_eq(hl_model_place(r->model, &one_thread), HL_OK, "%s", hl_last_error());
    hl_compile_options options;
    hl_model_compile_options(r->model, r->row->exec, (hl_number_type){0}, &options);
    options.batch = METHODS_BATCH;
    options.training = options.raw_input = true;
    options.smoothing = 0.1f;
    options.run = &r->run;
    cr_assert_eq(hl_program_compile(r->model->graph, r->model->backend, &options, &r->program), HL_OK,
                 "%s: %s", r->label, hl_last_error());
    finish(r); /* its memory is cleared */
    method_fill_batch(r->program);
    r->start = malloc(params(r) * sizeof *r->start);
    for (size_t i = 0; i < params(r); i++) {
        size_t bytes = (size_t)param(r, i)->count * sizeof(float);
        r->start[i] = memcpy(malloc(bytes), param(r, i)->host, bytes);
    }
}

static void tear_down(rig *r)
{
    for (size_t i = 0; i < params(r); i++)
        free(r->start[i]);
    free(r->start);
    hl_program_destroy(r->program);
    hl_model_destroy(r->model);
}

/* The mean loss with the parameters as they are. */
static double loss_of(rig *r)
{
    double sum = 0.0;
    cr_assert_eq(hl_program_refresh(r->program), HL_OK);
    cr_assert_eq(hl_program_forward(r->program), HL_OK);
    finish(r);
    for (int n = 0; n < METHODS_BATCH; n++)
        sum += (double)hl_program_losses(r->program)[n] / METHODS_BATCH;
    return sum;
}

/* ---- gradients ---- */

/* Trained tensors of one kind, moved along one random direction. */
typedef struct direction {
    const char *kind;
    double derivative; /* by the gradients */
    double deviation;  /* of such derivatives over random directions of these lengths */
} direction;

/* Element i of tensor t goes along rms(t) times a value in -1 .. 1. */
static double length_of(const rig *r, size_t t)
{
    double squares = 0.0;
    for (int64_t i = 0; i < param(r, t)->count; i++)
        squares += (double)r->start[t][i] * (double)r->start[t][i];
    return squares > 0.0 ? sqrt(squares / (double)param(r, t)->count) : 0.1;
}

static bool is_of(const rig *r, size_t t, const char *kind)
{
    return param(r, t)->trained && strcmp(method_kind(param(r, t)), kind) == 0;
}

static void move(rig *r, const char *kind, double h)
{
    for (size_t t = 0; t < params(r); t++) {
        if (!is_of(r, t, kind))
            continue;
        double length = h * length_of(r, t);
        uint32_t hash = formula_hash(param(r, t)->name) ^ 0x5bd1e995u;
        for (int64_t i = 0; i < param(r, t)->count; i++)
            param(r, t)->host[i] =
                (float)((double)r->start[t][i] + length * (2.0 * formula_unit(hash, i) - 1.0));
    }
    cr_assert_eq(hl_graph_upload(r->model->graph), HL_OK);
}

static direction expected(const rig *r, const char *kind)
{
    direction d = {.kind = kind};
    double squares = 0.0;
    for (size_t t = 0; t < params(r); t++) {
        if (!is_of(r, t, kind))
            continue;
        double length = length_of(r, t);
        uint32_t hash = formula_hash(param(r, t)->name) ^ 0x5bd1e995u;
        for (int64_t i = 0; i < param(r, t)->count; i++) {
            double part = (double)param(r, t)->grad[i] * length * (2.0 * formula_unit(hash, i) - 1.0);
            d.derivative += part;
            squares += part * part;
        }
    }
    d.deviation = sqrt(squares);
    return d;
}

static double difference(rig *r, const char *kind, double h)
{
    move(r, kind, h);
    double above = loss_of(r);
    move(r, kind, -h);
    double below = loss_of(r);
    move(r, kind, 0.0);
    return (above - below) / (2.0 * h);
}

/* Central differences D(h) = D + c h^2 + O(h^4), so D(h) + (D(h) - D(2h)) / 3 is left with the last. What was
 * removed is taken for the bound on it. The step is short enough that the loss changes by about 2e-3, since
 * statistics of a batch bend it a lot. Losses are computed in float, and the rounding of their four terms is
 * left, 1e-7 of them; statistics of four values enlarge that (tests/models/test_goldens.c), a hundredfold at
 * worst. A gradient in float is as exact as goldens are, 3e-4 of its norm with all that. */
static void check_direction(rig *r, direction d, double loss)
{
    const double h = fmin(0.1, 2e-3 / d.deviation), loss_error = r->model->norm == HL_NORM_FULL ? 1e-5 : 1e-7;
    double near = difference(r, d.kind, h), far = difference(r, d.kind, 2.0 * h),
           removed = (near - far) / 3.0;
    double got = near + removed, tolerance = fabs(removed) + 2.0 * loss_error * loss / h + 3e-4 * d.deviation;
    cr_expect(fabs(got - d.derivative) <= tolerance,
              "%s: %s: the loss changes by %.6g along a direction where its gradient says %.6g (within %.2g)",
              r->label, d.kind, got, d.derivative, tolerance);
    /* Wrong gradients are off by as much as derivatives vary. */
    cr_expect(tolerance <= 0.2 * d.deviation, "%s: %s: %.2g tells nothing of derivatives around %.2g",
              r->label, d.kind, tolerance, d.deviation);
}

static void check_gradients(rig *r)
{
    enum { MOST = 16 };
    direction directions[MOST];
    int count = 0;
    double loss = loss_of(r);
    cr_assert_eq(hl_program_backward(r->program), HL_OK, "%s", hl_last_error());
    finish(r);
    for (size_t t = 0; t < params(r); t++) {
        const char *kind = method_kind(param(r, t));
        bool is_new = param(r, t)->trained;
        for (int k = 0; k < count && is_new; k++)
            is_new = strcmp(directions[k].kind, kind) != 0;
        if (is_new && count < MOST)
            directions[count++] = expected(r, kind);
    }
    cr_assert(count > 0 && count < MOST);
    for (int k = 0; k < count && !r->row->own_gradient; k++)
        check_direction(r, directions[k], loss);
    /* Running statistics have moved. */
    for (size_t t = 0; t < params(r); t++)
        memcpy(param(r, t)->host, r->start[t], (size_t)param(r, t)->count * sizeof(float));
    cr_assert_eq(hl_graph_upload(r->model->graph), HL_OK);
}

/* ---- an optimizer step ---- */

/* The part of a golden file that is this backbone's. */
static FILE *open_golden(const rig *r)
{
    char path[128], line[256], name[64];
    snprintf(path, sizeof path, "tests/fixtures/methods/%s.txt", r->row->golden);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "model %63s", name) == 1 && strcmp(name, r->backbone->model) == 0)
            return file;
    cr_assert(false, "%s has no %s", path, r->backbone->model);
    abort();
}

static int read_losses(FILE *file, double losses[METHODS_MOST_STEPS + 1])
{
    char line[256];
    cr_assert_not_null(fgets(line, sizeof line, file));
    return sscanf(line, "losses %lf %lf %lf", &losses[0], &losses[1], &losses[2]) - 1;
}

static void take_steps(rig *r, int steps, double *losses)
{
    hl_optimizer_state *optimizer;
    hl_train_options train;
    hl_train_defaults(&train);
    train.optimizer = HL_SGD;
    train.momentum = 0.9;
    train.weight_decay = 1e-3;
    cr_assert_eq(hl_optimizer_create(r->model, &train, (double)r->run.lr, HL_ELEM_F32, &r->run, &optimizer),
                 HL_OK, "%s", hl_last_error());
    for (int s = 0; s < steps; s++) {
        losses[s] = loss_of(r);
        cr_assert_eq(hl_program_backward(r->program), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_optimizer_step(optimizer), HL_OK, "%s", hl_last_error());
    }
    finish(r);
    cr_assert_eq(hl_graph_download(r->model->graph), HL_OK, "%s", hl_last_error());
    hl_optimizer_destroy(optimizer);
}

typedef struct change {
    int tensors;
    int64_t values;
    double length, norm, probe;
} change;

static void add_change(const rig *r, size_t t, change *c)
{
    const hl_param *p = param(r, t);
    uint32_t hash = formula_hash("probe");
    double length = 0.0, squares = 0.0;
    for (int64_t i = 0; i < p->count; i++) {
        double d = (double)p->host[i] - (double)r->start[t][i];
        length += (double)p->host[i] * (double)p->host[i];
        squares += d * d;
        c->probe += d * (2.0 * formula_unit(hash, i) - 1.0);
    }
    c->tensors++;
    c->values += p->count;
    c->length = hypot(c->length, sqrt(length));
    c->norm = hypot(c->norm, sqrt(squares));
}

/* Gradients are exact to 3e-5 of their norm where norms use running statistics, and statistics of a batch
 * whose last maps are four values multiply that (tests/models/test_goldens.c): PyTorch's own in float are off
 * by up to 5e-4 from those in double, its losses by 3e-4 (make_method_goldens.py --float). Each value is
 * rounded once or twice as it is stored. */
static double tolerance_of(const rig *r, double norm, double length)
{
    return (uses_batch(r) ? 2e-3 : 2e-4) * norm + 0x1p-23 * length;
}

static void check_kind(const rig *r, const char *line)
{
    char kind[64];
    change want = {0}, have = {0};
    long long values;
    cr_assert_eq(sscanf(line, "kind %63s %d %lld %lf %lf %lf", kind, &want.tensors, &values, &want.length,
                        &want.norm, &want.probe),
                 6, "%s", line);
    for (size_t t = 0; t < params(r); t++)
        if (hl_param_is_adapted(param(r, t)) && strcmp(method_kind(param(r, t)), kind) == 0)
            add_change(r, t, &have);
    double tolerance = tolerance_of(r, want.norm, want.length);
    cr_expect(have.tensors == want.tensors && have.values == values,
              "%s: %s: %d tensors of %lld values are trained, not %d of %lld", r->label, kind, have.tensors,
              (long long)have.values, want.tensors, values);
    cr_expect(fabs(have.norm - want.norm) <= tolerance, "%s: %s changed by %.7g, not %.7g", r->label, kind,
              have.norm, want.norm);
    cr_expect(r->row->any_sign || fabs(have.probe - want.probe) <= tolerance,
              "%s: %s: probe of the change is %.7g, not %.7g", r->label, kind, have.probe, want.probe);
}

static void check_tensor(const rig *r, const char *line)
{
    char name[128];
    long long values;
    double norm, first[2];
    cr_assert_eq(sscanf(line, "tensor %127s %lld %lf %lf %lf", name, &values, &norm, &first[0], &first[1]), 5,
                 "%s", line);
    const hl_param *p = hl_graph_find_param(r->model->graph, name);
    cr_assert(p != NULL && p->count == values, "%s: %s is not there or of another size", r->label, name);
    /* The lengths that dora starts from are roots of float sums of up to 576 squares, in whatever order the
     * compiler has put them: sqrt(576) / 2 roundings as they add up by chance. */
    double start = strstr(name, "magnitude") != NULL ? 12.0 * 0x1p-24 : 0.0;
    for (int i = 0; i < 2 && i < p->count && !r->row->any_sign; i++)
        cr_expect(fabs((double)p->host[i] - first[i]) <=
                      tolerance_of(r, norm, fabs(first[i])) + start * fabs(first[i]),
                  "%s: %s[%d] is %.9g, not %.9g", r->label, name, i, (double)p->host[i], first[i]);
}

static void check_step(rig *r)
{
    double losses[METHODS_MOST_STEPS + 1], want[METHODS_MOST_STEPS + 1];
    char line[256];
    int kinds = 0;
    size_t adapted = 0, summed = 0;
    FILE *file = open_golden(r);
    int steps = read_losses(file, want);
    cr_assert(steps >= 1);
    take_steps(r, steps, losses);
    while (fgets(line, sizeof line, file) != NULL && strncmp(line, "model", 5) != 0) {
        if (strncmp(line, "kind", 4) == 0) {
            int tensors;
            cr_assert_eq(sscanf(line, "kind %*s %d", &tensors), 1);
            summed += (size_t)tensors;
            kinds++;
            check_kind(r, line);
        } else {
            check_tensor(r, line);
        }
    }
    fclose(file);
    for (size_t t = 0; t < params(r); t++)
        adapted += hl_param_is_adapted(param(r, t));
    cr_expect(kinds > 0 && summed == adapted, "%s: %zu tensors in the golden, %zu trained here", r->label,
              summed, adapted);
    losses[steps] = loss_of(r);
    for (int s = 0; s <= steps; s++)
        cr_expect(fabs(losses[s] - want[s]) <= (uses_batch(r) ? 1e-3 : 1e-6) * want[s],
                  "%s: loss %d is %.9g, not %.9g", r->label, s, losses[s], want[s]);
    cr_assert_eq(hl_graph_download(r->model->graph), HL_OK);
}

/* ---- the adapter file and the merged network ---- */

static void check_file(const rig *r, const char *path)
{
    hl_tensor_map *map;
    size_t adapted = 0;
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    for (size_t t = 0; t < params(r); t++)
        if (hl_param_is_adapted(param(r, t))) {
            cr_expect_not_null(hl_tensor_map_find(map, param(r, t)->name), "%s: the file lacks %s", r->label,
                               param(r, t)->name);
            adapted++;
        }
    cr_expect_eq(hl_tensor_map_count(map), adapted, "%s: %zu tensors in the file, %zu trained", r->label,
                 hl_tensor_map_count(map), adapted);
    hl_tensor_map_destroy(map);
}

static void expect_near(const rig *r, const float *a, const float *b)
{
    double scale = 0.0;
    for (int i = 0; i < LOGITS; i++)
        scale = fmax(scale, fabs((double)a[i]));
    cr_assert_gt(scale, 0.0);
    /* Two ways of computing the same in float, through up to 120 layers (test_goldens.c). */
    for (int i = 0; i < LOGITS; i++)
        cr_expect(fabs((double)a[i] - (double)b[i]) <= 2e-5 * scale, "%s: logit %d: %.9g, merged %.9g",
                  r->label, i, (double)a[i], (double)b[i]);
}

/* A base weight other than the file's hash says: refused. Then the right ones. */
static void load_into(const rig *r, hl_model *m, const char *path)
{
    char hash[HL_SHA256_HEX];
    memcpy(hash, m->base_hash, sizeof hash);
    float *value = hl_graph_find_param(m->graph, r->model->graph->params[0]->name)->host, kept = *value;
    *value += 1.0f;
    cr_assert_eq(hl_model_hash_base(m), HL_OK);
    cr_expect_eq(hl_model_load_adapter(m, path), HL_E_INPUT, "%s: other base weights are taken", r->label);
    cr_expect_not_null(strstr(hl_last_error(), "other base weights"), "%s: %s", r->label, hl_last_error());
    *value = kept;
    cr_assert_eq(hl_model_hash_base(m), HL_OK);
    cr_expect_str_eq(m->base_hash, hash, "%s: the hash tells of what the method adds", r->label);
    cr_assert_eq(hl_model_load_adapter(m, path), HL_OK, "%s: %s", r->label, hl_last_error());
}

/* Merged, the network computes the same; it is the plain one again, or says in one line what is not. */
static void check_merged(const rig *r, const char *path, const char *state, const float *unmerged)
{
    float merged[LOGITS];
    int added = 0;
    hl_model *m = method_model(r->backbone, r->row);
    hl_graph *plain = method_plain_graph(r->backbone);
    bool stays = method_stays(r->row, r->backbone);
    load_into(r, m, path);
    cr_assert_eq(hl_method_merge(m->graph), HL_OK, "%s: %s", r->label, hl_last_error());
    for (size_t i = 0; i < m->graph->param_count; i++)
        added += hl_graph_find_param(plain, m->graph->params[i]->name) == NULL;
    cr_expect((added > 0) == stays, "%s: %d tensors of the method are left", r->label, added);
    hl_status status = hl_model_export(m, state);
    cr_expect(stays ? status == HL_E_UNSUPPORTED && strstr(hl_last_error(), "cannot be merged") != NULL &&
                          strchr(hl_last_error(), '\n') == NULL
                    : status == HL_OK,
              "%s: exported with status %d: %s", r->label, (int)status, hl_last_error());
    method_logits(m, r->row->exec, merged);
    expect_near(r, unmerged, merged);
    hl_graph_destroy(plain);
    hl_model_destroy(m);
}

static void check_file_and_merged(rig *r)
{
    float trained[LOGITS], loaded[LOGITS];
    char *folder = scratch_make(), *path = scratch_path(folder, "adapter.safetensors"),
         *state = scratch_path(folder, "state.safetensors");
    method_logits(r->model, r->row->exec, trained);
    cr_assert_eq(hl_model_save_adapter(r->model, path), HL_OK, "%s: %s", r->label, hl_last_error());
    check_file(r, path);
    hl_model *fresh = method_model(r->backbone, r->row);
    cr_assert_eq(hl_model_load_adapter(fresh, path), HL_OK, "%s: %s", r->label, hl_last_error());
    method_logits(fresh, r->row->exec, loaded);
    cr_expect_arr_eq(loaded, trained, sizeof loaded, "%s: the adapter file gives other logits", r->label);
    hl_model_destroy(fresh);
    check_merged(r, path, state, trained);
    free(state);
    free(path);
    scratch_remove(folder);
}

/* ---- the table ---- */

ParameterizedTestParameters(methods, train_save_load_and_merge_as_they_are_defined)
{
    static pair pairs[METHOD_BACKBONES * 64];
    size_t count = 0;
    /* The double of CUDA and the address sanitizer are slow: one network shows them dense, depthwise and
     * strided layers. */
    bool all = strcmp(test_device(), "cuda") != 0;
#ifdef __SANITIZE_ADDRESS__
    all = false;
#endif
    for (int b = 0; b < METHOD_BACKBONES; b++)
        for (int m = 0; m < method_row_count(); m++) {
            const char *model = method_backbones[b].model, *only = method_rows[m].only;
            if ((only == NULL || strcmp(only, model) == 0) && (all || strcmp(model, "mobilenet_v2") == 0))
                pairs[count++] = (pair){b, m};
        }
    return cr_make_param_array(pair, pairs, count);
}

ParameterizedTest(pair *p, methods, train_save_load_and_merge_as_they_are_defined)
{
    rig r;
    set_up(&r, p);
    check_gradients(&r);
    check_step(&r);
    check_file_and_merged(&r);
    tear_down(&r);
}
