#include "client/sync.h"

#include <signal.h>
#include <stdlib.h>

struct crsc_sync {
    uv_loop_t loop;
    struct crsc_client *client;
    bool ended;     /* the call under way */
    struct error e; /* how; code 0: well */
    union {         /* its user's */
        crsc_status_cb *status;
        crsc_streams_cb *streams;
        crsc_snapshots_cb *snapshots;
        crsc_events_cb *events;
        crsc_members_cb *members;
    } result;
    void *user;
};

int crsc_sync_new(const struct crsc_client_options *options, struct crsc_sync **ret_sync, struct error *e)
{
    struct crsc_sync *s = calloc(1, sizeof *s);
    if (s == NULL) return error_set(e, ERROR_NOMEM, "no memory for a client");
    int rv = uv_loop_init(&s->loop);
    if (rv != 0) {
        free(s);
        return error_uv(e, ERROR_IO, rv, "start an event loop");
    }
    rv = crsc_client_new(&s->loop, options, &s->client, e);
    if (rv != 0) {
        uv_loop_close(&s->loop);
        free(s);
        return rv;
    }
    *ret_sync = s;
    return 0;
}

struct crsc_sync *crsc_sync_free(struct crsc_sync *s)
{
    if (s == NULL) return NULL;
    crsc_client_close(s->client, NULL, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT); /* until every handle has been closed */
    uv_loop_close(&s->loop);
    free(s);
    return NULL;
}

/* Was the answer good? Then the caller hands it on. */
static bool ended(struct crsc_sync *s, const struct error *e)
{
    s->ended = true;
    if (e != NULL) s->e = *e;
    return e == NULL;
}

static int run(struct crsc_sync *s, int rv, const char *what, struct error *e)
{
    if (rv != 0) return error_set(e, (enum error_code) - rv, "%s: %s", what, error_name(rv));
    while (!s->ended) uv_run(&s->loop, UV_RUN_ONCE);
    if (s->e.code == ERROR_NONE) return 0;
    if (e != NULL) *e = s->e;
    return -(int)s->e.code;
}

static void begin(struct crsc_sync *s, void *user)
{
    s->ended = false;
    s->e.code = ERROR_NONE;
    s->user = user;
}

static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) s->result.status(s->user, NULL, status);
}

int crsc_sync_status(struct crsc_sync *s, const char *server, crsc_status_cb *result, void *user, struct error *e)
{
    begin(s, user);
    s->result.status = result;
    return run(s, crsc_status(s->client, server, on_status, s), "ask for the status", e);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) s->result.streams(s->user, NULL, streams, n);
}

int crsc_sync_streams(struct crsc_sync *s, const char *prefix, crsc_streams_cb *result, void *user, struct error *e)
{
    begin(s, user);
    s->result.streams = result;
    return run(s, crsc_list_streams(s->client, prefix, on_streams, s), "list the streams", e);
}

static void on_trimmed(void *user, const struct error *e, uint64_t first_offset)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) *(uint64_t *)s->user = first_offset;
}

int crsc_sync_trim(struct crsc_sync *s, const char *stream, uint64_t offset, bool force, uint64_t *ret_first_offset, struct error *e)
{
    begin(s, ret_first_offset);
    return run(s, crsc_trim(s->client, stream, offset, force, on_trimmed, s), "trim the stream", e);
}

static void on_done(void *user, const struct error *e)
{
    ended(user, e);
}

int crsc_sync_set_retention(struct crsc_sync *s, const char *stream, const struct crsc_retention *retention, struct error *e)
{
    begin(s, NULL);
    return run(s, crsc_set_retention(s->client, stream, retention, on_done, s), "set the retention policy", e);
}

static void on_members(void *user, const struct error *e, const struct crsc_member *members, size_t n, uint64_t leader_id)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) s->result.members(s->user, NULL, members, n, leader_id);
}

int crsc_sync_change_server(struct crsc_sync *s, enum crsc_change change, uint64_t id, const char *address, bool force, crsc_members_cb *result,
                            void *user, struct error *e)
{
    begin(s, user);
    s->result.members = result;
    return run(s, crsc_change_server(s->client, change, id, address, force, on_members, s), "change the membership", e);
}

static void on_snapshots(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) s->result.snapshots(s->user, NULL, snapshots, n);
}

int crsc_sync_snapshots(struct crsc_sync *s, const char *stream, crsc_snapshots_cb *result, void *user, struct error *e)
{
    begin(s, user);
    s->result.snapshots = result;
    return run(s, crsc_list_snapshots(s->client, stream, on_snapshots, s), "list the snapshots", e);
}

static void on_recorded(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    (void)snapshots;
    (void)n;
    ended(user, e);
}

int crsc_sync_record_snapshot(struct crsc_sync *s, const struct crsc_snapshot *snapshot, struct error *e)
{
    begin(s, NULL);
    return run(s, crsc_record_snapshot(s->client, snapshot, on_recorded, s), "record the snapshot", e);
}

static void on_read(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset)
{
    struct crsc_sync *s = user;
    if (ended(s, e)) s->result.events(s->user, NULL, events, n, last_offset);
}

int crsc_sync_read(struct crsc_sync *s, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes,
                   crsc_events_cb *result, void *user, struct error *e)
{
    begin(s, user);
    s->result.events = result;
    return run(s, crsc_read(s->client, stream, from, to, max_bytes, on_read, s), "read the stream", e);
}

static void on_followed(void *user, const struct error *e, const struct crsc_event *events, size_t n,
                        uint64_t last_offset)
{
    struct crsc_sync *s = user;
    if (s->ended) return;
    if (e != NULL)
        ended(s, e);
    else
        s->result.events(s->user, NULL, events, n, last_offset);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct crsc_sync *s = handle->data;
    (void)number;
    s->ended = true;
}

int crsc_sync_follow(struct crsc_sync *s, const char *stream, uint64_t from, crsc_events_cb *result, void *user,
                     struct error *e)
{
    static const int numbers[2] = {SIGINT, SIGTERM};
    struct crsc_follow *follow = NULL;
    uv_signal_t signals[2];
    begin(s, user);
    s->result.events = result;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&s->loop, &signals[i]);
        signals[i].data = s;
        uv_signal_start(&signals[i], on_signal, numbers[i]);
    }
    int rv = run(s, crsc_follow(s->client, stream, from, on_followed, s, &follow), "follow the stream", e);
    if (follow != NULL) crsc_follow_cancel(follow);
    for (int i = 0; i < 2; i++) uv_close((uv_handle_t *)&signals[i], NULL);
    /* The handles are on this stack: not before the loop has let go of them. */
    uv_run(&s->loop, UV_RUN_NOWAIT);
    return rv;
}

void crsc_sync_stop(struct crsc_sync *s)
{
    s->ended = true;
}
