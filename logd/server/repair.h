/* Finds again what stood in the damaged places of one segment (sift.h): asks this server's own memory, and then the other servers, one after the other, record by
 * record; checks what they give; and makes of it the bytes to be written (wal/patch.h).
 *
 * A Raft entry must have the length and checksum that the log remembers, and fit into its segment's chain of records (wal/mend.h). An append
 * must be whole by the client's own checksum, and be the one that the index means. So no server is believed.
 *
 * Thread: the loop's, but repair_pieces(), which may be a worker's, while nothing else is called. */
#ifndef CRSC_LOGD_SERVER_REPAIR_H
#define CRSC_LOGD_SERVER_REPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct node;
struct patch_piece;
struct repair;
struct sift;

struct repair *repair_new(struct node *node, const struct sift *sift); /* both borrowed. NULL: no memory */
void repair_free(struct repair *r);                                    /* takes NULL */

/* Begins with what `sift` has found: in a segment that Raft needs; in one that only events are read from. How many records are damaged. */
unsigned repair_entries(struct repair *r);
unsigned repair_runs(struct repair *r);

/* Asks for the next record. False: there is none, or enough of them are in memory for now. True: an answer to repair_question() is to be waited for. */
bool repair_ask(struct repair *r);
uint64_t repair_question(const struct repair *r);
void repair_late(struct repair *r); /* no answer came: the next server is asked */
/* It came; bytes NULL: that server has not got it. */
void repair_answer(struct repair *r, uint64_t peer, const void *bytes, size_t len);

/* What is to be written, in ascending order; good until repair_end(). 0: nothing was found. */
size_t repair_pieces(struct repair *r, const struct patch_piece **ret_pieces);
unsigned repair_records(const struct repair *r); /* in them */
bool repair_is_raft(const struct repair *r);     /* what is missing is Raft's */
/* There is something in it that is nowhere any more (an entry that was replaced, where a group of records began): it cannot be made anew byte for byte. */
bool repair_hopeless(const struct repair *r);

void repair_end(struct repair *r);

#endif
