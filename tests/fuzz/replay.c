/* Runs a fuzz target on the files given, for compilers without libFuzzer. */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "io/text_file.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *bytes;
        size_t size;
        if (hl_text_file_read(argv[i], (size_t)1 << 30, &bytes, &size) != HL_OK) {
            fprintf(stderr, "%s\n", hl_last_error());
            return EXIT_FAILURE;
        }
        printf("%s (%zu bytes)\n", argv[i], size);
        LLVMFuzzerTestOneInput((const uint8_t *)bytes, size);
        free(bytes);
    }
    return EXIT_SUCCESS;
}
