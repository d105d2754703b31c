/* Plans bound to memory, and run. */
#include "backend/cuda/cudnn_graph.h"

void hl_cudnn_destroy(cudnnBackendDescriptor_t *desc)
{
    if (*desc != NULL)
        cudnnBackendDestroyDescriptor(*desc);
    *desc = NULL;
}

hl_status hl_cudnn_bind(hl_cudnn_call *call, void *const *pointers, void *workspace, const char *subject)
{
    HL_CUDNN(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &call->pack), subject,
             "bind addresses");
    HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                      call->operands, call->uids),
             subject, "bind addresses");
    HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                                      call->operands, pointers),
             subject, "bind addresses");
    if (call->workspace > 0)
        HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
                                          1, &workspace),
                 subject, "bind addresses");
    return hl_cudnn_status(cudnnBackendFinalize(call->pack), subject, "bind addresses");
}

hl_status hl_cudnn_run(hl_cuda *cuda, const hl_cudnn_call *call, const char *subject)
{
    return hl_cudnn_status(cudnnBackendExecute(cuda->cudnn, call->plan, call->pack), subject, "run a plan");
}

void hl_cudnn_release(hl_cudnn_call *call)
{
    hl_cudnn_destroy(&call->pack);
    *call = (hl_cudnn_call){0};
}
