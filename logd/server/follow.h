/* Server push: each follow gets the events of its stream from an offset on, as they are applied.
 *
 * Flow control: credit counts frame bytes sent and not given back yet; nothing is sent without credit, and one frame may
 * overdraw it by at most one event. A connection with a lot queued is skipped until it has drained.
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_FOLLOW_H
#define CRSC_LOGD_SERVER_FOLLOW_H

#include <stdint.h>

#include "common/frame.h"

struct follows;
struct node;
struct session;

enum {
    FOLLOW_CREDIT_DEFAULT = 4 << 20,
    FOLLOW_CREDIT_MAX = 64 << 20,
    FOLLOW_FRAME = 1 << 20,     /* bytes of payload in one, but for one event larger than that */
    FOLLOW_QUEUED_MAX = 1 << 20, /* of a connection, above which nothing more is read for it: the socket has its own buffer, too */
};

struct follows *follows_new(struct node *node);
struct follows *follows_free(struct follows *fs); /* every session is closed by then */

void follows_request(struct follows *fs, struct session *s, const struct frame *f); /* FOLLOW, FOLLOW_CREDIT, FOLLOW_CANCEL */
void follows_pump(struct follows *fs);                            /* something was applied */
void follows_pump_session(struct follows *fs, struct session *s); /* its connection has room again */
void follows_drop_session(struct follows *fs, struct session *s); /* its connection is gone */

#endif
