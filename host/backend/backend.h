/* The one interface between compiled networks and the libraries that compute them. */
#ifndef HL_BACKEND_BACKEND_H
#define HL_BACKEND_BACKEND_H

#include <heirloom/log.h>

#include "backend/step.h"
#include "base/error.h"

typedef struct hl_backend hl_backend;

/* A backend is a table of functions. Each reports failures with the layer's name through hl_fail. */
typedef struct hl_backend_ops {
    const char *name; /* "cpu", "cuda" */
    void (*close)(hl_backend *backend);

    /* Memory where the backend computes; `what` names it in an error. Freshly allocated memory is zero. */
    hl_status (*alloc)(hl_backend *backend, size_t bytes, const char *what, void **memory);
    void (*free)(hl_backend *backend, void *memory);
    hl_status (*upload)(hl_backend *backend, void *to, const void *from_host, size_t bytes);
    hl_status (*download)(hl_backend *backend, void *to_host, const void *from, size_t bytes);

    /* Can it run this step? On false, the reason is recorded as with hl_fail. Uses the predicate that prepare
     * uses. */
    bool (*supports)(hl_backend *backend, const hl_step *step);
    /* Chooses an implementation. Sets step->exec, step->scratch_bytes, and bytes and native of opaque
     * operands. The steps of a program are prepared in the order they run, except that FOLD steps come last.
     */
    hl_status (*prepare)(hl_backend *backend, hl_step *step);
    /* Tensors have their addresses now, `scratch` has the largest scratch_bytes of the program. */
    hl_status (*bind)(hl_backend *backend, hl_step *step, void *scratch);
    /* Runs bound steps in order; may return before they are done (see finish). */
    hl_status (*run)(hl_backend *backend, hl_step *const *steps, int count);
    /* Waits until everything that was run is done. */
    hl_status (*finish)(hl_backend *backend);
    void (*release)(hl_backend *backend, hl_step *step);
    /* Frees a tensor's `native`. */
    void (*release_tensor)(hl_backend *backend, hl_tensor *tensor);

    /* May `bf16`/`f16` be used at full speed? (hl_elem) */
    bool (*is_native)(hl_backend *backend, hl_elem elem);
} hl_backend_ops;

struct hl_backend {
    const hl_backend_ops *ops;
    bool host_memory; /* its memory is the host's: parameters are shared, not copied */
    int threads;
    hl_log log;
};

/* Opens the CPU backend (oneDNN). threads 0: all cores of the process. */
hl_status hl_cpu_backend_open(int threads, const hl_log *log, hl_backend **backend);
/* NULL is fine. */
void hl_backend_close(hl_backend *backend);

#endif
