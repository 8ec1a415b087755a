#include "tests/sim/cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

#include "common/log.h"
#include "logd/consensus/consensus.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/restore.h"
#include "tests/sim/check.h"
#include "tests/sim/founders.h"
#include "tests/sim/fs.h"
#include "tests/sim/net.h"
#include "tests/sim/plan.h"
#include "tests/sim/workload.h"

enum { CRASHES = 3, ARGS = 20, ARG = 256 };

static struct {
    struct cluster_options options;
    struct server servers[CLUSTER_RESTORED + 1]; /* [0] is nobody */
    char addresses[200], each[CLUSTER_RESTORED + 1][32], members[200];
    bool of_damaged, restore_failed;
    int cut_at_copy; /* -1: no copy is waited for */
    char backup[64]; /* the restored one begins with it; "": it has begun */
} x;
uint64_t cluster_counts[8], cluster_repaired;
uint64_t cluster_moves;

unsigned cluster_size(void)
{
    return x.options.n;
}

const struct cluster_options *cluster_shape(void)
{
    return &x.options;
}

struct server *cluster_server(unsigned machine)
{
    return &x.servers[machine];
}

const char *cluster_addresses(void)
{
    return x.addresses;
}

const char *cluster_address(unsigned machine)
{
    return x.each[machine];
}

struct server *cluster_leader(void)
{
    struct server *best = NULL;
    uint64_t term = 0;
    for (unsigned i = 1; i <= x.options.n; i++) {
        struct server *s = &x.servers[i];
        if (s->node == NULL || s->node->consensus == NULL || consensus_role(s->node->consensus) != CONSENSUS_LEADER) continue;
        if (best == NULL || consensus_term(s->node->consensus) > term) best = s, term = consensus_term(s->node->consensus);
    }
    return best;
}

/* ---- the program: what logd's main.c does --------------------------------------------------------------------- */

static void on_stopped(void *user)
{
    struct server *s = user;
    s->node = NULL;
    s->listens = false;
    loop_signals_stop(&s->signals);
}

static void load_settings(const struct server *s, const char *restore, struct settings *ret)
{
    const struct cluster_options *o = &x.options;
    static char args[ARGS][ARG];
    static char *argv[ARGS + 1];
    unsigned i = s->process.number;
    bool alone = s->joins || i == CLUSTER_RESTORED;
    enum config_action action;
    struct error e = {0};
    int n = 0;
#define SETTING(...) snprintf(args[n++], ARG, __VA_ARGS__)
    SETTING("crsc-logd");
    SETTING("--id=%u", i);
    SETTING("--listen=10.0.0.%u:%d", i, CLUSTER_PORT);
    SETTING("--data-dir=/sim/%u/data", i);
    if (alone) SETTING("--initial-cluster=%u=%s", i, x.each[i]);
    else SETTING("--initial-cluster=%s", x.members);
    if (s->joins) SETTING("--initial-cluster-state=existing");
    SETTING("--election-timeout=%ums", o->election_ms);
    SETTING("--heartbeat=%ums", o->heartbeat_ms);
    SETTING("--segment-size=%uKiB", o->segment_kib);
    SETTING("--log-keep=%uKiB", o->keep_kib);
    SETTING("--log-keep-max=%uKiB", 4 * o->keep_kib);
    SETTING("--index-commit=%ums", o->commit_ms);
    SETTING("--retention-interval=%ums", o->retention_ms);
    SETTING("--index-map-size=1MiB");
    SETTING("--cache-size=1MiB");
    SETTING("--allow-plaintext=true");
    SETTING("--scrub-interval=%ums", o->scrub_ms);
    SETTING("--scrub-rate=0");
    if (restore != NULL) SETTING("--restore=%s", restore);
#undef SETTING
    for (int j = 0; j < n; j++) argv[j] = args[j];
    argv[n] = NULL;
    if (settings_load(n, argv, ret, &action, &e) != 0) world_violation("settings: %s", e.text);
}

static void run_server(void *arg)
{
    struct server *s = arg;
    struct settings settings = {0};
    struct error e = {0};
    uv_loop_t loop;
    if (s->process.number == CLUSTER_RESTORED && x.backup[0] != '\0') {
        load_settings(s, x.backup, &settings);
        if (restore_run(&settings, settings.restore, &e) != 0) {
            if (!x.of_damaged || e.code != ERROR_CORRUPT || strstr(e.text, "the index") != NULL) world_violation("a verified backup cannot be restored: %s", e.text);
            x.restore_failed = true; /* it has the bytes of a damaged segment */
            world_trace("a backup of a damaged server cannot be restored: %s", e.text);
            process_end(&s->process, PROCESS_KILLED);
        }
        settings_free(&settings);
        memset(&settings, 0, sizeof settings);
        x.backup[0] = '\0';
    }
    load_settings(s, NULL, &settings);
    uv_loop_init(&loop);
    s->signals = (struct loop_signals){0};
    if (node_start(&loop, &settings, &s->signals, on_stopped, s, &s->node, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        process_end(&s->process, e.code == ERROR_CORRUPT ? 3 : e.code == ERROR_INVALID ? 2 : 1);
    }
    s->listens = true;
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) world_violation("server %u stopped, and left something open in its loop", s->process.number);
    settings_free(&settings);
    if (process_live_blocks(&s->process) != 0) {
        if (world_verbose) process_describe_leaks(&s->process);
        world_violation("server %u stopped, and left %" PRIu64 " blocks of memory", s->process.number, process_live_blocks(&s->process));
    }
    process_end(&s->process, 0);
}

static void start(void *arg, uint64_t life)
{
    struct server *s = arg;
    if (s->process.running || s->process.life != life) return;
    if (s->held_down) {
        world_at(world_now() + 200 * MS, start, s, life);
        return;
    }
    cluster_counts[CLUSTER_STARTS]++;
    s->asked_to_stop = s->refused = false;
    s->node = NULL;
    const struct fs_faults *f = fs_faults(s->process.number);
    s->disk_hurt = f->full || f->fail_writes + f->fail_reads + f->fail_syncs > 0;
    world_trace("server %u starts", s->process.number);
    net_machine_up(s->process.number);
    process_start(&s->process, run_server, s);
}

static void lose_disk(struct server *s)
{
    fs_wipe(s->process.number);
    check_forget(s->process.number);
    s->loses_disk = s->damaged = s->disk_hurt = s->out = false;
    s->crashes = 0;
    founders_emptied(s->process.number);
}

/* Who looks after the processes: starts what has ended. */
static void on_end(struct process *p)
{
    struct server *s = &x.servers[p->number];
    uint64_t after = dice_between(&world_dice, 50, 1500) * MS;
    s->node = NULL;
    s->listens = false;
    if (p->number == CLUSTER_RESTORED) {
        fs_process_ended(p->number);
        if (p->status != PROCESS_KILLED) world_violation("the restored server ended with status %d", p->status);
        return;
    }
    if (p->status == PROCESS_POWER) {
        cluster_counts[CLUSTER_POWER]++;
        if (s->loses_disk) lose_disk(s);
        else fs_power_cut(p->number);
    } else {
        fs_process_ended(p->number);
    }
    s->loses_disk = false;
    switch (p->status) {
    case PROCESS_POWER: break;
    case PROCESS_KILLED: cluster_counts[CLUSTER_KILLED]++; break;
    case PROCESS_RESTARTS:
        cluster_counts[CLUSTER_REBUILDS]++;
        after = MS;
        break;
    case 0: cluster_counts[CLUSTER_STOPPED]++; break;
    case 4:
        cluster_counts[CLUSTER_TURNED_AWAY]++;
        if (!s->leaving && !s->wiped) world_violation("server %u was told that it is none of the cluster's, and nobody removed it", p->number);
        s->out = true;
        return;
    case 3:
        cluster_counts[CLUSTER_REFUSED]++;
        if (!s->damaged && !s->disk_hurt) world_violation("L6: server %u says its data is damaged, and it is not", p->number);
        if (s->damaged) {
            s->out = true;
            return;
        }
        break;
    default:
        if (s->damaged && ++s->crashes == CRASHES) { /* somebody looks after it */
            cluster_counts[CLUSTER_REFUSED]++;
            s->out = true;
            return;
        }
        cluster_counts[CLUSTER_FAILED]++;
        if (!s->disk_hurt && !s->damaged) world_violation("server %u ended with status %d for no reason", p->number, p->status);
        after += 500 * MS;
        break;
    }
    s->restarts++;
    world_at(world_now() + after, start, s, p->life);
}

/* ---- machines ------------------------------------------------------------------------------------------------- */

void cluster_empty(struct server *s)
{
    bool ran = s->process.running;
    s->loses_disk = ran;
    process_end(&s->process, PROCESS_POWER);
    if (!ran) lose_disk(s);
}

void cluster_wipe(struct server *s)
{
    cluster_empty(s);
    s->wiped = s->known = true;
    if (x.options.first == 1) s->joins = true; /* told to be a cluster of its own, it would be one: docs/OPERATIONS.md */
}

void cluster_join(struct server *s)
{
    bool ran = s->process.running;
    cluster_wipe(s);
    s->joins = true;
    s->spare = s->leaving = false;
    founders_added(s->process.number);
    if (!ran) world_at(world_now() + dice_between(&world_dice, 1, 500) * MS, start, s, s->process.life);
}

struct server *cluster_restored(void)
{
    return &x.servers[CLUSTER_RESTORED];
}

bool cluster_restore_failed(void)
{
    return x.restore_failed;
}

void cluster_restore_over(void)
{
    x.restore_failed = false;
}

void cluster_restore(const char *backup)
{
    x.restore_failed = x.of_damaged = false;
    for (unsigned i = 1; i <= x.options.n; i++) x.of_damaged = x.of_damaged || x.servers[i].damaged;
    struct server *s = cluster_restored();
    if (s->process.number == 0) process_init(&s->process, CLUSTER_RESTORED, true);
    s->process.on_end = on_end;
    snprintf(x.backup, sizeof x.backup, "%s", backup);
    fs_wipe(CLUSTER_RESTORED);
    check_forget(CLUSTER_RESTORED);
    start(s, s->process.life);
}

void cluster_begin(const struct cluster_options *options)
{
    size_t at = 0, all = 0;
    memset(&x, 0, sizeof x);
    memset(cluster_counts, 0, sizeof cluster_counts);
    x.options = *options;
    x.cut_at_copy = -1;
    founders_begin();
    snprintf(x.each[CLUSTER_RESTORED], sizeof x.each[0], "10.0.0.%u:%d", CLUSTER_RESTORED, CLUSTER_PORT);
    for (unsigned i = 1; i <= options->n; i++) {
        snprintf(x.each[i], sizeof x.each[i], options->by_name ? "logd-%u:%d" : "10.0.0.%u:%d", i, CLUSTER_PORT);
        if (i <= options->first) at += (size_t)snprintf(x.members + at, sizeof x.members - at, "%s%u=%s", i > 1 ? "," : "", i, x.each[i]);
        all += (size_t)snprintf(x.addresses + all, sizeof x.addresses - all, "%s%s", i > 1 ? "," : "", x.each[i]);
    }
    for (unsigned i = 1; i <= options->n; i++) {
        struct server *s = &x.servers[i];
        process_init(&s->process, i, true);
        s->process.on_end = on_end;
        int64_t drift = dice_chance(&world_dice, 100) ? 50000 : 200; /* a clock that is off by 5 % now and then */
        s->process.drift_ppm = (int64_t)dice_below(&world_dice, (uint64_t)(2 * drift)) - drift;
        s->process.wall_offset_us = (int64_t)dice_below(&world_dice, 4000000) - 2000000;
        check_clock(s->process.wall_offset_us);
        s->spare = i > options->first;
        if (!s->spare) world_at(dice_below(&world_dice, options->late_ms * MS), start, s, 0);
    }
}

void cluster_cut_at_copy(int io)
{
    x.cut_at_copy = io;
}

void cluster_crashed(void)
{
    if (plan_index_rots > 0) syscall(SYS_exit_group, CLUSTER_SPOILED);
}

void cluster_stop(struct server *s)
{
    if (s->node == NULL || !s->listens || s->asked_to_stop) return; /* a second signal would end it at once */
    s->asked_to_stop = true;
    uv_sim_raise(&s->signals.handles[0]);
}

/* ---- what is watched in logd ---------------------------------------------------------------------------------- */

enum watch { WATCH_APPLY, WATCH_HARD_STATE, WATCH_START, WATCH_COMPACT, WATCH_APPEND, WATCH_SEND, WATCH_LOG, WATCHES };
static bool watched[WATCHES]; /* called at all */

const char *cluster_unwatched(void)
{
    static const char *const names[WATCHES] = {"streams_apply", "wal_set_hard_state", "consensus_start", "wal_compact", "wal_append", "peers_send", "log_write"};
    for (unsigned i = 0; i < WATCHES; i++)
        if (!watched[i]) return names[i];
    return NULL;
}

static uint64_t hash(uint64_t h, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    for (; len > 0; p++, len--) h = (h ^ *p) * UINT64_C(0x100000001b3);
    return h;
}

static void look_at_retain(const struct streams *s, const struct streams_outcome *o)
{
    struct streams_info info;
    if ((o->type != FRAME_RETAIN && o->type != FRAME_TRIM) || o->code != ERROR_NONE || streams_info(s, o->stream_id, &info) != 0) return;
    int stream = workload_stream(info.name);
    if (stream < 0) return;
    if (o->type == FRAME_TRIM) check_trims((unsigned)stream, o->offset);
    else check_retained((unsigned)stream, o->offset, info.last_offset);
}

int __real_streams_apply(struct streams *s, uint64_t index, const void *data, size_t len, struct wal_location where,
                         struct streams_update *update, struct error *e);
int __wrap_streams_apply(struct streams *s, uint64_t index, const void *data, size_t len, struct wal_location where,
                         struct streams_update *update, struct error *e);
int __wrap_streams_apply(struct streams *s, uint64_t index, const void *data, size_t len, struct wal_location where,
                         struct streams_update *update, struct error *e)
{
    watched[WATCH_APPLY] = true;
    const struct process *p = process_current();
    int rv = __real_streams_apply(s, index, data, len, where, update, e);
    if (p->number == CLUSTER_RESTORED) {
        if (rv != 0) world_violation("the restored server cannot apply entry %" PRIu64, index);
        return rv;
    }
    const struct node *node = x.servers[p->number].node;
    if (node != NULL && node->wal != NULL && index > wal_persisted_index(node->wal))
        world_violation("server %u applies entry %" PRIu64 ", and its own disk has only those up to %" PRIu64, p->number, index, wal_persisted_index(node->wal));
    if (rv != 0) {
        if (!x.servers[p->number].damaged) world_violation("server %u cannot apply entry %" PRIu64, p->number, index);
        return rv;
    }
    uint64_t outcome = UINT64_C(0xcbf29ce484222325);
    for (unsigned i = 0; i < update->n_outcomes; i++) {
        const struct streams_outcome *o = &update->outcomes[i];
        uint64_t what[] = {o->type, o->code, o->stream_id, o->offset, o->count, o->duplicate, o->epoch, o->expected};
        outcome = hash(outcome, what, sizeof what);
        look_at_retain(s, o);
    }
    check_applied(p->number, p->life, index, hash(UINT64_C(0xcbf29ce484222325), data, len) | 1, outcome);
    return rv;
}

void __real_wal_replaced(struct wal *wal, uint64_t segment);
void __wrap_wal_replaced(struct wal *wal, uint64_t segment);
void __wrap_wal_replaced(struct wal *wal, uint64_t segment)
{
    const struct server *s = &x.servers[process_current()->number];
    if (!s->damaged && !s->disk_hurt) world_violation("server %u repairs segment %" PRIu64 ", and nobody damaged its disk", s->process.number, segment);
    cluster_repaired++;
    __real_wal_replaced(wal, segment);
}

int __real_wal_set_hard_state(struct wal *wal, uint64_t term, uint64_t vote, struct error *e);
int __wrap_wal_set_hard_state(struct wal *wal, uint64_t term, uint64_t vote, struct error *e);
int __wrap_wal_set_hard_state(struct wal *wal, uint64_t term, uint64_t vote, struct error *e)
{
    watched[WATCH_HARD_STATE] = true;
    int rv = __real_wal_set_hard_state(wal, term, vote, e);
    if (rv == 0) check_promised(process_current()->number, term, vote);
    return rv;
}

int __real_consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, struct consensus_base base, const uint64_t *terms, uint64_t n,
                           const struct blob *first, struct consensus_update *u, struct error *e);
int __wrap_consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, struct consensus_base base, const uint64_t *terms, uint64_t n,
                           const struct blob *first, struct consensus_update *u, struct error *e);
int __wrap_consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, struct consensus_base base, const uint64_t *terms, uint64_t n,
                           const struct blob *first, struct consensus_update *u, struct error *e)
{
    watched[WATCH_START] = true;
    check_started(process_current()->number, term, vote);
    return __real_consensus_start(c, now_ms, term, vote, base, terms, n, first, u, e);
}

int __real_wal_compact(struct wal *wal, uint64_t limit, const void *note, size_t note_len, struct error *e);
int __wrap_wal_compact(struct wal *wal, uint64_t limit, const void *note, size_t note_len, struct error *e);
int __wrap_wal_compact(struct wal *wal, uint64_t limit, const void *note, size_t note_len, struct error *e)
{
    watched[WATCH_COMPACT] = true;
    const struct server *s = &x.servers[process_current()->number];
    if (s->node != NULL && limit > index_applied(s->node->index))
        world_violation("server %u lets entries up to %" PRIu64 " go, but its index has durably applied %" PRIu64, s->process.number, limit, index_applied(s->node->index));
    return __real_wal_compact(wal, limit, note, note_len, e);
}

int __real_wal_append(struct wal *wal, const struct wal_entry *entries, unsigned n);
int __wrap_wal_append(struct wal *wal, const struct wal_entry *entries, unsigned n);
int __wrap_wal_append(struct wal *wal, const struct wal_entry *entries, unsigned n)
{
    watched[WATCH_APPEND] = true;
    if (n > 0) founders_entry(process_current()->number, entries[0].index, entries[0].payload->data, entries[0].payload->len);
    return __real_wal_append(wal, entries, n);
}

int __real_index_copy(struct index *index, const char *dir, struct error *e);
int __wrap_index_copy(struct index *index, const char *dir, struct error *e);
int __wrap_index_copy(struct index *index, const char *dir, struct error *e)
{
    struct process *p = process_current();
    if (x.cut_at_copy >= 0 && p->number <= x.options.n) {
        p->die_at_io = (uint64_t)x.cut_at_copy;
        p->die_with_power = true;
        x.cut_at_copy = -1;
    }
    return __real_index_copy(index, dir, e);
}

void __real_peers_send(struct peers *peers, const struct consensus_message *m);
void __wrap_peers_send(struct peers *peers, const struct consensus_message *m);
void __wrap_peers_send(struct peers *peers, const struct consensus_message *m)
{
    watched[WATCH_SEND] = true;
    unsigned self = process_current()->number;
    bool runs = m->type == CONSENSUS_REQUEST_VOTE && !m->request_vote.pre_vote;
    bool grants = m->type == CONSENSUS_REQUEST_VOTE_RESULT && m->request_vote_result.granted && !m->request_vote_result.pre_vote;
    if (runs || grants) founders_votes(self);
    if (runs) check_votes(self, m->term, self);
    if (grants) check_votes(self, m->term, m->to);
    __real_peers_send(peers, m);
}

void __wrap_log_write(enum log_level level, const char *message, const char *fields, ...);
void __wrap_log_write(enum log_level level, const char *message, const char *fields, ...)
{
    watched[WATCH_LOG] = true;
    char text[800] = "";
    const struct process *p = process_current();
    static const char *const names[] = {"debug", "info", "warn", "error"};
    va_list args;
    if (strcmp(message, "events were moved out of sparse segments") == 0) cluster_moves++;
    if (strcmp(message, "ready") == 0 && p != NULL && p->is_node && !uv_is_active((const uv_handle_t *)&x.servers[p->number].signals.handles[0]))
        world_violation("server %u says that it is ready, and a SIGTERM would kill it", p->number);
    if (strcmp(message, "this server has no log, and the cluster does not take it as it is: it waits to be added") == 0 && p != NULL) x.servers[p->number].refused = true;
    if (strncmp(message, "the state is fetched from another server", 40) == 0 && p != NULL) plan_fetches(p->number);
    if (strcmp(message, "the cluster cannot be founded") == 0 && p != NULL) founders_complained(p->number);
    bool blames = strcmp(message, "the index is damaged") == 0 || strcmp(message, "a row of the index is wrong") == 0;
    if (blames && p != NULL && p->number != CLUSTER_RESTORED && !x.servers[p->number].damaged && !x.servers[p->number].disk_hurt)
        world_violation("L6: server %u says that its index is damaged, and it is not", p->number);
    if (fields != NULL) {
        va_start(args, fields);
        vsnprintf(text, sizeof text, fields, args);
        va_end(args);
    }
    world_trace("%s %u: %s: %s %s", p != NULL && p->is_node ? "server" : "client", p == NULL ? 0 : p->number, names[level], message, text);
}
