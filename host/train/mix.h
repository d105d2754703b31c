/* Mixup and cutmix: which images of a batch are mixed, and how. */
#ifndef HL_TRAIN_MIX_H
#define HL_TRAIN_MIX_H

#include "base/compute.h"

/* Mixes for a batch of n images of height h and width w, as timm draws them: one share for the batch, ~
 * Beta(a, a) with a = mixup or cutmix (0: not used; both: each batch one of them, at equal odds), image i
 * with image n - 1 - i. A cutmix box has the share of the area, a centre anywhere, and is cut off at the
 * edges; the share is then what is left. Depends on (seed, epoch, batch) only. */
void hl_mix_draw(hl_mix *mixes, int64_t n, int64_t h, int64_t w, double mixup, double cutmix, uint64_t seed,
                 uint32_t epoch, uint64_t batch);

#endif
