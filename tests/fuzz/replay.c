/* Gives a fuzz target every file of a corpus, and every file cut and with bytes changed in a few fixed ways: what runs where there
 * is no libFuzzer. */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static uint32_t random_next(uint32_t *seed)
{
    *seed ^= *seed << 13, *seed ^= *seed >> 17, *seed ^= *seed << 5;
    return *seed;
}

/* In a block of its own, so that a sanitizer sees every byte read beyond it. */
static void give(const uint8_t *data, size_t len)
{
    uint8_t *copy = calloc(1, len > 0 ? len : 1);
    if (copy == NULL) abort();
    memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void give_damaged(uint8_t *data, size_t len, uint32_t *seed)
{
    for (int round = 0; round < 200 && len > 0; round++) {
        size_t at = random_next(seed) % len, cut = round % 4 == 0 ? random_next(seed) % (len + 1) : len;
        uint8_t was = data[at];
        data[at] = (uint8_t)(round % 3 == 0 ? random_next(seed) : was ^ 1u << random_next(seed) % 8);
        give(data, cut);
        data[at] = was;
    }
}

static int replay_file(const char *path, uint32_t *seed)
{
    FILE *f = fopen(path, "rb");
    long len = f != NULL && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    uint8_t *data = calloc(1, len > 0 ? (size_t)len : 1);
    bool read = len >= 0 && data != NULL && fseek(f, 0, SEEK_SET) == 0 && fread(data, 1, (size_t)len, f) == (size_t)len;
    if (f != NULL) fclose(f);
    if (read) {
        give(data, (size_t)len);
        give_damaged(data, (size_t)len, seed);
    } else {
        fprintf(stderr, "%s: cannot be read\n", path);
    }
    free(data);
    return read ? 0 : 1;
}

int main(int argc, char **argv)
{
    unsigned n = 0;
    uint32_t seed = 20261126;
    give((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        struct dirent **names;
        int found = scandir(argv[i], &names, NULL, alphasort); /* sorted: the same run each time */
        for (int k = 0; k < found; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], names[k]->d_name);
            if (names[k]->d_name[0] != '.') {
                if (replay_file(path, &seed) != 0) return 1;
                n++;
            }
            free(names[k]);
        }
        if (found >= 0) free(names);
    }
    printf("%u inputs\n", n);
    return n > 0 ? 0 : 1; /* a corpus that is not there must not pass */
}
