/* The store's lane: records in the log, images on disk. */
#include <string.h>

#include "operator/reconcile/internal.h"

static bool act(struct reconcile *r, enum reconcile_act what, const char *id, struct reconcile_action *a)
{
    *a = (struct reconcile_action){.act = what, .lane = RECONCILE_LANE_STORE};
    copy_text(a->snapshot, sizeof a->snapshot, id);
    r->pending[RECONCILE_LANE_STORE] = what;
    return true;
}

static bool record(struct reconcile *r, const char *id, enum world_snapshot_state state, uint64_t offset,
                   const char *reason, struct reconcile_action *a)
{
    act(r, RECONCILE_RECORD, id, a);
    a->state = state;
    a->offset = offset;
    copy_text(a->reason, sizeof a->reason, reason);
    copy_text(r->recording, sizeof r->recording, id);
    return true;
}

/* --- what is to be done, in this order */

static bool checkpoint_record(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    const char *id = r->checkpoint;
    if (r->spoilt && (r->stage == RECONCILE_PACKED || r->stage == RECONCILE_VALID)) checkpoint_fail(r, w, spoilt_reason);
    switch (r->stage) {
    case RECONCILE_TAKING: return record(r, id, WORLD_TAKING, r->checkpoint_offset, "", a);
    case RECONCILE_PACKED:
        act(r, RECONCILE_PACK, id, a);
        a->offset = r->checkpoint_offset;
        return true;
    case RECONCILE_VALID: return record(r, id, WORLD_VALID, r->checkpoint_offset, "", a);
    case RECONCILE_BROKEN: return record(r, id, WORLD_FAILED, r->checkpoint_offset, r->checkpoint_reason, a);
    default: return false;
    }
}

static bool bad_record(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    for (unsigned i = 0; i < r->n_bad; i++) {
        size_t at = snapshot_find(w, r->bad[i].id);
        if (at < w->log.n_snapshots && w->log.snapshots[at].state == WORLD_VALID)
            return record(r, r->bad[i].id, WORLD_FAILED, w->log.snapshots[at].offset, r->bad[i].reason, a);
        memmove(r->bad + i, r->bad + i + 1, (--r->n_bad - i) * sizeof *r->bad); /* it is recorded */
        i--;
    }
    return false;
}

static bool under_way(const struct reconcile *r, const char *id)
{
    return r->stage != RECONCILE_IDLE && strcmp(r->checkpoint, id) == 0;
}

static bool stale_record(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    for (size_t i = 0; i < w->log.n_snapshots; i++) {
        const struct world_snapshot *s = &w->log.snapshots[i];
        if (s->state == WORLD_TAKING && s->ours && !s->held && !under_way(r, s->id))
            return record(r, s->id, WORLD_FAILED, s->offset, "the operator ended while it was taken", a);
    }
    return false;
}

bool reconcile_knows_bad(const struct reconcile *r, const char *id)
{
    for (unsigned i = 0; i < r->n_bad; i++)
        if (strcmp(r->bad[i].id, id) == 0) return true;
    return false;
}

bool reconcile_holds(const struct reconcile *r, const struct world_instance *instance, const char *id)
{
    bool restoring = r->pending[RECONCILE_LANE_APP] == RECONCILE_RESTORE && strcmp(r->restoring, id) == 0;
    bool running = instance->state != WORLD_APP_NONE && strcmp(instance->snapshot, id) == 0;
    return restoring || running || under_way(r, id);
}

/* How many valid ones that fit are newer than the one at index `i`? */
static unsigned newer(const struct reconcile *r, const struct world *w, size_t i)
{
    unsigned n = 0;
    for (size_t k = 0; k < w->log.n_snapshots; k++) {
        const struct world_snapshot *s = &w->log.snapshots[k], *than = &w->log.snapshots[i];
        if (s->state != WORLD_VALID || !s->fits || k == i || reconcile_knows_bad(r, s->id)) continue;
        if (s->offset > than->offset || (s->offset == than->offset && k > i)) n++;
    }
    return n;
}

/* One of another specification is of no use once there is one of the present. */
static bool retention_record(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    const struct world_snapshot *newest = snapshot_newest(r, w);
    if (!r->policy.checkpoints || newest == NULL) return false;
    for (size_t i = 0; i < w->log.n_snapshots; i++) {
        const struct world_snapshot *s = &w->log.snapshots[i];
        if (s->state != WORLD_VALID || !s->ours || s->held || reconcile_holds(r, &w->instance, s->id)) continue;
        if (!s->fits) return record(r, s->id, WORLD_DELETED, s->offset, "of another specification of the container", a);
        if (newer(r, w, i) >= r->policy.retain)
            return record(r, s->id, WORLD_DELETED, s->offset, "newer ones are kept", a);
    }
    return false;
}

static bool discard(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    for (size_t i = 0; i < w->log.n_snapshots; i++) {
        const struct world_snapshot *s = &w->log.snapshots[i];
        bool over = s->state == WORLD_FAILED || s->state == WORLD_DELETED;
        if (over && s->ours && s->on_disk && !s->held && !under_way(r, s->id)) return act(r, RECONCILE_DISCARD, s->id, a);
    }
    return false;
}

bool store_next(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    if (!w->log.known) return false;
    if (w->now_us < r->next_store_us) {
        wake_at(r, r->next_store_us);
        return false;
    }
    return checkpoint_record(r, w, a) || bad_record(r, w, a) || stale_record(r, w, a) || retention_record(r, w, a) ||
           discard(r, w, a);
}

/* --- outcomes */

/* Of another snapshot's record there is nothing to do: it is seen in the log, or recorded again after the pause. */
static void record_done(struct reconcile *r, const struct world *w, const struct reconcile_result *result)
{
    bool ok = result->outcome == RECONCILE_OK;
    if (strcmp(r->recording, r->checkpoint) != 0) return;
    switch (r->stage) {
    case RECONCILE_TAKING:
        if (ok) {
            r->stage = r->policy.precopy ? RECONCILE_COPIED : RECONCILE_DRAINED;
            return;
        }
        checkpoint_fail(r, w, result->reason); /* should it be in the log all the same, it is one of the stale */
        r->stage = RECONCILE_IDLE;
        return;
    case RECONCILE_VALID:
        if (ok && r->spoilt) bad_add(r, r->checkpoint, spoilt_reason); /* it was on its way when that was found out */
        if (ok) r->checkpoint_failures = 0;
        if (ok)
            r->stage = RECONCILE_IDLE;
        else if (result->refused)
            checkpoint_fail(r, w, result->reason);
        return;
    case RECONCILE_BROKEN:
        if (ok || result->refused) r->stage = RECONCILE_IDLE;
        return;
    default: return;
    }
}

void store_done(struct reconcile *r, enum reconcile_act what, const struct world *w,
                const struct reconcile_result *result)
{
    bool ok = result->outcome == RECONCILE_OK;
    r->store_failures = ok ? 0 : r->store_failures + 1;
    r->next_store_us = ok ? 0 : w->now_us + pause_us(STORE_FIRST_US, STORE_MOST_US, r->store_failures);
    if (what == RECONCILE_RECORD) record_done(r, w, result);
    if (what == RECONCILE_PACK) {
        if (ok)
            r->stage = RECONCILE_VALID;
        else
            checkpoint_fail(r, w, result->reason);
    }
}
