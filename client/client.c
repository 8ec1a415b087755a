#include "client/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A channel to one given server, for one call. */
struct once {
    TAILQ_ENTRY(once) entry;
    struct channel channel;
};

enum { TIMEOUT_DEFAULT_MS = 30000, WINDOW_DEFAULT = 16 << 20 };

uint64_t client_now(const struct crsc_client *c)
{
    return uv_now(c->loop);
}

uint32_t client_backoff(unsigned tries)
{
    uint64_t random = 0;
    if (uv_random(NULL, NULL, &random, sizeof random, 0, NULL) != 0) random = uv_hrtime();
    return endpoints_backoff(tries, RETRY_FIRST_MS, RETRY_MOST_MS, random);
}

enum client_verdict client_judge(enum error_code code)
{
    switch (code) {
    case ERROR_NOT_LEADER:
    case ERROR_UNAVAILABLE:
    case ERROR_TIMEOUT:
    case ERROR_CANCELED: /* it is stopping */ return VERDICT_MOVE;
    case ERROR_BUSY: return VERDICT_RETRY;
    default: return VERDICT_FINAL;
    }
}

void client_explain(const struct crsc_client *c, const struct uplink *u, const struct error *last, struct error *ret_e,
                    const char *what)
{
    char servers[ERROR_TEXT_MAX + ENDPOINTS_ADDRESS_MAX];
    if (u != NULL && uplink_up(u)) {
        snprintf(servers, sizeof servers, "%s %s", endpoints_current(uplink_endpoints(u)),
                 last->code != ERROR_NONE ? last->text : "was asked and did not answer");
    } else {
        endpoints_describe(u != NULL ? uplink_endpoints(u) : c->endpoints, servers, sizeof servers);
    }
    error_set(ret_e, ERROR_TIMEOUT, "%s within %u ms: %.180s", what, c->timeout_ms, servers);
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);

void client_wake_at(struct crsc_client *c, uint64_t when)
{
    if (c->closing || when >= c->timer_at) return;
    uint64_t now = client_now(c);
    c->timer_at = when;
    uv_timer_start(&c->timer, on_timer, when > now ? when - now : 0, 0);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct crsc_client *c = prepare->data;
    uv_prepare_stop(prepare);
    producer_bury(c);
    producer_flush_dirty(c);
    follow_turn(c);
}

void client_next_turn(struct crsc_client *c)
{
    if (!c->closing) uv_prepare_start(&c->prepare, on_prepare);
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static void forget(struct call *call)
{
    TAILQ_REMOVE(&call->channel->calls, call, entry);
    call->channel->client->n_calls--;
}

static void call_free(struct call *call)
{
    buf_fini(&call->head);
    free(call);
}

/* Ends a call that failed, with its one callback. */
static void call_failed(struct call *call, const struct error *e)
{
    struct channel *channel = call->channel;
    forget(call);
    if (channel->once && channel->uplink != NULL) uplink_close(channel->uplink);
    call->finish(call, e, NULL);
    call_free(call);
}

void client_cancel_call(struct call *call)
{
    forget(call);
    call_free(call);
}

static void call_send(struct call *call, uint64_t now)
{
    struct uplink *u = call->channel->uplink;
    if (call->sent || call->retry_at > now || !uplink_up(u)) return;
    if (uplink_send(u, call->type, call->id, &call->head, NULL) == 0)
        call->sent = true;
    else
        client_wake_at(call->channel->client, call->retry_at = now + client_backoff(call->tries++));
}

static void call_timed_out(struct call *call)
{
    struct error e;
    client_explain(call->channel->client, call->channel->uplink, &call->why, &e, "not done");
    call_failed(call, &e);
}

/* Returns when the channel's calls want the next tick. A callback may end any call, so the search begins anew. */
static uint64_t channel_tick(struct channel *channel, uint64_t now)
{
    struct call *call;
    uint64_t next = UINT64_MAX;
again:
    TAILQ_FOREACH(call, &channel->calls, entry)
    {
        if (call->deadline <= now) {
            bool once = channel->once;
            call_timed_out(call);
            if (once) return UINT64_MAX; /* the channel goes with it */
            goto again;
        }
        if (!call->sent && call->retry_at > 0 && call->retry_at <= now) {
            call->retry_at = 0;
            call_send(call, now);
        }
        if (call->deadline < next) next = call->deadline;
        if (!call->sent && call->retry_at > now && call->retry_at < next) next = call->retry_at;
    }
    return next;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void on_timer(uv_timer_t *timer)
{
    struct crsc_client *c = timer->data;
    uint64_t now = client_now(c), next;
    struct once *once, *after;
    c->timer_at = UINT64_MAX;
    next = channel_tick(&c->main, now);
    if (!c->closing) next = earlier(next, channel_tick(&c->bulk, now));
    for (once = TAILQ_FIRST(&c->onces); once != NULL && !c->closing; once = after) {
        after = TAILQ_NEXT(once, entry); /* onces leave the list from the loop only */
        next = earlier(next, channel_tick(&once->channel, now));
    }
    if (!c->closing) next = earlier(next, producer_tick(c, now));
    if (!c->closing) next = earlier(next, follow_tick(c, now));
    if (next != UINT64_MAX) client_wake_at(c, next);
}

/* ---- channels ------------------------------------------------------------------------------------------------- */

static void channel_up(void *user)
{
    struct channel *channel = user;
    struct call *call;
    uint64_t now = client_now(channel->client);
    TAILQ_FOREACH(call, &channel->calls, entry) call_send(call, now);
    if (channel == &channel->client->main) producer_main_up(channel->client);
}

static void channel_down(void *user, const struct error *why)
{
    struct channel *channel = user;
    struct call *call;
    if (channel->once) {
        struct error e = *why;
        if ((call = TAILQ_FIRST(&channel->calls)) != NULL) call_failed(call, &e);
        return;
    }
    TAILQ_FOREACH(call, &channel->calls, entry) call->sent = false;
    if (channel == &channel->client->main) producer_main_down(channel->client);
}

static void call_refused(struct call *call, const struct frame *f)
{
    struct channel *channel = call->channel;
    struct wire_refusal r;
    if (wire_decode_refusal(f, &r) != 0) {
        struct error e;
        error_set(&e, ERROR_PROTOCOL, "sent an error that cannot be read");
        uplink_move(channel->uplink, &e, NULL);
        return;
    }
    enum client_verdict verdict = client_judge(r.error.code);
    if (channel->once || (channel->client->fixed && verdict == VERDICT_MOVE)) verdict = VERDICT_FINAL;
    call->why = r.error;
    if (verdict == VERDICT_FINAL) {
        uplink_worked(channel->uplink);
        call_failed(call, &r.error);
    } else if (verdict == VERDICT_MOVE) {
        uplink_move(channel->uplink, &r.error, r.leader_address);
    } else {
        call->sent = false;
        call->retry_at = client_now(channel->client) + client_backoff(call->tries++);
        client_wake_at(channel->client, call->retry_at);
    }
}

static void call_answered(struct call *call, const struct frame *f)
{
    struct channel *channel = call->channel;
    int rv = -ERROR_PROTOCOL;
    if (f->type == (call->type | FRAME_REPLY)) {
        forget(call);
        if (channel->once) uplink_close(channel->uplink);
        rv = call->finish(call, NULL, f);
        if (rv == 0) {
            uplink_worked(channel->uplink); /* its memory lasts until the loop says that it is closed */
            call_free(call);
            return;
        }
        TAILQ_INSERT_HEAD(&channel->calls, call, entry); /* nobody was called: it is asked again */
        channel->client->n_calls++;
    }
    struct error e;
    error_set(&e, (enum error_code) - rv, "sent an answer to a request of type %u that cannot be used", call->type);
    if (channel->once)
        call_failed(call, &e);
    else
        uplink_move(channel->uplink, &e, NULL);
}

static void channel_frame(void *user, const struct frame *f)
{
    struct channel *channel = user;
    struct call *call;
    if (f->id >> 32 != 0) {
        if (channel == &channel->client->main) producer_frame(channel->client, f);
        return;
    }
    TAILQ_FOREACH(call, &channel->calls, entry)
    if (call->id == f->id && call->sent) break;
    if (call == NULL) return; /* of a call that ended before */
    if (f->type == FRAME_ERROR || f->type == (FRAME_ERROR | FRAME_REPLY))
        call_refused(call, f);
    else
        call_answered(call, f);
}

static void channel_drained(void *user)
{
    struct channel *channel = user;
    if (channel == &channel->client->main) producer_flush_all(channel->client);
}

static void free_parts(struct crsc_client *c)
{
    tls_context_free(c->tls.context);
    free(c->tls_name);
    free(c->producers);
    free(c->software);
}

static void maybe_gone(struct crsc_client *c)
{
    if (!c->closing || c->handles > 0) return;
    void (*done)(void *user) = c->done;
    void *user = c->done_user;
    producer_bury(c);
    endpoints_free(c->endpoints);
    free_parts(c);
    free(c);
    if (done != NULL) done(user);
}

void client_uplink_gone(struct crsc_client *c)
{
    c->handles--;
    maybe_gone(c);
}

static void channel_closed(void *user)
{
    struct channel *channel = user;
    struct crsc_client *c = channel->client;
    if (channel->once) {
        struct once *once = (struct once *)((char *)channel - offsetof(struct once, channel));
        TAILQ_REMOVE(&c->onces, once, entry);
        free(once);
    }
    client_uplink_gone(c);
}

static const struct uplink_handlers channel_handlers = {.on_up = channel_up,
                                                        .on_frame = channel_frame,
                                                        .on_drained = channel_drained,
                                                        .on_down = channel_down,
                                                        .on_closed = channel_closed};

static int new_uplink(struct crsc_client *c, struct endpoints *from, bool leader,
                      const struct uplink_handlers *handlers, void *user, struct uplink **ret_uplink)
{
    int rv = uplink_new(c->loop, from, leader, c->software, &c->tls, handlers, user, ret_uplink, NULL);
    if (rv == 0) c->handles++;
    return rv;
}

int client_uplink(struct crsc_client *c, const struct uplink_handlers *handlers, void *user, struct uplink **ret_uplink)
{
    const struct endpoints *from = c->main.uplink != NULL ? uplink_endpoints(c->main.uplink) : c->endpoints;
    return new_uplink(c, endpoints_copy(from), !c->fixed, handlers, user, ret_uplink);
}

int client_call(struct channel *channel, uint16_t type, struct buf *head, call_finish *finish, void (*callback)(void),
                void *user, struct call **ret_call)
{
    struct crsc_client *c = channel->client;
    struct call *call = NULL;
    int rv = c->closing ? -ERROR_CANCELED : c->n_calls >= CALLS_MAX ? -ERROR_BUSY : 0;
    if (rv == 0 && channel->uplink == NULL) rv = client_uplink(c, &channel_handlers, channel, &channel->uplink);
    if (rv == 0 && (call = calloc(1, sizeof *call)) == NULL) rv = -ERROR_NOMEM;
    if (rv != 0) {
        buf_fini(head);
        return rv;
    }
    c->last_id = (c->last_id + 1) & UINT32_MAX;
    if (c->last_id == 0) c->last_id = 1;
    *call = (struct call){.channel = channel,
                          .type = type,
                          .id = c->last_id,
                          .head = *head,
                          .deadline = client_now(c) + c->timeout_ms,
                          .finish = finish,
                          .callback = callback,
                          .user = user};
    *head = (struct buf)BUF_INIT;
    TAILQ_INSERT_TAIL(&channel->calls, call, entry);
    c->n_calls++;
    client_wake_at(c, call->deadline);
    call_send(call, client_now(c));
    if (ret_call != NULL) *ret_call = call;
    return 0;
}

/* ---- a client's life ------------------------------------------------------------------------------------------ */

static void channel_init(struct channel *channel, struct crsc_client *c, bool once)
{
    *channel = (struct channel){.client = c, .once = once};
    TAILQ_INIT(&channel->calls);
}

static int open_tls(struct crsc_client *c, const struct crsc_client_options *o, struct error *e)
{
    struct tls_options tls = {.side = TLS_CLIENT, .ca = o->tls_ca, .cert = o->tls_cert, .key = o->tls_key, .protocol = "crsc"};
    const char *given[] = {o->tls_ca, o->tls_cert, o->tls_key, o->tls_name};
    bool any = false;
    for (unsigned i = 0; i < 4; i++) any = any || (given[i] != NULL && given[i][0] != '\0');
    if (!any) return 0;
    if (o->tls_name != NULL && o->tls_name[0] != '\0' && (c->tls_name = strdup(o->tls_name)) == NULL)
        return error_set(e, ERROR_NOMEM, "no memory for a client");
    c->tls.name = c->tls_name;
    int rv = tls_context_new(&tls, &c->tls.context, e);
    return rv == 0 ? 0 : error_prefix(e, "TLS");
}

int crsc_client_new(uv_loop_t *loop, const struct crsc_client_options *options, struct crsc_client **ret_client,
                    struct error *e)
{
    struct endpoints *endpoints;
    int rv = endpoints_new(options->servers, options->fixed, &endpoints, e);
    if (rv != 0) return rv;
    struct crsc_client *c = calloc(1, sizeof *c);
    rv = c == NULL || (c->software = strdup(options->software != NULL ? options->software : "libcrsc")) == NULL
             ? error_set(e, ERROR_NOMEM, "no memory for a client")
             : open_tls(c, options, e);
    if (rv != 0) {
        endpoints_free(endpoints);
        if (c != NULL) free_parts(c);
        free(c);
        return rv;
    }
    c->loop = loop;
    c->endpoints = endpoints;
    c->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_DEFAULT_MS;
    c->window_bytes = options->window_bytes > 0 ? options->window_bytes : WINDOW_DEFAULT;
    c->fixed = options->fixed;
    channel_init(&c->main, c, false);
    channel_init(&c->bulk, c, false);
    TAILQ_INIT(&c->onces);
    TAILQ_INIT(&c->open);
    TAILQ_INIT(&c->dirty);
    TAILQ_INIT(&c->graveyard);
    TAILQ_INIT(&c->follows);
    uv_timer_init(loop, &c->timer);
    uv_prepare_init(loop, &c->prepare);
    c->timer.data = c->prepare.data = c;
    c->timer_at = UINT64_MAX;
    c->handles = 2;
    *ret_client = c;
    return 0;
}

static void on_handle_closed(uv_handle_t *handle)
{
    client_uplink_gone(handle->data);
}

static void channel_end(struct channel *channel, const struct error *e)
{
    struct call *call;
    while ((call = TAILQ_FIRST(&channel->calls)) != NULL) call_failed(call, e);
    if (channel->uplink != NULL) uplink_close(channel->uplink);
}

void crsc_client_close(struct crsc_client *c, void (*done)(void *user), void *user)
{
    struct error e;
    struct crsc_producer *p;
    struct crsc_follow *f;
    struct once *once;
    assert(!c->closing);
    c->closing = true;
    c->done = done;
    c->done_user = user;
    error_set(&e, ERROR_CANCELED, "the client was closed");
    while ((p = TAILQ_FIRST(&c->open)) != NULL) crsc_producer_close(p);
    while ((f = TAILQ_FIRST(&c->follows)) != NULL) {
        follow_end(f, &e);
        crsc_follow_cancel(f); /* idempotent: its last callback may have done it */
    }
    channel_end(&c->main, &e);
    channel_end(&c->bulk, &e);
    TAILQ_FOREACH(once, &c->onces, entry) channel_end(&once->channel, &e);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    uv_close((uv_handle_t *)&c->prepare, on_handle_closed);
}

/* ---- asking one server ---------------------------------------------------------------------------------------- */

static int finish_status(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_status_cb *callback = (crsc_status_cb *)call->callback;
    if (e != NULL) {
        callback(call->user, e, NULL);
        return 0;
    }
    struct crsc_status status;
    struct wire_decoded members;
    int rv = wire_decode_status(f, &status, &members);
    if (rv != 0) return rv;
    callback(call->user, NULL, &status);
    wire_decoded_fini(&members);
    return 0;
}

int crsc_status(struct crsc_client *c, const char *server, crsc_status_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    struct endpoints *endpoints;
    if (c->closing) return -ERROR_CANCELED;
    int rv = wire_status(&head, server == NULL && !c->fixed);
    if (rv != 0 || server == NULL)
        return rv != 0 ? rv
                       : client_call(&c->main, FRAME_STATUS, &head, finish_status, (void (*)(void))done, user, NULL);

    struct once *once = calloc(1, sizeof *once);
    if (once == NULL) rv = -ERROR_NOMEM;
    if (rv == 0) rv = endpoints_new(server, true, &endpoints, NULL);
    if (rv == 0) {
        channel_init(&once->channel, c, true);
        rv = new_uplink(c, endpoints, false, &channel_handlers, &once->channel, &once->channel.uplink);
    }
    if (rv != 0) {
        buf_fini(&head);
        free(once);
        return rv;
    }
    TAILQ_INSERT_TAIL(&c->onces, once, entry);
    rv = client_call(&once->channel, FRAME_STATUS, &head, finish_status, (void (*)(void))done, user, NULL);
    if (rv != 0) uplink_close(once->channel.uplink); /* frees it */
    return rv;
}
