#include "criterion/criterion.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static plain_test *first;

void plain_test_add(plain_test *test)
{
    test->next = first;
    first = test;
}

void plain_test_expect(bool holds, const char *what, const char *file, int line, const char *format, ...)
{
    if (holds)
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static bool passes(const plain_test *test)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        test->run();
        exit(0); /* the sanitizer makes another status of it where it has found something */
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
    int tested = 0, passing = 0;
    omp_set_num_threads(1); /* OpenMP's own threads mean nothing to the sanitizer */
    for (const plain_test *test = first; test != NULL; test = test->next) {
        bool passed = passes(test);
        if (!passed)
            fprintf(stderr, "FAIL: %s, %s\n", test->suite, test->name);
        tested++;
        passing += passed;
    }
    printf("[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n", tested, passing,
           tested - passing);
    return passing == tested ? 0 : 1;
}
