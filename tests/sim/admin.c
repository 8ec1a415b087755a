#include "tests/sim/admin.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "client/crsc.h"
#include "logctl/progress.h"
#include "logctl/verbs.h"
#include "tests/sim/check.h"
#include "tests/sim/cluster.h"
#include "tests/sim/founders.h"
#include "tests/sim/net.h"
#include "tests/sim/workload.h"

enum { QUEUE = 64, STEPS = 6, RETRY_MS = 400, PATIENCE_MS = 8000 };

enum step_kind { LOOK, EMPTY, FRESH, ADD, PROMOTE, REMOVE, TRANSFER, BACKUP, RESTORE, AUDIT };
static const char *const step_names[] = {"look", "empty", "fresh", "add", "promote", "remove", "transfer", "backup", "restore", "audit"};

struct step {
    enum step_kind kind;
    unsigned machine;
};

static struct {
    struct process process, backup;
    uv_loop_t loop;
    uv_timer_t timer;
    struct crsc_client *crsc;
    struct { enum admin_job job; unsigned n; } queue[QUEUE];
    unsigned n_queue;
    struct step steps[STEPS];
    unsigned n_steps, at;
    bool busy, calm, known, looked; /* looked: after the calm, and nothing was to be done */
    bool members[CLUSTER_MAX + 1], voters[CLUSTER_MAX + 1], met;
    unsigned n_voters;
    struct check_mark mark;
    unsigned n_backups;
    char path[64];
} x;
uint64_t admin_counts[8];

/* ---- what is known -------------------------------------------------------------------------------------------- */

bool admin_is_member(unsigned machine)
{
    return x.members[machine];
}

static bool is_broken(unsigned i)
{
    const struct server *s = cluster_server(i);
    return x.members[i] && (s->out || s->wiped);
}

static bool is_whole(void)
{
    for (unsigned i = 1; i <= cluster_size(); i++)
        if (cluster_server(i)->damaged || cluster_server(i)->loses_disk || is_broken(i)) return false;
    return true;
}

bool admin_may_empty(unsigned machine)
{
    unsigned voters = x.known ? x.n_voters : cluster_shape()->first, whole = 0;
    for (unsigned i = 0; i < x.n_steps; i++)
        if (x.steps[i].kind != LOOK && x.steps[i].machine != machine) return false;
    for (unsigned i = 1; i <= cluster_size(); i++) {
        const struct server *s = cluster_server(i);
        whole += i != machine && (x.known ? x.voters[i] : !s->spare) && !s->wiped && !s->damaged && !s->loses_disk;
    }
    return 2 * whole > voters;
}

bool admin_may_damage(void)
{
    return x.known && x.n_steps == 0 && x.n_voters >= 3 && is_whole();
}

/* The n-th machine of which that is true; 0: none. */
static unsigned choose(unsigned n, bool (*is)(unsigned machine))
{
    unsigned found[CLUSTER_MAX], count = 0;
    for (unsigned i = 1; i <= cluster_size(); i++)
        if (is(i)) found[count++] = i;
    return count == 0 ? 0 : found[n % count];
}

static bool is_free(unsigned i)
{
    return !x.members[i];
}

static bool is_voter(unsigned i)
{
    return x.voters[i];
}

/* ---- what is to be done --------------------------------------------------------------------------------------- */

static void plan(enum step_kind kind, unsigned machine)
{
    x.steps[x.n_steps++] = (struct step){kind, machine};
}

static void plan_new(unsigned machine)
{
    plan(FRESH, machine);
    plan(ADD, machine);
    plan(PROMOTE, machine);
}

/* After a look at the members. A server that lost its data comes before everything else. */
static void decide(void)
{
    unsigned broken = choose(0, is_broken);
    x.n_steps = x.at = 0;
    if (broken != 0) {
        admin_counts[ADMIN_REPLACED]++;
        plan(REMOVE, broken);
        if (cluster_server(broken)->wiped && cluster_server(broken)->known && dice_chance(&world_dice, 500)) { /* it has an empty disk, and may go on as it was started */
            plan(ADD, broken);
            plan(PROMOTE, broken);
        } else {
            plan_new(broken);
        }
        return;
    }
    if (x.n_queue == 0) {
        x.looked = x.calm;
        return;
    }
    enum admin_job job = x.queue[0].job;
    unsigned n = x.queue[0].n;
    memmove(x.queue, x.queue + 1, --x.n_queue * sizeof *x.queue);
    unsigned left = choose(n, is_voter), free = choose(n, is_free);
    if (job == ADMIN_GROW && free != 0) plan_new(free);
    if (job == ADMIN_SHRINK && x.n_voters > (is_whole() ? 1 : 3)) plan(REMOVE, left);
    if (job == ADMIN_DISMISS && x.voters[n] && x.n_voters > (is_whole() ? 1 : 3)) plan(REMOVE, n);
    if (job == ADMIN_TRANSFER) plan(TRANSFER, n % 3 == 0 ? 0 : left);
    if (job == ADMIN_WIPE && x.n_voters >= 3 && x.met && is_whole()) plan(EMPTY, left);
    if (job == ADMIN_BACKUP) {
        plan(BACKUP, 0);
        plan(RESTORE, 0);
        plan(AUDIT, 0);
    }
}

static void done(void)
{
    static const int counts[] = {[ADD] = ADMIN_ADDED, [PROMOTE] = ADMIN_PROMOTED, [REMOVE] = ADMIN_REMOVED, [TRANSFER] = ADMIN_TRANSFERRED,
                                 [EMPTY] = ADMIN_WIPED, [BACKUP] = ADMIN_BACKUPS, [AUDIT] = ADMIN_RESTORED};
    enum step_kind kind = x.steps[x.at].kind;
    world_trace("administrator: %s %u is done", step_names[kind], x.steps[x.at].machine);
    if (kind != LOOK && kind != FRESH && kind != RESTORE) admin_counts[counts[kind]]++;
    if (++x.at == x.n_steps) x.n_steps = x.at = 0;
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static void note_members(const struct crsc_member *members, size_t n)
{
    memset(x.members, 0, sizeof x.members);
    memset(x.voters, 0, sizeof x.voters);
    x.met = true;
    x.n_voters = 0;
    for (size_t i = 0; i < n; i++) {
        if (members[i].id == 0 || members[i].id > CLUSTER_MAX) world_violation("server %u is a member", (unsigned)members[i].id);
        bool voter = strcmp(members[i].role, "voter") == 0;
        x.members[members[i].id] = true;
        x.voters[members[i].id] = voter;
        x.n_voters += voter;
        x.met = x.met && members[i].instance != 0;
    }
    x.known = true;
}

static void on_looked(void *user, const struct error *e, const struct crsc_status *status)
{
    (void)user;
    x.busy = false;
    if (e != NULL) return;
    note_members(status->members, status->n_members);
    decide();
}

static void on_changed(void *user, const struct error *e, const struct crsc_member *members, size_t n, uint64_t leader)
{
    struct step *s = &x.steps[x.at];
    (void)user, (void)leader;
    x.busy = false;
    if (e != NULL) {
        world_trace("administrator: %s %u failed: %s", step_names[s->kind], s->machine, e->text);
        /* Repeated until it is known, but for what need not be. */
        if (s->kind == TRANSFER || (s->kind == REMOVE && e->code == ERROR_CONFLICT && x.n_steps == 1)) x.n_steps = x.at = 0;
        return;
    }
    note_members(members, n);
    if (s->kind == REMOVE && x.members[s->machine]) world_violation("server %u was removed, and is a member", s->machine);
    if (s->kind == PROMOTE && !x.voters[s->machine]) world_violation("server %u was promoted, and is no voter", s->machine);
    done();
}

static int change(enum crsc_change change, unsigned machine)
{
    if (change == CRSC_REMOVE_SERVER) cluster_server(machine)->leaving = true;
    return crsc_change_server(x.crsc, change, machine, change == CRSC_ADD_SERVER ? cluster_address(machine) : NULL, false, on_changed, NULL);
}

/* ---- backup: crsc-logctl's own -------------------------------------------------------------------------------- */

struct crsc_sync *open_client(const struct options *o, int *ret_status)
{
    struct crsc_client_options options = {.servers = o->servers, .software = "sim", .timeout_ms = o->timeout_ms};
    struct crsc_sync *s = NULL;
    struct error e;
    *ret_status = EXIT_FAILED;
    return crsc_sync_new(&options, &s, &e) == 0 ? s : NULL;
}

int fail(const struct options *o, const struct error *e)
{
    (void)o;
    world_trace("administrator: the backup failed: %s", e->text);
    return EXIT_FAILED;
}

/* What it would show to a person. */
void progress_begin(struct progress *p, const char *what, enum progress_unit unit, uint64_t total)
{
    (void)p, (void)what, (void)unit, (void)total;
}

void progress_set(struct progress *p, uint64_t at)
{
    (void)p, (void)at;
}

void progress_end(struct progress *p)
{
    (void)p;
}

static void run_backup(void *arg)
{
    const struct options options = {.servers = cluster_addresses(), .timeout_ms = PATIENCE_MS, .argument = x.path};
    (void)arg;
    int status = verb_backup.run(&options);
    if (process_live_blocks(&x.backup) != 0) world_violation("a backup left %u blocks of memory", (unsigned)process_live_blocks(&x.backup));
    process_end(&x.backup, status);
}

static void backup_ended(struct process *p)
{
    (void)p;
    x.busy = false;
    if (p->status == EXIT_OK) done();
    else if (!x.calm || !is_whole()) x.n_steps = x.at = 0; /* a leader that was lost meanwhile, or one that finds damage */
}

static void begin_backup(void)
{
    x.busy = true;
    snprintf(x.path, sizeof x.path, "/sim/%d/backup-%u", WORKLOAD_BACKUP, x.n_backups++);
    check_mark(&x.mark);
    x.backup.on_end = backup_ended;
    net_machine_up(WORKLOAD_BACKUP);
    process_start(&x.backup, run_backup, NULL);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void take(struct step *s)
{
    struct server *server = cluster_server(s->machine);
    int rv = 0;
    switch (s->kind) {
    case LOOK:
        x.busy = true;
        rv = crsc_status(x.crsc, NULL, on_looked, NULL);
        break;
    case EMPTY:
        world_trace("administrator: server %u loses its disk", s->machine);
        cluster_wipe(server);
        done();
        break;
    case FRESH:
        cluster_join(server);
        done();
        break;
    case ADD:
        server->leaving = false;
        founders_added(s->machine); /* by what it has now */
        /* fall through */
    case PROMOTE:
    case REMOVE:
    case TRANSFER:
        x.busy = true;
        rv = change(s->kind == ADD ? CRSC_ADD_SERVER : s->kind == PROMOTE ? CRSC_PROMOTE_SERVER : s->kind == REMOVE ? CRSC_REMOVE_SERVER : CRSC_TRANSFER_LEADERSHIP,
                    s->machine);
        break;
    case BACKUP: begin_backup(); break;
    case RESTORE:
        if (cluster_restore_failed()) {
            cluster_restore_over();
            x.n_steps = x.at = 0;
        } else if (cluster_restored()->process.running) {
            if (cluster_restored()->node != NULL) done();
        } else {
            cluster_restore(x.path);
        }
        break;
    case AUDIT:
        if (!x.busy) workload_audit(&x.mark);
        x.busy = true;
        break;
    }
    if (rv != 0) x.busy = false;
}

static void on_time(uv_timer_t *timer)
{
    (void)timer;
    if (x.n_steps > 0 && x.steps[x.at].kind == AUDIT && x.busy && workload_audited()) {
        process_end(&cluster_restored()->process, PROCESS_KILLED);
        x.busy = false;
        done();
    }
    if (x.busy) return;
    if (x.n_steps > 0 && x.steps[x.at].kind == PROMOTE && is_broken(x.steps[x.at].machine)) x.n_steps = x.at = 0; /* it has to be added once more */
    if (x.n_steps == 0) {
        bool broken = choose(0, is_broken) != 0;
        if (x.known && x.n_queue == 0 && !broken && (!x.calm || x.looked)) return; /* nothing to do */
        x.looked = false;
        plan(LOOK, 0);
    }
    take(&x.steps[x.at]);
}

static void run_admin(void *arg)
{
    struct crsc_client_options options = {.servers = cluster_addresses(), .software = "administrator", .timeout_ms = PATIENCE_MS};
    struct error e;
    (void)arg;
    uv_loop_init(&x.loop);
    if (crsc_client_new(&x.loop, &options, &x.crsc, &e) != 0) world_violation("a client cannot be made: %s", e.text);
    uv_timer_init(&x.loop, &x.timer);
    uv_timer_start(&x.timer, on_time, 1000, RETRY_MS);
    uv_run(&x.loop, UV_RUN_DEFAULT);
    world_violation("the administrator's loop ended");
}

static void admin_ended(struct process *p)
{
    world_violation("the administrator ended with status %d", p->status);
}

void admin_begin(void)
{
    memset(&x, 0, sizeof x);
    memset(admin_counts, 0, sizeof admin_counts);
    process_init(&x.process, WORKLOAD_ADMIN, false);
    process_init(&x.backup, WORKLOAD_BACKUP, false);
    x.process.on_end = admin_ended;
    process_start(&x.process, run_admin, NULL);
}

void admin_ask(enum admin_job job, unsigned n)
{
    if (x.n_queue == QUEUE || x.calm) return;
    x.queue[x.n_queue].job = job;
    x.queue[x.n_queue++].n = n;
}

void admin_calm(void)
{
    x.calm = true;
    x.n_queue = 0;
}

bool admin_is_done(void)
{
    return x.looked && x.n_steps == 0 && choose(0, is_broken) == 0;
}

const char *admin_waits_for(void)
{
    static char text[80];
    snprintf(text, sizeof text, "the administrator waits for: %s %u", x.n_steps > 0 ? step_names[x.steps[x.at].kind] : "look",
             x.n_steps > 0 ? x.steps[x.at].machine : 0);
    return text;
}
