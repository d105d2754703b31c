#include <criterion/criterion.h>

#include "cuda/cuda_rig.h"
#include "cuda_double/double.h"

bool cuda_on_device(void)
{
    return false;
}

void cuda_begin(void)
{
    double_reset();
}

void cuda_expect_clean(void)
{
    cr_assert_eq(double_report(), 0, "see stderr");
}
