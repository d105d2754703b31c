/* Status codes and the text of the last error. */
#ifndef HEIRLOOM_STATUS_H
#define HEIRLOOM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HL_API               __attribute__((visibility("default")))
#define HL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define HL_API
#define HL_PRINTF(fmt, args)
#endif

/* Every code, what it means, and the exit status the program maps it to: 2 where the command line,
 * a configuration or an input is wrong, 1 where something failed while running. */
#define HL_STATUS_LIST(X)                                                                                    \
    X(OK, 0, "success")                                                                                      \
    X(E_ARG, 2, "an argument or option is wrong")                                                            \
    X(E_INPUT, 2, "an input file or data set is wrong")                                                      \
    X(E_NOT_FOUND, 2, "a name or file does not exist")                                                       \
    X(E_UNSUPPORTED, 2, "not supported")                                                                     \
    X(E_NOMEM, 1, "out of memory")                                                                           \
    X(E_IO, 1, "reading or writing failed")                                                                  \
    X(E_DEVICE, 1, "a device or its library failed")                                                         \
    X(E_NONFINITE, 1, "a value is not finite")                                                               \
    X(E_INTERNAL, 1, "a defect of this library")

typedef enum hl_status {
#define X(name, exit_code, text) HL_##name,
    HL_STATUS_LIST(X)
#undef X
} hl_status;

/* Fixed text for a code; never NULL. */
HL_API const char *hl_status_text(hl_status status);

/* Exit status of a program that ends with `status`: 0, 1 or 2. */
HL_API int hl_status_exit_code(hl_status status);

/* "WHAT: WHY (WHAT TO DO)" of the last failure in the calling thread; "" before the first. Valid until
 * the next failing call in that thread. */
HL_API const char *hl_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
