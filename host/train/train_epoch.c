/* One epoch of training: batches, gradients, optimizer steps. */
#include <math.h>
#include <stdio.h>

#include "train/mix.h"
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

/* The loss or a gradient was not finite; no update has been made since, so the same values can be had again.
 */
static hl_status diverged(hl_trainer *t, hl_program *program)
{
    char name[160], where[224];
    const hl_train_record *record = &t->at.record;
    if (t->run->micro_step > 0)
        t->run->micro_step--; /* the same dropout masks */
    HL_TRY(hl_program_find_nonfinite(program, name, sizeof name));
    snprintf(where, sizeof where, "epoch %lld, step %lld", (long long)t->at.epoch,
             (long long)(record->bad_step - 1));
    return hl_fail(HL_E_NONFINITE, where,
                   "use a smaller --lr, --clip-grad 1, a longer --warmup-epochs or --precision fp32",
                   "%s is not finite; the first layer with such a value is %s",
                   isfinite(record->step_loss) ? "a gradient" : "the loss",
                   name[0] != '\0' ? name : "in an earlier batch");
}

/* How many batches the optimizer step of batch `number` sums: fewer than `accumulate` at the end of an epoch.
 */
static int64_t group_size(const hl_trainer *t, int64_t number)
{
    int64_t left = t->batches - number / t->options.accumulate * t->options.accumulate;
    return left < t->options.accumulate ? left : t->options.accumulate;
}

/* The batch before is on the device by now; this one will be when the next has been fed. */
static void hold(hl_trainer *t, hl_batch *batch)
{
    hl_loader_release(t->train, &t->held);
    t->held = *batch;
    if (t->session.backend->host_memory)
        hl_loader_release(t->train, &t->held);
}

static hl_status train_batch(hl_trainer *t, hl_batch *batch, bool update, hl_program **program)
{
    int64_t side = t->model->preprocess.size;
    HL_TRY(hl_session_program(&t->session, batch->count, true, t->type, program));
    t->cold = t->cold || t->session.first_run;
    t->run->grad_scale = 1.0f / (float)group_size(t, batch->number);
    t->run->grad_keep = t->pending > 0 ? 1.0f : 0.0f;
    t->run->lr = (float)hl_schedule_lr(t->options.schedule, t->options.lr, (int64_t)t->run->step, t->steps,
                                       t->warmup_steps);
    if (t->mixes != NULL)
        hl_mix_draw(t->mixes, batch->count, side, side, t->options.mixup, t->options.cutmix, t->options.seed,
                    (uint32_t)t->at.epoch, (uint64_t)batch->number);
    HL_TRY(hl_session_feed(&t->session, *program, batch, hl_model_image_bytes(t->model), t->mixes));
    HL_TRY(hl_session_train(&t->session, update));
    t->pending++;
    t->pending_images += batch->count;
    hold(t, batch);
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

/* After an optimizer step. Its loss is read back when a line of the log is due, and whenever that costs
 * nothing. */
static hl_status after_step(hl_trainer *t, hl_program *program)
{
    int64_t step = (int64_t)t->run->step, every = t->options.checkpoint_every;
    bool log_due = step % t->options.log_every == 0, last = step == t->steps;
    double loss = NAN;
    if (t->session.backend->host_memory || log_due || last) {
        HL_TRY(hl_optimizer_read(t->optimizer, &t->at.record));
        if (t->at.record.bad_step != 0)
            return diverged(t, program);
        loss = t->at.record.step_loss;
    }
    t->steps_here++;
    note_speed(t);
    t->pending = t->pending_images = 0;
    if (log_due)
        HL_TRY(hl_run_folder_log_step(t->folder, t->at.epoch, step, loss, (double)t->run->lr,
                                      t->images_per_second));
    hl_trainer_report(t, loss, NULL);
    hl_trainer_poll(t);
    bool due = every > 0 && step % every == 0;
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

/* Where whole batches were bad and left out, a group can end without its last batch. */
static hl_status close_group(hl_trainer *t, hl_program *program)
{
    HL_TRY(hl_optimizer_step(t->optimizer));
    hl_session_changed(&t->session);
    return after_step(t, program);
}

static hl_status run_batches(hl_trainer *t, hl_program **program)
{
    hl_batch batch;
    while (goes_on(t)) {
        HL_TRY(hl_loader_next(t->train, &batch));
        bool over = batch.number < 0;
        int64_t accumulate = t->options.accumulate;
        bool next_group =
            !over && t->pending > 0 && batch.number / accumulate != (t->at.batch - 1) / accumulate;
        if ((over && t->pending > 0) || next_group)
            HL_TRY(close_group(t, *program));
        if (over || !goes_on(t))
            break;
        bool update = (batch.number + 1) % accumulate == 0 || batch.number + 1 == t->batches;
        t->at.batch = batch.number + 1;
        HL_TRY(train_batch(t, &batch, update, program));
        if (update)
            HL_TRY(after_step(t, *program));
    }
    return HL_OK;
}

hl_status hl_trainer_epoch(hl_trainer *t)
{
    hl_program *program = NULL;
    t->pending = t->pending_images = 0;
    t->cold = t->cold || t->steps_here == 0;
    t->step_started = hl_seconds();
    if (!goes_on(t))
        return HL_OK;
    HL_TRY(hl_loader_start_epoch(t->train, (uint32_t)t->at.epoch, t->at.batch));
    HL_TRY(run_batches(t, &program));
    HL_TRY(hl_optimizer_read(t->optimizer, &t->at.record));
    hl_loader_release(t->train, &t->held);
    return t->at.record.bad_step != 0 ? diverged(t, program) : HL_OK;
}
