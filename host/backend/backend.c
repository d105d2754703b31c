#include "backend/backend.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"

/* "cuda" or "cuda:N": the device's number. */
static bool parse_cuda(const char *device, int *number)
{
    *number = 0;
    if (strcmp(device, "cuda") == 0)
        return true;
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9' || strlen(device + 5) > 4)
        return false;
    char *end;
    *number = (int)strtol(device + 5, &end, 10);
    return *end == '\0';
}

hl_status hl_backend_probe(const char *device)
{
    int number;
    if (device == NULL || strcmp(device, "cpu") == 0)
        return HL_OK;
    if (parse_cuda(device, &number))
        return hl_cuda_probe(number);
    return hl_fail(HL_E_ARG, "--device", "choose cpu, cuda or cuda:N", "\"%.40s\" is no such device", device);
}

hl_status hl_backend_open(const hl_backend_options *o, hl_backend **backend)
{
    int number = 0;
    *backend = NULL;
    HL_TRY(hl_backend_probe(o->device));
    if (o->device == NULL ? hl_cuda_device_count() > 0 : parse_cuda(o->device, &number))
        return hl_cuda_backend_open(number, o, backend);
    return hl_cpu_backend_open(o->threads, o->log, backend);
}

void hl_backend_close(hl_backend *backend)
{
    if (backend != NULL)
        backend->ops->close(backend);
}
