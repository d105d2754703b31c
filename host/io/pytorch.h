/* State dicts saved by torch.save, in the zip format (torch 1.6 and later) and the legacy one. Nothing in the
 * file is executed. */
#ifndef HL_IO_PYTORCH_H
#define HL_IO_PYTORCH_H

#include "io/tensor_map.h"

/* Reads all tensors of a state dict; the map owns them, the file is closed. In a checkpoint that holds more,
 * the state dict is, in this order: the outermost dict if it holds tensors; what is under state_dict, model,
 * model_state_dict, model_state, net, network, module, ema, state_dict_ema or model_ema; the dict with the
 * most tensors. Its path is in the metadata as "checkpoint_key" unless it is the outermost. Prefixes
 * "module." and "_orig_mod." that all names share are removed. Tensors that share a storage in the file share
 * it in the map. */
hl_status hl_pytorch_read(const char *path, hl_tensor_map **map);

/* The same of bytes in memory, which are not needed afterwards. `what` names them in errors. */
hl_status hl_pytorch_parse(const char *what, const void *bytes, size_t size, hl_tensor_map **map);

/* Whether the bytes begin like a legacy file of torch.save. */
bool hl_pytorch_is_legacy(const void *bytes, size_t size);

#endif
