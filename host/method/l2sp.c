/* l2sp: every parameter, with a penalty on what they have moved from where they started (Li, Grandvalet and
 * Davoine, 2018, arXiv 1802.01483): alpha/2 |w - w0|^2 over the backbone, beta/2 |w|^2 over the head, which
 * starts from nothing. It is part of the loss, under AdamW too; the optimizer adds it (hl_segment.pull), so
 * that it is clipped and scaled as the loss's own gradient. */
#include "method/method.h"

const hl_method_info hl_method_l2sp = {
    .name = "l2sp",
    .summary = "every parameter, pulled towards where it started",
    .norm = HL_NORM_FULL,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .no_weight_decay = true,
    .options = {{"alpha", HL_OPTION_NUMBER, "0.1", "penalty alpha/2 |w - w0|^2 on the backbone", 0, 1e6},
                {"beta", HL_OPTION_NUMBER, "0.01", "penalty beta/2 |w|^2 on the head", 0, 1e6}},
    .apply = hl_method_train_all,
};
