#include "logd/server/follow.h"

#include <stdlib.h>
#include <string.h>

#include "logd/server/node.h"
#include "logd/server/reads.h"
#include "logd/server/session.h"

struct follow {
    struct follow *next, *prev; /* of all */
    struct follow *sibling;     /* of the session */
    struct session *session;    /* borrowed: it drops us before it goes */
    uint64_t id;
    char stream[RPC_NAME];
    uint64_t stream_id; /* 0: does not exist yet */
    uint64_t from;      /* next offset to send */
    int64_t credit;
};

struct follows {
    struct node *node;
    struct follow *first;
};

struct follows *follows_new(struct node *node)
{
    struct follows *fs = calloc(1, sizeof *fs);
    if (fs != NULL) fs->node = node;
    return fs;
}

struct follows *follows_free(struct follows *fs)
{
    free(fs);
    return NULL;
}

static void unlink_follow(struct follows *fs, struct follow *f)
{
    if (f->prev != NULL) f->prev->next = f->next;
    else fs->first = f->next;
    if (f->next != NULL) f->next->prev = f->prev;
}

static void end(struct follows *fs, struct follow *f)
{
    unsigned *count;
    struct follow **link = session_follows(f->session, &count);
    while (*link != f) link = &(*link)->sibling;
    *link = f->sibling;
    --*count;
    unlink_follow(fs, f);
    free(f);
}

/* Sends what can be sent. False when the follow has ended with an error. */
static bool pump(struct follows *fs, struct follow *f)
{
    struct error e;
    if (f->stream_id == 0) f->stream_id = streams_id(fs->node->streams, f->stream, strlen(f->stream));
    while (f->stream_id != 0 && f->credit > 0 && session_queued(f->session) < FOLLOW_QUEUED_MAX) {
        struct streams_info info;
        struct reads_result result;
        if (streams_info(fs->node->streams, f->stream_id, &info) != 0 || info.last_offset < f->from) return true;
        uint32_t most = f->credit > FOLLOW_FRAME ? FOLLOW_FRAME : (uint32_t)f->credit;
        int rv = reads_events(fs->node->reads, f->stream_id, f->from, 0, most, 0, &result, &e);
        if (rv != 0) {
            if (rv == -ERROR_CORRUPT) log_error("stored events are damaged", "stream=%s reason=%s", f->stream, e.text);
            session_fail(f->session, f->id, &e);
            end(fs, f);
            return false;
        }
        session_reply_pieces(f->session, FRAME_FOLLOW | FRAME_REPLY, f->id, result.head, result.pieces, result.n_pieces);
        f->from = result.next;
        f->credit -= (int64_t)(FRAME_HEADER + result.head->len + result.bytes);
    }
    return true;
}

static struct follow *find(struct session *s, uint64_t id)
{
    unsigned *count;
    for (struct follow *f = *session_follows(s, &count); f != NULL; f = f->sibling)
        if (f->id == id) return f;
    return NULL;
}

static int begin(struct follows *fs, struct session *s, const struct frame *frame, struct error *e)
{
    struct rpc_follow q;
    unsigned *count;
    struct follow **list = session_follows(s, &count);
    int rv = rpc_decode_follow(frame, &q, e);
    if (rv != 0) return rv;
    if (find(s, frame->id) != NULL) return error_set(e, ERROR_INVALID, "a follow with this id is under way on this connection");
    if (*count >= SESSION_FOLLOWS_MAX)
        return error_set(e, ERROR_BUSY, "at most %d follows on one connection: open another", SESSION_FOLLOWS_MAX);
    uint64_t stream = streams_id(fs->node->streams, q.stream, strlen(q.stream));
    if (stream == 0 && !q.wait) return error_set(e, ERROR_NOT_FOUND, "there is no stream %s", q.stream);
    struct follow *f = calloc(1, sizeof *f);
    if (f == NULL) return error_set(e, ERROR_NOMEM, "no memory for a follow");
    f->session = s;
    f->id = frame->id;
    memcpy(f->stream, q.stream, sizeof f->stream);
    f->stream_id = stream;
    f->from = q.from;
    f->credit = q.credit == 0 ? FOLLOW_CREDIT_DEFAULT : q.credit > FOLLOW_CREDIT_MAX ? FOLLOW_CREDIT_MAX : q.credit;
    f->next = fs->first;
    if (f->next != NULL) f->next->prev = f;
    fs->first = f;
    f->sibling = *list;
    *list = f;
    ++*count;
    pump(fs, f);
    return 0;
}

void follows_request(struct follows *fs, struct session *s, const struct frame *frame)
{
    struct error e;
    uint32_t bytes;
    if (frame->type == FRAME_FOLLOW) {
        if (begin(fs, s, frame, &e) != 0) session_fail(s, frame->id, &e);
        return;
    }
    struct follow *f = find(s, frame->id); /* none: it has ended meanwhile, which is no error */
    if (frame->type == FRAME_FOLLOW_CANCEL) {
        if (f != NULL) end(fs, f);
    } else if (rpc_decode_credit(frame, &bytes, &e) != 0) {
        session_fail(s, frame->id, &e);
    } else if (f != NULL) {
        f->credit += bytes;
        if (f->credit > FOLLOW_CREDIT_MAX) f->credit = FOLLOW_CREDIT_MAX;
        pump(fs, f);
    }
}

void follows_pump(struct follows *fs)
{
    for (struct follow *f = fs->first, *next; f != NULL; f = next) {
        next = f->next;
        pump(fs, f);
    }
}

void follows_pump_session(struct follows *fs, struct session *s)
{
    unsigned *count;
    for (struct follow *f = *session_follows(s, &count), *next; f != NULL; f = next) {
        next = f->sibling;
        pump(fs, f);
    }
}

void follows_drop_session(struct follows *fs, struct session *s)
{
    unsigned *count;
    struct follow **list = session_follows(s, &count);
    while (*list != NULL) end(fs, *list);
}
