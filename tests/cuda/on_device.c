#include "cuda/cuda_rig.h"

bool cuda_on_device(void)
{
    return true;
}

void cuda_begin(void)
{
}

void cuda_expect_clean(void)
{
    /* What compute-sanitizer is for. */
}
