#include "tests/sim/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/admin.h"
#include "tests/sim/check.h"
#include "tests/sim/cluster.h"
#include "tests/sim/fs.h"
#include "tests/sim/net.h"
#include "tests/sim/workload.h"

const char *const plan_names[PLAN_KINDS] = {
    "kill", "kill-at-io", "power-cut", "power-cut-at-io", "power-cut-all", "down", "stop", "stop-leader", "pause", "isolate", "split", "reject", "one-way",
    "slow-link", "lossy", "resets", "disk-slow", "disk-full", "eio-write", "eio-read", "eio-sync", "clock-jump", "bit-rot", "client-kill",
    "grow", "shrink", "transfer", "wipe", "backup", "hang", "power-cut-at-copy",
    "emptied", "emptied-at-io", "remove-fetching", "stop-all",
};
uint64_t plan_counts[PLAN_KINDS];

enum { COPY_IO = 20 /* about so many boundaries of I/O has the copy of a state */ };

/* Of each kind: how likely, and how long. A run draws its own mixture: some kinds not at all. */
static const struct { unsigned weight, min_ms, max_ms; } table[PLAN_KINDS] = {
    [PLAN_KILL] = {10, 0, 0},          [PLAN_KILL_AT_IO] = {10, 0, 0},      [PLAN_POWER] = {10, 0, 0},          [PLAN_POWER_AT_IO] = {16, 0, 0},
    [PLAN_POWER_ALL] = {5, 0, 0},      [PLAN_DOWN] = {4, 2000, 15000},      [PLAN_STOP] = {4, 0, 0},            [PLAN_STOP_LEADER] = {5, 0, 0},
    [PLAN_PAUSE] = {8, 100, 6000},     [PLAN_ISOLATE] = {8, 500, 9000},     [PLAN_SPLIT] = {6, 500, 9000},      [PLAN_REJECT] = {6, 500, 6000},     [PLAN_ONE_WAY] = {8, 500, 9000},
    [PLAN_SLOW] = {5, 1000, 9000},     [PLAN_LOSSY] = {4, 1000, 6000},      [PLAN_RESETS] = {8, 0, 0},          [PLAN_DISK_SLOW] = {6, 1000, 9000},
    [PLAN_DISK_FULL] = {4, 500, 6000}, [PLAN_EIO_WRITE] = {3, 0, 0},        [PLAN_EIO_READ] = {2, 0, 0},        [PLAN_EIO_SYNC] = {4, 0, 0},
    [PLAN_CLOCK] = {3, 0, 0},          [PLAN_ROT] = {2, 0, 0},              [PLAN_CLIENT] = {4, 0, 0},
    [PLAN_GROW] = {8, 0, 0},           [PLAN_SHRINK] = {8, 0, 0},           [PLAN_TRANSFER] = {6, 0, 0},        [PLAN_WIPE] = {4, 0, 0},
    [PLAN_BACKUP] = {2, 0, 0},         [PLAN_HANG] = {5, 500, 7000},        [PLAN_POWER_AT_COPY] = {6, 0, 0},   [PLAN_STOP_ALL] = {6, 2000, 6000}, [PLAN_REMOVE_FETCHING] = {6, 2000, 9000},
};

/* While a cluster is founded: what tears a meeting apart, and what makes a server forget whom it has met. */
static const unsigned early_weights[PLAN_KINDS] = {
    [PLAN_KILL] = 3,      [PLAN_KILL_AT_IO] = 6, [PLAN_POWER] = 3,    [PLAN_POWER_AT_IO] = 10, [PLAN_POWER_ALL] = 2, [PLAN_DOWN] = 4,     [PLAN_STOP] = 2,
    [PLAN_PAUSE] = 4,     [PLAN_ISOLATE] = 6,    [PLAN_SPLIT] = 4,    [PLAN_ONE_WAY] = 8,      [PLAN_SLOW] = 3,      [PLAN_LOSSY] = 2,    [PLAN_RESETS] = 4,
    [PLAN_DISK_SLOW] = 3, [PLAN_DISK_FULL] = 1,  [PLAN_EIO_WRITE] = 2, [PLAN_EIO_READ] = 1,    [PLAN_EIO_SYNC] = 3,  [PLAN_CLOCK] = 1,    [PLAN_HANG] = 3,
    [PLAN_EMPTY] = 8,     [PLAN_EMPTY_AT_IO] = 12,
};
enum { EARLY_IO = 140, INDEX_IO = 60, MEETING_IO = 110 /* about so many boundaries of I/O has a server until it has founded, makes its index, meets others */ };

static unsigned draw(struct dice *d, const unsigned *weights)
{
    unsigned sum = 0, k = 0;
    for (unsigned i = 0; i < PLAN_KINDS; i++) sum += weights[i];
    for (uint64_t choice = dice_below(d, sum); choice >= weights[k]; k++) choice -= weights[k];
    return k;
}

/* Anywhere; while the index is made; or from the meeting on. */
static unsigned early_io(struct dice *d)
{
    switch (dice_below(d, 4)) {
    case 0: return (unsigned)dice_below(d, EARLY_IO);
    case 1: return (unsigned)dice_between(d, INDEX_IO, INDEX_IO + 25);
    default: return (unsigned)dice_between(d, MEETING_IO, EARLY_IO);
    }
}

/* Of three founders one may lose its disk, however often: the others are a majority that knows what it was. Of five, two. */
static void plan_early(struct plan *p, struct dice *d, const struct plan_shape *shape)
{
    unsigned n = (unsigned)dice_between(d, 3, PLAN_EARLY), servers = shape->founders, victims[2];
    uint64_t end = dice_between(d, 1000, 8000);
    if (end > shape->calm_ms - 1000) end = shape->calm_ms - 1000;
    victims[0] = victims[1] = (unsigned)dice_between(d, 1, servers);
    if (servers == 5) victims[1] = (unsigned)dice_between(d, 1, servers);
    for (unsigned i = 0; i < n; i++) {
        struct plan_fault *f = &p->faults[p->n++];
        unsigned k = draw(d, early_weights);
        uint64_t at = dice_chance(d, 300) ? 0 : dice_below(d, end);
        *f = (struct plan_fault){.kind = (enum plan_kind)k, .at = at, .until = at + dice_between(d, table[k].min_ms, table[k].max_ms)};
        if (f->until > shape->calm_ms) f->until = shape->calm_ms;
        f->a = (unsigned)dice_between(d, 1, servers);
        f->b = 1 + (f->a + (unsigned)dice_below(d, servers - 1)) % servers;
        f->n = (unsigned)dice_between(d, 0, 400);
        if (k == PLAN_KILL_AT_IO || k == PLAN_POWER_AT_IO || k == PLAN_EMPTY_AT_IO) f->n = early_io(d);
        if (k == PLAN_EMPTY || k == PLAN_EMPTY_AT_IO) f->a = victims[f->n % 2];
    }
}

void plan_make(struct plan *p, uint64_t seed, const struct plan_shape *shape)
{
    struct dice d = {seed * 977 + 5};
    unsigned weights[PLAN_KINDS], sum = 0, servers = shape->servers;
    uint64_t calm_ms = shape->calm_ms;
    bool rotten = false, wiped = shape->early;
    memset(p, 0, sizeof *p);
    p->calm_ms = calm_ms;
    if (shape->early) plan_early(p, &d, shape);
    for (unsigned k = 0; k < PLAN_KINDS; k++) {
        weights[k] = dice_chance(&d, 300) ? 0 : table[k].weight * (unsigned)dice_between(&d, 1, 4);
        sum += weights[k];
    }
    unsigned n = shape->early ? (unsigned)dice_between(&d, 0, 20) : (unsigned)dice_between(&d, 4, 40);
    for (unsigned i = 0; i < n && sum > 0; i++) {
        uint64_t choice = dice_below(&d, sum);
        unsigned k = 0;
        for (; choice >= weights[k]; k++) choice -= weights[k];
        struct plan_fault *f = &p->faults[p->n++];
        f->kind = (enum plan_kind)k;
        f->at = dice_between(&d, 2000, calm_ms - 1000);
        f->until = f->at + dice_between(&d, table[k].min_ms, table[k].max_ms);
        if (f->until > calm_ms) f->until = calm_ms;
        f->a = (unsigned)dice_between(&d, 1, servers);
        f->b = 1 + (f->a + (unsigned)dice_below(&d, servers - 1)) % servers;
        f->n = (unsigned)dice_between(&d, 0, 400);
        if (f->kind == PLAN_CLIENT) f->a = (unsigned)dice_below(&d, shape->clients);
        if (f->kind == PLAN_ROT && (rotten || wiped)) f->kind = PLAN_KILL; /* damage stays in one server: the others are a majority */
        if (f->kind == PLAN_WIPE && rotten) f->kind = PLAN_TRANSFER;
        rotten = rotten || f->kind == PLAN_ROT;
        wiped = wiped || f->kind == PLAN_WIPE;
        if (f->kind != PLAN_ROT || f->n % 4 < 2) continue;
        struct plan_fault *kill = &p->faults[p->n++]; /* what a start makes of it */
        *kill = (struct plan_fault){.kind = PLAN_KILL, .at = f->at + dice_between(&d, 10, 5000), .a = f->a, .b = f->b};
        if (kill->at > calm_ms - 1000) kill->at = calm_ms - 1000;
        kill->until = kill->at;
    }
}

/* ---- the network: faults add up, so each change begins from a healthy one ------------------------------------- */

static struct plan *current;

static bool goes_on(const struct plan_fault *f)
{
    uint64_t now = world_now() / MS;
    return !f->skipped && f->at <= now && now < f->until;
}

static void hurt_network(const struct plan_fault *f)
{
    unsigned machines = WORKLOAD_MACHINES;
    for (unsigned i = 1; i < machines; i++) {
        for (unsigned j = 1; j < machines; j++) {
            struct net_link *l = net_link(i, j);
            bool servers = i <= cluster_size() && j <= cluster_size();
            if (f->kind == PLAN_ISOLATE && (i == f->a || j == f->a)) l->blocked = true;
            if (f->kind == PLAN_REMOVE_FETCHING && f->fired && (i == f->a || j == f->a)) l->blocked = true;
            if (f->kind == PLAN_SPLIT && servers && ((f->n >> i & 1) != (f->n >> j & 1))) l->blocked = true;
            bool others = servers || i == WORKLOAD_FIRST || j == WORKLOAD_FIRST;
            if (f->kind == PLAN_REJECT && others && (i == f->a || j == f->a)) l->blocked = true;
            if (f->kind == PLAN_ONE_WAY && i == f->a && j == f->b) l->blocked = true;
            if (f->kind == PLAN_LOSSY) l->late_of_1000 = 5 + f->n / 8;
            if (f->kind == PLAN_SLOW && ((i == f->a && j == f->b) || (i == f->b && j == f->a))) {
                l->min_us = 1000;
                l->max_us = 2000 + f->n * 200;
                if (f->n % 2 == 0) l->bytes_per_ms = 20 + f->n;
            }
        }
    }
}

static void hurt_disks(const struct plan_fault *f)
{
    struct fs_faults *d = fs_faults(f->a);
    if (f->kind == PLAN_DISK_SLOW) {
        d->sync_max_us = 1000 + f->n * 100;
        d->spike_of_1000 = 100;
        d->spike_us = 1000 * (1 + (uint64_t)f->n * 4);
    }
    if (f->kind == PLAN_DISK_FULL) {
        d->full = true;
        cluster_server(f->a)->disk_hurt = true;
    }
}

static void refresh(void *arg, uint64_t token)
{
    unsigned machines = WORKLOAD_MACHINES;
    (void)arg, (void)token;
    for (unsigned i = 1; i < machines; i++)
        for (unsigned j = 1; j < machines; j++) *net_link(i, j) = (struct net_link){.min_us = 40, .max_us = 250, .free_at = net_link(i, j)->free_at};
    for (unsigned i = 1; i <= cluster_size(); i++) {
        struct fs_faults *d = fs_faults(i);
        d->sync_min_us = 80;
        d->sync_max_us = 300;
        d->spike_of_1000 = 0;
        d->full = false;
        cluster_server(i)->held_down = false;
    }
    for (unsigned i = 0; i < current->n; i++) {
        const struct plan_fault *f = &current->faults[i];
        if (!goes_on(f)) continue;
        hurt_network(f);
        hurt_disks(f);
        if (f->kind == PLAN_DOWN || (f->kind == PLAN_REMOVE_FETCHING && !f->fired)) cluster_server(f->a)->held_down = true;
        for (unsigned s = 1; f->kind == PLAN_STOP_ALL && s <= cluster_size(); s++) cluster_server(s)->held_down = true;
    }
    net_healed();
}

/* LMDB believes its pages: what a changed one makes it do to memory, ASan would tell of, and end the simulation. */
#if defined __SANITIZE_ADDRESS__
enum { index_may_rot = 0 };
#else
enum { index_may_rot = 1 };
#endif
uint64_t plan_index_rots;

bool plan_rots_index(const struct plan *p)
{
    for (unsigned i = 0; i < p->n; i++)
        if (index_may_rot && p->faults[i].kind == PLAN_ROT && !p->faults[i].skipped && p->faults[i].n % 2 == 0) return true;
    return false;
}

/* ---- what happens at once ------------------------------------------------------------------------------------- */

/* A few bytes of a file change, on the disk and in the page cache. */
static void rot_file(const struct plan_fault *f, const char *path)
{
    size_t len, used;
    uint8_t *bytes = fs_bytes(path, &len);
    for (used = bytes == NULL ? 0 : len; used > 0 && bytes[used - 1] == 0; used--) {
    }
    if (used == 0) return;
    size_t at = (size_t)dice_below(&world_dice, used);
    cluster_server(f->a)->damaged = true;
    world_trace("server %u: %s changes at %zu", f->a, path, at);
    if (f->n % 3 == 0) memset(bytes + at / 512 * 512, 0, at / 512 * 512 + 512 <= len ? 512 : len - at / 512 * 512); /* a lost sector */
    else bytes[at] ^= (uint8_t)(1u << (f->n % 8));
}

/* Of what the server has written: of its index, or of a segment. */
static void rot(const struct plan_fault *f)
{
    char dir[64], path[128];
    const char *name;
    unsigned files = 0;
    if (index_may_rot && f->n % 2 == 0) {
        snprintf(path, sizeof path, "/sim/%u/data/index/data.mdb", f->a);
        plan_index_rots++;
        for (unsigned i = 0; i <= f->n / 2 % 8; i++) rot_file(f, path); /* most of its pages are of no use any more */
        return;
    }
    snprintf(dir, sizeof dir, "/sim/%u/data/wal", f->a);
    for (; fs_entry(dir, files) != NULL; files++) {
    }
    for (unsigned tries = 0; tries < 20 && files > 0; tries++) {
        name = fs_entry(dir, (unsigned)dice_below(&world_dice, files));
        if (strstr(name, ".seg") == NULL) continue;
        snprintf(path, sizeof path, "%s/%s", dir, name);
        rot_file(f, path);
        if (cluster_server(f->a)->damaged) return;
    }
}

static void hurt_process(struct plan_fault *f, struct server *s)
{
    switch (f->kind) {
    case PLAN_KILL: process_end(&s->process, PROCESS_KILLED); break;
    case PLAN_POWER: process_end(&s->process, PROCESS_POWER); break;
    case PLAN_REMOVE_FETCHING: f->armed = true; /* fall through */
    case PLAN_DOWN: process_end(&s->process, f->n % 2 == 0 ? PROCESS_KILLED : PROCESS_POWER); break;
    case PLAN_KILL_AT_IO:
    case PLAN_POWER_AT_IO:
        s->process.die_at_io = f->n;
        s->process.die_with_power = f->kind == PLAN_POWER_AT_IO;
        break;
    case PLAN_EMPTY:
        if (admin_may_empty(f->a)) cluster_empty(s);
        break;
    case PLAN_EMPTY_AT_IO:
        if (!admin_may_empty(f->a)) break;
        s->process.die_at_io = f->n;
        s->process.die_with_power = s->loses_disk = true;
        break;
    case PLAN_STOP: cluster_stop(s); break;
    case PLAN_STOP_LEADER:
        if (cluster_leader() != NULL) cluster_stop(cluster_leader());
        break;
    case PLAN_PAUSE: s->process.paused_until = f->until * MS; break;
    case PLAN_HANG:
        s->process.paused_until = f->until * MS;
        for (unsigned i = 1; i < WORKLOAD_MACHINES; i++) net_cut(f->a, i);
        break;
    case PLAN_CLOCK:
        s->process.wall_offset_us += ((int64_t)f->n - 200) * 100000;
        check_clock(s->process.wall_offset_us);
        break;
    default: break;
    }
}

static void stop_one(void *arg, uint64_t server)
{
    (void)arg;
    cluster_stop(cluster_server((unsigned)server));
}

/* From the one named on; the pauses between them are short more often than long. */
static void stop_all(const struct plan_fault *f)
{
    uint64_t pause = (uint64_t)f->n * f->n / 400;
    for (unsigned i = 0; i < cluster_size(); i++) world_at(world_now() + i * pause * MS, stop_one, NULL, 1 + (f->a - 1 + i) % cluster_size());
}

static void happen(void *arg, uint64_t token)
{
    struct plan_fault *f = arg;
    (void)token;
    struct server *s = f->kind == PLAN_CLIENT ? NULL : cluster_server(f->a);
    struct fs_faults *d = s == NULL ? NULL : fs_faults(f->a);
    world_trace("fault %s %u %u %u", plan_names[f->kind], f->a, f->b, f->n);
    plan_counts[f->kind]++;
    if (f->kind == PLAN_EIO_WRITE || f->kind == PLAN_EIO_READ || f->kind == PLAN_EIO_SYNC) s->disk_hurt = true;
    switch (f->kind) {
    case PLAN_POWER_ALL:
        for (unsigned i = 1; i <= cluster_size(); i++) process_end(&cluster_server(i)->process, PROCESS_POWER);
        break;
    case PLAN_RESETS:
        for (unsigned i = 0; i <= f->n % 6; i++) net_reset_one(NULL);
        break;
    case PLAN_REJECT:
        if (cluster_leader() != NULL) f->a = cluster_leader()->process.number;
        for (unsigned i = 1; i <= cluster_size(); i++) net_cut(f->a, i);
        net_cut(f->a, WORKLOAD_FIRST); /* this client will find the next leader, the others stay with the old one */
        break;
    case PLAN_EIO_WRITE: d->fail_writes = 1; break;
    case PLAN_EIO_READ: d->fail_reads = 1; break;
    case PLAN_EIO_SYNC: d->fail_syncs = 1; break;
    case PLAN_ROT:
        if (admin_may_damage() && admin_is_member(f->a)) rot(f);
        break;
    case PLAN_CLIENT: workload_kill(f->a); break;
    case PLAN_GROW: admin_ask(ADMIN_GROW, f->n); break;
    case PLAN_SHRINK: admin_ask(ADMIN_SHRINK, f->n); break;
    case PLAN_TRANSFER: admin_ask(ADMIN_TRANSFER, f->n); break;
    case PLAN_WIPE: admin_ask(ADMIN_WIPE, f->n); break;
    case PLAN_BACKUP: admin_ask(ADMIN_BACKUP, f->n); break;
    case PLAN_POWER_AT_COPY: cluster_cut_at_copy((int)f->n % COPY_IO); break;
    case PLAN_STOP_ALL: stop_all(f); break;
    default: hurt_process(f, s); break;
    }
    refresh(NULL, 0);
}

static void hang_over(void *arg, uint64_t token)
{
    struct plan_fault *f = arg;
    (void)token;
    process_end(&cluster_server(f->a)->process, PROCESS_POWER);
}

static void calm(void *arg, uint64_t token)
{
    (void)arg, (void)token;
    for (unsigned i = 1; i <= cluster_size(); i++) {
        struct fs_faults *d = fs_faults(i);
        struct process *p = &cluster_server(i)->process;
        d->fail_writes = d->fail_reads = d->fail_syncs = 0;
        p->die_at_io = UINT64_MAX;
        cluster_server(i)->loses_disk = false;
    }
    cluster_cut_at_copy(-1);
    for (unsigned i = 0; i < current->n; i++) current->faults[i].armed = false;
    world_trace("calm");
    refresh(NULL, 0);
}

static void cut_fetching(void *arg, uint64_t machine)
{
    (void)arg;
    for (unsigned i = 0; i < current->n; i++) {
        struct plan_fault *f = &current->faults[i];
        if (!f->armed || goes_on(f)) continue;
        f->armed = false;
        f->fired = true;
        f->a = (unsigned)machine;
        f->at = world_now() / MS;
        f->until = f->at + 500 + f->n * 10;
        if (f->until > current->calm_ms) f->until = current->calm_ms;
        world_trace("server %u fetches: it is cut off, and is to be removed", f->a);
        admin_ask(ADMIN_DISMISS, f->a);
        world_at(f->until * MS, refresh, NULL, 0);
        refresh(NULL, 0);
        return;
    }
}

void plan_fetches(unsigned machine)
{
    world_at(world_now(), cut_fetching, NULL, machine);
}

void plan_start(struct plan *p)
{
    current = p;
    plan_index_rots = 0;
    for (unsigned i = 0; i < p->n; i++) {
        struct plan_fault *f = &p->faults[i];
        if (f->skipped) continue;
        if (f->at == 0) happen(f, 0); /* before anybody has started */
        else world_at(f->at * MS, happen, f, 0);
        if (f->until > f->at) world_at(f->until * MS, refresh, NULL, 0);
        if (f->kind == PLAN_HANG) world_at(f->until * MS, hang_over, f, 0);
    }
    world_at(p->calm_ms * MS, calm, NULL, 0);
}

void plan_print(const struct plan *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        const struct plan_fault *f = &p->faults[i];
        if (!f->skipped)
            printf("  [%2u] %7.3f s to %7.3f s  %-16s server %u, other %u, n %u\n", i, (double)f->at / 1e3, (double)f->until / 1e3, plan_names[f->kind], f->a, f->b, f->n);
    }
}
