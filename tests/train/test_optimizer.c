/* Rates of parameter groups, clipping, the penalty on gates. The arithmetic of a step is tested with the
 * backend and in test_step_goldens.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "graph/params.h"
#include "support/device.h"
#include "support/toy.h"
#include "train/optimizer.h"

static hl_model *model;
static hl_optimizer_state *optimizer;
static hl_run_state run;
static hl_train_options options;

static void create(const char *method)
{
    model = toy_model("mobilenet_v2", 3, method, HL_NORM_AFFINE);
    const hl_compute compute = {.threads = 1, .device = test_device()};
    cr_assert_eq(hl_model_place(model, &compute), HL_OK);
    hl_train_defaults(&options);
    options.optimizer = HL_SGD;
    options.momentum = 0.0;
    options.weight_decay = 0.0;
    options.lr = 0.1;
    run = (hl_run_state){.lr = 0.1f, .grad_scale = 1.0f};
}

static void prepare(void)
{
    cr_assert_eq(hl_optimizer_create(model, &options, options.lr, HL_ELEM_F32, &run, &optimizer), HL_OK, "%s",
                 hl_last_error());
}

static void destroy(void)
{
    hl_optimizer_destroy(optimizer);
    hl_model_destroy(model);
}

TestSuite(optimizer, .fini = destroy);

/* One step with every gradient 1 must lower a parameter's first value by `fall`. */
static void expect_fall(hl_param *p, double fall)
{
    hl_placement *placed = model->graph->placement;
    for (int64_t i = 0; i < placed->count; i++)
        placed->grads[i] = 0.0f;
    for (int t = 0; t < placed->trained_count; t++)
        for (int64_t i = 0; i < placed->trained[t]->count; i++)
            placed->trained[t]->grad[i] = 1.0f;
    double before = (double)p->value[0];
    cr_assert_eq(hl_optimizer_step(optimizer), HL_OK, "%s", hl_last_error());
    cr_assert_eq(model->backend->ops->finish(model->backend), HL_OK, "%s", hl_last_error());
    double fell = before - (double)p->value[0];
    cr_assert_float_eq(fell, fall, 2e-7, "%s fell by %g, not %g", p->name, fell, fall);
}

static hl_param *param(const char *name)
{
    hl_param *p = hl_graph_find_param(model->graph, name);
    cr_assert_not_null(p, "%s", name);
    return p;
}

Test(optimizer, head_and_gates_have_their_own_rates)
{
    create("projection:gate-lr=0.02");
    options.head_lr_scale = 3.0;
    prepare();
    expect_fall(param("classifier.1.weight"), 0.3);
    expect_fall(param("features.0.0.gate"), 0.02);
    expect_fall(param("features.0.1.weight"), 0.1);
    cr_assert_eq(run.step, 3);
    run.lr = 0.05f; /* a schedule halves all of them */
    expect_fall(param("features.0.0.gate"), 0.01);
}

Test(optimizer, rates_fall_with_the_distance_from_the_head)
{
    create("full");
    options.layer_decay = 0.5;
    options.head_lr_scale = 2.0;
    prepare();
    expect_fall(param("classifier.1.bias"), 0.2);
    expect_fall(param("features.18.0.weight"), 0.1 * 0.5);
    expect_fall(param("features.18.1.bias"), 0.1 * 0.5);
    expect_fall(param("features.16.conv.1.0.weight"), 0.1 * 0.125);
}

/* The fall of one parameter is that of its penalty alone: gradients 1 are known. */
Test(optimizer, parameters_are_pulled_back_to_where_they_started_and_the_head_to_zero)
{
    create("l2sp:alpha=0.5,beta=0.25");
    hl_param *weight = param("features.0.0.weight"), *head = param("classifier.1.weight");
    prepare();
    expect_fall(weight, 0.1); /* at the start nothing pulls */
    const float moved = weight->value[0], at = head->value[0];
    const double back = -0.1; /* from the start, after one step of 0.1 */
    expect_fall(weight, 0.1 * (1.0 + 0.5 * back));
    cr_assert_float_eq((double)moved - (double)weight->value[0], 0.1 * (1.0 + 0.5 * back), 2e-7);
    (void)at;
    expect_fall(head, 0.1 * (1.0 + 0.25 * (double)head->value[0]));
    hl_train_record record;
    double penalty = 0.0;
    hl_placement *placed = model->graph->placement;
    for (int t = 0; t < placed->trained_count; t++)
        for (int64_t i = 0; i < placed->trained[t]->count; i++) {
            const hl_param *p = placed->trained[t];
            double v = (double)p->value[i] -
                       (p->head ? 0.0 : (double)optimizer->start[p->value - placed->values + i]);
            penalty += 0.5 * (p->head ? 0.25 : 0.5) * v * v;
        }
    expect_fall(head, 0.1 * (1.0 + 0.25 * (double)head->value[0]));
    cr_assert_eq(hl_optimizer_read(optimizer, &record), HL_OK);
    /* Differences are rounded to float before they are squared. */
    cr_assert_float_eq(record.step_loss, penalty, 1e-6 * penalty);
}

/* A library's caller who takes the defaults decays by 1e-4, but not twice: not beside l2sp's own penalty. */
Test(optimizer, weight_decay_is_the_methods_unless_given)
{
    static const struct {
        const char *method;
        float decay;
    } rows[] = {{"full", 1e-4f}, {"projection", 1e-4f}, {"l2sp", 0.0f}};
    for (int i = 0; i < 3; i++) {
        if (i > 0)
            destroy();
        create(rows[i].method);
        options.weight_decay = -1.0;
        prepare();
        cr_assert_float_eq(optimizer->segments[0].weight_decay, rows[i].decay, 1e-10, "%s", rows[i].method);
    }
}

Test(optimizer, clipping_scales_long_gradients_and_leaves_short_ones)
{
    create("linear");
    options.clip_grad = 1.0;
    prepare();
    double norm = 0.0;
    for (int t = 0; t < model->graph->placement->trained_count; t++)
        norm += (double)model->graph->placement->trained[t]->count;
    norm = sqrt(norm);
    expect_fall(param("classifier.1.bias"), 0.1 / norm);
    hl_optimizer_destroy(optimizer);
    options.clip_grad = 2.0 * norm;
    prepare();
    expect_fall(param("classifier.1.bias"), 0.1);
}

Test(optimizer, the_penalty_pulls_gates_towards_zero)
{
    create("projection:l1=0.5");
    prepare();
    hl_param *gate = param("features.0.0.gate");
    gate->value[0] = 0.25f;
    expect_fall(gate, 0.1 * 1.5);
    gate->value[0] = -1.5f; /* the gate itself is -0.5 */
    expect_fall(gate, 0.1 * 0.5);
    gate->value[0] = -1.0f;
    double sum = 0.0;
    for (size_t i = 0; i < model->graph->param_count; i++)
        for (int64_t k = 0;
             model->graph->params[i]->role == HL_PARAM_GATE && k < model->graph->params[i]->count; k++)
            sum += fabs(1.0 + (double)model->graph->params[i]->value[k]);
    /* A gate of 0 has no slope of its own; the loss of that step has the penalty of the gates before it. */
    expect_fall(gate, 0.1 * 1.0);
    hl_train_record record;
    cr_assert_eq(hl_optimizer_read(optimizer, &record), HL_OK);
    cr_assert_float_eq(record.step_loss, 0.5 * sum, 1e-9 * sum);
}

Test(optimizer, momentum_is_nesterovs)
{
    create("linear");
    options.momentum = 0.9;
    prepare();
    hl_param *bias = param("classifier.1.bias");
    /* Nesterov: g + 0.9 b, with b = 1, then 1.9. */
    expect_fall(bias, 0.1 * 1.9);
    expect_fall(bias, 0.1 * (1.0 + 0.9 * 1.9));
}
