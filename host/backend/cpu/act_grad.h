/* The gradient of an activation, for steps that compute it on the way. */
#ifndef HL_BACKEND_CPU_ACT_GRAD_H
#define HL_BACKEND_CPU_ACT_GRAD_H

#include "backend/cpu/cpu.h"

/* Elements [first, last) of out = act'(.) (sum of the gradients), as HL_STEP_ACT_GRAD; operand NULL: no
 * activation. In the calling thread. out may be one of the gradients. */
void hl_act_grad_range(hl_act act, const hl_tensor *operand, hl_tensor *const *gradients, int gradient_count,
                       const hl_tensor *out, int64_t first, int64_t last);
/* All of them, by all threads. */
void hl_act_grad_all(hl_act act, const hl_tensor *operand, hl_tensor *const *gradients, int gradient_count,
                     const hl_tensor *out);

#endif
