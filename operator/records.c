#include "operator/records.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

enum {
    AGAIN_MS = 500,
    KEPT = 128, /* beyond so many, those that are over and not on disk are forgotten: the log forgets them too */
};

struct record {
    struct crsc_snapshot s; /* its strings are ours */
};

struct records {
    struct crsc_client *client;
    char *stream, *node;
    uv_timer_t again;
    void (*on_change)(void *user);
    void *user;
    struct record *all;
    struct world_snapshot *seen; /* as many as `all` has room for */
    size_t n, room;
    uint64_t first_offset, last_offset;
    bool known, complained;
    records_cb *putting; /* NULL: nothing under way */
    void *putting_user;
    struct records *next; /* a ring of those that share; itself, alone */
    void (*done)(void *user);
    void *done_user;
};

static const char **string_of(struct crsc_snapshot *s, int i)
{
    const char **const all[] = {&s->stream, &s->id, &s->image, &s->sha256, &s->node, &s->template_hash, &s->reason};
    return i < 7 ? all[i] : NULL;
}

static void record_fini(struct record *record)
{
    for (int i = 0; string_of(&record->s, i) != NULL; i++) free((char *)*string_of(&record->s, i));
}

static int record_copy(const struct crsc_snapshot *from, struct record *ret_record)
{
    struct record copy = {.s = *from};
    bool complete = true;
    for (int i = 0; string_of(&copy.s, i) != NULL; i++) {
        const char **text = string_of(&copy.s, i);
        *text = strdup(*text != NULL ? *text : "");
        complete = complete && *text != NULL;
    }
    if (complete) *ret_record = copy;
    else record_fini(&copy);
    return complete ? 0 : -ERROR_NOMEM;
}

static size_t find(const struct records *r, const char *id)
{
    size_t i = 0;
    while (i < r->n && strcmp(r->all[i].s.id, id) != 0) i++;
    return i;
}

const struct crsc_snapshot *records_find(const struct records *r, const char *id)
{
    size_t i = find(r, id);
    return i < r->n ? &r->all[i].s : NULL;
}

static int make_room(struct records *r)
{
    if (r->n < r->room) return 0;
    size_t room = r->room == 0 ? 16 : r->room * 2;
    struct record *all = realloc(r->all, room * sizeof *all);
    if (all != NULL) r->all = all;
    struct world_snapshot *seen = realloc(r->seen, room * sizeof *seen);
    if (seen != NULL) r->seen = seen;
    if (all == NULL || seen == NULL) return -ERROR_NOMEM;
    r->room = room;
    return 0;
}

static int keep(struct records *r, const struct crsc_snapshot *s)
{
    struct record copy;
    size_t i = find(r, s->id);
    int rv = i < r->n ? 0 : make_room(r);
    if (rv == 0) rv = record_copy(s, &copy);
    if (rv != 0) return rv;
    if (i < r->n) record_fini(&r->all[i]);
    else r->n++;
    r->all[i] = copy;
    return 0;
}

/* ---- reading, at the start ------------------------------------------------------------------------------------ */

static void ask(struct records *r);

static void on_again(uv_timer_t *timer)
{
    ask(timer->data);
}

static void ask_again(struct records *r, const struct error *e)
{
    if (e->code == ERROR_CANCELED) return;
    if (!r->complained) log_warn("the log cannot be read; trying on", "stream=%s reason=%s", r->stream, e->text);
    r->complained = true;
    uv_timer_start(&r->again, on_again, AGAIN_MS, 0);
}

static void on_snapshots(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct records *r = user;
    static const struct error no_memory = {ERROR_NOMEM, "no memory"};
    if (e != NULL && e->code != ERROR_NOT_FOUND) {
        ask_again(r, e);
        return;
    }
    for (size_t i = 0; e == NULL && i < n; i++) {
        const struct crsc_snapshot *known = records_find(r, snapshots[i].id);
        if (known != NULL && known->state >= snapshots[i].state) continue; /* one that shares has recorded it meanwhile */
        if (keep(r, &snapshots[i]) == 0) continue;
        ask_again(r, &no_memory);
        return;
    }
    r->known = true;
    r->on_change(r->user);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct records *r = user;
    if (e != NULL) {
        ask_again(r, e);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, r->stream) != 0) continue;
        r->first_offset = streams[i].first_offset;
        r->last_offset = streams[i].last_offset;
    }
    struct error why;
    int rv = crsc_list_snapshots(r->client, r->stream, on_snapshots, r);
    if (rv != 0) ask_again(r, (error_set(&why, (enum error_code)-rv, "%s", error_name(-rv)), &why));
}

static void ask(struct records *r)
{
    struct error why;
    int rv = crsc_list_streams(r->client, r->stream, on_streams, r);
    if (rv != 0) ask_again(r, (error_set(&why, (enum error_code)-rv, "%s", error_name(-rv)), &why));
}

/* ---- showing -------------------------------------------------------------------------------------------------- */

static bool is_over(const struct records *r, size_t i, const struct records_view *view)
{
    const struct crsc_snapshot *s = &r->all[i].s;
    return (s->state == CRSC_FAILED || s->state == CRSC_DELETED) && !view->has(view->user, s->id);
}

static void forget_old(struct records *r, const struct records_view *view)
{
    for (size_t i = 0; r->n > KEPT && i < r->n;) {
        if (!is_over(r, i, view)) {
            i++;
            continue;
        }
        record_fini(&r->all[i]);
        memmove(&r->all[i], &r->all[i + 1], (--r->n - i) * sizeof *r->all);
    }
}

void records_see(struct records *r, const struct records_view *view, struct world_log *ret_log)
{
    forget_old(r, view);
    for (size_t i = 0; i < r->n; i++) {
        const struct crsc_snapshot *s = &r->all[i].s;
        struct world_snapshot *seen = &r->seen[i];
        bool ours = strcmp(s->node, r->node) == 0;
        *seen = (struct world_snapshot){.offset = s->offset,
                                        .state = (enum world_snapshot_state)s->state,
                                        .ours = ours,
                                        .fits = ours && strcmp(s->template_hash, view->spec) == 0,
                                        .on_disk = view->has(view->user, s->id)};
        /* Too long an id is not one of ours, and of no use here. */
        strncpy(seen->id, s->id, sizeof seen->id - 1);
        if (strlen(s->id) >= sizeof seen->id) seen->ours = seen->fits = false;
        if (seen->ours && view->judge != NULL) view->judge(view->judge_user, seen);
    }
    *ret_log = (struct world_log){.known = r->known,
                                  .first_offset = r->first_offset,
                                  .last_offset = r->last_offset,
                                  .snapshots = r->seen,
                                  .n_snapshots = r->n};
}

/* ---- recording ------------------------------------------------------------------------------------------------ */

static void on_recorded(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct records *r = user;
    records_cb *cb = r->putting;
    struct error why;
    r->putting = NULL;
    if (e == NULL && (n != 1 || keep(r, &snapshots[0]) != 0)) {
        error_set(&why, ERROR_UNAVAILABLE, "the log's answer could not be kept");
        e = &why;
    }
    for (struct records *o = r->next; e == NULL && o != r; o = o->next) /* without memory it misses one checkpoint */
        if (keep(o, &snapshots[0]) == 0) o->on_change(o->user);
    cb(r->putting_user, e);
}

/* "" in the log is nothing said: what was said before stays. */
static void merge(struct crsc_snapshot *s, const struct crsc_snapshot *before)
{
    struct crsc_snapshot old = *before;
    for (int i = 0; string_of(s, i) != NULL; i++)
        if (*string_of(s, i) == NULL) *string_of(s, i) = *string_of(&old, i);
    if (s->size == 0) s->size = before->size;
    if (s->started_us == 0) s->started_us = before->started_us;
    if (s->finished_us == 0) s->finished_us = before->finished_us;
}

int records_put(struct records *r, const struct crsc_snapshot *snapshot, records_cb *cb, void *user)
{
    struct crsc_snapshot s = *snapshot;
    const struct crsc_snapshot *before = records_find(r, s.id);
    if (r->putting != NULL) return -ERROR_BUSY;
    s.stream = r->stream;
    s.node = r->node;
    if (before != NULL) merge(&s, before);
    r->putting = cb;
    r->putting_user = user;
    int rv = crsc_record_snapshot(r->client, &s, on_recorded, r);
    if (rv != 0) r->putting = NULL;
    return rv;
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int records_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *node, void (*on_change)(void *user),
                void *user, struct records **ret_records, struct error *e)
{
    struct records *r = calloc(1, sizeof *r);
    if (r == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *r = (struct records){
        .client = client, .stream = strdup(stream), .node = strdup(node), .on_change = on_change, .user = user};
    if (r->stream == NULL || r->node == NULL) {
        free(r->stream);
        free(r->node);
        free(r);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    r->next = r;
    uv_timer_init(loop, &r->again);
    r->again.data = r;
    ask(r);
    *ret_records = r;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct records *r = handle->data;
    void (*done)(void *user) = r->done;
    void *user = r->done_user;
    for (size_t i = 0; i < r->n; i++) record_fini(&r->all[i]);
    free(r->all);
    free(r->seen);
    free(r->stream);
    free(r->node);
    free(r);
    done(user);
}

void records_share(struct records *r, struct records *with)
{
    r->next = with->next;
    with->next = r;
}

void records_free(struct records *r, void (*done)(void *user), void *user)
{
    struct records *before = r;
    while (before->next != r) before = before->next;
    before->next = r->next;
    r->next = r;
    r->done = done;
    r->done_user = user;
    uv_close((uv_handle_t *)&r->again, on_closed);
}
