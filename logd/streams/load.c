/* Start-up: the state as the index' last transaction left it. Records come in any order, so that a stream may be known
 * by a session of its before its own record comes; streams_loaded() sees whether all of it fits together. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/streams/records.h"

static int by_epoch(const void *a, const void *b)
{
    const struct session *const *x = a, *const *y = b;
    return (*x)->epoch < (*y)->epoch ? -1 : (*x)->epoch > (*y)->epoch;
}

/* Makes the streams up to `id` exist. */
static int know(struct streams *s, uint64_t id)
{
    if (id > STREAMS_MAX) return -ERROR_CORRUPT;
    while (s->n < id)
        if (stream_new(s) == NULL) return -ERROR_NOMEM;
    return 0;
}

static int load_stream(struct streams *s, struct stream *t, const void *value, size_t len)
{
    if (t->name != NULL) return -ERROR_CORRUPT;
    int rv = names_reserve(&s->names);
    if (rv != 0 || (rv = records_decode_stream(value, len, t)) != 0) return rv;
    if (names_find(&s->names, t->name, strlen(t->name)) != 0) return -ERROR_CORRUPT;
    names_add(&s->names, t->id);
    return 0;
}

static int load_session(struct stream *t, uint64_t epoch, const void *value, size_t len)
{
    struct session *session;
    if (MUTANT(load_no_sessions)) return 0;
    if (t->n_sessions >= STREAMS_SESSIONS_MAX) return -ERROR_CORRUPT;
    int rv = records_decode_session(epoch, value, len, &session);
    if (rv != 0) return rv;
    rv = stream_add_session(t, session);
    if (rv != 0) session_free(session);
    return rv;
}

static int load_snapshot(struct stream *t, uint64_t number, const void *value, size_t len)
{
    struct snapshot *snapshot;
    if (t->snapshots.n >= STREAMS_SNAPSHOTS_MAX) return -ERROR_CORRUPT;
    int rv = records_decode_snapshot(number, value, len, &snapshot);
    if (rv != 0) return rv;
    if (snapshots_find(&t->snapshots, snapshot->out.id) < t->snapshots.n) rv = -ERROR_CORRUPT;
    if (rv == 0) rv = snapshots_put(&t->snapshots, snapshot);
    if (rv != 0) snapshot_free(snapshot);
    return rv;
}

int streams_load(struct streams *s, enum streams_table table, const void *key, size_t key_len, const void *value,
                 size_t value_len, struct error *e)
{
    uint64_t id, number;
    s->loading = true;
    int rv = table < STREAMS_TABLE_EVENT ? records_decode_key(table, key, key_len, &id, &number) : -ERROR_CORRUPT;
    if (rv == 0) rv = records_unseal(key, key_len, value, &value_len);
    if (rv == 0) rv = know(s, id);
    if (rv == 0) {
        struct stream *t = stream_by_id(s, id);
        switch (table) {
        case STREAMS_TABLE_STREAM: rv = load_stream(s, t, value, value_len); break;
        case STREAMS_TABLE_SESSION: rv = load_session(t, number, value, value_len); break;
        default: rv = load_snapshot(t, number, value, value_len); break;
        }
    }
    if (rv == -ERROR_NOMEM) return error_set(e, ERROR_NOMEM, "no memory to load the index");
    if (rv != 0)
        return error_set(e, ERROR_CORRUPT, "a record in the index' table %d (%zu and %zu bytes) is not ours", (int)table,
                         key_len, value_len);
    return 0;
}

static int check_sessions(struct stream *t, struct error *e)
{
    if (t->n_sessions > 1) qsort(t->sessions, t->n_sessions, sizeof(*t->sessions), by_epoch);
    for (uint32_t i = 0; i < t->n_sessions; i++) {
        const struct session *session = t->sessions[i];
        const struct session_run *newest = session->n_runs > 0 ? &session->runs[session->n_runs - 1] : NULL;
        bool twice = i > 0 && t->sessions[i - 1]->epoch == session->epoch;
        bool beyond = newest != NULL && (newest->offset > t->last_offset ||
                                         session->last - newest->sequence > t->last_offset - newest->offset);
        if (twice || beyond || session->epoch > t->epoch || session->epoch < t->min_epoch ||
            session->used_offset > t->last_offset)
            return error_set(e, ERROR_CORRUPT, "the index holds a producer's epoch %" PRIu64 " that stream %s (%" PRIu64
                             " events) never had", session->epoch, t->name, t->last_offset);
    }
    return 0;
}

static int check_snapshots(const struct stream *t, struct error *e)
{
    for (uint32_t i = 0; i < t->snapshots.n; i++)
        if (t->snapshots.all[i]->number > t->snapshots_ever || t->snapshots.all[i]->out.offset > t->last_offset)
            return error_set(e, ERROR_CORRUPT, "the index holds a snapshot that stream %s never had", t->name);
    return 0;
}

int streams_loaded(struct streams *s, uint64_t applied_index, struct error *e)
{
    for (uint64_t i = 0; i < s->n; i++) {
        struct stream *t = s->all[i];
        if (t->name == NULL)
            return error_set(e, ERROR_CORRUPT, "the index holds parts of stream %" PRIu64 " but not its record", t->id);
        int rv = check_sessions(t, e);
        if (rv != 0 || (rv = check_snapshots(t, e)) != 0) return rv;
    }
    s->applied = applied_index;
    s->loading = false;
    return 0;
}
