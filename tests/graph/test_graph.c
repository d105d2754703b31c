#include <criterion/criterion.h>
#include <string.h>

#include "graph/graph.h"

static hl_graph *graph;

static void start(void)
{
    cr_assert_eq(hl_graph_create(&graph), HL_OK);
}

static void stop(void)
{
    hl_graph_destroy(graph);
}

TestSuite(graph, .init = start, .fini = stop);

static hl_shape shape_of(hl_value v)
{
    return hl_graph_node(graph, v)->shape;
}

/* Extents that torch.nn.Conv2d and MaxPool2d give, and TensorFlow's for SAME. */
Test(graph, window_shapes_are_those_of_pytorch_and_tensorflow)
{
    static const struct {
        int64_t in, kernel, stride, padding, dilation, out;
        bool same;
    } cases[] = {{224, 7, 2, 3, 1, 112, false}, {7, 3, 2, 1, 1, 4, false},    {15, 3, 1, 2, 2, 15, false},
                 {5, 5, 1, 0, 1, 1, false},     {224, 3, 2, 0, 1, 112, true}, {15, 5, 2, 0, 1, 8, true},
                 {7, 3, 3, 0, 1, 3, true}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        hl_value x = hl_graph_input(graph, cases[k].in, cases[k].in, 3);
        hl_value y = hl_graph_conv(graph, hl_graph_name(graph, "c%zu", k), x,
                                   (hl_conv_spec){.out = 4,
                                                  .kernel = cases[k].kernel,
                                                  .stride = cases[k].stride,
                                                  .padding = cases[k].padding,
                                                  .dilation = cases[k].dilation,
                                                  .padding_same = cases[k].same});
        cr_assert(y >= 0, "%s", hl_last_error());
        cr_assert_eq(shape_of(y).h, cases[k].out, "case %zu: %lld", k, (long long)shape_of(y).h);
    }
}

Test(graph, same_padding_puts_the_odd_pixel_last)
{
    hl_value x = hl_graph_input(graph, 8, 8, 1);
    hl_value y = hl_graph_conv(graph, "c", x,
                               (hl_conv_spec){.out = 1, .kernel = 3, .stride = 2, .padding_same = true});
    hl_window w = hl_graph_node(graph, y)->window;
    cr_assert(w.top == 0 && w.bottom == 1 && w.left == 0 && w.right == 1);
}

Test(graph, ceil_mode_pools_as_pytorch)
{
    /* torch.nn.MaxPool2d(3, 2, ceil_mode=True): 112 -> 56, 13 -> 6; (2, 2, ceil): 7 -> 4 */
    static const int64_t cases[][4] = {{112, 3, 2, 56}, {13, 3, 2, 6}, {7, 2, 2, 4}};
    for (size_t k = 0; k < 3; k++) {
        hl_value x = hl_graph_input(graph, cases[k][0], cases[k][0], 2);
        hl_value y = hl_graph_pool(
            graph, hl_graph_name(graph, "p%zu", k), x,
            (hl_pool_spec){.max = true, .kernel = cases[k][1], .stride = cases[k][2], .ceil_mode = true});
        cr_assert_eq(shape_of(y).h, cases[k][3]);
    }
}

Test(graph, windows_can_be_given_whole)
{
    const hl_window w = {
        .kh = 3, .kw = 2, .sh = 2, .sw = 1, .dh = 1, .dw = 3, .top = 1, .bottom = 2, .right = 1};
    hl_value x = hl_graph_input(graph, 9, 7, 4);
    hl_value y = hl_graph_conv(graph, "conv", x, (hl_conv_spec){.out = 5, .window = &w, .groups = 1});
    cr_expect(shape_of(y).h == (9 + 3 - 3) / 2 + 1 && shape_of(y).w == 7 + 1 - 4 + 1 && shape_of(y).c == 5);
    const hl_param *weight = hl_graph_find_param(graph, "conv.weight");
    cr_expect(weight->shape[2] == 3 && weight->shape[3] == 2);
    const hl_window small = {.kh = 2, .kw = 3, .sh = 2, .sw = 1, .dh = 1, .dw = 1, .left = 2};
    hl_value z = hl_graph_pool(graph, "pool", x, (hl_pool_spec){.max = true, .window = &small});
    cr_expect(shape_of(z).h == 4 && shape_of(z).w == 7);
    hl_window odd = w;
    odd.sw = 0;
    hl_graph_conv(graph, "odd", x, (hl_conv_spec){.out = 5, .window = &odd});
    cr_expect(graph->status == HL_E_ARG && strstr(graph->error, "odd: kernel, stride") != NULL, "%s",
              graph->error);
}

Test(graph, a_window_larger_than_its_input_names_the_layer)
{
    hl_value x = hl_graph_input(graph, 4, 4, 1);
    hl_value y = hl_graph_conv(graph, "stem", x, (hl_conv_spec){.out = 1, .kernel = 7});
    cr_assert_eq(y, HL_NO_VALUE);
    cr_assert_eq(hl_graph_finish(graph, y), HL_E_ARG);
    cr_assert(strstr(hl_last_error(), "stem") != NULL && strstr(hl_last_error(), "7") != NULL, "%s",
              hl_last_error());
}

Test(graph, the_first_error_sticks)
{
    hl_value x = hl_graph_input(graph, 4, 4, 3);
    x = hl_graph_conv(graph, "first", x, (hl_conv_spec){.out = 4, .groups = 2});
    x = hl_graph_act(graph, "second", x, HL_ACT_RELU);
    cr_assert_eq(hl_graph_finish(graph, x), HL_E_ARG);
    cr_assert(strstr(hl_last_error(), "first") != NULL, "%s", hl_last_error());
}

Test(graph, names_must_be_unique)
{
    hl_value x = hl_graph_input(graph, 4, 4, 3);
    x = hl_graph_conv(graph, "c", x, (hl_conv_spec){.out = 3});
    x = hl_graph_conv(graph, "c", x, (hl_conv_spec){.out = 3});
    cr_assert_neq(hl_graph_finish(graph, x), HL_OK);
}

Test(graph, adding_different_shapes_is_refused)
{
    hl_value x = hl_graph_input(graph, 4, 4, 3);
    hl_value y = hl_graph_conv(graph, "c", x, (hl_conv_spec){.out = 5});
    cr_assert_eq(hl_graph_add(graph, "sum", x, y), HL_NO_VALUE);
    cr_assert_eq(hl_graph_finish(graph, y), HL_E_ARG);
}

Test(graph, inserted_layers_stand_between_a_value_and_its_readers)
{
    hl_value x = hl_graph_input(graph, 4, 4, 3);
    hl_value a = hl_graph_conv(graph, "a", x, (hl_conv_spec){.out = 3});
    hl_value b = hl_graph_conv(graph, "b", a, (hl_conv_spec){.out = 3});
    cr_assert_eq(hl_graph_finish(graph, b), HL_OK);
    hl_value first_new = (hl_value)graph->node_count;
    hl_graph_insert_after(graph, a);
    hl_value adapter = hl_graph_conv(graph, "adapter", a, (hl_conv_spec){.out = 3});
    hl_value sum = hl_graph_add(graph, "adapted", a, adapter);
    hl_graph_redirect(graph, a, sum, first_new);
    cr_assert_eq(hl_graph_node(graph, b)->in[0], sum);
    cr_assert_eq(hl_graph_node(graph, adapter)->in[0], a);
    static const char *const order[] = {"input", "a", "adapter", "adapted", "b"};
    for (int i = 0; i < 5; i++)
        cr_assert_str_eq(hl_graph_node(graph, graph->order[i])->name, order[i]);
}

Test(graph, fresh_weights_depend_on_the_seed_alone)
{
    hl_value x = hl_graph_input(graph, 4, 4, 3);
    hl_value y = hl_graph_conv(graph, "c", x, (hl_conv_spec){.out = 64, .kernel = 3, .padding = 1});
    cr_assert_eq(hl_graph_finish(graph, y), HL_OK);
    hl_param *w = hl_graph_find_param(graph, "c.weight");
    hl_graph_init(graph, 1);
    float first = w->host[5];
    double squares = 0;
    for (int64_t i = 0; i < w->count; i++)
        squares += (double)w->host[i] * (double)w->host[i];
    hl_graph_init(graph, 2);
    cr_assert_neq(w->host[5], first);
    hl_graph_init(graph, 1);
    cr_assert_eq(w->host[5], first);
    /* Variance 2 / (9 * 64), from 1728 draws: relative standard error sqrt(2/1728) = 0.034; five of them. */
    cr_assert_float_eq(squares / (double)w->count * 288.0, 1.0, 0.17);
}
