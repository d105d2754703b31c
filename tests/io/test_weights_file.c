#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "io/weights_file.h"
#include "support/scratch.h"

#define WEIGHTS "tests/fixtures/weights/"

static char *folder;

static void setup(void)
{
    folder = scratch_make();
}

static void teardown(void)
{
    scratch_remove(folder);
}

TestSuite(weights_file, .init = setup, .fini = teardown);

Test(weights_file, the_format_is_told_by_content_not_by_name)
{
    static const struct {
        const char *source, *name;
        hl_weights_format format;
    } files[] = {
        {WEIGHTS "all_zip.pt", "a.safetensors", HL_WEIGHTS_PYTORCH_ZIP},
        {WEIGHTS "all_legacy.pth", "b.zip", HL_WEIGHTS_PYTORCH_LEGACY},
        {WEIGHTS "all_legacy_protocol4.pth", "c", HL_WEIGHTS_PYTORCH_LEGACY},
        {WEIGHTS "expected.safetensors", "d.pth", HL_WEIGHTS_SAFETENSORS},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t size;
        uint8_t *bytes = scratch_read(files[i].source, &size);
        char *path = scratch_path(folder, files[i].name);
        scratch_write(path, bytes, size);
        hl_tensor_map *map;
        hl_weights_format format;
        cr_assert_eq(hl_weights_open(path, &map, &format), HL_OK, "%s", hl_last_error());
        cr_expect_eq(format, files[i].format);
        cr_expect_eq(hl_tensor_map_count(map), 17);
        hl_tensor_map_destroy(map);
        free(path);
        free(bytes);
    }
}

static const struct {
    const char *bytes;
    size_t size;
    const char *words;
} mistaken[] = {
    {"", 0, "is empty"},
    {"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", 55, "git lfs pull"},
    {"<!DOCTYPE html><html>", 21, "web page"},
    {"\n  <HTML><body>", 15, "web page"},
    {"\x89HDF\r\n\x1a\n", 8, "HDF5"},
    {"\x1f\x8b\x08", 3, "gzip"},
    {"\x80\x02}q\0.", 6, "not one of torch.save"},
    {"hello, world", 12, "68 65 6c 6c 6f 2c 20 77"},
    {"x", 1, "first bytes are 78"},
    {"PK\3\4 and no more", 16, "zip"},
    {"\x10\0\0\0\0\0\0\0{", 9, "16 bytes, but only 1"},
};

Test(weights_file, what_is_not_weights_is_called_by_its_name)
{
    char *path = scratch_path(folder, "weights.pth");
    for (size_t i = 0; i < sizeof mistaken / sizeof mistaken[0]; i++) {
        scratch_write(path, mistaken[i].bytes, mistaken[i].size);
        hl_tensor_map *map = (hl_tensor_map *)1;
        cr_expect_eq(hl_weights_open(path, &map, NULL), HL_E_INPUT);
        cr_expect_null(map);
        cr_expect_not_null(strstr(hl_last_error(), mistaken[i].words), "%s", hl_last_error());
        cr_expect_not_null(strstr(hl_last_error(), path), "%s", hl_last_error());
    }
    free(path);
}

Test(weights_file, missing_files_and_folders_are_told_apart)
{
    hl_tensor_map *map;
    char *path = scratch_path(folder, "none.pth");
    cr_expect_eq(hl_weights_open(path, &map, NULL), HL_E_NOT_FOUND);
    cr_expect_eq(hl_weights_open(folder, &map, NULL), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "folder"));
    cr_expect_eq(hl_weights_open("/dev/null", &map, NULL), HL_E_INPUT);
    free(path);
}
