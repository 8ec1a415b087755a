#include "logd/server/canary.h"

#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/queries.h"

enum { LOOK_MS = 5, AGAIN_MS = 100 };

struct canary {
    struct node *node;
    uv_timer_t timer; /* while somebody waits */
    struct {
        canary_cb *cb;
        void *user;
    } askers[CANARY_ASKERS];
    unsigned n;
    uint64_t id;     /* of the round under way: it tells a late answer of an earlier one */
    uint64_t until_ms;
    uint64_t wanted; /* entry that has to be applied here; 0: not known yet */
    bool confirmed;
    bool own;            /* a round of our own is under way: it is answered whatever happens */
    uint64_t again_ms;   /* another server's answer may have been lost */
    void (*done)(void *user);
    void *done_user;
};

struct canary *canary_new(struct node *node)
{
    struct canary *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    c->node = node;
    uv_timer_init(node->loop, &c->timer);
    c->timer.data = c;
    return c;
}

static void tell(struct canary *c, bool ready, const char *why)
{
    unsigned n = c->n;
    uv_timer_stop(&c->timer);
    c->n = 0; /* who is told may ask again */
    c->id++;
    for (unsigned i = 0; i < n; i++) {
        canary_cb *cb = c->askers[i].cb;
        void *user = c->askers[i].user;
        cb(user, ready, why);
    }
}

static void look(struct canary *c)
{
    char why[160];
    uint64_t applied = streams_applied(c->node->streams), leader = consensus_leader(c->node->consensus);
    if (c->confirmed && applied >= c->wanted) {
        tell(c, true, "");
    } else if (node_now_ms() >= c->until_ms) {
        if (c->confirmed) snprintf(why, sizeof why, "this server has applied entry %llu, the leader %llu", (unsigned long long)applied, (unsigned long long)c->wanted);
        else if (leader == 0) snprintf(why, sizeof why, "no leader is known");
        else snprintf(why, sizeof why, "server %llu is believed to lead, but no majority confirms it", (unsigned long long)leader);
        tell(c, false, why);
    }
}

static void on_confirmed(void *user, uint64_t id, bool leads)
{
    struct canary *c = user;
    c->own = false;
    if (leads) canary_answer(c, id, streams_applied(c->node->streams));
}

/* Asks whoever leads now; again as long as nobody has confirmed, as leaders change and answers are lost. */
static void ask_around(struct canary *c)
{
    uint64_t leader = consensus_leader(c->node->consensus);
    if (c->confirmed || c->own) return;
    c->again_ms = node_now_ms() + AGAIN_MS;
    if (consensus_role(c->node->consensus) == CONSENSUS_LEADER) {
        c->own = true;
        queries_confirm(c->node->queries, on_confirmed, c, c->id);
    } else if (leader != 0) {
        peers_ask(c->node->peers, leader, c->id);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct canary *c = timer->data;
    look(c);
    if (c->n > 0 && node_now_ms() >= c->again_ms) ask_around(c);
}

void canary_ask(struct canary *c, canary_cb *cb, void *user)
{
    if (c->n == CANARY_ASKERS || c->node->stopping) {
        cb(user, false, c->node->stopping ? "this server is stopping" : "too many ask at a time");
        return;
    }
    c->askers[c->n].cb = cb;
    c->askers[c->n++].user = user;
    if (c->n > 1) return;
    c->until_ms = node_now_ms() + CANARY_MS;
    c->wanted = 0;
    c->confirmed = false;
    uv_timer_start(&c->timer, on_timer, LOOK_MS, LOOK_MS);
    ask_around(c);
}

void canary_answer(struct canary *c, uint64_t id, uint64_t applied)
{
    if (c->n == 0 || id != c->id || applied == 0 || c->confirmed) return;
    c->confirmed = true;
    c->wanted = applied; /* the timer tells: this may be in the middle of somebody else's list */
}

void canary_cancel(struct canary *c)
{
    tell(c, false, "this server is stopping");
}

static void on_closed(uv_handle_t *handle)
{
    struct canary *c = handle->data;
    void (*done)(void *user) = c->done;
    void *user = c->done_user;
    free(c);
    done(user);
}

void canary_close(struct canary *c, void (*done)(void *user), void *user)
{
    c->done = done;
    c->done_user = user;
    uv_close((uv_handle_t *)&c->timer, on_closed);
}
