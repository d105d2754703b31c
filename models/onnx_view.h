/* How ONNX sees a value that we keep channels-last: a tensor whose dimensions are made of our axes.
 *
 * A view is a list of dimensions, each a product of atoms, outermost first: a whole axis, or a part of one
 * (`extent` steps of `stride`, where a Reshape has split it). Atoms of extent 1 are left out, so dimensions
 * of 1 come and go freely. Transposing permutes dimensions, reshaping groups atoms anew, and no data moves:
 * what comes from PyTorch (channels first) and from TensorFlow (channels last, with transpositions around its
 * convolutions) ends up as the same layers. */
#ifndef HL_MODELS_ONNX_VIEW_H
#define HL_MODELS_ONNX_VIEW_H

#include "base/compute.h"
#include "io/tensor_map.h"

typedef enum hl_axis { HL_AXIS_N, HL_AXIS_H, HL_AXIS_W, HL_AXIS_C } hl_axis;

typedef struct hl_atom {
    hl_axis axis;
    int64_t stride, extent; /* in steps of the axis */
} hl_atom;

enum { HL_VIEW_ATOMS = 16 };

typedef struct hl_view {
    int ndim, atom_count;
    int64_t dims[HL_TENSOR_MAX_NDIM];
    int begin[HL_TENSOR_MAX_NDIM + 1]; /* atoms of dimension d: begin[d] .. begin[d + 1] */
    hl_atom atoms[HL_VIEW_ATOMS];
} hl_view;

/* [batch, c, h, w] and [batch, h, w, c] */
hl_view hl_view_nchw(hl_shape shape, int64_t batch);
hl_view hl_view_nhwc(hl_shape shape, int64_t batch);

/* Elements in all. */
int64_t hl_view_count(const hl_view *view);

/* False, and the view is as it was, where an atom would have to be cut at no divisor of it. */
bool hl_view_reshape(hl_view *view, int ndim, const int64_t *dims);
/* perm[d]: the old dimension that becomes d; a permutation of 0 .. ndim - 1. */
void hl_view_transpose(hl_view *view, const int64_t *perm);
/* Dimension d becomes `extent` long: of channels, or of nothing (extent 1). */
void hl_view_set_channels(hl_view *view, int d, int64_t extent);
/* Leaves dimension d, which is 1, out. */
void hl_view_drop(hl_view *view, int d);

/* Is dimension d the whole of that axis of `shape`, in its order? */
bool hl_view_is(const hl_view *view, int d, hl_axis axis, hl_shape shape);
/* Is dimension d, or are all dimensions, the same in both? */
bool hl_view_same_dim(const hl_view *a, const hl_view *b, int d);
bool hl_view_same(const hl_view *a, const hl_view *b);
/* Are dimension d's atoms all of height and width? True of none. */
bool hl_view_is_spatial(const hl_view *view, int d);
/* [n, c, h, w] or the like of whole axes in order. */
bool hl_view_is_nchw(const hl_view *view, hl_shape shape);
/* Channels split in `groups` and put together again with the two parts swapped: a channel shuffle. 0: none.
 */
int64_t hl_view_shuffle(const hl_view *view, int d);

/* "[1, 64, 56, 56]" into buf, returned. */
const char *hl_view_text(const hl_view *view, char *buf, size_t size);

#endif
