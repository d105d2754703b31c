#include "graph/plan.h"

#include <stdlib.h>

#include "base/memory.h"

static size_t rounded_up(size_t bytes)
{
    return (bytes + HL_ALIGNMENT - 1) / HL_ALIGNMENT * HL_ALIGNMENT;
}

static int larger_first(const void *a, const void *b)
{
    const hl_plan_item *x = *(const hl_plan_item *const *)a, *y = *(const hl_plan_item *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    /* Equal sizes in their given order, so that the plan does not depend on qsort. */
    return x < y ? -1 : x > y;
}

static int lower_first(const void *a, const void *b)
{
    const hl_plan_item *x = *(const hl_plan_item *const *)a, *y = *(const hl_plan_item *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

hl_status hl_plan_offsets(hl_plan_item *items, size_t count, size_t *total)
{
    *total = 0;
    hl_plan_item **by_size, **alive;
    HL_TRY(hl_alloc_array(2 * count, sizeof *by_size, "memory plan", (void **)&by_size));
    alive = by_size + count;
    for (size_t i = 0; i < count; i++)
        by_size[i] = &items[i];
    qsort(by_size, count, sizeof *by_size, larger_first);
    for (size_t i = 0; i < count; i++) {
        hl_plan_item *item = by_size[i];
        size_t neighbours = 0, offset = 0;
        for (size_t j = 0; j < i; j++)
            if (by_size[j]->first <= item->last && item->first <= by_size[j]->last)
                alive[neighbours++] = by_size[j];
        qsort(alive, neighbours, sizeof *alive, lower_first);
        for (size_t j = 0; j < neighbours && alive[j]->offset < offset + item->bytes; j++) {
            size_t end = alive[j]->offset + rounded_up(alive[j]->bytes);
            offset = end > offset ? end : offset;
        }
        item->offset = offset;
        if (offset + rounded_up(item->bytes) > *total)
            *total = offset + rounded_up(item->bytes);
    }
    free(by_size);
    return HL_OK;
}

typedef struct planner {
    hl_tensor *const *tensors;
    size_t tensor_count;
    hl_plan_item *items; /* by tensor */
    size_t *storage;     /* by tensor: the tensor in whose place it lies (itself, or one it took over) */
} planner;

static int compare_pointers(const void *a, const void *b)
{
    const hl_tensor *x = *(hl_tensor *const *)a, *y = *(hl_tensor *const *)b;
    return x < y ? -1 : x > y;
}

static size_t index_of(const planner *p, const hl_tensor *t)
{
    hl_tensor *const *found = bsearch(&t, p->tensors, p->tensor_count, sizeof *p->tensors, compare_pointers);
    return found == NULL ? SIZE_MAX : (size_t)(found - p->tensors);
}

static void mark(const planner *p, const hl_tensor *t, int step)
{
    if (t != NULL && t->base != NULL)
        t = t->base;
    size_t i = t == NULL || t->place != HL_PLACE_ARENA ? SIZE_MAX : index_of(p, t);
    if (i == SIZE_MAX)
        return;
    if (p->items[i].first < 0)
        p->items[i].first = step;
    p->items[i].last = step;
}

/* First of the gradients that a step may write its output over; 0 for steps that may not. */
static int first_overwritable(const hl_step *step)
{
    return step->kind == HL_STEP_ACT_GRAD ? 1 : step->kind == HL_STEP_RECOMBINE_GRAD ? 2 : 0;
}

/* Lets the output of an activation's gradient lie where one of its dying gradients does. */
static void share_in_place(planner *p, const hl_step *step, int at)
{
    if (step->out[0] == NULL || step->out[0]->place != HL_PLACE_ARENA)
        return;
    size_t out = index_of(p, step->out[0]);
    if (out == SIZE_MAX)
        return;
    for (int k = first_overwritable(step); k < step->in_count; k++) {
        if (step->in[k]->place != HL_PLACE_ARENA)
            continue;
        size_t in = index_of(p, step->in[k]);
        size_t root = p->storage[in];
        if (p->items[in].last != at || p->items[root].last != at || p->items[in].bytes != p->items[out].bytes)
            continue;
        p->storage[out] = root;
        p->items[root].last = p->items[out].last;
        return;
    }
}

static hl_status plan_roots(planner *p, size_t *offset, size_t *total)
{
    hl_plan_item *roots;
    HL_TRY(hl_alloc_array(p->tensor_count, sizeof *roots, "memory plan", (void **)&roots));
    size_t count = 0;
    for (size_t i = 0; i < p->tensor_count; i++)
        if (p->storage[i] == i && p->items[i].first >= 0)
            roots[count++] = p->items[i];
    hl_status status = hl_plan_offsets(roots, count, total);
    for (size_t i = 0, k = 0; i < p->tensor_count; i++)
        if (p->storage[i] == i && p->items[i].first >= 0)
            p->items[i].offset = roots[k++].offset;
    for (size_t i = 0; i < p->tensor_count; i++)
        offset[i] = p->items[i].first >= 0 ? p->items[p->storage[i]].offset : SIZE_MAX;
    free(roots);
    return status;
}

hl_status hl_plan_arena(hl_step *const *steps, size_t step_count, hl_tensor *const *tensors,
                        size_t tensor_count, size_t *offset, size_t *total)
{
    planner p = {.tensor_count = tensor_count};
    hl_tensor **sorted = NULL;
    size_t *sorted_offset = NULL;
    hl_status status = hl_alloc_array(tensor_count, sizeof *sorted, "memory plan", (void **)&sorted);
    if (status == HL_OK)
        status = hl_alloc_array(tensor_count, sizeof *p.items, "memory plan", (void **)&p.items);
    if (status == HL_OK)
        status = hl_alloc_array(tensor_count, sizeof *p.storage, "memory plan", (void **)&p.storage);
    if (status == HL_OK)
        status = hl_alloc_array(tensor_count, sizeof *sorted_offset, "memory plan", (void **)&sorted_offset);
    if (status != HL_OK)
        goto done;
    for (size_t i = 0; i < tensor_count; i++)
        sorted[i] = tensors[i];
    qsort(sorted, tensor_count, sizeof *sorted, compare_pointers);
    p.tensors = sorted;
    for (size_t i = 0; i < tensor_count; i++) {
        p.items[i] = (hl_plan_item){.bytes = sorted[i]->bytes, .first = -1, .last = -1};
        p.storage[i] = i;
    }
    for (size_t s = 0; s < step_count; s++) {
        for (int k = 0; k < steps[s]->in_count; k++)
            mark(&p, steps[s]->in[k], (int)s);
        for (int k = 0; k < steps[s]->out_count; k++)
            mark(&p, steps[s]->out[k], (int)s);
    }
    for (size_t s = 0; s < step_count; s++)
        if (first_overwritable(steps[s]) > 0)
            share_in_place(&p, steps[s], (int)s);
    status = plan_roots(&p, sorted_offset, total);
    for (size_t i = 0; i < tensor_count; i++)
        offset[i] = sorted_offset[index_of(&p, tensors[i])];
done:
    free(sorted);
    free(sorted_offset);
    free(p.items);
    free(p.storage);
    return status;
}
