/* Which backend tests run on: $HEIRLOOM_TEST_DEVICE ("cpu", "cuda", "cuda:N"), the CPU where that is not set.
 *
 * Tests read and write tensors where they lie. On a device that is allowed as well: test programs are linked
 * so that device memory is managed memory (managed.c), but results are there only after `finish`. */
#ifndef TESTS_SUPPORT_DEVICE_H
#define TESTS_SUPPORT_DEVICE_H

#include "backend/backend.h"

const char *test_device(void);
/* Fails the test where there is no such device. threads: of the CPU backend. */
hl_backend *test_backend(int threads);

#endif
