/* Device memory, and the way of inputs into it.
 *
 * Blocks that are given back are kept for the next request of about their size, so that compiling a program
 * again (another batch size, evaluation) costs no cudaMalloc, which synchronises. Nothing is taken while
 * training runs.
 *
 * Inputs go from pinned memory to one of two staging buffers on the copy stream, while the compute stream
 * still works on the batch before, and from there to the input tensors on the compute stream. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/memory.h"

enum { GRANULE = 512, STAGES = 2 };

typedef struct block {
    void *memory;
    size_t bytes;
    bool used;
} block;

typedef struct stage {
    void *memory;
    size_t bytes;
    cudaEvent_t filled, emptied; /* recorded on the copy and on the compute stream */
} stage;

struct hl_cuda_memory {
    block *blocks;
    size_t count, capacity, in_use, peak;
    uintptr_t next; /* planner: the next made-up address */
    stage stages[STAGES];
    int turn;
};

hl_status hl_cuda_memory_open(hl_cuda *cuda)
{
    hl_cuda_memory *m = cuda->memory = calloc(1, sizeof *m);
    if (m == NULL)
        return hl_fail_nomem("CUDA memory", sizeof *m);
    m->next = (uintptr_t)1 << 40;
    for (int i = 0; i < STAGES && !cuda->planner; i++) {
        HL_CUDA(cudaEventCreateWithFlags(&m->stages[i].filled, cudaEventDisableTiming), "CUDA",
                "create an event");
        HL_CUDA(cudaEventCreateWithFlags(&m->stages[i].emptied, cudaEventDisableTiming), "CUDA",
                "create an event");
    }
    return HL_OK;
}

void hl_cuda_memory_close(hl_cuda *cuda)
{
    hl_cuda_memory *m = cuda->memory;
    if (m == NULL)
        return;
    for (int i = 0; i < STAGES; i++) {
        hl_cuda_free(&cuda->base, m->stages[i].memory);
        if (m->stages[i].filled != NULL)
            cudaEventDestroy(m->stages[i].filled);
        if (m->stages[i].emptied != NULL)
            cudaEventDestroy(m->stages[i].emptied);
    }
    for (size_t i = 0; i < m->count && !cuda->planner; i++)
        cudaFree(m->blocks[i].memory);
    free(m->blocks);
    free(m);
    cuda->memory = NULL;
}

/* A kept block that fits without wasting more than an eighth. */
static block *find_kept(hl_cuda_memory *m, size_t bytes)
{
    block *best = NULL;
    for (size_t i = 0; i < m->count; i++) {
        block *b = &m->blocks[i];
        if (!b->used && b->bytes >= bytes && b->bytes - bytes <= bytes / 8 &&
            (best == NULL || b->bytes < best->bytes))
            best = b;
    }
    return best;
}

/* Gives all kept blocks back to CUDA. */
static bool trim(hl_cuda_memory *m)
{
    size_t kept = 0;
    bool any = false;
    for (size_t i = 0; i < m->count; i++) {
        if (m->blocks[i].used) {
            m->blocks[kept++] = m->blocks[i];
            continue;
        }
        any = cudaFree(m->blocks[i].memory) == cudaSuccess || any;
    }
    m->count = kept;
    return any;
}

static hl_status take(hl_cuda *cuda, size_t bytes, const char *what, void **memory)
{
    hl_cuda_memory *m = cuda->memory;
    if (cuda->planner) {
        *memory = (void *)m->next;
        m->next += bytes;
        return HL_OK;
    }
    cudaError_t status = cudaMalloc(memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        if (trim(m))
            status = cudaMalloc(memory, bytes);
    }
    if (status != cudaErrorMemoryAllocation)
        return hl_cuda_status(status, what, "allocate memory");
    (void)cudaGetLastError();
    size_t available = 0, total = 0;
    (void)cudaMemGetInfo(&available, &total);
    return hl_fail(HL_E_NOMEM, what, "choose a smaller --batch-size, or --precision bf16",
                   "%.2f GiB are wanted where %s has %.2f of %.2f GiB left", (double)bytes / 0x1p30,
                   cuda->base.device, (double)available / 0x1p30, (double)total / 0x1p30);
}

hl_status hl_cuda_alloc(hl_backend *backend, size_t bytes, const char *what, void **memory)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    hl_cuda_memory *m = cuda->memory;
    *memory = NULL;
    if (bytes > SIZE_MAX - GRANULE)
        return hl_fail_nomem(what, bytes);
    bytes = bytes == 0 ? GRANULE : (bytes + GRANULE - 1) / GRANULE * GRANULE;
    HL_TRY(hl_grow((void **)&m->blocks, &m->capacity, m->count + 1, sizeof *m->blocks, what));
    block *b = find_kept(m, bytes);
    if (b == NULL) {
        void *fresh;
        HL_TRY(take(cuda, bytes, what, &fresh));
        b = &m->blocks[m->count++];
        *b = (block){.memory = fresh, .bytes = bytes};
    }
    b->used = true;
    m->in_use += b->bytes;
    m->peak = m->in_use > m->peak ? m->in_use : m->peak;
    *memory = b->memory;
    if (cuda->planner)
        return HL_OK;
    return hl_cuda_status(cudaMemsetAsync(b->memory, 0, b->bytes, cuda->compute), what, "clear memory");
}

void hl_cuda_free(hl_backend *backend, void *memory)
{
    hl_cuda_memory *m = ((hl_cuda *)backend)->memory;
    for (size_t i = 0; i < m->count && memory != NULL; i++)
        if (m->blocks[i].memory == memory && m->blocks[i].used) {
            m->blocks[i].used = false;
            m->in_use -= m->blocks[i].bytes;
            return;
        }
}

hl_status hl_cuda_alloc_host(hl_backend *backend, size_t bytes, void **memory)
{
    *memory = NULL;
    if (((hl_cuda *)backend)->planner)
        return hl_alloc(bytes, "input buffers", memory);
    return hl_cuda_status(cudaHostAlloc(memory, bytes > 0 ? bytes : 1, cudaHostAllocDefault), "input buffers",
                          "allocate pinned memory");
}

void hl_cuda_free_host(hl_backend *backend, void *memory)
{
    if (((hl_cuda *)backend)->planner)
        free(memory);
    else if (memory != NULL)
        cudaFreeHost(memory);
}

hl_status hl_cuda_upload(hl_backend *backend, void *to, const void *from_host, size_t bytes)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    if (cuda->planner)
        return HL_OK;
    HL_CUDA(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, cuda->compute), cuda->base.device,
            "copy to the device");
    return hl_cuda_status(cudaStreamSynchronize(cuda->compute), cuda->base.device, "copy to the device");
}

hl_status hl_cuda_download(hl_backend *backend, void *to_host, const void *from, size_t bytes)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    if (cuda->planner) {
        memset(to_host, 0, bytes);
        return HL_OK;
    }
    HL_CUDA(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, cuda->compute), cuda->base.device,
            "copy from the device");
    return hl_cuda_status(cudaStreamSynchronize(cuda->compute), cuda->base.device, "copy from the device");
}

/* Staging grows to the largest batch seen, which is the first of a run. */
static hl_status make_room(hl_cuda *cuda, stage *s, size_t bytes)
{
    if (s->bytes >= bytes)
        return HL_OK;
    /* Whatever still reads the old buffer must be done before someone else gets it. */
    HL_CUDA(cudaStreamSynchronize(cuda->compute), "input", "wait for the device");
    hl_cuda_free(&cuda->base, s->memory);
    s->bytes = 0;
    s->memory = NULL;
    HL_TRY(hl_cuda_alloc(&cuda->base, bytes, "input", &s->memory));
    s->bytes = bytes;
    /* The buffer was cleared on the compute stream. */
    return hl_cuda_status(cudaEventRecord(s->emptied, cuda->compute), "input", "record an event");
}

hl_status hl_cuda_feed(hl_backend *backend, const hl_feed *parts, int count)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    hl_cuda_memory *m = cuda->memory;
    size_t total = 0, at = 0;
    if (cuda->planner)
        return HL_OK;
    stage *s = &m->stages[m->turn], *before = &m->stages[(m->turn + 1) % STAGES];
    for (int i = 0; i < count; i++)
        total += (parts[i].bytes + GRANULE - 1) / GRANULE * GRANULE;
    HL_TRY(make_room(cuda, s, total));
    HL_CUDA(cudaStreamWaitEvent(cuda->copy, s->emptied, 0), "input", "order the streams");
    for (int i = 0; i < count; i++) {
        HL_CUDA(cudaMemcpyAsync((char *)s->memory + at, parts[i].from, parts[i].bytes, cudaMemcpyHostToDevice,
                                cuda->copy),
                "input", "copy to the device");
        at += (parts[i].bytes + GRANULE - 1) / GRANULE * GRANULE;
    }
    HL_CUDA(cudaEventRecord(s->filled, cuda->copy), "input", "record an event");
    HL_CUDA(cudaStreamWaitEvent(cuda->compute, s->filled, 0), "input", "order the streams");
    at = 0;
    for (int i = 0; i < count; i++) {
        HL_CUDA(cudaMemcpyAsync(parts[i].to, (char *)s->memory + at, parts[i].bytes, cudaMemcpyDeviceToDevice,
                                cuda->compute),
                "input", "copy on the device");
        at += (parts[i].bytes + GRANULE - 1) / GRANULE * GRANULE;
    }
    HL_CUDA(cudaEventRecord(s->emptied, cuda->compute), "input", "record an event");
    m->turn = (m->turn + 1) % STAGES;
    /* The promise of feed: the host memory of the one before is free again. It was copied before this one
     * began, and never more than two batches are on their way. */
    return before->bytes > 0
               ? hl_cuda_status(cudaEventSynchronize(before->filled), "input", "wait for a copy")
               : HL_OK;
}

void hl_cuda_memory_use(hl_backend *backend, size_t *available, size_t *peak)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    size_t total = 0;
    *available = 0;
    *peak = cuda->memory->peak;
    if (cuda->planner)
        return;
    if (cudaMemGetInfo(available, &total) != cudaSuccess)
        (void)cudaGetLastError();
    for (size_t i = 0; i < cuda->memory->count; i++) /* kept blocks are given back when memory runs out */
        *available += cuda->memory->blocks[i].used ? 0 : cuda->memory->blocks[i].bytes;
}
