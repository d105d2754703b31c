/* Weight gradients of depthwise convolutions, by loops of our own: oneDNN 2.6 has no fast ones for windows
 * wider than 3. */
#ifndef HL_BACKEND_CPU_CONV_DEPTHWISE_H
#define HL_BACKEND_CPU_CONV_DEPTHWISE_H

#include "backend/cpu/cpu.h"

typedef struct hl_depthwise hl_depthwise;

/* Of a CONV_WEIGHT step that passed its check: should it be done here? One input and one output channel a
 * group. */
bool hl_depthwise_takes(const hl_step *step);

/* The result is [C, kh, kw] in C order. `scratch_bytes` is what binding wants. */
hl_status hl_depthwise_create(const hl_step *step, hl_depthwise **depthwise, size_t *scratch_bytes);
void hl_depthwise_destroy(hl_depthwise *depthwise); /* NULL is fine */
void hl_depthwise_bind(hl_depthwise *depthwise, void *scratch);
void hl_depthwise_run(const hl_depthwise *depthwise, const hl_step *step);

#endif
