/* What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(): bytes that nobody should have made go in; out
 * comes an error or a value that is right by an independent look, never a crash, a leak or memory out of bounds. With
 * -Dfuzz=true (clang) libFuzzer drives it; otherwise replay.c does, over the corpus, in every tree's tests. */
#ifndef CRSC_TESTS_FUZZ_FUZZ_H
#define CRSC_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "common/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process, saying what did not hold. Unlike assert() in every build. */
#define FUZZ_CHECK(condition) \
    do { \
        if (!(condition)) fuzz_fail(#condition, __FILE__, __LINE__); \
    } while (0)
_Noreturn void fuzz_fail(const char *condition, const char *file, int line);

/* The bytes taken one after the other; zeros when there are no more. */
struct fuzz_input {
    const uint8_t *data;
    size_t len;
};
uint64_t fuzz_number(struct fuzz_input *in, unsigned bytes); /* bytes: 1 to 8 */

/* A frame whose head and body are the bytes: two of the type, two of the head's length, the rest. The checksum is no obstacle: a
 * frame that reaches a decoder had a right one. */
struct frame fuzz_frame(const uint8_t *data, size_t len);

#endif
