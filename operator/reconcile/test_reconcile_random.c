/* Random worlds: a machine, a log and an interceptor made of a few integers, all of which fail, die and lie about
 * outcomes at random moments, and an operator that is killed between any two actions and in the middle of any. What is
 * checked:
 *   - an instance is attached with the offset that its state really contains, whatever happened before (C1),
 *   - a snapshot recorded as valid contains exactly the requests up to its offset (C2),
 *   - what is restored is valid, of this node and of the present specification, and its offset is what is told (C3),
 *   - no checkpoint is restored of an app that was found to have diverged, after its last agreement (C7),
 *   - nothing is deleted that retention or the running instance needs (C4),
 *   - nothing is touched that another replica holds, but to say that it is bad,
 *   - nothing is started while the app is to run elsewhere, and nothing is left running (C8),
 *   - when everything works again: the app runs, is attached, has executed all, has a checkpoint of that; no record is
 * left in `taking`, no image of a dead record on disk; and then nothing is done any more (C5, C6). Seeds: argv[1] is
 * the first (default 1), argv[2] how many; a third argument: print every action. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/reconcile/reconcile.h"
#include "operator/reconcile/test_random.h"

enum { SNAPSHOTS = 1024, CONTAINERS = 4096, RETAIN = 3, NODES = 2, SECOND = 1000000 };

struct container {
    bool present, alive, origin, attached_mark;
    uint64_t contained, origin_offset; /* truth; what the driver wrote down */
    bool rogue;                        /* truth: its state is not the others' ... */
    uint64_t rogue_since;              /* ... its answers were right up to there, since it was attached */
    char snapshot[WORLD_ID_MAX], identity[WORLD_IDENTITY_MAX];
    unsigned template;
};

struct snapshot {
    struct world_snapshot seen;
    unsigned template;
    bool image, corrupt, dump;
    uint64_t content; /* truth */
    bool rogue, found; /* truth: of a rogue app; and that was found out, so that it may not be restored */
};

struct interceptor {
    bool up, lost, suspect, drained, unbroken;
    uint64_t attached; /* container + 1; 0: none */
    uint64_t executed, lease_until;
    uint64_t diverged, agreed;
    enum world_proof proof;
    uint64_t proven, proven_offset; /* container + 1 */
    char token[WORLD_ID_MAX];
};

struct flight {
    struct reconcile_action action;
    uint64_t until;
    bool begun;
};

struct sim {
    uint64_t rng, seed, now;
    double fault; /* probability that an action fails */
    struct container containers[CONTAINERS];
    uint64_t newest; /* generation */
    bool any, log_up, stream;
    uint64_t last;
    struct snapshot snapshots[SNAPSHOTS];
    struct world_snapshot view[SNAPSHOTS];
    size_t n_snapshots;
    struct interceptor icept;
    unsigned template;
    struct reconcile core;
    struct flight flights[RECONCILE_LANES];
    uint64_t actions[RECONCILE_DISCARD + 1], restored, valid, kills, again, diverged;
    bool starts_fail, poison, quiet, away;
};

static uint64_t first_seed = 1, n_seeds = 300;
static bool tracing;
static const struct reconcile_policy policy = {
    .checkpoints = true, .interval_us = 2 * SECOND, .retain = RETAIN, .drain_ms = 500, .lease_ms = 2000};

/* Half of the worlds copy memory ahead. */
static void init_core(struct sim *s)
{
    struct reconcile_policy own = policy;
    own.precopy = s->seed % 2 != 0;
    reconcile_init(&s->core, &own);
}

/* --- the world as the operator sees it */

static struct container *newest(struct sim *s)
{
    return s->any ? &s->containers[s->newest] : NULL;
}

static void see(struct sim *s, struct world *w)
{
    *w = (struct world){.now_us = s->now + 1, .wall_us = s->now + 1, .turn = true, .away = s->away};
    const struct container *c = newest(s);
    w->instance.state = WORLD_APP_NONE;
    if (c != NULL && (c->present || c->origin)) {
        w->instance = (struct world_instance){.state = c->present && c->alive ? WORLD_APP_RUNNING : WORLD_APP_EXITED,
                                              .generation = s->newest,
                                              .origin_known = c->origin,
                                              .fits = c->template == s->template,
                                              .offset = c->origin_offset,
                                              .attached = c->attached_mark};
        if (c->alive) strcpy(w->instance.identity, c->identity);
        strcpy(w->instance.snapshot, c->snapshot);
    }
    const struct interceptor *i = &s->icept;
    if (i->up) {
        w->interceptor = (struct world_interceptor){
            .last = s->last, .executed = i->executed, .lost = i->lost, .suspect = i->suspect, .diverged = i->diverged, .agreed = i->agreed};
        strcpy(w->interceptor.token, i->token);
        if (i->attached == 0 && i->proof != WORLD_PROOF_NONE) {
            w->interceptor.proof = i->proof;
            w->interceptor.proven_offset = i->proven_offset;
            if (i->proof == WORLD_PROOF_KNOWN) strcpy(w->interceptor.proven, s->containers[i->proven - 1].identity);
        }
        if (i->attached != 0) strcpy(w->interceptor.identity, s->containers[i->attached - 1].identity);
        bool idle = i->attached == 0 || i->lost || i->suspect;
        w->interceptor.state = idle                    ? WORLD_WAITING
                               : i->token[0] != '\0'   ? WORLD_DRAINING
                               : i->executed < s->last ? WORLD_REPLAYING
                                                       : WORLD_ACTIVE;
    }
    for (size_t k = 0; k < s->n_snapshots; k++) {
        struct snapshot *p = &s->snapshots[k];
        p->seen.fits = p->seen.ours && p->template == s->template;
        p->seen.on_disk = p->image || p->dump;
        s->view[k] = p->seen;
    }
    w->log = (struct world_log){.known = true,
                                .first_offset = s->stream ? 1 : 0,
                                .last_offset = s->last,
                                .snapshots = s->view,
                                .n_snapshots = s->n_snapshots};
}

static struct snapshot *find(struct sim *s, const char *id)
{
    for (size_t k = 0; k < s->n_snapshots; k++)
        if (strcmp(s->snapshots[k].seen.id, id) == 0) return &s->snapshots[k];
    return NULL;
}

/* --- the interceptor */

static void drain_end(struct interceptor *i)
{
    i->token[0] = '\0';
    i->drained = false;
}

static void app_gone(struct sim *s, uint64_t generation)
{
    struct interceptor *i = &s->icept;
    s->containers[generation].alive = false;
    if (i->up && i->attached == generation + 1) i->lost = true;
    if (i->attached == generation + 1) i->unbroken = false;
}

/* Requests come in and are executed, as far as the interceptor lets them. */
static void traffic(struct sim *s)
{
    struct interceptor *i = &s->icept;
    if (i->up && i->token[0] != '\0' && s->now >= i->lease_until) {
        drain_end(i);
        i->unbroken = false;
    }
    if (i->up && i->proof == WORLD_PROOF_PENDING && chance(s, 0.1)) i->proof = i->proven != 0 ? WORLD_PROOF_KNOWN : WORLD_PROOF_NONE;
    if (i->up && s->log_up && !s->quiet) {
        s->stream = true;
        s->last += draw(s, 4);
    }
    if (!i->up || i->attached == 0 || i->lost || i->suspect || i->token[0] != '\0') return;
    struct container *c = &s->containers[i->attached - 1];
    hold(s, c->alive && c->contained == i->executed,
         "the interceptor believes %" PRIu64 ", the app has executed %" PRIu64, i->executed, c->contained);
    uint64_t n = s->last - i->executed;
    if (n > 50) n = 50;
    if (s->poison && n > 0) {
        app_gone(s, i->attached - 1);
        return;
    }
    c->contained += n;
    i->executed += n;
}

static void attach(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    struct interceptor *i = &s->icept;
    struct container *c = &s->containers[a->generation];
    if (!i->up || !c->alive) {
        result->outcome = RECONCILE_FAILED;
        if (i->up && !a->again) c->attached_mark = false; /* refused, for certain */
        result->refused = i->up;
        return;
    }
    if (a->again && i->attached == 0 && (i->proof != WORLD_PROOF_KNOWN || i->proven != a->generation + 1 || i->proven_offset != a->offset)) {
        result->outcome = RECONCILE_FAILED; /* yet another interceptor */
        result->refused = true;
        return;
    }
    s->again += a->again;
    if (i->attached == a->generation + 1) return; /* told again: it knows better */
    hold(s, a->offset == c->contained, "attached with offset %" PRIu64 ", but it contains %" PRIu64, a->offset,
         c->contained);
    hold(s, strcmp(a->identity, c->identity) == 0, "attached as %s, it is %s", a->identity, c->identity);
    i->attached = a->generation + 1;
    i->executed = a->offset;
    i->lost = i->suspect = i->unbroken = false;
    i->diverged = i->agreed = 0;
    i->proof = WORLD_PROOF_NONE;
}

/* --- actions: their effect, as it is in the world */

static void start(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    for (uint64_t g = 0; s->any && g <= s->newest; g++) {
        struct container *old = &s->containers[g];
        if (old->alive) app_gone(s, g);
        old->present = false;
    }
    struct snapshot *p = NULL;
    if (a->act == RECONCILE_RESTORE) {
        p = find(s, a->snapshot);
        hold(s, p != NULL && p->seen.state == WORLD_VALID && p->seen.ours, "restored %s, which is not valid",
             a->snapshot);
        hold(s, p->template == s->template, "restored %s of another specification", a->snapshot);
        if (!p->image || p->corrupt) {
            result->outcome = RECONCILE_CORRUPT;
            return;
        }
        hold(s, a->offset == p->content, "told offset %" PRIu64 " of an image that contains %" PRIu64, a->offset,
             p->content);
        hold(s, !p->found, "restored %s, which an app took that had diverged", a->snapshot);
        s->restored++;
    } else {
        hold(s, a->offset == 0, "a fresh start with offset %" PRIu64, a->offset);
    }
    s->newest = s->any ? s->newest + 1 : 1;
    s->any = true;
    hold(s, s->newest < CONTAINERS, "too many containers");
    struct container *c = &s->containers[s->newest];
    *c = (struct container){.origin = true, .origin_offset = a->offset, .template = s->template};
    if (p != NULL) strcpy(c->snapshot, a->snapshot);
    if (s->starts_fail || (s->fault > 0 && chance(s, s->fault / 2))) { /* the record is there, the container is not */
        result->outcome = RECONCILE_FAILED;
        return;
    }
    c->present = c->alive = true;
    c->contained = p != NULL ? p->content : 0;
    c->rogue = p != NULL && p->rogue;
    snprintf(c->identity, sizeof c->identity, "%" PRIu64 ":%" PRIu64, s->newest + 100, s->now);
}

static void dump(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    struct container *c = &s->containers[a->generation];
    struct snapshot *p = find(s, a->snapshot);
    hold(s, p != NULL && p->seen.state == WORLD_TAKING, "a dump without a record");
    p->dump = true;
    p->content = c->contained;
    p->rogue = c->rogue;
    p->template = c->template;
    if (c->alive) return;
    result->outcome = RECONCILE_FAILED;
}

static void drain(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    struct interceptor *i = &s->icept;
    if (!i->up || i->token[0] != '\0' || i->attached == 0 || i->lost || i->suspect) {
        result->outcome = RECONCILE_FAILED;
        return;
    }
    strcpy(i->token, a->snapshot);
    i->lease_until = s->now + a->lease_ms * 1000;
    i->unbroken = i->drained = true;
    result->offset = i->executed;
}

static void resume(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    struct interceptor *i = &s->icept;
    result->outcome = RECONCILE_FAILED;
    if (!i->up) return;
    if (strcmp(i->token, a->snapshot) != 0) {
        result->refused = true;
        return;
    }
    *result = (struct reconcile_result){.offset = i->executed, .unbroken = i->unbroken};
    drain_end(i);
}

static bool retained(struct sim *s, const struct snapshot *p)
{
    unsigned better = 0;
    for (size_t k = 0; k < s->n_snapshots; k++) {
        const struct snapshot *q = &s->snapshots[k];
        if (q != p && q->seen.ours && q->template == s->template && q->seen.state == WORLD_VALID &&
            q->seen.offset >= p->seen.offset)
            better++;
    }
    return p->template == s->template && better < RETAIN;
}

static void check_record(struct sim *s, const struct reconcile_action *a, const struct snapshot *p)
{
    const struct container *c = newest(s);
    bool in_use = c != NULL && c->alive && strcmp(c->snapshot, a->snapshot) == 0;
    if (a->state == WORLD_TAKING)
        hold(s, p == NULL, "%s is recorded as taking twice", a->snapshot);
    else
        hold(s, p != NULL && p->seen.ours, "%s is not ours to record", a->snapshot);
    if (a->state == WORLD_VALID)
        hold(s, p->image && p->content == a->offset, "valid with offset %" PRIu64 ", content %" PRIu64, a->offset,
             p->content);
    if (a->state == WORLD_DELETED && p->seen.state == WORLD_VALID) {
        hold(s, !in_use, "the running instance came from %s, which is deleted", a->snapshot);
        hold(s, !retained(s, p), "%s is deleted, but it is one of the newest", a->snapshot);
    }
}

static void record(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    if (!s->log_up || !s->stream) {
        result->outcome = RECONCILE_FAILED;
        return;
    }
    struct snapshot *p = find(s, a->snapshot);
    check_record(s, a, p);
    if (p == NULL) {
        hold(s, s->n_snapshots < SNAPSHOTS, "too many snapshots");
        p = &s->snapshots[s->n_snapshots++];
        *p = (struct snapshot){.seen = {.ours = true}};
        strcpy(p->seen.id, a->snapshot);
    }
    p->seen.state = a->state;
    p->seen.offset = a->offset;
    if (a->state == WORLD_VALID) s->valid++;
}

static void effect(struct sim *s, const struct reconcile_action *a, struct reconcile_result *result)
{
    struct snapshot *p = find(s, a->snapshot);
    switch (a->act) {
    case RECONCILE_START_FRESH:
    case RECONCILE_RESTORE: start(s, a, result); break;
    case RECONCILE_ADOPT:
        s->containers[a->generation].origin = true;
        s->containers[a->generation].origin_offset = 0;
        s->containers[a->generation].template = s->template;
        hold(s, s->last == 0 || s->containers[a->generation].contained == 0, "adopted with requests in the log");
        break;
    case RECONCILE_KILL:
        if (s->containers[a->generation].alive) app_gone(s, a->generation);
        s->containers[a->generation].present = s->containers[a->generation].origin = false;
        s->kills++;
        break;
    case RECONCILE_ATTACH: attach(s, a, result); break;
    case RECONCILE_PRECOPY: /* for its time it serves on */
        hold(s, s->core.policy.precopy, "a copy that nobody asked for");
        hold(s, p != NULL && p->seen.state == WORLD_TAKING, "a copy without a record");
        hold(s, s->icept.token[0] == '\0' || strcmp(s->icept.token, a->snapshot) != 0, "copied ahead in its own drain");
        p->dump = true;
        if (!s->containers[a->generation].alive) result->outcome = RECONCILE_FAILED;
        break;
    case RECONCILE_DRAIN: drain(s, a, result); break;
    case RECONCILE_DUMP: dump(s, a, result); break;
    case RECONCILE_RESUME: resume(s, a, result); break;
    case RECONCILE_PACK:
        p->image = true;
        p->dump = false;
        break;
    case RECONCILE_RECORD: record(s, a, result); break;
    case RECONCILE_DISCARD:
        hold(s, p->seen.state >= WORLD_FAILED, "%s is discarded while it may be needed", a->snapshot);
        p->image = p->dump = false;
        break;
    case RECONCILE_NOTHING: hold(s, false, "nothing is no action"); break;
    }
}

/* --- the shell: starts actions, ends them, sometimes badly */

static void begin(struct sim *s, const struct reconcile_action *a)
{
    struct flight *f = &s->flights[a->lane];
    hold(s, !f->begun, "two actions at once in a lane");
    const struct snapshot *p = find(s, a->snapshot);
    hold(s, !s->away || (a->act != RECONCILE_START_FRESH && a->act != RECONCILE_RESTORE && a->act != RECONCILE_ATTACH && a->act != RECONCILE_DRAIN), "%s while it is away", reconcile_act_name(a->act));
    bool bad = a->state == WORLD_FAILED && reconcile_knows_bad(&s->core, a->snapshot);
    bool touched = a->act == RECONCILE_DISCARD || (a->act == RECONCILE_RECORD && a->state >= WORLD_FAILED && !bad);
    hold(s, p == NULL || !p->seen.held || !touched, "%s of %s, which another replica holds", reconcile_act_name(a->act), a->snapshot);
    if (tracing)
        print_message("%" PRIu64 " %s %s generation %" PRIu64 " offset %" PRIu64 " state %d: %s\n", s->now,
                      reconcile_act_name(a->act), a->snapshot, a->generation, a->offset, (int)a->state, a->reason);
    *f = (struct flight){.action = *a, .begun = true, .until = s->now + 500 + draw(s, chance(s, 0.1) ? 800000 : 20000)};
    if (a->act == RECONCILE_ATTACH) s->containers[a->generation].attached_mark = true; /* written before the call */
    s->actions[a->act]++;
}

static void end(struct sim *s, struct flight *f)
{
    struct reconcile_result result = {.outcome = RECONCILE_OK};
    struct world w;
    f->begun = false;
    bool fails = chance(s, s->fault), afterwards = chance(s, 0.5);
    if (!fails || afterwards) effect(s, &f->action, &result);
    if (fails) {
        bool offset_known = f->action.act == RECONCILE_RESTORE && chance(s, 0.2);
        result = (struct reconcile_result){.outcome = offset_known ? RECONCILE_CORRUPT : RECONCILE_FAILED, .tried = chance(s, 0.5)};
        result.lost = (f->action.act == RECONCILE_DUMP || f->action.act == RECONCILE_PRECOPY) && chance(s, 0.3);
    }
    if (result.outcome != RECONCILE_OK) strcpy(result.reason, "made to fail");
    see(s, &w);
    reconcile_done(&s->core, f->action.lane, &w, &result);
}

static void operator_killed(struct sim *s)
{
    for (int lane = 0; lane < RECONCILE_LANES; lane++) {
        struct reconcile_result ignored = {.outcome = RECONCILE_OK};
        if (s->flights[lane].begun && chance(s, 0.5)) effect(s, &s->flights[lane].action, &ignored);
        s->flights[lane].begun = false;
    }
    if (chance(s, 0.1)) s->template = 1 + (unsigned)draw(s, 2);
    init_core(s);
}

static void operator_step(struct sim *s)
{
    struct world w;
    struct reconcile_action a;
    for (int lane = 0; lane < RECONCILE_LANES; lane++)
        if (s->flights[lane].begun && s->flights[lane].until <= s->now) end(s, &s->flights[lane]);
    see(s, &w);
    for (int n = 0; reconcile_next(&s->core, &w, &a); n++) {
        hold(s, n < RECONCILE_LANES, "more actions at once than lanes");
        begin(s, &a);
        see(s, &w);
    }
}

/* An answer shows the others that this app is not like theirs. */
static void found_out(struct sim *s)
{
    struct interceptor *i = &s->icept;
    const struct container *c = &s->containers[i->attached - 1];
    if (!c->rogue || i->executed == 0) return;
    i->suspect = true;
    i->diverged = i->executed;
    i->agreed = c->rogue_since > 0 ? draw(s, c->rogue_since + 1) : 0;
    s->diverged++;
    if (tracing) print_message("%" PRIu64 " generation %" PRIu64 " has diverged at %" PRIu64 ", agreed %" PRIu64 "\n", s->now, i->attached - 1, i->diverged, i->agreed);
    for (size_t k = 0; k < s->n_snapshots; k++) s->snapshots[k].found |= s->snapshots[k].rogue && s->snapshots[k].content >= i->agreed;
}

/* Another replica restores it or runs from it, or no more; not what we take ourselves. */
static void hold_or_let_go(struct sim *s, struct snapshot *p)
{
    bool ours = s->core.stage != RECONCILE_IDLE && strcmp(s->core.checkpoint, p->seen.id) == 0;
    p->seen.held = !p->seen.held && p->image && p->seen.state == WORLD_VALID && !ours;
}

static void mischief(struct sim *s)
{
    struct interceptor *i = &s->icept;
    struct container *c = newest(s);
    if (chance(s, 0.01) && c != NULL && c->alive) app_gone(s, s->newest);
    if (chance(s, 0.004)) { /* the interceptor dies, maybe with a request under way */
        bool open = i->executed < s->last, served = i->attached != 0;
        if (served && s->containers[i->attached - 1].alive && i->token[0] == '\0' && open)
            s->containers[i->attached - 1].contained += draw(s, 2);
        struct interceptor next = {.proof = WORLD_PROOF_PENDING};
        if (i->diverged != 0) /* it was the only one that knew */
            for (size_t k = 0; k < s->n_snapshots; k++) s->snapshots[k].found = false;
        if (served && !open) { /* what the next one will find in the log */
            next.proven = i->attached;
            next.proven_offset = i->executed;
        }
        *i = next;
    }
    if (!i->up && chance(s, 0.2)) i->up = true;
    if (chance(s, 0.004) && i->up && i->attached != 0 && !i->lost && i->token[0] == '\0' && i->executed < s->last) {
        s->containers[i->attached - 1].contained += draw(s, 2);
        i->suspect = true;
    }
    if (chance(s, 0.004) && c != NULL && c->alive && !c->rogue) { /* its state changes behind the log's back */
        c->rogue = true;
        c->rogue_since = c->contained;
    }
    if (chance(s, 0.05) && i->up && i->attached != 0 && !i->lost && !i->suspect && i->token[0] == '\0') found_out(s);
    if (chance(s, 0.05) && s->n_snapshots > 0) hold_or_let_go(s, &s->snapshots[draw(s, s->n_snapshots)]);
    if (chance(s, 0.01)) s->log_up = !s->log_up;
    if (chance(s, 0.02)) operator_killed(s);
    if (chance(s, s->away ? 0.05 : 0.004)) s->away = !s->away;
    if (chance(s, 0.01) && s->n_snapshots > 0) s->snapshots[draw(s, s->n_snapshots)].corrupt = true;
    if (chance(s, 0.02) && i->token[0] != '\0') { /* a drain that breaks by itself, and the app goes on */
        drain_end(i);
        i->unbroken = false;
    }
}

static void step(struct sim *s, bool chaos)
{
    s->now += 1 + draw(s, 20000);
    if (chaos) mischief(s);
    traffic(s);
    operator_step(s);
}

static void populate(struct sim *s)
{
    *s = (struct sim){
        .seed = s->seed, .rng = s->seed * 0x9e3779b97f4a7c15u + 1, .template = 1, .log_up = true, .icept.up = true};
    for (int k = 0; k < 8; k++) draw(s, 2);
    s->fault = chance(s, 0.3) ? 0 : (double)draw(s, 25) / 100;
    if (chance(s, 0.3)) { /* a container that was there before */
        s->any = true;
        s->containers[0] = (struct container){.present = true, .alive = true, .template = 1, .identity = "99:1"};
        if (chance(s, 0.5)) s->last = 5, s->stream = true;
    } else if (chance(s, 0.5)) { /* records of earlier lives, of another node and of another specification */
        s->last = 1000;
        s->stream = true;
        for (unsigned k = 0; k < 2 + draw(s, 6); k++) {
            struct snapshot *p = &s->snapshots[s->n_snapshots++];
            *p = (struct snapshot){.template = 1 + (unsigned)draw(s, 2), .image = true, .corrupt = chance(s, 0.3)};
            p->seen =
                (struct world_snapshot){.state = 1 + (enum world_snapshot_state)draw(s, 4), .ours = chance(s, 0.7)};
            p->content = p->seen.offset = draw(s, 1000);
            snprintf(p->seen.id, sizeof p->seen.id, "old-%u", k);
        }
    }
    init_core(s);
}

static uint64_t total(const struct sim *s)
{
    uint64_t n = 0;
    for (int k = 0; k <= RECONCILE_DISCARD; k++) n += s->actions[k];
    return n;
}

static void check_calm(struct sim *s)
{
    struct world w;
    see(s, &w);
    unsigned valid = 0;
    hold(s, w.instance.state == WORLD_APP_RUNNING, "the app does not run: %s", s->core.reason);
    hold(s, strcmp(w.instance.identity, w.interceptor.identity) == 0, "it is not attached: %s", s->core.reason);
    hold(s, w.interceptor.state == WORLD_ACTIVE, "the interceptor is not active: %s", s->core.reason);
    hold(s, w.interceptor.executed == s->last, "not everything was executed");
    for (size_t k = 0; k < s->n_snapshots; k++) {
        const struct snapshot *p = &s->snapshots[k];
        if (!p->seen.ours) continue;
        hold(s, p->seen.state != WORLD_TAKING, "%s is left in taking", p->seen.id);
        hold(s, p->seen.state == WORLD_VALID || !(p->image || p->dump), "%s is left on disk", p->seen.id);
        if (p->seen.state == WORLD_VALID) valid++;
    }
    hold(s, valid <= RETAIN + 1, "%u valid snapshots are kept", valid);
    hold(s, valid > 0 || !w.instance.fits, "there is no valid snapshot");
}

/* It is moved away, and comes back later. */
static void go_and_return(struct sim *s)
{
    struct world w;
    s->away = true;
    for (unsigned k = 0; k < 3000; k++) step(s, false);
    see(s, &w);
    hold(s, w.instance.state == WORLD_APP_NONE, "it is away, and something is left: %s", s->core.reason);
    s->away = false;
}

static void run(struct sim *s)
{
    populate(s);
    unsigned steps = 200 + (unsigned)draw(s, 1500);
    for (unsigned k = 0; k < steps; k++) step(s, true);
    s->fault = 0;
    s->log_up = s->icept.up = true;
    for (size_t k = 0; k < s->n_snapshots; k++) s->snapshots[k].seen.held = false;
    if (s->away || chance(s, 0.3)) go_and_return(s);
    for (unsigned k = 0; k < 12000; k++) step(s, false); /* two minutes: long pauses may have grown */
    s->quiet = true;
    for (unsigned k = 0; k < 3000; k++) step(s, false);
    check_calm(s);
    uint64_t before = total(s);
    for (unsigned k = 0; k < 3000; k++) {
        s->now += 100000;
        operator_step(s);
    }
    hold(s, total(s) == before, "%" PRIu64 " actions where nothing is to be done", total(s) - before);
}

static void test_random(void **state)
{
    struct sim *s = calloc(1, sizeof *s);
    uint64_t restored = 0, valid = 0, kills = 0, failed = 0, again = 0, diverged = 0;
    (void)state;
    print_message("seeds %" PRIu64 " to %" PRIu64 "\n", first_seed, first_seed + n_seeds - 1);
    for (uint64_t k = 0; k < n_seeds; k++) {
        s->seed = first_seed + k;
        run(s);
        restored += s->restored;
        valid += s->valid;
        kills += s->kills;
        again += s->again;
        diverged += s->diverged;
        failed += s->actions[RECONCILE_RESTORE] - s->restored;
    }
    print_message("%" PRIu64 " restored, %" PRIu64 " failed to, %" PRIu64 " checkpoints valid, %" PRIu64
                  " instances killed, %" PRIu64 " attached again, %" PRIu64 " diverged\n",
                  restored, failed, valid, kills, again, diverged);
    if (n_seeds >= 100) assert_true(restored > n_seeds && valid > n_seeds && kills > n_seeds && failed > 0 && again > 0 && diverged > n_seeds / 2);
    free(s);
}

/* Ten minutes in which something never works: how often is it tried? */
static uint64_t ten_minutes(struct sim *s)
{
    uint64_t before = total(s);
    for (unsigned k = 0; k < 60000; k++) {
        s->now += 10000;
        traffic(s);
        operator_step(s);
    }
    return total(s) - before;
}

static unsigned n_valid(const struct sim *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->n_snapshots; i++) n += s->snapshots[i].seen.state == WORLD_VALID;
    return n;
}

static void test_storms(void **state)
{
    struct sim *s = calloc(1, sizeof *s);
    (void)state;
    s->seed = first_seed;
    populate(s);
    *s = (struct sim){.seed = first_seed,
                      .rng = 88172645463325252u,
                      .template = 1,
                      .log_up = true,
                      .icept.up = true,
                      .starts_fail = true};
    init_core(s);
    uint64_t n = ten_minutes(s);
    hold(s, n > 5 && n < 60, "%" PRIu64 " actions while no container can be started", n);
    s->starts_fail = false;
    s->poison = true;
    n = ten_minutes(s);
    hold(s, n > 5 && n < 100, "%" PRIu64 " actions while a request kills the app", n);
    s->poison = false;
    for (unsigned k = 0; k < 12000; k++) step(s, false);
    s->poison = true; /* now with snapshots: they are not to blame, a fresh start ends the same way */
    n = ten_minutes(s);
    hold(s, n > 5 && n < 120, "%" PRIu64 " actions while a request kills the restored app", n);
    s->poison = false;
    for (unsigned k = 0; k < 12000; k++) step(s, false);
    unsigned before = n_valid(s);
    hold(s, before > 0, "no snapshot to lose");
    s->starts_fail = true; /* a full disk: it says nothing about a snapshot */
    app_gone(s, s->newest);
    n = ten_minutes(s);
    hold(s, n > 5 && n < 60, "%" PRIu64 " actions while nothing can be restored", n);
    hold(s, n_valid(s) == before, "%u snapshots left of %u, and none was ever tried", n_valid(s), before);
    s->starts_fail = false;
    for (unsigned k = 0; k < 12000; k++) step(s, false);
    hold(s, s->containers[s->newest].alive, "not back after the disk had space again");
    s->log_up = false;
    n = ten_minutes(s);
    hold(s, n < 200, "%" PRIu64 " actions while the log is down", n);
    s->log_up = true;
    for (unsigned k = 0; k < 12000; k++) step(s, false);
    s->icept.up = false;
    n = ten_minutes(s);
    hold(s, n < 20, "%" PRIu64 " actions while the interceptor is down", n);
    free(s);
}

int main(int argc, char **argv)
{
    if (argc > 1) first_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) n_seeds = strtoull(argv[2], NULL, 10);
    tracing = argc > 3;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_storms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
