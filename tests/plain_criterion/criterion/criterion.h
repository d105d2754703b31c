/* Stands in for Criterion, which cannot run under the thread sanitizer: what the tests of kernels and
 * tests/support use of it. Each test runs in a child; main prints Criterion's summary line. */
#ifndef PLAIN_CRITERION_H
#define PLAIN_CRITERION_H
#pragma GCC system_header /* as the real one: its macros may do what warnings are against */

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct plain_test {
    const char *suite, *name;
    void (*run)(void);
    struct plain_test *next;
} plain_test;

void plain_test_add(plain_test *test);
/* Ends the program with a message unless `holds`. */
void plain_test_expect(bool holds, const char *what, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#define Test(suite_, name_)                                                                                  \
    static void suite_##_##name_(void);                                                                      \
    __attribute__((constructor)) static void add_##suite_##_##name_(void)                                    \
    {                                                                                                        \
        static plain_test test = {#suite_, #name_, suite_##_##name_, NULL};                                  \
        plain_test_add(&test);                                                                               \
    }                                                                                                        \
    static void suite_##_##name_(void)

#define PLAIN_EXPECT(holds, what, ...)   plain_test_expect((holds), what, __FILE__, __LINE__, "" __VA_ARGS__)
#define cr_assert(condition, ...)        PLAIN_EXPECT((condition), #condition, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)          PLAIN_EXPECT((a) == (b), #a " is " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)         PLAIN_EXPECT((a) != (b), #a " is not " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)          PLAIN_EXPECT((a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)          PLAIN_EXPECT((a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)         PLAIN_EXPECT((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_not_null(p, ...)       PLAIN_EXPECT((p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_assert_str_empty(s, ...)      PLAIN_EXPECT((s)[0] == '\0', #s " is empty", __VA_ARGS__)
#define cr_expect(condition, ...)        PLAIN_EXPECT((condition), #condition, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)          PLAIN_EXPECT((a) == (b), #a " is " #b, __VA_ARGS__)
#define cr_expect_not_null(p, ...)       PLAIN_EXPECT((p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) PLAIN_EXPECT(fabs((a) - (b)) <= (e), #a " is " #b, __VA_ARGS__)

#endif
