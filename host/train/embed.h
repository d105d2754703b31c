/* What is behind hl_embedding. */
#ifndef HL_TRAIN_EMBED_H
#define HL_TRAIN_EMBED_H

#include <heirloom/embed.h>

#include "models/feedforward.h"

struct hl_embedding {
    hl_graph *feedforward, *convolutional; /* parameters in host memory, never placed */
    hl_embed_shape shape;                  /* as asked for */
};

#endif
