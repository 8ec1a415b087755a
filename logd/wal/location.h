/* A place in the segments: where some payload bytes start. Stable until its segment is recycled. */
#ifndef CRSC_LOGD_WAL_LOCATION_H
#define CRSC_LOGD_WAL_LOCATION_H

#include <stdint.h>

struct wal_location {
    uint64_t segment;  /* segment id, from 1, never reused for other content while it can be referred to */
    uint64_t position; /* bytes from the start of the segment file */
};

#endif
