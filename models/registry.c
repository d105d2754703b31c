#include "models/registry.h"

#include <stdio.h>
#include <string.h>

#include "models/families.h"

/* clang-format off */
#define IMAGENET .mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}
#define HALF     .mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}
#define RESNET(NAME, FILE, TOP1, BOTTLENECK, ...)                                                                        \
    {.name = NAME, .build = hl_build_resnet, .blocks = __VA_ARGS__, .bottleneck = BOTTLENECK, .image_size = 224,         \
     .resize = 256, IMAGENET, .head = "fc", .weights_file = FILE, .licence = "BSD-3-Clause", .top1 = TOP1,               \
     .paper = "arXiv 1512.03385"}
#define LITE(NUMBER, WIDTH, DEPTH, SIZE, RESIZE, BICUBIC, FILE, TOP1)                                                    \
    {.name = "efficientnet_lite" NUMBER, .alias = "tf_efficientnet_lite" NUMBER, .build = hl_build_efficientnet_lite,    \
     .width = WIDTH, .depth = DEPTH, .image_size = SIZE, .resize = RESIZE, .bicubic = BICUBIC, HALF,                     \
     .head = "classifier", .weights_file = FILE, .licence = "Apache-2.0", .top1 = TOP1, .paper = "arXiv 1905.11946"}

/* Lite rows: the resize is floor(size / crop_pct), timm's rule; top-1 as in timm's results-imagenet.csv. */
static const hl_model_info models[] = {
    {.name = "mobilenet_v2", .build = hl_build_mobilenet_v2, .width = 1.0f, .image_size = 224, .resize = 256, IMAGENET,
     .head = "classifier.1", .weights_file = "mobilenet_v2-b0353104.pth", .licence = "BSD-3-Clause", .top1 = 71.878f,
     .paper = "arXiv 1801.04381"},
    RESNET("resnet18", "resnet18-f37072fd.pth", 69.758f, false, {2, 2, 2, 2}),
    RESNET("resnet34", "resnet34-b627a593.pth", 73.314f, false, {3, 4, 6, 3}),
    RESNET("resnet50", "resnet50-0676ba61.pth", 76.130f, true, {3, 4, 6, 3}),
    LITE("0", 1.0f, 1.0f, 224, 256, true, "tf_efficientnet_lite0-0aa007d2.pth", 74.830f),
    LITE("1", 1.0f, 1.1f, 240, 272, true, "tf_efficientnet_lite1-bde8b488.pth", 76.644f),
    LITE("2", 1.1f, 1.2f, 260, 292, true, "tf_efficientnet_lite2-dcccb7df.pth", 77.464f),
    LITE("3", 1.2f, 1.4f, 300, 331, false, "tf_efficientnet_lite3-b733e338.pth", 79.808f),
    LITE("4", 1.4f, 1.8f, 380, 413, false, "tf_efficientnet_lite4-741542c3.pth", 81.532f),
};
/* clang-format on */

enum { MODELS = sizeof models / sizeof *models };

int hl_model_count(void)
{
    return MODELS;
}

const hl_model_info *hl_model_at(int index)
{
    return &models[index];
}

hl_status hl_model_find(const char *name, const hl_model_info **info)
{
    const char *names[2 * MODELS];
    int count = 0;
    for (int i = 0; i < MODELS; i++) {
        *info = &models[i];
        if (strcmp(models[i].name, name) == 0 ||
            (models[i].alias != NULL && strcmp(models[i].alias, name) == 0))
            return HL_OK;
        names[count++] = models[i].name;
    }
    *info = NULL;
    size_t length = strlen(name);
    if (length > 5 && strcmp(name + length - 5, ".onnx") == 0)
        return hl_fail(HL_E_ARG, name, "choose a model of the zoo, `heirloom models`",
                       "reading ONNX is not available in this version");
    char nearest[256], todo[320] = "`heirloom models` lists them";
    hl_nearest_names(name, names, count, nearest, sizeof nearest);
    if (nearest[0] != '\0')
        snprintf(todo, sizeof todo, "did you mean %s? `heirloom models` lists them all", nearest);
    return hl_fail(HL_E_ARG, name, todo, "no model has this name");
}

hl_status hl_model_build(const hl_model_info *info, int64_t image_size, int64_t classes, hl_graph **graph)
{
    HL_TRY(hl_graph_create(graph));
    int64_t size = image_size > 0 ? image_size : info->image_size;
    hl_value x = hl_graph_input(*graph, size, size, 3);
    hl_status status = hl_graph_finish(*graph, info->build(*graph, info, x, classes));
    if (status != HL_OK) {
        hl_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}
