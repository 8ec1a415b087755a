#include "operator/migration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/placement.h"
#include "operator/workload_internal.h"

enum {
    REPLAYED_PER_MS = 20, /* what is a short tail: by measurements of replays (docs/REPLICAS.md) */
    DUMP_MS = 500,        /* of a checkpoint, where none was seen yet */
    CAUSE_MAX = 128,
};

struct migration {
    struct move core;
    struct workload *to, *from;
    migration_cb *cb; /* NULL: nobody listens any more */
    void *user;
    bool placed; /* it is written down that the app belongs to the target */
    uint64_t begun_us, caught_us, switched_us, yielded_us;
};

/* ---- what the core sees --------------------------------------------------------------------------------------- */

/* Would the target be up sooner with another checkpoint? */
static bool is_fresh(const struct migration *m)
{
    struct world world;
    const struct workload *w = m->from;
    uint64_t executed = interceptor_client_world(w->interceptor)->executed, best = 0, dump_ms = (w->dump_us + w->pack_us) / 1000;
    bool any = false;
    if (!m->to->parts.checkpoints || executed == 0) return true;
    workload_look(m->to, &world);
    for (size_t i = 0; i < world.log.n_snapshots; i++) {
        const struct world_snapshot *s = &world.log.snapshots[i];
        if (s->state != WORLD_VALID || !s->fits) continue;
        any = true;
        if (s->offset > best) best = s->offset;
    }
    return any && (executed <= best || (executed - best) / REPLAYED_PER_MS <= (dump_ms > 0 ? dump_ms : DUMP_MS));
}

static struct move_seen see(const struct migration *m, const struct group_replica *from, const struct group_replica *to)
{
    const struct world_interceptor *a = interceptor_client_world(m->from->interceptor), *b = interceptor_client_world(m->to->interceptor);
    return (struct move_seen){.from = from,
                              .to = to,
                              .fresh = m->core.step == MOVE_CHECKPOINT && is_fresh(m),
                              .tail = a->executed > b->executed ? a->executed - b->executed : 0,
                              .held = interceptor_client_extra(m->from->interceptor)->held};
}

/* ---- what it aims at ------------------------------------------------------------------------------------------ */

static const char *offset_of(const struct migration *m, uint64_t *ret_offset)
{
    const struct world_instance *i = m->to->driver->ops->instance(m->to->driver);
    *ret_offset = i->offset;
    return i->snapshot;
}

static void tell(struct migration *m, uint64_t now)
{
    struct migration_news news = {.step = m->core.step,
                                  .stream = m->to->parts.words->stream,
                                  .from = m->from->name,
                                  .to = m->to->name,
                                  .executed = interceptor_client_world(m->to->interceptor)->executed,
                                  .reason = m->core.reason};
    news.snapshot = offset_of(m, &news.offset);
    if (m->core.step == MOVE_DONE) {
        news.start_us = m->caught_us > m->begun_us ? m->caught_us - m->begun_us : 0;
        news.switch_us = m->switched_us != 0 && m->yielded_us > m->switched_us ? m->yielded_us - m->switched_us : 0;
        news.drain_us = now - m->yielded_us;
        log_info("moved", "stream=%s from=%s to=%s snapshot=%s offset=%" PRIu64 " start_ms=%.1f switch_ms=%.1f drain_ms=%.1f", news.stream, news.from, news.to,
                 news.snapshot, news.offset, (double)news.start_us / 1000, (double)news.switch_us / 1000, (double)news.drain_us / 1000);
    } else if (m->core.step == MOVE_FAILED) {
        log_warn("not moved: the app stays where it was", "stream=%s from=%s to=%s reason=%s", news.stream, news.from, news.to, news.reason);
    } else {
        log_info("a move goes on", "stream=%s from=%s to=%s step=%s", news.stream, news.from, news.to, move_step_name(news.step));
    }
    if (m->cb != NULL) m->cb(m->user, &news);
}

static void note_time(struct migration *m, uint64_t now)
{
    switch (m->core.step) {
    case MOVE_START: m->caught_us = m->switched_us = 0; break;
    case MOVE_SWITCH:
        m->switched_us = now;
        if (m->caught_us == 0) m->caught_us = now;
        break;
    case MOVE_DRAIN: m->yielded_us = now; break;
    default: break;
    }
}

/* A crash before it is written down ends the move, one after it has ended it: both serve then. */
static void place(struct migration *m)
{
    bool moved = move_moved(&m->core);
    struct error e;
    if (m->placed == moved) return;
    m->placed = moved;
    (moved ? m->from : m->to)->spare = true;
    (moved ? m->to : m->from)->spare = false;
    if (placement_save(m->to, &e) != 0) log_error("where the app belongs cannot be written down: a restart of the operator would begin where it was", "reason=%s", e.text);
}

static void aim(struct migration *m)
{
    enum move_step step = m->core.step;
    char why[CAUSE_MAX];
    snprintf(why, sizeof why, "it is moved here from %.63s", m->from->name);
    place(m);
    m->to->arriving = step == MOVE_SWITCH;
    m->from->leaving = step == MOVE_YIELD || step == MOVE_DRAIN;
    m->to->leaving = step == MOVE_BACK;
    workload_set_away(m->to, step == MOVE_CHECKPOINT || step == MOVE_FAILED, why);
    workload_set_away(m->from, step == MOVE_DONE, "");
}

bool migration_look(struct migration *m, const struct group_replica *from, const struct group_replica *to, uint64_t now_us)
{
    const struct move_seen seen = see(m, from, to);
    if (!move_look(&m->core, &seen, now_us)) return false;
    note_time(m, now_us);
    aim(m);
    tell(m, now_us);
    return true;
}

bool migration_hurries(const struct migration *m)
{
    return m->core.step == MOVE_CHECKPOINT;
}

bool migration_over(const struct migration *m)
{
    return move_over(&m->core);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static int check(const struct workload *to, const struct workload *from, struct error *e)
{
    const struct interceptor_extra *x = interceptor_client_extra(to->interceptor);
    if (from->replicas != to->replicas) return error_set(e, ERROR_INVALID, "%s and %s are of different streams", from->name, to->name);
    if (!to->away) return error_set(e, ERROR_CONFLICT, "%s is no spare: it runs already. To let clients go to a standby: crsc-logctl migrate", to->name);
    if (from->away) return error_set(e, ERROR_CONFLICT, "%s is a spare: nothing runs there", from->name);
    if (!from->looked || !to->looked) return error_set(e, ERROR_UNAVAILABLE, "the operator has just begun; try again");
    if (!to->heard)
        return error_set(e, ERROR_UNAVAILABLE, "the interceptor of %s does not answer: start it first", to->name);
    if (to->foreign || !x->shared) return error_set(e, ERROR_CONFLICT, "the interceptor of %s is of another stream, or without --replication log", to->name);
    return 0;
}

int migration_begin(struct workload *to, struct workload *from, uint32_t timeout_ms, migration_cb *cb, void *user, struct migration **ret_migration,
                    struct error *e)
{
    int rv = check(to, from, e);
    if (rv != 0) return rv;
    struct migration *m = calloc(1, sizeof *m);
    if (m == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    uint64_t now = loop_monotonic_us();
    *m = (struct migration){.to = to, .from = from, .cb = cb, .user = user, .begun_us = now};
    move_begin(&m->core, now, (uint64_t)timeout_ms * 1000);
    *ret_migration = m;
    return 0;
}

struct workload *migration_from(const struct migration *m)
{
    return m->from;
}

struct workload *migration_to(const struct migration *m)
{
    return m->to;
}

const void *migration_user(const struct migration *m)
{
    return m->user;
}

void migration_give_up(struct migration *m)
{
    m->cb = NULL;
    move_give_up(&m->core, loop_monotonic_us(), "who asked has gone");
}

struct migration *migration_end(struct migration *m)
{
    if (m == NULL) return NULL;
    m->to->arriving = m->to->leaving = m->from->leaving = false;
    free(m);
    return NULL;
}
