/* Which containers of a workload there are or may be: those with a record, and those that runc knows.
 *
 * A container is called NAME-GENERATION; NAME alone is one that somebody else started: generation 0. Thread: any but the loop's
 * (containers_list() reads directories); containers_id(): any. */
#ifndef CRSC_OPERATOR_DRIVERS_CONTAINERS_H
#define CRSC_OPERATOR_DRIVERS_CONTAINERS_H

#include <stddef.h>
#include <stdint.h>

#include "checkpoint/runc.h"
#include "common/error.h"

struct containers {
    uint64_t *generations; /* ascending, each once; owned: containers_free() */
    size_t n;
};

char *containers_id(const char *name, uint64_t generation, char id[RUNC_ID_MAX]); /* returns `id` */

/* May `name` be a workload's? Letters, digits, - _ . and a letter or digit first; not ending like a generation ("-12"), which
 * could be another workload's container; not "runc", which is the folder beside the workloads'. */
int containers_check_name(const char *name, struct error *e);

/* `records`: a directory of record.h; `runc_root`: may be missing. */
int containers_list(const char *records, const char *runc_root, const char *name, struct containers *ret_all, struct error *e);
void containers_free(struct containers *c);

#endif
