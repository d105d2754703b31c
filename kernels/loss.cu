/* Softmax cross-entropy with smoothed, mixed or given targets, its gradient, and the tally of losses and
 * hits.
 *
 * logits f32 [n, classes], one block a sample; losses f32 [n]; dlogits elem [n, classes]. A NaN among the
 * logits makes the loss NaN, and so does a label that is no class. */
#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/reduce.cuh"

/* q(c) of one sample. */
static __device__ __forceinline__ float target(const hl_loss_args &a, int64_t n, int64_t c, int label,
                                               int partner, float share)
{
    if (a.targets != NULL)
        return a.targets[n * a.classes + c];
    float hit = (c == label ? share : 0.0f) + (c == partner ? 1.0f - share : 0.0f);
    return a.smoothing / (float)a.classes + (1.0f - a.smoothing) * hit;
}

static __device__ bool is_class(const hl_loss_args &a, int label)
{
    return label >= 0 && label < a.classes;
}

template <typename T>
static __global__ void loss(hl_loss_args a, const hl_run_state *run, const hl_train_record *record)
{
    __shared__ float shared[32];
    const int64_t n = blockIdx.x;
    const float *row = a.logits + n * a.classes;
    int label = a.labels[n], partner = label;
    float share = 1.0f;
    if (a.mixes != NULL) {
        partner = a.labels[a.mixes[n].partner];
        share = a.mixes[n].share;
    }
    float most = -INFINITY;
    for (int64_t c = threadIdx.x; c < a.classes; c += blockDim.x)
        most = row[c] > most ? row[c] : most;
    most = hl_block_max(most, shared);
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < a.classes; c += blockDim.x)
        sum += expf(row[c] - most);
    sum = hl_block_sum(sum, shared);
    float log_sum = logf(sum), cross = 0.0f, mass = 0.0f;
    for (int64_t c = threadIdx.x; c < a.classes; c += blockDim.x) {
        float q = target(a, n, c, label, partner, share);
        float surprise = log_sum - (row[c] - most);
        cross +=
            q != 0.0f || surprise != surprise ? q * surprise : 0.0f; /* it may be infinite where q is 0 */
        mass += q;
    }
    cross = hl_block_sum(cross, shared);
    mass = a.targets != NULL ? hl_block_sum(mass, shared) : 1.0f;
    if (threadIdx.x == 0)
        a.losses[n] = a.targets != NULL || (is_class(a, label) && is_class(a, partner)) ? cross : NAN;
    if (a.dlogits != NULL) {
        float scale = record != NULL ? (float)record->loss_scale : 1.0f;
        float factor = scale * run->grad_scale / (float)a.n;
        T *out = (T *)a.dlogits + n * a.classes;
        for (int64_t c = threadIdx.x; c < a.classes; c += blockDim.x) {
            float p = expf(row[c] - most) / sum;
            out[c] = hl_from_float<T>((mass * p - target(a, n, c, label, partner, share)) * factor);
        }
    }
}

extern "C" int hl_launch_loss(const hl_loss_args *args, hl_elem elem, const hl_run_state *run,
                              const hl_train_record *record, hl_cuda_stream stream)
{
    if (args->n > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    unsigned threads = args->classes <= 32 ? 32 : args->classes <= 128 ? 128 : 256;
    if (args->n > 0)
        HL_DISPATCH_ELEM(elem, T,
                         HL_LAUNCH((loss<T>), (unsigned)args->n, threads, 0, stream, *args, run, record));
    return (int)cudaGetLastError();
}

/* Is the label's logit the largest, the first of equal ones? Never where one is NaN. */
static __device__ bool is_hit(const float *logits, int64_t classes, int32_t label)
{
    bool hit = label >= 0 && label < classes;
    for (int64_t c = 0; c < classes && hit; c++)
        hit = c < label ? logits[c] < logits[label] : logits[c] <= logits[label];
    return hit;
}

static __global__ void tally(const float *losses, const float *logits, const int32_t *labels, int64_t n,
                             int64_t classes, hl_train_record *record)
{
    __shared__ double losses_of[32];
    __shared__ int hits_of[32];
    double sum = 0.0;
    int hits = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        sum += (double)losses[i];
        hits += is_hit(logits + i * classes, classes, labels[i]) ? 1 : 0;
    }
    sum = hl_block_sum(sum, losses_of);
    hits = hl_block_sum(hits, hits_of);
    if (threadIdx.x == 0) {
        record->loss_sum += sum;
        record->seen += n;
        record->correct += hits;
        record->pending_loss += sum / (double)n;
        record->pending++;
    }
}

extern "C" int hl_launch_tally(const float *losses, const float *logits, const int32_t *labels, int64_t n,
                               int64_t classes, hl_train_record *record, hl_cuda_stream stream)
{
    HL_LAUNCH(tally, 1, HL_THREADS, 0, stream, losses, logits, labels, n, classes, record);
    return (int)cudaGetLastError();
}
