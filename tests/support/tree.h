/* A folder of files that a test makes for itself. */
#ifndef HL_TESTS_TREE_H
#define HL_TESTS_TREE_H

#include <stddef.h>

typedef struct tree {
    char root[256];
} tree;

tree tree_create(void);
void tree_remove(tree *t);

/* root/NAME, valid until the eighth call after it. */
const char *tree_path(const tree *t, const char *name);

/* These make the folders above the name too; a failure fails the test. */
void tree_folder(const tree *t, const char *name);
void tree_write(const tree *t, const char *name, const void *bytes, size_t size);
void tree_text(const tree *t, const char *name, const char *text);
/* A copy of an image of tests/fixtures/images. */
void tree_image(const tree *t, const char *name, const char *fixture);
void tree_link(const tree *t, const char *name, const char *target);

#endif
