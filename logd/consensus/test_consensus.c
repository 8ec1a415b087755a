/* Clusters of 3 and 5 in one process, with fake disks, a fake network and one seeded scheduler that crashes and restarts
 * servers, loses what was not synced, drops, delays, doubles and reorders messages and cuts the network. After every
 * event: no committed entry differs, moves or vanishes, each is on a majority's disks, terms have one leader, reads
 * confirmed by read_index see everything committed before they were asked. After healing: the cluster goes on.
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

enum { N_MAX = 5, LOG_MAX = 8192, NET_MAX = 4096, RUN_MS = 6000, HEAL_MS = 6000, OPS_MAX = 512, TERMS_MAX = 4096 };

struct item {
    uint64_t term, value; /* value: unique per submitted command; 0 for barriers, ~0 for the first entry */
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
    struct op ops[OPS_MAX];
    unsigned n_ops;
    struct read_index reads;
    uint64_t read_round, read_floor; /* the one outstanding read: what was committed when it was asked */
    unsigned group;                  /* of the network */
};

struct packet {
    struct consensus_message m;
    struct item *items;
    uint64_t due;
    uint64_t probe; /* round, 0: a Raft message */
    bool reply;
    uint64_t probe_term;
    unsigned from, to;
};

static struct {
    uint64_t rng, now, seed;
    unsigned n;
    bool faults;
    struct node nodes[N_MAX];
    struct packet net[NET_MAX];
    unsigned n_net;
    struct item committed[LOG_MAX];
    uint64_t n_committed, next_value, reads_confirmed, leaders, crashes;
    uint64_t leader_of_term[TERMS_MAX];
    struct consensus_member members[N_MAX];
    struct blob *first;
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
    return (struct consensus_options){.id = i + 1, .members = sim.members, .n_members = sim.n, .election_ms = 150,
                                      .heartbeat_ms = 30, .max_in_flight = 64, .seed = (uint32_t)dice(1u << 31)};
}

static bool same(const struct item *a, const struct item *b)
{
    return a->term == b->term && a->value == b->value && a->type == b->type;
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
        unsigned copies = 0;
        for (unsigned j = 0; j < sim.n; j++)
            copies += sim.nodes[j].n_disk > k && same(&sim.nodes[j].disk[k], &node->log[k]);
        check(k == 0 || copies * 2 > sim.n, "entry %llu is called committed by server %u, with %u copies on disk",
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
            if (item.type == CONSENSUS_COMMAND) memcpy(&item.value, u->entries[k].payload->data, sizeof item.value);
            op->items[k] = node->log[node->n_log++] = item;
        }
    }
    for (unsigned k = 0; k < u->n_messages; k++) send_message(i, &u->messages[k]);
    if (consensus_role(node->c) == CONSENSUS_LEADER) {
        uint64_t *leader = &sim.leader_of_term[consensus_term(node->c) % TERMS_MAX];
        check(sim.n == 1 || *leader == 0 || *leader == i + 1, "term %llu has two leaders", (unsigned long long)consensus_term(node->c));
        if (*leader == 0) sim.leaders++;
        *leader = i + 1;
    }
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
    read_index_init(&node->reads, i + 1, sim.members, sim.n);
    node->read_round = 0;
    node->n_log = node->n_disk;
    memcpy(node->log, node->disk, sizeof *node->disk * node->n_disk);
    for (uint64_t k = 0; k < node->n_disk; k++) terms[k] = node->disk[k].term;
    node->applied = 0;
    event(i, consensus_start(node->c, sim.now, node->term, node->vote, terms, node->n_disk, sim.first, &update, &e));
}

static void node_crash(unsigned i)
{
    struct node *node = &sim.nodes[i];
    uint64_t keep = dice(node->n_ops + 1); /* some of what was under way may have reached the disk */
    while (node->n_ops > 0) {
        if (keep > 0) op_apply(node, &node->ops[0]), keep--;
        op_drop_first(node);
    }
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
    if (node->c == NULL || sim.nodes[p->from].group != node->group) return;
    if (p->probe != 0) {
        deliver_probe(p);
        return;
    }
    uint32_t n = p->m.type == CONSENSUS_APPEND_ENTRIES ? p->m.append.n : 0;
    struct consensus_entry *entries = calloc(n + 1, sizeof *entries);
    for (uint32_t k = 0; k < n; k++) {
        entries[k] = (struct consensus_entry){p->items[k].term, p->items[k].type, blob_new(sizeof p->items[k].value)};
        memcpy(entries[k].payload->data, &p->items[k].value, sizeof p->items[k].value);
    }
    if (p->m.type == CONSENSUS_APPEND_ENTRIES) p->m.append.entries = entries;
    event(p->to, consensus_receive(node->c, sim.now, &p->m, &update, &e));
    for (uint32_t k = 0; k < n; k++) blob_unref(entries[k].payload);
    free(entries);
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
    for (unsigned i = 0; i < sim.n; i++)
        if (sim.nodes[i].c != NULL && consensus_role(sim.nodes[i].c) == CONSENSUS_LEADER &&
            consensus_term(sim.nodes[i].c) >= sim.nodes[0].term)
            return (int)i;
    return -1;
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

static void mischief(void)
{
    unsigned i = (unsigned)dice(sim.n);
    struct node *node = &sim.nodes[i];
    switch (dice(7)) {
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
            event(i, consensus_transfer(node->c, sim.now, 0, &update, &e));
        break;
    case 6:
        if (node->c != NULL) consensus_leader_gone(node->c, sim.now, consensus_leader(node->c), (uint32_t)dice(20));
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

static void run(uint64_t seed, unsigned n)
{
    memset(&sim, 0, sizeof sim);
    sim.seed = seed;
    sim.n = n;
    sim.rng = seed * 0x9e3779b97f4a7c15u + n;
    sim.now = 1000;
    static const char *const addresses[N_MAX] = {"a:1", "b:1", "c:1", "d:1", "e:1"};
    for (unsigned i = 0; i < n; i++) sim.members[i] = (struct consensus_member){i + 1, addresses[i]};
    struct consensus_options options = options_of(0);
    struct error e = {0};
    check(consensus_first_entry(&options, &sim.first, &e) == 0, "%s", e.text);
    for (unsigned i = 0; i < n; i++) {
        sim.nodes[i].disk[0] = (struct item){1, ~0ull, CONSENSUS_CHANGE};
        sim.nodes[i].n_disk = 1;
        sim.nodes[i].term = 1;
        node_start(i);
    }
    sim.faults = true;
    for (int t = 0; t < RUN_MS; t++) {
        if (dice(120) == 0) mischief();
        millisecond();
    }
    sim.faults = false;
    for (unsigned i = 0; i < n; i++) {
        sim.nodes[i].group = 0;
        if (sim.nodes[i].c == NULL) node_start(i);
    }
    uint64_t before = sim.n_committed, t = 0;
    for (; t < HEAL_MS && (leader() < 0 || sim.n_committed < before + 20); t++) millisecond();
    check(t < HEAL_MS, "no progress after healing (%llu committed before, %llu now)", (unsigned long long)before,
          (unsigned long long)sim.n_committed);
    uint64_t goal = sim.n_committed;
    for (t = 0; t < HEAL_MS; t++) {
        bool all = true;
        millisecond();
        for (unsigned i = 0; i < n; i++) all = all && sim.nodes[i].applied >= goal;
        if (all) break;
    }
    check(t < HEAL_MS, "a server did not catch up after healing");
    for (unsigned i = 0; i < n; i++) node_crash(i);
    for (unsigned k = 0; k < sim.n_net; k++) free(sim.net[k].items);
    blob_unref(sim.first);
}

static unsigned seeds = 300, first_seed = 1;

static void test_clusters(void **state)
{
    uint64_t committed = 0, leaders = 0, crashes = 0, reads = 0;
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + seeds; seed++) {
        run(seed, seed % 3 == 0 ? 5 : 3);
        committed += sim.n_committed;
        leaders += sim.leaders;
        crashes += sim.crashes;
        reads += sim.reads_confirmed;
    }
    print_message("%u seeds: %llu entries committed, %llu leaders, %llu crashes, %llu reads confirmed\n", seeds,
                  (unsigned long long)committed, (unsigned long long)leaders, (unsigned long long)crashes,
                  (unsigned long long)reads);
    assert_true(leaders > 2 * seeds && reads > seeds && committed > 100 * seeds); /* the runs were not vacuous */
}

static void test_single(void **state)
{
    (void)state;
    run(7, 1);
    assert_true(sim.n_committed > 100);
}

static void test_start_refuses(void **state)
{
    (void)state;
    static const struct consensus_member two[] = {{1, "a:1"}, {2, "b:1"}}, other[] = {{1, "a:1"}, {3, "b:1"}};
    struct consensus_options o = {.id = 1, .members = two, .n_members = 2, .election_ms = 100, .heartbeat_ms = 20,
                                  .max_in_flight = 8};
    struct consensus_options p = o;
    struct blob *first, *foreign;
    struct consensus *c;
    struct consensus_update u;
    struct error e;
    p.members = other;
    assert_int_equal(consensus_first_entry(&o, &first, &e), 0);
    assert_int_equal(consensus_first_entry(&p, &foreign, &e), 0);
    static const struct {
        uint64_t term, terms[3];
        unsigned n;
        bool foreign;
        int want;
    } cases[] = {
        {1, {0}, 0, false, -ERROR_CORRUPT},       {3, {1, 3, 2}, 3, false, -ERROR_CORRUPT},
        {2, {1, 3, 3}, 3, false, -ERROR_CORRUPT}, {3, {1, 3, 3}, 3, true, -ERROR_INVALID},
        {3, {2, 3, 3}, 3, false, -ERROR_CORRUPT}, {3, {1, 3, 3}, 3, false, 0},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(consensus_new(&o, &c, &e), 0);
        assert_int_equal(consensus_start(c, 0, cases[i].term, 0, cases[i].terms, cases[i].n, cases[i].foreign ? foreign : first, &u, &e),
                         cases[i].want);
        consensus_free(c);
    }
    o.id = 9;
    assert_int_equal(consensus_new(&o, &c, &e), -ERROR_INVALID);
    blob_unref(first);
    blob_unref(foreign);
}

/* A peer that lies is refused; libraft's NDEBUG build would go on with broken state. */
static void test_receive_refuses(void **state)
{
    (void)state;
    static const struct consensus_member three[] = {{1, "a:1"}, {2, "b:1"}, {3, "c:1"}};
    struct consensus_options o = {.id = 1, .members = three, .n_members = 3, .election_ms = 100, .heartbeat_ms = 20,
                                  .max_in_flight = 8};
    struct consensus *c;
    struct consensus_update u;
    struct blob *first;
    struct error e;
    uint64_t terms[] = {1};
    assert_int_equal(consensus_first_entry(&o, &first, &e), 0);
    assert_int_equal(consensus_new(&o, &c, &e), 0);
    assert_int_equal(consensus_start(c, 0, 1, 0, terms, 1, first, &u, &e), 0);
    struct consensus_entry bad = {9, CONSENSUS_COMMAND, first}, change = {2, CONSENSUS_CHANGE, first};
    struct consensus_message m[] = {
        {.type = CONSENSUS_APPEND_ENTRIES, .from = 7, .to = 1, .term = 2},
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
    consensus_free(c);
    blob_unref(first);
}

static void test_read_index(void **state)
{
    (void)state;
    static const struct consensus_member three[] = {{1, "a:1"}, {2, "b:1"}, {3, "c:1"}};
    struct read_index r;
    read_index_init(&r, 2, three, 3);
    assert_int_equal(read_index_begin(&r, 5, 10), 0); /* nobody waits */
    assert_int_equal(read_index_ask(&r), 1);
    assert_int_equal(read_index_begin(&r, 5, 10), 1);
    assert_int_equal(read_index_ask(&r), 2); /* came too late for round 1 */
    assert_int_equal(read_index_begin(&r, 5, 11), 0);
    assert_false(read_index_reply(&r, 1, 1, 6)); /* another term */
    assert_false(read_index_reply(&r, 1, 0, 5)); /* another round */
    assert_false(read_index_reply(&r, 2, 1, 5)); /* ourselves again */
    assert_false(read_index_reply(&r, 9, 1, 5)); /* a stranger */
    assert_true(read_index_reply(&r, 3, 1, 5));
    assert_int_equal(r.confirmed, 1);
    assert_int_equal(r.index, 10);
    assert_false(read_index_reply(&r, 1, 1, 5));
    assert_int_equal(read_index_begin(&r, 5, 12), 2);
    read_index_reset(&r);
    assert_false(read_index_reply(&r, 1, 2, 5));
    assert_int_equal(read_index_ask(&r), 3);
    read_index_init(&r, 1, three, 1);
    assert_int_equal(read_index_ask(&r), 1);
    assert_int_equal(read_index_begin(&r, 5, 12), 1);
    assert_int_equal(r.confirmed, 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_refuses), cmocka_unit_test(test_receive_refuses), cmocka_unit_test(test_read_index),
        cmocka_unit_test(test_single),        cmocka_unit_test(test_clusters),
    };
    if (argc > 1) seeds = (unsigned)atoi(argv[1]);
    if (argc > 2) first_seed = (unsigned)atoi(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
