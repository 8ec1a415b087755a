/* A request body that is in the log in parts: where, and what it is.
 *
 *   mark mark ... mark ... request        in the log, at ascending offsets; other events may stand between
 *    parts of the body     the commit: the request's head, and this
 *
 * The request is the event of the commit: it has its place in the order, its epoch and sequence; without it the parts mean nothing, and nothing
 * is replayed. A part is a mark whose `ref` is the upload's number and whose payload is bytes of the body. The commit's payload is the head as
 * HTTP, ended by an empty line, then lines of text:
 *
 *   upload 1764000000000001        the number
 *   bytes 5368709120               of the body
 *   print 9f86d081...              SHA-256 of request line and body: what Idempotency-Key compares
 *   parts 90-94                    offsets; one line for each run of them, ascending
 *   trailers 8                     the last line; so many bytes of trailers, as header lines, follow
 *
 * Pure. Thread: one per manifest. */
#ifndef CRSC_INTERCEPTOR_PARTS_MANIFEST_H
#define CRSC_INTERCEPTOR_PARTS_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

enum { MANIFEST_PRINT = 32, MANIFEST_PART_BYTES = 512 << 10 };

struct manifest_run {
    uint64_t first, last;
};

struct manifest {
    uint64_t upload, bytes;
    uint8_t print[MANIFEST_PRINT];
    struct manifest_run *runs; /* owned */
    size_t n_runs, cap_runs;
    struct buf trailers;
};

void manifest_fini(struct manifest *m);
/* A part is at this offset, which is above all before it. 0 or -ERROR_NOMEM. */
int manifest_add(struct manifest *m, uint64_t offset);
/* Appends it as text. 0 or -ERROR_NOMEM. */
int manifest_write(const struct manifest *m, struct buf *out);
/* Of what follows the head. `m` is zeroed before; on an error there is nothing in it. 0, -ERROR_CORRUPT, -ERROR_NOMEM. */
int manifest_parse(struct manifest *m, const void *text, size_t len);

#endif
