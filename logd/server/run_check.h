/* Is the append that a row of the index means at its place, whole? Reads its frame from the segment's file, and asks the frame's own checksum and what the row knows of it
 * (run_match()). Appends that are asked about in the order of their places are read in large pieces.
 *
 *   struct run_check c = {0};
 *   raw_file_open(&c.file, disk, path of the segment, its bytes);
 *   if (run_check(&c, &run) == 0) ...
 *   run_check_fini(&c);
 *
 * Blocking. Thread: one at a time. */
#ifndef CRSC_LOGD_SERVER_RUN_CHECK_H
#define CRSC_LOGD_SERVER_RUN_CHECK_H

#include "common/buf.h"
#include "logd/streams/streams.h"
#include "logd/wal/raw_file.h"

struct run_check {
    struct raw_file file;
    struct buf frame; /* of an append that is too large for the file's window */
};

/* 0; -ERROR_CORRUPT: it is damaged, or the disk does not give it; -ERROR_NOT_FOUND: another append is there, which is whole: the row is wrong; -ERROR_NOMEM. */
int run_check(struct run_check *c, const struct streams_run *run);
void run_check_fini(struct run_check *c);

#endif
