/* A small data set of coloured PNG files, and small models to train on it. */
#ifndef HL_TESTS_TOY_H
#define HL_TESTS_TOY_H

#include <heirloom/heirloom.h>

enum { TOY_SIZE = 32 };

/* Writes FOLDER/{train,val,test}/CLASS/N.png: images of TOY_SIZE, noise around a colour of the class. A split
 * with 0 images a class is left out. */
void toy_images(const char *folder, int classes, int train, int val, int test);

/* The same in a new folder PARENT/NAME. */
void toy_folder(const char *parent, const char *name, int classes, int train, int val, int test);

/* The data set in FOLDER. */
hl_dataset *toy_data(const char *folder);

/* A network of the zoo for TOY_SIZE images with fresh weights, `method` applied. */
hl_model *toy_model(const char *name, int64_t classes, const char *method, hl_norm_mode norm);

/* Options for a short training run in fp32 on one thread. */
hl_train_options toy_options(const char *out);

#endif
