/* Streams by name: an open-addressing hash table from a name to an id.
 *
 * It does not own the names: `name_of` gives the name of an id. Entries are never removed (streams are not either).
 * Pure; embedded in struct streams. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_NAMES_H
#define CRSC_LOGD_STREAMS_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct names {
    const char *(*name_of)(const void *user, uint64_t id); /* zero-terminated */
    const void *user;
    uint64_t *slots; /* owned; ids, 0: free */
    size_t n, cap;   /* cap is 0 or a power of two, at most three quarters used */
};

void names_fini(struct names *t);

/* The id of this name, 0: none. */
uint64_t names_find(const struct names *t, const char *name, size_t len);

/* Room for one more, so that the next names_add() cannot fail. 0 or -ERROR_NOMEM. */
int names_reserve(struct names *t);

/* Adds an id whose name is not there yet. names_reserve() comes first. */
void names_add(struct names *t, uint64_t id);

#endif
