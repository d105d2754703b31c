/* The CUDA backend's entry: cuDNN 9 graphs, cuBLASLt, and the kernels of kernels/. */
#ifndef HL_BACKEND_CUDA_CUDA_BACKEND_H
#define HL_BACKEND_CUDA_CUDA_BACKEND_H

#include "backend/backend.h"

/* How many devices there are; 0 also without a driver. */
int hl_cuda_device_count(void);
/* Is device `number` there, and can this build run on it? HL_E_DEVICE says what was looked for and found. */
hl_status hl_cuda_probe(int number);
typedef struct hl_cuda_device {
    char name[128];   /* "NVIDIA H100 80GB HBM3" */
    size_t memory;    /* bytes in all */
    int major, minor; /* compute capability */
    int multiprocessors;
} hl_cuda_device;
hl_status hl_cuda_describe(int number, hl_cuda_device *device);

hl_status hl_cuda_backend_open(int number, const hl_backend_options *options, hl_backend **backend);

/* A backend that only plans: for a device described by cuDNN's own JSON
 * (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION), which need not be there. Programs can be compiled for it, not
 * run; memory is not there either, addresses are made up. It tells which steps of a network cuDNN has no plan
 * for. */
hl_status hl_cuda_planner_open(const char *device_json, const hl_backend_options *options,
                               hl_backend **backend);

/* What plans were made so far. */
typedef struct hl_cuda_plan_counts {
    int plans;    /* distinct graphs that have a plan */
    int compiled; /* of these, by engines that compile kernels at run time */
    int reused;   /* requests that found a plan made before */
} hl_cuda_plan_counts;
hl_cuda_plan_counts hl_cuda_count_plans(const hl_backend *backend);

#endif
