/* The zoo: one row per variant, from which everything about a model follows. */
#ifndef HL_MODELS_REGISTRY_H
#define HL_MODELS_REGISTRY_H

#include "graph/graph.h"

typedef struct hl_model_info hl_model_info;

/* Weights published for a model beside those of its row, where preprocessing or accuracy differ. */
typedef struct hl_published {
    const char *tag; /* as timm's: the model is asked for as NAME.TAG */
    const char *weights_file;
    int64_t image_size, resize;
    bool bicubic;
    float top1;
    const char *licence; /* NULL: the model's */
} hl_published;

struct hl_model_info {
    const char *name;  /* torchvision's, or timm's where torchvision has no such model */
    const char *alias; /* another name it is known by, or NULL */
    bool timm;         /* layers are named as timm's */
    /* Adds the layers from the normalised image `x` to the logits, which it returns. */
    hl_value (*build)(hl_graph *graph, const hl_model_info *info, hl_value x, int64_t classes);
    /* What the builder needs to know about the variant. */
    const void *variant; /* of the family's own type */
    double width, depth; /* multiples of the family's channels and blocks; 0 is 1 */
    /* Preprocessing that the published weights were made for: the shorter side is resized to `resize`, then a
     * square of `image_size` is cut from the centre. */
    int64_t image_size, resize;
    bool bicubic;
    float mean[4], std[4]; /* of `channels` channels */
    int64_t channels;      /* that the published network takes: 1, 3 or 4; 0: 3 */
    const char *head;      /* module name of the classifier */
    const char *auxiliary; /* what names of auxiliary classifiers begin with, in files; they are passed over.
                              Or NULL */
    const char *weights_file; /* as published; NULL where no weights for ImageNet-1k are */
    const char *licence;      /* of the weights; without any, of the reference implementation */
    float top1; /* ImageNet-1k accuracy in percent, as published for weights_file; 0 without one */
    const char *paper;
    const hl_published *others; /* ended by one without a tag; NULL: there are none */
};

int hl_model_count(void);
const hl_model_info *hl_model_at(int index);
/* By name or alias, a tag of its weights behind it or not. HL_E_ARG with the nearest names when there is
 * none, with its tags when there is the model alone. */
hl_status hl_model_find(const char *name, const hl_model_info **info);

/* Which of the model's other weights are meant: those whose tag ends `name` (one that hl_model_find has
 * found); else, where `name` has no tag, those whose published file is called as `file` is (a path, or NULL).
 * NULL: those of the row. */
const hl_published *hl_model_published(const hl_model_info *info, const char *name, const char *file);

/* Channels that the published network takes, and the mean and deviation for images of `channels` (1, 3 or 4)
 * channels: the row's own; for one grey channel the mean of theirs; for what is beyond them, alpha, 0.5. */
int64_t hl_model_channels(const hl_model_info *info);
void hl_model_normalisation(const hl_model_info *info, int64_t channels, float mean[4], float std[4]);

/* A graph with fresh zero parameters. image_size 0: the model's own. Errors name the layer, e.g. where the
 * image is too small. */
hl_status hl_model_build(const hl_model_info *info, int64_t image_size, int64_t classes, hl_graph **graph);
/* The same for images of so many channels. */
hl_status hl_model_build_for(const hl_model_info *info, int64_t image_size, int64_t channels, int64_t classes,
                             hl_graph **graph);

#endif
