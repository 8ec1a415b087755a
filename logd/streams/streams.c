#include "logd/streams/streams.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "logd/streams/commands.h"
#include "logd/streams/entry.h"
#include "logd/streams/policy.h"
#include "logd/streams/records.h"
#include "logd/streams/update.h"

/* ---- lifetime ------------------------------------------------------------------------------------------------- */

static const char *name_of(const void *user, uint64_t id)
{
    const struct streams *s = user;
    return s->all[id - 1]->name;
}

struct streams *streams_new(void)
{
    struct streams *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    s->names.name_of = name_of;
    s->names.user = s;
    s->dirty_tail = &s->dirty;
    return s;
}

static void stream_free(struct stream *t)
{
    for (uint32_t i = 0; i < t->n_sessions; i++) session_free(t->sessions[i]);
    free(t->sessions);
    snapshots_fini(&t->snapshots);
    overlay_fini(&t->overlay);
    free(t->name);
    free(t->producer);
    free(t);
}

struct streams *streams_free(struct streams *s)
{
    if (s == NULL) return NULL;
    for (uint64_t i = 0; i < s->n; i++) stream_free(s->all[i]);
    free(s->all);
    names_fini(&s->names);
    free(s->frames);
    free(s);
    return NULL;
}

struct stream *stream_new(struct streams *s)
{
    if (s->n == s->cap) {
        uint64_t cap = s->cap == 0 ? 16 : s->cap * 2;
        struct stream **all = realloc(s->all, cap * sizeof(*all));
        if (all == NULL) return NULL;
        s->all = all;
        s->cap = cap;
    }
    struct stream *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->first_offset = 1;
    t->min_epoch = 1;
    s->all[s->n++] = t;
    t->id = s->n;
    return t;
}

void stream_touch(struct streams *s, struct stream *t)
{
    if (t->dirty) return;
    t->dirty = true;
    t->next_dirty = NULL;
    *s->dirty_tail = t;
    s->dirty_tail = &t->next_dirty;
}

int stream_add_session(struct stream *t, struct session *session)
{
    if (t->n_sessions == t->cap_sessions) {
        uint32_t cap = t->cap_sessions == 0 ? 1 : t->cap_sessions * 2;
        struct session **sessions = realloc(t->sessions, cap * sizeof(*sessions));
        if (sessions == NULL) return -ERROR_NOMEM;
        t->sessions = sessions;
        t->cap_sessions = cap;
    }
    t->sessions[t->n_sessions++] = session;
    return 0;
}

/* ---- applying an entry ---------------------------------------------------------------------------------------- */

int streams_check(const struct frame *f, struct error *e)
{
    struct arena arena;
    struct command command;
    arena_init(&arena);
    int rv = command_parse(f, &arena, &command, e);
    arena_fini(&arena);
    return rv;
}

static int apply_command(struct streams *s, const struct stream_frame *f, struct command_context *x)
{
    struct error why = {0};
    struct arena arena;
    struct command command;
    x->outcome = update_outcome(x->update);
    if (x->outcome == NULL) return -ERROR_NOMEM;
    x->outcome->type = f->frame.type;
    arena_init(&arena);
    int rv = command_parse(&f->frame, &arena, &command, &why);
    if (rv == 0) {
        rv = commands_run(s, &command, x);
    } else if (rv != -ERROR_NOMEM) {
        x->outcome->code = (enum error_code)-rv;
        size_t len = strnlen(why.text, sizeof x->outcome->text - 1);
        memcpy(x->outcome->text, why.text, len); /* the rest is zero already */
        rv = 0;
    }
    arena_fini(&arena);
    return rv;
}

/* One write per changed stream and session, however many commands of the entry changed it. */
static int put_dirty(struct streams *s, struct streams_update *update)
{
    uint8_t key[RECORDS_KEY_MAX], value[RECORDS_VALUE_MAX];
    for (; s->dirty != NULL; s->dirty = s->dirty->next_dirty) {
        struct stream *t = s->dirty;
        records_key(t->id, 0, key);
        size_t len = records_encode_stream(t, value);
        int rv = update_put(update, STREAMS_TABLE_STREAM, key, 8, value, len);
        for (uint32_t i = 0; rv == 0 && i < t->n_sessions; i++) {
            if (!t->sessions[i]->dirty) continue;
            records_key(t->id, t->sessions[i]->epoch, key);
            len = records_encode_session(t->sessions[i], value);
            rv = update_put(update, STREAMS_TABLE_SESSION, key, sizeof key, value, len);
            t->sessions[i]->dirty = false;
        }
        if (rv != 0) return rv;
        t->dirty = false;
    }
    s->dirty_tail = &s->dirty;
    return 0;
}

/* The whole entry is looked at before any of it is applied: bytes that are no entry leave no trace. */
static int read_frames(struct streams *s, struct entry_reader *r, uint32_t *ret_n, struct error *e)
{
    if (r->left > s->cap_frames) {
        struct stream_frame *frames = realloc(s->frames, r->left * sizeof *frames);
        if (frames == NULL) return error_set(e, ERROR_NOMEM, "no memory for an entry of %u commands", r->left);
        s->frames = frames;
        s->cap_frames = r->left;
    }
    uint32_t n = 0;
    int rv;
    struct stream_frame f;
    while ((rv = entry_next(r, &f.frame, &f.at, &f.len, e)) > 0) s->frames[n++] = f;
    if (rv == 0) *ret_n = n;
    return rv;
}

int streams_apply(struct streams *s, uint64_t index, const void *data, size_t len, struct wal_location where,
                  struct streams_update *update, struct error *e)
{
    assert(index == s->applied + 1 && !s->loading);
    update_reset(update);
    struct command_context x = {.index = index, .update = update};
    uint32_t n = 0;
    if (data != NULL) {
        struct entry_reader reader;
        int rv = entry_open(&reader, data, len, e);
        if (rv != 0 || (rv = read_frames(s, &reader, &n, e)) != 0) return rv;
        x.time_us = reader.time_us;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct stream_frame *f = &s->frames[i];
        x.where = (struct wal_location){where.segment, where.position + f->at};
        x.frame_len = (uint32_t)f->len;
        int rv = apply_command(s, f, &x);
        if (rv != 0) return error_set(e, (enum error_code)-rv, "no memory to apply entry %llu", (unsigned long long)index);
    }
    int rv = put_dirty(s, update);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "no memory for the effects of entry %llu", (unsigned long long)index);
    s->applied = index;
    return 0;
}

uint64_t streams_applied(const struct streams *s)
{
    return s->applied;
}

void streams_index_durable(struct streams *s, uint64_t applied_index)
{
    struct stream **link = &s->overlaid;
    while (*link != NULL) {
        struct stream *t = *link;
        if (overlay_durable(&t->overlay, applied_index)) {
            t->overlaid = false;
            *link = t->next_overlaid;
        } else {
            link = &t->next_overlaid;
        }
    }
}

/* ---- looking -------------------------------------------------------------------------------------------------- */

uint64_t streams_id(const struct streams *s, const char *name, size_t len)
{
    return names_find(&s->names, name, len);
}

uint64_t streams_count(const struct streams *s)
{
    return s->n;
}

int streams_find(const struct streams *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run,
                 bool *ret_in_index)
{
    const struct stream *t = stream_by_id(s, stream_id);
    *ret_in_index = false;
    if (t == NULL || offset < t->first_offset || offset > t->last_offset) return -ERROR_NOT_FOUND;
    const struct streams_run *run = overlay_find(&t->overlay, offset);
    if (run == NULL) {
        *ret_in_index = true;
        return -ERROR_NOT_FOUND;
    }
    *ret_run = *run;
    return 0;
}

int streams_info(const struct streams *s, uint64_t stream_id, struct streams_info *ret_info)
{
    const struct stream *t = stream_by_id(s, stream_id);
    if (t == NULL) return -ERROR_NOT_FOUND;
    *ret_info = (struct streams_info){
        .id = t->id, .name = t->name, .producer = t->producer, .first_offset = t->first_offset,
        .last_offset = t->last_offset, .epoch = t->epoch, .min_epoch = t->min_epoch, .bytes = t->bytes,
        .last_time_us = t->last_time_us, .policy = t->policy};
    for (uint32_t i = 0; i < t->snapshots.n; i++) ret_info->snapshots_valid += snapshot_usable(t->snapshots.all[i], t->first_offset);
    const struct snapshot *latest = snapshots_latest(&t->snapshots, "", t->first_offset);
    if (latest != NULL) ret_info->latest_snapshot_offset = latest->out.offset;
    return 0;
}

const struct streams_policy *streams_policy(const struct streams *s, uint64_t stream_id)
{
    const struct stream *t = stream_by_id(s, stream_id);
    return t != NULL && streams_policy_is_set(&t->policy) ? &t->policy : NULL;
}

bool streams_policy_bound(const struct streams *s, uint64_t stream_id, uint64_t *ret_offset)
{
    const struct stream *t = stream_by_id(s, stream_id);
    return t != NULL && policy_bound(t, ret_offset);
}

unsigned streams_snapshots(const struct streams *s, uint64_t stream_id)
{
    const struct stream *t = stream_by_id(s, stream_id);
    return t != NULL ? t->snapshots.n : 0;
}

int streams_snapshot(const struct streams *s, uint64_t stream_id, unsigned i, struct streams_snapshot *ret_snapshot)
{
    const struct stream *t = stream_by_id(s, stream_id);
    if (t == NULL || i >= t->snapshots.n) return -ERROR_NOT_FOUND;
    *ret_snapshot = t->snapshots.all[i]->out;
    return 0;
}

int streams_latest_snapshot(const struct streams *s, uint64_t stream_id, const char *template_hash,
                            struct streams_snapshot *ret_snapshot)
{
    const struct stream *t = stream_by_id(s, stream_id);
    const struct snapshot *latest = t != NULL ? snapshots_latest(&t->snapshots, template_hash, t->first_offset) : NULL;
    if (latest == NULL) return -ERROR_NOT_FOUND;
    *ret_snapshot = latest->out;
    return 0;
}
