#include <criterion/criterion.h>
#include <string.h>

#include "graph/fuse.h"

static hl_graph *graph;
static hl_arena *arena;
static hl_units units;
static hl_compile_options options;

static void start(void)
{
    cr_assert_eq(hl_graph_create(&graph), HL_OK);
    cr_assert_eq(hl_arena_create(&arena), HL_OK);
    options = (hl_compile_options){.batch = 1};
}

static void stop(void)
{
    hl_graph_destroy(graph);
    hl_arena_destroy(arena);
}

TestSuite(fuse, .init = start, .fini = stop);

static hl_value conv(const char *name, hl_value x)
{
    return hl_graph_conv(graph, name, x, (hl_conv_spec){.out = 4, .kernel = 3, .padding = 1});
}

static hl_value norm(const char *name, hl_value x)
{
    return hl_graph_norm(graph, name, x, 1e-5f, 0.1f);
}

static void form(hl_value output)
{
    cr_assert_eq(hl_graph_finish(graph, output), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_units_form(graph, &options, arena, &units), HL_OK);
}

static int left(void)
{
    int count = 0;
    for (int k = 0; k < units.count; k++)
        count += !units.items[k].removed;
    return count;
}

static const hl_unit *maker(hl_value v)
{
    cr_assert(units.maker[v] >= 0);
    return &units.items[units.maker[v]];
}

/* conv - norm - relu - conv - norm - (+ skip) - relu, as in ResNet's basic block */
static hl_value basic_block(void)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value y = hl_graph_act(graph, "relu1", norm("bn1", conv("conv1", x)), HL_ACT_RELU);
    y = norm("bn2", conv("conv2", y));
    return hl_graph_act(graph, "relu2", hl_graph_add(graph, "add", y, x), HL_ACT_RELU);
}

Test(fuse, a_residual_block_becomes_two_units)
{
    hl_value y = basic_block();
    form(y);
    cr_assert_eq(left(), 3, "%d units", left());
    cr_assert_str_eq(maker(y)->node->name, "conv2");
    cr_assert_eq(maker(y)->residual, graph->input);
    cr_assert_eq(maker(y)->act, HL_ACT_RELU);
    cr_assert_not_null(maker(y)->expr.norm_mean);
}

Test(fuse, the_later_branch_makes_the_sum)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value a = conv("a", x), b = conv("b", x);
    hl_value y = hl_graph_add(graph, "add", b, a);
    form(y);
    cr_assert_str_eq(maker(y)->node->name, "b");
    cr_assert_eq(maker(y)->residual, a);
}

Test(fuse, norms_on_batch_statistics_stay_when_training)
{
    hl_value y = basic_block();
    for (size_t v = 0; v < graph->node_count; v++)
        graph->nodes[v]->batch_statistics = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 5);
    cr_assert_str_eq(maker(y)->node->name, "bn2");
    cr_assert_eq(maker(y)->residual, graph->input);
    options.training = false;
    form(y);
    cr_assert_eq(left(), 3);
}

Test(fuse, norms_with_trained_scale_stay_when_training_and_fold_otherwise)
{
    hl_value y = basic_block();
    hl_graph_find_param(graph, "bn1.weight")->trained = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 4);
    options.training = false;
    form(y);
    cr_assert_eq(left(), 3);
}

Test(fuse, a_norm_whose_shift_alone_is_trained_is_folded)
{
    hl_value y = basic_block();
    hl_graph_find_param(graph, "bn1.bias")->trained = hl_graph_find_param(graph, "bn2.bias")->trained = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 3);
    cr_assert(hl_weight_expr_trains_bias(&maker(y)->expr) && !hl_weight_expr_trains_weight(&maker(y)->expr));
}

/* Two convolutions side by side, their sum normalised, a skip, an activation: two units. */
Test(fuse, a_norm_of_a_sum_is_folded_into_both_sides)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value a = conv("a", x), b = conv("b", x);
    hl_value y = norm("bn", hl_graph_add(graph, "sum", a, b));
    y = hl_graph_act(graph, "relu", y, HL_ACT_RELU);
    form(y);
    cr_assert_eq(left(), 3);
    const hl_unit *first = maker(a), *last = maker(y);
    cr_assert_str_eq(last->node->name, "b");
    cr_assert(last->residual == a && last->act == HL_ACT_RELU);
    cr_assert(first->expr.norm_scale == last->expr.norm_scale && first->expr.norm_scale != NULL);
    cr_assert(first->expr.norm_var == last->expr.norm_var && first->expr.norm_var != NULL);
    cr_assert(first->expr.norm_mean != NULL && first->expr.norm_shift != NULL);
    cr_assert(last->expr.norm_mean == NULL && last->expr.norm_shift == NULL);
}

/* a(x) + b(x) + x: the skip goes to the first layer, whose output goes to the second. */
Test(fuse, a_third_summand_goes_to_the_layer_before)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value a = conv("a", x), b = conv("b", x);
    hl_value y = hl_graph_add(graph, "skip", hl_graph_add(graph, "sum", a, b), x);
    form(y);
    cr_assert_eq(left(), 3);
    cr_assert_str_eq(maker(y)->node->name, "b");
    cr_assert(maker(y)->residual == a && maker(a)->residual == x);
}

Test(fuse, a_norm_of_a_sum_with_what_is_no_layer_stays)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value y = norm("bn", hl_graph_add(graph, "sum", conv("a", x), x));
    form(y);
    cr_assert_eq(left(), 3);
    cr_assert_str_eq(maker(y)->node->name, "bn");
}

Test(fuse, a_value_read_twice_is_not_fused_away)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value a = conv("a", x);
    hl_value y = hl_graph_mul(graph, "mul", hl_graph_act(graph, "act", a, HL_ACT_RELU), a);
    form(y);
    cr_assert_eq(left(), 4);
}

Test(fuse, silu_stays_apart_only_where_a_gradient_passes)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value y = hl_graph_act(graph, "silu1", conv("a", x), HL_ACT_SILU);
    y = hl_graph_act(graph, "silu2", conv("b", y), HL_ACT_SILU);
    hl_graph_find_param(graph, "b.weight")->trained = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 4);
    cr_assert_eq(maker(hl_graph_node(graph, y)->id)->node->op, HL_OP_ACT);
    options.training = false;
    form(y);
    cr_assert_eq(left(), 3);
}

Test(fuse, dropout_and_unused_nodes_disappear)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value a = conv("a", x);
    conv("unused", a);
    hl_value y = hl_graph_dropout(graph, "drop", a, 0.5f);
    form(y);
    cr_assert_eq(left(), 2);
    cr_assert_eq(units.output, a);
    options.training = true;
    form(y);
    cr_assert_eq(left(), 3);
    cr_assert_eq(units.output, y);
}

Test(fuse, gradients_are_needed_only_behind_the_first_trained_parameter)
{
    hl_value y = basic_block();
    hl_graph_find_param(graph, "conv2.weight")->trained = true;
    options.training = true;
    form(y);
    for (int k = 0; k < units.count; k++)
        if (!units.items[k].removed)
            cr_assert_eq(units.needs_grad[units.items[k].out],
                         strcmp(units.items[k].node->name, "conv2") == 0);
}

/* As in ConvNeXt: x + drop(scale(linear(layer norm(conv(x))))). */
static hl_value scaled_branch(void)
{
    hl_value x = hl_graph_input(graph, 5, 5, 4);
    hl_value y = hl_graph_layer_norm(graph, "norm", conv("conv", x), 1e-6f);
    y = hl_graph_scale(graph, "scale", hl_graph_linear(graph, "linear", y, 4, true));
    y = hl_graph_drop_path(graph, "drop", y, 0.4f, 0.5f);
    return hl_graph_add(graph, "add", y, x);
}

Test(fuse, layer_scales_fold_and_stochastic_depth_takes_the_residual)
{
    hl_value y = scaled_branch();
    form(y);
    cr_assert_eq(left(), 4);
    cr_assert_str_eq(maker(y)->node->name, "linear");
    cr_assert_eq(maker(y)->residual, graph->input);
    cr_assert(maker(y)->expr.norm_scale == hl_graph_find_param(graph, "scale"));
    hl_graph_find_param(graph, "conv.weight")->trained = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 5);
    cr_assert_str_eq(maker(y)->node->name, "drop");
    cr_assert_float_eq((double)maker(y)->node->drop, 0.2, 1e-7);
    cr_assert_eq(maker(y)->residual, graph->input);
}

Test(fuse, trained_layer_scales_stay_when_training_and_take_the_residual_without_stochastic_depth)
{
    hl_value y = scaled_branch();
    hl_graph_set_drop_path(graph, 0.0f);
    hl_graph_find_param(graph, "scale")->trained = true;
    options.training = true;
    form(y);
    cr_assert_eq(left(), 5);
    cr_assert_str_eq(maker(y)->node->name, "scale");
    cr_assert_eq(maker(y)->residual, graph->input);
}

Test(fuse, branches_in_front_of_everything_trained_stay_whole)
{
    hl_value y = scaled_branch();
    hl_value z = hl_graph_head(graph, "head", hl_graph_global_pool(graph, "pool", y), 3);
    hl_graph_find_param(graph, "head.weight")->trained = true;
    options.training = true;
    form(z);
    cr_assert_str_eq(maker(y)->node->name, "linear");
    hl_graph_find_param(graph, "norm.bias")->trained = true;
    form(z);
    cr_assert_str_eq(maker(y)->node->name, "drop");
}
