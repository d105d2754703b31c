#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/yaml.h"
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

TestSuite(atomic_file, .init = setup, .fini = teardown);

static void check_content(const char *expected)
{
    size_t size;
    uint8_t *bytes = scratch_read(path, &size);
    cr_expect_str_eq((char *)bytes, expected);
    free(bytes);
    cr_expect_eq(scratch_count(folder), 1, "a temporary is left");
}

Test(atomic_file, nothing_is_seen_before_the_commit)
{
    hl_atomic_file *file;
    scratch_write(path, "old", 3);
    cr_assert_eq(hl_atomic_begin(path, &file), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_atomic_printf(file, "new %d", 1), HL_OK);
    size_t size;
    uint8_t *bytes = scratch_read(path, &size);
    cr_expect_str_eq((char *)bytes, "old");
    free(bytes);
    cr_assert_eq(hl_atomic_commit(file), HL_OK);
    check_content("new 1");
}

Test(atomic_file, an_aborted_file_leaves_the_old_one)
{
    hl_atomic_file *file;
    scratch_write(path, "old", 3);
    cr_assert_eq(hl_atomic_begin(path, &file), HL_OK);
    cr_assert_eq(hl_atomic_write(file, "new", 3), HL_OK);
    hl_atomic_abort(file);
    hl_atomic_abort(NULL);
    check_content("old");
}

Test(atomic_file, two_writers_of_one_file_do_not_meet)
{
    hl_atomic_file *a, *b;
    cr_assert_eq(hl_atomic_begin(path, &a), HL_OK);
    cr_assert_eq(hl_atomic_begin(path, &b), HL_OK);
    cr_assert_eq(hl_atomic_write(a, "aaa", 3), HL_OK);
    cr_assert_eq(hl_atomic_write(b, "b", 1), HL_OK);
    cr_assert_eq(hl_atomic_commit(a), HL_OK);
    cr_assert_eq(hl_atomic_commit(b), HL_OK);
    check_content("b");
}

Test(atomic_file, a_link_is_followed_and_stays)
{
    char *link = scratch_path(folder, "link");
    scratch_write(path, "old", 3);
    cr_assert_eq(symlink("file", link), 0);
    cr_assert_eq(hl_atomic_put(link, "new", 3), HL_OK);
    struct stat info;
    cr_assert_eq(lstat(link, &info), 0);
    cr_expect(S_ISLNK(info.st_mode));
    unlink(link);
    check_content("new");
    free(link);
}

Test(atomic_file, folders_devices_and_missing_folders_are_refused)
{
    cr_expect_eq(hl_atomic_put(folder, "x", 1), HL_E_ARG);
    cr_expect_eq(hl_atomic_put("/dev/null", "x", 1), HL_E_ARG);
    char *missing = scratch_path(folder, "none/file");
    cr_expect_eq(hl_atomic_put(missing, "x", 1), HL_E_IO);
    cr_expect_not_null(strstr(hl_last_error(), missing));
    free(missing);
    cr_expect_eq(scratch_count(folder), 0);
}

/* Files may not grow beyond `bytes`: writes then fail as on a full disk. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void unlimit_files(void)
{
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static hl_status write_safetensors(void)
{
    static float values[5000];
    hl_tensor_map *map;
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, "a", HL_DTYPE_F32, 1, (int64_t[]){5000}, values), HL_OK);
    hl_status status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

static hl_status write_json(void)
{
    json_t *list = json_array();
    for (int i = 0; i < 5000; i++)
        json_array_append_new(list, json_integer(i));
    hl_status status = hl_json_write(path, list);
    json_decref(list);
    return status;
}

static hl_status write_yaml(void)
{
    hl_yaml *yaml;
    char key[16];
    cr_assert_eq(hl_yaml_create("yaml", &yaml), HL_OK);
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        cr_assert_eq(hl_yaml_set_int(yaml, key, i), HL_OK);
    }
    hl_status status = hl_yaml_write(path, yaml);
    hl_yaml_destroy(yaml);
    return status;
}

static hl_status write_bytes(void)
{
    return hl_atomic_put(path, "0123456789", 10); /* fits the buffer, fails in the commit */
}

Test(atomic_file, on_a_full_disk_the_old_file_stays_and_no_temporary)
{
    static hl_status (*const writers[])(void) = {write_safetensors, write_json, write_yaml, write_bytes};
    static const rlim_t limits[] = {0, 5, 4096, 9000};
    scratch_write(path, "old", 3);
    for (size_t w = 0; w < sizeof writers / sizeof writers[0]; w++)
        for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
            if (writers[w] == write_bytes && limits[l] > 10)
                continue;
            limit_files(limits[l]);
            hl_status status = writers[w]();
            unlimit_files();
            cr_expect_eq(status, HL_E_IO, "writer %zu at %zu bytes", w, (size_t)limits[l]);
            cr_expect_not_null(strstr(hl_last_error(), "too large"), "%s", hl_last_error());
            cr_expect_not_null(strstr(hl_last_error(), path), "%s", hl_last_error());
            check_content("old");
        }
}
