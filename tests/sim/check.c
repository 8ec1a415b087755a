#include "tests/sim/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/world.h"

enum { KEPT = 4, RETAINS = 512, ENTRIES = 1 << 16, OFFSETS = 1 << 15, SNAPSHOTS = 512, MACHINES = 16 };

struct append {
    uint64_t begun, epoch, offset; /* offset 0: not acknowledged */
    uint32_t size;
    uint8_t stream, client;
    bool failed;
};

static struct {
    struct { uint64_t content, outcome; } entries[ENTRIES]; /* by Raft index; content 0: not applied yet */
    struct { uint64_t life, index; } applied[MACHINES];
    struct { uint64_t term, vote; } promised[MACHINES];
    uint64_t last_entry;
    struct append appends[CHECK_APPENDS];
    uint64_t n_appends, n_acknowledged, n_seen;
    struct stream {
        uint32_t events[OFFSETS]; /* number of the append + 1; 0: not seen */
        uint64_t last;            /* highest offset seen */
        uint64_t epoch, fenced_at, trimmed;
        struct { uint64_t offset, valid_at, deleting_at; } snapshots[SNAPSHOTS];
        unsigned n_snapshots;
        bool has_policy;
        struct check_policy policy;
        uint64_t newest[KEPT]; /* offsets of snapshots that were asked to be recorded, the highest first */
        uint64_t trim_asked;   /* the highest */
        struct { uint64_t first, last; } retains[RETAINS];
        unsigned n_retains;
        uint64_t begins; /* as far as any server has applied a trim */
    } streams[CHECK_STREAMS];
    uint32_t where[CHECK_APPENDS]; /* offset of each append that was seen */
    int64_t clock_min_us, clock_max_us; /* how far servers' clocks were off */
    uint64_t status_at, status_applied, status_commit; /* the highest answers, and when they came */
} c;

void check_begin(void)
{
    memset(c.entries, 0, (c.last_entry + 1) * sizeof *c.entries);
    memset(c.applied, 0, sizeof c.applied);
    memset(c.promised, 0, sizeof c.promised);
    for (unsigned i = 0; i < CHECK_STREAMS; i++) {
        struct stream *s = &c.streams[i];
        memset(s->events, 0, (s->last + 1) * sizeof *s->events);
        memset(s->newest, 0, sizeof s->newest);
        s->has_policy = false;
        s->trim_asked = 0;
        s->last = s->epoch = s->fenced_at = s->trimmed = s->n_snapshots = s->n_retains = 0;
        s->begins = 0;
    }
    memset(c.where, 0, (c.n_appends + 1) * sizeof *c.where);
    c.n_appends = c.n_acknowledged = c.n_seen = c.last_entry = 0;
    c.clock_min_us = c.clock_max_us = 0;
    c.status_at = c.status_applied = c.status_commit = 0;
}

void check_applied(unsigned machine, uint32_t life, uint64_t index, uint64_t content, uint64_t outcome)
{
    if (index >= ENTRIES) return;
    if (c.applied[machine].life == life && index != c.applied[machine].index + 1)
        world_violation("server %u applies entry %" PRIu64 " after %" PRIu64, machine, index, c.applied[machine].index);
    c.applied[machine].life = life;
    c.applied[machine].index = index;
    if (index > c.last_entry) c.last_entry = index;
    if (c.entries[index].content == 0) {
        c.entries[index].content = content;
        c.entries[index].outcome = outcome;
        return;
    }
    if (c.entries[index].content != content) world_violation("L2: server %u applies another entry %" PRIu64 " than a server before", machine, index);
    if (c.entries[index].outcome != outcome)
        world_violation("L2: entry %" PRIu64 " comes to something else on server %u than on a server before", index, machine);
}

void check_promised(unsigned machine, uint64_t term, uint64_t vote)
{
    uint64_t had = c.promised[machine].term, voted = c.promised[machine].vote;
    if (term < had || (term == had && voted != 0 && vote != voted))
        world_violation("server %u stores term %" PRIu64 " and vote %" PRIu64 " after term %" PRIu64 " and vote %" PRIu64, machine, term, vote, had, voted);
    c.promised[machine].term = term;
    c.promised[machine].vote = vote;
}

void check_started(unsigned machine, uint64_t term, uint64_t vote)
{
    uint64_t had = c.promised[machine].term, voted = c.promised[machine].vote;
    if (term < had || (term == had && vote != voted))
        world_violation("server %u starts with term %" PRIu64 " and vote %" PRIu64 ", but stored term %" PRIu64 " and vote %" PRIu64, machine, term, vote, had, voted);
    c.promised[machine].term = term;
    c.promised[machine].vote = vote;
}

void check_votes(unsigned machine, uint64_t term, uint64_t candidate)
{
    if (c.promised[machine].term == term && c.promised[machine].vote == candidate) return;
    world_violation("server %u votes for server %" PRIu64 " in term %" PRIu64 " before that is stored", machine, candidate, term);
}

void check_forget(unsigned machine)
{
    c.promised[machine].term = c.promised[machine].vote = 0;
    c.applied[machine].life = 0;
}

uint64_t check_last_applied(void)
{
    return c.last_entry;
}

/* ---- appends -------------------------------------------------------------------------------------------------- */

uint64_t check_append(unsigned stream, unsigned client, uint64_t epoch)
{
    if (c.n_appends + 1 >= CHECK_APPENDS) return UINT64_MAX;
    c.appends[c.n_appends] = (struct append){.begun = world_now(), .epoch = epoch, .stream = (uint8_t)stream, .client = (uint8_t)client};
    return c.n_appends++;
}

static uint64_t mix(uint64_t x)
{
    struct dice d = {x};
    return dice_roll(&d);
}

void check_append_payload(uint64_t number, unsigned stream, void *ret_bytes, size_t size)
{
    uint64_t words[3] = {number, stream, mix(number * 2 + stream)};
    c.appends[number].size = (uint32_t)size;
    memcpy(ret_bytes, words, sizeof words);
    for (size_t i = sizeof words; i < size; i += sizeof words[2]) memcpy((uint8_t *)ret_bytes + i, &words[2], size - i < 8 ? size - i : 8);
}

/* One content per offset, one offset per append. */
static void saw(const char *who, unsigned stream, uint64_t offset, uint64_t number)
{
    struct stream *s = &c.streams[stream];
    if (offset == 0 || offset >= OFFSETS) {
        if (offset == 0) world_violation("%s: an event has offset 0", who);
        return;
    }
    c.n_seen++;
    if (s->events[offset] == 0) s->events[offset] = (uint32_t)number + 1;
    else if (s->events[offset] != number + 1)
        world_violation("L2: offset %" PRIu64 " of stream %u is append %" PRIu64 " for %s, it was append %u before", offset, stream, number, who,
                        s->events[offset] - 1);
    if (c.where[number] != 0 && c.where[number] != offset)
        world_violation("L3: append %" PRIu64 " is at offset %" PRIu64 " of stream %u for %s, and at %u too", number, offset, stream, who,
                        c.where[number]);
    c.where[number] = (uint32_t)offset;
    if (offset > s->last) s->last = offset;
}

void check_acknowledged(uint64_t number, uint64_t offset)
{
    struct append *a = &c.appends[number];
    const struct stream *s = &c.streams[a->stream];
    c.n_acknowledged++;
    a->offset = offset;
    if (s->fenced_at != 0 && a->begun > s->fenced_at && a->epoch < s->epoch)
        world_violation("L4: an append of epoch %" PRIu64 " was acknowledged at offset %" PRIu64 " of stream %u, though begun after epoch %" PRIu64
                        " was given or fenced", a->epoch, offset, a->stream, s->epoch);
    saw("its producer", a->stream, offset, number);
}

void check_failed(uint64_t number)
{
    c.appends[number].failed = true;
}

void check_event(const char *who, unsigned stream, uint64_t offset, const void *payload, size_t size)
{
    uint8_t want[4096];
    uint64_t number;
    if (size < CHECK_PAYLOAD || size > sizeof want) {
        world_violation("L1: offset %" PRIu64 " of stream %u has %zu bytes for %s", offset, stream, size, who);
        return;
    }
    memcpy(&number, payload, sizeof number);
    if (number >= c.n_appends || c.appends[number].stream != stream) {
        world_violation("L1: offset %" PRIu64 " of stream %u is what nobody appended there, for %s", offset, stream, who);
        return;
    }
    if (c.appends[number].size != size) world_violation("L1: offset %" PRIu64 " of stream %u has another size for %s", offset, stream, who);
    check_append_payload(number, stream, want, size);
    if (memcmp(want, payload, size) != 0) world_violation("L1: the bytes at offset %" PRIu64 " of stream %u are changed, for %s", offset, stream, who);
    saw(who, stream, offset, number);
}

void check_fenced(unsigned stream, uint64_t epoch)
{
    struct stream *s = &c.streams[stream];
    if (epoch <= s->epoch) return;
    s->epoch = epoch;
    s->fenced_at = world_now();
}

/* ---- snapshots and trims -------------------------------------------------------------------------------------- */

void check_snapshot_valid(unsigned stream, uint64_t offset)
{
    struct stream *s = &c.streams[stream];
    if (s->n_snapshots == SNAPSHOTS) return;
    s->snapshots[s->n_snapshots].offset = offset;
    s->snapshots[s->n_snapshots].valid_at = world_now();
    s->snapshots[s->n_snapshots++].deleting_at = UINT64_MAX;
}

void check_snapshot_deleting(unsigned stream, uint64_t offset)
{
    struct stream *s = &c.streams[stream];
    for (unsigned i = 0; i < s->n_snapshots; i++)
        if (s->snapshots[i].offset == offset && s->snapshots[i].deleting_at == UINT64_MAX) s->snapshots[i].deleting_at = world_now();
}

void check_trimmed(unsigned stream, uint64_t asked_at, uint64_t first_offset)
{
    struct stream *s = &c.streams[stream];
    if (first_offset > s->trimmed) s->trimmed = first_offset;
    if (s->has_policy) {
        check_first("who trimmed it", stream, first_offset);
        return;
    }
    for (unsigned i = 0; i < s->n_snapshots; i++)
        if (s->snapshots[i].valid_at < asked_at && s->snapshots[i].deleting_at == UINT64_MAX && s->snapshots[i].offset + 1 < first_offset)
            world_violation("L5: stream %u begins at %" PRIu64 ", but the valid snapshot at %" PRIu64 " needs what follows it", stream, first_offset,
                            s->snapshots[i].offset);
}

/* ---- retention policies --------------------------------------------------------------------------------------- */

void check_policy_asked(unsigned stream, const struct check_policy *policy)
{
    c.streams[stream].has_policy = true;
    c.streams[stream].policy = *policy;
}

bool check_has_policy(unsigned stream)
{
    return c.streams[stream].has_policy;
}

void check_clock(int64_t wall_offset_us)
{
    if (wall_offset_us < c.clock_min_us) c.clock_min_us = wall_offset_us;
    if (wall_offset_us > c.clock_max_us) c.clock_max_us = wall_offset_us;
}

void check_snapshot_asked(unsigned stream, uint64_t offset)
{
    struct stream *s = &c.streams[stream];
    unsigned i = 0;
    while (i < KEPT && s->newest[i] > offset) i++;
    if (i == KEPT || s->newest[i] == offset) return;
    memmove(&s->newest[i + 1], &s->newest[i], (KEPT - 1 - i) * sizeof *s->newest);
    s->newest[i] = offset;
}

void check_trim_asked(unsigned stream, uint64_t offset)
{
    if (offset > c.streams[stream].trim_asked) c.streams[stream].trim_asked = offset;
}

/* The most that can lie behind the event before `first`: what is there, and what is perhaps. */
static uint64_t most_behind(unsigned stream, uint64_t first)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < c.n_appends; i++)
        if (c.appends[i].stream == stream && (c.where[i] == 0 || c.where[i] >= first)) sum += c.appends[i].size;
    return sum;
}

/* The highest age that any server's clock can have given the event at that offset, by any other's. */
static uint64_t most_age_us(unsigned stream, uint64_t offset)
{
    const struct stream *s = &c.streams[stream];
    if (offset >= OFFSETS || s->events[offset] == 0) return UINT64_MAX;
    uint64_t begun = c.appends[s->events[offset] - 1].begun;
    return (world_now() - begun) / US + (uint64_t)(c.clock_max_us - c.clock_min_us) + world_now() / US / 10 /* they drift by 5 % at most */;
}

void check_first(const char *who, unsigned stream, uint64_t first)
{
    struct stream *s = &c.streams[stream];
    const struct check_policy *p = &s->policy;
    if (!s->has_policy || first <= s->trim_asked + 1) return;
    uint64_t kept = s->newest[p->keep > 0 ? p->keep - 1 : 0];
    if (!p->beyond && first > kept + 1)
        world_violation("L5: stream %u begins at %" PRIu64 " for %s, but its policy keeps what follows the snapshot at %" PRIu64, stream, first, who, kept);
    bool bound = p->age_us > 0 || p->bytes > 0;
    if (bound && !(p->age_us > 0 && most_age_us(stream, first - 1) > p->age_us) && !(p->bytes > 0 && most_behind(stream, first) > p->bytes))
        world_violation("L5: stream %u begins at %" PRIu64 " for %s, but its policy keeps the last %" PRIu64 " us and %" PRIu64 " bytes", stream, first, who, p->age_us,
                        p->bytes);
}

void check_trims(unsigned stream, uint64_t first)
{
    if (first > c.streams[stream].begins) c.streams[stream].begins = first;
}

void check_retained(unsigned stream, uint64_t first, uint64_t last)
{
    struct stream *s = &c.streams[stream];
    const struct check_policy *p = &s->policy;
    bool was = first <= s->begins; /* a person's trim went further, or another server did this */
    check_trims(stream, first);
    if (was || p->bytes == 0 || s->n_retains == RETAINS) return;
    if (p->age_us > 0 && most_age_us(stream, first - 1) > p->age_us) return;
    s->retains[s->n_retains].first = first;
    s->retains[s->n_retains++].last = last;
}

/* What was left is more than its policy keeps, or one event more could have been. Of an event that nobody was given the most is assumed. */
void check_retains(void)
{
    for (unsigned i = 0; i < CHECK_STREAMS; i++) {
        const struct stream *s = &c.streams[i];
        uint64_t largest = 0;
        for (uint64_t j = 0; j < c.n_appends; j++)
            if (c.appends[j].stream == i && c.appends[j].size > largest) largest = c.appends[j].size;
        for (unsigned k = 0; k < s->n_retains; k++) {
            uint64_t left = 0;
            for (uint64_t o = s->retains[k].first; o <= s->retains[k].last && o < OFFSETS; o++) left += s->events[o] == 0 ? largest : c.appends[s->events[o] - 1].size;
            if (left <= s->policy.bytes)
                world_violation("L5: stream %u ended at %" PRIu64 " when its policy made it begin at %" PRIu64 ": that leaves %" PRIu64 " bytes, and it keeps %" PRIu64, i,
                                s->retains[k].last, s->retains[k].first, left, s->policy.bytes);
        }
    }
}

void check_status(uint64_t asked_at, uint64_t applied, uint64_t commit)
{
    if (asked_at > c.status_at && (applied < c.status_applied || commit < c.status_commit))
        world_violation("a linearizable status says applied %" PRIu64 ", committed %" PRIu64 "; an earlier one said %" PRIu64 ", %" PRIu64, applied, commit,
                        c.status_applied, c.status_commit);
    if (applied < c.status_applied || commit < c.status_commit) return;
    c.status_applied = applied;
    c.status_commit = commit;
    c.status_at = world_now();
}

/* ---- backups -------------------------------------------------------------------------------------------------- */

void check_mark(struct check_mark *ret)
{
    ret->at = world_now();
    for (unsigned i = 0; i < CHECK_STREAMS; i++) ret->last[i] = 0;
    for (uint64_t i = 0; i < c.n_appends; i++)
        if (c.appends[i].offset > ret->last[c.appends[i].stream]) ret->last[c.appends[i].stream] = c.appends[i].offset;
}

void check_backup(const struct check_mark *mark, unsigned stream, uint64_t first, uint64_t last)
{
    const struct stream *s = &c.streams[stream];
    if (last < mark->last[stream])
        world_violation("L1: stream %u ends at %" PRIu64 " in a backup, but %" PRIu64 " was acknowledged before it was begun", stream, last, mark->last[stream]);
    if (s->has_policy) check_first("a backup", stream, first);
    for (unsigned i = 0; i < s->n_snapshots && !s->has_policy; i++)
        if (s->snapshots[i].valid_at < mark->at && s->snapshots[i].deleting_at == UINT64_MAX && first > s->snapshots[i].offset + 1)
            world_violation("L5: stream %u begins at %" PRIu64 " in a backup, but the valid snapshot at %" PRIu64 " needs what follows it", stream, first,
                            s->snapshots[i].offset);
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

void check_replica(const char *who, unsigned stream, uint64_t first, uint64_t last)
{
    const struct stream *s = &c.streams[stream];
    for (uint64_t i = 0; i < c.n_appends; i++) {
        const struct append *a = &c.appends[i];
        if (a->stream != stream || a->offset == 0) continue;
        if (a->offset > last)
            world_violation("L1: append %" PRIu64 " was acknowledged at offset %" PRIu64 " of stream %u, which ends at %" PRIu64 " on %s", i, a->offset, stream, last,
                            who);
    }
    if (s->last > last) world_violation("L1: offset %" PRIu64 " of stream %u was seen, but on %s it ends at %" PRIu64, s->last, stream, who, last);
    for (uint64_t offset = first; offset <= last && offset < OFFSETS; offset++)
        if (s->events[offset] == 0) world_violation("L2: offset %" PRIu64 " of stream %u is missing on %s", offset, stream, who);
    if (s->has_policy) {
        check_first(who, stream, first);
        return;
    }
    uint64_t needed = UINT64_MAX; /* by the valid snapshot that needs most */
    for (unsigned i = 0; i < s->n_snapshots; i++)
        if (s->snapshots[i].deleting_at == UINT64_MAX && s->snapshots[i].offset < needed) needed = s->snapshots[i].offset;
    if (needed != UINT64_MAX && first > needed + 1)
        world_violation("L5: stream %u begins at %" PRIu64 " on %s, but the valid snapshot at %" PRIu64 " needs what follows it", stream, first, who, needed);
}

uint64_t check_appends(void)
{
    return c.n_appends;
}

uint64_t check_acknowledgements(void)
{
    return c.n_acknowledged;
}

uint64_t check_events_seen(void)
{
    return c.n_seen;
}
