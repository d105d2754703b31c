/* How images become a network's input: what the model's row says, and what options say instead. */
#ifndef HL_TRAIN_PREPROCESS_H
#define HL_TRAIN_PREPROCESS_H

#include <heirloom/model.h>

#include "models/registry.h"

/* file: the network is one of an ONNX file, whose channels are what they are. HL_E_ARG for what is out of
 * range or does not fit together. */
hl_status hl_preprocess_resolve(const hl_model_info *info, bool file, const hl_model_options *options,
                                hl_preprocess *preprocess);

#endif
