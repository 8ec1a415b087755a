#include "operator/workload_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"

/* ---- what people are told ------------------------------------------------------------------------------------- */

static double ms(uint64_t us)
{
    return (double)us / 1000;
}

void workload_tell_reason(struct workload *w)
{
    if (strcmp(w->said, w->core.reason) == 0) return;
    snprintf(w->said, sizeof w->said, "%s", w->core.reason);
    if (w->said[0] != '\0') log_info("not served now", "workload=%s reason=%s", w->name, w->said);
}

static void count_recovery(struct workload *w, const uint64_t times[WORKLOAD_TIMES])
{
    w->counts.recoveries++;
    for (int i = 0; i < WORKLOAD_TIMES; i++) {
        w->counts.last_us[i] = times[i];
        w->counts.sum_us[i] += times[i];
    }
}

/* What it took, as Vayghan et al. define it (docs/OPERATOR.md): from when it was noticed. */
static void measure(const struct workload *w, const struct world *world, struct restores_entry *ret_entry)
{
    const struct world_instance *i = &world->instance;
    const struct interceptor_extra *x = interceptor_client_extra(w->interceptor);
    struct replicas_account account;
    replicas_account(w->replicas, w->gone_us, &account);
    uint64_t since = w->gone_us != 0 ? world->now_us - w->gone_us : 0, reaction = w->reacted_us != 0 ? w->reacted_us - w->gone_us : 0;
    bool earlier = x->lost_us > w->recovered_us && x->lost_us < w->gone_wall_us; /* of this loss */
    *ret_entry = (struct restores_entry){.cause = w->cause[0] != '\0' ? w->cause : "not seen: it was not there when the operator started",
                                         .snapshot = i->snapshot,
                                         .generation = i->generation,
                                         .offset = i->offset,
                                         .replayed = x->replay_done,
                                         .finished_us = world->wall_us,
                                         .timed = w->gone_us != 0,
                                         .detect_us = earlier ? w->gone_wall_us - x->lost_us : 0,
                                         .reaction_us = reaction,
                                         .repair_us = since - reaction,
                                         .recovery_us = account.outage_us > reaction ? account.outage_us - reaction : 0,
                                         .outage_us = account.outage_us,
                                         .restore_us = w->restore_us,
                                         .replay_us = x->active_us > x->attached_us ? x->active_us - x->attached_us : 0,
                                         .availability = account.availability};
}

static void tell_recovered(struct workload *w, const struct world *world, const char *what, bool recovered)
{
    struct restores_entry x;
    measure(w, world, &x);
    if (x.timed && w->revived) count_recovery(w, (const uint64_t[]){x.reaction_us, x.repair_us, x.recovery_us, x.outage_us});
    if (recovered) restores_note(w->restores, &x);
    w->recovered_us = world->wall_us;
    log_info(what,
             "workload=%s stream=%s identity=%s snapshot=%s offset=%" PRIu64 " replayed=%" PRIu64 " restore_ms=%.1f recover_ms=%.1f"
             " reaction_ms=%.1f repair_ms=%.1f recovery_ms=%.1f outage_ms=%.1f availability=%.6f",
             w->name, w->parts.words->stream, world->instance.identity, x.snapshot, x.offset, x.replayed, ms(x.restore_us),
             ms(x.reaction_us + x.repair_us), ms(x.reaction_us), ms(x.repair_us), ms(x.recovery_us), ms(x.outage_us), x.availability);
}

/* The first time that an instance is seen to serve, or, as a standby, to be able to. */
static void tell_active(struct workload *w, const struct world *world)
{
    const struct world_instance *i = &world->instance;
    bool serves = i->state == WORLD_APP_RUNNING && world->interceptor.state == WORLD_ACTIVE &&
                  strcmp(i->identity, world->interceptor.identity) == 0;
    if (!serves || w->announced == i->generation + 1) return;
    w->announced = i->generation + 1;
    bool first = i->generation == 1 && i->offset + interceptor_client_extra(w->interceptor)->replay_done == 0;
    tell_recovered(w, world, !w->revived ? "taken over" : first ? "started" : "recovered", w->revived && !first);
    workload_back(w);
    w->revived = false;
}

static void tell_disagreement(struct workload *w, const struct world *world)
{
    uint64_t offset = world->interceptor.disagreement;
    if (offset == w->disagreement) return;
    w->disagreement = offset;
    if (offset == 0) return;
    log_error("ALARM: replicas disagree, and no majority says which is right", "workload=%s stream=%s offset=%" PRIu64, w->name,
              w->parts.words->stream, offset);
}

void workload_tell_state(struct workload *w, const struct world *world)
{
    tell_active(w, world);
    tell_disagreement(w, world);
}

void workload_tell_failed(const struct flight *f, const char *detail)
{
    const struct reconcile_action *a = &f->action;
    log_warn("action failed", "workload=%s action=%s generation=%" PRIu64 " snapshot=%s reason=%s detail=%s", f->workload->name,
             reconcile_act_name(a->act), a->generation, a->snapshot, f->result.reason, detail);
}

void workload_tell_done(struct workload *w, const struct flight *f)
{
    const struct reconcile_action *a = &f->action;
    w->counts.valid += a->act == RECONCILE_RECORD && a->state == WORLD_VALID;
    w->counts.failed += a->act == RECONCILE_RECORD && a->state == WORLD_FAILED;
    if (a->act == RECONCILE_RECORD && a->state == WORLD_VALID)
        log_info("checkpoint valid",
                 "workload=%s stream=%s snapshot=%s offset=%" PRIu64 " size=%" PRIu64 " pause_ms=%.1f dump_ms=%.1f pack_ms=%.1f"
                 " rounds=%u copied_ahead=%" PRIu64, w->name,
                 w->parts.words->stream, a->snapshot, a->offset, w->size, ms(w->pause_us), ms(w->dump_us), ms(w->pack_us),
                 w->rounds, w->round_bytes);
    else if (a->act == RECONCILE_RECORD && a->state == WORLD_FAILED)
        log_warn("checkpoint failed", "workload=%s snapshot=%s offset=%" PRIu64 " reason=%s", w->name, a->snapshot, a->offset, a->reason);
}
