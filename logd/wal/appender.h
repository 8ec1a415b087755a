/* Writes bytes one behind the other into a segment: gathered in one buffer, written in whole blocks, past the page cache where the
 * disk allows it (a third less processor time for an append: no pages are made, copied into and cleaned for bytes that
 * are not read again while they are in memory anyway). The block that the last byte stands in is kept, and written again with what follows.
 *
 * Nothing here is synced. Functions answer 0 or a negated errno, after which the appender must not be used. Thread: the writer's. */
#ifndef CRSC_LOGD_WAL_APPENDER_H
#define CRSC_LOGD_WAL_APPENDER_H

#include <stddef.h>
#include <stdint.h>

#include "logd/wal/disk.h"

struct appender;

struct appender *appender_new(const struct disk *disk); /* NULL: no memory */
void appender_free(struct appender *a);                 /* takes NULL */

/* Goes on in this file, whose bytes before `position` stay as they are. The descriptor is borrowed until the next begin or free. */
int appender_begin(struct appender *a, int fd, uint64_t position);

int appender_put(struct appender *a, const void *bytes, size_t len);

/* All that was put is handed to the disk. The rest of the last block becomes zeros. */
int appender_flush(struct appender *a);

/* Hands over a few bytes behind the last one, flushed before; the next put is written over them. */
int appender_aside(struct appender *a, const void *bytes, size_t len);

#endif
