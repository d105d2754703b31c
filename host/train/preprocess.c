#include "train/preprocess.h"

#include <math.h>

#include "base/log.h"

/* The values of --mean or --std: those given, one of them for all channels, or the model's own. */
static hl_status take_values(const char *option, const float *given, int64_t count, const float *own,
                             int64_t channels, float values[4])
{
    count = count > 0 ? count : channels;
    if (given != NULL && count != 1 && count != channels)
        return hl_fail(HL_E_ARG, option, "give one for each channel, or one for all",
                       "%lld values are given for %lld channels", (long long)count, (long long)channels);
    for (int64_t c = 0; c < channels; c++)
        values[c] = given == NULL ? own[c] : given[count == 1 ? 0 : c];
    return HL_OK;
}

static hl_status set_channels(const hl_model_info *info, bool file, const hl_model_options *o,
                              hl_preprocess *p)
{
    float mean[4], std[4];
    p->channels = o->in_channels > 0 ? o->in_channels : hl_model_channels(info);
    if (p->channels != 1 && p->channels != 3 && p->channels != 4)
        return hl_fail(HL_E_ARG, "--in-channels", "choose 1, 3 or 4", "%lld is not one of them",
                       (long long)p->channels);
    if (file && p->channels != hl_model_channels(info))
        return hl_fail(HL_E_ARG, "--in-channels", "leave it out",
                       "the network in %s takes %lld channels, not %lld", o->name,
                       (long long)hl_model_channels(info), (long long)p->channels);
    if (o->bgr && p->channels != 3)
        return hl_fail(HL_E_ARG, "--channel-order bgr", "leave it out",
                       "images of %lld channels have no such order", (long long)p->channels);
    hl_model_normalisation(info, p->channels, mean, std);
    HL_TRY(take_values("--mean", o->mean, o->mean_count, mean, p->channels, p->mean));
    HL_TRY(take_values("--std", o->std, o->std_count, std, p->channels, p->std));
    for (int64_t c = 0; c < p->channels; c++)
        if (!isfinite(p->mean[c]) || !isfinite(p->std[c]) || p->std[c] <= 0.0f)
            return hl_fail(HL_E_ARG, "--std", NULL, "mean must be finite and std above zero, not %g and %g",
                           (double)p->mean[c], (double)p->std[c]);
    return HL_OK;
}

hl_status hl_preprocess_resolve(const hl_model_info *info, bool file, const hl_model_options *o,
                                hl_preprocess *p)
{
    const hl_published *other = hl_model_published(info, o->name, o->weights);
    int64_t size = other != NULL ? other->image_size : info->image_size,
            resize = other != NULL ? other->resize : info->resize;
    bool bicubic = other != NULL ? other->bicubic : info->bicubic;
    if (other != NULL && o->resize == 0) /* a run that is opened again says what it was made with */
        hl_log_info(o->log, "%s.%s: resized to %lld for images of %lld pixels, %s", info->name, other->tag,
                    (long long)resize, (long long)size, bicubic ? "bicubic" : "bilinear");
    p->size = o->image_size > 0 ? o->image_size : size;
    p->resize = o->resize > 0 ? o->resize : (p->size * resize + size / 2) / size;
    p->bicubic = o->interpolation == 0 ? bicubic : o->interpolation == 2;
    if (p->size > 4096 || p->resize > 16384)
        return hl_fail(HL_E_ARG, "--image-size", "choose at most 4096, and resize to at most 16384",
                       "%lld from %lld is out of range", (long long)p->size, (long long)p->resize);
    return set_channels(info, file, o, p);
}
