#include "support/tree.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/images.h"

tree tree_create(void)
{
    tree t;
    const char *base = getenv("TMPDIR");
    snprintf(t.root, sizeof t.root, "%s/heirloom-test-XXXXXX", base != NULL ? base : "/tmp");
    cr_assert_not_null(mkdtemp(t.root));
    return t;
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(path);
}

void tree_remove(tree *t)
{
    nftw(t->root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *tree_path(const tree *t, const char *name)
{
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", t->root, name);
    return path;
}

static void make_parents(const char *path)
{
    char part[1024];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(part, 0777);
        *slash = '/';
    }
}

void tree_folder(const tree *t, const char *name)
{
    const char *path = tree_path(t, name);
    make_parents(path);
    cr_assert_eq(mkdir(path, 0777), 0);
}

void tree_write(const tree *t, const char *name, const void *bytes, size_t size)
{
    const char *path = tree_path(t, name);
    make_parents(path);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

void tree_text(const tree *t, const char *name, const char *text)
{
    tree_write(t, name, text, strlen(text));
}

void tree_image(const tree *t, const char *name, const char *fixture)
{
    size_t size;
    unsigned char *bytes = fixture_bytes(fixture, &size);
    tree_write(t, name, bytes, size);
    free(bytes);
}

void tree_link(const tree *t, const char *name, const char *target)
{
    const char *path = tree_path(t, name);
    make_parents(path);
    cr_assert_eq(symlink(target, path), 0);
}
