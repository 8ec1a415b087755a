#include "logd/streams/records.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "logd/streams/command_codec.h"
#include "logd/streams/policy.h"

enum { VERSION = 1 };

/* What the formats below take at most; they must fit the index' bound on values. */
_Static_assert(1 + 7 * 8 + 2 * (2 + STREAMS_NAME_MAX + 1) + 4 + 2 * 8 + 1 + RECORDS_SEAL <= RECORDS_VALUE_MAX, "stream record");
_Static_assert(1 + 2 * 8 + 2 + STREAMS_NAME_MAX + 1 + 4 + SESSION_RUNS_MAX * 16 + RECORDS_SEAL <= RECORDS_VALUE_MAX, "session record");
_Static_assert(1 + 4 + 5 * 8 + STREAMS_IMAGE_MAX + STREAMS_DIGEST_MAX + STREAMS_REASON_MAX + 3 * STREAMS_NAME_MAX +
                       SNAPSHOT_STRINGS * 3 + RECORDS_SEAL <= RECORDS_VALUE_MAX, "snapshot record");

/* ---- writing: into a buffer that is known to be large enough -------------------------------------------------- */

static uint8_t *add_u8(uint8_t *p, uint8_t v)
{
    *p = v;
    return p + 1;
}

static uint8_t *add_u32(uint8_t *p, uint32_t v)
{
    put_u32(p, v);
    return p + 4;
}

static uint8_t *add_u64(uint8_t *p, uint64_t v)
{
    put_u64(p, v);
    return p + 8;
}

/* u16 length, the bytes, a zero: a reader may point at it. */
static uint8_t *add_string(uint8_t *p, const char *s)
{
    size_t len = strlen(s);
    assert(len <= UINT16_MAX);
    put_u16(p, (uint16_t)len);
    memcpy(p + 2, s, len + 1);
    return p + 2 + len + 1;
}

/* ---- reading: the first thing that does not fit makes everything after it fail -------------------------------- */

struct cursor {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static const uint8_t *take(struct cursor *c, size_t n)
{
    if (c->bad || c->left < n) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->left -= n;
    return p;
}

static uint8_t take_u8(struct cursor *c)
{
    const uint8_t *p = take(c, 1);
    return p != NULL ? *p : 0;
}

static uint32_t take_u32(struct cursor *c)
{
    const uint8_t *p = take(c, 4);
    return p != NULL ? get_u32(p) : 0;
}

static uint64_t take_u64(struct cursor *c)
{
    const uint8_t *p = take(c, 8);
    return p != NULL ? get_u64(p) : 0;
}

/* Never NULL; points into the value. */
static const char *take_string(struct cursor *c, size_t max)
{
    const uint8_t *p = take(c, 2);
    size_t len = p != NULL ? get_u16(p) : 0;
    const char *s = (const char *)take(c, len + 1);
    if (s != NULL && len <= max && memchr(s, '\0', len + 1) == s + len) return s;
    c->bad = true;
    return "";
}

static struct cursor cursor_open(const void *value, size_t len)
{
    struct cursor c = {value, len, false};
    if (take_u8(&c) != VERSION) c.bad = true;
    return c;
}

static bool cursor_done(const struct cursor *c)
{
    return !c->bad && c->left == 0;
}

/* ---- keys ----------------------------------------------------------------------------------------------------- */

static void put_big(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t get_big(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

void records_key(uint64_t stream_id, uint64_t number, uint8_t ret_key[static RECORDS_KEY_MAX])
{
    put_big(ret_key, stream_id);
    put_big(ret_key + 8, number);
}

int records_decode_key(enum streams_table table, const void *key, size_t key_len, uint64_t *ret_stream_id,
                       uint64_t *ret_number)
{
    const uint8_t *p = key;
    size_t expected = table == STREAMS_TABLE_STREAM ? 8 : 16;
    if (key_len != expected || get_big(p) == 0 || (expected == 16 && get_big(p + 8) == 0)) return -ERROR_CORRUPT;
    *ret_stream_id = get_big(p);
    *ret_number = expected == 16 ? get_big(p + 8) : 0;
    return 0;
}

/* ---- seals ---------------------------------------------------------------------------------------------------- */

void records_seal(const void *key, size_t key_len, const void *value, size_t value_len, uint8_t ret_seal[static RECORDS_SEAL])
{
    put_u32(ret_seal, crc32c(crc32c(0, key, key_len), value, value_len));
}

int records_unseal(const void *key, size_t key_len, const void *value, size_t *value_len)
{
    uint8_t seal[RECORDS_SEAL];
    if (*value_len < RECORDS_SEAL) return -ERROR_CORRUPT;
    size_t len = *value_len - RECORDS_SEAL;
    records_seal(key, key_len, value, len, seal);
    if (memcmp(seal, (const uint8_t *)value + len, RECORDS_SEAL) != 0) return -ERROR_CORRUPT;
    *value_len = len;
    return 0;
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

size_t records_encode_stream(const struct stream *s, uint8_t ret[static RECORDS_VALUE_MAX])
{
    uint8_t *p = add_u8(ret, VERSION);
    p = add_u64(p, s->first_offset);
    p = add_u64(p, s->last_offset);
    p = add_u64(p, s->epoch);
    p = add_u64(p, s->min_epoch);
    p = add_u64(p, s->bytes);
    p = add_u64(p, s->last_time_us);
    p = add_u64(p, s->snapshots_ever);
    p = add_string(p, s->name);
    p = add_string(p, s->producer);
    p = add_u32(p, s->policy.keep_snapshots);
    p = add_u64(p, s->policy.max_age_us);
    p = add_u64(p, s->policy.max_bytes);
    p = add_u8(p, s->policy.beyond_snapshots);
    return (size_t)(p - ret);
}

int records_decode_stream(const void *value, size_t len, struct stream *s)
{
    struct cursor c = cursor_open(value, len);
    uint64_t first = take_u64(&c), last = take_u64(&c), epoch = take_u64(&c), min_epoch = take_u64(&c);
    uint64_t bytes = take_u64(&c), time_us = take_u64(&c), ever = take_u64(&c);
    const char *name = take_string(&c, STREAMS_NAME_MAX), *producer = take_string(&c, STREAMS_NAME_MAX);
    struct streams_policy policy = {0};
    if (c.left > 0) {
        policy.keep_snapshots = take_u32(&c);
        policy.max_age_us = take_u64(&c);
        policy.max_bytes = take_u64(&c);
        uint8_t beyond = take_u8(&c);
        policy.beyond_snapshots = beyond != 0;
        if (beyond > 1 || policy_check(&policy, NULL) != 0) return -ERROR_CORRUPT;
    }
    if (!cursor_done(&c) || first == 0 || last == UINT64_MAX || first > last + 1 || name[0] == '\0')
        return -ERROR_CORRUPT;
    char *own_name = strdup(name), *own_producer = strdup(producer);
    if (own_name == NULL || own_producer == NULL) {
        free(own_name);
        free(own_producer);
        return -ERROR_NOMEM;
    }
    s->first_offset = first;
    s->last_offset = last;
    s->epoch = epoch;
    s->min_epoch = min_epoch;
    s->bytes = bytes;
    s->last_time_us = time_us;
    s->snapshots_ever = ever;
    s->policy = policy;
    s->name = own_name;
    s->producer = own_producer;
    return 0;
}

/* ---- sessions ------------------------------------------------------------------------------------------------- */

size_t records_encode_session(const struct session *s, uint8_t ret[static RECORDS_VALUE_MAX])
{
    uint8_t *p = add_u8(ret, VERSION);
    p = add_u64(p, s->last);
    p = add_u64(p, s->used_offset);
    p = add_string(p, s->producer);
    p = add_u32(p, s->n_runs);
    for (uint32_t i = 0; i < s->n_runs; i++) {
        p = add_u64(p, s->runs[i].sequence);
        p = add_u64(p, s->runs[i].offset);
    }
    return (size_t)(p - ret);
}

/* Runs follow each other in sequence and in offset, and end at `last`. */
static bool runs_make_sense(const struct session *s)
{
    if (s->n_runs == 0) return s->last == 0;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        const struct session_run *run = &s->runs[i];
        uint64_t end = i + 1 < s->n_runs ? run[1].sequence : s->last + 1;
        if (run->sequence == 0 || run->offset == 0 || run->sequence >= end) return false;
        if (i + 1 < s->n_runs && (run[1].offset <= run->offset || run[1].offset - run->offset < end - run->sequence))
            return false;
    }
    return true;
}

int records_decode_session(uint64_t epoch, const void *value, size_t len, struct session **ret_session)
{
    struct cursor c = cursor_open(value, len);
    uint64_t last = take_u64(&c), used_offset = take_u64(&c);
    const char *producer = take_string(&c, STREAMS_NAME_MAX);
    uint32_t n = take_u32(&c);
    if (c.bad || producer[0] == '\0' || last > 2 * COMMAND_NUMBER_MAX || n > SESSION_RUNS_MAX || c.left != n * 16u)
        return -ERROR_CORRUPT;
    struct session *s = session_new(epoch, producer, strlen(producer));
    if (s == NULL) return -ERROR_NOMEM;
    s->last = last;
    s->used_offset = used_offset;
    if (n > 0 && (s->runs = malloc(n * sizeof *s->runs)) == NULL) {
        session_free(s);
        return -ERROR_NOMEM;
    }
    s->n_runs = s->cap_runs = n;
    for (uint32_t i = 0; i < n; i++) {
        s->runs[i].sequence = take_u64(&c);
        s->runs[i].offset = take_u64(&c);
    }
    if (!runs_make_sense(s)) {
        session_free(s);
        return -ERROR_CORRUPT;
    }
    *ret_session = s;
    return 0;
}

/* ---- snapshots ------------------------------------------------------------------------------------------------ */

static const size_t string_max[SNAPSHOT_STRINGS] = {
    [SNAPSHOT_ID] = STREAMS_NAME_MAX,     [SNAPSHOT_IMAGE] = STREAMS_IMAGE_MAX,
    [SNAPSHOT_SHA256] = STREAMS_DIGEST_MAX, [SNAPSHOT_NODE] = STREAMS_NAME_MAX,
    [SNAPSHOT_TEMPLATE_HASH] = STREAMS_NAME_MAX, [SNAPSHOT_REASON] = STREAMS_REASON_MAX,
};

size_t records_encode_snapshot(const struct snapshot *s, uint8_t ret[static RECORDS_VALUE_MAX])
{
    struct streams_snapshot out = s->out;
    uint8_t *p = add_u8(ret, VERSION);
    p = add_u32(p, out.state);
    p = add_u64(p, out.offset);
    p = add_u64(p, out.size);
    p = add_u64(p, out.started_us);
    p = add_u64(p, out.finished_us);
    p = add_u64(p, out.recorded_us);
    for (int i = 0; i < SNAPSHOT_STRINGS; i++) p = add_string(p, *snapshot_string_of(&out, (enum snapshot_string)i));
    return (size_t)(p - ret);
}

int records_decode_snapshot(uint64_t number, const void *value, size_t len, struct snapshot **ret_snapshot)
{
    struct cursor c = cursor_open(value, len);
    struct streams_snapshot out = {0};
    out.state = take_u32(&c);
    out.offset = take_u64(&c);
    out.size = take_u64(&c);
    out.started_us = take_u64(&c);
    out.finished_us = take_u64(&c);
    out.recorded_us = take_u64(&c);
    for (int i = 0; i < SNAPSHOT_STRINGS; i++)
        *snapshot_string_of(&out, (enum snapshot_string)i) = take_string(&c, string_max[i]);
    if (!cursor_done(&c) || out.id[0] == '\0' || out.state < COMMAND_TAKING || out.state > COMMAND_DELETED)
        return -ERROR_CORRUPT;
    struct snapshot *s = snapshot_new(number, &out);
    if (s == NULL) return -ERROR_NOMEM;
    *ret_snapshot = s;
    return 0;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

size_t records_encode_event(const struct streams_run *run, uint8_t ret[static RECORDS_EVENT_VALUE])
{
    uint8_t *p = add_u32(ret, run->count);
    p = add_u32(p, run->frame_len);
    p = add_u64(p, run->where.segment);
    p = add_u64(p, run->where.position);
    p = add_u64(p, run->epoch);
    p = add_u64(p, run->sequence);
    p = add_u64(p, run->time_us);
    p = add_u64(p, run->before);
    return (size_t)(p - ret);
}

void streams_event_key(uint64_t stream_id, uint64_t offset, uint8_t ret_key[static STREAMS_EVENT_KEY])
{
    records_key(stream_id, offset, ret_key);
}

_Static_assert(STREAMS_EVENT_VALUE == RECORDS_EVENT_VALUE + RECORDS_SEAL, "event value");

void streams_event_encode(const uint8_t key[static STREAMS_EVENT_KEY], const struct streams_run *run, uint8_t ret_value[static STREAMS_EVENT_VALUE])
{
    size_t len = records_encode_event(run, ret_value);
    records_seal(key, STREAMS_EVENT_KEY, ret_value, len, ret_value + len);
}

int streams_event_decode(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_stream_id,
                         struct streams_run *ret_run)
{
    uint64_t id, offset;
    int rv = records_decode_key(STREAMS_TABLE_EVENT, key, key_len, &id, &offset);
    if (rv == 0) rv = records_unseal(key, key_len, value, &value_len);
    if (rv != 0) return rv;
    if (value_len != RECORDS_EVENT_VALUE && value_len != RECORDS_EVENT_VALUE_EARLY) return -ERROR_CORRUPT;
    struct cursor c = {value, value_len, false};
    struct streams_run run = {.first_offset = offset};
    run.count = take_u32(&c);
    run.frame_len = take_u32(&c);
    run.where.segment = take_u64(&c);
    run.where.position = take_u64(&c);
    run.epoch = take_u64(&c);
    run.sequence = take_u64(&c);
    run.time_us = take_u64(&c);
    if (c.left > 0) run.before = take_u64(&c);
    if (run.count < 1 || run.count > STREAMS_BATCH_MAX || run.frame_len < FRAME_HEADER || run.epoch == 0 ||
        run.frame_len > FRAME_HEADER + FRAME_HEAD_MAX + FRAME_BODY_MAX || run.sequence == 0)
        return -ERROR_CORRUPT;
    *ret_stream_id = id;
    *ret_run = run;
    return 0;
}
