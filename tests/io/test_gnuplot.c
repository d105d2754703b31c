#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/gnuplot.h"
#include "support/scratch.h"

static char *folder, *pictures, *temporary;

/* Temporary files go where they can be counted. */
static void start(void)
{
    folder = scratch_make();
    pictures = scratch_path(folder, "a 'place' $(of) `its` own");
    temporary = scratch_path(folder, "temporary");
    cr_assert(mkdir(pictures, 0777) == 0 && mkdir(temporary, 0777) == 0);
    cr_assert_eq(setenv("TMPDIR", temporary, 1), 0);
}

static void stop(void)
{
    free(pictures);
    free(temporary);
    scratch_remove(folder);
}

TestSuite(gnuplot, .init = start, .fini = stop);

static const char script[] =
    "set terminal pngcairo size 200,100\nset output ARG2\nplot ARG1 using 1:2 with lines notitle\n";

static bool is_installed(void)
{
    return system("gnuplot --version > /dev/null 2>&1") == 0;
}

Test(gnuplot, names_with_quotes_reach_it_as_they_are_and_nothing_else_is_left)
{
    if (!is_installed())
        cr_skip_test("SKIPPED: gnuplot is not installed");
    char *path = scratch_path(pictures, "x'; y.png");
    size_t size;
    cr_assert(hl_gnuplot_text(script, "0 1\n1 3\n2 2\n", path));
    uint8_t *bytes = scratch_read(path, &size);
    cr_expect(size > 100 && memcmp(bytes, "\x89PNG", 4) == 0);
    cr_expect_eq(scratch_count(pictures), 1);
    cr_expect_eq(scratch_count(temporary), 0);
    free(bytes);
    free(path);
}

Test(gnuplot, a_script_that_fails_leaves_nothing_and_what_was_there)
{
    char *path = scratch_path(pictures, "kept.png");
    size_t size;
    scratch_write(path, "kept", 4);
    cr_expect_not(
        hl_gnuplot_text("set terminal pngcairo\nset output ARG2\nplot no_such_thing(x)\n", "0 1\n", path));
    cr_expect_not(hl_gnuplot(script, "/nowhere/data", path));
    uint8_t *bytes = scratch_read(path, &size);
    cr_expect(size == 4 && memcmp(bytes, "kept", 4) == 0);
    cr_expect_eq(scratch_count(pictures), 1);
    cr_expect_eq(scratch_count(temporary), 0);
    free(bytes);
    free(path);
    path = scratch_path(folder, "missing/picture.png");
    cr_expect_not(hl_gnuplot_text(script, "0 1\n1 2\n", path));
    free(path);
}

/* Without it nothing is drawn, and that is all. */
Test(gnuplot, without_it_there_is_no_picture)
{
    char *path = scratch_path(pictures, "x.png");
    cr_assert_eq(setenv("PATH", folder, 1), 0);
    cr_expect_not(hl_gnuplot_text(script, "0 1\n1 2\n", path));
    cr_expect_eq(scratch_count(pictures), 0);
    cr_expect_eq(scratch_count(temporary), 0);
    free(path);
}
