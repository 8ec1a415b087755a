/* The files of a rebuild (rebuild.h): the note, the folder where a fetched state gathers, and its exchange with the old state. Blocking. */
#ifndef CRSC_LOGD_SERVER_STAGING_H
#define CRSC_LOGD_SERVER_STAGING_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/consensus/membership.h"
#include "logd/server/state_codec.h"

struct staging {
    char data[PATH_MAX]; /* the data directory */
    int lock;            /* that of the log: no other process may have it open */
};

int staging_mark(const char *data_dir, uint64_t index, uint64_t from, const char *address, struct error *e);

/* Finishes an exchange that was begun; then says whether there is a note, and what is in it. Nothing is open when nothing is needed. */
int staging_open(struct staging *s, const char *data_dir, bool *ret_needed, uint64_t *ret_index, uint64_t *ret_from,
                 char ret_address[static MEMBERSHIP_ADDRESS], struct error *e);
void staging_close(struct staging *s);

/* The state of this manifest comes now, from the data directory `instance` of the server `from`: what cannot be a part of it goes. Of another
 * copy by the same one, the segments stay that were behind its end already: they never change. */
int staging_begin(const struct staging *s, uint64_t from, uint64_t instance, const struct state_manifest *m, struct error *e);
void staging_forget(const struct staging *s);

/* How much of a file of the copy `id` is there for good: its size when it is whole, under its name; else what was noted of it. */
uint64_t staging_has(const struct staging *s, uint64_t id, const char *name, uint64_t size);
/* Opened, it has another name until it is closed: cut to its size, and synced. `keep`: what is in it stays. ERROR_NOSPACE, ERROR_IO. */
int staging_open_file(const struct staging *s, const char *name, bool keep, int *ret_fd, struct error *e);
int staging_close_file(const struct staging *s, const char *name, uint64_t size, int fd, struct error *e);
/* Room for all of an open file, where the file system can promise it; what is written stays. ERROR_NOSPACE: it has been emptied. Thread: any. */
int staging_reserve(const char *name, int fd, uint64_t size, struct error *e);
/* Syncs the file that is not whole yet, and notes that so much of it is there: of one file at a time. */
int staging_note(const struct staging *s, uint64_t id, const char *name, int fd, uint64_t bytes, struct error *e);

void staging_path(const struct staging *s, const char *name, char ret_path[PATH_MAX]);
void staging_segment_path(const struct staging *s, uint64_t segment, char ret_path[PATH_MAX]);

/* Adds where the log begins, term and vote to what was fetched, syncs it all and says that it is complete. */
int staging_finish(const struct staging *s, const struct state_manifest *m, struct error *e);
/* The complete one takes the old one's place, which goes, and with it the note. */
int staging_exchange(struct staging *s, struct error *e);

#endif
