/* Clusters of up to 5 in one process, with fake disks, a fake network and one seeded scheduler that crashes and restarts
 * servers, loses what was not synced, drops, delays, doubles and reorders messages, cuts the network, hands leadership over, lets the
 * log begin later, and adds, promotes and removes servers; who was removed comes back with an empty disk. After every
 * event: no committed entry differs, moves or vanishes, each is on the disks of a majority of the voters, terms have one leader, reads
 * confirmed by read_index see everything committed before they were asked. After healing: the cluster goes on, all members catch up, and
 * the membership can be changed.
 *
 *   test_consensus [SEEDS [FIRST]]      default 300 seeds from 1; a failure prints its seed */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logd/consensus/consensus.h"
#include "logd/consensus/raft_codec.h"
#include "logd/consensus/read_index.h"

enum { N_MAX = 5, LOG_MAX = 8192, NET_MAX = 4096, RUN_MS = 6000, HEAL_MS = 6000, OPS_MAX = 512, TERMS_MAX = 4096,
       MEMBERSHIPS_MAX = 4096 };

struct item {
    uint64_t term, value; /* value: unique per submitted command; 0 for barriers; of a CHANGE, which of sim.memberships */
    uint32_t type;
};

struct op { /* one queued write, as the wal sees it */
    uint64_t first, due;
    unsigned n;
    struct item *items;
};

struct node {
    struct consensus *c; /* NULL while it is down */
    struct item log[LOG_MAX], disk[LOG_MAX]; /* [i]: index i + 1; log is what was queued, disk what was synced */
    uint64_t n_log, n_disk, term, vote, applied;
    uint64_t durable;  /* applied as of some moment before a crash: what the index on disk says */
    uint64_t instance; /* of its disk */
    uint64_t base; /* entries up to it are not in its log any more; they stay here, to be compared */
    struct op ops[OPS_MAX];
    unsigned n_ops;
    struct read_index reads;
    uint64_t read_round, read_floor; /* the one outstanding read: what was committed when it was asked */
    unsigned group;                  /* of the network */
    bool must_rebuild;               /* the last event's outcome */
};

struct packet {
    struct consensus_message m;
    struct item *items;
    uint64_t due;
    uint64_t probe; /* round, 0: a Raft message */
    bool reply;
    uint64_t probe_term;
    unsigned from, to;
    uint64_t from_instance, to_instance;
};

static struct {
    uint64_t rng, now, seed;
    unsigned n; /* servers there are; members or not */
    bool faults, changes;
    struct node nodes[N_MAX];
    struct packet net[NET_MAX];
    unsigned n_net;
    struct item committed[LOG_MAX];
    uint64_t n_committed, next_value, reads_confirmed, leaders, crashes, rebuilds;
    uint64_t instances, added, promoted, removed, wiped;
    struct blob *memberships[MEMBERSHIPS_MAX]; /* payloads of CHANGE entries */
    unsigned n_memberships;
    uint64_t leader_of_term[TERMS_MAX];
} sim;

#define check(condition, ...)                                                                                         \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "seed %llu, n %u, at %llu ms: ", (unsigned long long)sim.seed, sim.n,                     \
                    (unsigned long long)sim.now);                                                                     \
            fprintf(stderr, __VA_ARGS__);                                                                             \
            fprintf(stderr, "\n");                                                                                    \
            fail();                                                                                                   \
        }                                                                                                             \
    } while (0)

static uint64_t dice(uint64_t below)
{
    sim.rng ^= sim.rng << 13;
    sim.rng ^= sim.rng >> 7;
    sim.rng ^= sim.rng << 17;
    return sim.rng % below;
}

static struct consensus_options options_of(unsigned i)
{
    return (struct consensus_options){.id = i + 1, .instance = sim.nodes[i].instance, .election_ms = 150,
                                      .heartbeat_ms = 30, .max_in_flight = 64, .seed = (uint32_t)dice(1u << 31)};
}

static bool same(const struct item *a, const struct item *b)
{
    return a->term == b->term && a->value == b->value && a->type == b->type;
}

/* ---- memberships ---- */

static uint64_t membership_number(const struct blob *payload)
{
    for (unsigned i = 0; i < sim.n_memberships; i++)
        if (sim.memberships[i]->len == payload->len && memcmp(sim.memberships[i]->data, payload->data, payload->len) == 0) return i;
    check(sim.n_memberships < MEMBERSHIPS_MAX, "more memberships than the simulator holds");
    struct blob *copy = blob_new(payload->len);
    memcpy(copy->data, payload->data, payload->len);
    sim.memberships[sim.n_memberships] = copy;
    return sim.n_memberships++;
}

static struct membership membership_of(uint64_t number)
{
    struct membership m;
    check(membership_decode(sim.memberships[number]->data, sim.memberships[number]->len, &m) == 0, "a membership cannot be decoded");
    return m;
}

static struct membership newest_committed(void)
{
    uint64_t k = sim.n_committed;
    while (sim.committed[k - 1].type != CONSENSUS_CHANGE) k--;
    return membership_of(sim.committed[k - 1].value);
}

/* As the servers do it (logd/server/members.h): a removed disk is refused, and so is one that is not the noted one. But our membership may be an
 * old one: who is not led otherwise listens to a server that it does not know, and counts nothing that it says. */
static bool admits(const struct node *node, const struct packet *p)
{
    const struct membership_server *s = membership_find(consensus_membership(node->c), p->from + 1);
    uint64_t leader = consensus_leader(node->c);
    if (membership_was_removed(consensus_settled(node->c, NULL), p->from + 1, p->from_instance)) return false;
    if (s != NULL && (s->instance == 0 || s->instance == p->from_instance)) return true;
    if (leader != 0 && leader != p->from + 1) return false;
    return p->probe == 0 && (p->m.type == CONSENSUS_APPEND_ENTRIES || p->m.type == CONSENSUS_REQUEST_VOTE || p->m.type == CONSENSUS_SNAPSHOT_OFFER);
}

/* ---- disk ---- */

static void op_apply(struct node *node, const struct op *op)
{
    node->n_disk = op->first - 1; /* a replaced suffix goes first, durably */
    for (unsigned k = 0; k < op->n; k++) node->disk[node->n_disk++] = op->items[k];
}

static void op_drop_first(struct node *node)
{
    free(node->ops[0].items);
    memmove(&node->ops[0], &node->ops[1], sizeof node->ops[0] * --node->n_ops);
}

/* ---- network ---- */

static void post(struct packet p)
{
    p.from_instance = sim.nodes[p.from].instance;
    p.to_instance = sim.nodes[p.to].instance;
    if (sim.faults && dice(100) < 8) {
        free(p.items);
        return;
    }
    p.due = sim.now + 1 + dice(sim.faults ? 40 : 3);
    bool twice = sim.faults && dice(100) < 3;
    for (int copy = 0; copy <= (int)twice; copy++) {
        struct packet q = p;
        if (copy == 1) {
            q.due += dice(60);
            if (p.m.type == CONSENSUS_APPEND_ENTRIES && p.items != NULL) {
                q.items = malloc(sizeof *q.items * p.m.append.n);
                memcpy(q.items, p.items, sizeof *q.items * p.m.append.n);
            }
        }
        if (sim.n_net == NET_MAX) free(q.items);
        else sim.net[sim.n_net++] = q;
    }
}

static void send_message(unsigned i, const struct consensus_message *m)
{
    struct node *node = &sim.nodes[i];
    struct packet p = {.m = *m, .from = i, .to = (unsigned)m->to - 1};
    if (m->type == CONSENSUS_APPEND_ENTRIES && m->append.n > 0) {
        check(m->append.prev_index >= node->base, "asked to send entries that are gone");
        check(m->append.prev_index + m->append.n <= node->n_log, "asked to send entries that are not there");
        if (sim.faults && dice(4) == 0) p.m.append.n = 1 + (uint32_t)dice(m->append.n); /* a shell may send less */
        p.items = malloc(sizeof *p.items * p.m.append.n);
        memcpy(p.items, &node->log[m->append.prev_index], sizeof *p.items * p.m.append.n);
    }
    post(p);
}

/* ---- what must hold ---- */

static void check_committed(unsigned i, uint64_t upto)
{
    struct node *node = &sim.nodes[i];
    if (upto > node->n_log) upto = node->n_log; /* a follower may hear of a commit before it has the entry */
    for (uint64_t k = sim.n_committed; k < upto; k++) {
        const struct membership *m = consensus_membership(node->c);
        unsigned copies = 0;
        for (unsigned j = 0; j < sim.n; j++)
            copies += membership_votes(m, j + 1) && sim.nodes[j].n_disk > k && same(&sim.nodes[j].disk[k], &node->log[k]);
        check(k == 0 || copies * 2 > membership_voters(m), "entry %llu is called committed by server %u, with %u copies on disk",
              (unsigned long long)k + 1, i + 1, copies);
        sim.committed[k] = node->log[k];
        sim.n_committed = k + 1;
    }
    for (uint64_t k = node->applied; k < upto; k++)
        check(same(&node->log[k], &sim.committed[k]), "server %u: entry %llu differs from the committed one", i + 1,
              (unsigned long long)k + 1);
}

static void perform(unsigned i, const struct consensus_update *u)
{
    struct node *node = &sim.nodes[i];
    node->must_rebuild = u->rebuild;
    if (u->hard_state) {
        check(u->term > node->term || (u->term == node->term && (node->vote == 0 || node->vote == u->vote)),
              "server %u goes from term %llu vote %llu to term %llu vote %llu", i + 1, (unsigned long long)node->term,
              (unsigned long long)node->vote, (unsigned long long)u->term, (unsigned long long)u->vote);
        node->term = u->term;
        node->vote = u->vote;
    }
    if (u->n_entries > 0) {
        check(u->first_index >= 1 && u->first_index <= node->n_log + 1, "a hole before entry %llu", (unsigned long long)u->first_index);
        check(u->first_index > node->applied, "applied entry %llu is replaced", (unsigned long long)u->first_index);
        struct op *op = &node->ops[node->n_ops++];
        check(node->n_ops < OPS_MAX, "more writes under way than the simulator holds");
        *op = (struct op){u->first_index, sim.now + dice(sim.faults ? 30 : 2), u->n_entries, NULL};
        op->items = malloc(sizeof *op->items * u->n_entries);
        node->n_log = u->first_index - 1;
        for (unsigned k = 0; k < u->n_entries; k++) {
            struct item item = {u->entries[k].term, 0, u->entries[k].type};
            if (item.type == CONSENSUS_CHANGE) item.value = membership_number(u->entries[k].payload);
            if (item.type == CONSENSUS_COMMAND) memcpy(&item.value, u->entries[k].payload->data, sizeof item.value);
            op->items[k] = node->log[node->n_log++] = item;
        }
    }
    for (unsigned k = 0; k < u->n_messages; k++) send_message(i, &u->messages[k]);
    if (consensus_role(node->c) == CONSENSUS_LEADER) {
        uint64_t *leader = &sim.leader_of_term[consensus_term(node->c) % TERMS_MAX];
        check(*leader == 0 || *leader == i + 1, "term %llu has two leaders", (unsigned long long)consensus_term(node->c));
        if (*leader == 0) sim.leaders++;
        *leader = i + 1;
    }
    if (u->membership_changed) read_index_members(&node->reads, consensus_membership(node->c));
    if (u->role_changed) {
        read_index_reset(&node->reads);
        node->read_round = 0;
    }
    check_committed(i, consensus_commit_index(node->c));
    uint64_t applicable = consensus_applicable(node->c);
    check(applicable <= node->n_disk, "server %u would apply what is not on its disk", i + 1);
    if (applicable > node->applied) node->applied = applicable;
}

#define event(i, call)                                                                                                \
    do {                                                                                                              \
        struct consensus_update update;                                                                               \
        struct error e = {0};                                                                                         \
        int rv = (call);                                                                                              \
        check(rv == 0, "server %u: %s", (i) + 1, e.text);                                                             \
        perform((i), &update);                                                                                        \
    } while (0)

/* ---- life and death ---- */

static void node_start(unsigned i)
{
    struct node *node = &sim.nodes[i];
    struct consensus_options options = options_of(i);
    static uint64_t terms[LOG_MAX];
    struct error why = {0};
    check(consensus_new(&options, &node->c, &why) == 0, "%s", why.text);
    read_index_init(&node->reads, i + 1);
    node->read_round = 0;
    node->n_log = node->n_disk;
    memcpy(node->log, node->disk, sizeof *node->disk * node->n_disk);
    for (uint64_t k = node->base; k < node->n_disk; k++) terms[k - node->base] = node->disk[k].term;
    node->applied = node->base;
    if (node->durable < node->base) node->durable = node->base;
    struct consensus_found changes[64];
    unsigned n_changes = 0;
    for (uint64_t k = node->n_disk; k > 0 && n_changes < 64; k--) {
        if (node->disk[k - 1].type != CONSENSUS_CHANGE) continue;
        memmove(&changes[1], &changes[0], sizeof *changes * n_changes++);
        changes[0] = (struct consensus_found){k, sim.memberships[node->disk[k - 1].value]};
        if (k <= node->durable) break;
    }
    struct consensus_base base = {node->base, node->base == 0 ? 0 : node->disk[node->base - 1].term};
    event(i, consensus_start(node->c, sim.now, node->term, node->vote, base, terms, node->n_disk - node->base, changes, n_changes, &update, &e));
}

static void node_crash(unsigned i);

/* It stops, takes the other's state as of what that one has applied, and starts again. */
static void node_rebuild(unsigned i, unsigned from)
{
    struct node *node = &sim.nodes[i];
    uint64_t at = sim.nodes[from].applied;
    if (sim.nodes[from].c == NULL || node->n_ops + 1 == OPS_MAX || dice(3) == 0) return; /* it will be offered again */
    node_crash(i);
    memcpy(node->disk, sim.committed, sizeof *node->disk * at);
    node->base = node->n_disk = node->durable = at;
    sim.rebuilds++;
    node_start(i);
}

static void compact(unsigned i)
{
    struct node *node = &sim.nodes[i];
    struct error e = {0};
    uint64_t index = node->applied;
    if (index <= node->base + 1 || index >= node->n_disk) return; /* as the wal, which keeps one more */
    check(consensus_compact(node->c, sim.now, index, &e) == 0, "%s", e.text);
    node->base = index;
}

static void node_crash(unsigned i)
{
    struct node *node = &sim.nodes[i];
    uint64_t keep = dice(node->n_ops + 1); /* some of what was under way may have reached the disk */
    while (node->n_ops > 0) {
        if (keep > 0) op_apply(node, &node->ops[0]), keep--;
        op_drop_first(node);
    }
    node->durable += node->applied > node->durable ? dice(node->applied - node->durable + 1) : 0;
    node->c = consensus_free(node->c);
    sim.crashes++;
}

static void disks(unsigned i)
{
    struct node *node = &sim.nodes[i];
    while (node->c != NULL && node->n_ops > 0 && node->ops[0].due <= sim.now) {
        op_apply(node, &node->ops[0]);
        op_drop_first(node);
        event(i, consensus_persisted(node->c, sim.now, node->n_disk, node->disk[node->n_disk - 1].term, &update, &e));
    }
}

static void deliver_probe(const struct packet *p)
{
    struct node *node = &sim.nodes[p->to];
    if (!p->reply) {
        post((struct packet){.from = p->to, .to = p->from, .probe = p->probe, .reply = true,
                             .probe_term = consensus_term(node->c)});
    } else if (read_index_reply(&node->reads, p->from + 1, p->probe, p->probe_term) && node->read_round != 0 &&
               node->read_round <= node->reads.confirmed) {
        check(node->reads.index >= node->read_floor, "server %u confirmed a read at %llu, but %llu was committed before it",
              p->to + 1, (unsigned long long)node->reads.index, (unsigned long long)node->read_floor);
        node->read_round = 0;
        sim.reads_confirmed++;
    }
}

static void deliver(struct packet *p)
{
    struct node *node = &sim.nodes[p->to];
    struct node *sender = &sim.nodes[p->from];
    if (node->c == NULL || sender->group != node->group) return;
    if (p->to_instance != node->instance || p->from_instance != sender->instance || !admits(node, p)) return;
    if (p->probe != 0) {
        deliver_probe(p);
        return;
    }
    uint32_t n = p->m.type == CONSENSUS_APPEND_ENTRIES ? p->m.append.n : 0;
    struct consensus_entry *entries = calloc(n + 1, sizeof *entries);
    for (uint32_t k = 0; k < n; k++) {
        bool change = p->items[k].type == CONSENSUS_CHANGE;
        entries[k] = (struct consensus_entry){p->items[k].term, p->items[k].type,
                                              change ? blob_ref(sim.memberships[p->items[k].value]) : blob_new(sizeof p->items[k].value)};
        if (!change) memcpy(entries[k].payload->data, &p->items[k].value, sizeof p->items[k].value);
    }
    if (p->m.type == CONSENSUS_APPEND_ENTRIES) p->m.append.entries = entries;
    event(p->to, consensus_receive(node->c, sim.now, &p->m, &update, &e));
    for (uint32_t k = 0; k < n; k++) blob_unref(entries[k].payload);
    free(entries);
    if (node->must_rebuild) node_rebuild(p->to, p->from);
}

static void network(void)
{
    for (unsigned k = 0; k < sim.n_net;) {
        if (sim.net[k].due > sim.now) {
            k++;
            continue;
        }
        struct packet p = sim.net[k];
        sim.net[k] = sim.net[--sim.n_net];
        deliver(&p);
        free(p.items);
    }
}

static int leader(void)
{
    int best = -1;
    for (unsigned i = 0; i < sim.n; i++)
        if (sim.nodes[i].c != NULL && consensus_role(sim.nodes[i].c) == CONSENSUS_LEADER &&
            (best < 0 || consensus_term(sim.nodes[i].c) > consensus_term(sim.nodes[best].c)))
            best = (int)i;
    return best;
}

/* What an operator asks of a leader about server `k`, and what the leader notes by itself. */
static void change(unsigned i, unsigned k)
{
    struct node *node = &sim.nodes[i];
    struct consensus_update update;
    struct error e = {0};
    if (node->c == NULL || consensus_role(node->c) != CONSENSUS_LEADER || node->n_ops + 8 > OPS_MAX || node->n_log + 64 > LOG_MAX) return;
    struct membership m = *consensus_membership(node->c);
    const struct membership_server *s = membership_find(&m, k + 1);
    char address[8] = {(char)('a' + k), ':', '1', 0};
    uint64_t *count = NULL;
    if (s == NULL) {
        if (membership_was_removed(&m, k + 1, sim.nodes[k].instance) || membership_add(&m, k + 1, address, &e) != 0) return;
        count = &sim.added;
    } else if (s->instance == 0) {
        if (sim.nodes[k].group != node->group || sim.nodes[k].c == NULL || !membership_note(&m, k + 1, address, sim.nodes[k].instance)) return;
    } else if (!s->voter) {
        if (consensus_match(node->c, k + 1) + 64 < node->n_log || membership_promote(&m, k + 1, &e) != 0) return;
        count = &sim.promoted;
    } else {
        if (dice(2) == 0 || i == k || membership_remove(&m, k + 1, &e) != 0) return;
        count = &sim.removed;
    }
    int rv = consensus_change(node->c, sim.now, &m, &update, &e);
    check(rv == 0 || rv == -ERROR_BUSY || rv == -ERROR_NOT_LEADER, "a change was refused: %s", e.text);
    if (rv != 0) return;
    if (count != NULL) ++*count;
    perform(i, &update);
}

/* A server that is a member no more comes back with an empty disk. */
static void wipe(unsigned k)
{
    struct membership m = newest_committed();
    struct node *node = &sim.nodes[k];
    if (!membership_was_removed(&m, k + 1, node->instance)) return;
    if (node->c != NULL) node_crash(k);
    node->n_disk = node->n_log = node->term = node->vote = node->applied = node->base = node->durable = 0;
    node->instance = ++sim.instances;
    sim.wiped++;
    node_start(k);
}

static void submit(unsigned i)
{
    struct node *node = &sim.nodes[i];
    struct consensus_entry entries[3];
    unsigned n = 1 + (unsigned)dice(3);
    if (consensus_role(node->c) != CONSENSUS_LEADER || consensus_transferring(node->c) || node->n_log + 64 > LOG_MAX) return;
    if (node->n_ops + 8 > OPS_MAX || consensus_last_index(node->c) - consensus_commit_index(node->c) > 60) return;
    for (unsigned k = 0; k < n; k++) {
        sim.next_value++;
        entries[k] = (struct consensus_entry){.payload = blob_new(sizeof sim.next_value)};
        memcpy(entries[k].payload->data, &sim.next_value, sizeof sim.next_value);
    }
    event(i, consensus_submit(node->c, sim.now, entries, n, &update, &e));
    for (unsigned k = 0; k < n; k++) blob_unref(entries[k].payload);
}

static void ask_read(unsigned i)
{
    struct node *node = &sim.nodes[i];
    uint64_t index;
    if (node->read_round == 0 && consensus_read_index(node->c, &index) == 0) {
        node->read_round = read_index_ask(&node->reads);
        node->read_floor = sim.n_committed;
        uint64_t round = read_index_begin(&node->reads, consensus_term(node->c), index);
        for (unsigned j = 0; j < sim.n && round != 0; j++)
            if (j != i) post((struct packet){.from = i, .to = j, .probe = round, .probe_term = consensus_term(node->c)});
    }
}

static void transfer(unsigned i)
{
    struct node *node = &sim.nodes[i];
    struct consensus_update update;
    struct error e = {0};
    uint64_t to = dice(sim.n + 1); /* 0: the most suitable */
    int rv = consensus_transfer(node->c, sim.now, to, &update, &e);
    check(rv == 0 || rv == -ERROR_NOT_FOUND, "%s", e.text);
    if (rv == 0) perform(i, &update);
}

static void mischief(void)
{
    unsigned i = (unsigned)dice(sim.n);
    struct node *node = &sim.nodes[i];
    switch (dice(sim.changes ? 14 : 8)) {
    case 0:
        if (node->c != NULL) node_crash(i);
        break;
    case 1:
    case 2:
        if (node->c == NULL) node_start(i);
        break;
    case 3:
        for (unsigned j = 0; j < sim.n; j++) sim.nodes[j].group = (unsigned)dice(2);
        break;
    case 4:
        for (unsigned j = 0; j < sim.n; j++) sim.nodes[j].group = 0;
        break;
    case 5:
        if (node->c != NULL && consensus_role(node->c) == CONSENSUS_LEADER && sim.n > 1)
            transfer(i);
        break;
    case 6:
        if (node->c != NULL) consensus_leader_gone(node->c, sim.now, consensus_leader(node->c), (uint32_t)dice(20));
        break;
    case 7:
        if (node->c != NULL) compact(i);
        break;
    case 8:
        wipe(i);
        break;
    default:
        if (leader() >= 0) change((unsigned)leader(), i);
        break;
    }
}

static void millisecond(void)
{
    sim.now++;
    network();
    for (unsigned i = 0; i < sim.n; i++) {
        disks(i);
        if (sim.nodes[i].c == NULL) continue;
        if (consensus_deadline(sim.nodes[i].c) <= sim.now)
            event(i, consensus_tick(sim.nodes[i].c, sim.now, &update, &e));
        if (dice(4) == 0) submit(i);
        if (dice(20) == 0) ask_read(i);
    }
}

static void begin(uint64_t seed, unsigned members, unsigned n)
{
    memset(&sim, 0, sizeof sim);
    sim.seed = seed;
    sim.n = n;
    sim.changes = n > 1;
    sim.rng = seed * 0x9e3779b97f4a7c15u + n;
    sim.now = 1000;
    struct membership first = {0};
    struct blob *payload;
    for (unsigned i = 0; i < n; i++) sim.nodes[i].instance = ++sim.instances;
    for (unsigned i = 0; i < members; i++) /* as if all had met: else a wiped one is not known */
        first.servers[first.n++] = (struct membership_server){.id = i + 1, .voter = true, .instance = sim.nodes[i].instance};
    check(membership_encode(&first, &payload) == 0, "no memory");
    uint64_t number = membership_number(payload);
    blob_unref(payload);
    sim.committed[0] = (struct item){1, number, CONSENSUS_CHANGE};
    sim.n_committed = 1;
    for (unsigned i = 0; i < n; i++) {
        if (i < members) {
            sim.nodes[i].disk[0] = sim.committed[0];
            sim.nodes[i].n_disk = 1;
            sim.nodes[i].term = 1;
        }
        node_start(i);
    }
}

static bool caught_up(uint64_t goal)
{
    struct membership m = newest_committed();
    for (unsigned i = 0; i < m.n; i++)
        if (sim.nodes[m.servers[i].id - 1].applied < goal) return false;
    return true;
}

/* For whoever looks into a failure. */
static void describe(void)
{
    for (unsigned i = 0; i < sim.n; i++) {
        const struct node *node = &sim.nodes[i];
        if (node->c == NULL) continue;
        const struct membership *m = consensus_membership(node->c);
        uint64_t settled;
        consensus_settled(node->c, &settled);
        fprintf(stderr, "  server %u: %s, term %llu, vote %llu, leader %llu, base %llu, last %llu, on disk %llu, committed %llu, settled %llu, members",
                i + 1, consensus_role_name(consensus_role(node->c)), (unsigned long long)consensus_term(node->c), (unsigned long long)node->vote,
                (unsigned long long)consensus_leader(node->c), (unsigned long long)node->base, (unsigned long long)node->n_log,
                (unsigned long long)node->n_disk, (unsigned long long)consensus_commit_index(node->c), (unsigned long long)settled);
        for (unsigned k = 0; k < m->n; k++)
            fprintf(stderr, " %llu%s%s", (unsigned long long)m->servers[k].id, m->servers[k].voter ? "" : "s",
                    m->servers[k].instance == 0 ? "?" : m->servers[k].instance == sim.nodes[m->servers[k].id - 1].instance ? "" : "!");
        fprintf(stderr, "\n");
    }
}

static void heal(void)
{
    uint64_t before = sim.n_committed, t = 0;
    sim.faults = false;
    for (unsigned i = 0; i < sim.n; i++) {
        sim.nodes[i].group = 0;
        if (sim.nodes[i].c == NULL) node_start(i);
    }
    for (; t < HEAL_MS && (leader() < 0 || sim.n_committed < before + 20); t++) millisecond();
    if (t == HEAL_MS) describe();
    check(t < HEAL_MS, "no progress after healing (%llu committed before, %llu now)", (unsigned long long)before,
          (unsigned long long)sim.n_committed);
    uint64_t goal = sim.n_committed;
    for (t = 0; t < HEAL_MS && !caught_up(goal); t++) millisecond();
    if (t == HEAL_MS) describe();
    check(t < HEAL_MS, "a member did not catch up after healing");
}

/* Everybody becomes a voter: nothing is left of an earlier change that would be in the way. */
static void all_become_voters(void)
{
    for (unsigned t = 0; t < 4 * HEAL_MS; t++) {
        struct membership m = newest_committed();
        if (membership_voters(&m) == sim.n) return;
        millisecond();
        if (t % 10 != 0) continue;
        for (unsigned k = 0; k < sim.n; k++) {
            wipe(k);
            if (leader() >= 0 && !membership_votes(consensus_membership(sim.nodes[leader()].c), k + 1)) change((unsigned)leader(), k);
        }
    }
    describe();
    check(false, "the servers could not be added and promoted after healing");
}

static void run(uint64_t seed, unsigned members, unsigned n)
{
    begin(seed, members, n);
    sim.faults = true;
    for (int t = 0; t < RUN_MS; t++) {
        if (dice(sim.changes ? 70 : 120) == 0) mischief();
        millisecond();
    }
    heal();
    if (sim.changes) all_become_voters();
    for (unsigned i = 0; i < n; i++) node_crash(i);
    for (unsigned k = 0; k < sim.n_net; k++) free(sim.net[k].items);
    for (unsigned k = 0; k < sim.n_memberships; k++) blob_unref(sim.memberships[k]);
}

static unsigned seeds = 300, first_seed = 1;

static void test_clusters(void **state)
{
    uint64_t committed = 0, leaders = 0, crashes = 0, reads = 0, rebuilds = 0, added = 0, promoted = 0, removed = 0, wiped = 0;
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + seeds; seed++) {
        run(seed, (unsigned)(seed % 3) * 2 + 1, 5);
        committed += sim.n_committed;
        leaders += sim.leaders;
        crashes += sim.crashes;
        rebuilds += sim.rebuilds;
        added += sim.added;
        promoted += sim.promoted;
        removed += sim.removed;
        wiped += sim.wiped;
        reads += sim.reads_confirmed;
    }
    print_message("%u seeds: %llu entries committed, %llu leaders, %llu crashes, %llu reads confirmed, %llu rebuilt\n", seeds,
                  (unsigned long long)committed, (unsigned long long)leaders, (unsigned long long)crashes,
                  (unsigned long long)reads, (unsigned long long)rebuilds);
    print_message("%llu added, %llu promoted, %llu removed, %llu came back empty\n", (unsigned long long)added, (unsigned long long)promoted,
                  (unsigned long long)removed, (unsigned long long)wiped);
    if (seeds >= 100) assert_true(added > seeds && promoted > seeds && removed > seeds && wiped > seeds / 2);
    if (seeds >= 100) assert_true(rebuilds > seeds / 4);
    assert_true(leaders > 2 * seeds && reads > seeds && committed > 100 * seeds); /* the runs were not vacuous */
}

static void test_single(void **state)
{
    (void)state;
    run(7, 1, 1);
    assert_true(sim.n_committed > 100);
}

static void test_start_refuses(void **state)
{
    (void)state;
    static const struct consensus_member two[] = {{2, "b:1", 0}, {1, "a:1", 0}}, same[] = {{1, "a:1", 0}, {1, "b:1", 0}};
    struct consensus_options o = {.id = 1, .election_ms = 100, .heartbeat_ms = 20, .max_in_flight = 8};
    struct blob *first, *noise = blob_new(3);
    struct consensus *c;
    struct consensus_update u;
    struct error e;
    memset(noise->data, 0xff, 3);
    assert_int_equal(consensus_first_entry(two, 2, &first, &e), 0);
    assert_int_equal(consensus_first_entry(same, 2, &noise, &e), -ERROR_INVALID);
    assert_int_equal(consensus_first_entry(two, 0, &noise, &e), -ERROR_INVALID);
    const struct consensus_found good[] = {{1, first}, {3, first}}, bad[] = {{1, noise}}, late[] = {{1, first}, {4, first}};
    static const uint64_t log[] = {1, 3, 3}, falls[] = {1, 3, 2}, begins[] = {2, 3, 3};
    const struct {
        uint64_t term;
        const uint64_t *terms;
        unsigned n;
        const struct consensus_found *changes;
        unsigned n_changes;
        int want;
    } cases[] = {
        {1, log, 0, good, 1, -ERROR_CORRUPT}, {3, falls, 3, good, 1, -ERROR_CORRUPT}, {2, log, 3, good, 1, -ERROR_CORRUPT},
        {3, log, 3, bad, 1, -ERROR_CORRUPT},  {3, begins, 3, good, 1, -ERROR_CORRUPT}, {3, log, 3, late, 2, -ERROR_CORRUPT},
        {3, log, 3, NULL, 0, -ERROR_CORRUPT}, {3, log, 3, good, 2, 0},                 {0, log, 0, NULL, 0, 0},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(consensus_new(&o, &c, &e), 0);
        assert_int_equal(consensus_start(c, 0, cases[i].term, 0, (struct consensus_base){0}, cases[i].terms, cases[i].n, cases[i].changes,
                                         cases[i].n_changes, &u, &e), cases[i].want);
        consensus_free(c);
    }
    o.id = 0;
    assert_int_equal(consensus_new(&o, &c, &e), -ERROR_INVALID);
    blob_unref(first);
    blob_unref(noise);
}

/* A peer that lies is refused; libraft's NDEBUG build would go on with broken state. */
static void test_receive_refuses(void **state)
{
    (void)state;
    static const struct consensus_member three[] = {{1, "a:1", 0}, {2, "b:1", 0}, {3, "c:1", 0}};
    struct consensus_options o = {.id = 1, .election_ms = 100, .heartbeat_ms = 20, .max_in_flight = 8};
    struct consensus *c;
    struct consensus_update u;
    struct blob *first, *noise = blob_new(3);
    struct error e;
    uint64_t terms[] = {1};
    memset(noise->data, 0xff, 3);
    assert_int_equal(consensus_first_entry(three, 3, &first, &e), 0);
    assert_int_equal(consensus_new(&o, &c, &e), 0);
    assert_int_equal(consensus_start(c, 0, 1, 0, (struct consensus_base){0}, terms, 1, &(struct consensus_found){1, first}, 1, &u, &e), 0);
    struct consensus_entry bad = {9, CONSENSUS_COMMAND, first}, change = {2, CONSENSUS_CHANGE, noise};
    struct consensus_message m[] = {
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 0, .to = 1, .term = 2},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 1, .to = 1, .term = 2},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 3, .term = 2},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 0},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 2, .append = {.prev_index = 1, .prev_term = 0}},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 2, .append = {.prev_index = 1, .prev_term = 3}},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 2, .append = {1, 1, 0, 1, &bad}},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 2, .append = {1, 1, 0, 1, &change}},
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 2, .to = 1, .term = 2, .append = {1, 1, 0, 1, NULL}},
        {.type = CONSENSUS_REQUEST_VOTE, .from = 2, .to = 1, .term = 2, .request_vote = {.candidate = 3}},
    };
    for (unsigned i = 0; i < sizeof m / sizeof *m; i++) {
        assert_int_equal(consensus_receive(c, 1, &m[i], &u, &e), -ERROR_PROTOCOL);
        assert_int_equal(consensus_term(c), 1);
    }
    struct consensus_entry none = {.payload = first};
    assert_int_equal(consensus_submit(c, 1, &none, 1, &u, &e), -ERROR_NOT_LEADER);
    uint64_t index;
    assert_int_equal(consensus_read_index(c, &index), -ERROR_NOT_LEADER);
    assert_int_equal(consensus_change(c, 1, consensus_membership(c), &u, &e), -ERROR_NOT_LEADER);
    consensus_free(c);
    blob_unref(first);
    blob_unref(noise);
}

static void test_read_index(void **state)
{
    (void)state;
    const struct membership three = {.n = 4, .servers = {{.id = 1, .voter = true}, {.id = 2, .voter = true}, {.id = 3, .voter = true}, {.id = 4}}};
    const struct membership one = {.n = 2, .servers = {{.id = 1, .voter = true}, {.id = 4}}};
    struct read_index r;
    read_index_init(&r, 2);
    read_index_members(&r, &three);
    assert_int_equal(read_index_begin(&r, 5, 10), 0); /* nobody waits */
    assert_int_equal(read_index_ask(&r), 1);
    assert_int_equal(read_index_begin(&r, 5, 10), 1);
    assert_int_equal(read_index_ask(&r), 2); /* came too late for round 1 */
    assert_int_equal(read_index_begin(&r, 5, 11), 0);
    assert_false(read_index_reply(&r, 1, 1, 6)); /* another term */
    assert_false(read_index_reply(&r, 1, 0, 5)); /* another round */
    assert_false(read_index_reply(&r, 2, 1, 5)); /* ourselves again */
    assert_false(read_index_reply(&r, 9, 1, 5)); /* a stranger */
    assert_false(read_index_reply(&r, 4, 1, 5)); /* a standby */
    assert_true(read_index_reply(&r, 3, 1, 5));
    assert_int_equal(r.confirmed, 1);
    assert_int_equal(r.index, 10);
    assert_false(read_index_reply(&r, 1, 1, 5));
    assert_int_equal(read_index_begin(&r, 5, 12), 2);
    read_index_reset(&r);
    assert_false(read_index_reply(&r, 1, 2, 5));
    assert_int_equal(read_index_ask(&r), 3);
    assert_int_equal(read_index_begin(&r, 5, 12), 3);
    read_index_members(&r, &three); /* who is to be asked has changed: the same reads, a new round */
    assert_false(read_index_reply(&r, 1, 3, 5));
    assert_int_equal(read_index_begin(&r, 5, 12), 4);
    assert_true(read_index_reply(&r, 1, 4, 5));
    read_index_init(&r, 1);
    read_index_members(&r, &one);
    assert_int_equal(read_index_ask(&r), 1);
    assert_int_equal(read_index_begin(&r, 5, 12), 1);
    assert_int_equal(r.confirmed, 1);
}

static void test_membership(void **state)
{
    (void)state;
    struct membership m = {.n = 1, .servers = {{.id = 1, .voter = true, .instance = 11}}}, before, decoded;
    struct error e;
    struct blob *payload;
    assert_int_equal(membership_add(&m, 0, "b:1", &e), -ERROR_INVALID);
    assert_int_equal(membership_add(&m, 2, "", &e), -ERROR_INVALID);
    assert_int_equal(membership_add(&m, 2, "b:1", &e), 0);
    assert_int_equal(membership_add(&m, 2, "b:1", &e), 0); /* said twice */
    assert_int_equal(membership_add(&m, 2, "c:1", &e), -ERROR_EXISTS);
    assert_int_equal(membership_add(&m, 3, "b:1", &e), -ERROR_EXISTS);
    assert_int_equal(m.n, 2);
    assert_false(membership_votes(&m, 2));
    assert_int_equal(membership_remove(&m, 1, &e), -ERROR_CONFLICT); /* the only voter */
    before = m;
    assert_int_equal(membership_promote(&m, 3, &e), -ERROR_NOT_FOUND);
    assert_int_equal(membership_promote(&m, 2, &e), 0);
    assert_true(membership_may_follow(&before, &m) && membership_may_follow(&m, &before));
    assert_true(membership_note(&m, 2, "b:2", 22));
    assert_false(membership_note(&m, 2, "b:2", 22));
    assert_false(membership_note(&m, 2, "b:3", 23)); /* another data directory: not its address, not its instance */
    assert_false(membership_note(&m, 9, "b:3", 23));
    assert_string_equal(membership_find(&m, 2)->address, "b:2");
    struct membership two_more = m;
    assert_int_equal(membership_add(&two_more, 3, "c:1", &e), 0);
    assert_int_equal(membership_add(&two_more, 4, "d:1", &e), 0);
    assert_true(membership_may_follow(&m, &two_more)); /* standbys */
    two_more.servers[2].voter = two_more.servers[3].voter = true;
    assert_false(membership_may_follow(&m, &two_more));
    assert_int_equal(membership_remove(&m, 2, &e), 0);
    assert_int_equal(membership_remove(&m, 2, &e), -ERROR_NOT_FOUND);
    assert_true(membership_was_removed(&m, 2, 22));
    assert_false(membership_was_removed(&m, 2, 24)); /* a new disk under the old id */
    assert_int_equal(membership_add(&m, 2, "b:1", &e), 0);
    assert_true(membership_was_removed(&m, 2, 22));
    assert_true(membership_removed_data(&m, 2, 22));
    assert_false(membership_removed_data(&m, 2, 24));
    assert_false(membership_removed_data(&m, 2, 0)); /* removed before it was met: that is known by its id alone */
    for (uint64_t id = 3; id <= 9; id++) {
        char address[8] = {(char)('a' + id), ':', '1', 0};
        assert_int_equal(membership_add(&m, id, address, &e), 0);
    }
    assert_int_equal(membership_add(&m, 10, "z:1", &e), -ERROR_TOO_LARGE);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(membership_remove(&m, 9, &e), 0);
        assert_int_equal(membership_add(&m, 9, "y:1", &e), 0);
    }
    assert_int_equal(m.n_removed, MEMBERSHIP_REMOVED_MAX);
    assert_int_equal(membership_encode(&m, &payload), 0);
    assert_int_equal(membership_decode(payload->data, payload->len, &decoded), 0);
    assert_true(membership_equal(&m, &decoded));
    decoded.servers[3].instance++;
    assert_false(membership_equal(&m, &decoded));
    assert_int_equal(membership_decode(payload->data, payload->len - 1, &decoded), -ERROR_INVALID);
    assert_int_equal(membership_decode("", 0, &decoded), -ERROR_INVALID); /* no voter */
    blob_unref(payload);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_refuses), cmocka_unit_test(test_receive_refuses), cmocka_unit_test(test_read_index),
        cmocka_unit_test(test_membership),
        cmocka_unit_test(test_single),        cmocka_unit_test(test_clusters),
    };
    if (argc > 1) seeds = (unsigned)atoi(argv[1]);
    if (argc > 2) first_seed = (unsigned)atoi(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
