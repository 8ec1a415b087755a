#include "operator/reconcile/reconcile.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "operator/reconcile/internal.h"

const char spoilt_reason[] = "the replica that took it has diverged";

/* --- small things */

uint64_t pause_us(uint64_t first, uint64_t most, unsigned failures)
{
    assert(failures > 0);
    uint64_t pause = first;
    while (--failures > 0 && pause < most) pause *= 2;
    return pause < most ? pause : most;
}

void wake_at(struct reconcile *r, uint64_t at)
{
    if (at < r->wake_us) r->wake_us = at;
}

void copy_text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

static void __attribute__((format(printf, 2, 3))) say(struct reconcile *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->reason, sizeof r->reason, format, args);
    va_end(args);
}

size_t snapshot_find(const struct world *w, const char *id)
{
    size_t i = 0;
    while (i < w->log.n_snapshots && strcmp(w->log.snapshots[i].id, id) != 0) i++;
    return i;
}

void bad_add(struct reconcile *r, const char *id, const char *reason)
{
    if (reconcile_knows_bad(r, id)) return;
    if (r->n_bad == RECONCILE_BAD_MAX) memmove(r->bad, r->bad + 1, --r->n_bad * sizeof *r->bad);
    struct reconcile_bad *bad = &r->bad[r->n_bad++];
    copy_text(bad->id, sizeof bad->id, id);
    copy_text(bad->reason, sizeof bad->reason, reason);
}

const struct world_snapshot *snapshot_newest(const struct reconcile *r, const struct world *w)
{
    const struct world_snapshot *best = NULL;
    for (size_t i = 0; i < w->log.n_snapshots; i++) {
        const struct world_snapshot *s = &w->log.snapshots[i];
        if (s->state != WORLD_VALID || !s->fits || reconcile_knows_bad(r, s->id)) continue;
        if (s->offset + 1 < w->log.first_offset) continue; /* what follows it was trimmed */
        if (best == NULL || s->offset >= best->offset) best = s;
    }
    return best;
}

void checkpoint_fail(struct reconcile *r, const struct world *w, const char *reason)
{
    r->stage = RECONCILE_BROKEN;
    copy_text(r->checkpoint_reason, sizeof r->checkpoint_reason, reason);
    r->checkpoint_failures++;
    r->next_checkpoint_us = w->now_us + pause_us(CHECKPOINT_FIRST_US, PAUSE_MOST_US, r->checkpoint_failures);
}

void reconcile_init(struct reconcile *r, const struct reconcile_policy *policy)
{
    assert(policy->retain >= 1 && policy->retain <= RECONCILE_RETAIN_MAX);
    *r = (struct reconcile){.policy = *policy, .wake_us = UINT64_MAX};
}

/* --- actions of the app's lane */

static bool act(struct reconcile *r, const struct world *w, enum reconcile_act what, struct reconcile_action *a)
{
    const struct world_instance *inst = &w->instance;
    *a = (struct reconcile_action){.act = what,
                                   .lane = RECONCILE_LANE_APP,
                                   .generation = inst->generation,
                                   .offset = inst->offset,
                                   .drain_ms = r->policy.drain_ms,
                                   .lease_ms = r->policy.lease_ms};
    copy_text(a->identity, sizeof a->identity, inst->identity);
    copy_text(a->reason, sizeof a->reason, r->reason);
    r->pending[RECONCILE_LANE_APP] = what;
    return true;
}

static bool calls_pause(struct reconcile *r, const struct world *w)
{
    if (w->now_us >= r->next_call_us) return false;
    wake_at(r, r->next_call_us);
    return true;
}

/* Does the checkpoint under way need the app yet? */
static bool not_dumped_yet(const struct reconcile *r)
{
    return r->stage == RECONCILE_COPIED || r->stage == RECONCILE_DRAINED || r->stage == RECONCILE_DUMPED;
}

static bool kill_instance(struct reconcile *r, const struct world *w, const char *reason, struct reconcile_action *a)
{
    say(r, "%s", reason);
    if (not_dumped_yet(r)) checkpoint_fail(r, w, reason);
    if (calls_pause(r, w)) return false;
    r->killing = true;
    return act(r, w, RECONCILE_KILL, a);
}

static bool resume(struct reconcile *r, const struct world *w, const char *token, struct reconcile_action *a)
{
    act(r, w, RECONCILE_RESUME, a);
    copy_text(a->snapshot, sizeof a->snapshot, token);
    return true;
}

static bool foreign_drain(const struct reconcile *r, const struct world *w)
{
    const char *token = w->interceptor.token;
    if (token[0] == '\0' || strcmp(token, r->ended_token) == 0) return false;
    bool ours = (r->stage == RECONCILE_DUMPED || r->stage == RECONCILE_RESUMED) && strcmp(token, r->checkpoint) == 0;
    return !ours;
}

/* --- no app: bring one back */

static bool fresh_possible(const struct world *w)
{
    return w->log.first_offset <= 1;
}

/* Holds a snapshot for bad that was never shown to be: only while there is another way. */
static bool give_up_snapshot(struct reconcile *r, const struct world *w, const char *id, const char *reason)
{
    bool known = reconcile_knows_bad(r, id);
    bad_add(r, id, reason);
    if (known || snapshot_newest(r, w) != NULL || fresh_possible(w)) return true;
    r->n_bad--; /* there is nothing else: keep it */
    return false;
}

/* Did restores of this snapshot end in death too often? Then it is to blame. */
static void judge_snapshot(struct reconcile *r, const struct world *w)
{
    const char *id = w->instance.snapshot;
    if (r->killing || r->active_since_us != 0 || id[0] == '\0') return;
    if (strcmp(r->early_snapshot, id) != 0) r->early_deaths = 0;
    copy_text(r->early_snapshot, sizeof r->early_snapshot, id);
    if (++r->early_deaths >= EARLY_DEATHS) give_up_snapshot(r, w, id, "the app dies again and again after it is restored from it");
}

/* Once for each time the app is found gone. */
static void count_death(struct reconcile *r, const struct world *w)
{
    uint64_t stable = r->delay_us * 4 > STABLE_US ? r->delay_us * 4 : STABLE_US;
    if (r->active_since_us != 0 && w->now_us - r->active_since_us >= stable) r->deaths = 0;
    judge_snapshot(r, w);
    r->deaths++;
    r->delay_us = r->deaths == 1 ? 0 : pause_us(PAUSE_FIRST_US, PAUSE_MOST_US, r->deaths - 1);
    r->next_start_us = w->now_us + r->delay_us;
    r->counted = true;
    r->active_since_us = 0;
    r->lost_since_us = 0;
    r->call_failures = 0;
    r->next_call_us = 0;
}

static bool revive(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    if (not_dumped_yet(r)) checkpoint_fail(r, w, "the app ended meanwhile");
    if (!r->counted) count_death(r, w);
    if (r->start_failures > 0)
        say(r, "%u attempts to start the app failed in a row; the pause before the next: %" PRIu64 " ms", r->start_failures,
            r->delay_us / 1000);
    else if (r->deaths > 1)
        say(r, "the app ended %u times in a row; the last pause before a start: %" PRIu64 " ms", r->deaths,
            r->delay_us / 1000);
    else
        say(r, w->instance.state == WORLD_APP_EXITED ? "the app has ended" : "there is no app");
    /* First: should it go on while another process is at the same address already, that one might be taken for the old one. */
    if (w->interceptor.state != WORLD_UNREACHABLE && foreign_drain(r, w) && !calls_pause(r, w)) return resume(r, w, w->interceptor.token, a);
    if (w->now_us < r->next_start_us) {
        wake_at(r, r->next_start_us);
        return false;
    }
    const struct world_snapshot *s = r->policy.checkpoints ? snapshot_newest(r, w) : NULL;
    if (s != NULL) {
        if (strcmp(r->restoring, s->id) != 0) r->restore_failures = 0;
        copy_text(r->restoring, sizeof r->restoring, s->id);
        act(r, w, RECONCILE_RESTORE, a);
        copy_text(a->snapshot, sizeof a->snapshot, s->id);
        a->offset = s->offset;
        return true;
    }
    if (!fresh_possible(w)) {
        say(r, "no valid snapshot fits, and the log begins at offset %" PRIu64 ": the state cannot be brought back",
            w->log.first_offset);
        return false;
    }
    act(r, w, RECONCILE_START_FRESH, a);
    a->offset = 0;
    return true;
}

/* A restore failed. Is its snapshot given up, and the next older one's turn? What failed before CRIU had a look at the image (a full
 * disk, no memory, no runc) says nothing about the snapshot, and would condemn one after the other. */
static bool restore_hopeless(struct reconcile *r, const struct world *w, const struct reconcile_result *result)
{
    if (result->outcome == RECONCILE_CORRUPT) {
        bad_add(r, r->restoring, result->reason);
        return true;
    }
    if (!result->tried || ++r->restore_failures < RESTORE_TRIES) return false;
    return give_up_snapshot(r, w, r->restoring, result->reason);
}

static void start_done(struct reconcile *r, enum reconcile_act what, const struct world *w,
                       const struct reconcile_result *result)
{
    r->killing = false;
    if (result->outcome == RECONCILE_OK) {
        r->counted = false; /* its end will be a new one */
        r->start_failures = r->restore_failures = 0;
        r->active_since_us = r->lost_since_us = 0;
        return;
    }
    r->counted = true;
    if (what == RECONCILE_RESTORE && restore_hopeless(r, w, result)) {
        r->start_failures = r->restore_failures = 0;
        r->next_start_us = w->now_us;
        return;
    }
    r->start_failures++;
    r->delay_us = pause_us(CALL_FIRST_US, PAUSE_MOST_US, r->start_failures);
    r->next_start_us = w->now_us + r->delay_us;
}

/* --- a running app that answers: checkpoints */

bool reconcile_ready(const struct reconcile *r, const struct world *w)
{
    const struct world_snapshot *newest = snapshot_newest(r, w);
    const struct world_instance *inst = &w->instance;
    const struct world_interceptor *icept = &w->interceptor;
    bool grown = newest != NULL ? icept->executed > newest->offset : icept->executed > 0 || inst->generation == 0;
    bool known = inst->state == WORLD_APP_RUNNING && inst->attached && strcmp(inst->identity, icept->identity) == 0;
    bool sound = icept->state == WORLD_ACTIVE && !icept->lost && !icept->suspect && icept->diverged == 0;
    return r->policy.checkpoints && w->log.known && known && sound && inst->fits && grown && r->stage == RECONCILE_IDLE &&
           r->pending[RECONCILE_LANE_STORE] == RECONCILE_NOTHING;
}

static void checkpoint_begin(struct reconcile *r, const struct world *w)
{
    uint64_t executed = w->interceptor.executed;
    if (!w->turn || !reconcile_ready(r, w)) return;
    if (w->now_us < r->next_checkpoint_us || w->now_us < r->next_store_us) {
        wake_at(r, w->now_us < r->next_checkpoint_us ? r->next_checkpoint_us : r->next_store_us);
        return;
    }
    uint64_t name = w->wall_us;
    do snprintf(r->checkpoint, sizeof r->checkpoint, "c%016" PRIx64, name++);
    while (snapshot_find(w, r->checkpoint) < w->log.n_snapshots);
    r->stage = RECONCILE_TAKING;
    r->checkpoint_offset = executed;
    r->dump_complete = r->spoilt = false;
    r->checkpoint_reason[0] = '\0';
    r->next_checkpoint_us = w->now_us + r->policy.interval_us;
}

static bool checkpoint_next(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    if (r->stage == RECONCILE_IDLE && w->interceptor.state == WORLD_ACTIVE) checkpoint_begin(r, w);
    if (r->stage == RECONCILE_COPIED) {
        r->checkpoint_generation = w->instance.generation;
        act(r, w, RECONCILE_PRECOPY, a);
    } else if (r->stage == RECONCILE_DRAINED) {
        if (w->interceptor.state != WORLD_ACTIVE) {
            checkpoint_fail(r, w, "the interceptor is not active any more");
            return false;
        }
        r->checkpoint_generation = w->instance.generation;
        act(r, w, RECONCILE_DRAIN, a);
    } else if (r->stage == RECONCILE_DUMPED) {
        if (w->instance.generation != r->checkpoint_generation) {
            checkpoint_fail(r, w, "it is another instance now");
            return false;
        }
        act(r, w, RECONCILE_DUMP, a);
    } else {
        return false;
    }
    copy_text(a->snapshot, sizeof a->snapshot, r->checkpoint);
    return true;
}

static void condemn(struct reconcile *r, uint64_t generation, const char *what, const char *why)
{
    r->condemned = true;
    r->condemned_generation = generation;
    snprintf(r->condemned_reason, sizeof r->condemned_reason, "%.60s: %.180s", what, why);
}

/* Whatever came of it: the dump is made of what there is. */
static void precopy_done(struct reconcile *r, const struct reconcile_result *result)
{
    if (result->lost) condemn(r, r->checkpoint_generation, "a copy ahead of its dump was cut short", result->reason);
    r->stage = RECONCILE_DRAINED;
}

static void drain_done(struct reconcile *r, const struct world *w, const struct reconcile_result *result)
{
    if (result->outcome != RECONCILE_OK) {
        checkpoint_fail(r, w, result->reason);
        return;
    }
    r->checkpoint_offset = result->offset;
    r->stage = RECONCILE_DUMPED;
}

static void dump_done(struct reconcile *r, const struct world *w, const struct reconcile_result *result)
{
    r->dump_complete = result->outcome == RECONCILE_OK;
    if (!r->dump_complete) copy_text(r->checkpoint_reason, sizeof r->checkpoint_reason, result->reason);
    if (result->lost) condemn(r, r->checkpoint_generation, "a dump of it was cut short", result->reason);
    r->stage = RECONCILE_RESUMED;
}

static void resume_done(struct reconcile *r, const struct world *w, const struct reconcile_result *result)
{
    bool answered = result->outcome == RECONCILE_OK || result->refused;
    bool own = r->stage == RECONCILE_RESUMED; /* it goes first: nothing else is resumed in that stage */
    if (answered) copy_text(r->ended_token, sizeof r->ended_token, own ? r->checkpoint : w->interceptor.token);
    if (!own) return;
    if (!r->dump_complete)
        checkpoint_fail(r, w, r->checkpoint_reason);
    else if (result->outcome != RECONCILE_OK)
        checkpoint_fail(r, w, result->reason);
    else if (!result->unbroken)
        checkpoint_fail(r, w, "the drain was broken: the dump may contain later requests");
    else if (result->offset != r->checkpoint_offset)
        checkpoint_fail(r, w, "the interceptor drained to another offset than it said");
    else if (r->spoilt)
        checkpoint_fail(r, w, spoilt_reason);
    else
        r->stage = RECONCILE_PACKED;
}

/* --- an app whose answers are not the majority's */

/* What this replica took since its answers were last known to be right may contain what is wrong. The interceptor says so until another
 * instance is attached: so this holds whatever becomes of the old one, and of the operator. */
static void distrust(struct reconcile *r, const struct world *w)
{
    r->distrusting = false;
    if (w->interceptor.state == WORLD_UNREACHABLE || w->interceptor.diverged == 0) return;
    for (size_t i = 0; i < w->log.n_snapshots; i++) {
        const struct world_snapshot *s = &w->log.snapshots[i];
        if (s->state != WORLD_VALID || !s->ours || s->offset < w->interceptor.agreed) continue;
        bad_add(r, s->id, spoilt_reason);
        r->distrusting = true;
    }
    if (not_dumped_yet(r)) checkpoint_fail(r, w, spoilt_reason);
    r->spoilt = r->stage != RECONCILE_IDLE;
    r->distrusting = r->distrusting || r->spoilt;
}

/* --- a running app */

/* Of an app that the interceptor knows. Is it gone, and its process was only slower to say so? */
static bool lost_too_long(struct reconcile *r, const struct world *w)
{
    if (!w->interceptor.lost) {
        r->lost_since_us = 0;
        return false;
    }
    if (r->lost_since_us == 0) r->lost_since_us = w->now_us;
    if (w->now_us - r->lost_since_us >= LOST_US) return true;
    wake_at(r, r->lost_since_us + LOST_US);
    return false;
}

static bool adopt_or_kill(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    if (w->log.last_offset > 0 || w->interceptor.last > 0)
        return kill_instance(r, w, "it ran before and nobody knows which requests of the log its state contains", a);
    say(r, "it runs already; the log is empty: its state is that of offset 0");
    if (calls_pause(r, w)) return false;
    return act(r, w, RECONCILE_ADOPT, a);
}

/* The interceptor was started again and knows nothing of this instance, which the one before it served. */
static bool attach_again(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    const struct world_interceptor *icept = &w->interceptor;
    if (icept->proof == WORLD_PROOF_PENDING) {
        say(r, "the interceptor was started again and reads the log");
        return false;
    }
    if (icept->proof != WORLD_PROOF_KNOWN || strcmp(icept->proven, w->instance.identity) != 0)
        return kill_instance(r, w, "the interceptor was started again and nobody knows what this instance executed", a);
    say(r, "the interceptor was started again, and the log proves what this instance executed");
    if (calls_pause(r, w)) return false;
    act(r, w, RECONCILE_ATTACH, a);
    a->offset = icept->proven_offset;
    a->again = true;
    r->attaching_again = true;
    r->again_generation = a->generation;
    return true;
}

static bool keep(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    const struct world_instance *inst = &w->instance;
    const struct world_interceptor *icept = &w->interceptor;
    r->counted = false;
    r->reason[0] = '\0';
    if (r->condemned && r->condemned_generation == inst->generation) return kill_instance(r, w, r->condemned_reason, a);
    if (icept->state == WORLD_UNREACHABLE) { /* what it knows of the instance is not known either */
        say(r, "the interceptor does not answer");
        if (not_dumped_yet(r)) checkpoint_fail(r, w, r->reason);
        return false;
    }
    if (!inst->origin_known) return adopt_or_kill(r, w, a);
    bool same = strcmp(icept->identity, inst->identity) == 0;
    if (!same && inst->attached) return attach_again(r, w, a);
    if (same && icept->diverged != 0) return kill_instance(r, w, "it has diverged: its answers are not those of the majority of replicas", a);
    if (same && icept->suspect)
        return kill_instance(r, w, "it dropped a request: nobody knows whether it executed it", a);
    if (same && lost_too_long(r, w)) return kill_instance(r, w, "its process lives but takes no connections", a);
    if (foreign_drain(r, w)) {
        say(r, "a drain that nobody needs any more is ended");
        return !calls_pause(r, w) && resume(r, w, icept->token, a);
    }
    if (!same && r->distrusting) { /* once another one is attached, nobody would know any more what is to be distrusted */
        say(r, "the checkpoints of the one that diverged are recorded as failed first");
        return false;
    }
    if (!same || !inst->attached) { /* never left unmarked: C1 rests on it */
        say(r, "the interceptor is told of it");
        return !calls_pause(r, w) && act(r, w, RECONCILE_ATTACH, a);
    }
    if (icept->lost) {
        say(r, "the interceptor cannot reach it");
        return false;
    }
    if (icept->state == WORLD_ACTIVE && r->active_since_us == 0) {
        r->active_since_us = w->now_us;
        r->early_deaths = 0;
    }
    return checkpoint_next(r, w, a);
}

/* Nothing is to run here. When it is wanted again, that is a beginning and no death. */
static bool leave(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    if (w->instance.state != WORLD_APP_NONE) return kill_instance(r, w, "it is not to run here: the app is, or goes, elsewhere", a);
    if (not_dumped_yet(r)) checkpoint_fail(r, w, "the app went elsewhere");
    r->reason[0] = '\0';
    r->deaths = r->start_failures = 0;
    r->counted = false;
    return false;
}

static bool app_next(struct reconcile *r, const struct world *w, struct reconcile_action *a)
{
    const struct world_instance *inst = &w->instance;
    if (!w->log.known || inst->state == WORLD_APP_UNKNOWN) {
        say(r, w->log.known ? "the machine's containers have not been looked at yet" : "the log has not answered yet");
        return false;
    }
    distrust(r, w);
    if (r->stage == RECONCILE_RESUMED) { /* first of all: requests wait for it */
        if (w->interceptor.state != WORLD_UNREACHABLE) return resume(r, w, r->checkpoint, a);
        checkpoint_fail(r, w, r->dump_complete ? "the interceptor could not confirm the drain" : r->checkpoint_reason);
    }
    if (w->away) return leave(r, w, a);
    return inst->state == WORLD_APP_RUNNING ? keep(r, w, a) : revive(r, w, a);
}

static void attach_done(struct reconcile *r, const struct reconcile_result *result)
{
    if (r->attaching_again && result->refused) condemn(r, r->again_generation, "a new interceptor would not take it", result->reason);
    r->attaching_again = false;
}

static void call_done(struct reconcile *r, const struct world *w, bool ok)
{
    r->call_failures = ok ? 0 : r->call_failures + 1;
    r->next_call_us = ok ? 0 : w->now_us + pause_us(CALL_FIRST_US, CALL_MOST_US, r->call_failures);
}

/* --- the way in */

bool reconcile_next(struct reconcile *r, const struct world *w, struct reconcile_action *ret_action)
{
    r->wake_us = UINT64_MAX;
    if (r->pending[RECONCILE_LANE_APP] == RECONCILE_NOTHING && app_next(r, w, ret_action)) return true;
    return r->pending[RECONCILE_LANE_STORE] == RECONCILE_NOTHING && store_next(r, w, ret_action);
}

static void app_done(struct reconcile *r, enum reconcile_act what, const struct world *w,
                     const struct reconcile_result *result)
{
    switch (what) {
    case RECONCILE_START_FRESH:
    case RECONCILE_RESTORE: start_done(r, what, w, result); break;
    case RECONCILE_PRECOPY: precopy_done(r, result); break;
    case RECONCILE_DRAIN: drain_done(r, w, result); break;
    case RECONCILE_DUMP: dump_done(r, w, result); break;
    case RECONCILE_RESUME:
        resume_done(r, w, result);
        call_done(r, w, result->outcome == RECONCILE_OK || result->refused);
        break;
    case RECONCILE_ATTACH: attach_done(r, result); call_done(r, w, result->outcome == RECONCILE_OK); break;
    default: call_done(r, w, result->outcome == RECONCILE_OK); break;
    }
}

void reconcile_done(struct reconcile *r, enum reconcile_lane lane, const struct world *w,
                    const struct reconcile_result *result)
{
    enum reconcile_act what = r->pending[lane];
    assert(what != RECONCILE_NOTHING);
    r->pending[lane] = RECONCILE_NOTHING;
    if (lane == RECONCILE_LANE_STORE)
        store_done(r, what, w, result);
    else
        app_done(r, what, w, result);
}

const char *reconcile_act_name(enum reconcile_act what)
{
    static const char *const names[] = {
        [RECONCILE_NOTHING] = "nothing", [RECONCILE_START_FRESH] = "start", [RECONCILE_RESTORE] = "restore",
        [RECONCILE_ADOPT] = "adopt",     [RECONCILE_KILL] = "kill",         [RECONCILE_ATTACH] = "attach",
        [RECONCILE_PRECOPY] = "precopy", [RECONCILE_DRAIN] = "drain",     [RECONCILE_DUMP] = "dump",         [RECONCILE_RESUME] = "resume",
        [RECONCILE_PACK] = "pack",       [RECONCILE_RECORD] = "record",     [RECONCILE_DISCARD] = "discard",
    };
    return what <= RECONCILE_DISCARD ? names[what] : "unknown";
}
