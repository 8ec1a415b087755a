#include "agent/ledger.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/sync.h"

struct list {
    struct ledger_snapshot *all;
    size_t n;
    bool no_memory;
    const char *stream;
    const char *id; /* this one, in any state; NULL: those that may be restored, or are under way */
    uint64_t first, last;
};

static int open_log(const struct ledger *l, struct crsc_sync **ret_sync, struct error *e)
{
    struct crsc_client_options options = {.servers = l->servers, .software = "crsc-agent/" CRSC_VERSION, .timeout_ms = l->timeout_ms,
        .tls_ca = l->tls_ca, .tls_cert = l->tls_cert, .tls_key = l->tls_key};
    return crsc_sync_new(&options, ret_sync, e);
}

int ledger_record(const struct ledger *l, const struct crsc_snapshot *s, struct error *e)
{
    struct crsc_sync *sync;
    int rc = open_log(l, &sync, e);
    if (rc != 0) return rc;
    rc = crsc_sync_record_snapshot(sync, s, e);
    crsc_sync_free(sync);
    return rc;
}

/* What is longer than ours ever are is somebody else's, and passed over. */
static bool take(const struct crsc_snapshot *s, struct ledger_snapshot *to)
{
    *to = (struct ledger_snapshot){.offset = s->offset, .size = s->size, .recorded_us = s->recorded_us, .state = s->state};
    return (size_t)snprintf(to->id, sizeof to->id, "%s", s->id) < sizeof to->id &&
           (size_t)snprintf(to->template_hash, sizeof to->template_hash, "%s", s->template_hash) < sizeof to->template_hash &&
           (size_t)snprintf(to->digest, sizeof to->digest, "%s", s->sha256) < sizeof to->digest &&
           (size_t)snprintf(to->image, sizeof to->image, "%s", s->image) < sizeof to->image &&
           (size_t)snprintf(to->node, sizeof to->node, "%s", s->node) < sizeof to->node;
}

static void on_snapshots(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    struct list *list = user;
    (void)e; /* is NULL */
    list->all = calloc(n + 1, sizeof *list->all);
    list->no_memory = list->all == NULL;
    for (size_t i = 0; i < n && !list->no_memory; i++) {
        const struct crsc_snapshot *s = &snapshots[i];
        bool wanted = list->id != NULL ? strcmp(s->id, list->id) == 0 : s->state == CRSC_VALID || s->state == CRSC_TAKING;
        if (wanted && take(s, &list->all[list->n])) list->n++;
    }
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct list *list = user;
    (void)e;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, list->stream) != 0) continue;
        list->first = streams[i].first_offset;
        list->last = streams[i].last_offset;
    }
}

int ledger_read(const struct ledger *l, const char *stream, struct ledger_snapshot **ret_all, size_t *ret_n, uint64_t *ret_first,
                uint64_t *ret_last, struct error *e)
{
    struct crsc_sync *sync;
    struct error local = {0}, *why = e != NULL ? e : &local;
    struct list list = {.stream = stream, .first = 1};
    int rc = open_log(l, &sync, why);
    if (rc != 0) return rc;
    rc = crsc_sync_snapshots(sync, stream, on_snapshots, &list, why);
    if (rc == -ERROR_NOT_FOUND) rc = 0;
    if (rc == 0) rc = crsc_sync_streams(sync, stream, on_streams, &list, why);
    crsc_sync_free(sync);
    if (rc == 0 && list.no_memory) rc = error_set(why, ERROR_NOMEM, "no memory for a list of snapshots");
    if (rc != 0) {
        free(list.all);
        return rc;
    }
    *ret_all = list.all;
    *ret_n = list.n;
    *ret_first = list.first;
    *ret_last = list.last;
    return 0;
}

int ledger_find(const struct ledger *l, const char *stream, const char *id, struct ledger_snapshot *ret_snapshot, struct error *e)
{
    struct crsc_sync *sync;
    struct error local = {0}, *why = e != NULL ? e : &local;
    struct list list = {.stream = stream, .id = id};
    int rc = open_log(l, &sync, why);
    if (rc != 0) return rc;
    rc = crsc_sync_snapshots(sync, stream, on_snapshots, &list, why);
    crsc_sync_free(sync);
    if (rc == 0 && list.no_memory) rc = error_set(why, ERROR_NOMEM, "no memory for a list of snapshots");
    if (rc == 0 && list.n == 0) rc = error_set(why, ERROR_NOT_FOUND, "the log has no checkpoint %.64s of %.100s", id, stream);
    if (rc == 0) *ret_snapshot = list.all[0];
    free(list.all);
    return rc;
}

bool ledger_refused(int rc)
{
    return rc == -ERROR_CONFLICT || rc == -ERROR_INVALID || rc == -ERROR_TOO_LARGE || rc == -ERROR_NOT_FOUND || rc == -ERROR_FENCED || rc == -ERROR_DENIED;
}
