/* What must hold (DESIGN, section 4), checked while a run goes on and at its end:
 *
 *  - a server never forgets a term or a vote;
 *  - each entry of the Raft log has one content and one outcome, whoever applies it, whenever (streams_apply() is watched);
 *  - L1, L2, L3: an offset has one event, for ever, for every client and replica; offsets are dense; what was acknowledged is there;
 *    no event is there twice;
 *  - L4: no append that was begun after a fence was acknowledged is acknowledged under an older epoch;
 *  - L5: nothing is trimmed that a valid snapshot needs; with a retention policy nothing that it keeps, nor that nobody asked to be trimmed;
 *  - answers about snapshots, fences and epochs fit into one order (linear.h), and a linearizable status never goes back.
 *
 * Nothing here uses the code under test. All is static: it may be called from any simulated process. */
#ifndef CRSC_TESTS_SIM_CHECK_H
#define CRSC_TESTS_SIM_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHECK_STREAMS = 2, CHECK_APPENDS = 16384, CHECK_PAYLOAD = 24 /* at least */ };

void check_begin(void);

void check_applied(unsigned machine, uint32_t life, uint64_t index, uint64_t content, uint64_t outcome);
uint64_t check_last_applied(void);

/* Term and vote: what was stored is what the next life begins with, or something later. */
void check_promised(unsigned machine, uint64_t term, uint64_t vote);
void check_started(unsigned machine, uint64_t term, uint64_t vote);
void check_forget(unsigned machine); /* its disk was emptied: whoever runs there now is a new one */
void check_votes(unsigned machine, uint64_t term, uint64_t candidate); /* a message that says so leaves */

/* An append: its number goes into its payload. UINT64_MAX: no room for more. */
uint64_t check_append(unsigned stream, unsigned client, uint64_t epoch);
void check_append_payload(uint64_t number, unsigned stream, void *ret_bytes, size_t size);
void check_acknowledged(uint64_t number, uint64_t offset);
void check_failed(uint64_t number); /* its outcome is unknown */

/* Somebody was given this event. */
void check_event(const char *who, unsigned stream, uint64_t offset, const void *payload, size_t size);
void check_fenced(unsigned stream, uint64_t epoch);

/* A stream has one policy in a run, or none; it is set and unset. From when it was asked for first it may trim. */
struct check_policy { uint32_t keep; uint64_t age_us, bytes; bool beyond; };
void check_policy_asked(unsigned stream, const struct check_policy *policy);
bool check_has_policy(unsigned stream);
void check_clock(int64_t wall_offset_us); /* a server's clock is off by that now */
void check_snapshot_asked(unsigned stream, uint64_t offset);
void check_trim_asked(unsigned stream, uint64_t offset);
/* A trim was applied, after which it begins there. */
void check_trims(unsigned stream, uint64_t first);
/* Its policy made it begin at `first` when it ended at `last`; looked at by check_retains(), when it is known what was there. */
void check_retained(unsigned stream, uint64_t first, uint64_t last);
void check_retains(void);
/* Somebody was told that the stream begins there. */
void check_first(const char *who, unsigned stream, uint64_t first_offset);

void check_snapshot_valid(unsigned stream, uint64_t offset); /* acknowledged */
void check_snapshot_deleting(unsigned stream, uint64_t offset); /* asked for */
void check_trimmed(unsigned stream, uint64_t asked_at, uint64_t first_offset);

void check_status(uint64_t asked_at, uint64_t applied, uint64_t commit);

/* What was acknowledged up to now must be in a backup that is begun now. */
struct check_mark { uint64_t last[CHECK_STREAMS], at; };
void check_mark(struct check_mark *ret_mark);
/* A stream of the backup was read whole, [first, last]. */
void check_backup(const struct check_mark *mark, unsigned stream, uint64_t first, uint64_t last);

/* The end: a replica's stream was read whole, [first, last]. */
void check_replica(const char *who, unsigned stream, uint64_t first, uint64_t last);
uint64_t check_appends(void);
uint64_t check_acknowledgements(void);
uint64_t check_events_seen(void);

#endif
