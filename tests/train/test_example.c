/* The program of tests/examples, which the README shows, does what it says. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define main example_main
#include "../examples/train.c"
#undef main

#include "support/scratch.h"
#include "support/toy.h"

Test(example, trains_and_predicts)
{
    char *folder = scratch_make(), *images = scratch_path(folder, "images"),
         *run = scratch_path(folder, "run");
    char image[512];
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, 2, 16, 2, 0);
    snprintf(image, sizeof image, "%s/val/class00/000.png", images);
    char *arguments[] = {"train", images, run, image, NULL};
    cr_assert_eq(example_main(4, arguments), 0, "%s", hl_last_error());
    char *adapter = scratch_path(run, "adapter.safetensors");
    cr_assert_eq(access(adapter, R_OK), 0);
    cr_assert_eq(example_main(4, arguments), 2, "the run folder is taken");
    cr_assert_eq(example_main(1, arguments), 2);
    free(adapter);
    free(images);
    free(run);
    scratch_remove(folder);
}
