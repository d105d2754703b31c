/* Folders for what tests write, and whole files as bytes. */
#ifndef HL_TESTS_SCRATCH_H
#define HL_TESTS_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

/* A new empty folder. The caller gives it to scratch_remove, which removes it with all it holds. */
char *scratch_make(void);
void scratch_remove(char *folder);

/* FOLDER/NAME, to be freed by the caller. */
char *scratch_path(const char *folder, const char *name);

/* Number of files in a folder. */
int scratch_count(const char *folder);

/* Lines of the file FOLDER/NAME. */
int scratch_count_lines(const char *folder, const char *name);

/* A whole file, to be freed by the caller; a missing one fails the test. */
uint8_t *scratch_read(const char *path, size_t *size);
void scratch_write(const char *path, const void *bytes, size_t size);

#endif
