/* Producers: appends in order, exactly once, through whatever happens to servers and connections.
 *
 *   a reply                    its events are done; `duplicate` means it was there already, which is as good
 *   the connection is lost,    every batch without an answer is sent again, in order, with the same sequences, when
 *   NOT_LEADER, UNAVAILABLE    the uplink has found the leader
 *   BUSY, NOSPACE              the refused batch and all behind it are sent again a little later (go-back-N)
 *   SEQUENCE, expected E       what is before E is in the log, its answers are on their way; the rest is sent again,
 *                              also a little later
 *   FENCED, anything else      the producer is broken: nothing is ever skipped
 *
 * Answers to sendings that were given up carry ids that are known no more and are dropped. */
#include "client/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool works(const struct crsc_producer *p)
{
    return !p->closed && p->broken.code == ERROR_NONE && p->epoch > 0;
}

static void mark_dirty(struct crsc_producer *p)
{
    if (p->dirty || p->closed) return;
    p->dirty = true;
    TAILQ_INSERT_TAIL(&p->client->dirty, p, dirty_entry);
    client_next_turn(p->client);
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static int send_batch(struct crsc_producer *p, struct outbox_batch *b)
{
    struct crsc_client *c = p->client;
    struct buf head = BUF_INIT;
    uint64_t id = (uint64_t)(p->slot + 1) << 32 | (c->last_id = (c->last_id + 1) & UINT32_MAX);
    int rv = wire_append(&head, p->stream, p->epoch, b->sequence, b->events, b->n);
    if (rv == 0) rv = uplink_send(c->main.uplink, FRAME_APPEND, id, &head, &b->body);
    buf_fini(&head);
    if (rv == 0) outbox_sent(p->outbox, b, id);
    return rv;
}

static void back_off(struct crsc_producer *p)
{
    p->resume_at = client_now(p->client) + client_backoff(p->tries++);
    client_wake_at(p->client, p->resume_at);
}

static void flush(struct crsc_producer *p)
{
    struct uplink *u = p->client->main.uplink;
    struct outbox_batch *b;
    if (!works(p) || p->resume_at > 0 || u == NULL) return;
    while (uplink_up(u) && uplink_queued(u) < QUEUED_MAX && (b = outbox_due(p->outbox)) != NULL) {
        if (send_batch(p, b) == 0) continue;
        back_off(p);
        return;
    }
}

void producer_flush_dirty(struct crsc_client *c)
{
    struct crsc_producer *p;
    while ((p = TAILQ_FIRST(&c->dirty)) != NULL) {
        TAILQ_REMOVE(&c->dirty, p, dirty_entry);
        p->dirty = false;
        flush(p);
    }
}

void producer_flush_all(struct crsc_client *c)
{
    struct crsc_producer *p;
    TAILQ_FOREACH(p, &c->open, entry) flush(p);
}

void producer_main_up(struct crsc_client *c)
{
    struct crsc_producer *p;
    TAILQ_FOREACH(p, &c->open, entry)
    {
        p->resume_at = 0;
        flush(p);
    }
}

void producer_main_down(struct crsc_client *c)
{
    struct crsc_producer *p;
    TAILQ_FOREACH(p, &c->open, entry) if (p->outbox != NULL) outbox_rewind_all(p->outbox);
}

/* ---- ends ----------------------------------------------------------------------------------------------------- */

static void abandon(struct crsc_producer *p, const struct error *e)
{
    struct outbox_ticket t;
    while (outbox_abandon(p->outbox, &t)) t.done(t.user, e, 0);
}

static void broke(struct crsc_producer *p, const struct error *e)
{
    if (p->closed || p->broken.code != ERROR_NONE) return;
    p->broken = *e;
    struct error told = *e;
    abandon(p, &told); /* a callback may close p; p stays in the graveyard until the next turn */
    if (!p->closed && p->on_broken != NULL) p->on_broken(p->user, &told);
}

void crsc_producer_close(struct crsc_producer *p)
{
    struct crsc_client *c = p->client;
    struct error e;
    if (p->closed) return;
    p->closed = true;
    if (p->dirty) TAILQ_REMOVE(&c->dirty, p, dirty_entry);
    p->dirty = false;
    TAILQ_REMOVE(&c->open, p, entry);
    TAILQ_INSERT_TAIL(&c->graveyard, p, entry);
    c->producers[p->slot] = NULL;
    client_next_turn(c);
    error_set(&e, ERROR_CANCELED, "the producer was closed");
    if (p->opening != NULL) {
        client_cancel_call(p->opening);
        p->opening = NULL;
        p->opened(p->user, &e, 0, 0);
    }
    abandon(p, &e);
}

void producer_bury(struct crsc_client *c)
{
    struct crsc_producer *p;
    while ((p = TAILQ_FIRST(&c->graveyard)) != NULL) {
        TAILQ_REMOVE(&c->graveyard, p, entry);
        outbox_free(p->outbox);
        free(p->stream);
        free(p);
    }
}

uint64_t producer_tick(struct crsc_client *c, uint64_t now)
{
    struct crsc_producer *p;
    uint64_t next = UINT64_MAX;
again:
    TAILQ_FOREACH(p, &c->open, entry)
    {
        if (!works(p)) continue;
        uint64_t oldest = outbox_oldest_ms(p->outbox);
        if (oldest != UINT64_MAX && oldest + c->timeout_ms <= now) {
            struct error e;
            client_explain(c, c->main.uplink, &p->why, &e, "an append's outcome is unknown: not acknowledged");
            broke(p, &e);
            goto again; /* callbacks may have opened and closed others */
        }
        if (p->resume_at > 0 && p->resume_at <= now) {
            p->resume_at = 0;
            flush(p);
        }
        if (p->resume_at > 0 && p->resume_at < next) next = p->resume_at;
        if (oldest != UINT64_MAX && oldest + c->timeout_ms < next) next = oldest + c->timeout_ms;
    }
    return next;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void bad_answer(struct crsc_producer *p)
{
    struct error e;
    error_set(&e, ERROR_PROTOCOL, "sent an answer to an append that cannot be used");
    uplink_move(p->client->main.uplink, &e, NULL);
}

static void on_reply(struct crsc_producer *p, struct outbox_batch *b, const struct frame *f)
{
    uint64_t first, offset;
    uint32_t count;
    bool duplicate;
    struct outbox_ticket t;
    if (wire_decode_appended(f, &first, &count, &duplicate) != 0 || count != b->n) {
        bad_answer(p);
        return;
    }
    outbox_acked(p->outbox, b, first);
    p->tries = 0;
    p->why.code = ERROR_NONE;
    uplink_worked(p->client->main.uplink);
    while (!p->closed && p->broken.code == ERROR_NONE && outbox_take(p->outbox, &t, &offset)) {
        if (offset <= p->last_offset) {
            struct error e;
            error_set(&e, ERROR_INTERNAL,
                      "the log gave offset %" PRIu64 " to an append behind the one at %" PRIu64 " of stream %.100s",
                      offset, p->last_offset, p->stream);
            t.done(t.user, &e, 0);
            broke(p, &e);
            return;
        }
        p->last_offset = offset;
        t.done(t.user, NULL, offset);
    }
    mark_dirty(p);
}

/* The log expects another sequence than this batch's. */
static void on_gap(struct crsc_producer *p, const struct outbox_batch *b, const struct wire_refusal *r)
{
    /* Above: the log knows more of us than we were told; the same question will be answered with `duplicate` as soon as
     * it can be, and if not in time then the outcome is unknown. */
    uint64_t from = r->expected < b->sequence ? r->expected : b->sequence;
    if (r->expected <= outbox_next_sequence(p->outbox) && outbox_rewind(p->outbox, from) == 0) {
        back_off(p);
        return;
    }
    /* Below what it acknowledged, beyond what we ever had, or inside a batch: the two sides do not agree on the past.
     */
    struct error e;
    error_set(&e, ERROR_SEQUENCE, "the log expects sequence %" PRIu64 ", this producer stands at %" PRIu64 ": %.120s",
              r->expected, b->sequence, r->error.text);
    broke(p, &e);
}

static void on_refusal(struct crsc_producer *p, struct outbox_batch *b, const struct frame *f)
{
    struct crsc_client *c = p->client;
    struct wire_refusal r;
    if (wire_decode_refusal(f, &r) != 0) {
        bad_answer(p);
        return;
    }
    p->why = r.error;
    if (r.error.code == ERROR_SEQUENCE) {
        on_gap(p, b, &r);
        return;
    }
    enum client_verdict verdict = client_judge(r.error.code);
    if (r.error.code == ERROR_NOSPACE) verdict = VERDICT_RETRY; /* had no effect, and space may come back */
    if (verdict == VERDICT_MOVE && c->fixed) verdict = VERDICT_FINAL;
    if (verdict == VERDICT_MOVE) {
        uplink_move(c->main.uplink, &r.error, r.leader_address);
    } else if (verdict == VERDICT_RETRY) {
        outbox_rewind(p->outbox, b->sequence);
        back_off(p);
    } else {
        broke(p, &r.error);
    }
}

void producer_frame(struct crsc_client *c, const struct frame *f)
{
    uint64_t slot = (f->id >> 32) - 1;
    struct crsc_producer *p = slot < c->n_slots ? c->producers[slot] : NULL;
    struct outbox_batch *b = p != NULL && works(p) ? outbox_find(p->outbox, f->id) : NULL;
    if (b == NULL) return; /* to a sending that was given up, or a producer that was closed */
    if (f->type == (FRAME_APPEND | FRAME_REPLY))
        on_reply(p, b, f);
    else if (f->type == FRAME_ERROR || f->type == (FRAME_ERROR | FRAME_REPLY))
        on_refusal(p, b, f);
    else
        bad_answer(p);
}

/* ---- the user's side ------------------------------------------------------------------------------------------ */

static int finish_open(struct call *call, const struct error *e, const struct frame *f)
{
    struct crsc_producer *p = call->user;
    uint64_t epoch = 0, last = 0;
    if (e == NULL) {
        int rv = wire_decode_opened(f, &epoch, &last);
        if (rv != 0) return rv;
    }
    p->opening = NULL;
    if (e != NULL) p->broken = *e;
    p->epoch = epoch;
    p->last_offset = last;
    p->opened(p->user, e, epoch, last);
    return 0;
}

static int take_slot(struct crsc_client *c, unsigned *ret_slot)
{
    for (unsigned i = 0; i < c->n_slots; i++) {
        if (c->producers[i] != NULL) continue;
        *ret_slot = i;
        return 0;
    }
    if (c->n_slots == PRODUCERS_MAX) return -ERROR_BUSY;
    unsigned more = c->n_slots > 0 ? c->n_slots * 2 : 4;
    struct crsc_producer **grown = realloc(c->producers, more * sizeof *grown);
    if (grown == NULL) return -ERROR_NOMEM;
    memset(grown + c->n_slots, 0, (more - c->n_slots) * sizeof *grown);
    *ret_slot = c->n_slots;
    c->producers = grown;
    c->n_slots = more;
    return 0;
}

int crsc_producer_open(struct crsc_client *c, const char *stream, const char *producer, bool shared,
                       crsc_opened_cb *opened, void (*on_broken)(void *user, const struct error *e), void *user,
                       struct crsc_producer **ret_producer, struct error *e)
{
    struct buf head = BUF_INIT;
    struct crsc_producer *p = calloc(1, sizeof *p);
    int rv = p == NULL || (p->stream = strdup(stream)) == NULL || (p->outbox = outbox_new(c->window_bytes)) == NULL
                 ? -ERROR_NOMEM
                 : take_slot(c, &p->slot);
    if (rv == 0) rv = wire_open(&head, stream, producer, shared);
    if (rv == 0) rv = client_call(&c->main, FRAME_OPEN_PRODUCER, &head, finish_open, NULL, p, &p->opening);
    if (rv != 0) {
        if (p != NULL) {
            outbox_free(p->outbox);
            free(p->stream);
        }
        free(p);
        return error_set(e, (enum error_code) - rv, "open stream %.200s: %s", stream, error_name(rv));
    }
    p->client = c;
    p->opened = opened;
    p->on_broken = on_broken;
    p->user = user;
    c->producers[p->slot] = p;
    TAILQ_INSERT_TAIL(&c->open, p, entry);
    *ret_producer = p;
    return 0;
}

int crsc_append(struct crsc_producer *p, const struct crsc_event *event, crsc_appended_cb *done, void *user)
{
    if (p->closed) return -ERROR_CANCELED;
    if (p->broken.code != ERROR_NONE) return -(int)p->broken.code;
    if (p->epoch == 0) return -ERROR_INVALID;
    uint64_t now = client_now(p->client);
    int rv = outbox_push(p->outbox, event, (struct outbox_ticket){done, user}, now);
    if (rv != 0) return rv;
    client_wake_at(p->client, now + p->client->timeout_ms);
    mark_dirty(p);
    return 0;
}
