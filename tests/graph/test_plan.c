#include <criterion/criterion.h>

#include "base/philox.h"
#include "graph/plan.h"

static bool alive_together(const hl_plan_item *a, const hl_plan_item *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static void check(const hl_plan_item *items, size_t count, size_t total)
{
    for (size_t i = 0; i < count; i++) {
        cr_assert(items[i].offset % 64 == 0);
        cr_assert(items[i].offset + items[i].bytes <= total);
        for (size_t j = 0; j < i; j++)
            if (alive_together(&items[i], &items[j]))
                cr_assert(items[i].offset + items[i].bytes <= items[j].offset ||
                              items[j].offset + items[j].bytes <= items[i].offset,
                          "items %zu and %zu overlap", i, j);
    }
}

Test(plan, tensors_alive_together_never_overlap)
{
    enum { COUNT = 60, ROUNDS = 50 };
    for (uint32_t round = 0; round < ROUNDS; round++) {
        hl_rng rng = hl_rng_make(3, HL_STREAM_TEST, round, 0);
        hl_plan_item items[COUNT];
        for (int i = 0; i < COUNT; i++) {
            int first = (int)hl_rng_below(&rng, 40);
            items[i] = (hl_plan_item){.bytes = 1 + hl_rng_below(&rng, 5000),
                                      .first = first,
                                      .last = first + (int)hl_rng_below(&rng, 10)};
        }
        size_t total;
        cr_assert_eq(hl_plan_offsets(items, COUNT, &total), HL_OK);
        check(items, COUNT, total);
    }
}

Test(plan, a_chain_needs_two_buffers)
{
    hl_plan_item items[10];
    for (int i = 0; i < 10; i++)
        items[i] = (hl_plan_item){.bytes = 640, .first = i, .last = i + 1};
    size_t total;
    cr_assert_eq(hl_plan_offsets(items, 10, &total), HL_OK);
    check(items, 10, total);
    cr_assert_eq(total, 1280);
}

Test(plan, nothing_to_plan_is_fine)
{
    size_t total = 1;
    cr_assert_eq(hl_plan_offsets(NULL, 0, &total), HL_OK);
    cr_assert_eq(total, 0);
}

static hl_tensor tensor(size_t bytes)
{
    return (hl_tensor){.bytes = bytes, .place = HL_PLACE_ARENA};
}

Test(plan, activation_gradients_work_in_place_where_the_incoming_one_dies)
{
    hl_tensor x = tensor(64), y = tensor(64), dy = tensor(64), dz = tensor(64), dx = tensor(64);
    hl_tensor *all[] = {&x, &y, &dy, &dz, &dx};
    hl_tensor *f_in[] = {&x}, *f_out[] = {&y}, *l_in[] = {&y}, *l_out[] = {&dy};
    hl_tensor *a_in[] = {&y, &dy}, *a_out[] = {&dz}, *d_in[] = {&dz}, *d_out[] = {&dx};
    hl_step forward = {.kind = HL_STEP_ACT, .in = f_in, .out = f_out, .in_count = 1, .out_count = 1};
    hl_step loss = {.kind = HL_STEP_LOSS, .in = l_in, .out = l_out, .in_count = 1, .out_count = 1};
    hl_step act = {.kind = HL_STEP_ACT_GRAD, .in = a_in, .out = a_out, .in_count = 2, .out_count = 1};
    hl_step data = {.kind = HL_STEP_CONV_DATA, .in = d_in, .out = d_out, .in_count = 1, .out_count = 1};
    hl_step *steps[] = {&forward, &loss, &act, &data};
    size_t offset[5], total;
    cr_assert_eq(hl_plan_arena(steps, 4, all, 5, offset, &total), HL_OK);
    cr_assert_eq(offset[3], offset[2], "dz should lie where dy does");
    cr_assert_eq(total, 128);
    /* With another reader of dy later on, it must not. */
    d_in[0] = &dy;
    hl_tensor *late_in[] = {&dz, &dy};
    data.in = late_in;
    data.in_count = 2;
    cr_assert_eq(hl_plan_arena(steps, 4, all, 5, offset, &total), HL_OK);
    cr_assert_neq(offset[3], offset[2]);
}
