/* oneDNN primitives as steps: a step is a short list of calls, each a primitive with its arguments.
 * Everything is created while preparing; binding fills in addresses; running executes the list. */
#ifndef HL_BACKEND_CPU_DNNL_UTIL_H
#define HL_BACKEND_CPU_DNNL_UTIL_H

#include "backend/cpu/cpu.h"

enum { HL_DNNL_MAX_ARGS = 8, HL_DNNL_MAX_CALLS = 8 };

/* Where an argument lies: in a tensor, in a parameter or its gradient, or else at an offset of the step's
 * scratch. */
typedef struct hl_dnnl_place {
    const hl_tensor *tensor;
    size_t offset;
    const hl_param *param, *param_grad;
} hl_dnnl_place;

/* One use of a primitive. */
typedef struct hl_dnnl_call {
    dnnl_primitive_t primitive;
    int count;
    dnnl_exec_arg_t args[HL_DNNL_MAX_ARGS];
    hl_dnnl_place places[HL_DNNL_MAX_ARGS];
} hl_dnnl_call;

/* The calls of a step, in order, and the scratch they share. */
typedef struct hl_dnnl_exec {
    hl_dnnl_call calls[HL_DNNL_MAX_CALLS];
    int count;
    size_t scratch_bytes;
} hl_dnnl_exec;

/* Reserves aligned scratch; returns its offset. */
size_t hl_dnnl_reserve(hl_dnnl_exec *exec, size_t bytes);

/* Attributes of every primitive of ours: scratch from the caller, strict float32 arithmetic. */
hl_status hl_dnnl_attr_create(const hl_step *step, dnnl_primitive_attr_t *attr);

/* Appends a call of the primitive that `pd` describes, its scratchpad reserved; arguments follow by
 * hl_dnnl_call_arg. */
hl_status hl_dnnl_add_call(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec,
                           const_dnnl_primitive_desc_t pd, hl_dnnl_call **call);
hl_status hl_dnnl_call_arg(hl_cpu *cpu, const hl_step *step, hl_dnnl_call *call, int arg,
                           const dnnl_memory_desc_t *md, hl_dnnl_place place);

/* Appends a change of layout or element type. */
hl_status hl_dnnl_add_reorder(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec,
                              const dnnl_memory_desc_t *from, hl_dnnl_place from_place,
                              const dnnl_memory_desc_t *to, hl_dnnl_place to_place);

/* Makes an input that lies in `tensor` as `have` available as `want`: in place where the two are equal, else
 * through scratch. */
hl_status hl_dnnl_add_input(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, const hl_tensor *tensor,
                            const dnnl_memory_desc_t *have, const dnnl_memory_desc_t *want,
                            hl_dnnl_place *place);

/* Where an output that is made as `made` goes, if it lies in `tensor` as `have`: there where the two are
 * equal, else to scratch; hl_dnnl_add_output then brings it from scratch to the tensor. */
hl_dnnl_place hl_dnnl_output_place(hl_dnnl_exec *exec, const hl_tensor *tensor,
                                   const dnnl_memory_desc_t *made, const dnnl_memory_desc_t *have);
hl_status hl_dnnl_add_output(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, hl_dnnl_place place,
                             const dnnl_memory_desc_t *made, const hl_tensor *tensor,
                             const dnnl_memory_desc_t *have);

/* Over the whole list. Releasing takes NULL and half-built lists, and does not free `exec` itself. */
hl_status hl_dnnl_exec_bind(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, void *scratch);
hl_status hl_dnnl_exec_run(hl_cpu *cpu, const hl_step *step, const hl_dnnl_exec *exec);
void hl_dnnl_exec_release(hl_dnnl_exec *exec);

/* f32 and bf16; other element types have been refused by the step's check. */
dnnl_data_type_t hl_dnnl_type(hl_elem elem);
/* Channels-last activations: [n,c,h,w] as nhwc, or as a matrix [n,c] where `matrix`. */
hl_status hl_dnnl_activation_desc(const hl_step *step, hl_shape shape, hl_elem elem, bool matrix,
                                  dnnl_memory_desc_t *md);
/* C order over `dims`. */
hl_status hl_dnnl_plain_desc(const hl_step *step, int ndims, const int64_t *dims, dnnl_data_type_t type,
                             dnnl_memory_desc_t *md);
/* Can the library compute in this element type on this machine? */
hl_status hl_dnnl_check_elem(const hl_step *step, const hl_tensor *tensor);

/* Name of the implementation behind `pd`, e.g. "jit:avx512_core"; "" when unknown. */
const char *hl_dnnl_impl(const_dnnl_primitive_desc_t pd);
bool hl_dnnl_is_reference(const_dnnl_primitive_desc_t pd);

/* Takes `md` as the layout of an opaque tensor that has none yet. */
hl_status hl_dnnl_set_native(const hl_step *step, hl_tensor *tensor, const dnnl_memory_desc_t *md);
/* The layout of an opaque tensor; NULL where it has none, or one that oneDNN does not know. */
const dnnl_memory_desc_t *hl_dnnl_native(const hl_tensor *tensor);

#endif
