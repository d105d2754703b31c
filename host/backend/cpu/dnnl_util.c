#include "backend/cpu/dnnl_util.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

size_t hl_dnnl_reserve(hl_dnnl_exec *exec, size_t bytes)
{
    size_t offset = exec->scratch_bytes;
    exec->scratch_bytes += (bytes + HL_ALIGNMENT - 1) / HL_ALIGNMENT * HL_ALIGNMENT;
    return offset;
}

hl_status hl_dnnl_attr_create(const hl_step *step, dnnl_primitive_attr_t *attr)
{
    *attr = NULL;
    HL_DNNL(dnnl_primitive_attr_create(attr), step, "create attributes");
    dnnl_status_t status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_fpmath_mode(*attr, dnnl_fpmath_mode_strict);
    if (status != dnnl_success)
        dnnl_primitive_attr_destroy(*attr);
    return hl_cpu_dnnl_status(status, step, "set attributes");
}

hl_status hl_dnnl_call_arg(hl_cpu *cpu, const hl_step *step, hl_dnnl_call *call, int arg,
                           const dnnl_memory_desc_t *md, hl_dnnl_place place)
{
    if (call->count == HL_DNNL_MAX_ARGS)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a oneDNN call has more than %d arguments",
                       HL_DNNL_MAX_ARGS);
    dnnl_memory_t memory = NULL;
    HL_DNNL(dnnl_memory_create(&memory, md, cpu->engine, DNNL_MEMORY_NONE), step, "describe an argument");
    call->args[call->count] = (dnnl_exec_arg_t){arg, memory};
    call->places[call->count++] = place;
    return HL_OK;
}

hl_status hl_dnnl_add_call(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec,
                           const_dnnl_primitive_desc_t pd, hl_dnnl_call **call)
{
    if (exec->count == HL_DNNL_MAX_CALLS)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a step has more than %d oneDNN calls",
                       HL_DNNL_MAX_CALLS);
    *call = &exec->calls[exec->count++];
    HL_DNNL(dnnl_primitive_create(&(*call)->primitive, pd), step, "create a primitive");
    const dnnl_memory_desc_t *scratchpad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t bytes = scratchpad != NULL ? dnnl_memory_desc_get_size(scratchpad) : 0;
    if (bytes == 0)
        return HL_OK;
    hl_dnnl_place place = {.offset = hl_dnnl_reserve(exec, bytes)};
    return hl_dnnl_call_arg(cpu, step, *call, DNNL_ARG_SCRATCHPAD, scratchpad, place);
}

hl_status hl_dnnl_add_reorder(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec,
                              const dnnl_memory_desc_t *from, hl_dnnl_place from_place,
                              const dnnl_memory_desc_t *to, hl_dnnl_place to_place)
{
    dnnl_primitive_attr_t attr;
    HL_TRY(hl_dnnl_attr_create(step, &attr));
    dnnl_primitive_desc_t pd = NULL;
    hl_dnnl_call *call = NULL;
    hl_status status =
        hl_cpu_dnnl_status(dnnl_reorder_primitive_desc_create(&pd, from, cpu->engine, to, cpu->engine, attr),
                           step, "choose a change of layout");
    dnnl_primitive_attr_destroy(attr);
    if (status == HL_OK)
        status = hl_dnnl_add_call(cpu, step, exec, pd, &call);
    if (status == HL_OK)
        status = hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_FROM, from, from_place);
    if (status == HL_OK)
        status = hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_TO, to, to_place);
    if (pd != NULL)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

hl_status hl_dnnl_add_input(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, const hl_tensor *tensor,
                            const dnnl_memory_desc_t *have, const dnnl_memory_desc_t *want,
                            hl_dnnl_place *place)
{
    *place = (hl_dnnl_place){.tensor = tensor};
    if (dnnl_memory_desc_equal(have, want))
        return HL_OK;
    hl_dnnl_place staged = {.offset = hl_dnnl_reserve(exec, dnnl_memory_desc_get_size(want))};
    HL_TRY(hl_dnnl_add_reorder(cpu, step, exec, have, *place, want, staged));
    *place = staged;
    return HL_OK;
}

hl_dnnl_place hl_dnnl_output_place(hl_dnnl_exec *exec, const hl_tensor *tensor,
                                   const dnnl_memory_desc_t *made, const dnnl_memory_desc_t *have)
{
    return dnnl_memory_desc_equal(made, have)
               ? (hl_dnnl_place){.tensor = tensor}
               : (hl_dnnl_place){.offset = hl_dnnl_reserve(exec, dnnl_memory_desc_get_size(made))};
}

hl_status hl_dnnl_add_output(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, hl_dnnl_place place,
                             const dnnl_memory_desc_t *made, const hl_tensor *tensor,
                             const dnnl_memory_desc_t *have)
{
    return place.tensor != NULL
               ? HL_OK
               : hl_dnnl_add_reorder(cpu, step, exec, made, place, have, (hl_dnnl_place){.tensor = tensor});
}

static void *address_of(const hl_dnnl_place *place, void *scratch)
{
    if (place->tensor != NULL)
        return place->tensor->data;
    if (place->param != NULL)
        return place->param->value;
    return place->param_grad != NULL ? (void *)place->param_grad->grad : (char *)scratch + place->offset;
}

hl_status hl_dnnl_exec_bind(hl_cpu *cpu, const hl_step *step, hl_dnnl_exec *exec, void *scratch)
{
    for (int c = 0; c < exec->count; c++) {
        hl_dnnl_call *call = &exec->calls[c];
        for (int a = 0; a < call->count; a++) {
            const hl_dnnl_place *place = &call->places[a];
            void *address = address_of(place, scratch);
            HL_DNNL(dnnl_memory_set_data_handle_v2(call->args[a].memory, address, cpu->stream), step,
                    "bind an argument");
        }
    }
    return HL_OK;
}

hl_status hl_dnnl_exec_run(hl_cpu *cpu, const hl_step *step, const hl_dnnl_exec *exec)
{
    for (int c = 0; c < exec->count; c++) {
        const hl_dnnl_call *call = &exec->calls[c];
        HL_DNNL(dnnl_primitive_execute(call->primitive, cpu->stream, call->count, call->args), step, "run");
    }
    return HL_OK;
}

void hl_dnnl_exec_release(hl_dnnl_exec *exec)
{
    if (exec == NULL)
        return;
    for (int c = 0; c < exec->count; c++) {
        hl_dnnl_call *call = &exec->calls[c];
        for (int a = 0; a < call->count; a++)
            dnnl_memory_destroy(call->args[a].memory);
        if (call->primitive != NULL)
            dnnl_primitive_destroy(call->primitive);
    }
    memset(exec, 0, sizeof *exec);
}

dnnl_data_type_t hl_dnnl_type(hl_elem elem)
{
    return elem == HL_ELEM_BF16 ? dnnl_bf16 : dnnl_f32;
}

hl_status hl_dnnl_activation_desc(const hl_step *step, hl_shape shape, hl_elem elem, bool matrix,
                                  dnnl_memory_desc_t *md)
{
    const dnnl_dims_t dims = {shape.n, shape.c, shape.h, shape.w};
    HL_DNNL(dnnl_memory_desc_init_by_tag(md, matrix ? 2 : 4, dims, hl_dnnl_type(elem),
                                         matrix ? dnnl_ab : dnnl_nhwc),
            step, "describe activations");
    return HL_OK;
}

hl_status hl_dnnl_plain_desc(const hl_step *step, int ndims, const int64_t *dims, dnnl_data_type_t type,
                             dnnl_memory_desc_t *md)
{
    static const dnnl_format_tag_t tags[] = {
        dnnl_format_tag_undef, dnnl_a, dnnl_ab, dnnl_abc, dnnl_abcd, dnnl_abcde};
    dnnl_dims_t copy = {0};
    memcpy(copy, dims, (size_t)ndims * sizeof *dims);
    HL_DNNL(dnnl_memory_desc_init_by_tag(md, ndims, copy, type, tags[ndims]), step, "describe weights");
    return HL_OK;
}

hl_status hl_dnnl_check_elem(const hl_step *step, const hl_tensor *tensor)
{
    if (tensor->elem == HL_ELEM_F32)
        return HL_OK;
    if (tensor->elem != HL_ELEM_BF16)
        return hl_fail(HL_E_UNSUPPORTED, step->name, "use fp32 or bf16",
                       "the CPU backend computes in fp32 and bf16 only");
    /* From AVX-512 on oneDNN has bfloat16, by its own instructions or by emulation. */
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    bool everything = isa == (unsigned)dnnl_cpu_isa_all;
    if (!everything && (isa & (unsigned)dnnl_cpu_isa_avx512_core) != (unsigned)dnnl_cpu_isa_avx512_core)
        return hl_fail(HL_E_UNSUPPORTED, step->name, "use fp32", "bf16 needs a processor with AVX-512");
    return HL_OK;
}

const char *hl_dnnl_impl(const_dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    if (dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) != dnnl_success || name == NULL)
        return "";
    return name;
}

bool hl_dnnl_is_reference(const_dnnl_primitive_desc_t pd)
{
    return strncmp(hl_dnnl_impl(pd), "ref", 3) == 0;
}

hl_status hl_dnnl_set_native(const hl_step *step, hl_tensor *tensor, const dnnl_memory_desc_t *md)
{
    const hl_cpu_layout layout = {.kind = HL_LAYOUT_DNNL, .md = *md};
    return hl_cpu_set_layout(step, tensor, &layout, dnnl_memory_desc_get_size(md));
}

const dnnl_memory_desc_t *hl_dnnl_native(const hl_tensor *tensor)
{
    const hl_cpu_layout *layout = tensor->native;
    return layout != NULL && layout->kind == HL_LAYOUT_DNNL ? &layout->md : NULL;
}
