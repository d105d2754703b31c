/* Pictures by gnuplot, where it is installed. */
#ifndef HL_IO_GNUPLOT_H
#define HL_IO_GNUPLOT_H

#include <stdbool.h>

/* Runs `script`, which reads the file ARG1 and sets its output to the PNG file ARG2, and moves the picture to
 * `picture`. data: the file's path. Names go to gnuplot as arguments, never through a shell or into its
 * command language; what it prints is dropped. False, and no file, where there is no gnuplot or it fails. */
bool hl_gnuplot(const char *script, const char *data, const char *picture);

/* The same of data that is in memory. */
bool hl_gnuplot_text(const char *script, const char *text, const char *picture);

#endif
