#include "logd/streams/commands.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/streams/policy.h"
#include "logd/streams/records.h"
#include "logd/streams/update.h"

/* The command had no effect, and why. Returns 0: an outcome is not a failure of ours. */
static int __attribute__((format(printf, 3, 4)))
refuse(const struct command_context *x, enum error_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(x->outcome->text, sizeof x->outcome->text, format, args);
    va_end(args);
    x->outcome->code = code;
    return 0;
}

static int refuse_unknown(const struct command_context *x)
{
    return refuse(x, ERROR_NOT_FOUND, "no such stream: open a producer to make it");
}

/* ---- sessions ------------------------------------------------------------------------------------------------- */

static int drop_session(struct stream *t, uint32_t i, const struct command_context *x)
{
    uint8_t key[RECORDS_KEY_MAX];
    records_key(t->id, t->sessions[i]->epoch, key);
    int rv = update_put(x->update, STREAMS_TABLE_SESSION, key, sizeof key, NULL, 0);
    if (rv != 0) return rv;
    session_free(t->sessions[i]);
    t->n_sessions--;
    memmove(t->sessions + i, t->sessions + i + 1, (t->n_sessions - i) * sizeof(*t->sessions));
    return 0;
}

/* Fences: drops the sessions below `epoch`, or with `producer` only those of that name. */
static int drop_sessions(struct stream *t, uint64_t epoch, const char *producer, const struct command_context *x)
{
    for (uint32_t i = t->n_sessions; i > 0; i--) {
        const struct session *session = t->sessions[i - 1];
        if (MUTANT(ignore_epoch) || session->epoch >= epoch || (producer != NULL && strcmp(session->producer, producer) != 0)) continue;
        int rv = drop_session(t, i - 1, x);
        if (rv != 0) return rv;
    }
    return 0;
}

/* Keeps the number of live sessions within its bound: who has been idle longest, the older of equals, is fenced. */
static int make_room_for_session(struct stream *t, const struct command_context *x)
{
    if (t->n_sessions < STREAMS_SESSIONS_MAX) return 0;
    uint32_t idle = 0;
    for (uint32_t i = 1; i < t->n_sessions; i++)
        if (t->sessions[i]->used_offset < t->sessions[idle]->used_offset) idle = i;
    return drop_session(t, idle, x);
}

static struct session *find_session(const struct stream *t, uint64_t epoch)
{
    for (uint32_t i = t->n_sessions; i > 0; i--)
        if (t->sessions[i - 1]->epoch == epoch) return t->sessions[i - 1];
    return NULL;
}

/* ---- OpenProducer --------------------------------------------------------------------------------------------- */

static struct stream *make_stream(struct streams *s, const struct command *c)
{
    if (names_reserve(&s->names) != 0) return NULL;
    char *name = strdup(c->stream), *producer = strdup("");
    struct stream *t = name != NULL && producer != NULL ? stream_new(s) : NULL;
    if (t == NULL) {
        free(name);
        free(producer);
        return NULL;
    }
    t->name = name;
    t->producer = producer;
    names_add(&s->names, t->id);
    return t;
}

static int run_open_producer(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    if (t == NULL) {
        if (s->n >= STREAMS_MAX) return refuse(x, ERROR_TOO_LARGE, "there are %d streams, which is the limit", STREAMS_MAX);
        if ((t = make_stream(s, c)) == NULL) return -ERROR_NOMEM;
    }
    uint64_t epoch = t->epoch + 1 > t->min_epoch ? t->epoch + 1 : t->min_epoch;
    int rv = drop_sessions(t, epoch, c->open.shared ? c->open.producer : NULL, x);
    if (rv != 0 || (rv = make_room_for_session(t, x)) != 0) return rv;

    struct session *session = session_new(epoch, c->open.producer, c->open.producer_len);
    char *producer = strdup(c->open.producer);
    if (session == NULL || producer == NULL || stream_add_session(t, session) != 0) {
        session_free(session);
        free(producer);
        return -ERROR_NOMEM;
    }
    session->used_offset = t->last_offset;
    session->dirty = true;
    free(t->producer);
    t->producer = producer;
    t->epoch = epoch;
    if (!c->open.shared) t->min_epoch = epoch;
    stream_touch(s, t);
    x->outcome->stream_id = t->id;
    x->outcome->epoch = epoch;
    x->outcome->offset = t->last_offset;
    return 0;
}

/* ---- Append --------------------------------------------------------------------------------------------------- */

static int refuse_epoch(const struct stream *t, uint64_t epoch, const struct command_context *x)
{
    uint64_t owner = t->epoch > t->min_epoch ? t->epoch : t->min_epoch;
    if (epoch > t->epoch && epoch >= t->min_epoch)
        return refuse(x, ERROR_INVALID, "epoch %" PRIu64 " was never given", epoch);
    x->outcome->epoch = owner;
    return refuse(x, ERROR_FENCED, "epoch %" PRIu64 " is fenced: the stream is at epoch %" PRIu64, epoch, owner);
}

/* A batch that is not simply the next one. */
static int answer_repeated(enum session_verdict verdict, const struct session *session, const struct command_append *a,
                           uint64_t offset, const struct command_context *x)
{
    if (verdict == SESSION_DUPLICATE) {
        x->outcome->offset = offset;
        x->outcome->count = a->n;
        x->outcome->duplicate = true;
        return 0;
    }
    x->outcome->expected = session->last + 1;
    switch (verdict) {
    case SESSION_GAP:
        return refuse(x, ERROR_SEQUENCE, "sequence %" PRIu64 " came, %" PRIu64 " is next", a->sequence, session->last + 1);
    case SESSION_FORGOTTEN:
        return refuse(x, ERROR_SEQUENCE, "sequence %" PRIu64 " is too old: its outcome is unknown", a->sequence);
    default:
        return refuse(x, ERROR_SEQUENCE, "sequences %" PRIu64 " to %" PRIu64 " came in other batches before", a->sequence,
                      a->sequence + a->n - 1);
    }
}

/* Events may refer only to what lies before them: a replay that waits for the future would wait for ever. */
static int check_references(const struct stream *t, const struct command_append *a, const struct command_context *x)
{
    for (uint32_t i = 0; i < a->n; i++) {
        const struct command_event *event = &a->events[i];
        uint64_t offset = t->last_offset + 1 + i;
        if (event->kind == COMMAND_COMPLETION && (event->ref == 0 || event->ref >= offset)) /* it may be trimmed by now */
            return refuse(x, ERROR_INVALID, "a completion refers to offset %" PRIu64 ", which is not there", event->ref);
        if (event->after >= offset)
            return refuse(x, ERROR_INVALID, "an event claims to be after offset %" PRIu64 ", which is not there",
                          event->after);
    }
    return 0;
}

static int add_run(struct streams *s, struct stream *t, const struct streams_run *run, const struct command_context *x)
{
    uint8_t key[STREAMS_EVENT_KEY], value[RECORDS_EVENT_VALUE];
    streams_event_key(t->id, run->first_offset, key);
    size_t len = records_encode_event(run, value);
    int rv = update_put(x->update, STREAMS_TABLE_EVENT, key, sizeof key, value, len);
    if (rv != 0 || (rv = overlay_add(&t->overlay, x->index, run)) != 0) return rv;
    if (!t->overlaid) {
        t->overlaid = true;
        t->next_overlaid = s->overlaid;
        s->overlaid = t;
    }
    return 0;
}

static int apply_events(struct streams *s, struct stream *t, struct session *session, const struct command_append *a,
                        const struct command_context *x)
{
    struct streams_run run = {
        .first_offset = t->last_offset + 1, .count = a->n, .frame_len = x->frame_len, .before = t->bytes, .where = x->where,
        .epoch = a->epoch, .sequence = a->sequence, .time_us = x->time_us};
    int rv = add_run(s, t, &run, x);
    if (rv != 0 || (rv = session_applied(session, a->n, run.first_offset)) != 0) return rv;
    session->dirty = !MUTANT(forget_session);
    for (uint32_t i = 0; i < a->n; i++) t->bytes += a->events[i].size;
    t->last_offset += a->n;
    t->last_time_us = x->time_us;
    stream_touch(s, t);
    x->outcome->offset = run.first_offset;
    x->outcome->count = a->n;
    return 0;
}

/* The order of the checks is the contract: a fenced epoch hears so even of what it appended (L4), and a repeated batch
 * gets its answer although the stream has moved on from `last_offset` (L3). */
static int run_append(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    const struct command_append *a = &c->append;
    if (t == NULL) return refuse_unknown(x);
    struct session *session = a->epoch >= t->min_epoch || MUTANT(ignore_epoch) ? find_session(t, a->epoch) : NULL;
    if (session == NULL) return refuse_epoch(t, a->epoch, x);

    uint64_t offset = 0;
    enum session_verdict verdict = session_judge(session, a->sequence, a->n, &offset);
    if (verdict != SESSION_NEXT) return answer_repeated(verdict, session, a, offset, x);
    if (a->if_last && a->last_offset != t->last_offset) {
        x->outcome->expected = t->last_offset;
        return refuse(x, ERROR_CONFLICT, "the last offset is %" PRIu64 ", not %" PRIu64, t->last_offset, a->last_offset);
    }
    check_references(t, a, x);
    if (x->outcome->code != ERROR_NONE) return 0;
    return apply_events(s, t, session, a, x);
}

/* ---- Fence ---------------------------------------------------------------------------------------------------- */

static int run_fence(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    if (t == NULL) return refuse_unknown(x);
    uint64_t epoch = c->fence != 0 ? c->fence : t->epoch + 1;
    if (epoch > t->min_epoch && !MUTANT(fence_nothing)) {
        int rv = drop_sessions(t, epoch, NULL, x);
        if (rv != 0) return rv;
        t->min_epoch = epoch;
        stream_touch(s, t);
    }
    x->outcome->epoch = t->min_epoch;
    return 0;
}

/* ---- RecordSnapshot ------------------------------------------------------------------------------------------- */

static int forget_snapshot(struct stream *t, uint32_t i, const struct command_context *x)
{
    uint8_t key[RECORDS_KEY_MAX];
    records_key(t->id, t->snapshots.all[i]->number, key);
    int rv = update_put(x->update, STREAMS_TABLE_SNAPSHOT, key, sizeof key, NULL, 0);
    if (rv == 0) snapshots_remove(&t->snapshots, i);
    return rv;
}

static int write_snapshot(struct stream *t, uint64_t number, const struct command_snapshot *from,
                          const struct command_context *x)
{
    struct streams_snapshot out = {
        .id = from->id, .offset = from->offset, .state = from->state, .image = from->image, .sha256 = from->sha256,
        .node = from->node, .template_hash = from->template_hash, .reason = from->reason, .size = from->size,
        .started_us = from->started_us, .finished_us = from->finished_us, .recorded_us = x->time_us};
    struct snapshot *snapshot = snapshot_new(number, &out);
    if (snapshot == NULL) return -ERROR_NOMEM;
    uint8_t key[RECORDS_KEY_MAX], value[RECORDS_VALUE_MAX];
    records_key(t->id, number, key);
    size_t len = records_encode_snapshot(snapshot, value);
    int rv = update_put(x->update, STREAMS_TABLE_SNAPSHOT, key, sizeof key, value, len);
    if (rv == 0) rv = snapshots_put(&t->snapshots, snapshot);
    if (rv != 0) snapshot_free(snapshot);
    return rv;
}

static int run_snapshot(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    if (t == NULL) return refuse_unknown(x);
    const struct command_snapshot *from = &c->snapshot;
    uint32_t i = snapshots_find(&t->snapshots, from->id);
    bool new = i == t->snapshots.n;
    uint32_t state = new ? 0 : t->snapshots.all[i]->out.state;
    x->outcome->expected = t->last_offset;
    if (!snapshot_move_allowed(state, from->state))
        return refuse(x, ERROR_CONFLICT, "a snapshot cannot go from %s to %s", snapshot_state_name(state),
                      snapshot_state_name(from->state));
    if (from->offset > t->last_offset)
        return refuse(x, ERROR_CONFLICT, "a snapshot at offset %" PRIu64 " of a stream that ends at %" PRIu64,
                      from->offset, t->last_offset);
    if (from->state == COMMAND_VALID && from->offset + 1 < t->first_offset)
        return refuse(x, ERROR_CONFLICT, "a snapshot at offset %" PRIu64 " of a stream that begins at %" PRIu64 ": what follows it is gone",
                      from->offset, t->first_offset);
    x->outcome->expected = 0;
    if (!new) return write_snapshot(t, t->snapshots.all[i]->number, from, x);

    if (t->snapshots.n >= STREAMS_SNAPSHOTS_MAX) {
        uint32_t victim = snapshots_victim(&t->snapshots);
        if (victim == t->snapshots.n)
            return refuse(x, ERROR_TOO_LARGE, "there are %d snapshots, none of them deleted or failed: delete some",
                          STREAMS_SNAPSHOTS_MAX);
        int rv = forget_snapshot(t, victim, x);
        if (rv != 0) return rv;
    }
    t->snapshots_ever++;
    stream_touch(s, t);
    return write_snapshot(t, t->snapshots_ever, from, x);
}

/* ---- Trim ----------------------------------------------------------------------------------------------------- */

/* The last event that no valid snapshot needs: each is followed by a replay from its own offset on (L5). One that a retention policy has
 * let go of holds nothing back. */
static bool trim_limit(const struct stream *t, uint64_t *ret_limit)
{
    bool found = false;
    for (uint32_t i = 0; i < t->snapshots.n; i++) {
        const struct snapshot *snapshot = t->snapshots.all[i];
        if (!snapshot_usable(snapshot, t->first_offset) || (found && snapshot->out.offset >= *ret_limit)) continue;
        *ret_limit = snapshot->out.offset;
        found = true;
    }
    return found;
}

/* Events up to `upto`, which there are, go. */
static int trim_to(struct streams *s, struct stream *t, uint64_t upto, const struct command_context *x)
{
    uint8_t key[STREAMS_EVENT_KEY];
    if (upto >= t->first_offset) {
        t->first_offset = upto + 1 + MUTANT(trim_too_many);
        streams_event_key(t->id, t->first_offset, key);
        int rv = update_put(x->update, STREAMS_TABLE_EVENT, key, sizeof key, NULL, 0);
        if (rv != 0) return rv;
        stream_touch(s, t);
    }
    x->outcome->offset = t->first_offset;
    return 0;
}

static int run_trim(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    if (t == NULL) return refuse_unknown(x);
    uint64_t upto = c->trim.offset, limit = t->last_offset;
    bool covered = trim_limit(t, &limit);
    if (MUTANT(trim_needed)) limit = t->last_offset;
    x->outcome->expected = limit;
    if (upto > limit && covered && limit < t->last_offset)
        return refuse(x, ERROR_CONFLICT, "a valid snapshot at offset %" PRIu64 " needs what comes after it", limit);
    if (upto > t->last_offset)
        return refuse(x, ERROR_CONFLICT, "the last offset is %" PRIu64 ", not %" PRIu64, t->last_offset, upto);
    x->outcome->expected = 0;
    if (upto >= t->first_offset && !covered && !c->trim.force)
        return refuse(x, ERROR_CONFLICT, "there is no valid snapshot: the state could not be brought back (force trims all the same)");
    return trim_to(s, t, upto, x);
}

/* ---- SetRetention, and the trims it leads to ------------------------------------------------------------------- */

static int run_set_retention(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    if (t == NULL) return refuse_unknown(x);
    t->policy = c->policy;
    stream_touch(s, t);
    return 0;
}

/* The leader looked at the stream before this was committed: a snapshot may have failed since, or the policy changed. */
static int run_retain(struct streams *s, struct stream *t, const struct command *c, const struct command_context *x)
{
    uint64_t bound = 0;
    if (t == NULL) return refuse_unknown(x);
    if (!policy_equal(&t->policy, &c->retain.policy)) return refuse(x, ERROR_CONFLICT, "the stream has another retention policy by now");
    bool some = policy_bound(t, &bound);
    x->outcome->expected = some ? bound : 0;
    if (!some || c->retain.offset > bound) return refuse(x, ERROR_CONFLICT, "the snapshots that the retention policy keeps need some of it");
    x->outcome->expected = 0;
    return trim_to(s, t, c->retain.offset, x);
}

int commands_run(struct streams *s, const struct command *c, const struct command_context *x)
{
    struct stream *t = stream_by_id(s, names_find(&s->names, c->stream, c->stream_len));
    x->outcome->stream_id = t != NULL ? t->id : 0;
    switch (c->type) {
    case FRAME_OPEN_PRODUCER: return run_open_producer(s, t, c, x);
    case FRAME_APPEND: return run_append(s, t, c, x);
    case FRAME_FENCE: return run_fence(s, t, c, x);
    case FRAME_RECORD_SNAPSHOT: return run_snapshot(s, t, c, x);
    case FRAME_TRIM: return run_trim(s, t, c, x);
    case FRAME_SET_RETENTION: return run_set_retention(s, t, c, x);
    case FRAME_RETAIN: return run_retain(s, t, c, x);
    default: break;
    }
    assert(!"command_parse() lets no other type through");
    return -ERROR_INTERNAL;
}
