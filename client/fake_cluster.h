/* For tests: a log of several servers in this process, on the test's loop, that answers as crsc-logd must and fails
 * as it is told to. It keeps its own account of what was applied, and notices by itself a repeated batch that is not
 * what it was. */
#ifndef CRSC_CLIENT_FAKE_CLUSTER_H
#define CRSC_CLIENT_FAKE_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct fake_cluster;

struct fake_faults {      /* each of 1000: how often a frame meets it */
    unsigned drop_before; /* the connection ends and nothing was done */
    unsigned drop_after;  /* it was done, and the connection ends without an answer */
    unsigned not_leader;  /* refused, with a right, wrong or missing hint */
    unsigned unavailable;
    unsigned busy;       /* appends and opens only */
    unsigned garbage;    /* answered with a frame that holds nonsense */
    unsigned repeats;    /* a push begins one event too early */
    unsigned new_leader; /* somebody else leads from now on */
};

struct fake_cluster *fake_cluster_start(uv_loop_t *loop, unsigned servers, uint64_t seed);
void fake_cluster_stop(struct fake_cluster *c); /* frees itself from the loop */

const char *fake_cluster_addresses(const struct fake_cluster *c); /* all of them */
const char *fake_cluster_address(const struct fake_cluster *c, unsigned server);
void fake_cluster_faults(struct fake_cluster *c, const struct fake_faults *faults);
void fake_cluster_lead(struct fake_cluster *c, int server); /* -1: nobody */
void fake_cluster_mute(struct fake_cluster *c, bool mute);  /* takes requests, answers none */
/* Ends the connection at the n-th frame from now, before or after doing what it asks; 0: never. */
void fake_cluster_drop_at(struct fake_cluster *c, unsigned nth, bool after);

/* What was applied: events of a stream in order. */
uint64_t fake_cluster_last(const struct fake_cluster *c, const char *stream);
const void *fake_cluster_event(const struct fake_cluster *c, const char *stream, uint64_t offset, uint32_t *ret_size);
unsigned fake_cluster_violations(const struct fake_cluster *c);    /* repeated batches that differed */
unsigned fake_cluster_duplicates(const struct fake_cluster *c);    /* repeated batches that did not */
unsigned fake_cluster_largest_batch(const struct fake_cluster *c); /* events */
uint64_t fake_cluster_frames(const struct fake_cluster *c);        /* received */

uint64_t fake_random(uint64_t *state); /* splitmix64 */

#endif
