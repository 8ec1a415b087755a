#include "logd/server/rebuild.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <unistd.h>

#include "common/log.h"
#include "logd/server/fetch.h"
#include "logd/server/staging.h"
#include "logd/server/transport.h"
#include "logd/server/verification.h"

enum { ROOM_MS = 2000 };

/* A damaged segment's file goes, to be fetched again; when it is the index, everything does. */
static int verify(const struct staging *staging, uint64_t applied_index, struct error *e)
{
    struct verification v = {.expected_applied = applied_index};
    char path[PATH_MAX];
    staging_path(staging, "", path);
    int rv = verification_run(&v, path, e);
    if (rv == 0) {
        log_info("the fetched state is verified", "applied=%" PRIu64 " appends=%" PRIu64, v.expected_applied, v.runs);
    } else if (v.damaged_segment != 0) {
        staging_segment_path(staging, v.damaged_segment, path);
        unlink(path);
    } else {
        staging_forget(staging);
    }
    return rv;
}

static void on_room_closed(uv_handle_t *handle)
{
    *(bool *)handle->data = true;
}

static void on_room(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, on_room_closed);
}

/* Nothing else is to be done meanwhile; what was fetched is kept. */
static void wait_for_room(uv_loop_t *loop, const struct error *why)
{
    bool over = false;
    uv_timer_t timer = {.data = &over};
    log_error("there is no room for the fetched state: it goes on when there is some", "reason=%s", why->text);
    uv_timer_init(loop, &timer);
    uv_timer_start(&timer, on_room, ROOM_MS, 0);
    while (!over) uv_run(loop, UV_RUN_ONCE);
}

/* What a server's own copy is not good for is begun again with another's. */
static int fetch_and_verify(struct fetch *fetch, uv_loop_t *loop, const struct staging *staging, struct error *e)
{
    for (;;) {
        int rv = fetch_run(fetch, e);
        if (rv == 0) {
            const struct state_manifest *m = fetch_manifest(fetch);
            if (verify(staging, m->applied_index, e) != 0) {
                log_error("the fetched state is not good: it is fetched again", "server=%" PRIu64 " reason=%s", fetch_blame(fetch), e->text);
                continue;
            }
            rv = staging_finish(staging, m, e);
        }
        if (rv == -ERROR_REMOVED) { /* as members_refused() */
            log_error("this server is none of the cluster's: it stops", "reason=%s", e->text);
            _exit(4);
        }
        if (rv != -ERROR_NOSPACE) return rv;
        wait_for_room(loop, e);
    }
}

/* Who said so is asked first; then those of initial-cluster. */
static void choose_servers(const struct settings *s, uint64_t from, const char *address, struct consensus_member *list, struct fetch_options *o)
{
    if (address[0] != '\0') list[o->n++] = (struct consensus_member){from, address, 0};
    for (unsigned i = 0; i < s->n_members; i++) {
        if (s->members[i].id == s->id || (s->members[i].id == from && address[0] != '\0')) continue;
        if (s->members[i].id == from) o->first = o->n;
        list[o->n++] = s->members[i];
    }
}

int rebuild_mark(const char *data_dir, uint64_t index, uint64_t from, const char *address, struct error *e)
{
    return staging_mark(data_dir, index, from, address, e);
}

int rebuild_run(uv_loop_t *loop, const struct settings *settings, uint64_t instance, struct error *e)
{
    struct consensus_member servers[CONSENSUS_MEMBERS_MAX + 1];
    struct staging staging;
    struct fetch_options options = {.loop = loop, .settings = settings, .instance = instance, .staging = &staging, .servers = servers};
    struct fetch *fetch = NULL;
    char address[MEMBERSHIP_ADDRESS] = "";
    uint64_t from = 0;
    bool needed = false;
    int rv = staging_open(&staging, settings->data_dir, &needed, &options.index, &from, address, e);
    if (rv != 0 || !needed) return rv;
    if ((rv = transport_new(loop, settings, &options.transport, e)) != 0) {
        staging_close(&staging);
        return rv;
    }
    log_warn("the state is fetched from another server: this one lacks what the leader's log no longer has", "index=%" PRIu64 " from=%" PRIu64,
             options.index, from);
    choose_servers(settings, from, address, servers, &options);
    if (options.n == 0) rv = error_set(e, ERROR_INVALID, "no server is known that the state could be fetched from: initial-cluster must name the others");
    else if ((fetch = fetch_new(&options, e)) == NULL) rv = -(int)e->code;
    if (rv == 0) rv = fetch_and_verify(fetch, loop, &staging, e);
    if (rv == 0) rv = staging_exchange(&staging, e);
    fetch_free(fetch);
    staging_close(&staging);
    transport_free(options.transport);
    return rv;
}
