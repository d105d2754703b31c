#include "models/onnx_view.h"

#include <stdio.h>
#include <string.h>

static void add_atom(hl_view *v, hl_axis axis, int64_t stride, int64_t extent)
{
    if (extent > 1 && v->atom_count < HL_VIEW_ATOMS)
        v->atoms[v->atom_count++] = (hl_atom){axis, stride, extent};
}

static void end_dim(hl_view *v, int64_t extent)
{
    v->dims[v->ndim++] = extent;
    v->begin[v->ndim] = v->atom_count;
}

static void add_axis(hl_view *v, hl_axis axis, int64_t extent)
{
    add_atom(v, axis, 1, extent);
    end_dim(v, extent);
}

hl_view hl_view_nchw(hl_shape s, int64_t batch)
{
    hl_view v = {0};
    add_axis(&v, HL_AXIS_N, batch);
    add_axis(&v, HL_AXIS_C, s.c);
    add_axis(&v, HL_AXIS_H, s.h);
    add_axis(&v, HL_AXIS_W, s.w);
    return v;
}

hl_view hl_view_nhwc(hl_shape s, int64_t batch)
{
    hl_view v = {0};
    add_axis(&v, HL_AXIS_N, batch);
    add_axis(&v, HL_AXIS_H, s.h);
    add_axis(&v, HL_AXIS_W, s.w);
    add_axis(&v, HL_AXIS_C, s.c);
    return v;
}

int64_t hl_view_count(const hl_view *v)
{
    int64_t count = 1;
    for (int d = 0; d < v->ndim; d++)
        count *= v->dims[d];
    return count;
}

/* Adds an atom to the dimension being made, as part of the one before it where they are one run. */
static bool append(hl_view *v, int first, hl_atom atom)
{
    hl_atom *last = v->atom_count > first ? &v->atoms[v->atom_count - 1] : NULL;
    if (last != NULL && last->axis == atom.axis && last->stride == atom.stride * atom.extent) {
        last->stride = atom.stride;
        last->extent *= atom.extent;
        return true;
    }
    if (v->atom_count == HL_VIEW_ATOMS)
        return false;
    v->atoms[v->atom_count++] = atom;
    return true;
}

bool hl_view_reshape(hl_view *view, int ndim, const int64_t *dims)
{
    hl_view v = {0};
    int next = 0;
    hl_atom rest = {.extent = 1}; /* of an atom that was cut */
    for (int d = 0; d < ndim; d++) {
        int first = v.atom_count;
        for (int64_t need = dims[d]; need > 1;) {
            if (rest.extent == 1 && next == view->atom_count)
                return false;
            hl_atom atom = rest.extent > 1 ? rest : view->atoms[next++];
            rest.extent = 1;
            if (need % atom.extent != 0) {
                if (atom.extent % need != 0 || atom.axis == HL_AXIS_N)
                    return false;
                rest = (hl_atom){atom.axis, atom.stride, atom.extent / need};
                atom = (hl_atom){atom.axis, atom.stride * rest.extent, need};
            }
            if (!append(&v, first, atom))
                return false;
            need /= atom.extent;
        }
        end_dim(&v, dims[d]);
    }
    if (rest.extent > 1 || next < view->atom_count)
        return false;
    *view = v;
    return true;
}

void hl_view_transpose(hl_view *view, const int64_t *perm)
{
    hl_view v = {0};
    for (int d = 0; d < view->ndim; d++) {
        int from = (int)perm[d];
        for (int i = view->begin[from]; i < view->begin[from + 1]; i++)
            v.atoms[v.atom_count++] = view->atoms[i];
        end_dim(&v, view->dims[from]);
    }
    *view = v;
}

void hl_view_set_channels(hl_view *view, int d, int64_t extent)
{
    hl_view v = {0};
    for (int k = 0; k < view->ndim; k++) {
        for (int i = view->begin[k]; k != d && i < view->begin[k + 1]; i++)
            v.atoms[v.atom_count++] = view->atoms[i];
        if (k == d)
            add_atom(&v, HL_AXIS_C, 1, extent);
        end_dim(&v, k == d ? extent : view->dims[k]);
    }
    *view = v;
}

void hl_view_drop(hl_view *v, int d)
{
    for (int k = d; k + 1 < v->ndim; k++) {
        v->dims[k] = v->dims[k + 1];
        v->begin[k + 1] = v->begin[k + 2];
    }
    v->ndim--;
}

static int64_t extent_of(hl_axis axis, hl_shape s)
{
    return axis == HL_AXIS_H ? s.h : axis == HL_AXIS_W ? s.w : axis == HL_AXIS_C ? s.c : s.n;
}

bool hl_view_is(const hl_view *v, int d, hl_axis axis, hl_shape shape)
{
    int count = v->begin[d + 1] - v->begin[d];
    const hl_atom *atom = &v->atoms[v->begin[d]];
    if (v->dims[d] != extent_of(axis, shape))
        return false;
    return count == 0 || (count == 1 && atom->axis == axis && atom->stride == 1);
}

bool hl_view_same_dim(const hl_view *a, const hl_view *b, int d)
{
    int count = a->begin[d + 1] - a->begin[d];
    if (a->dims[d] != b->dims[d] || count != b->begin[d + 1] - b->begin[d])
        return false;
    for (int i = 0; i < count; i++) {
        const hl_atom *x = &a->atoms[a->begin[d] + i], *y = &b->atoms[b->begin[d] + i];
        if (x->axis != y->axis || x->stride != y->stride || x->extent != y->extent)
            return false;
    }
    return true;
}

bool hl_view_same(const hl_view *a, const hl_view *b)
{
    if (a->ndim != b->ndim)
        return false;
    for (int d = 0; d < a->ndim; d++)
        if (!hl_view_same_dim(a, b, d))
            return false;
    return true;
}

bool hl_view_is_spatial(const hl_view *v, int d)
{
    for (int i = v->begin[d]; i < v->begin[d + 1]; i++)
        if (v->atoms[i].axis != HL_AXIS_H && v->atoms[i].axis != HL_AXIS_W)
            return false;
    return true;
}

static bool only_batch(const hl_view *v, int d)
{
    for (int i = v->begin[d]; i < v->begin[d + 1]; i++)
        if (v->atoms[i].axis != HL_AXIS_N)
            return false;
    return true;
}

bool hl_view_is_nchw(const hl_view *v, hl_shape s)
{
    return v->ndim == 4 && only_batch(v, 0) && hl_view_is(v, 1, HL_AXIS_C, s) &&
           hl_view_is(v, 2, HL_AXIS_H, s) && hl_view_is(v, 3, HL_AXIS_W, s);
}

int64_t hl_view_shuffle(const hl_view *v, int d)
{
    const hl_atom *a = &v->atoms[v->begin[d]];
    if (v->begin[d + 1] - v->begin[d] != 2 || a[0].axis != HL_AXIS_C || a[1].axis != HL_AXIS_C)
        return 0;
    return a[0].stride == 1 && a[1].stride == a[0].extent ? a[1].extent : 0;
}

const char *hl_view_text(const hl_view *v, char *buf, size_t size)
{
    hl_named_tensor t = {.ndim = v->ndim};
    memcpy(t.shape, v->dims, sizeof t.shape);
    return hl_tensor_shape_text(&t, buf, size);
}
