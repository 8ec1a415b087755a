/* The records of a workload's instances: what each container's state was when it began, written before it is started.
 *
 *   DIR/GENERATION.json     {"generation":3,"offset":120,"snapshot":"c1","spec":"sha256:...","attached":false}
 *   DIR/GENERATION.dumping  there while a dump of it runs, or ended in a way that may have harmed it
 *
 * A record is there whole or not at all, also after a power cut: written aside, synced, renamed, the directory synced. What is
 * there and cannot be read is -ERROR_CORRUPT: then nobody knows what that container's state was.
 *
 * Thread: any but the loop's, as they sync; the calls about dumps do not and are short: the loop's, too (a power cut ends the
 * container as well, so that a mark of its harm need not outlive one). */
#ifndef CRSC_OPERATOR_DRIVERS_RECORD_H
#define CRSC_OPERATOR_DRIVERS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "operator/driver.h"

#define RECORD_GENERATION_MAX (UINT64_C(1) << 62) /* larger ones in names are nobody's */

struct record {
    uint64_t generation;
    uint64_t offset;               /* the container began with the state of requests <= offset */
    char snapshot[WORLD_ID_MAX];   /* it was restored from, "" for a fresh start */
    char spec[DRIVER_DIGEST_MAX];  /* digest of the specification that it was started with */
    bool attached;                 /* the interceptor was told of it, or was about to be */
};

/* Writes or replaces. -ERROR_NOSPACE on a full disk; otherwise -ERROR_IO. */
int record_write(const char *dir, const struct record *r, struct error *e);

/* -ERROR_NOT_FOUND; -ERROR_CORRUPT for what is no record of that generation; -ERROR_IO. */
int record_read(const char *dir, uint64_t generation, struct record *ret_record, struct error *e);

/* Removes record and mark. Nothing there is no failure. Not synced: one that comes back after a power cut has no container. */
int record_remove(const char *dir, uint64_t generation, struct error *e);

/* The generations that have a record, ascending, in malloc()ed memory that the caller frees (NULL for none). Records that were
 * being written when somebody crashed are removed. */
int record_list(const char *dir, uint64_t **ret_generations, size_t *ret_n, struct error *e);

int record_mark_dump(const char *dir, uint64_t generation, struct error *e);
void record_unmark_dump(const char *dir, uint64_t generation);
bool record_dump_marked(const char *dir, uint64_t generation);

/* Reads decimal digits without leading zeros, up to `end`. False for anything else, and for what is over RECORD_GENERATION_MAX. */
bool record_parse_generation(const char *text, const char *end, uint64_t *ret_generation);

#endif
