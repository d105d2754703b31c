#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/text_file.h"
#include "support/scratch.h"

static char *folder, *path;

static void setup(void)
{
    folder = scratch_make();
    path = scratch_path(folder, "file");
}

static void teardown(void)
{
    free(path);
    scratch_remove(folder);
}

TestSuite(text_file, .init = setup, .fini = teardown);

Test(text_file, files_of_every_size_up_to_the_limit_are_read_whole)
{
    static const size_t sizes[] = {0, 1, 4094, 4095, 4096, 4097, 20000};
    char *bytes = malloc(20000);
    memset(bytes, 'x', 20000);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *text;
        size_t size;
        scratch_write(path, bytes, sizes[i]);
        cr_assert_eq(hl_text_file_read(path, sizes[i], &text, &size), HL_OK, "%s", hl_last_error());
        cr_expect_eq(size, sizes[i]);
        cr_expect_eq(strlen(text), sizes[i]);
        free(text);
        if (sizes[i] > 0)
            cr_expect_eq(hl_text_file_read(path, sizes[i] - 1, &text, NULL), HL_E_INPUT);
    }
    free(bytes);
}

Test(text_file, missing_files_and_folders_are_errors)
{
    char *text = (char *)1;
    cr_expect_eq(hl_text_file_read(path, 10, &text, NULL), HL_E_NOT_FOUND);
    cr_expect_null(text);
    cr_expect_eq(hl_text_file_read(folder, 10, &text, NULL), HL_E_IO);
}

Test(text_file, a_pipe_can_be_read)
{
    int ends[2];
    char name[32], *text;
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(write(ends[1], "hello", 5), 5);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    cr_assert_eq(hl_text_file_read(name, 10, &text, NULL), HL_OK, "%s", hl_last_error());
    cr_expect_str_eq(text, "hello");
    free(text);
    close(ends[0]);
}
