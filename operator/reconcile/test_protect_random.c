/* The decisions of protect.c against thousands of random clusters: workloads annotated and not, pods and nodes that come and go, agents that
 * fail, an operator that is killed before or after any action; replicas that diverge, rollouts, changes from one pod to several and back, standbys. The cluster of
 * the test is the truth: P1 to P11 are checked on it after every action, and at last, when nothing disturbs any more, that it comes to rest where it should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/reconcile/protect.h"

enum { SETTLE_MS = 5000, SEEDS = 3000, STEPS = 120, PODS = 6, CHECKPOINTS = 64 };

struct pod {
    bool there, ours, injected, ready, terminating, lost, agent, active, running, backing_off;
    uint64_t executed, producer, created; /* producer: the epoch it opened; 0: none */
    bool shared;
    unsigned version;          /* of the template */
    uint64_t diverged, agreed;
    uint32_t counts;
    unsigned turns;            /* checkpoints begun of it */
    enum protect_role role;
    uint64_t role_failed;      /* its promotion failed, which is remembered until then */
    bool begins, stuck;        /* its image is that of image `from`; it cannot begin with it */
    bool unknown;              /* nobody knows what it began with */
    int from;
    bool jinxed;               /* no checkpoint of it succeeds */
    bool silent;               /* its agent does not answer for a while already */
    bool restarted;            /* its app died */
    uint64_t steady;           /* since when it is ready, with the app of now */
    bool known;                /* its agent lists its container; not while that is started anew, of which the API server hears later */
};

struct image {
    bool there, finalizer, deleting;
    enum protect_phase phase, agent; /* as its object says, as the agent knows */
    bool image;                      /* the bytes are somewhere */
    int pod;
    uint64_t offset, created, deleting_since;
    uint64_t unusable;               /* when a pod was given up that could not begin with it; 0: never */
};

struct cluster {
    uint64_t random, now;
    bool exists, annotated, valid;
    bool template_ours, record, record_deleting, finalizer;
    bool service_switched;
    uint64_t epoch; /* of the stream: every older producer that owned it is fenced */
    uint64_t owned; /* the newest of one that owned it, or of a fence: every older one is fenced, replicas too */
    uint64_t replaced[PROTECT_REPLACEMENTS + 1];
    unsigned n_replaced; /* ever, for P5 */
    uint64_t replaced_at[256];
    struct pod pods[PODS];
    struct image images[CHECKPOINTS];
    uint64_t next_offset;
    unsigned missed_percent; /* of new pods: without an interceptor */
    bool shared;             /* the policy: replicas */
    uint32_t replicas;
    unsigned version;
    uint32_t standby;
    bool unready_published;  /* by the Service */
    bool service_chooses;
    bool by_kubelet;         /* pods begin with the newest valid checkpoint that there is when they are made */
    unsigned stuck_percent, unknown_percent; /* of them: in vain; so that nobody knows how */
    uint64_t refused, passed; /* of checkpoints: how many ever */
};

static uint64_t roll(struct cluster *c)
{
    uint64_t z = (c->random += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static bool is_live(const struct pod *p)
{
    return p->there && p->ours && !p->terminating;
}

/* Nobody holds requests: those who are not ready refuse them. */
static bool has_replicas(const struct cluster *c)
{
    for (int i = 0; i < PODS; i++)
        if (is_live(&c->pods[i]) && c->pods[i].shared) return true;
    return c->shared;
}

static bool chance(struct cluster *c, unsigned percent)
{
    return roll(c) % 100 < percent;
}

static bool has_standbys(const struct cluster *c)
{
    return c->shared && c->standby > 0;
}

static uint32_t to_serve(const struct cluster *c)
{
    return c->replicas > c->standby ? c->replicas - c->standby : 1;
}

/* ---- what the operator sees ----------------------------------------------------------------------------------- */

/* Its agent tells of it. */
static bool is_heard(const struct pod *p)
{
    return p->agent && p->known;
}

static bool is_fenced(const struct cluster *c, const struct pod *p)
{
    return p->injected && p->producer < (p->shared ? c->owned : c->epoch); /* who owned it hears of a replica, too */
}

static void see(const struct cluster *c, struct protect_world *w, int pod_of[PODS], int image_of[CHECKPOINTS])
{
    memset(w, 0, sizeof *w);
    w->now_ms = c->now;
    w->kind = PROTECT_DEPLOYMENT;
    w->exists = c->exists;
    w->annotated = c->exists && c->annotated;
    w->template_ours = w->template_current = c->template_ours;
    w->record = c->record;
    w->record_deleting = c->record_deleting;
    w->record_finalizer = c->finalizer;
    w->by_annotation = true;
    w->policy_valid = c->valid;
    w->policy_current = true;
    w->switch_services = true;
    w->shared = c->shared;
    w->replicas = c->replicas;
    w->standby = c->shared ? c->standby : 0;
    w->settle_ms = SETTLE_MS;
    w->interval_ms = 2000;
    w->retain = 2;
    memcpy(w->replaced_ms, c->replaced, sizeof w->replaced_ms);
    w->n_services = 1;
    w->services[0].matches = c->exists;
    w->services[0].switched = c->service_switched;
    w->services[0].chooses = c->service_chooses;
    w->services[0].stale = c->service_switched && c->unready_published == has_replicas(c);
    for (int i = 0; i < PODS; i++) {
        const struct pod *p = &c->pods[i];
        if (!p->there || !p->ours) continue; /* the cache has pods of our template only */
        pod_of[w->n_pods] = i;
        w->pods[w->n_pods++] = (struct protect_pod){.injected = p->injected, .ready = p->ready, .terminating = p->terminating, .node_lost = p->lost,
            .agent = p->agent, .active = p->active && is_heard(p), .fenced = is_fenced(c, p) && is_heard(p), .running = p->running, .backing_off = p->backing_off,
            .backoff_ms = p->backing_off ? 40000 : 0, .executed = is_heard(p) ? p->executed : 0,
            .created_ms = p->created, .shared = p->shared, .heard = p->shared && is_heard(p), .sound = is_heard(p) && p->diverged == 0, .role = p->role, .role_failed = p->role_failed > c->now, .counts = is_heard(p) ? p->counts : 0,
            .begins = p->begins, .checkpoint = -1, .unable = p->stuck, .by_image = p->stuck && i % 2 == 0, .unable_ms = p->created, .unknown = p->unknown && is_heard(p),
            .steady_ms = p->steady, .restarted = p->restarted, .template = p->version, .revision = p->version, .silent = p->silent && !p->agent, .diverged = is_heard(p) ? p->diverged : 0, .agreed = p->agreed};
    }
    for (int i = 0; i < CHECKPOINTS; i++) {
        const struct image *m = &c->images[i];
        if (!m->there) continue;
        int pod = -1;
        for (uint32_t k = 0; k < w->n_pods; k++) {
            if (pod_of[k] == m->pod) pod = (int)k;
            if (w->pods[k].begins && c->pods[pod_of[k]].from == i) w->pods[k].checkpoint = (int)w->n_checkpoints;
        }
        image_of[w->n_checkpoints] = i;
        w->checkpoints[w->n_checkpoints++] = (struct protect_checkpoint){.pod = pod, .phase = m->phase, .seen = m->agent, .finalizer = m->finalizer,
            .deleting = m->deleting, .offset = m->offset, .created_ms = m->created, .started_ms = m->created,
            .denied = m->agent == PROTECT_NEW && m->pod >= 0 && c->pods[m->pod].agent,
            .lost = m->pod >= 0 && c->pods[m->pod].there && c->pods[m->pod].lost, .deleting_ms = m->deleting_since, .fits = true, .unusable_ms = m->unusable};
    }
}

/* ---- what an action does --------------------------------------------------------------------------------------- */

static bool other_than(const struct cluster *c, int pod)
{
    for (int i = 0; i < PODS; i++)
        if (i != pod && c->pods[i].there && c->pods[i].injected && !c->pods[i].terminating && !c->pods[i].lost) return true;
    return false;
}

static unsigned valid_images(const struct cluster *c)
{
    unsigned n = 0;
    for (int i = 0; i < CHECKPOINTS; i++) n += c->images[i].there && c->images[i].phase == PROTECT_VALID && !c->images[i].deleting;
    return n;
}

static bool is_among_newest(const struct cluster *c, int image, unsigned keep)
{
    const struct image *one = &c->images[image];
    unsigned newer = 0;
    for (int i = 0; i < CHECKPOINTS; i++) {
        const struct image *m = &c->images[i]; /* of one offset, the one that was begun later */
        newer += m->there && m->phase == PROTECT_VALID && !m->deleting && (m->offset > one->offset || (m->offset == one->offset && m->created > one->created));
    }
    return newer < keep;
}

static void gone_if_free(struct image *m)
{
    if (m->deleting && !m->finalizer) memset(m, 0, sizeof *m);
}

static uint64_t patience(int pod)
{
    return pod % 2 == 0 ? PROTECT_UNABLE_MS : PROTECT_PASSING_MS;
}

static void checkpoint_action(struct cluster *c, enum protect_do what, int i)
{
    struct image *m = &c->images[i];
    bool protects = c->record && !c->record_deleting && c->exists;
    switch (what) {
    case PROTECT_HOLD_CHECKPOINT: m->finalizer = true; break;
    case PROTECT_START_CHECKPOINT:
        for (int k = 0; k < CHECKPOINTS; k++) /* P6 */
            assert_false(k != i && c->images[k].there && c->images[k].phase == PROTECT_RUNNING && c->images[k].agent == PROTECT_RUNNING);
        assert_true(m->finalizer);
        if (c->pods[m->pod].shared) assert_true(c->pods[m->pod].active && is_heard(&c->pods[m->pod]) && c->pods[m->pod].diverged == 0);
        c->pods[m->pod].turns++;
        if (m->agent == PROTECT_NEW) m->agent = PROTECT_RUNNING;
        m->phase = PROTECT_RUNNING;
        m->image = true;
        break;
    case PROTECT_END_CHECKPOINT:
        assert_true(m->agent == PROTECT_VALID || m->agent == PROTECT_FAILED);
        m->phase = m->agent;
        if (c->by_kubelet && chance(c, 30)) m->unusable = 1; /* as if it had been passed over long ago */
        break;
    case PROTECT_FAIL_CHECKPOINT: m->phase = PROTECT_FAILED; break;
    case PROTECT_DISTRUST_CHECKPOINT:
        assert_true(m->phase == PROTECT_VALID && c->pods[m->pod].diverged != 0 && m->offset >= c->pods[m->pod].agreed);
        m->phase = PROTECT_FAILED;
        break;
    case PROTECT_PASS_CHECKPOINT:
    case PROTECT_REFUSE_CHECKPOINT: {
        bool stuck = false, again = false; /* P11 */
        for (int k = 0; k < PODS; k++) {
            const struct pod *p = &c->pods[k];
            if (!is_live(p) || !(p->stuck || p->unknown) || p->from != i) continue;
            stuck = stuck || p->unknown || c->now - p->created >= patience(k);
            again = again || (p->stuck && k % 2 == 0 && m->unusable != 0 && m->unusable < p->created);
        }
        assert_true(stuck && m->phase == PROTECT_VALID && (again || what == PROTECT_PASS_CHECKPOINT));
        if (what == PROTECT_REFUSE_CHECKPOINT) m->phase = PROTECT_FAILED, c->refused++;
        else c->passed++;
        m->unusable = c->now;
        break;
    }
    case PROTECT_DELETE_CHECKPOINT:
        if (protects && m->phase == PROTECT_VALID) assert_false(is_among_newest(c, i, 2)); /* P3 */
        if (!m->deleting) m->deleting_since = c->now;
        m->deleting = true;
        gone_if_free(m);
        break;
    case PROTECT_FORGET_CHECKPOINT: m->image = false; /* fall through */
    case PROTECT_ABANDON_CHECKPOINT:
        assert_true(m->deleting);
        m->finalizer = false;
        gone_if_free(m);
        break;
    default: fail();
    }
}

static void pod_action(struct cluster *c, enum protect_do what, int i)
{
    struct pod *p = &c->pods[i];
    if (what == PROTECT_FENCE) {
        assert_false(p->shared); /* P4 */
        c->owned = ++c->epoch;
    } else if (what == PROTECT_REMOVE_POD) {
        assert_true(p->lost);
        assert_true(p->shared || p->producer < c->epoch || other_than(c, i)); /* P4: fenced, or another one is there and opens a newer epoch */
        memset(p, 0, sizeof *p);
    } else if (!p->injected) { /* replace: it missed the webhook */
        assert_true(c->now - p->created >= PROTECT_MISSED_MS); /* P5 */
        memset(p, 0, sizeof *p);
    } else if (p->stuck && c->now - p->created >= patience(i)) { /* P11; until then it is like any other */
        const struct image *m = &c->images[p->from];
        assert_true(!m->there || m->deleting || m->phase != PROTECT_VALID || m->unusable >= p->created);
        memset(p, 0, sizeof *p);
    } else { /* replace: the time is noted first */
        for (int k = 0; k < CHECKPOINTS && p->diverged != 0 && is_heard(p); k++) { /* P8, as far as anybody says so */
            const struct image *m = &c->images[k];
            if (!m->there || m->pod != i || m->deleting) continue;
            assert_false(m->phase == PROTECT_RUNNING || (m->phase == PROTECT_VALID && m->offset >= p->agreed));
        }
        memmove(&c->replaced[1], &c->replaced[0], sizeof c->replaced - sizeof *c->replaced);
        c->replaced[0] = c->now;
        c->replaced_at[c->n_replaced++ % 256] = c->now;
        if (c->n_replaced > PROTECT_REPLACEMENTS) /* P5 */
            assert_true(c->now - c->replaced_at[(c->n_replaced - 1 - PROTECT_REPLACEMENTS) % 256] >= PROTECT_WINDOW_MS);
        memset(p, 0, sizeof *p);
    }
}

static void new_checkpoint(struct cluster *c, int pod)
{
    for (int i = 0; i < CHECKPOINTS; i++) {
        if (c->images[i].there) continue;
        c->images[i] = (struct image){.there = true, .finalizer = true, .pod = pod, .created = c->now, .offset = c->pods[pod].executed};
        return;
    }
    fail_msg("checkpoints pile up");
}

static bool has_ready(const struct cluster *c)
{
    for (int i = 0; i < PODS; i++)
        if (c->pods[i].there && c->pods[i].injected && c->pods[i].ready) return true;
    return false;
}

/* P9: what a pod is to be told, by the truth: how many there are of its version, those included that are to come when there is no other. */
static uint32_t counted(const struct cluster *c, int pod)
{
    uint32_t n = 0, all = 0;
    for (int i = 0; i < PODS; i++) {
        if (!is_live(&c->pods[i]) || !c->pods[i].shared) continue;
        all++;
        n += c->pods[i].version == c->pods[pod].version;
    }
    if (n == all && n < c->replicas) n = c->replicas;
    return n < 2 ? 0 : n;
}

/* P10: nobody says that it could not answer clients. */
static bool may_serve(const struct cluster *c, const struct pod *p)
{
    bool denied = is_heard(p) && (!p->active || p->diverged != 0 || is_fenced(c, p));
    return is_live(p) && p->shared && p->ready && !p->lost && !p->backing_off && !denied;
}

static bool is_able(const struct cluster *c, const struct pod *p)
{
    return may_serve(c, p) && (p->agent || !p->silent);
}

/* Its agent says so now. */
static bool is_well(const struct cluster *c, const struct pod *p)
{
    return may_serve(c, p) && p->running && is_heard(p);
}

/* There is nobody to ask, and it is ready. */
static bool may_be_well(const struct cluster *c, const struct pod *p)
{
    return may_serve(c, p) && p->running && !p->agent;
}

static uint32_t count(const struct cluster *c, bool (*is)(const struct cluster *c, const struct pod *p), enum protect_role role)
{
    uint32_t n = 0;
    for (int i = 0; i < PODS; i++) n += is(c, &c->pods[i]) && c->pods[i].role == role;
    return n;
}

/* Of those that take clients, so many can, as far as anybody says. */
static uint32_t able(const struct cluster *c)
{
    return count(c, is_able, PROTECT_SERVING);
}

static uint32_t perhaps_able(const struct cluster *c)
{
    return count(c, may_serve, PROTECT_SERVING);
}

static void role_action(struct cluster *c, enum protect_do what, struct pod *p)
{
    assert_true(what == PROTECT_CLEAR_ROLE || (has_standbys(c) && p->shared));
    if (what == PROTECT_CLEAR_ROLE) assert_false(c->service_chooses);
    enum protect_role was = p->role;
    if (what == PROTECT_PROMOTE && was == PROTECT_STANDBY) assert_true(is_well(c, p) || (may_be_well(c, p) && perhaps_able(c) < to_serve(c)));
    p->role = what == PROTECT_PROMOTE ? PROTECT_SERVING : what == PROTECT_DEMOTE ? PROTECT_STANDBY : PROTECT_NO_ROLE;
    for (int i = 0; i < PODS && what == PROTECT_DEMOTE && is_well(c, p); i++) /* who may have died steps back first */
        assert_false(i != p - c->pods && may_serve(c, &c->pods[i]) && !is_well(c, &c->pods[i]) && c->pods[i].role == PROTECT_SERVING);
    if (what == PROTECT_DEMOTE) assert_true((may_serve(c, p) ? count(c, is_well, PROTECT_SERVING) : perhaps_able(c)) >= to_serve(c)); /* who is not known to be well displaces nobody */
}

static void set_service(struct cluster *c, bool on, bool chooses)
{
    assert_true(!on || c->service_switched || has_ready(c)); /* P2 */
    if (chooses && !c->service_chooses) assert_true(has_standbys(c) && able(c) > 0);
    c->service_switched = on;
    c->service_chooses = chooses;
    if (on) c->unready_published = !has_replicas(c);
}

static void act(struct cluster *c, const struct protect_world *w, struct protect_action a, const int *pod_of, const int *image_of)
{
    switch (a.what) {
    case PROTECT_MAKE_RECORD: c->record = c->finalizer = true; break;
    case PROTECT_HOLD_RECORD: c->finalizer = true; break;
    case PROTECT_DELETE_RECORD:
        c->record_deleting = true;
        if (!c->finalizer) c->record = c->record_deleting = false;
        break;
    case PROTECT_RELEASE_RECORD:
        assert_true(c->record_deleting && !c->service_switched);
        assert_true(!c->template_ours || !c->exists || c->annotated); /* P1 */
        for (int i = 0; i < CHECKPOINTS; i++) assert_false(c->images[i].there);
        c->record = c->record_deleting = c->finalizer = false;
        break;
    case PROTECT_SET_TEMPLATE:
        assert_true(c->exists && c->valid && c->finalizer);
        c->template_ours = true;
        break;
    case PROTECT_CLEAR_TEMPLATE:
        assert_false(c->service_switched); /* P2 */
        c->template_ours = false;
        break;
    case PROTECT_SWITCH_SERVICE: set_service(c, true, protect_chooses(w, a.which)); break;
    case PROTECT_RESTORE_SERVICE: set_service(c, false, false); break;
    case PROTECT_PROMOTE:
    case PROTECT_DEMOTE:
    case PROTECT_CLEAR_ROLE: role_action(c, a.what, &c->pods[pod_of[a.which]]); break;
    case PROTECT_NEW_CHECKPOINT: new_checkpoint(c, pod_of[a.which]); break;
    case PROTECT_HOLD_CHECKPOINT:
    case PROTECT_START_CHECKPOINT:
    case PROTECT_END_CHECKPOINT:
    case PROTECT_FAIL_CHECKPOINT:
    case PROTECT_DISTRUST_CHECKPOINT:
    case PROTECT_PASS_CHECKPOINT:
    case PROTECT_REFUSE_CHECKPOINT:
    case PROTECT_DELETE_CHECKPOINT:
    case PROTECT_FORGET_CHECKPOINT:
    case PROTECT_ABANDON_CHECKPOINT: checkpoint_action(c, a.what, image_of[a.which]); break;
    case PROTECT_COUNT_REPLICAS:
        assert_true(c->pods[pod_of[a.which]].shared && is_heard(&c->pods[pod_of[a.which]]));
        c->pods[pod_of[a.which]].counts = counted(c, pod_of[a.which]);
        break;
    case PROTECT_REPLACE_POD:
    case PROTECT_FENCE:
    case PROTECT_REMOVE_POD: pod_action(c, a.what, pod_of[a.which]); break;
    }
}

static bool is_role(enum protect_do what)
{
    return what == PROTECT_PROMOTE || what == PROTECT_DEMOTE;
}

/* More are promoted than are missing only where clients are handed over to those that came with a rollout: and those have been well for a while, and never died. */
static void check_hand_over(const struct cluster *c, const struct protect_plan *plan, const int *pod_of)
{
    uint32_t missing = able(c) < to_serve(c) ? to_serve(c) - able(c) : 0, doubtful = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        const struct pod *p = &c->pods[pod_of[plan->actions[i].which]];
        doubtful += plan->actions[i].what == PROTECT_PROMOTE && p->role == PROTECT_STANDBY && (p->restarted || c->now - p->steady < SETTLE_MS);
    }
    assert_true(doubtful <= missing);
}

static uint32_t steps_back(const struct protect_plan *plan)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n; i++) n += plan->actions[i].what == PROTECT_DEMOTE;
    return n;
}

/* The other lane: one look at the roles and what follows. False: it was disturbed. */
static bool give_roles(struct cluster *c, unsigned trouble)
{
    struct protect_world w;
    struct protect_plan plan;
    int pod_of[PODS], image_of[CHECKPOINTS];
    see(c, &w, pod_of, image_of);
    protect_plan_roles(&w, &plan);
    unsigned demoted = 0;
    check_hand_over(c, &plan, pod_of);
    for (uint32_t i = 0; i < plan.n; i++) {
        assert_true(is_role(plan.actions[i].what));
        struct pod *p = &c->pods[pod_of[plan.actions[i].which]];
        bool promoted = plan.actions[i].what == PROTECT_PROMOTE; /* who is promoted may die before its turn comes: that is seen before anybody steps back */
        assert_true(promoted || i == 0 || plan.actions[i - 1].what == PROTECT_DEMOTE);
        assert_true(!promoted || demoted + steps_back(&plan) == 0 || p->role_failed > c->now);
        demoted += plan.actions[i].what == PROTECT_DEMOTE && may_serve(c, &c->pods[pod_of[plan.actions[i].which]]);
        assert_true(demoted <= 1);
        if (chance(c, trouble)) {
            if (promoted && chance(c, 50)) p->role_failed = c->now + 10000;
            return false;
        }
        act(c, &w, plan.actions[i], pod_of, image_of);
    }
    return true;
}

/* No pod of before a rollout takes clients where one that came with it could; but for those that step back next, as more serve than should. */
static void check_rollout(const struct cluster *c)
{
    const struct pod *newest = NULL;
    bool waits = false;
    uint32_t old = 0, more = able(c) > to_serve(c) ? able(c) - to_serve(c) : 0;
    for (int i = 0; i < PODS; i++) {
        const struct pod *p = &c->pods[i];
        if (is_live(p) && p->shared && !p->lost && (newest == NULL || p->created > newest->created)) newest = p;
    }
    for (int i = 0; i < PODS && newest != NULL; i++) {
        const struct pod *p = &c->pods[i];
        bool dumped = false;
        for (int k = 0; k < CHECKPOINTS; k++) dumped = dumped || (c->images[k].there && c->images[k].pod == i && c->images[k].phase == PROTECT_RUNNING);
        old += is_live(p) && p->shared && !p->lost && p->role == PROTECT_SERVING && p->version != newest->version;
        waits = waits || (is_well(c, p) && c->now - p->steady >= SETTLE_MS && !p->restarted && p->role == PROTECT_STANDBY && p->version == newest->version && !dumped && p->role_failed <= c->now);
    }
    assert_false(old > more && waits);
}

/* One look and what follows, roles given meanwhile at any moment, from another look. Any action may fail before its effect or after it; then the rest is
 * not done: that is a killed operator, too. */
static uint32_t operate(struct cluster *c, unsigned trouble)
{
    struct protect_world w;
    struct protect_plan plan;
    int pod_of[PODS], image_of[CHECKPOINTS];
    see(c, &w, pod_of, image_of);
    protect_plan(&w, &plan);
    for (uint32_t i = 0; i < plan.n; i++) {
        assert_false(is_role(plan.actions[i].what));
        if (chance(c, 20)) give_roles(c, trouble);
        if (chance(c, trouble)) return plan.n;
        act(c, &w, plan.actions[i], pod_of, image_of);
        if (chance(c, trouble)) return plan.n;
    }
    if (!give_roles(c, trouble)) return plan.n;
    bool kept = w.record && !w.record_deleting && w.exists, removed = false;
    for (uint32_t i = 0; i < plan.n; i++) removed = removed || plan.actions[i].what == PROTECT_REPLACE_POD || plan.actions[i].what == PROTECT_REMOVE_POD;
    for (int i = 0; i < PODS && kept && !removed && plan.n < PROTECT_ACTIONS_MAX; i++) /* P9 */
        if (is_live(&c->pods[i]) && c->pods[i].shared && is_heard(&c->pods[i]) && !c->pods[i].lost && !c->pods[i].backing_off && !is_fenced(c, &c->pods[i]) && c->pods[i].diverged == 0 &&
            c->pods[i].counts != counted(c, i))
            fail_msg("pod %d counts %u", i, c->pods[i].counts);
    if (c->record && !c->record_deleting && c->exists && has_standbys(c)) { /* P10 */
        assert_true(able(c) >= to_serve(c) || count(c, is_well, PROTECT_STANDBY) == 0);
        assert_true(perhaps_able(c) >= to_serve(c) || count(c, is_well, PROTECT_STANDBY) + count(c, may_be_well, PROTECT_STANDBY) == 0);
        check_rollout(c);
    }
    return plan.n;
}

/* ---- what happens by itself ----------------------------------------------------------------------------------- */

static void open_stream(struct cluster *c, struct pod *p)
{
    p->producer = ++c->epoch;
    if (!p->shared) c->owned = c->epoch;
}

/* What newest.h chooses, where the log has everything: none after PROTECT_UNUSABLE_MAX, or all, were in vain lately. */
static void choose_beginning(struct cluster *c, struct pod *p)
{
    unsigned lately = 0;
    p->from = -1;
    for (int i = 0; i < CHECKPOINTS; i++) {
        const struct image *m = &c->images[i];
        bool passed = m->unusable != 0 && c->now - m->unusable < PROTECT_WINDOW_MS;
        lately += m->there && passed;
        if (m->there && m->phase == PROTECT_VALID && !m->deleting && !passed && (p->from < 0 || m->offset > c->images[p->from].offset)) p->from = i;
    }
    p->begins = p->from >= 0 && lately < PROTECT_UNUSABLE_MAX;
    p->stuck = p->begins && chance(c, c->stuck_percent);
    if (!p->stuck) p->unknown = chance(c, c->unknown_percent);
    if (!p->begins) p->from = -1;
    if (p->stuck) p->running = false;
}

static void start_pod(struct cluster *c, struct pod *p)
{
    bool missed = c->template_ours && c->service_switched && chance(c, c->missed_percent); /* no operator answered the API server */
    *p = (struct pod){.there = true, .created = c->now, .ours = c->template_ours, .injected = c->template_ours && !missed, .agent = true, .known = true, .running = true};
    p->shared = p->injected && c->shared;
    if (p->shared && has_standbys(c) && chance(c, 80)) p->role = PROTECT_SERVING; /* the webhook's word; its caches may be old */
    p->version = c->version;
    if (p->injected) open_stream(c, p);
    if (c->by_kubelet && p->injected && !p->shared) choose_beginning(c, p);
}

/* Replicas execute everything; of others the one that owns the stream. */
static void execute(struct cluster *c, struct pod *p)
{
    if (!p->injected || is_fenced(c, p) || !chance(c, 50)) return;
    if (!p->shared || chance(c, 50)) c->next_offset++;
    p->executed = c->next_offset;
}

/* The Deployment's controller: so many pods of the present template. Those of another template end. */
static void controllers(struct cluster *c)
{
    int live = 0;
    for (int i = 0; i < PODS; i++) {
        struct pod *p = &c->pods[i];
        if (!p->there) continue;
        if (p->terminating && !p->lost) memset(p, 0, sizeof *p);
        if (!p->there) continue;
        bool old = p->ours && (p->version != c->version || (p->injected && p->shared != c->shared));
        if (!c->exists || p->ours != c->template_ours || (old && chance(c, 50))) p->terminating = true;
        if (!p->terminating && live >= (int)c->replicas + 1) p->terminating = true; /* scaled down; one more is a rollout's */
        live += !p->terminating;
    }
    for (int i = 0; i < PODS && c->exists && live < (int)c->replicas; i++) {
        if (c->pods[i].there) continue;
        start_pod(c, &c->pods[i]);
        live++;
    }
    for (int i = 0; i < PODS; i++) {
        struct pod *p = &c->pods[i];
        if (!p->known && chance(c, 50)) continue;
        p->known = true;
        if (!p->there || p->lost || p->terminating || p->backing_off || p->diverged != 0 || p->stuck || p->unknown) continue;
        if (!p->ready || !p->active) p->steady = c->now;
        p->ready = p->active = p->running = true;
        execute(c, p);
    }
}

static void agents(struct cluster *c)
{
    for (int i = 0; i < CHECKPOINTS; i++) {
        struct image *m = &c->images[i];
        bool jinxed = m->pod >= 0 && c->pods[m->pod].jinxed;
        if (m->there && m->agent == PROTECT_RUNNING && chance(c, 50)) m->agent = chance(c, 80) && !jinxed ? PROTECT_VALID : PROTECT_FAILED;
    }
}

static void disturb(struct cluster *c)
{
    struct pod *p = &c->pods[roll(c) % PODS];
    switch (roll(c) % 17) {
    case 0: c->annotated = !c->annotated; break;
    case 1: c->valid = chance(c, 80); break;
    case 2: if (p->there && !p->stuck) p->backing_off = !p->backing_off, p->running = !p->backing_off, p->active = p->running; break;
    case 3: if (p->there) p->lost = true, p->ready = p->active = p->agent = false; break;
    case 4: if (p->there) p->agent = !p->agent, p->silent = chance(c, 50); break;
    case 5: if (p->there) p->terminating = true; break;
    case 6: if (chance(c, 10)) c->exists = !c->exists; break;
    case 7: if (c->record && chance(c, 20)) c->record_deleting = true; break; /* by hand */
    case 10:
        if (!p->there || !p->shared || p->diverged != 0 || p->executed == 0) break;
        p->diverged = p->executed;
        p->agreed = p->executed - roll(c) % (p->executed < 8 ? p->executed : 8);
        p->ready = p->active = false;
        break;
    case 11: c->version++; break;
    case 16: c->service_switched = false; break; /* somebody applies its ports anew; what is in its selector stays */
    case 12: /* from one pod to replicas, and back */
        c->shared = !c->shared;
        c->replicas = c->shared ? 1 + (uint32_t)(roll(c) % 4) : 1;
        break;
    case 15: /* its app died just now: the kubelet's word comes later than its interceptor's, and its agent forgets its container sooner than that */
        p->active = false;
        p->restarted = true;
        p->known = chance(c, 50);
        p->running = p->known || chance(c, 50);
        break;
    case 14: c->standby = (uint32_t)(roll(c) % 3); break;
    case 8: c->now += roll(c) % 700000; break;
    case 13: if (p->there && p->injected) open_stream(c, p); break; /* its interceptor was started again, and took the stream */
    case 9: {
        struct image *m = &c->images[roll(c) % CHECKPOINTS];
        if (m->there && chance(c, 20) && !m->deleting) m->deleting = true, m->deleting_since = c->now;
        if (m->there) gone_if_free(m);
        break;
    }
    }
}

/* Of now on CRIU fails with some of the standbys, perhaps all of them. */
static void jinx(struct cluster *c)
{
    for (int i = 0; i < PODS; i++) c->pods[i].jinxed = is_live(&c->pods[i]) && c->pods[i].role == PROTECT_STANDBY && chance(c, 30);
}

static void settle(struct cluster *c)
{
    c->missed_percent = 0;
    c->unknown_percent = 0;
    c->stuck_percent = c->stuck_percent > 0 && chance(c, 50) ? 100 : 0; /* also where no restore works at all */
    for (int i = 0; i < PODS; i++) {
        c->pods[i].backing_off = false;
        if (c->pods[i].there && !c->pods[i].lost) c->pods[i].agent = true;
    }
    for (int i = 0; i < 400; i++) {
        c->now += 3000;
        for (int k = 0; k < PODS && i == 230; k++) c->pods[k].turns = 0; /* until then one that had diverged may have waited for its replacement */
        if (i == 230) jinx(c);
        if (!c->service_switched && valid_images(c) == 0) /* where nothing worked yet it stays Pending, until somebody says kubectl rollout restart */
            for (int k = 0; k < PODS; k++)
                if (c->pods[k].there && c->pods[k].ours && !c->pods[k].injected) c->pods[k].terminating = true;
        controllers(c);
        agents(c);
        operate(c, 0);
    }
}

/* So many serve as there should be, the others stand by, and the Service knows it. */
static void check_roles(const struct cluster *c, uint64_t seed)
{
    uint32_t n[3] = {0};
    for (int i = 0; i < PODS; i++)
        if (is_live(&c->pods[i])) n[c->pods[i].role]++;
    uint32_t live = n[0] + n[1] + n[2], serve = live < to_serve(c) ? live : to_serve(c);
    if (c->service_chooses != has_standbys(c)) fail_msg("seed %llu: the Service chooses: %d", (unsigned long long)seed, c->service_chooses);
    if (has_standbys(c) ? n[PROTECT_SERVING] != serve || n[PROTECT_STANDBY] != live - serve : n[PROTECT_NO_ROLE] != live)
        fail_msg("seed %llu: of %u pods %u serve, %u stand by, %u have no role", (unsigned long long)seed, live, n[PROTECT_SERVING], n[PROTECT_STANDBY], n[PROTECT_NO_ROLE]);
}

/* They were dumped in turns: the standbys, where there are some. */
static void check_turns(const struct cluster *c, uint64_t seed)
{
    unsigned most = 0, least = ~0u, n = 0, others = 0;
    bool standbys = false, jinxed = false;
    for (int i = 0; i < PODS; i++) jinxed = jinxed || (is_live(&c->pods[i]) && c->pods[i].jinxed);
    for (int i = 0; i < PODS; i++) standbys = standbys || (is_live(&c->pods[i]) && c->pods[i].role == PROTECT_STANDBY && !c->pods[i].jinxed);
    for (int i = 0; i < PODS; i++) {
        if (!is_live(&c->pods[i]) || !c->pods[i].shared || c->pods[i].jinxed) continue;
        if (standbys && c->pods[i].role == PROTECT_SERVING) {
            others = c->pods[i].turns > others ? c->pods[i].turns : others;
            continue;
        }
        n++;
        most = c->pods[i].turns > most ? c->pods[i].turns : most;
        least = c->pods[i].turns < least ? c->pods[i].turns : least;
    }
    if (n > 1 && (least == 0 || most > 3 * least + 10)) fail_msg("seed %llu: %u replicas, from %u to %u turns", (unsigned long long)seed, n, least, most);
    if (others > most / (jinxed ? 2 : 4) + 3) fail_msg("seed %llu: one that serves was dumped %u times, a standby %u times", (unsigned long long)seed, others, most); /* patience ended, or it failed three times */
}

/* P6: whoever fails, somebody is dumped in a while. 100 intervals: a fifth of all of them fails, and pauses grow. */
static void check_fresh(const struct cluster *c, uint64_t seed)
{
    uint64_t newest = 0;
    for (int i = 0; i < CHECKPOINTS; i++)
        if (c->images[i].there && c->images[i].phase == PROTECT_VALID && c->images[i].created > newest) newest = c->images[i].created;
    if (c->now - newest > 200000) fail_msg("seed %llu: the newest checkpoint is %llu ms old", (unsigned long long)seed, (unsigned long long)(c->now - newest));
}

static void check_rest(struct cluster *c, uint64_t seed)
{
    bool on = c->exists && c->annotated;
    if (on != c->record) fail_msg("seed %llu: annotated %d, record %d", (unsigned long long)seed, on, c->record);
    if (on && c->valid) {
        assert_true(c->template_ours && c->service_switched && c->finalizer);
        assert_true(c->unready_published != c->shared);
        check_turns(c, seed);
        check_fresh(c, seed);
        check_roles(c, seed);
        if (valid_images(c) < 1 || valid_images(c) > 3) fail_msg("seed %llu: %u valid checkpoints", (unsigned long long)seed, valid_images(c));
    }
    if (!on) { /* P1 */
        assert_false(c->service_switched || c->service_chooses);
        for (int i = 0; i < PODS; i++) assert_false(is_live(&c->pods[i]) && c->pods[i].role != PROTECT_NO_ROLE);
        assert_true(!c->exists || !c->template_ours);
        for (int i = 0; i < CHECKPOINTS; i++) assert_false(c->images[i].there);
    }
    bool injected = false;
    for (int i = 0; i < PODS; i++) {
        if (on && c->valid && c->pods[i].there && is_fenced(c, &c->pods[i])) fail_msg("seed %llu: a pod that stays is fenced", (unsigned long long)seed); /* P7 */
        assert_false(c->pods[i].there && c->pods[i].injected && c->pods[i].lost && on);
        assert_false(is_live(&c->pods[i]) && c->pods[i].diverged != 0 && on); /* rebuilt */
        assert_false(is_live(&c->pods[i]) && (c->pods[i].stuck || c->pods[i].unknown) && on); /* P11 */
        injected = injected || (c->pods[i].there && c->pods[i].injected && !c->pods[i].lost);
    }
    if (on && c->valid && !injected) fail_msg("seed %llu: no pod has an interceptor", (unsigned long long)seed);
}

static void test_random_clusters(void **state)
{
    uint64_t first = 1, rests[2] = {0, 0}, refused = 0, passed = 0;
    (void)state;
    if (getenv("CRSC_SEED") != NULL) first = strtoull(getenv("CRSC_SEED"), NULL, 10);
    for (uint64_t seed = first; seed < first + SEEDS; seed++) {
        struct cluster c = {.random = seed, .now = 1000000, .exists = true, .annotated = true, .valid = true, .missed_percent = 20, .replicas = 1};
        if (seed % 2 == 0) {
            c.shared = true;
            c.replicas = 1 + (uint32_t)(roll(&c) % 4);
            c.standby = (uint32_t)(roll(&c) % 3);
        }
        c.by_kubelet = seed % 3 == 0;
        c.stuck_percent = c.by_kubelet ? 70 : 0;
        c.unknown_percent = c.by_kubelet ? 5 : 0;
        for (int i = 0; i < STEPS; i++) {
            c.now += roll(&c) % 2000;
            controllers(&c);
            agents(&c);
            if (chance(&c, 25)) disturb(&c);
            operate(&c, 15);
        }
        settle(&c);
        check_rest(&c, seed);
        refused += c.refused;
        passed += c.passed;
        rests[c.exists && c.annotated && c.valid]++;
    }
    assert_true(rests[0] > SEEDS / 10 && rests[1] > SEEDS / 10); /* both ends were seen */
    if (passed < SEEDS / 20 || refused < SEEDS / 100) fail_msg("only %llu were passed over, and %llu refused", (unsigned long long)passed, (unsigned long long)refused);
}

/* ---- single decisions ----------------------------------------------------------------------------------------- */

static struct protect_world calm(void)
{
    struct protect_world w = {.now_ms = 1000000, .exists = true, .annotated = true, .template_ours = true, .template_current = true, .record = true,
                              .record_finalizer = true, .by_annotation = true, .policy_valid = true, .policy_current = true, .interval_ms = 30000,
                              .retain = 3, .n_pods = 1};
    w.pods[0] = (struct protect_pod){.injected = true, .ready = true, .agent = true, .active = true, .running = true, .executed = 10};
    return w;
}

static bool plans(const struct protect_world *w, enum protect_do what)
{
    struct protect_plan p;
    protect_plan(w, &p);
    if (is_role(what)) protect_plan_roles(w, &p);
    for (uint32_t i = 0; i < p.n; i++)
        if (p.actions[i].what == what) return true;
    return false;
}

/* backend: kubelet. */
static void test_kubelet(void **state)
{
    struct protect_world w = calm();
    struct protect_plan p;
    (void)state;
    w.n_checkpoints = 2;
    w.checkpoints[0] = (struct protect_checkpoint){.phase = PROTECT_VALID, .finalizer = true, .offset = 10, .created_ms = 990000, .fits = true, .in_use = true};
    w.checkpoints[1] = (struct protect_checkpoint){.phase = PROTECT_VALID, .finalizer = true, .offset = 100000, .created_ms = 995000, .fits = true};
    /* it cannot begin with its checkpoint, for a while: that is passed over, then it is replaced, however many were lately */
    w.pods[0] = (struct protect_pod){.injected = true, .agent = true, .begins = true, .unable = true, .by_image = true, .checkpoint = 1, .created_ms = 970000, .unable_ms = 1000001 - PROTECT_UNABLE_MS};
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) w.replaced_ms[i] = 999000;
    assert_false(plans(&w, PROTECT_REPLACE_POD) || plans(&w, PROTECT_PASS_CHECKPOINT)); /* it may pass */
    w.pods[0].unable_ms--;
    protect_plan(&w, &p);
    assert_true(p.n >= 2 && p.actions[0].what == PROTECT_PASS_CHECKPOINT && p.actions[0].which == 1 && p.actions[1].what == PROTECT_REPLACE_POD);
    w.checkpoints[1].unusable_ms = 999000; /* noted, and not replaced yet */
    protect_plan(&w, &p);
    assert_true(p.n >= 1 && p.actions[0].what == PROTECT_REPLACE_POD && !plans(&w, PROTECT_REFUSE_CHECKPOINT));
    w.checkpoints[1].unusable_ms = 300000; /* it was so with a pod before: it is the checkpoint */
    protect_plan(&w, &p);
    assert_true(p.n >= 2 && p.actions[0].what == PROTECT_REFUSE_CHECKPOINT && p.actions[0].which == 1 && p.actions[1].what == PROTECT_REPLACE_POD);
    w.pods[0].by_image = false; /* or the registry, again */
    w.pods[0].unable_ms = 1000001 - PROTECT_PASSING_MS;
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].unable_ms--;
    assert_true(plans(&w, PROTECT_REPLACE_POD) && plans(&w, PROTECT_PASS_CHECKPOINT) && !plans(&w, PROTECT_REFUSE_CHECKPOINT));
    w.pods[0].active = true; /* of the container before: it runs */
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    /* nobody knows what it began with, with or without a checkpoint: as if it had died */
    w.pods[0] = (struct protect_pod){.injected = true, .agent = true, .running = true, .unknown = true, .checkpoint = -1, .created_ms = 999000};
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    memset(w.replaced_ms, 0, sizeof w.replaced_ms);
    assert_true(plans(&w, PROTECT_REPLACE_POD) && !plans(&w, PROTECT_PASS_CHECKPOINT));
    w.pods[0].begins = true;
    w.pods[0].checkpoint = 1;
    assert_true(plans(&w, PROTECT_REPLACE_POD) && plans(&w, PROTECT_PASS_CHECKPOINT));
    w.checkpoints[1].unusable_ms = 0;
    memset(w.replaced_ms, 0, sizeof w.replaced_ms);
    /* it began again where its pod did: far behind, a new pod is quicker */
    w.pods[0] = (struct protect_pod){.injected = true, .agent = true, .running = true, .begins = true, .checkpoint = 0, .rewinds = true, .executed = 20};
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    assert_false(plans(&w, PROTECT_REFUSE_CHECKPOINT));
    w.pods[0].executed = 70000;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* soon there by itself */
    w.pods[0].gap = w.pods[0].told = true; /* or never: the log has that no more */
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].gap = false;
    w.pods[0].executed = 0; /* it has not begun to replay: what it began with is known */
    w.pods[0].began = 70000;
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].began = 0;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].told = false;
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].executed = 20;
    w.pods[0].active = true;
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].active = false;
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) w.replaced_ms[i] = 999000;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* that is a death like any other */
}

static void test_schedule(void **state)
{
    struct protect_world w = calm();
    struct protect_plan p;
    (void)state;
    assert_true(plans(&w, PROTECT_NEW_CHECKPOINT)); /* the first one at once */
    w.n_checkpoints = 1;
    w.checkpoints[0] = (struct protect_checkpoint){.phase = PROTECT_VALID, .finalizer = true, .offset = 10, .created_ms = 1000000 - 31000, .fits = true};
    assert_false(plans(&w, PROTECT_NEW_CHECKPOINT)); /* nothing happened since */
    w.pods[0].executed = 11;
    assert_true(plans(&w, PROTECT_NEW_CHECKPOINT));
    w.checkpoints[0].created_ms = 1000000 - 29000;
    assert_false(plans(&w, PROTECT_NEW_CHECKPOINT));
    protect_plan(&w, &p);
    assert_int_equal(p.look_ms, 1001000); /* when it is due */
    w.objective_ms = 1000; /* 0.7 s of restore and 1 s of replay are too much */
    w.pods[0].executed = 10 + 10000;
    assert_true(plans(&w, PROTECT_NEW_CHECKPOINT));
    w.checkpoints[0].phase = PROTECT_RUNNING;
    assert_false(plans(&w, PROTECT_NEW_CHECKPOINT));
    w.checkpoints[0].phase = PROTECT_FAILED; /* pauses grow: 60 s after one failure */
    w.objective_ms = 0;
    w.checkpoints[0].created_ms = 1000000 - 31000;
    assert_false(plans(&w, PROTECT_NEW_CHECKPOINT));
}

/* An agent that was started again does not know what it was taking: the next checkpoint need not wait until nobody can know anything. */
static void test_forgotten(void **state)
{
    struct protect_world w = calm();
    (void)state;
    w.n_checkpoints = 1;
    w.checkpoints[0] = (struct protect_checkpoint){.phase = PROTECT_RUNNING, .finalizer = true, .created_ms = 1000000 - 60000, .started_ms = 1000000 - 9000};
    assert_false(plans(&w, PROTECT_FAIL_CHECKPOINT)); /* the agent does not answer */
    w.checkpoints[0].lost = true;
    assert_true(plans(&w, PROTECT_FAIL_CHECKPOINT)); /* nor will it: checkpoints of the pod that replaces it need not wait */
    w.checkpoints[0].lost = false;
    w.checkpoints[0].denied = true;
    assert_false(plans(&w, PROTECT_FAIL_CHECKPOINT)); /* what it said may be older than the question */
    w.checkpoints[0].started_ms = 1000000 - 11000;
    assert_true(plans(&w, PROTECT_FAIL_CHECKPOINT));
}

static void test_backoff(void **state)
{
    struct protect_world w = calm();
    (void)state;
    w.pods[0].backing_off = true;
    w.pods[0].running = w.pods[0].active = false;
    w.pods[0].backoff_ms = PROTECT_REPLACE_COST_MS;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* the kubelet is as fast */
    w.pods[0].backoff_ms++;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.kind = PROTECT_POD;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* nobody would make it again */
}

/* The one that was replaced took the stream once more, and went: its successor cannot take it back. */
static void test_fenced(void **state)
{
    struct protect_world w = calm();
    (void)state;
    w.pods[0].fenced = true;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.n_pods = 2;
    w.pods[1] = calm().pods[0];
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* that one has it: a rollout */
    w.pods[1].terminating = true;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.pods[1].terminating = false;
    w.pods[1].stream = 1;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].terminating = true;
    assert_false(plans(&w, PROTECT_REPLACE_POD));
}

/* A pod that was made while no operator answered is made again, unless that would change nothing. */
static void test_missed(void **state)
{
    struct protect_world w = calm();
    struct protect_plan p;
    (void)state;
    w.pods[0].injected = false;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* none ever had one: is the webhook asked at all? */
    w.redirects = true;
    assert_true(plans(&w, PROTECT_REPLACE_POD)); /* at its gate, it runs for nobody */
    w.redirects = false;
    w.n_services = 1;
    w.services[0].matches = w.services[0].switched = w.switch_services = true;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.leads_ms = w.now_ms - PROTECT_MISSED_MS + 1;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* the API server may not know our webhook yet */
    protect_plan(&w, &p);
    assert_int_equal(p.look_ms, w.now_ms + 1);
    w.leads_ms = 0;
    w.pods[0].created_ms = w.now_ms - PROTECT_MISSED_MS + 1;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* it was made just now: so would be the next one */
    w.pods[0].created_ms--;
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.pods[0].node_lost = true;
    assert_true(plans(&w, PROTECT_REMOVE_POD) && !plans(&w, PROTECT_FENCE)); /* it has appended nothing */
    w.pods[0].node_lost = false;
    w.pods[0].refused = true;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* it was asked, and could not */
    w.pods[0].refused = false;
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) w.replaced_ms[i] = w.now_ms - 1000;
    assert_true(plans(&w, PROTECT_REPLACE_POD)); /* others died: that does not matter here */
    w.template_current = false;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* a rollout comes anyway */
}

static void test_wrong_policy_keeps(void **state)
{
    struct protect_world w = calm();
    struct protect_plan p;
    (void)state;
    w.policy_valid = false;
    w.n_services = 1;
    w.services[0].matches = w.services[0].switched = true;
    w.switch_services = true;
    protect_plan(&w, &p);
    assert_int_equal(p.state, PROTECT_INVALID);
    assert_false(plans(&w, PROTECT_RESTORE_SERVICE));
    assert_false(plans(&w, PROTECT_CLEAR_TEMPLATE));
    assert_true(plans(&w, PROTECT_NEW_CHECKPOINT));
}

/* From Services that are switched to pods that redirect: nobody may reach an app past its interceptor meanwhile. */
static void test_redirects(void **state)
{
    struct protect_world w = calm();
    (void)state;
    w.n_services = 1;
    w.services[0].matches = w.services[0].switched = true;
    w.redirects = true;
    w.template_current = false;
    assert_false(plans(&w, PROTECT_RESTORE_SERVICE)); /* the rollout is still to come */
    w.template_current = true;
    assert_false(plans(&w, PROTECT_RESTORE_SERVICE)); /* the old pod */
    w.n_pods = 2;
    w.pods[1] = w.pods[0];
    w.pods[1].redirected = true;
    assert_false(plans(&w, PROTECT_RESTORE_SERVICE));
    w.pods[0].terminating = true;
    assert_true(plans(&w, PROTECT_RESTORE_SERVICE));
    w.services[0].switched = false;
    assert_false(plans(&w, PROTECT_SWITCH_SERVICE)); /* and it stays so */
    w.redirects = false;
    w.switch_services = true;
    assert_true(plans(&w, PROTECT_SWITCH_SERVICE)); /* the way back: any pod with an interceptor has its port */
    w.services[0].switched = true;
    w.redirects = true;
    w.switch_services = false;
    w.template_current = false;
    w.record_deleting = true;
    assert_true(plans(&w, PROTECT_RESTORE_SERVICE)); /* the end of protection does not wait */
}

static int taken_of(const struct protect_world *w)
{
    struct protect_plan p;
    protect_plan(w, &p);
    for (uint32_t i = 0; i < p.n; i++)
        if (p.actions[i].what == PROTECT_NEW_CHECKPOINT) return (int)p.actions[i].which;
    return -1;
}

/* Whose turn it is, who is no way back, who judges whom. */
static void test_replicas(void **state)
{
    struct protect_world w = calm();
    struct protect_plan p;
    (void)state;
    w.shared = true;
    w.replicas = w.n_pods = 3;
    w.pods[0].shared = w.pods[0].heard = w.pods[0].sound = true;
    w.pods[0].counts = 3;
    w.pods[0].created_ms = 1000;
    w.pods[1] = w.pods[2] = w.pods[0];
    assert_int_equal(taken_of(&w), 0);
    w.n_checkpoints = 1;
    w.checkpoints[0] = (struct protect_checkpoint){.pod = 0, .phase = PROTECT_VALID, .finalizer = true, .offset = 10, .created_ms = 1000000 - 31000, .fits = true};
    assert_int_equal(taken_of(&w), -1); /* nothing happened since, in any of them */
    w.pods[1].executed = w.pods[2].executed = 11;
    assert_int_equal(taken_of(&w), 1);
    w.pods[1].sound = false;
    assert_int_equal(taken_of(&w), 2);
    w.pods[2].active = false; /* it catches up */
    assert_int_equal(taken_of(&w), -1);
    w.pods[0].executed = 12; /* its dump would leave nobody who serves: not yet */
    w.pods[2].agent = false;
    assert_int_equal(taken_of(&w), -1);
    w.checkpoints[0].created_ms = 1000000 - 30000 * 12;
    assert_int_equal(taken_of(&w), 0); /* but better that than none for ever */
    w.pods[2].active = w.pods[2].agent = w.pods[1].sound = true;

    w.n_pods = 4; /* two that are kept tell of two turns: the others go on in the round, so that nobody is left out for ever */
    w.pods[3] = w.pods[0];
    w.n_checkpoints = 2;
    w.checkpoints[0] = w.checkpoints[1] = (struct protect_checkpoint){.pod = 1, .phase = PROTECT_VALID, .finalizer = true, .offset = 8, .created_ms = 1000000 - 90000, .fits = true};
    w.checkpoints[1].pod = 2;
    w.checkpoints[1].offset = 9;
    w.checkpoints[1].created_ms = 1000000 - 60000;
    assert_int_equal(taken_of(&w), 3);
    w.n_pods = 3;
    w.n_checkpoints = 1;
    w.checkpoints[0].pod = 0;

    w.checkpoints[0].created_ms = 1000000 - 1000;
    assert_false(plans(&w, PROTECT_COUNT_REPLICAS));
    w.pods[2].counts = 0; /* a new interceptor */
    assert_true(plans(&w, PROTECT_COUNT_REPLICAS) && protect_replicas(&w, 2) == 3);
    w.pods[2].template = 1; /* a rollout: each is compared with those of its own template */
    assert_int_equal(protect_replicas(&w, 0), 2);
    assert_int_equal(protect_replicas(&w, 2), 0);
    w.pods[2].template = 0;
    w.replicas = 5; /* scaled up: the others are still to come */
    assert_int_equal(protect_replicas(&w, 0), 5);
    w.replicas = 1; /* scaled down: the others are still to go */
    assert_int_equal(protect_replicas(&w, 0), 3);
    w.n_pods = 1;
    assert_int_equal(protect_replicas(&w, 0), 0); /* alone */
    w.replicas = w.n_pods = 3;
    w.pods[2].counts = 3;

    w.pods[1].node_lost = true;
    assert_true(plans(&w, PROTECT_REMOVE_POD) && !plans(&w, PROTECT_FENCE));
    w.pods[0].terminating = w.pods[2].terminating = true;
    assert_true(plans(&w, PROTECT_REMOVE_POD) && !plans(&w, PROTECT_FENCE)); /* the others may be new ones by now */
    w.pods[1].node_lost = w.pods[0].terminating = w.pods[2].terminating = false;

    w.pods[0].fenced = true; /* somebody owned the stream meanwhile: its siblings answer, and it never will */
    assert_true(plans(&w, PROTECT_REPLACE_POD));
    w.shared = false; /* a rollout to one pod that owns it */
    assert_false(plans(&w, PROTECT_REPLACE_POD));
    w.shared = true;
    w.pods[0].fenced = false;

    w.pods[0].diverged = 12;
    w.pods[0].agreed = 11;
    w.pods[0].active = w.pods[0].sound = false;
    assert_true(plans(&w, PROTECT_REPLACE_POD) && !plans(&w, PROTECT_DISTRUST_CHECKPOINT)); /* that of 10 was before its last agreement */
    w.checkpoints[0].offset = 11;
    protect_plan(&w, &p);
    assert_int_equal(p.actions[0].what, PROTECT_DISTRUST_CHECKPOINT);
    assert_int_equal(p.actions[1].what, PROTECT_REPLACE_POD);
    w.checkpoints[0].phase = PROTECT_RUNNING;
    assert_false(plans(&w, PROTECT_REPLACE_POD)); /* it may become valid yet */
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) w.replaced_ms[i] = w.now_ms - 1000;
    w.checkpoints[0].phase = PROTECT_VALID;
    assert_true(plans(&w, PROTECT_DISTRUST_CHECKPOINT) && !plans(&w, PROTECT_REPLACE_POD));
    protect_plan(&w, &p);
    assert_int_equal(p.state, PROTECT_CRASH_LOOP); /* an app that is not deterministic */
}

/* The first action of the plan is this. */
static bool begins_with(const struct protect_world *w, enum protect_do what, uint32_t which)
{
    struct protect_plan p;
    protect_plan_roles(w, &p);
    return p.n > 0 && p.actions[0].what == what && p.actions[0].which == which;
}

/* Who takes clients, who is dumped, and when the Service may know of it. */
static void test_standbys(void **state)
{
    struct protect_world w = calm();
    (void)state;
    w.shared = w.switch_services = true;
    w.replicas = w.n_pods = 2;
    w.standby = w.n_services = 1;
    w.services[0].matches = w.services[0].switched = true;
    w.pods[0].shared = w.pods[0].heard = w.pods[0].sound = true;
    w.pods[0].counts = 2;
    w.pods[0].created_ms = 990000;
    w.pods[1] = w.pods[0];
    assert_true(plans(&w, PROTECT_PROMOTE) && !plans(&w, PROTECT_DEMOTE)); /* one of them each; who steps back is looked at when the other one serves */
    w.pods[0].role = PROTECT_SERVING;
    assert_true(begins_with(&w, PROTECT_DEMOTE, 1));
    w.pods[0].role = PROTECT_NO_ROLE;
    assert_false(plans(&w, PROTECT_SWITCH_SERVICE));                      /* it would lead to nobody */
    w.pods[0].role = PROTECT_SERVING;
    w.pods[1].role = PROTECT_STANDBY;
    assert_true(plans(&w, PROTECT_SWITCH_SERVICE));
    w.services[0].chooses = true;
    assert_false(plans(&w, PROTECT_SWITCH_SERVICE) || plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    assert_int_equal(taken_of(&w), 1); /* the standby, though the other one comes first */
    w.pods[1].executed = 0;
    assert_int_equal(taken_of(&w), -1); /* it can be waited for */
    w.pods[1].executed = 10;
    for (int i = 0; i < 3; i++)
        w.checkpoints[i] = (struct protect_checkpoint){.pod = 1, .phase = PROTECT_FAILED, .finalizer = true, .created_ms = w.now_ms - 9 * w.interval_ms};
    w.n_checkpoints = 2;
    assert_int_equal(taken_of(&w), 1); /* twice says little */
    w.n_checkpoints = 3;
    assert_int_equal(taken_of(&w), 0); /* though nobody else serves: better that than none */
    for (int i = 0; i < 3; i++) w.checkpoints[i].created_ms = w.now_ms - 11 * w.interval_ms;
    assert_int_equal(taken_of(&w), 0);
    w.n_checkpoints = 4;
    w.checkpoints[3] = (struct protect_checkpoint){.pod = 0, .phase = PROTECT_VALID, .finalizer = true, .created_ms = w.now_ms - 10 * w.interval_ms, .fits = true};
    assert_int_equal(taken_of(&w), 1); /* it may have become well */
    w.pods[0].agent = false;
    w.n_checkpoints = 3;
    assert_int_equal(taken_of(&w), 1); /* there is nobody else */
    w.pods[0].agent = true;
    w.n_checkpoints = 0;

    w.pods[0].terminating = true;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].terminating = false;
    w.pods[0].active = false; /* its app is gone, says its agent */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1) && !plans(&w, PROTECT_DEMOTE));
    w.pods[1].heard = false; /* its agent does not know it: its container may have ended just now */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[1].agent = false; /* nobody can be asked */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[1].running = false;
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[1].agent = w.pods[1].heard = true;
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE)); /* nor while its container does not run, says the API server */
    w.pods[1].running = true;
    w.pods[0].heard = false; /* nobody says so: it is ready */
    assert_false(plans(&w, PROTECT_PROMOTE));
    w.pods[1].role = PROTECT_SERVING; /* promoted meanwhile: of two, the one of which nothing is known */
    assert_true(begins_with(&w, PROTECT_DEMOTE, 0));
    w.pods[0].created_ms += 1000;
    assert_true(begins_with(&w, PROTECT_DEMOTE, 0));
    w.pods[1].heard = false; /* of neither: one too many does no harm */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[1].agent = w.pods[0].agent = false;
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[1].heard = w.pods[1].agent = w.pods[0].agent = true;
    w.pods[0].created_ms -= 1000;
    w.pods[1].role = PROTECT_STANDBY;
    w.pods[0].ready = false;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].ready = true;
    assert_false(plans(&w, PROTECT_PROMOTE));
    w.pods[0].silent = true; /* its node may be gone: a promotion too many does no harm */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1) && !plans(&w, PROTECT_DEMOTE));
    w.pods[1].silent = true; /* nobody answers us: that is rather our own fault */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[0].ready = false; /* but who is certainly gone is replaced by one that is ready, whether or not its agent answers (those are replaced one after the other, too) */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].silent = false;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].terminating = w.pods[0].ready = true;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].terminating = false;
    w.pods[0].node_lost = true;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].node_lost = w.pods[0].active = false;
    w.pods[0].heard = true; /* says its agent, which answers */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[0].active = true;
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[0].heard = w.pods[1].silent = w.pods[0].ready = false;
    w.pods[1].ready = false; /* nobody can: then it is better to wait for whoever is first */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[1].ready = true;
    w.pods[1].role = PROTECT_SERVING; /* promoted; the one that was lost, or another one that is born serving, is the standby */
    assert_true(begins_with(&w, PROTECT_DEMOTE, 0));
    w.pods[0].role = PROTECT_STANDBY;
    w.n_pods = 1;
    w.pods[0] = w.pods[1];
    w.pods[0].role = PROTECT_STANDBY; /* alone */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 0));

    w.n_pods = 3; /* a rollout: the new pod is there, and is a standby until it can serve */
    w.replicas = 2;
    w.pods[0].role = PROTECT_SERVING;
    w.pods[0].heard = w.pods[0].active = w.pods[0].ready = true;
    w.pods[1] = w.pods[2] = w.pods[0];
    w.pods[1].role = PROTECT_STANDBY;
    w.pods[2].revision = 2;
    w.pods[2].created_ms++;
    w.pods[2].ready = false;
    assert_true(begins_with(&w, PROTECT_DEMOTE, 2));
    w.pods[2].role = PROTECT_STANDBY;
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[2].ready = true;
    w.pods[2].heard = false; /* it was ready, and may have died */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[2].heard = true;
    w.settle_ms = 5000;
    w.pods[2].steady_ms = w.now_ms - 4999; /* and may die at the first request that it gets */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    struct protect_plan p;
    protect_plan_roles(&w, &p);
    assert_int_equal(p.look_ms, w.now_ms + 1);
    w.pods[2].steady_ms--;
    w.pods[2].restarted = true; /* as it did already */
    assert_false(plans(&w, PROTECT_PROMOTE) || plans(&w, PROTECT_DEMOTE));
    w.pods[0].terminating = w.pods[1].terminating = true; /* but there is no other one */
    assert_true(begins_with(&w, PROTECT_PROMOTE, 2));
    w.pods[0].terminating = w.pods[1].terminating = w.pods[2].restarted = false;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 2) && !plans(&w, PROTECT_DEMOTE));
    w.pods[2].role = PROTECT_SERVING; /* then the old one goes, also where the new one was there before it: a rollout back */
    assert_true(begins_with(&w, PROTECT_DEMOTE, 0) && !plans(&w, PROTECT_PROMOTE));
    w.pods[2].created_ms -= 1000;
    w.n_pods = 4;
    w.pods[3] = w.pods[2];
    w.pods[3].created_ms += 2000;
    w.pods[3].role = PROTECT_STANDBY;
    assert_true(begins_with(&w, PROTECT_DEMOTE, 0) && !plans(&w, PROTECT_PROMOTE));
    w.pods[3].ready = false;
    w.pods[2].steady_ms = w.now_ms; /* born serving while there was no operator, and ready just now: that one goes */
    assert_true(begins_with(&w, PROTECT_DEMOTE, 2));
    w.pods[2].steady_ms = 0;
    w.pods[2].restarted = true;
    assert_true(begins_with(&w, PROTECT_DEMOTE, 2));

    /* two serve, a third one is too many, and the one that is to take over cannot be promoted */
    w.replicas = 3;
    for (int i = 0; i < 4; i++) w.pods[i] = w.pods[0];
    for (int i = 0; i < 4; i++) w.pods[i].created_ms += (uint64_t)i;
    w.pods[3].revision = 2;
    w.pods[3].role = PROTECT_STANDBY;
    assert_true(plans(&w, PROTECT_PROMOTE) && !plans(&w, PROTECT_DEMOTE));
    w.pods[3].role_failed = true;
    assert_true(plans(&w, PROTECT_DEMOTE));
    w.pods[1].role = PROTECT_STANDBY;
    w.pods[2].ready = false; /* one of two is lost, and of two that could serve instead the better one is promoted; but not where that failed just now */
    w.pods[3].steady_ms = w.now_ms - 6000;
    w.pods[3].role_failed = false;
    w.pods[3].executed = w.pods[1].executed + 1;
    w.pods[3].revision = w.pods[0].revision;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 3));
    w.pods[3].steady_ms = w.now_ms - 4000;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 1));
    w.pods[1].role_failed = true;
    assert_true(begins_with(&w, PROTECT_PROMOTE, 3));
    w.pods[3].role_failed = true; /* again and again, but nobody steps back for that */
    assert_true(plans(&w, PROTECT_PROMOTE) && !plans(&w, PROTECT_DEMOTE));
    w.n_pods = 1;
    w.replicas = 2;
    w.pods[0].role_failed = false;

    w.standby = 0;
    assert_true(plans(&w, PROTECT_SWITCH_SERVICE) && !plans(&w, PROTECT_CLEAR_ROLE)); /* the Service leads to all first */
    w.services[0].chooses = false;
    assert_true(plans(&w, PROTECT_CLEAR_ROLE));
    w.standby = 1;
    w.record_deleting = true;
    assert_true(plans(&w, PROTECT_CLEAR_ROLE) && plans(&w, PROTECT_RESTORE_SERVICE));
    w.services[0].chooses = true;
    assert_true(!plans(&w, PROTECT_CLEAR_ROLE) && plans(&w, PROTECT_RESTORE_SERVICE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kubelet), cmocka_unit_test(test_schedule), cmocka_unit_test(test_forgotten), cmocka_unit_test(test_backoff),
                                       cmocka_unit_test(test_fenced), cmocka_unit_test(test_missed), cmocka_unit_test(test_wrong_policy_keeps), cmocka_unit_test(test_redirects),
                                       cmocka_unit_test(test_replicas), cmocka_unit_test(test_standbys),
                                       cmocka_unit_test(test_random_clusters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
