/* Choices of cuDNN engines kept on disk, so that a program that starts again neither asks heuristics nor
 * times candidates again. What is kept is the engine's number and its knobs, by the graph in words; the file
 * belongs to one cuDNN version and one kind of device. */
#ifndef HL_BACKEND_CUDA_PLAN_STORE_H
#define HL_BACKEND_CUDA_PLAN_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { HL_PLAN_KNOBS = 32 };
typedef struct hl_plan_choice {
    int64_t engine;
    int knob_count;
    int64_t knob[HL_PLAN_KNOBS], value[HL_PLAN_KNOBS];
} hl_plan_choice;

typedef struct hl_plan_store hl_plan_store;

/* In $HEIRLOOM_CACHE_DIR, else $XDG_CACHE_HOME/heirloom, else ~/.cache/heirloom. A file that is missing or
 * damaged is an empty store. `identity` names library version, device and mode. */
hl_status hl_plan_store_open(const char *identity, hl_plan_store **store);
/* Writes the file if there is anything new, whole or not at all; a folder that cannot be written to is no
 * error. */
void hl_plan_store_close(hl_plan_store *store);
bool hl_plan_store_find(const hl_plan_store *store, const char *graph, hl_plan_choice *choice);
void hl_plan_store_add(hl_plan_store *store, const char *graph, const hl_plan_choice *choice);

#endif
