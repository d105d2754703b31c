#include "backend/step.h"

const char *hl_step_kind_name(hl_step_kind kind)
{
    static const char *const names[HL_STEP_KIND_COUNT] = {
        [HL_STEP_FOLD] = "fold",
        [HL_STEP_INPUT] = "input",
        [HL_STEP_CONV] = "conv",
        [HL_STEP_RECOMBINE] = "recombine",
        [HL_STEP_NORM] = "norm",
        [HL_STEP_NORM_BATCH] = "norm_batch",
        [HL_STEP_ACT] = "act",
        [HL_STEP_POOL] = "pool",
        [HL_STEP_GLOBAL_POOL] = "global_pool",
        [HL_STEP_ADD] = "add",
        [HL_STEP_MUL] = "mul",
        [HL_STEP_CONCAT] = "concat",
        [HL_STEP_DROPOUT] = "dropout",
        [HL_STEP_LOSS] = "loss",
        [HL_STEP_TALLY] = "tally",
        [HL_STEP_CONV_DATA] = "conv_data",
        [HL_STEP_CONV_WEIGHT] = "conv_weight",
        [HL_STEP_WEIGHT_GRAD] = "weight_grad",
        [HL_STEP_BIAS_GRAD] = "bias_grad",
        [HL_STEP_RECOMBINE_GRAD] = "recombine_grad",
        [HL_STEP_NORM_GRAD] = "norm_grad",
        [HL_STEP_NORM_BATCH_GRAD] = "norm_batch_grad",
        [HL_STEP_ACT_GRAD] = "act_grad",
        [HL_STEP_POOL_GRAD] = "pool_grad",
        [HL_STEP_GLOBAL_POOL_GRAD] = "global_pool_grad",
        [HL_STEP_MUL_GRAD] = "mul_grad",
        [HL_STEP_CONCAT_GRAD] = "concat_grad",
        [HL_STEP_DROPOUT_GRAD] = "dropout_grad",
        [HL_STEP_OPTIMIZE] = "optimize",
    };
    return names[kind];
}
