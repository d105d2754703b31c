/* heirloom: transfer of pretrained convolutional networks to new image tasks. Include this one header and
 * link -lheirloom.
 *
 * Objects are opaque, made by a _create or _open function and released by the matching _destroy. Every call
 * that can fail returns hl_status; hl_last_error() then says what, why and what to do. The library prints
 * nothing and never exits. An object may be used by one thread at a time. */
#ifndef HEIRLOOM_H
#define HEIRLOOM_H

#include <heirloom/data.h>
#include <heirloom/embed.h>
#include <heirloom/gates.h>
#include <heirloom/log.h>
#include <heirloom/model.h>
#include <heirloom/status.h>
#include <heirloom/train.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "MAJOR.MINOR.PATCH" */
HL_API const char *hl_version(void);

#ifdef __cplusplus
}
#endif
#endif
