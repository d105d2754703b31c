/* What timm calls the layers of a network that is named as torchvision's. */
#ifndef HL_MODELS_TIMM_KEYS_H
#define HL_MODELS_TIMM_KEYS_H

#include "models/registry.h"

/* Has timm the network, under whichever names? */
bool hl_timm_has(const hl_model_info *info);
/* Has it the network, under other names than the graph's? The functions below are for such models alone. */
bool hl_timm_names_differ(const hl_model_info *info);
/* A key that files with timm's names have and others have not; NULL where the names do not differ. */
const char *hl_timm_mark(const hl_model_info *info);

/* timm's name of a parameter or a num_batches_tracked of the graph: into buf, returned. Only layers inside
 * blocks need the graph; it may be NULL for the head. */
const char *hl_timm_key(const hl_model_info *info, const hl_graph *graph, const char *name, char *buf,
                        size_t size);

/* The shape of a parameter in timm's state dict, into shape; returns its number of dimensions. Linear layers
 * before the head are convolutions there, but for those of ConvNeXt. */
int hl_timm_shape(const hl_model_info *info, const hl_param *p, int64_t shape[4]);

#endif
