/* Folders to write into. */
#ifndef HL_IO_FOLDER_H
#define HL_IO_FOLDER_H

#include "base/error.h"

/* Makes the folder and those above it that are missing, as mkdir -p does; fine where it is there. `next_step`
 * ends the error. */
hl_status hl_folder_make(const char *path, const char *next_step);

#endif
