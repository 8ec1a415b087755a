#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "tests/sim/admin.h"
#include "tests/sim/check.h"
#include "tests/sim/cluster.h"
#include "tests/sim/founders.h"
#include "tests/sim/fs.h"
#include "tests/sim/linear.h"
#include "tests/sim/net.h"
#include "tests/sim/plan.h"
#include "tests/sim/workload.h"

/* After the faults: how long the cluster may take until everything is answered, and until all replicas are equal. */
enum { SETTLE_S = 60, STEP_MS = 200, SCRUB_ALWAYS_MS = 500, SCRUB_OFTEN_MS = 3000 };
/* When nothing is asked any more: until what was under way has ended, how long is looked then, and how much a server may say beside heartbeats (trims of
 * policies, alarms, attempts to reach one that is gone). */
enum { REST_MS = 500, QUIET_MS = 1500, IDLE_PER_S = 40 };

static uint64_t sums_fs[8], sums_net[8], sums_cluster[8], sums_workload[8], sums_admin[8];

static void add(uint64_t *sums, const uint64_t *counts)
{
    for (int i = 0; i < 8; i++) sums[i] += counts[i];
}

/* In these the faults begin with the world, before the cluster is founded. */
static bool disturbs_founding(const struct run_options *o)
{
    struct dice d = {o->seed * 59 + 11};
    return dice_chance(&d, 250) || o->founding;
}

static struct cluster_options shape(const struct run_options *run)
{
    uint64_t seed = run->seed;
    struct dice d = {seed * 31 + 7};
    static const unsigned elections[] = {500, 1000, 2000}, segments[] = {64, 64, 128}, keeps[] = {0, 64, 256, 4096};
    static const unsigned heartbeats[] = {10, 5, 5, 4}; /* so many of them in an election timeout */
    static const struct { unsigned n, first; } sizes[] = {{3, 3}, {3, 3}, {3, 3}, {3, 3}, {4, 3}, {4, 3}, {3, 1}, {5, 3}, {5, 5}, {5, 5}};
    uint64_t size = dice_below(&d, sizeof sizes / sizeof *sizes);
    struct cluster_options o = {.n = sizes[size].n, .first = sizes[size].first};
    if (disturbs_founding(run) && o.first == 1) o.first = 3;
    o.late_ms = !disturbs_founding(run) ? 300 : dice_chance(&d, 500) ? 300 : (unsigned)dice_between(&d, 300, 6000);
    o.by_name = dice_chance(&d, 300);
    o.election_ms = elections[dice_below(&d, 3)];
    o.heartbeat_ms = o.election_ms / heartbeats[dice_below(&d, 4)];
    o.segment_kib = segments[dice_below(&d, 3)];
    o.keep_kib = keeps[dice_below(&d, 4)];
    o.commit_ms = (unsigned)dice_between(&d, 20, 300);
    o.retention_ms = (unsigned)dice_between(&d, 500, 4000);
    static const unsigned scrubs[] = {0, SCRUB_ALWAYS_MS, 5000};
    o.scrub_ms = scrubs[dice_below(&d, 3)];
    return o;
}

/* Of half of the streams. */
static struct check_policy policy(struct dice *d)
{
    struct check_policy p = {0};
    if (dice_chance(d, 500)) return p;
    uint64_t kind = dice_below(d, 10);
    p.beyond = kind == 0;
    if (!p.beyond) p.keep = (uint32_t)dice_between(d, 1, 3);
    if (kind < 3) p.bytes = dice_between(d, 2000, 60000);
    if (kind >= 2 && kind < 4) p.age_us = dice_between(d, 5, 30) * 1000 * 1000;
    return p;
}

static void make_plan(const struct run_options *o, struct plan *p)
{
    struct cluster_options c = shape(o);
    const struct plan_shape s = {.servers = c.n, .founders = c.first, .clients = WORKLOAD_CLIENTS, .early = disturbs_founding(o), .calm_ms = o->calm_ms};
    plan_make(p, o->seed, &s);
    for (unsigned i = 0; i < p->n; i++) p->faults[i].skipped = (o->skip >> i & 1) != 0;
}

/* Everything is read again and again only where there is something to find: that was a fifth of all the work. */
static unsigned scrub_ms(const struct plan *p, unsigned drawn)
{
    for (unsigned i = 0; i < p->n; i++)
        if (p->faults[i].kind == PLAN_ROT) return drawn;
    return drawn == SCRUB_ALWAYS_MS ? SCRUB_OFTEN_MS : drawn;
}

bool run_damages_index(const struct run_options *o)
{
    struct plan p;
    make_plan(o, &p);
    return plan_rots_index(&p);
}

void run_print_plan(const struct run_options *o)
{
    struct plan p;
    struct cluster_options s = shape(o);
    make_plan(o, &p);
    printf("  %u servers, and room for %u more, election %u ms, heartbeat %u ms, segments of %u KiB, %u KiB of log kept, index commits every %u ms\n", s.first, s.n - s.first, s.election_ms, s.heartbeat_ms, s.segment_kib, s.keep_kib,
           s.commit_ms);
    plan_print(&p);
}

static bool is_up(unsigned machine)
{
    const struct server *s = cluster_server(machine);
    return admin_is_member(machine) && !s->out && s->node != NULL && s->node->peers != NULL;
}

/* Each server has a connection to each other one that was greeted: whoever leads next is heard at once, by all. */
static bool is_connected(char *ret_why, size_t size)
{
    for (unsigned i = 1; i <= cluster_size(); i++)
        for (unsigned j = 1; j <= cluster_size(); j++) {
            if (i == j || !is_up(i) || !is_up(j) || peers_reachable(cluster_server(i)->node->peers, j)) continue;
            snprintf(ret_why, size, "server %u is not connected to server %u", i, j);
            return false;
        }
    return true;
}

/* Every member is up, unless it found its data damaged, and has applied the same entries; who was removed has stopped. */
static bool is_equal(char *ret_why, size_t size)
{
    uint64_t applied = 0;
    for (unsigned i = 1; i <= cluster_size(); i++) {
        const struct server *s = cluster_server(i);
        if (!admin_is_member(i)) {
            if (!s->leaving || s->wiped || !s->process.running) continue;
            if (s->refused && s->node != NULL && wal_last_index(s->node->wal) == 0) continue; /* it knows, and has nothing to stop for */
            snprintf(ret_why, size, "server %u was removed, and nobody has told it", i);
            return false;
        }
        if (s->out) continue;
        if (s->node == NULL || s->node->streams == NULL) {
            snprintf(ret_why, size, "server %u is not up", i);
            return false;
        }
        uint64_t mine = streams_applied(s->node->streams);
        if (applied == 0) applied = mine;
        if (mine != applied || mine != check_last_applied()) {
            snprintf(ret_why, size, "server %u has applied %" PRIu64 " of %" PRIu64 " entries", i, mine, check_last_applied());
            return false;
        }
    }
    return true;
}

static bool settled(char *ret_why, size_t size)
{
    if (!workload_is_done()) {
        snprintf(ret_why, size, "%s", workload_waits_for());
        return false;
    }
    if (!admin_is_done()) {
        snprintf(ret_why, size, "%s", admin_waits_for());
        return false;
    }
    return is_equal(ret_why, size) && is_connected(ret_why, size);
}

/* A heartbeat to each other server and its answer, as often as they are set to be, and little else: nobody asks, answers or tries again in a circle. */
static void check_rest(uint64_t now)
{
    const struct cluster_options *c = cluster_shape();
    world_run(now += REST_MS * MS);
    uint64_t before = net_counts[NET_PIECES];
    world_run(now + QUIET_MS * MS);
    uint64_t sent = net_counts[NET_PIECES] - before, beats = (uint64_t)2 * (c->n - 1) * (QUIET_MS / c->heartbeat_ms + 1);
    world_trace("at rest: %" PRIu64 " pieces in %d ms, %" PRIu64 " of them heartbeats", sent, QUIET_MS, beats);
    if (!world_failed() && sent > 2 * beats + (uint64_t)c->n * IDLE_PER_S * QUIET_MS / 1000)
        world_violation("nothing is asked any more, and in %d ms %" PRIu64 " times something is sent; heartbeats are %" PRIu64, QUIET_MS, sent, beats);
}

static void conclude(const struct run_options *o)
{
    char why[256] = "";
    uint64_t now = (uint64_t)o->calm_ms * MS, until = now + SETTLE_S * SECOND;
    while (!world_failed() && !settled(why, sizeof why) && now < until) world_run(now += STEP_MS * MS);
    if (!world_failed() && now >= until) world_violation("liveness: %d s after the last fault: %s", SETTLE_S, why);
    if (world_failed()) return;
    world_trace("audit");
    workload_audit(NULL);
    for (until = now + SETTLE_S * SECOND; !world_failed() && !workload_audited() && now < until;) world_run(now += STEP_MS * MS);
    if (!world_failed() && !workload_audited()) world_violation("liveness: the replicas could not be read in %d s", SETTLE_S);
    if (!world_failed()) check_retains();
    if (!world_failed()) check_rest(now);
    for (unsigned i = 0; i < CHECK_STREAMS && !world_failed(); i++)
        if (!linear_check(i, why, sizeof why)) world_violation("%s", why);
}

void run(const struct run_options *o, struct run_result *ret)
{
    struct plan plan;
    struct cluster_options cluster = shape(o);
    struct dice d = {o->seed * 13 + 3};
    *ret = (struct run_result){0};
    world_verbose = o->verbose;
    world_begin(o->seed);
    fs_begin();
    net_begin();
    check_begin();
    linear_begin();
    make_plan(o, &plan);
    cluster.scrub_ms = scrub_ms(&plan, cluster.scrub_ms);
    cluster_begin(&cluster);
    uint32_t pause_ms = (uint32_t)dice_between(&d, 100, 800), size_max = (uint32_t)dice_between(&d, 64, 900);
    struct check_policy policies[CHECK_STREAMS];
    for (unsigned i = 0; i < CHECK_STREAMS; i++) policies[i] = policy(&d);
    if (dice_chance(&d, 250)) size_max = (uint32_t)dice_between(&d, 1000, 3500); /* many segments, for sparse ones to be among them */
    workload_begin(WORKLOAD_CLIENTS, pause_ms, size_max, policies);
    admin_begin();
    plan_start(&plan);
    world_run((uint64_t)o->calm_ms * MS);
    if (!world_failed()) {
        workload_calm();
        admin_calm();
        conclude(o);
    }
    ret->failed = world_failed();
    ret->index_rots = plan_index_rots;
    snprintf(ret->failure, sizeof ret->failure, "%s", world_failure());
    ret->hash = world_hash();
    ret->simulated_ns = world_now();
    ret->events = world_events();
    ret->planned = plan.n;
    for (unsigned i = 0; i < plan.n; i++) ret->faults += !plan.faults[i].skipped;
    ret->appends = check_appends();
    ret->acknowledged = check_acknowledgements();
    ret->seen = check_events_seen();
    ret->operations = linear_count(0) + linear_count(1);
    add(sums_fs, fs_counts);
    add(sums_net, net_counts);
    add(sums_cluster, cluster_counts);
    add(sums_workload, workload_counts);
    add(sums_admin, admin_counts);
    world_end();
}

void run_print_counts(void)
{
    printf("faults:");
    for (unsigned i = 0; i < PLAN_KINDS; i++) printf(" %s %" PRIu64, plan_names[i], plan_counts[i]);
    printf("\nservers: started %" PRIu64 ", killed %" PRIu64 ", lost power %" PRIu64 ", stopped %" PRIu64 ", failed %" PRIu64 ", fetched another's state %" PRIu64
           ", refused damaged data %" PRIu64 ", repaired segments %" PRIu64 "\n",
           sums_cluster[CLUSTER_STARTS], sums_cluster[CLUSTER_KILLED], sums_cluster[CLUSTER_POWER], sums_cluster[CLUSTER_STOPPED], sums_cluster[CLUSTER_FAILED],
           sums_cluster[CLUSTER_REBUILDS], sums_cluster[CLUSTER_REFUSED], cluster_repaired);
    printf("members: added %" PRIu64 ", promoted %" PRIu64 ", removed %" PRIu64 ", leaders moved %" PRIu64 ", disks emptied %" PRIu64 ", replaced %" PRIu64
           ", turned away %" PRIu64 "; backups %" PRIu64 ", restored and read %" PRIu64 "\n",
           sums_admin[ADMIN_ADDED], sums_admin[ADMIN_PROMOTED], sums_admin[ADMIN_REMOVED], sums_admin[ADMIN_TRANSFERRED], sums_admin[ADMIN_WIPED],
           sums_admin[ADMIN_REPLACED], sums_cluster[CLUSTER_TURNED_AWAY], sums_admin[ADMIN_BACKUPS], sums_admin[ADMIN_RESTORED]);
    printf("founding: %" PRIu64 " times; disks lost at any time %" PRIu64 ", all servers emptied because they could not found %" PRIu64 "\n",
           founders_counts[FOUNDERS_FOUNDED], founders_counts[FOUNDERS_LOST], founders_counts[FOUNDERS_HELPED]);
    printf("disks: syncs %" PRIu64 ", slow ones %" PRIu64 ", full %" PRIu64 ", EIO of writes %" PRIu64 ", reads %" PRIu64 ", syncs %" PRIu64
           "; unsynced sectors lost %" PRIu64 ", kept %" PRIu64 "\n",
           sums_fs[FS_SYNCS], sums_fs[FS_SPIKES], sums_fs[FS_FULL], sums_fs[FS_EIO_WRITE], sums_fs[FS_EIO_READ], sums_fs[FS_EIO_SYNC], sums_fs[FS_LOST],
           sums_fs[FS_TORN]);
    printf("network: pieces %" PRIu64 ", lost and sent again %" PRIu64 ", held by partitions %" PRIu64 ", split %" PRIu64 "; connections %" PRIu64 ", refused %" PRIu64
           ", reset %" PRIu64 "\n",
           sums_net[NET_PIECES], sums_net[NET_LATE], sums_net[NET_HELD], sums_net[NET_SPLIT], sums_net[NET_CONNECTS], sums_net[NET_REFUSED], sums_net[NET_RESETS]);
    printf("clients: producers opened %" PRIu64 ", broken %" PRIu64 ", fences %" PRIu64 ", snapshots %" PRIu64 ", trims %" PRIu64 ", linearizable reads %" PRIu64
           ", killed %" PRIu64 "; trims of policies seen %" PRIu64 ", passes over sparse segments %" PRIu64 "\n",
           sums_workload[WORKLOAD_OPENS], sums_workload[WORKLOAD_BROKEN], sums_workload[WORKLOAD_FENCES], sums_workload[WORKLOAD_SNAPSHOTS],
           sums_workload[WORKLOAD_TRIMS], sums_workload[WORKLOAD_READS], sums_workload[WORKLOAD_KILLS],
           sums_workload[WORKLOAD_RETAINED], cluster_moves);
}
