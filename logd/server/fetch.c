#include "logd/server/fetch.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"
#include "common/loop.h"
#include "common/mutant.h"
#include "logd/server/landing.h"
#include "logd/server/pieces.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/state_codec.h"

enum { CONNECT_MS = 2000, SILENCE_MS = 15000, COPYING_MS = 120000 /* a copy of a large index takes its time */, LIFE_MS = 5000 /* between questions for a sign of life meanwhile */, PAUSE_MS = 500, BUSY_MS = 20, PROGRESS_MS = 2000, REFUSALS = 10 };

struct fetch {
    struct fetch_options o;
    unsigned server; /* whose turn it is */
    unsigned blamed; /* how often */
    unsigned refused; /* so often in a row somebody said that this server was removed */
    uv_timer_t timer; /* of the silence, or of the pause between two attempts */
    struct conn *conn;
    uint64_t server_instance; /* 0: not greeted yet */
    bool over, timer_closed;
    struct state_manifest manifest;
    struct pieces pieces;
    struct landing *landing; /* NULL: no manifest yet */
    uint64_t asked_ms, heard_ms; /* for the manifest; of the server, since then */
    uint64_t last_frame, fetched_ms; /* when something came of this copy; 0: never */
    uint64_t fetched, kept, since_us, told_us; /* bytes of this copy that came; that were there */
    struct buf head;
    int rv; /* a failure of this machine: it ends all */
    struct error error;
};

static void attempt(struct fetch *f);

static uint64_t now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

/* ---- failing -------------------------------------------------------------------------------------------------- */

static void on_failed(void *user, int rv, const struct error *e)
{
    struct fetch *f = user;
    if (f->rv == 0) f->rv = rv, f->error = *e;
    f->over = true;
    if (f->conn != NULL) conn_close(f->conn, 0, e);
}

static void on_pause_over(uv_timer_t *timer)
{
    struct fetch *f = timer->data;
    if (landing_busy(f->landing)) uv_timer_start(timer, on_pause_over, BUSY_MS, 0);
    else attempt(f);
}

static void on_silence(uv_timer_t *timer)
{
    struct fetch *f = timer->data;
    struct error e;
    error_set(&e, ERROR_TIMEOUT, "nothing came for %d s", (f->landing == NULL && now_ms() < f->heard_ms + SILENCE_MS ? COPYING_MS : SILENCE_MS) / 1000);
    if (f->conn != NULL) conn_close(f->conn, 0, &e);
}

static void forget_copy(struct fetch *f)
{
    f->landing = landing_free(f->landing);
    pieces_fini(&f->pieces);
    state_manifest_fini(&f->manifest);
    f->fetched_ms = f->fetched = f->kept = 0;
}

static void next_server(struct fetch *f)
{
    f->server = (f->server + 1) % f->o.n;
    f->blamed = 0;
    f->fetched_ms = 0;
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct fetch *f = user;
    const struct consensus_member *m = &f->o.servers[f->server];
    (void)c;
    f->conn = NULL;
    f->server_instance = 0;
    if (f->landing != NULL) pieces_lost(&f->pieces);
    if (f->over) return;
    log_warn("the state could not be fetched from this server; another attempt follows", "server=%" PRIu64 " address=%s reason=%s", m->id,
             m->address, why->text[0] != '\0' ? why->text : "closed");
    if (f->fetched_ms == 0 || now_ms() > f->fetched_ms + FETCH_PATIENCE_MS) next_server(f);
    uv_timer_start(&f->timer, on_pause_over, PAUSE_MS, 0);
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static uint64_t put(struct fetch *f, uint16_t type)
{
    struct frame frame = {.type = type, .id = ++f->last_frame, .head = f->head.data, .head_len = f->head.len};
    conn_send(f->conn, &frame);
    return frame.id;
}

/* Nothing comes while the copy is made, for minutes perhaps; a machine that failed says nothing, either. */
static void on_copying(uv_timer_t *timer)
{
    struct fetch *f = timer->data;
    uint64_t now = now_ms();
    if (f->conn == NULL) return;
    if (now >= f->asked_ms + COPYING_MS || (now >= f->heard_ms + SILENCE_MS && !MUTANT(copy_forever))) {
        on_silence(timer);
        return;
    }
    if (!MUTANT(copy_forever) && rpc_encode_status_request(false, &f->head) == 0) put(f, FRAME_STATUS);
    uv_timer_start(timer, on_copying, LIFE_MS, 0);
}

static void on_open(struct conn *c, void *user)
{
    struct fetch *f = user;
    const struct settings *s = f->o.settings;
    if (rpc_encode_hello(s->id, s->cluster, f->o.instance, s->address, &f->head) == 0) put(f, FRAME_HELLO);
    else conn_close(c, 0, NULL);
}

/* Keeps the window full. */
static void ask(struct fetch *f)
{
    struct pieces_slot *slot;
    struct error e;
    while (f->conn != NULL && f->server_instance != 0 && (slot = pieces_next(&f->pieces, f->last_frame + 1)) != NULL) {
        if (state_encode_piece(&slot->what, &f->head) != 0) {
            on_failed(f, error_set(&e, ERROR_NOMEM, "no memory to fetch the state"), &e);
            return;
        }
        put(f, FRAME_FETCH_BYTES);
    }
}

static void tell_progress(struct fetch *f)
{
    const struct pieces *p = &f->pieces;
    uint64_t now = loop_monotonic_us();
    if (now - f->told_us < PROGRESS_MS * 1000) return;
    f->told_us = now;
    double rate = (double)f->fetched * 1e6 / (double)(now - f->since_us);
    log_info("fetching the state", "done=%.0f%% bytes=%" PRIu64 " of=%" PRIu64 " rate_mib_s=%.0f left_s=%.0f", 100.0 * (double)p->there / (double)p->total,
             p->there, p->total, rate / 1048576, (double)(p->total - p->there) / (rate > 1 ? rate : 1));
}

static void on_progress(void *user)
{
    struct fetch *f = user;
    if (f->over) return;
    tell_progress(f);
    if (!pieces_done(&f->pieces)) {
        ask(f);
        return;
    }
    double seconds = (double)(loop_monotonic_us() - f->since_us) / 1e6;
    log_info("the state is fetched", "bytes=%" PRIu64 " kept=%" PRIu64 " seconds=%.3f", f->fetched, f->kept, seconds);
    f->over = true;
    if (f->conn != NULL) conn_close(f->conn, 0, NULL);
}

/* ---- what comes ----------------------------------------------------------------------------------------------- */

static int begin_copy(struct fetch *f, struct state_manifest *m, struct error *e)
{
    const struct landing_events events = {on_progress, on_failed, f};
    forget_copy(f);
    f->manifest = *m;
    int rv = staging_begin(f->o.staging, f->o.servers[f->server].id, f->server_instance, m, e);
    if (rv != 0) return rv;
    if (pieces_init(&f->pieces, &f->manifest) != 0) return error_set(e, ERROR_NOMEM, "no memory for a list of files");
    for (size_t i = 0; i < m->n_files; i++) pieces_have(&f->pieces, i, staging_has(f->o.staging, m->id, m->files[i].name, m->files[i].size));
    f->landing = landing_new(f->o.loop, f->o.staging, &f->pieces, &events);
    if (f->landing == NULL) return error_set(e, ERROR_NOMEM, "no memory for a list of files");
    f->kept = f->pieces.there;
    f->since_us = f->told_us = loop_monotonic_us();
    log_info("fetching the state", "server=%" PRIu64 " applied=%" PRIu64 " files=%zu bytes=%" PRIu64 " there=%" PRIu64, f->o.servers[f->server].id,
             m->applied_index, m->n_files, f->pieces.total, f->kept);
    return 0;
}

static int take_manifest(struct fetch *f, const struct frame *frame, struct error *e)
{
    struct state_manifest m;
    struct error mine;
    int rv = state_decode_manifest(frame, &m, e);
    if (rv != 0) return rv;
    if (m.applied_index < f->o.index) {
        rv = error_set(e, ERROR_PROTOCOL, "it offers entry %" PRIu64 ", %" PRIu64 " is needed", m.applied_index, f->o.index);
        state_manifest_fini(&m);
        return rv;
    }
    if (f->landing != NULL && m.id == f->manifest.id && f->fetched_ms != 0) {
        state_manifest_fini(&m);
    } else if ((rv = begin_copy(f, &m, &mine)) != 0) {
        on_failed(f, rv, &mine);
        return 0;
    }
    on_progress(f);
    return 0;
}

static int take_bytes(struct fetch *f, const struct frame *frame, struct error *e)
{
    struct pieces_slot *slot = pieces_came(&f->pieces, frame->id);
    if (slot == NULL) return error_set(e, ERROR_PROTOCOL, "bytes came that were not asked for");
    if (frame->body_len != slot->what.length) {
        slot->state = PIECES_LOST;
        return error_set(e, ERROR_PROTOCOL, "%zu bytes came, %u were asked for", frame->body_len, slot->what.length);
    }
    f->fetched += frame->body_len;
    f->fetched_ms = now_ms();
    landing_put(f->landing, slot, frame->body);
    return 0;
}

static int take_hello(struct fetch *f, const struct frame *frame, struct error *e)
{
    struct rpc_hello hello;
    int rv = rpc_decode_hello(frame, &hello, e);
    if (rv != 0) return rv;
    if (hello.node_id != f->o.servers[f->server].id)
        return error_set(e, ERROR_INVALID, "server %" PRIu64 " answers there: check initial-cluster", hello.node_id);
    if ((rv = transport_check_server(f->o.transport, f->conn, hello.node_id, e)) != 0) return rv;
    f->server_instance = hello.instance != 0 ? hello.instance : 1;
    f->refused = 0;
    if (state_encode_request(f->o.index, &f->head) != 0) return error_set(e, ERROR_NOMEM, "no memory to fetch the state");
    put(f, FRAME_FETCH_STATE);
    f->asked_ms = now_ms();
    return 0;
}

/* Who says so is sure (members.h). It is asked again for a while all the same: a leader that just adds us knows only when that is settled. */
static bool is_refused(struct fetch *f)
{
    struct error e;
    if (transport_check_server(f->o.transport, f->conn, f->o.servers[f->server].id, &e) != 0) return false;
    return ++f->refused >= REFUSALS && !MUTANT(fetch_removed);
}

static void on_frame(struct conn *c, void *user, const struct frame *frame)
{
    struct fetch *f = user;
    struct error e;
    int rv;
    if (f->over) return;
    bool greeted = f->server_instance != 0;
    f->heard_ms = now_ms();
    if (frame->type == (FRAME_ERROR | FRAME_REPLY)) {
        struct error told;
        rv = rpc_decode_error(frame, &told, &e);
        if (rv == 0 && told.code == ERROR_REMOVED && is_refused(f)) {
            on_failed(f, -ERROR_REMOVED, &told);
            return;
        }
        if (rv == 0) e = told, rv = -ERROR_PROTOCOL;
    } else if (!greeted && frame->type == (FRAME_HELLO | FRAME_REPLY)) {
        rv = take_hello(f, frame, &e);
    } else if (greeted && frame->type == (FRAME_STATUS | FRAME_REPLY)) {
        rv = 0; /* it lives */
    } else if (greeted && frame->type == (FRAME_FETCH_STATE | FRAME_REPLY)) {
        rv = take_manifest(f, frame, &e);
    } else if (greeted && f->landing != NULL && frame->type == (FRAME_FETCH_BYTES | FRAME_REPLY)) {
        rv = take_bytes(f, frame, &e);
    } else {
        rv = error_set(&e, ERROR_PROTOCOL, "a frame of type %u came that was not asked for", frame->type);
    }
    if (rv != 0) conn_close(c, 0, &e);
    else if (f->landing == NULL) uv_timer_start(&f->timer, on_copying, LIFE_MS, 0);
    else uv_timer_start(&f->timer, on_silence, SILENCE_MS, 0);
}

static void attempt(struct fetch *f)
{
    static const struct conn_handlers handlers = {on_open, on_frame, NULL, on_close};
    struct error e;
    uv_timer_start(&f->timer, on_silence, SILENCE_MS, 0);
    if (conn_connect(f->o.loop, f->o.servers[f->server].address, CONNECT_MS, &handlers, f, &f->conn, &e) != 0) {
        on_close(NULL, f, &e);
    } else if (transport_dial(f->o.transport, f->conn, &e) != 0) {
        conn_close(f->conn, 0, &e);
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

struct fetch *fetch_new(const struct fetch_options *options, struct error *e)
{
    struct fetch *f = calloc(1, sizeof *f);
    if (f == NULL) {
        error_set(e, ERROR_NOMEM, "no memory to fetch the state");
        return NULL;
    }
    f->o = *options;
    f->server = options->first;
    uv_timer_init(options->loop, &f->timer);
    f->timer.data = f;
    return f;
}

static void on_timer_closed(uv_handle_t *handle)
{
    ((struct fetch *)handle->data)->timer_closed = true;
}

struct fetch *fetch_free(struct fetch *f)
{
    if (f == NULL) return NULL;
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
    while (!f->timer_closed) uv_run(f->o.loop, UV_RUN_ONCE);
    forget_copy(f);
    buf_fini(&f->head);
    free(f);
    return NULL;
}

int fetch_run(struct fetch *f, struct error *e)
{
    f->over = false;
    f->rv = 0;
    forget_copy(f); /* staging knows what is there */
    attempt(f);
    while (!f->over || f->conn != NULL || landing_busy(f->landing)) uv_run(f->o.loop, UV_RUN_ONCE);
    uv_timer_stop(&f->timer);
    if (f->rv != 0) *e = f->error;
    return f->rv;
}

const struct state_manifest *fetch_manifest(const struct fetch *f)
{
    return &f->manifest;
}

uint64_t fetch_blame(struct fetch *f)
{
    uint64_t id = f->o.servers[f->server].id;
    if (++f->blamed == 2) next_server(f); /* it is that server's own that is damaged */
    return id;
}
