/* The optimizer step over flat arrays: SGD, Adam, AdamW as torch.optim computes them, and LARS; with the
 * penalties, the check that everything is finite, clipping to a global norm and dynamic loss scaling in
 * front, all without the host.
 *
 * value, grad, moment1, moment2 f32, cut into blocks of up to HL_OPTIMIZE_BLOCK values, each within one
 * segment. Passes: survey (a block of threads for each block of values) leaves sums in scratch; decide (one
 * block) turns them into the record's fields; adapt (LARS, one block a segment) finds each layer's rate;
 * update. */
#include "kernels/kernels.h"
#include "kernels/reduce.cuh"

typedef struct survey_sums {
    double squares, penalty, values; /* of gradients; l1 |1 + v| + pull/2 |v - start|^2; squares of values */
    int64_t bad;
} survey_sums;

typedef struct scratch_space {
    survey_sums *sums; /* [blocks] */
    float *adapt;      /* [segments] */
} scratch_space;

static scratch_space scratch_of(const hl_optimize_args *args)
{
    scratch_space s;
    s.sums = (survey_sums *)args->scratch;
    s.adapt = (float *)(s.sums + args->block_count);
    return s;
}

extern "C" size_t hl_optimize_scratch(int64_t block_count, int segment_count)
{
    return (size_t)block_count * sizeof(survey_sums) + (size_t)segment_count * sizeof(float);
}

extern "C" int64_t hl_optimize_blocks(const hl_segment *segments, int segment_count,
                                      hl_optimize_block *blocks)
{
    int64_t count = 0;
    for (int s = 0; s < segment_count; s++)
        for (int64_t at = 0; at < segments[s].count; at += HL_OPTIMIZE_BLOCK, count++) {
            int64_t left = segments[s].count - at;
            if (blocks != NULL)
                blocks[count] = (hl_optimize_block){
                    segments[s].first + at,
                    left < HL_OPTIMIZE_BLOCK ? (int32_t)left : (int32_t)HL_OPTIMIZE_BLOCK, s};
        }
    return count;
}

static __device__ __forceinline__ bool is_finite(float x)
{
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

static __device__ __forceinline__ bool is_finite(double x)
{
    return fabs(x) <= 1.7976931348623157e308;
}

static __global__ void survey(hl_optimize_args o, survey_sums *sums, const hl_train_record *record)
{
    __shared__ double shared[32];
    __shared__ int counts[32];
    const hl_optimize_block block = o.blocks[blockIdx.x];
    const hl_segment segment = o.segments[block.segment];
    const float slope = (float)((double)segment.l1 * record->loss_scale);
    const float pull = (float)((double)segment.pull * record->loss_scale);
    double squares = 0.0, penalty = 0.0, values = 0.0;
    int bad = 0;
    for (int i = (int)threadIdx.x; i < block.count; i += (int)blockDim.x) {
        int64_t at = block.first + i;
        float g = o.grad[at], v = o.value[at];
        if (segment.l1 > 0.0f) {
            float a = 1.0f + v;
            g += slope * (float)((a > 0.0f) - (a < 0.0f));
            o.grad[at] = g;
            penalty += (double)segment.l1 * fabs((double)a);
        }
        if (segment.pull > 0.0f) {
            float moved = v - o.start[at];
            g += pull * moved;
            o.grad[at] = g;
            penalty += 0.5 * (double)segment.pull * (double)moved * (double)moved;
        }
        bad += is_finite(g) ? 0 : 1;
        squares += (double)g * (double)g;
        values += (double)v * (double)v;
    }
    squares = hl_block_sum(squares, shared);
    penalty = hl_block_sum(penalty, shared);
    values = hl_block_sum(values, shared);
    bad = hl_block_sum(bad, counts);
    if (threadIdx.x == 0) {
        survey_sums total = {squares, penalty, values, bad};
        sums[blockIdx.x] = total;
    }
}

/* By one thread, with the sums over all blocks. */
static __device__ void decide_for(const hl_optimize_args &o, const survey_sums &all, const hl_run_state *run,
                                  hl_train_record *r)
{
    bool loss_finite = is_finite(r->pending_loss), finite = all.bad == 0;
    r->step_loss = (r->pending > 0 ? r->pending_loss / (double)r->pending : 0.0) + all.penalty;
    r->pending_loss = 0.0;
    r->pending = 0;
    /* A scaled gradient may overflow; that costs one step, until the scale is so small that it is not the
     * cause. */
    bool overflow = o.scaling && loss_finite && !finite && r->loss_scale > 1.0;
    if (r->bad_step == 0 && !overflow && !(finite && loss_finite))
        r->bad_step = (int64_t)run->step + 1;
    r->update = r->bad_step == 0 && !overflow ? 1 : 0;
    if (r->update != 0) {
        r->updates++;
        r->grad_norm = sqrt(all.squares) / r->loss_scale;
        double factor = o.clip_norm > 0.0f ? (double)o.clip_norm / (r->grad_norm + 1e-6) : 1.0;
        r->grad_factor = (float)((factor < 1.0 ? factor : 1.0) / r->loss_scale);
        r->bias1 = (float)(1.0 - pow((double)o.beta1, (double)r->updates));
        r->root2 = (float)sqrt(1.0 - pow((double)o.beta2, (double)r->updates));
    }
    if (!o.scaling || r->bad_step != 0)
        return;
    r->good_steps = overflow ? 0 : r->good_steps + 1;
    if (overflow) {
        r->loss_scale *= (double)HL_LOSS_SCALE_BACKOFF;
        r->skipped++;
    } else if (r->good_steps == HL_LOSS_SCALE_STEPS) {
        r->loss_scale *= (double)HL_LOSS_SCALE_GROWTH;
        r->good_steps = 0;
    }
}

static __global__ void decide(hl_optimize_args o, const survey_sums *sums, const hl_run_state *run,
                              hl_train_record *record)
{
    __shared__ double shared[32];
    __shared__ int counts[32];
    survey_sums all = {0.0, 0.0, 0.0, 0};
    int bad = 0;
    for (int64_t i = threadIdx.x; i < o.block_count; i += blockDim.x) {
        all.squares += sums[i].squares;
        all.penalty += sums[i].penalty;
        bad += sums[i].bad != 0 ? 1 : 0;
    }
    all.squares = hl_block_sum(all.squares, shared);
    all.penalty = hl_block_sum(all.penalty, shared);
    all.bad = hl_block_sum(bad, counts);
    if (threadIdx.x == 0)
        decide_for(o, all, run, record);
}

/* LARS: trust |w| / (|g| + decay |w|), 1 for layers without weights or gradients and for what is not adapted.
 */
static __global__ void adapt(hl_optimize_args o, const survey_sums *sums, const hl_train_record *record,
                             float *rates)
{
    __shared__ double shared[32];
    const int s = (int)blockIdx.x;
    const hl_segment segment = o.segments[s];
    double squares = 0.0, values = 0.0;
    for (int64_t i = threadIdx.x; i < o.block_count; i += blockDim.x)
        if (o.blocks[i].segment == s) {
            squares += sums[i].squares;
            values += sums[i].values;
        }
    squares = hl_block_sum(squares, shared);
    values = hl_block_sum(values, shared);
    double w = sqrt(values), g = (double)record->grad_factor * sqrt(squares);
    if (threadIdx.x == 0)
        rates[s] = segment.adapt && w > 0.0 && g > 0.0
                       ? (float)((double)o.trust * w / (g + (double)segment.weight_decay * w))
                       : 1.0f;
}

static __device__ __forceinline__ void sgd(const hl_optimize_args &o, int64_t at, float lr, float decay,
                                           float factor, float keep)
{
    float v = o.value[at], g = o.grad[at] * factor + decay * v;
    if (o.momentum != 0.0f) {
        float b = keep != 0.0f ? keep * o.moment1[at] + g : g;
        o.moment1[at] = b;
        g = o.nesterov ? g + o.momentum * b : b;
    }
    o.value[at] = v - lr * g;
}

static __device__ __forceinline__ void adam(const hl_optimize_args &o, int64_t at, float lr, float decay,
                                            const hl_train_record *r)
{
    bool decoupled = o.kind == HL_OPTIMIZER_ADAMW;
    float v = o.value[at] * (decoupled ? 1.0f - lr * decay : 1.0f);
    float g = o.grad[at] * r->grad_factor + (decoupled ? 0.0f : decay) * v;
    float m = o.moment1[at] + (1.0f - o.beta1) * (g - o.moment1[at]);
    float s = o.beta2 * o.moment2[at] + (1.0f - o.beta2) * g * g;
    o.moment1[at] = m;
    o.moment2[at] = s;
    o.value[at] = v - lr / r->bias1 * (m / (sqrtf(s) / r->root2 + o.eps));
}

static __global__ void update(hl_optimize_args o, const float *rates, const hl_run_state *run,
                              const hl_train_record *record)
{
    const hl_optimize_block block = o.blocks[blockIdx.x];
    const hl_segment segment = o.segments[block.segment];
    const float lr = run->lr * segment.lr_scale;
    const bool is_adam = o.kind == HL_OPTIMIZER_ADAM || o.kind == HL_OPTIMIZER_ADAMW;
    const float rate = o.kind == HL_OPTIMIZER_LARS ? rates[block.segment] : 1.0f;
    const float keep = record->updates == 1 ? 0.0f : o.momentum; /* the first update starts the buffer */
    if (record->update == 0)
        return;
    for (int i = (int)threadIdx.x; i < block.count; i += (int)blockDim.x) {
        if (is_adam)
            adam(o, block.first + i, lr, segment.weight_decay, record);
        else
            sgd(o, block.first + i, lr, segment.weight_decay * rate, record->grad_factor * rate, keep);
    }
}

extern "C" int hl_launch_optimize(const hl_optimize_args *args, const hl_run_state *run,
                                  hl_train_record *record, hl_cuda_stream stream)
{
    scratch_space s = scratch_of(args);
    if (args->block_count > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    if (args->block_count > 0)
        HL_LAUNCH(survey, (unsigned)args->block_count, HL_THREADS, 0, stream, *args, s.sums, record);
    HL_LAUNCH(decide, 1, HL_THREADS, 0, stream, *args, s.sums, run, record);
    if (args->kind == HL_OPTIMIZER_LARS && args->segment_count > 0)
        HL_LAUNCH(adapt, (unsigned)args->segment_count, HL_THREADS, 0, stream, *args, s.sums, record,
                  s.adapt);
    if (args->block_count > 0)
        HL_LAUNCH(update, (unsigned)args->block_count, HL_THREADS, 0, stream, *args, s.adapt, run, record);
    return (int)cudaGetLastError();
}
