#include "tests/sim/founders.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "logd/consensus/membership.h"
#include "tests/sim/check.h"
#include "tests/sim/cluster.h"
#include "tests/sim/fs.h"

enum { ENTRY_MAX = 512, LOOK_MS = 500, PATIENCE_S = 5 };

static struct {
    struct { size_t len; uint8_t bytes[ENTRY_MAX]; } firsts[CLUSTER_MAX + 1]; /* by machine, while its disk is not lost; len 0: none yet */
    bool emptied[CLUSTER_MAX + 1], added[CLUSTER_MAX + 1];
    bool any_emptied, looks;
    uint64_t complained_at; /* the first time since everything was begun anew; 0: nobody did */
} x;
uint64_t founders_counts[3];

static bool is_server(unsigned machine)
{
    return machine >= 1 && machine <= CLUSTER_MAX;
}

/* As the disk says; 0: nothing. */
static uint64_t instance_of(unsigned machine)
{
    char path[64], text[256];
    size_t len;
    uint64_t instance = 0;
    snprintf(path, sizeof path, "/sim/%u/data/identity", machine);
    const uint8_t *bytes = fs_bytes(path, &len);
    if (bytes == NULL || len >= sizeof text) return 0;
    memcpy(text, bytes, len);
    text[len] = '\0';
    const char *at = strstr(text, "instance ");
    return at == NULL || sscanf(at, "instance %16" SCNx64, &instance) != 1 ? 0 : instance;
}

bool founders_begun(void)
{
    for (unsigned i = 1; i <= CLUSTER_MAX; i++)
        if (x.firsts[i].len > 0) return true;
    return false;
}

void founders_begin(void)
{
    memset(&x, 0, sizeof x);
}

static bool must_be_refused(unsigned machine)
{
    return cluster_server(machine)->wiped && cluster_server(machine)->known;
}

static void compare(unsigned machine, const void *bytes, size_t len)
{
    for (unsigned i = 1; i <= CLUSTER_MAX; i++)
        if (x.firsts[i].len > 0 && (x.firsts[i].len != len || memcmp(x.firsts[i].bytes, bytes, len) != 0))
            world_violation("server %u has another first entry than server %u", machine, i);
}

static void name(const struct membership *m)
{
    founders_counts[FOUNDERS_FOUNDED]++;
    for (unsigned i = 0; i < m->n; i++) {
        unsigned machine = (unsigned)m->servers[i].id;
        if (!is_server(machine)) world_violation("the first entry names server %u", machine);
        if (m->servers[i].instance == instance_of(machine)) continue;
        if (!x.emptied[machine]) world_violation("the first entry names a data directory of server %u that never was", machine);
        cluster_server(machine)->wiped = cluster_server(machine)->known = true;
    }
}

void founders_entry(unsigned machine, uint64_t index, const void *bytes, size_t len)
{
    struct membership m;
    if (!is_server(machine)) return;
    if (must_be_refused(machine)) world_violation("L6: server %u lost its disk, and takes part again as if it had not", machine);
    if (index != 1 || cluster_shape()->first < 2) return;
    if (len > ENTRY_MAX || membership_decode(bytes, len, &m) != 0) world_violation("server %u has a first entry of no sense", machine);
    compare(machine, bytes, len);
    bool first = !founders_begun();
    x.firsts[machine].len = len;
    memcpy(x.firsts[machine].bytes, bytes, len);
    if (first) name(&m);
}

void founders_votes(unsigned machine)
{
    if (is_server(machine) && must_be_refused(machine)) world_violation("L6: server %u lost its disk, and votes", machine);
}

void founders_emptied(unsigned machine)
{
    if (!is_server(machine)) return;
    founders_counts[FOUNDERS_LOST]++;
    x.firsts[machine].len = 0;
    x.emptied[machine] = x.any_emptied = true;
    if (!founders_begun()) return;
    cluster_server(machine)->wiped = true;
    cluster_server(machine)->known = cluster_server(machine)->known || !x.added[machine]; /* the first entry names what is gone; of who is added later a leader notes it when it has met it */
}

void founders_added(unsigned machine)
{
    cluster_server(machine)->wiped = cluster_server(machine)->known = false;
    x.added[machine] = true;
}

/* ---- the person ------------------------------------------------------------------------------------------------ */

/* "If none has a log yet (no .seg file in DATA-DIR/wal)". */
static bool has_log(unsigned machine)
{
    char dir[64];
    const char *entry;
    snprintf(dir, sizeof dir, "/sim/%u/data/wal", machine);
    for (unsigned i = 0; (entry = fs_entry(dir, i)) != NULL; i++)
        if (strstr(entry, ".seg") != NULL) return true;
    return false;
}

/* "Stop all, empty the data-dir of each, start them." */
static void begin_anew(void)
{
    unsigned n = cluster_shape()->first;
    x.complained_at = world_now(); /* for the next time, if they only start again */
    for (unsigned i = 1; i <= n; i++) process_end(&cluster_server(i)->process, PROCESS_KILLED);
    for (unsigned i = 1; i <= n; i++)
        if (has_log(i)) return;
    world_trace("somebody empties all servers, as the cluster cannot be founded");
    founders_counts[FOUNDERS_HELPED]++;
    memset(x.firsts, 0, sizeof x.firsts);
    for (unsigned i = 1; i <= n; i++) {
        cluster_empty(cluster_server(i));
        cluster_server(i)->wiped = cluster_server(i)->known = false; /* nobody remembers it */
    }
    x.complained_at = 0;
}

static void look(void *arg, uint64_t token)
{
    (void)arg, (void)token;
    if (cluster_leader() != NULL) return;
    if (x.complained_at != 0 && world_now() > x.complained_at + PATIENCE_S * SECOND) begin_anew();
    world_at(world_now() + LOOK_MS * MS, look, NULL, 0);
}

void founders_complained(unsigned machine)
{
    if (!x.any_emptied) world_violation("server %u says that the cluster cannot be founded, and nothing was lost", machine);
    if (x.complained_at == 0) x.complained_at = world_now();
    if (!x.looks) world_at(world_now() + LOOK_MS * MS, look, NULL, 0);
    x.looks = true;
}
