/* Gives other servers the record that is damaged there (FRAME_FETCH_RECORD, repair.h): a Raft entry by index and term, or an append by stream and offset. What is damaged
 * here as well is not given, and looked at. Answers at once. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_DONOR_H
#define CRSC_LOGD_SERVER_DONOR_H

struct frame;
struct node;
struct session;

void donor_request(struct node *node, struct session *session, const struct frame *f);

#endif
