#include "support/device.h"

#include <criterion/criterion.h>
#include <stdlib.h>

const char *test_device(void)
{
    const char *device = getenv("HEIRLOOM_TEST_DEVICE");
    return device != NULL && device[0] != '\0' ? device : "cpu";
}

hl_backend *test_backend(int threads)
{
    const hl_backend_options options = {.device = test_device(), .threads = threads};
    hl_backend *backend = NULL;
    cr_assert_eq(hl_backend_open(&options, &backend), HL_OK, "%s", hl_last_error());
    return backend;
}
