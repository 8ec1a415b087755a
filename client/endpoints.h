/* Which server to try next: the addresses a client knows, who was named as the leader, and how long to wait.
 *
 * Servers are tried in a ring. A hint ("X is the leader") comes before the ring's order, unless X was tried twice
 * already without success: two servers that name each other, or all naming a dead one, must not keep the rest from
 * being asked. The first round goes without waiting; later attempts wait, doubling per round up to ENDPOINTS_WAIT_MAX,
 * with jitter so that many clients do not come back together. A success starts all of this anew.
 *
 * Pure: no I/O, no clock; randomness is passed in. Thread: any, one at a time. */
#ifndef CRSC_CLIENT_ENDPOINTS_H
#define CRSC_CLIENT_ENDPOINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct endpoints;

enum {
    ENDPOINTS_MAX = 16,          /* addresses known at one time */
    ENDPOINTS_ADDRESS_MAX = 272, /* bytes of "host:port" with its zero */
    ENDPOINTS_WAIT_MIN = 10,     /* ms between attempts in the second round */
    ENDPOINTS_WAIT_MAX = 200,    /* ms */
};

/* From "host:port,host:port". With `fixed` nothing is ever learnt. -ERROR_INVALID, -ERROR_TOO_LARGE, -ERROR_NOMEM. */
int endpoints_new(const char *servers, bool fixed, struct endpoints **ret_endpoints, struct error *e);
struct endpoints *endpoints_copy(const struct endpoints *ep); /* NULL without memory */
struct endpoints *endpoints_free(struct endpoints *ep);

struct endpoints_choice {
    const char *address; /* borrowed until the next call that is not const */
    uint32_t wait_ms;    /* before connecting to it */
};

/* The next server to try; it is the current one from now on. */
struct endpoints_choice endpoints_next(struct endpoints *ep, uint64_t random);

/* The current one (never NULL), and why it was given up ("" clears). */
const char *endpoints_current(const struct endpoints *ep);
void endpoints_failed(struct endpoints *ep, const char *reason);

/* The current one did what was asked. */
void endpoints_succeeded(struct endpoints *ep);

/* One more server is known; bad addresses and those beyond ENDPOINTS_MAX are ignored. Returns its place or -1. */
int endpoints_learn(struct endpoints *ep, const char *address);
/* As endpoints_learn(), and it is said to lead. NULL or "": nothing is known. */
void endpoints_hint(struct endpoints *ep, const char *address);

/* "a:1 (reason), b:2 (not asked yet)" for an error's text; cut to size. */
void endpoints_describe(const struct endpoints *ep, char *text, size_t size);

/* Full jitter around an exponential wait: in [cap/2, cap] with cap = min(first << step, most). Never 0. */
uint32_t endpoints_backoff(unsigned step, uint32_t first_ms, uint32_t most_ms, uint64_t random);

#endif
