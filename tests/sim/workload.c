#include "tests/sim/workload.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "client/crsc.h"
#include "tests/sim/admin.h"
#include "tests/sim/check.h"
#include "tests/sim/cluster.h"
#include "tests/sim/linear.h"
#include "tests/sim/net.h"

enum { VALID = 8 };

struct client;

struct operation { /* of the operator: one at a time */
    struct client *client;
    bool busy;
    unsigned stream;
    enum { SNAPSHOT, UNSNAPSHOT, TRIM, FENCE, POLICY, LOOK, LATEST, STATUS } kind;
    int handle;
    uint64_t argument, asked_at;
};

static struct client {
    struct process process;
    unsigned index, stream;
    uv_loop_t loop;
    uv_timer_t append_timer, operate_timer, follow_timer;
    struct crsc_client *crsc;
    struct crsc_producer *producer;
    struct crsc_follow *follow;
    bool open, opening;
    int open_handle;
    uint64_t epoch, following;
    unsigned followed; /* stream: the producer's own may change */
    struct operation operation;
    bool marked;              /* after workload_calm(): its last append was begun, */
    uint64_t mark;            /* this one, */
    bool mark_acknowledged;   /* and acknowledged */
} clients[WORKLOAD_CLIENTS];

struct ticket { /* of an append: what its callback needs to know */
    struct client *client;
    uint64_t number;
    unsigned stream;
};
static struct ticket tickets[CHECK_APPENDS];

static struct {
    unsigned n;
    uint32_t pause_ms, size_max;
    bool calm;
    uint64_t last[CHECK_STREAMS];          /* highest offset acknowledged */
    struct valid {
        uint64_t at[VALID];
        unsigned n;
    } valid[CHECK_STREAMS]; /* snapshots known to be valid, the oldest first */
    uint64_t first[CHECK_STREAMS];
    uint64_t trimmed[CHECK_STREAMS]; /* asked for, the highest */
    struct check_policy policies[CHECK_STREAMS];
} x;
uint64_t workload_counts[8];
static const char *const names[CHECK_STREAMS] = {"sim/default/Deployment/a", "sim/default/Deployment/b"};

/* ---- producing ------------------------------------------------------------------------------------------------ */

static void on_append_time(uv_timer_t *timer);

static void later(uv_timer_t *timer, uv_timer_cb cb, uint32_t mean_ms)
{
    uv_timer_start(timer, cb, 1 + dice_below(&world_dice, 2 * (uint64_t)mean_ms), 0);
}

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct ticket *t = user;
    struct client *c = t->client;
    if (e != NULL) {
        world_trace_cheap(10, t->number, e->code);
        check_failed(t->number);
        if (c->marked && c->mark == t->number) c->marked = false; /* another one */
        return;
    }
    world_trace_cheap(11, t->number, offset);
    check_acknowledged(t->number, offset);
    if (offset > x.last[t->stream]) x.last[t->stream] = offset;
    if (c->marked && c->mark == t->number) c->mark_acknowledged = true;
}

static void drop_producer(struct client *c)
{
    struct crsc_producer *p = c->producer;
    c->producer = NULL;
    c->open = c->opening = false;
    if (p != NULL) crsc_producer_close(p);
}

static void on_broken(void *user, const struct error *e)
{
    struct client *c = user;
    workload_counts[WORKLOAD_BROKEN]++;
    world_trace("client %u: its producer is broken: %s", c->process.number, e->text);
    drop_producer(c);
    if (c->index == 2) uv_timer_start(&c->append_timer, on_append_time, dice_between(&world_dice, 1000, 8000), 0); /* leaves the others alone for a while */
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last_offset)
{
    struct client *c = user;
    c->opening = false;
    if (e != NULL) {
        world_trace("client %u: cannot open: %s", c->process.number, e->text);
        drop_producer(c);
        return;
    }
    world_trace("client %u: stream %u is open with epoch %" PRIu64 ", last offset %" PRIu64, c->process.number, c->stream, epoch, last_offset);
    workload_counts[WORKLOAD_OPENS]++;
    linear_respond(c->stream, c->open_handle, epoch);
    check_fenced(c->stream, epoch);
    c->open = true;
    c->epoch = epoch;
}

static void append_one(struct client *c)
{
    uint8_t payload[4096];
    uint64_t number = check_append(c->stream, c->index, c->epoch);
    if (number == UINT64_MAX) return;
    size_t size = (size_t)dice_between(&world_dice, CHECK_PAYLOAD, x.size_max);
    check_append_payload(number, c->stream, payload, size);
    tickets[number] = (struct ticket){c, number, c->stream};
    struct crsc_event event = {.kind = CRSC_REQUEST, .payload = payload, .size = (uint32_t)size};
    if (x.calm) {
        c->marked = true;
        c->mark = number;
    }
    if (crsc_append(c->producer, &event, on_appended, &tickets[number]) != 0) {
        check_failed(number);
        if (x.calm) c->marked = false;
    }
}

static void on_append_time(uv_timer_t *timer)
{
    struct client *c = timer->data;
    struct error e;
    later(timer, on_append_time, x.pause_ms);
    if (x.calm && c->marked) return;
    if (c->open) {
        for (uint64_t n = x.calm || dice_chance(&world_dice, 900) ? 1 : dice_between(&world_dice, 2, 12); n > 0 && c->producer != NULL; n--) append_one(c);
        if (!x.calm && dice_chance(&world_dice, 5)) drop_producer(c);
    } else if (!c->opening) {
        char name[32];
        snprintf(name, sizeof name, "client-%u", c->process.number);
        c->opening = true;
        c->open_handle = linear_invoke(c->stream, LINEAR_OPEN, 0);
        if (!x.calm && WORKLOAD_CLIENTS > 1 && c->index == 2 && dice_chance(&world_dice, 500)) c->stream = 1 - c->stream, c->open_handle = -1;
        if (crsc_producer_open(c->crsc, names[c->stream], name, false, on_opened, on_broken, c, &c->producer, &e) != 0) c->opening = false;
    }
}

/* ---- following ------------------------------------------------------------------------------------------------ */

static void on_follow_time(uv_timer_t *timer);

static void on_followed(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset)
{
    struct client *c = user;
    (void)last_offset;
    for (size_t i = 0; i < n; i++) {
        if (events[i].offset != c->following)
            world_violation("L2: a follower of stream %u got offset %" PRIu64 " where %" PRIu64 " was to come", c->followed, events[i].offset, c->following);
        c->following++;
        check_event("a follower", c->followed, events[i].offset, events[i].payload, events[i].size);
    }
    if (e == NULL) return;
    crsc_follow_cancel(c->follow);
    c->follow = NULL;
    later(&c->follow_timer, on_follow_time, 1000);
}

static void on_follow_time(uv_timer_t *timer)
{
    struct client *c = timer->data;
    later(timer, on_follow_time, 15000);
    if (c->follow != NULL) crsc_follow_cancel(c->follow);
    c->follow = NULL;
    c->followed = c->stream;
    c->following = x.first[c->followed] > 1 ? x.first[c->followed] : 1;
    if (c->following < x.last[c->followed] && dice_chance(&world_dice, 500)) c->following = dice_between(&world_dice, c->following, x.last[c->followed]);
    if (!x.calm) crsc_follow(c->crsc, names[c->followed], c->following, on_followed, c, &c->follow);
}

/* ---- operating ------------------------------------------------------------------------------------------------ */

/* Without an answer nothing is known, but for what the state of the stream forbade for certain. */
static bool unknown(const struct operation *o, const struct error *e)
{
    if (e == NULL) return false;
    world_trace("client %u: operation %u refused: %s", o->client->process.number, (unsigned)o->kind, e->text);
    return true;
}

static void on_fenced(void *user, const struct error *e, uint64_t epoch)
{
    struct operation *o = user;
    o->busy = false;
    if (unknown(o, e)) return;
    linear_respond(o->stream, o->handle, epoch);
    check_fenced(o->stream, epoch);
    workload_counts[WORKLOAD_FENCES]++;
}

static void on_trimmed(void *user, const struct error *e, uint64_t first_offset)
{
    struct operation *o = user;
    o->busy = false;
    if (unknown(o, e)) return;
    check_trimmed(o->stream, o->asked_at, first_offset);
    if (first_offset > x.first[o->stream]) x.first[o->stream] = first_offset;
    workload_counts[WORKLOAD_TRIMS]++;
}

static void on_recorded(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct operation *o = user;
    struct valid *v = &x.valid[o->stream];
    (void)snapshots, (void)n;
    o->busy = false;
    if (o->kind == UNSNAPSHOT && v->n > 0 && v->at[0] == o->argument && (e == NULL || e->code == ERROR_CONFLICT))
        memmove(v->at, v->at + 1, --v->n * sizeof *v->at);
    if (unknown(o, e)) return;
    linear_respond(o->stream, o->handle, 0);
    workload_counts[WORKLOAD_SNAPSHOTS]++;
    if (o->kind != SNAPSHOT) return;
    check_snapshot_valid(o->stream, o->argument);
    v->at[v->n++] = o->argument;
}

static void on_latest(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct operation *o = user;
    o->busy = false;
    if (e != NULL && e->code != ERROR_NOT_FOUND) {
        unknown(o, e);
        return;
    }
    linear_respond(o->stream, o->handle, e != NULL || n == 0 ? 0 : snapshots[0].offset);
    workload_counts[WORKLOAD_READS]++;
}

static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    struct operation *o = user;
    o->busy = false;
    if (unknown(o, e)) return;
    check_status(o->asked_at, status->applied_index, status->commit_index);
    workload_counts[WORKLOAD_READS]++;
}

static void on_policy(void *user, const struct error *e)
{
    struct operation *o = user;
    o->busy = false;
    unknown(o, e);
}

/* What a policy did. */
static void on_looked(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct operation *o = user;
    o->busy = false;
    if (unknown(o, e) || n == 0) return;
    uint64_t first = streams[0].first_offset;
    check_first("who looks at it", o->stream, first);
    if (first <= x.first[o->stream]) return;
    x.first[o->stream] = first;
    if (first > x.trimmed[o->stream] + 1) workload_counts[WORKLOAD_RETAINED]++;
}

static bool has_policy(unsigned stream)
{
    const struct check_policy *p = &x.policies[stream];
    return p->keep > 0 || p->age_us > 0 || p->bytes > 0;
}

static int set_policy(struct operation *o)
{
    const struct check_policy *p = &x.policies[o->stream];
    struct crsc_retention r = {0};
    if (!check_has_policy(o->stream) || dice_chance(&world_dice, 700)) {
        r = (struct crsc_retention){.keep_snapshots = p->keep, .max_age_us = p->age_us, .max_bytes = p->bytes, .beyond_snapshots = p->beyond};
        check_policy_asked(o->stream, p);
    }
    return crsc_set_retention(o->client->crsc, names[o->stream], &r, on_policy, o);
}

static int trim(struct operation *o)
{
    const struct valid *v = &x.valid[o->stream];
    /* One that goes as far as it may would hide what a policy does. */
    o->argument = v->n > 0 && (has_policy(o->stream) || dice_chance(&world_dice, 700)) ? v->at[0] : dice_between(&world_dice, 1, x.last[o->stream]);
    check_trim_asked(o->stream, o->argument);
    if (o->argument > x.trimmed[o->stream]) x.trimmed[o->stream] = o->argument;
    return crsc_trim(o->client->crsc, names[o->stream], o->argument, false, on_trimmed, o);
}

static void record(struct operation *o, enum crsc_snapshot_state state)
{
    char id[32];
    snprintf(id, sizeof id, "at-%" PRIu64, o->argument);
    struct crsc_snapshot s = {.stream = names[o->stream], .id = id, .offset = o->argument, .state = state, .image = "registry.example/a@x",
                              .sha256 = "00", .node = "n", .template_hash = "t", .size = 1};
    if (state == CRSC_VALID) check_snapshot_asked(o->stream, o->argument);
    if (state == CRSC_VALID) o->handle = linear_invoke(o->stream, LINEAR_RECORD, o->argument);
    else check_snapshot_deleting(o->stream, o->argument);
    if (crsc_record_snapshot(o->client->crsc, &s, on_recorded, o) != 0) o->busy = false;
}

/* Client 0 and 1 write the snapshots of their own stream; anyone asks. */
static void on_operate_time(uv_timer_t *timer)
{
    struct client *c = timer->data;
    struct operation *o = &c->operation;
    later(timer, on_operate_time, c->index == 2 ? 150 : 700);
    if (o->busy || x.calm) return;
    unsigned stream = c->index < 2 ? c->index : (unsigned)dice_below(&world_dice, CHECK_STREAMS);
    *o = (struct operation){.client = c, .busy = true, .stream = stream, .handle = -1, .asked_at = world_now()};
    const struct valid *v = &x.valid[stream];
    uint64_t choice = dice_below(&world_dice, 100);
    if (c->index == 2 && choice < 90) choice = 99; /* looks often: a stale answer must meet a newer one */
    int rv = 0;
    if (choice < 25 && c->index < 2 && v->n < VALID && x.last[stream] > (v->n > 0 ? v->at[v->n - 1] : 0)) {
        o->kind = SNAPSHOT;
        o->argument = x.last[stream];
        record(o, CRSC_VALID);
    } else if (choice < 40 && c->index < 2 && v->n > 1) {
        o->kind = UNSNAPSHOT;
        o->argument = v->at[0];
        record(o, CRSC_DELETED);
    } else if (choice < 55 && c->index < 2 && x.last[stream] > 1 && (!has_policy(stream) || v->n > 0)) {
        o->kind = TRIM;
        rv = trim(o);
    } else if (choice < 58 && x.last[stream] > 0) {
        o->kind = FENCE;
        o->argument = c->epoch + dice_below(&world_dice, 2);
        if (o->argument == 0) o->argument = 1;
        o->handle = linear_invoke(stream, LINEAR_FENCE, o->argument);
        rv = crsc_fence(c->crsc, names[stream], o->argument, on_fenced, o);
    } else if (choice < 61 && c->index < 2 && x.last[stream] > 0 && has_policy(stream)) {
        o->kind = POLICY;
        rv = set_policy(o);
    } else if (choice < 67 && x.last[stream] > 0 && has_policy(stream)) {
        o->kind = LOOK;
        rv = crsc_list_streams(c->crsc, names[stream], on_looked, o);
    } else if (choice < 80 && x.last[stream] > 0) {
        o->kind = LATEST;
        if (!x.policies[stream].beyond) o->handle = linear_invoke(stream, LINEAR_LATEST, 0); /* else the newest may be of no use */
        rv = crsc_latest_snapshot(c->crsc, names[stream], NULL, on_latest, o);
    } else {
        o->kind = STATUS;
        rv = crsc_status(c->crsc, NULL, on_status, o);
    }
    if (rv != 0) o->busy = false;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void run_client(void *arg)
{
    struct client *c = arg;
    struct error e;
    struct crsc_client_options options = {.servers = cluster_addresses(), .software = "sim", .timeout_ms = 15000};
    uv_loop_init(&c->loop);
    if (crsc_client_new(&c->loop, &options, &c->crsc, &e) != 0) world_violation("a client cannot be made: %s", e.text);
    uv_timer_init(&c->loop, &c->append_timer);
    uv_timer_init(&c->loop, &c->operate_timer);
    uv_timer_init(&c->loop, &c->follow_timer);
    c->append_timer.data = c->operate_timer.data = c->follow_timer.data = c;
    later(&c->append_timer, on_append_time, x.pause_ms);
    later(&c->operate_timer, on_operate_time, 1500);
    if (c->index != 1) later(&c->follow_timer, on_follow_time, 3000);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    world_violation("client %u: its loop ended", c->process.number);
}

static void start(void *arg, uint64_t life)
{
    struct client *c = arg;
    if (c->process.running || c->process.life != life) return;
    c->producer = NULL;
    c->follow = NULL;
    c->open = c->opening = c->marked = false;
    c->operation.busy = false;
    net_machine_up(c->process.number);
    process_start(&c->process, run_client, c);
}

static void on_end(struct process *p)
{
    struct client *c = &clients[p->number - WORKLOAD_FIRST];
    if (p->status != PROCESS_KILLED) world_violation("client %u ended with status %d", p->number, p->status);
    workload_counts[WORKLOAD_KILLS]++;
    world_at(world_now() + dice_between(&world_dice, 100, 3000) * MS, start, c, p->life);
}

static void forget_audit(void);

void workload_begin(unsigned n_clients, uint32_t pause_ms, uint32_t size_max, const struct check_policy *policies)
{
    memset(&x, 0, sizeof x);
    memset(clients, 0, sizeof clients);
    memset(workload_counts, 0, sizeof workload_counts);
    forget_audit();
    x.n = n_clients;
    x.pause_ms = pause_ms;
    x.size_max = size_max;
    memcpy(x.policies, policies, sizeof x.policies);
    for (unsigned i = 0; i < n_clients; i++) {
        struct client *c = &clients[i];
        c->index = i;
        c->stream = i % CHECK_STREAMS;
        process_init(&c->process, WORKLOAD_FIRST + i, false);
        c->process.on_end = on_end;
        world_at(dice_below(&world_dice, SECOND), start, c, 0);
    }
}

int workload_stream(const char *name)
{
    for (int i = 0; i < CHECK_STREAMS; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

void workload_kill(unsigned client)
{
    if (client < x.n) process_end(&clients[client].process, PROCESS_KILLED);
}

void workload_calm(void)
{
    x.calm = true;
}

static const struct client *waiting(void)
{
    for (unsigned i = 0; i < x.n; i++)
        if (!clients[i].mark_acknowledged || clients[i].operation.busy) return &clients[i];
    return NULL;
}

bool workload_is_done(void)
{
    return waiting() == NULL;
}

const char *workload_waits_for(void)
{
    static char text[160];
    const struct client *c = waiting();
    if (c == NULL) return "nothing";
    snprintf(text, sizeof text, "client %u: %s", c->process.number,
             !c->mark_acknowledged ? (c->open ? "an append is not acknowledged" : "its producer cannot open") : "an operation has no answer");
    return text;
}

/* ---- the audit ------------------------------------------------------------------------------------------------ */

static struct auditor {
    struct process process;
    uv_loop_t loop;
    uv_timer_t timer;
    struct crsc_client *crsc;
    const struct check_mark *backup; /* NULL: the cluster is audited */
    unsigned server, stream;
    uint64_t first, next, last;
    bool done;
} auditor;

static void forget_audit(void)
{
    memset(&auditor, 0, sizeof auditor);
}

static void next_stream(struct auditor *a);

static void on_read(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset);

static void read_on(struct auditor *a)
{
    if (a->next > a->last) {
        char who[32];
        snprintf(who, sizeof who, "server %u", a->server);
        if (a->backup != NULL) check_backup(a->backup, a->stream, a->first, a->last);
        else check_replica(who, a->stream, a->first, a->last);
        a->stream++;
        next_stream(a);
    } else {
        crsc_read(a->crsc, names[a->stream], a->next, a->last, 0, on_read, a);
    }
}

static void on_retry(uv_timer_t *timer)
{
    next_stream(timer->data);
}

static void on_read(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset)
{
    struct auditor *a = user;
    char who[32];
    snprintf(who, sizeof who, "server %u", a->server);
    (void)last_offset;
    if (e != NULL) {
        if (cluster_server(a->server)->damaged) { /* it says so, which is all that it can do */
            a->stream++;
            next_stream(a);
            return;
        }
        /* What a policy trimmed since we were told where the stream begins is not lost; we are told again. */
        if (e->code == ERROR_CORRUPT || (e->code == ERROR_NOT_FOUND && !has_policy(a->stream)))
            world_violation("L1: %s cannot read offset %" PRIu64 " of stream %u, [%" PRIu64 ", %" PRIu64 "]: %s", who, a->next, a->stream, a->first, a->last, e->text);
        uv_timer_start(&a->timer, on_retry, 500, 0);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (events[i].offset != a->next)
            world_violation("L2: %s gave offset %" PRIu64 " of stream %u where %" PRIu64 " was to come", who, events[i].offset, a->stream, a->next);
        check_event(who, a->stream, events[i].offset, events[i].payload, events[i].size);
        a->next++;
    }
    if (n == 0) world_violation("L2: %s gave nothing from offset %" PRIu64 " of stream %u on, which ends at %" PRIu64, who, a->next, a->stream, a->last);
    read_on(a);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct auditor *a = user;
    if (e != NULL) {
        uv_timer_start(&a->timer, on_retry, 500, 0);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, names[a->stream]) != 0) continue;
        a->first = a->next = streams[i].first_offset;
        a->last = streams[i].last_offset;
        check_first(a->backup != NULL ? "a backup" : "a server", a->stream, a->first);
        read_on(a);
        return;
    }
    a->first = a->next = 1;
    a->last = 0;
    read_on(a);
}

static void next_server(struct auditor *a)
{
    struct error e;
    a->crsc = NULL;
    if (a->backup != NULL) {
        a->done = a->server == CLUSTER_RESTORED;
        a->server = CLUSTER_RESTORED;
    } else {
        do a->server++;
        while (a->server <= cluster_size() && (!admin_is_member(a->server) || cluster_server(a->server)->out || cluster_server(a->server)->held_down));
        a->done = a->server > cluster_size();
    }
    if (a->done) return;
    struct crsc_client_options options = {.servers = cluster_address(a->server), .software = "audit", .timeout_ms = 10000, .fixed = true};
    a->stream = 0;
    if (crsc_client_new(&a->loop, &options, &a->crsc, &e) != 0) world_violation("a client cannot be made: %s", e.text);
    next_stream(a);
}

static void on_closed(void *user)
{
    next_server(user);
}

static void next_stream(struct auditor *a)
{
    if (a->stream < CHECK_STREAMS) crsc_list_streams(a->crsc, names[a->stream], on_streams, a);
    else crsc_client_close(a->crsc, on_closed, a);
}

static void run_audit(void *arg)
{
    struct auditor *a = arg;
    uv_loop_init(&a->loop);
    uv_timer_init(&a->loop, &a->timer);
    a->timer.data = a;
    next_server(a);
    uv_run(&a->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&a->timer, NULL);
    uv_run(&a->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&a->loop) != 0) world_violation("libcrsc left something open in its loop");
    if (process_live_blocks(&a->process) != 0) world_violation("libcrsc left %" PRIu64 " blocks of memory", process_live_blocks(&a->process));
    process_end(&a->process, 0);
}

static void audit_ended(struct process *p)
{
    (void)p;
}

void workload_audit(const struct check_mark *backup)
{
    struct process process = auditor.process;
    memset(&auditor, 0, sizeof auditor);
    auditor.backup = backup;
    auditor.process = process;
    if (process.number == 0) process_init(&auditor.process, WORKLOAD_AUDITOR, false);
    auditor.process.on_end = audit_ended;
    process_start(&auditor.process, run_audit, &auditor);
}

bool workload_audited(void)
{
    return auditor.done && !auditor.process.running;
}
