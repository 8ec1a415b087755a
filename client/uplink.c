#include "client/uplink.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/wire.h"
#include "common/conn.h"

enum state { WAITING, CONNECTING, GREETING, ASKING, UP, CLOSED };

static const uint64_t PROBE_ID = UINT64_MAX; /* of our own Status requests; owners count from 1 */

struct uplink {
    uv_loop_t *loop;
    struct endpoints *endpoints;
    const char *software;
    const struct uplink_tls *tls;
    bool leader;
    struct uplink_handlers handlers;
    void *user;
    enum state state;
    struct conn *conn; /* the current one, or NULL */
    unsigned conns;    /* that have not told on_close yet, the given-up ones too */
    uv_timer_t timer;  /* waiting, greeting, probing: by state */
    bool timer_closed;
    unsigned lost; /* probes since anything was heard */
    bool heard;      /* something else than their answers, since the time for one */
    bool unasked;    /* that is why none was sent the last time */
};

static void attempt(struct uplink *u);

static uint64_t random_number(void)
{
    uint64_t r = 0;
    if (uv_random(NULL, NULL, &r, sizeof r, 0, NULL) != 0) r = uv_hrtime();
    return r;
}

static void maybe_gone(struct uplink *u)
{
    if (u->state != CLOSED || u->conns > 0 || !u->timer_closed) return;
    u->handlers.on_closed(u->user);
    endpoints_free(u->endpoints);
    free(u);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct uplink *u = handle->data;
    u->timer_closed = true;
    maybe_gone(u);
}

static void drop_conn(struct uplink *u)
{
    if (u->conn == NULL) return;
    conn_close(u->conn, 0, NULL);
    u->conn = NULL;
}

static void on_wait_over(uv_timer_t *timer)
{
    attempt(timer->data);
}

static void wait_and_attempt(struct uplink *u)
{
    struct endpoints_choice choice = endpoints_next(u->endpoints, random_number());
    u->state = WAITING;
    /* Through the timer even when there is nothing to wait for: an attempt never begins inside an owner's call. */
    uv_timer_start(&u->timer, on_wait_over, choice.wait_ms, 0);
}

/* "connect to a:1: refused" becomes "refused": the address is said by whoever lists the reasons. */
static const char *short_reason(const struct uplink *u, const struct error *why)
{
    const char *address = endpoints_current(u->endpoints);
    const char *at = strstr(why->text, address);
    if (at == NULL) return why->text;
    at += strlen(address);
    return strncmp(at, ": ", 2) == 0 ? at + 2 : why->text;
}

void uplink_move(struct uplink *u, const struct error *why, const char *leader)
{
    if (u->state == CLOSED || u->state == WAITING) return;
    endpoints_failed(u->endpoints, short_reason(u, why));
    endpoints_hint(u->endpoints, leader);
    drop_conn(u);
    wait_and_attempt(u);
    struct error told = *why;
    u->handlers.on_down(u->user, &told);
}

static void fail(struct uplink *u, enum error_code code, const char *text)
{
    struct error e;
    error_set(&e, code, "%s: %s", endpoints_current(u->endpoints), text);
    uplink_move(u, &e, NULL);
}

/* ---- while it is up ------------------------------------------------------------------------------------------- */

static int send_status(struct uplink *u, bool linearizable)
{
    struct buf head = BUF_INIT;
    int rv = wire_status(&head, linearizable);
    if (rv == 0)
        rv = conn_send(u->conn,
                       &(struct frame){.type = FRAME_STATUS, .id = PROBE_ID, .head = head.data, .head_len = head.len});
    buf_fini(&head);
    return rv;
}

static void on_probe_time(uv_timer_t *timer)
{
    struct uplink *u = timer->data;
    /* What was heard since the last time shows that it lives. Every other time it is asked all the same: a leader may have become none, and servers that
     * were added are learnt from the answer, before those that are known are gone. */
    bool heard = u->heard && !u->unasked;
    u->heard = false;
    u->unasked = heard;
    if (heard) return;
    /* Counted, not timed: when it was our process that stood still, what the server sent meanwhile is read first. */
    if (++u->lost > UPLINK_PROBES_LOST)
        fail(u, ERROR_TIMEOUT, "does not answer any more");
    else if (send_status(u, false) != 0)
        fail(u, ERROR_NOMEM, "no memory to ask it");
}

static void now_up(struct uplink *u)
{
    u->state = UP;
    u->lost = 0;
    uv_timer_start(&u->timer, on_probe_time, UPLINK_PROBE_MS, UPLINK_PROBE_MS);
    u->handlers.on_up(u->user);
}

/* The answer to our Status: does it lead, and if not, who does? */
static void on_probe_answer(struct uplink *u, const struct frame *f)
{
    if (f->type == FRAME_ERROR || f->type == (FRAME_ERROR | FRAME_REPLY)) {
        struct wire_refusal r;
        if (wire_decode_refusal(f, &r) != 0)
            fail(u, ERROR_PROTOCOL, "sent an answer that cannot be read");
        else if (u->leader)
            uplink_move(u, &r.error, r.leader_address);
        return;
    }
    struct crsc_status status;
    struct wire_decoded members;
    if (f->type != (FRAME_STATUS | FRAME_REPLY) || wire_decode_status(f, &status, &members) != 0) {
        fail(u, ERROR_PROTOCOL, "sent an answer that cannot be read");
        return;
    }
    for (size_t i = 0; i < status.n_members; i++) endpoints_learn(u->endpoints, status.members[i].address);
    if (u->leader && strcmp(status.role, "leader") != 0) {
        struct error e;
        char leader[ENDPOINTS_ADDRESS_MAX];
        snprintf(leader, sizeof leader, "%s", status.leader_address);
        error_set(&e, ERROR_NOT_LEADER,
                  leader[0] != '\0' ? "does not lead, %s does" : "does not lead and knows no leader%s", leader);
        wire_decoded_fini(&members);
        uplink_move(u, &e, leader);
        return;
    }
    wire_decoded_fini(&members);
    if (u->state == ASKING)
        now_up(u);
    else
        endpoints_succeeded(u->endpoints); /* it lasts */
}

/* ---- getting there -------------------------------------------------------------------------------------------- */

static void on_greeting_late(uv_timer_t *timer)
{
    struct uplink *u = timer->data;
    fail(u, ERROR_TIMEOUT,
         u->state == ASKING ? "did not say in time whether it leads: perhaps it reaches no majority"
                            : "accepts connections but does not answer");
}

static void on_open(struct conn *c, void *user)
{
    struct uplink *u = user;
    if (c != u->conn) return;
    struct buf head = BUF_INIT;
    u->state = GREETING;
    uv_timer_start(&u->timer, on_greeting_late, UPLINK_GREETING_MS, 0);
    int rv = wire_hello(&head, u->software);
    if (rv == 0) rv = conn_send(c, &(struct frame){.type = FRAME_HELLO, .head = head.data, .head_len = head.len});
    if (rv == 0 && u->leader) rv = send_status(u, true);
    buf_fini(&head);
    if (rv != 0) fail(u, ERROR_NOMEM, "no memory to greet it");
}

static void on_hello(struct uplink *u, const struct frame *f)
{
    struct error e;
    struct wire_refusal r;
    uint16_t type = f->type & (uint16_t)~FRAME_REPLY;
    if (type == FRAME_ERROR && wire_decode_refusal(f, &r) == 0) {
        uplink_move(u, &r.error, r.leader_address);
    } else if (type != FRAME_HELLO) {
        fail(u, ERROR_PROTOCOL, "did not greet");
    } else if (wire_decode_hello(f, &e) != 0) {
        uplink_move(u, &e, NULL);
    } else if (u->leader) {
        u->state = ASKING;
        uv_timer_start(&u->timer, on_greeting_late, UPLINK_GREETING_MS, 0);
    } else {
        now_up(u);
    }
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct uplink *u = user;
    if (c != u->conn) return;
    u->lost = 0;
    if (f->id != PROBE_ID) u->heard = true;
    if (u->state == GREETING)
        on_hello(u, f);
    else if (f->id == PROBE_ID)
        on_probe_answer(u, f);
    else if (u->state == UP)
        u->handlers.on_frame(u->user, f);
    else
        fail(u, ERROR_PROTOCOL, "answered what was not asked");
}

static void on_drained(struct conn *c, void *user)
{
    struct uplink *u = user;
    if (c == u->conn && u->state == UP) u->handlers.on_drained(u->user);
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct uplink *u = user;
    u->conns--;
    if (u->state == CLOSED) {
        maybe_gone(u);
        return;
    }
    if (c != u->conn) return; /* given up before */
    u->conn = NULL;
    if (why->code == ERROR_NONE)
        fail(u, ERROR_IO, "closed the connection");
    else
        uplink_move(u, why, NULL);
}

static const struct conn_handlers conn_handlers = {
    .on_open = on_open, .on_frame = on_frame, .on_drained = on_drained, .on_close = on_close};

static int secure(struct uplink *u, const char *address, struct error *e)
{
    char host[256], port[8];
    bool reloaded;
    int rv = address_split(address, host, sizeof host, port, sizeof port, e);
    if (rv != 0) return rv;
    tls_context_refresh(u->tls->context, &reloaded, NULL); /* new files that are not good: the old ones are tried */
    return conn_secure(u->conn, u->tls->context, u->tls->name != NULL ? u->tls->name : host, e);
}

static void attempt(struct uplink *u)
{
    const char *address = endpoints_current(u->endpoints);
    struct error e;
    u->state = CONNECTING;
    if (conn_connect(u->loop, address, UPLINK_CONNECT_MS, &conn_handlers, u, &u->conn, &e) != 0) {
        uplink_move(u, &e, NULL);
        return;
    }
    u->conns++;
    conn_prompt(u->conn); /* producers send once in a turn (client_next_turn()) */
    if (u->tls->context != NULL && secure(u, address, &e) != 0) uplink_move(u, &e, NULL);
}

int uplink_new(uv_loop_t *loop, struct endpoints *endpoints, bool leader, const char *software,
               const struct uplink_tls *tls, const struct uplink_handlers *handlers, void *user, struct uplink **ret_uplink, struct error *e)
{
    struct uplink *u = calloc(1, sizeof *u);
    if (u == NULL || endpoints == NULL) {
        free(u);
        endpoints_free(endpoints);
        return error_set(e, ERROR_NOMEM, "no memory for a connection");
    }
    u->loop = loop;
    u->endpoints = endpoints;
    u->leader = leader;
    u->software = software;
    u->tls = tls;
    u->handlers = *handlers;
    u->user = user;
    uv_timer_init(loop, &u->timer);
    u->timer.data = u;
    wait_and_attempt(u);
    *ret_uplink = u;
    return 0;
}

void uplink_close(struct uplink *u)
{
    if (u->state == CLOSED) return;
    u->state = CLOSED;
    drop_conn(u);
    uv_close((uv_handle_t *)&u->timer, on_timer_closed);
}

bool uplink_up(const struct uplink *u)
{
    return u->state == UP;
}

int uplink_send(struct uplink *u, uint16_t type, uint64_t id, const struct buf *head, const struct buf *body)
{
    assert(u->state == UP);
    struct frame f = {.type = type, .id = id, .head = head->data, .head_len = head->len};
    if (body != NULL) {
        f.body = body->data;
        f.body_len = body->len;
    }
    return conn_send(u->conn, &f);
}

size_t uplink_queued(const struct uplink *u)
{
    return u->conn != NULL ? conn_queued(u->conn) : 0;
}

void uplink_worked(struct uplink *u)
{
    endpoints_succeeded(u->endpoints);
}

const struct endpoints *uplink_endpoints(const struct uplink *u)
{
    return u->endpoints;
}
