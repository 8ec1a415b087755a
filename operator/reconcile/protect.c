#include "operator/reconcile/protect.h"

#include <string.h>

#include "operator/reconcile/group.h"
#include "operator/reconcile/roles.h"

static void add(struct protect_plan *p, enum protect_do what, uint32_t which)
{
    if (p->n < PROTECT_ACTIONS_MAX) p->actions[p->n++] = (struct protect_action){.what = what, .which = which};
}

static void look_at(struct protect_plan *p, uint64_t at_ms)
{
    if (at_ms < p->look_ms) p->look_ms = at_ms;
}

uint64_t protect_estimate(bool has_checkpoint, uint64_t tail)
{
    return (has_checkpoint ? PROTECT_RESTORE_MS : 0) + tail * PROTECT_REPLAY_US / 1000;
}

static bool is_wanted(const struct protect_world *w)
{
    return w->record && !w->record_deleting && w->exists && w->policy_valid;
}

/* Annotations that turned wrong while it was protected change nothing but the state shown: it stays protected as it was. */
static bool is_kept(const struct protect_world *w)
{
    return w->record && !w->record_deleting && w->exists;
}

/* ---- the record, the template, the Services ------------------------------------------------------------------- */

static void plan_record(const struct protect_world *w, struct protect_plan *p)
{
    if (w->record && w->record_deleting) return;
    if (w->exists && w->annotated && (!w->record || (w->by_annotation && !w->policy_current)))
        add(p, PROTECT_MAKE_RECORD, 0);
    else if (w->record && w->by_annotation && !(w->exists && w->annotated))
        add(p, PROTECT_DELETE_RECORD, 0);
    else if (w->record && !w->record_finalizer)
        add(p, PROTECT_HOLD_RECORD, 0);
}

static bool has_ready_interceptor(const struct protect_world *w)
{
    for (uint32_t i = 0; i < w->n_pods; i++)
        if (w->pods[i].injected && w->pods[i].ready && !w->pods[i].terminating && !w->pods[i].node_lost && !w->pods[i].backing_off && !w->pods[i].fenced) return true;
    return false;
}

static bool has_interceptor(const struct protect_world *w)
{
    for (uint32_t i = 0; i < w->n_pods; i++)
        if (w->pods[i].injected && !w->pods[i].terminating) return true;
    return false;
}

/* Pods that were made before pods were to redirect do not: while there is one, or the next one would be such, what leads to the interceptor stays so. */
static bool waits_for_redirects(const struct protect_world *w)
{
    if (!w->redirects || !w->template_current) return w->redirects;
    for (uint32_t i = 0; i < w->n_pods; i++)
        if (w->pods[i].injected && !w->pods[i].terminating && !w->pods[i].redirected) return true;
    return false;
}

bool protect_has_roles(const struct protect_world *w)
{
    return is_kept(w) && w->standby > 0;
}

/* P10. Once it chooses it goes on, also in moments in which nobody can serve: who can, first, gets the role. */
bool protect_chooses(const struct protect_world *w, uint32_t service)
{
    return protect_has_roles(w) && w->switch_services && (w->services[service].chooses || roles_somebody_serves(w));
}

/* Something of what was done to it is there still: somebody may have applied its ports anew, and so taken back only those. */
static bool is_changed(const struct protect_world *w, uint32_t service)
{
    return w->services[service].switched || w->services[service].chooses;
}

/* P2. Switched at the first pod that has the port, not before. What is switched stays so while there are such pods, or while the
 * template makes some: a recovery has moments without any. */
static void plan_services(const struct protect_world *w, struct protect_plan *p)
{
    bool on = is_kept(w) && w->switch_services, stay = is_kept(w) && waits_for_redirects(w);
    for (uint32_t i = 0; i < w->n_services; i++) {
        if (is_changed(w, i) && (!(on || stay) || !w->services[i].matches || (!w->template_ours && !has_interceptor(w))))
            add(p, PROTECT_RESTORE_SERVICE, i);
        else if (on && w->services[i].matches && w->record_finalizer &&
                 (w->services[i].switched ? w->services[i].stale || w->services[i].chooses != protect_chooses(w, i) : has_ready_interceptor(w)))
            add(p, PROTECT_SWITCH_SERVICE, i);
    }
}

static void plan_template(const struct protect_world *w, struct protect_plan *p)
{
    if (w->kind == PROTECT_POD || !w->exists) return; /* a pod's own spec cannot be changed: the webhook saw it */
    if (is_wanted(w) && w->record_finalizer && !w->template_current) add(p, PROTECT_SET_TEMPLATE, 0);
    bool ended = !w->record || w->record_deleting;
    if (ended && w->template_ours && !w->annotated) add(p, PROTECT_CLEAR_TEMPLATE, 0);
    /* still annotated: the record was deleted by hand, and is made again: the template stays as it is */
}

/* ---- checkpoints ---------------------------------------------------------------------------------------------- */

static bool is_under_way(const struct protect_checkpoint *c)
{
    return c->phase == PROTECT_NEW || c->phase == PROTECT_RUNNING;
}

static bool can_be_taken(const struct protect_world *w, int pod)
{
    const struct protect_pod *p = pod >= 0 ? &w->pods[pod] : NULL;
    return p != NULL && p->injected && !p->terminating && !p->node_lost && p->agent && p->active && p->running && (!p->shared || (p->heard && p->sound));
}

static bool is_busy(const struct protect_world *w, uint32_t stream, const struct protect_checkpoint *but)
{
    for (uint32_t i = 0; i < w->n_checkpoints; i++)
        if (&w->checkpoints[i] != but && w->checkpoints[i].stream == stream && w->checkpoints[i].phase == PROTECT_RUNNING) return true;
    return false;
}

static void plan_deleting(const struct protect_world *w, uint32_t i, struct protect_plan *p)
{
    const struct protect_checkpoint *c = &w->checkpoints[i];
    if (!c->finalizer) return;
    if (c->phase == PROTECT_RUNNING && c->seen == PROTECT_RUNNING && w->now_ms - c->deleting_ms < PROTECT_LOST_MS) return; /* until it has ended */
    add(p, w->now_ms - c->deleting_ms >= PROTECT_GIVE_UP_MS ? PROTECT_ABANDON_CHECKPOINT : PROTECT_FORGET_CHECKPOINT, i);
}

static void plan_checkpoint(const struct protect_world *w, uint32_t i, struct protect_plan *p, bool *started)
{
    const struct protect_checkpoint *c = &w->checkpoints[i];
    uint64_t age = w->now_ms - c->created_ms;
    if (c->deleting) {
        plan_deleting(w, i, p);
    } else if (!c->finalizer) {
        add(p, PROTECT_HOLD_CHECKPOINT, i);
    } else if (c->phase == PROTECT_NEW) {
        if (can_be_taken(w, c->pod) && !is_busy(w, c->stream, c) && !started[c->stream]) {
            started[c->stream] = true;
            add(p, PROTECT_START_CHECKPOINT, i);
        } else if (age > PROTECT_PENDING_MS) {
            add(p, PROTECT_FAIL_CHECKPOINT, i);
        }
    } else if (c->phase == PROTECT_RUNNING) {
        if (c->seen == PROTECT_VALID || c->seen == PROTECT_FAILED)
            add(p, PROTECT_END_CHECKPOINT, i);
        else if (c->seen == PROTECT_NEW && (c->lost || age > PROTECT_LOST_MS || (c->denied && w->now_ms - c->started_ms > PROTECT_FORGOTTEN_MS)))
            add(p, PROTECT_FAIL_CHECKPOINT, i);
    }
}

/* What a replica took since its answers were last known to be right may contain what is wrong. */
static bool is_doubtful(const struct protect_world *w, const struct protect_checkpoint *c)
{
    const struct protect_pod *p = c->pod >= 0 ? &w->pods[c->pod] : NULL;
    return p != NULL && p->shared && p->diverged != 0 && c->phase == PROTECT_VALID && !c->deleting && c->offset >= p->agreed;
}

static bool is_refuted(const struct protect_world *w, uint32_t pod);

/* A valid one that is about to be noted as failed. */
static bool is_no_way_back(const struct protect_world *w, const struct protect_checkpoint *c)
{
    bool refused = false;
    for (uint32_t i = 0; i < w->n_pods && !refused; i++)
        refused = w->pods[i].injected && !w->pods[i].node_lost && w->pods[i].checkpoint == (int)(c - w->checkpoints) && is_refuted(w, i);
    return (refused && c->phase == PROTECT_VALID && !c->deleting) || is_doubtful(w, c);
}

/* P3. How many of the same kind of the stream are newer; the same offset is ordered by time. */
static uint32_t newer(const struct protect_world *w, const struct protect_checkpoint *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *o = &w->checkpoints[i];
        if (o == c || o->stream != c->stream || o->phase != c->phase || o->deleting || is_no_way_back(w, o)) continue;
        if (o->offset > c->offset || (o->offset == c->offset && (o->created_ms > c->created_ms || (o->created_ms == c->created_ms && o > c)))) n++;
    }
    return n;
}

static void plan_retention(const struct protect_world *w, struct protect_plan *p)
{
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->deleting || c->manual || c->in_use || is_no_way_back(w, c)) continue;
        if (c->phase == PROTECT_VALID && newer(w, c) >= w->retain) add(p, PROTECT_DELETE_CHECKPOINT, i);
        if (c->phase == PROTECT_FAILED && newer(w, c) >= PROTECT_FAILED_KEPT) add(p, PROTECT_DELETE_CHECKPOINT, i);
    }
}

struct history {
    bool busy, any_fits;
    uint64_t last_ms, offset; /* when the newest was begun; of the newest valid one that fits */
    uint32_t failures;        /* since the newest valid one */
};

static void read_history(const struct protect_world *w, uint32_t stream, struct history *h)
{
    uint64_t valid_ms = 0;
    memset(h, 0, sizeof *h);
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->stream != stream) continue;
        if (is_under_way(c) && !c->deleting) h->busy = true;
        if (c->created_ms > h->last_ms) h->last_ms = c->created_ms;
        if (c->phase != PROTECT_VALID || c->deleting || is_no_way_back(w, c)) continue;
        if (c->created_ms > valid_ms) valid_ms = c->created_ms;
        if (c->fits && (!h->any_fits || c->offset > h->offset)) h->offset = c->offset;
        h->any_fits = h->any_fits || c->fits;
    }
    for (uint32_t i = 0; i < w->n_checkpoints; i++)
        if (w->checkpoints[i].stream == stream && w->checkpoints[i].phase == PROTECT_FAILED && w->checkpoints[i].created_ms >= valid_ms) h->failures++;
}

/* Nothing is taken of an app that did nothing since the last one. */
static bool is_due_for_one(const struct protect_world *w, uint32_t pod, const struct history *h)
{
    return can_be_taken(w, (int)pod) && w->pods[pod].executed > (h->any_fits ? h->offset : 0);
}

/* From the beginning of the newest one to the next. */
static uint64_t pause_after(const struct protect_world *w, uint64_t executed, const struct history *h)
{
    uint64_t pause = w->interval_ms << (h->failures < 3 ? h->failures : 3);
    uint64_t offset = h->any_fits ? h->offset : 0, tail = executed > offset ? executed - offset : 0;
    bool too_long = w->objective_ms > 0 && h->failures == 0 && protect_estimate(h->any_fits, tail) > w->objective_ms;
    return too_long && pause > 1000 ? 1000 : pause;
}

/* When the last checkpoint of that pod was begun. Few of them are kept, so of several pods none may be left to tell: those come in a round, beginning
 * behind the pod whose turn was the last, and before all others. */
static uint64_t last_turn(const struct protect_world *w, uint32_t pod)
{
    uint64_t last = 0, newest = 0;
    uint32_t before = w->n_pods - 1;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->pod == (int)pod && c->created_ms > last) last = c->created_ms;
        if (c->pod < 0 || c->created_ms <= newest) continue;
        newest = c->created_ms;
        before = (uint32_t)c->pod;
    }
    return last != 0 ? last : (pod + w->n_pods - before - 1) % w->n_pods;
}

/* When the newest checkpoint that ended so was begun of that pod, or (-1) of any standby; 0: none. */
static uint64_t newest_of(const struct protect_world *w, int pod, enum protect_phase phase)
{
    uint64_t newest = 0;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        bool of = pod >= 0 ? c->pod == pod : c->pod >= 0 && w->pods[c->pod].role == PROTECT_STANDBY;
        if (of && !c->deleting && c->phase == phase && c->created_ms > newest) newest = c->created_ms;
    }
    return newest;
}

/* Standbys of which none could be dumped three times are not tried for ever while those that serve never are: one that failed is passed over until
 * one of these had its turn, and for as long as a standby that is gone would be waited for. Then it may have become well. */
static bool is_passed_over(const struct protect_world *w, uint32_t pod)
{
    uint64_t failed_ms = newest_of(w, (int)pod, PROTECT_FAILED), valid_ms = newest_of(w, -1, PROTECT_VALID), served_ms = 0;
    uint32_t failures = 0;
    bool other = false;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->stream != w->pods[pod].stream || c->deleting) continue;
        failures += c->phase == PROTECT_FAILED && c->created_ms >= valid_ms;
        if (c->pod >= 0 && w->pods[c->pod].role == PROTECT_SERVING && c->created_ms > served_ms) served_ms = c->created_ms;
    }
    for (uint32_t i = 0; i < w->n_pods; i++) other = other || (w->pods[i].shared && w->pods[i].role == PROTECT_SERVING && can_be_taken(w, (int)i));
    bool early = served_ms <= failed_ms || w->now_ms - failed_ms < GROUP_PATIENCE * w->interval_ms;
    return other && failures >= PROTECT_FAILED_KEPT && failed_ms > valid_ms && early;
}

/* The replicas, as the core that decides among them sees them; *ret_pod: which pod each is. Those of a pod that owned the stream before are none. */
static size_t see_replicas(const struct protect_world *w, const struct history *h, struct group_replica *all, uint32_t *ret_pod)
{
    size_t n = 0;
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *p = &w->pods[i];
        if (!p->shared || p->terminating || p->node_lost) continue;
        bool up = can_be_taken(w, (int)i), standby = protect_has_roles(w) && p->role == PROTECT_STANDBY;
        if (standby && is_passed_over(w, i)) continue;
        ret_pod[n] = i;
        all[n++] = (struct group_replica){.known = p->heard, .shared = true, .reachable = p->heard, .standby = standby, .serving = up && !standby, .caught_up = up,
                                          .ready = is_due_for_one(w, i, h), .turn_us = last_turn(w, i) * 1000};
    }
    return n;
}

/* Replicas take turns: all of it is read from what is there, as everything here, so that another operator goes on in the same round. */
static void plan_turn(const struct protect_world *w, struct protect_plan *p, bool *started)
{
    struct group_replica all[PROTECT_PODS_MAX];
    uint32_t pod[PROTECT_PODS_MAX], first = 0;
    struct history h;
    struct group g;
    while (first < w->n_pods && !w->pods[first].shared) first++;
    if (first == w->n_pods || started[w->pods[first].stream]) return;
    read_history(w, w->pods[first].stream, &h);
    size_t n = see_replicas(w, &h, all, pod);
    uint64_t executed = 0, since = w->now_ms;
    for (size_t i = 0; i < n; i++) {
        if (all[i].ready && w->pods[pod[i]].executed > executed) executed = w->pods[pod[i]].executed;
        if (w->pods[pod[i]].created_ms < since) since = w->pods[pod[i]].created_ms;
    }
    if (h.busy || executed == 0) return;
    group_init(&g, &(struct group_policy){.interval_us = pause_after(w, executed, &h) * 1000});
    g.begun_us = h.last_ms * 1000;
    g.free_us = (h.last_ms > since ? h.last_ms : since) * 1000 + 1; /* how long nobody else could be taken is counted from there */
    size_t who = group_turn(&g, all, n, w->now_ms * 1000);
    if (who < n) {
        started[w->pods[first].stream] = true;
        add(p, PROTECT_NEW_CHECKPOINT, pod[who]);
    } else if (g.wake_us != UINT64_MAX) {
        look_at(p, g.wake_us / 1000 + 1);
    }
}

static void plan_schedule(const struct protect_world *w, struct protect_plan *p, bool *started)
{
    plan_turn(w, p, started);
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *pod = &w->pods[i];
        struct history h;
        if (pod->shared || started[pod->stream]) continue;
        read_history(w, pod->stream, &h);
        if (h.busy || !is_due_for_one(w, i, &h)) continue;
        uint64_t pause = pause_after(w, pod->executed, &h);
        if (h.last_ms == 0 || w->now_ms - h.last_ms >= pause) {
            started[pod->stream] = true;
            add(p, PROTECT_NEW_CHECKPOINT, i);
        } else {
            look_at(p, h.last_ms + pause);
        }
    }
}

/* ---- recovery ------------------------------------------------------------------------------------------------- */

static uint32_t replacements(const struct protect_world *w)
{
    uint32_t n = 0;
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) n += w->replaced_ms[i] != 0 && w->now_ms - w->replaced_ms[i] < PROTECT_WINDOW_MS;
    return n;
}

/* Another pod serves this one's stream, or will. */
static bool has_other(const struct protect_world *w, uint32_t pod)
{
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *p = &w->pods[i];
        if (i != pod && p->stream == w->pods[pod].stream && p->injected && !p->terminating && !p->node_lost && !p->fenced) return true;
    }
    return false;
}

/* The kubelet waits longer than a new pod takes; or the stream was taken by somebody who is gone, and no interceptor takes it back by itself: a new one does. */
static bool is_spent(const struct protect_world *w, uint32_t i)
{
    const struct protect_pod *pod = &w->pods[i];
    if (pod->terminating) return false;
    bool fenced = pod->fenced && (pod->shared ? w->shared : !has_other(w, i)); /* replicas that are to be none are on their way out: a rollout */
    return fenced || (pod->backing_off && pod->backoff_ms > PROTECT_REPLACE_COST_MS);
}

/* It is of our template and has no interceptor: nobody answered the API server when it was made. It began without its state, and nothing leads to
 * it. Where no pod ever had one the webhook is not asked at all, and replacing pods would change nothing; but where pods redirect it waits at its
 * scheduling gate, and only another one can run. */
static bool has_missed_us(const struct protect_world *w, const struct protect_pod *pod, struct protect_plan *p)
{
    uint64_t since = pod->created_ms > w->leads_ms ? pod->created_ms : w->leads_ms;
    bool worked = w->n_checkpoints > 0 || w->redirects;
    for (uint32_t i = 0; i < w->n_services; i++) worked = worked || w->services[i].switched;
    if (!worked || !is_wanted(w) || !w->template_current || pod->injected || pod->refused || pod->terminating) return false;
    if (w->now_ms >= since + PROTECT_MISSED_MS) return true;
    look_at(p, since + PROTECT_MISSED_MS); /* another one would miss us, too */
    return false;
}

/* Its interceptor gives it nothing any more, and no clients come: there is time to tell the log first which checkpoints of it are no way back. */
static bool must_be_rebuilt(const struct protect_world *w, uint32_t pod, struct protect_plan *p)
{
    bool waits = false;
    if (w->pods[pod].terminating) return false;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->pod != (int)pod) continue;
        if (is_doubtful(w, c)) add(p, PROTECT_DISTRUST_CHECKPOINT, i);
        waits = waits || (c->phase == PROTECT_RUNNING && !c->deleting); /* it may become valid yet */
    }
    return !waits;
}

/* What it has is that of before, when its interceptor still gives it requests. */
bool protect_is_stuck(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *o = &w->pods[pod];
    uint64_t patience = o->by_image ? PROTECT_UNABLE_MS : PROTECT_PASSING_MS;
    return o->begins && o->unable && !o->terminating && !o->active && w->now_ms >= o->unable_ms + patience;
}

static bool is_unknown(const struct protect_pod *o)
{
    return o->unknown && !o->terminating && !o->active;
}

bool protect_is_behind(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *o = &w->pods[pod];
    uint64_t newest = 0, has = o->executed > 0 ? o->executed : o->began;
    if (!o->rewinds || o->active || o->terminating || !o->agent || !(o->told || o->executed > 0)) return false;
    for (uint32_t i = 0; i < w->n_checkpoints; i++) {
        const struct protect_checkpoint *c = &w->checkpoints[i];
        if (c->stream == o->stream && c->phase == PROTECT_VALID && !c->deleting && c->fits && !is_no_way_back(w, c) && c->offset > newest) newest = c->offset;
    }
    return newest > has && (o->gap || (newest - has) * PROTECT_REPLAY_US / 1000 > PROTECT_REPLACE_COST_MS);
}

/* P11. One incident may be the node's, or the moment's. */
static bool is_refuted(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *o = &w->pods[pod];
    const struct protect_checkpoint *c = o->checkpoint >= 0 ? &w->checkpoints[o->checkpoint] : NULL;
    return c != NULL && o->by_image && c->unusable_ms != 0 && c->unusable_ms < o->created_ms && protect_is_stuck(w, pod);
}

static void pass_checkpoint(const struct protect_world *w, uint32_t pod, struct protect_plan *p)
{
    const struct protect_pod *o = &w->pods[pod];
    const struct protect_checkpoint *c = o->checkpoint >= 0 ? &w->checkpoints[o->checkpoint] : NULL;
    if (!o->begins || c == NULL || c->phase != PROTECT_VALID || c->deleting) return;
    if (is_refuted(w, pod)) add(p, PROTECT_REFUSE_CHECKPOINT, (uint32_t)o->checkpoint);
    else if (c->unusable_ms == 0 || c->unusable_ms < o->created_ms) add(p, PROTECT_PASS_CHECKPOINT, (uint32_t)o->checkpoint);
}

static void plan_recovery(const struct protect_world *w, struct protect_plan *p)
{
    uint32_t budget = PROTECT_REPLACEMENTS - replacements(w);
    if (w->kind == PROTECT_POD) return; /* nobody would make it again: the kubelet's own restart is its recovery */
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *pod = &w->pods[i];
        if (has_missed_us(w, pod, p)) {
            add(p, pod->node_lost ? PROTECT_REMOVE_POD : PROTECT_REPLACE_POD, i); /* it has no producer to be fenced */
        }
        if (!pod->injected) continue;
        if (pod->node_lost) {
            if (!pod->shared && !has_other(w, i)) add(p, PROTECT_FENCE, i);
            add(p, PROTECT_REMOVE_POD, i);
        } else if (protect_is_stuck(w, i)) {
            pass_checkpoint(w, i, p);
            add(p, PROTECT_REPLACE_POD, i);
        } else if (pod->diverged != 0 ? must_be_rebuilt(w, i, p) : is_spent(w, i) || protect_is_behind(w, i) || is_unknown(pod)) {
            if (budget == 0) continue;
            budget--;
            if (is_unknown(pod)) pass_checkpoint(w, i, p);
            add(p, PROTECT_REPLACE_POD, i);
        }
    }
}

/* ---- as the status shows it ------------------------------------------------------------------------------------ */

static enum protect_state state_of(const struct protect_world *w)
{
    bool injected = false, active = false, lost = false, dies = false, gone = false;
    if (w->record_deleting) return PROTECT_ENDING;
    if (!w->policy_valid) return PROTECT_INVALID;
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *pod = &w->pods[i];
        if (!pod->injected || pod->terminating) continue;
        injected = true;
        lost = lost || pod->node_lost;
        dies = dies || pod->backing_off || pod->diverged != 0;
        active = active || pod->active;
        gone = gone || !pod->active;
    }
    if (dies && replacements(w) == PROTECT_REPLACEMENTS) return PROTECT_CRASH_LOOP;
    if (lost) return PROTECT_NODE_LOST;
    if (!injected) return w->n_checkpoints > 0 ? PROTECT_RECOVERING : PROTECT_PENDING;
    if (active && !gone) return PROTECT_PROTECTED;
    return w->n_checkpoints > 0 || active ? PROTECT_RECOVERING : PROTECT_STARTING;
}

/* ---- replicas ------------------------------------------------------------------------------------------------- */

/* A surge counts like any other. While a rollout goes on, those that are still to come, or were there, are not counted: of which template would they be? */
uint32_t protect_replicas(const struct protect_world *w, uint32_t pod)
{
    uint32_t n = 0, others = 0;
    for (uint32_t i = 0; i < w->n_pods; i++) {
        if (!w->pods[i].shared || w->pods[i].terminating) continue;
        if (w->pods[i].template == w->pods[pod].template) n++;
        else others++;
    }
    if (n < w->replicas && others == 0) n = w->replicas;
    return n < 2 ? 0 : n < PROTECT_REPLICAS_MAX ? n : PROTECT_REPLICAS_MAX;
}

static void plan_replicas(const struct protect_world *w, struct protect_plan *p)
{
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *pod = &w->pods[i];
        if (!pod->shared || !pod->heard || !pod->agent || pod->terminating || pod->node_lost || pod->backing_off || pod->fenced || pod->diverged != 0) continue; /* no judge, or about to go */
        if (pod->counts != protect_replicas(w, i)) add(p, PROTECT_COUNT_REPLICAS, i);
    }
}

void protect_plan_roles(const struct protect_world *w, struct protect_plan *ret_plan)
{
    struct roles_plan roles = {0};
    struct protect_plan *p = ret_plan;
    memset(p, 0, sizeof *p);
    p->look_ms = w->now_ms + PROTECT_LOOK_MS;
    p->state = state_of(w);
    if (protect_has_roles(w)) roles_plan(w, &roles);
    if (protect_has_roles(w)) look_at(p, roles.look_ms);
    for (uint32_t i = 0; i < roles.n; i++) add(p, roles.actions[i].what, roles.actions[i].which);
}

/* The Services lead to all of them first. */
static void plan_roles_end(const struct protect_world *w, struct protect_plan *p)
{
    for (uint32_t i = 0; i < w->n_services; i++)
        if (w->services[i].chooses) return;
    for (uint32_t i = 0; i < w->n_pods && !protect_has_roles(w); i++)
        if (w->pods[i].role != PROTECT_NO_ROLE && !w->pods[i].terminating) add(p, PROTECT_CLEAR_ROLE, i);
}

/* ---- the end of protection ------------------------------------------------------------------------------------ */

/* Services first, then the template, then the checkpoints, at last the record. */
static void plan_ending(const struct protect_world *w, struct protect_plan *p)
{
    for (uint32_t i = 0; i < w->n_checkpoints; i++)
        if (!w->checkpoints[i].deleting) add(p, PROTECT_DELETE_CHECKPOINT, i);
    bool services = false;
    for (uint32_t i = 0; i < w->n_services; i++) services = services || is_changed(w, i);
    bool template_left = w->exists && w->template_ours && w->kind != PROTECT_POD && !w->annotated;
    if (w->record_finalizer && !services && !template_left && w->n_checkpoints == 0) add(p, PROTECT_RELEASE_RECORD, 0);
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

void protect_plan(const struct protect_world *w, struct protect_plan *ret_plan)
{
    bool started[PROTECT_STREAMS_MAX] = {false};
    struct protect_plan *p = ret_plan;
    memset(p, 0, sizeof *p);
    p->look_ms = w->now_ms + PROTECT_LOOK_MS;
    p->state = state_of(w);
    plan_roles_end(w, p);
    plan_record(w, p);
    if (is_kept(w)) plan_recovery(w, p); /* before the rest: somebody waits for it */
    plan_services(w, p);
    bool switched_back = true; /* P2: the pods lose the interceptor only in a plan after the Services lead back */
    for (uint32_t i = 0; i < p->n; i++) switched_back = switched_back && p->actions[i].what != PROTECT_RESTORE_SERVICE;
    if (switched_back || is_kept(w)) plan_template(w, p);
    for (uint32_t i = 0; i < w->n_checkpoints; i++) plan_checkpoint(w, i, p, started);
    if (is_kept(w)) {
        plan_retention(w, p);
        plan_schedule(w, p, started);
        plan_replicas(w, p); /* what an agent does not take keeps nothing else waiting */
    }
    if (w->record && w->record_deleting) plan_ending(w, p);
}

const char *protect_do_name(enum protect_do what)
{
    static const char *const names[] = {
        "make-record", "delete-record", "hold-record", "release-record", "set-template", "clear-template", "switch-service", "restore-service",
        "new-checkpoint", "hold-checkpoint", "start-checkpoint", "end-checkpoint", "fail-checkpoint", "distrust-checkpoint", "pass-checkpoint", "refuse-checkpoint", "delete-checkpoint", "forget-checkpoint",
        "abandon-checkpoint", "promote", "demote", "clear-role", "replace-pod", "fence", "remove-pod", "count-replicas"};
    return (unsigned)what < sizeof names / sizeof *names ? names[what] : "unknown";
}

const char *protect_state_name(enum protect_state state)
{
    static const char *const names[] = {"Invalid", "Pending", "Starting", "Protected", "Recovering", "CrashLoop", "NodeLost", "Ending"};
    return (unsigned)state < sizeof names / sizeof *names ? names[state] : "Unknown";
}
