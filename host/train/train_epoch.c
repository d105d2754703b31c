/* One epoch of training: batches, gradients, optimizer steps. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "graph/params.h"
#include "train/trainer.h"

void hl_trainer_poll(hl_trainer *t)
{
    hl_request request = t->options.poll != NULL ? t->options.poll(t->options.user) : HL_GO_ON;
    t->stop_asked = t->stop_asked || request == HL_STOP;
    t->checkpoint_asked = t->checkpoint_asked || request == HL_CHECKPOINT;
}

void hl_trainer_report(const hl_trainer *t, double loss, const hl_metrics *val)
{
    if (t->options.progress == NULL)
        return;
    int64_t step = (int64_t)t->run->step;
    double elapsed = hl_seconds() - t->started;
    const hl_progress progress = {
        .epoch = t->at.epoch,
        .epochs = t->epochs,
        .step = step,
        .steps = t->steps,
        .loss = loss,
        .images_per_second = t->images_per_second,
        .seconds_left = t->steps_here > 0 ? elapsed / (double)t->steps_here * (double)(t->steps - step) : NAN,
        .val = val,
    };
    t->options.progress(t->options.user, &progress);
}

static hl_status diverged(const hl_trainer *t, hl_program *program, const char *what)
{
    char name[160], where[224];
    HL_TRY(hl_program_find_nonfinite(program, name, sizeof name));
    snprintf(where, sizeof where, "epoch %lld, step %lld", (long long)t->at.epoch, (long long)t->run->step);
    return hl_fail(HL_E_NONFINITE, where,
                   "use a smaller --lr, --clip-grad 1, a longer --warmup-epochs or --precision fp32",
                   "%s is not finite; the first layer with such a value is %s", what,
                   name[0] != '\0' ? name : "the loss");
}

/* Is every one of n floats finite? Looks at exponents only, so that the loop vectorises. */
static bool all_finite(const float *values, int64_t n)
{
    enum { CHUNK = 4096 };
    for (int64_t first = 0; first < n; first += CHUNK) {
        int64_t end = n - first < CHUNK ? n : first + CHUNK;
        uint32_t bad = 0;
        for (int64_t i = first; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            bad |= (bits & 0x7f800000u) == 0x7f800000u;
        }
        if (bad != 0)
            return false;
    }
    return true;
}

/* Adds the batch's losses to the epoch's, and its mean to the step's. */
static hl_status read_losses(hl_trainer *t, hl_program *program, const hl_batch *batch)
{
    const hl_backend_ops *ops = t->session.backend->ops;
    int64_t n = batch->count, classes = t->model->classes;
    HL_TRY(ops->finish(t->session.backend));
    HL_TRY(ops->download(t->session.backend, t->losses, hl_program_losses(program),
                         (size_t)n * sizeof *t->losses));
    HL_TRY(ops->download(t->session.backend, t->logits, hl_program_logits(program),
                         (size_t)(n * classes) * sizeof *t->logits));
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)t->losses[i];
    if (!isfinite(sum))
        return diverged(t, program, "the loss");
    t->at.correct += hl_count_correct(t->logits, batch->labels, n, classes);
    t->at.loss_sum += sum;
    t->at.seen += n;
    t->pending_loss += sum / (double)n;
    return HL_OK;
}

/* How many batches the optimizer step of batch `number` sums: fewer than `accumulate` at the end of an epoch.
 */
static int64_t group_size(const hl_trainer *t, int64_t number)
{
    int64_t left = t->batches - number / t->options.accumulate * t->options.accumulate;
    return left < t->options.accumulate ? left : t->options.accumulate;
}

static hl_status add_gradients(hl_trainer *t, const hl_batch *batch, hl_program **program)
{
    int64_t side = t->model->preprocess.size;
    HL_TRY(hl_session_program(&t->session, batch->count, true, t->elem, program));
    t->cold = t->cold || t->session.compiled;
    t->run->grad_scale = 1.0f / (float)group_size(t, batch->number);
    t->run->grad_keep = t->pending > 0 ? 1.0f : 0.0f;
    HL_TRY(hl_session_feed(&t->session, *program, batch, side * side * 3));
    HL_TRY(hl_program_forward(*program));
    HL_TRY(read_losses(t, *program, batch));
    HL_TRY(hl_program_backward(*program));
    t->run->micro_step++;
    t->pending++;
    t->pending_images += batch->count;
    return HL_OK;
}

static void note_speed(hl_trainer *t)
{
    double now = hl_seconds(), seconds = now - t->step_started;
    if (!t->cold) {
        t->at.timed_images += t->pending_images;
        t->at.timed_seconds += seconds;
    }
    t->images_per_second = (double)t->pending_images / seconds;
    t->step_started = now;
    t->cold = false;
}

static hl_status optimizer_step(hl_trainer *t, hl_program *program)
{
    const hl_placement *placement = t->model->graph->placement;
    HL_TRY(t->session.backend->ops->finish(t->session.backend));
    /* Caught here, the parameters are still good. */
    if (t->session.backend->host_memory && !all_finite(placement->grads, placement->count))
        return diverged(t, program, "a gradient");
    double lr =
        hl_schedule_lr(t->options.schedule, t->options.lr, (int64_t)t->run->step, t->steps, t->warmup_steps);
    t->run->lr = (float)lr;
    double penalty, loss = t->pending_loss / (double)t->pending;
    HL_TRY(hl_optimizer_penalty(t->optimizer, &penalty));
    loss += penalty;
    HL_TRY(hl_optimizer_step(t->optimizer));
    hl_session_changed(&t->session);
    t->steps_here++;
    note_speed(t);
    t->pending = t->pending_images = 0;
    t->pending_loss = 0.0;
    if (t->run->step % (uint64_t)t->options.log_every == 0)
        HL_TRY(hl_run_folder_log_step(t->folder, t->at.epoch, (int64_t)t->run->step, loss, lr,
                                      t->images_per_second));
    hl_trainer_report(t, loss, NULL);
    hl_trainer_poll(t);
    int64_t every = t->options.checkpoint_every;
    bool due = every > 0 && t->run->step % (uint64_t)every == 0;
    if ((due || t->checkpoint_asked) && !t->stop_asked) {
        t->checkpoint_asked = false;
        HL_TRY(hl_trainer_checkpoint(t));
        t->step_started = hl_seconds();
    }
    return HL_OK;
}

static bool goes_on(const hl_trainer *t)
{
    return !t->stop_asked && (int64_t)t->run->step < t->steps;
}

hl_status hl_trainer_epoch(hl_trainer *t)
{
    hl_program *program = NULL;
    hl_batch batch;
    t->pending = t->pending_images = 0;
    t->pending_loss = 0.0;
    t->cold = t->cold || t->steps_here == 0;
    t->step_started = hl_seconds();
    if (!goes_on(t))
        return HL_OK;
    HL_TRY(hl_loader_start_epoch(t->train, (uint32_t)t->at.epoch, t->at.batch));
    while (goes_on(t)) {
        HL_TRY(hl_loader_next(t->train, &batch));
        bool over = batch.number < 0;
        /* Where whole batches were bad and left out, a step can end before its last batch. */
        bool next_step = !over && t->pending > 0 &&
                         batch.number / t->options.accumulate != (t->at.batch - 1) / t->options.accumulate;
        if ((over && t->pending > 0) || next_step)
            HL_TRY(optimizer_step(t, program));
        if (over || !goes_on(t))
            break;
        HL_TRY(add_gradients(t, &batch, &program));
        t->at.batch = batch.number + 1;
        hl_loader_release(t->train, &batch);
        if (t->at.batch % t->options.accumulate == 0 || t->at.batch == t->batches)
            HL_TRY(optimizer_step(t, program));
    }
    return HL_OK;
}
