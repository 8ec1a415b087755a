/* Reads a file piece by piece as the disk has it: past the page cache where that can be had, which also leaves there what readers need. Pages that the disk does not
 * give are told, and do not keep those beside them from being read.
 *
 * Blocking. Thread: one at a time. */
#ifndef CRSC_LOGD_WAL_RAW_FILE_H
#define CRSC_LOGD_WAL_RAW_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "logd/wal/disk.h"

enum { RAW_WINDOW = 1 << 20, RAW_PAGE = 4096 };

struct raw_file {
    const struct disk *disk;
    int fd; /* < 0: there is none; nothing can be read */
    uint64_t bytes, at; /* of the file, as it should be; of the window */
    size_t len;         /* of the window; 0: nothing was read */
    uint64_t loaded;    /* bytes read so far */
    uint8_t *window;    /* RAW_WINDOW, aligned; owned from the first opening to raw_file_fini() */
    uint8_t bad[RAW_WINDOW / RAW_PAGE]; /* pages of it */
};

/* -ERROR_NOMEM, or 0, also when the file cannot be opened. Closes the one before. */
int raw_file_open(struct raw_file *f, const struct disk *disk, const char *path, uint64_t bytes);
void raw_file_close(struct raw_file *f);
void raw_file_fini(struct raw_file *f);

/* A piece of at most half a window, good until the next call; NULL: it cannot be read. */
const uint8_t *raw_file_read(struct raw_file *f, uint64_t at, size_t len);

#endif
