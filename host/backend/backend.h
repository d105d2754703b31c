/* The one interface between compiled networks and the libraries that compute them. */
#ifndef HL_BACKEND_BACKEND_H
#define HL_BACKEND_BACKEND_H

#include <heirloom/log.h>

#include "backend/step.h"
#include "base/error.h"

typedef struct hl_backend hl_backend;
/* A list of steps that always runs as a whole; the backend's own. */
typedef struct hl_sealed hl_sealed;

/* Host memory to be copied to an input tensor. */
typedef struct hl_feed {
    void *to;
    const void *from;
    size_t bytes;
} hl_feed;
enum { HL_FEED_PARTS = 6 };

/* A backend is a table of functions. Each reports failures with the layer's name through hl_fail. */
typedef struct hl_backend_ops {
    const char *name; /* "cpu", "cuda" */
    void (*close)(hl_backend *backend);

    /* Memory where the backend computes; `what` names it in an error. Freshly allocated memory is zero. */
    hl_status (*alloc)(hl_backend *backend, size_t bytes, const char *what, void **memory);
    void (*free)(hl_backend *backend, void *memory);
    /* Host memory that feed copies fastest from. */
    hl_status (*alloc_host)(hl_backend *backend, size_t bytes, void **memory);
    void (*free_host)(hl_backend *backend, void *memory);
    /* Both wait for what was run before. */
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
    /* Makes bound steps one list; the backend may merge and record them. The steps must outlive the list. */
    hl_status (*seal)(hl_backend *backend, hl_step *const *steps, int count, hl_sealed **list);
    void (*unseal)(hl_backend *backend, hl_sealed *list); /* NULL is fine */
    /* Runs a list with what its steps' `run` says now; may return before it is done (see finish). */
    hl_status (*run)(hl_backend *backend, hl_sealed *list);
    /* Copies inputs before whatever is run next. May return before they are copied: `from` must stay until
     * the next feed, or finish, has returned. At most HL_FEED_PARTS. */
    hl_status (*feed)(hl_backend *backend, const hl_feed *parts, int count);
    /* Waits until everything that was run is done. */
    hl_status (*finish)(hl_backend *backend);
    void (*release)(hl_backend *backend, hl_step *step);
    /* Frees a tensor's `native`. */
    void (*release_tensor)(hl_backend *backend, hl_tensor *tensor);

    /* May `bf16`/`f16` be used at full speed? (hl_elem) */
    bool (*is_native)(hl_backend *backend, hl_elem elem);
    /* Can it compute in this type at all? */
    bool (*computes)(hl_backend *backend, hl_elem elem);
    /* Bytes free on the device, and the most that were in use; NULL where the process's memory is what
     * counts. */
    void (*memory)(hl_backend *backend, size_t *available, size_t *peak);
} hl_backend_ops;

struct hl_backend {
    const hl_backend_ops *ops;
    bool host_memory; /* its memory is the host's: parameters are shared, not copied, and results can be read
                       * at once
                       */
    bool one_packing; /* data gradients take the weights as packed for the forward pass */
    bool bias_as_output; /* b_eff has the element type of the layer's output, not f32 */
    int threads;
    char device[16]; /* "cpu", "cuda:0" */
    hl_log log;
};

typedef struct hl_backend_options {
    const char *device; /* "cpu", "cuda", "cuda:N"; NULL: cuda where one is usable, else cpu */
    int threads;        /* of the CPU backend; 0: all cores of the process */
    bool deterministic, autotune;
    const hl_log *log; /* NULL: silent */
} hl_backend_options;
/* Opens the backend of a device. HL_E_ARG for a name that is no device's, HL_E_DEVICE where the device is not
 * there, with what was looked for and found. */
hl_status hl_backend_open(const hl_backend_options *options, hl_backend **backend);
/* Would hl_backend_open find this device (NULL: any)? The same errors, and nothing is opened. */
hl_status hl_backend_probe(const char *device);

/* Opens the CPU backend (oneDNN). threads 0: all cores of the process. */
hl_status hl_cpu_backend_open(int threads, const hl_log *log, hl_backend **backend);
/* NULL is fine. */
void hl_backend_close(hl_backend *backend);

#endif
