/* Follows: a stream's events as they are committed, in order, without gap or repetition, across reconnections.
 *
 * The server sends as long as it has credit, counted in bytes of frames. Credit goes back when the consumer has had the
 * events; while it is paused none does, and what was on its way is held here: at most FOLLOW_CREDIT bytes, since
 * nothing new is subscribed to while anything is held. After a reconnection the subscription begins at the offset
 * behind the last event received, so nothing is asked for twice; what comes twice all the same is dropped, and a gap is
 * never handed on. */
#include "client/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    FOLLOW_CREDIT = 10 << 20, /* bytes: more than the largest event, else that one could never be sent */
    CREDIT_BACK = 256 << 10,  /* given back in pieces of at least this */
};

struct held {
    STAILQ_ENTRY(held) entry;
    uint64_t subscription;
    uint64_t from;      /* the first offset in it that is new */
    struct frame frame; /* into bytes */
    uint8_t bytes[];
};

static void give_back(struct crsc_follow *f, uint64_t subscription, uint32_t bytes)
{
    struct buf head = BUF_INIT;
    if (f->cancelled || f->subscription == 0 || subscription != f->subscription) return; /* another connection's */
    f->owed += bytes;
    if (f->owed < CREDIT_BACK || !uplink_up(f->uplink)) return;
    if (wire_credit(&head, f->owed) == 0 &&
        uplink_send(f->uplink, FRAME_FOLLOW_CREDIT, f->subscription, &head, NULL) == 0)
        f->owed = 0;
    buf_fini(&head);
}

static void move(struct crsc_follow *f, enum error_code code, const char *why)
{
    struct error e;
    error_set(&e, code, "%s", why);
    uplink_move(f->uplink, &e, NULL);
}

static void subscribe(struct crsc_follow *f)
{
    struct buf head = BUF_INIT;
    struct crsc_client *c = f->client;
    if (f->ended || f->cancelled || f->subscription != 0 || f->resume_at > 0 || !STAILQ_EMPTY(&f->held) ||
        !uplink_up(f->uplink))
        return;
    c->last_id = (c->last_id + 1) & UINT32_MAX;
    uint64_t id = c->last_id | (uint64_t)1 << 32; /* never 0 */
    int rv = wire_follow(&head, f->stream, f->next, FOLLOW_CREDIT);
    if (rv == 0) rv = uplink_send(f->uplink, FRAME_FOLLOW, id, &head, NULL);
    buf_fini(&head);
    if (rv != 0) {
        f->resume_at = client_now(c) + client_backoff(f->tries++);
        client_wake_at(c, f->resume_at);
        return;
    }
    f->subscription = id;
    f->owed = 0;
}

void follow_end(struct crsc_follow *f, const struct error *e)
{
    if (f->ended || f->cancelled) return;
    f->ended = true;
    f->subscription = 0;
    struct error told = *e;
    f->on_events(f->user, &told, NULL, 0, 0);
}

/* Hands a frame's events on: those not seen yet. `f->next` was checked and moved when the frame came. */
static void hand_on(struct crsc_follow *f, const struct wire_decoded *d, uint64_t from)
{
    const struct crsc_event *events = d->items;
    size_t skip = 0;
    while (skip < d->n && events[skip].offset < from) skip++;
    if (skip < d->n) f->on_events(f->user, NULL, events + skip, d->n - skip, d->last_offset);
}

static int hold(struct crsc_follow *f, const struct frame *frame)
{
    struct held *h = malloc(sizeof *h + frame->head_len + frame->body_len);
    if (h == NULL) return -ERROR_NOMEM;
    h->subscription = f->subscription;
    h->from = f->next;
    h->frame = *frame;
    if (frame->head_len > 0) memcpy(h->bytes, frame->head, frame->head_len);
    if (frame->body_len > 0) memcpy(h->bytes + frame->head_len, frame->body, frame->body_len);
    h->frame.head = h->bytes;
    h->frame.body = h->bytes + frame->head_len;
    STAILQ_INSERT_TAIL(&f->held, h, entry);
    return 0;
}

static void on_pushed(struct crsc_follow *f, const struct frame *frame)
{
    struct wire_decoded d;
    if (wire_decode_events(frame, &d) != 0) {
        move(f, ERROR_PROTOCOL, "sent events that cannot be read");
        return;
    }
    const struct crsc_event *events = d.items;
    uint64_t from = f->next, subscription = f->subscription;
    if (d.n > 0 && events[0].offset > f->next) {
        wire_decoded_fini(&d);
        move(f, ERROR_PROTOCOL, "left events out");
        return;
    }
    uplink_worked(f->uplink);
    f->tries = 0;
    if (f->paused || !STAILQ_EMPTY(&f->held)) {
        if (hold(f, frame) != 0)
            move(f, ERROR_NOMEM, "no memory to hold events");
        else if (d.n > 0 && events[d.n - 1].offset >= f->next)
            f->next = events[d.n - 1].offset + 1;
    } else {
        if (d.n > 0 && events[d.n - 1].offset >= f->next) f->next = events[d.n - 1].offset + 1;
        hand_on(f, &d, from);
        give_back(f, subscription, (uint32_t)frame_length(frame));
    }
    wire_decoded_fini(&d);
}

static void on_refusal(struct crsc_follow *f, const struct frame *frame)
{
    struct wire_refusal r;
    if (wire_decode_refusal(frame, &r) != 0) {
        move(f, ERROR_PROTOCOL, "sent an error that cannot be read");
        return;
    }
    enum client_verdict verdict = client_judge(r.error.code);
    if (verdict == VERDICT_MOVE && f->client->fixed) verdict = VERDICT_FINAL;
    f->subscription = 0;
    if (verdict == VERDICT_MOVE) {
        uplink_move(f->uplink, &r.error, r.leader_address);
    } else if (verdict == VERDICT_RETRY) {
        f->resume_at = client_now(f->client) + client_backoff(f->tries++);
        client_wake_at(f->client, f->resume_at);
    } else {
        follow_end(f, &r.error);
    }
}

static void on_up(void *user)
{
    struct crsc_follow *f = user;
    f->resume_at = 0;
    subscribe(f);
}

static void on_frame(void *user, const struct frame *frame)
{
    struct crsc_follow *f = user;
    if (f->ended || f->subscription == 0 || frame->id != f->subscription) return;
    if (frame->type == (FRAME_FOLLOW | FRAME_REPLY))
        on_pushed(f, frame);
    else if (frame->type == FRAME_ERROR || frame->type == (FRAME_ERROR | FRAME_REPLY))
        on_refusal(f, frame);
    else
        move(f, ERROR_PROTOCOL, "answered a follow with something else");
}

static void on_drained(void *user)
{
    (void)user;
}

static void on_down(void *user, const struct error *why)
{
    struct crsc_follow *f = user;
    (void)why;
    f->subscription = 0;
}

static void on_closed(void *user)
{
    struct crsc_follow *f = user;
    struct crsc_client *c = f->client;
    struct held *h;
    while ((h = STAILQ_FIRST(&f->held)) != NULL) {
        STAILQ_REMOVE_HEAD(&f->held, entry);
        free(h);
    }
    free(f->stream);
    free(f);
    client_uplink_gone(c);
}

static const struct uplink_handlers handlers = {
    .on_up = on_up, .on_frame = on_frame, .on_drained = on_drained, .on_down = on_down, .on_closed = on_closed};

/* What was held while it was paused, then the subscription that waited for that. The consumer may pause again, cancel,
 * or close the client at each step; f is in the client's list as long as it may be touched. */
static void hand_on_held(struct crsc_follow *f)
{
    struct held *h;
    while (!f->paused && !f->ended && !f->cancelled && (h = STAILQ_FIRST(&f->held)) != NULL) {
        struct wire_decoded d;
        if (wire_decode_events(&h->frame, &d) != 0) {
            struct error e;
            error_set(&e, ERROR_NOMEM, "no memory to read held events");
            follow_end(f, &e);
            return;
        }
        STAILQ_REMOVE_HEAD(&f->held, entry);
        hand_on(f, &d, h->from);
        give_back(f, h->subscription, (uint32_t)frame_length(&h->frame));
        wire_decoded_fini(&d);
        free(h);
    }
    if (!f->cancelled) subscribe(f);
}

void follow_turn(struct crsc_client *c)
{
    struct crsc_follow *f;
again:
    TAILQ_FOREACH(f, &c->follows, entry)
    {
        if (f->paused || f->ended || STAILQ_EMPTY(&f->held)) continue;
        hand_on_held(f); /* frees nothing: memory goes from the loop */
        goto again;      /* ends: each round empties one, or it paused, ended or left the list */
    }
}

uint64_t follow_tick(struct crsc_client *c, uint64_t now)
{
    struct crsc_follow *f;
    uint64_t next = UINT64_MAX;
    TAILQ_FOREACH(f, &c->follows, entry)
    {
        if (f->resume_at > 0 && f->resume_at <= now) {
            f->resume_at = 0;
            subscribe(f);
        }
        if (f->resume_at > 0 && f->resume_at < next) next = f->resume_at;
    }
    return next;
}

int crsc_follow(struct crsc_client *c, const char *stream, uint64_t from, crsc_events_cb *on_events, void *user,
                struct crsc_follow **ret_follow)
{
    if (c->closing) return -ERROR_CANCELED;
    struct crsc_follow *f = calloc(1, sizeof *f);
    if (f == NULL || (f->stream = strdup(stream)) == NULL) {
        free(f);
        return -ERROR_NOMEM;
    }
    f->client = c;
    f->next = from > 0 ? from : 1;
    f->on_events = on_events;
    f->user = user;
    STAILQ_INIT(&f->held);
    int rv = client_uplink(c, &handlers, f, &f->uplink);
    if (rv != 0) {
        free(f->stream);
        free(f);
        return rv;
    }
    TAILQ_INSERT_TAIL(&c->follows, f, entry);
    *ret_follow = f;
    return 0;
}

void crsc_follow_pause(struct crsc_follow *f)
{
    f->paused = true;
}

void crsc_follow_resume(struct crsc_follow *f)
{
    if (!f->paused || f->cancelled) return;
    f->paused = false;
    client_next_turn(f->client); /* what is held comes from the loop, not from inside this call */
}

void crsc_follow_cancel(struct crsc_follow *f)
{
    if (f->cancelled) return;
    f->cancelled = true;
    TAILQ_REMOVE(&f->client->follows, f, entry);
    uplink_close(f->uplink); /* f goes from the loop, when that is closed */
}
