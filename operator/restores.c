#include "operator/restores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/log.h"

enum { AGAIN_FIRST_MS = 250, AGAIN_MOST_MS = 30000, NAME_MAX_BYTES = 255 /* of a stream's or producer's name */ };

struct restores {
    struct crsc_client *client;
    struct crsc_producer *producer; /* NULL: not opened, or given up */
    char *stream, *node, *workload, *name; /* `stream` with the suffix; `name`: the producer's */
    uv_timer_t again;
    uint64_t pause_ms;
    char *pending[RESTORES_PENDING]; /* the oldest first; the first one may be under way */
    size_t n;
    bool opened, sending, refused, closing;
    void (*done)(void *user);
    void *user;
};

/* ---- what an event says --------------------------------------------------------------------------------------- */

static void add_ms(yyjson_mut_doc *doc, yyjson_mut_val *o, const char *name, bool known, uint64_t us)
{
    if (known) yyjson_mut_obj_add_real(doc, o, name, (double)us / 1000);
    else yyjson_mut_obj_add_null(doc, o, name);
}

/* malloc'd; NULL without memory. */
static char *to_json(const struct restores *r, const struct restores_entry *x)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc);
    if (o == NULL) {
        yyjson_mut_doc_free(doc);
        return NULL;
    }
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_uint(doc, o, "finished_us", x->finished_us);
    yyjson_mut_obj_add_str(doc, o, "workload", r->workload);
    yyjson_mut_obj_add_str(doc, o, "node", r->node);
    yyjson_mut_obj_add_uint(doc, o, "generation", x->generation);
    yyjson_mut_obj_add_str(doc, o, "cause", x->cause);
    yyjson_mut_obj_add_str(doc, o, "began", x->snapshot[0] != '\0' ? "restored" : "fresh");
    yyjson_mut_obj_add_str(doc, o, "snapshot", x->snapshot);
    yyjson_mut_obj_add_uint(doc, o, "offset", x->offset);
    yyjson_mut_obj_add_uint(doc, o, "replayed", x->replayed);
    add_ms(doc, o, "detect_ms", x->timed, x->detect_us);
    add_ms(doc, o, "reaction_ms", x->timed, x->reaction_us);
    add_ms(doc, o, "restore_ms", true, x->restore_us);
    add_ms(doc, o, "replay_ms", true, x->replay_us);
    add_ms(doc, o, "repair_ms", x->timed, x->repair_us);
    add_ms(doc, o, "recovery_ms", x->timed, x->recovery_us);
    add_ms(doc, o, "outage_ms", x->timed, x->outage_us);
    yyjson_mut_obj_add_real(doc, o, "availability", x->availability);
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static void go_on(struct restores *r);

static void on_again(uv_timer_t *timer)
{
    go_on(timer->data);
}

static void let_go(struct restores *r)
{
    struct crsc_producer *p = r->producer;
    r->producer = NULL;
    r->opened = r->sending = false;
    if (p != NULL) crsc_producer_close(p);
}

/* What was under way stays the first one, and is appended again by the next producer. */
static void failed(struct restores *r, const struct error *e)
{
    bool final = e->code == ERROR_DENIED || e->code == ERROR_INVALID;
    let_go(r);
    if (r->pause_ms == 0) log_warn("a recovery cannot be noted in the log", "workload=%s stream=%s reason=%s", r->workload, r->stream, e->text);
    if (final) {
        r->refused = true;
        return;
    }
    if (r->closing) return;
    r->pause_ms = r->pause_ms == 0 ? AGAIN_FIRST_MS : r->pause_ms * 2 < AGAIN_MOST_MS ? r->pause_ms * 2 : AGAIN_MOST_MS;
    uv_timer_start(&r->again, on_again, r->pause_ms, 0);
}

/* False: the answer was an error, which is dealt with. */
static bool went_well(struct restores *r, const struct error *e)
{
    if (e == NULL) return true;
    if (e->code == ERROR_CANCELED) r->producer = NULL;
    else failed(r, e);
    return false;
}

static void forget_first(struct restores *r)
{
    free(r->pending[0]);
    memmove(r->pending, r->pending + 1, --r->n * sizeof *r->pending);
}

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct restores *r = user;
    (void)offset;
    if (!r->sending) return; /* let go of */
    r->sending = false;
    if (!went_well(r, e)) return;
    forget_first(r);
    r->pause_ms = 0;
    go_on(r);
}

static void on_retention(void *user, const struct error *e)
{
    const struct restores *r = user;
    if (e != NULL && e->code != ERROR_CANCELED)
        log_warn("the account of recoveries has no retention policy: see crsc-logctl help retention", "stream=%s reason=%s", r->stream, e->text);
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last_offset)
{
    static const struct crsc_retention policy = {.max_bytes = RESTORES_BYTES, .beyond_snapshots = true};
    struct restores *r = user;
    (void)epoch;
    if (r->producer == NULL || !went_well(r, e)) return; /* NULL: let go of */
    r->opened = true;
    if (last_offset == 0) crsc_set_retention(r->client, r->stream, &policy, on_retention, r);
    go_on(r);
}

static void on_broken(void *user, const struct error *e)
{
    struct restores *r = user;
    if (r->producer != NULL && e->code != ERROR_CANCELED) let_go(r); /* nothing was under way: else its answer came first */
}

static void go_on(struct restores *r)
{
    struct error e;
    if (r->n == 0 || r->sending || r->refused || r->closing) return;
    if (r->producer == NULL) {
        if (crsc_producer_open(r->client, r->stream, r->name, true, on_opened, on_broken, r, &r->producer, &e) != 0) failed(r, &e);
        return;
    }
    if (!r->opened) return;
    const struct crsc_event event = {.kind = CRSC_MARK, .payload = r->pending[0], .size = (uint32_t)strlen(r->pending[0])};
    int rv = crsc_append(r->producer, &event, on_appended, r);
    r->sending = rv == 0;
    if (rv != 0) failed(r, (error_set(&e, (enum error_code)-rv, "%s", error_name(-rv)), &e));
}

void restores_note(struct restores *r, const struct restores_entry *entry)
{
    char *text = to_json(r, entry);
    if (text == NULL || r->refused) {
        free(text);
        return;
    }
    if (r->n == RESTORES_PENDING && r->sending) { /* the first one is under way: the second goes */
        free(r->pending[1]);
        memmove(r->pending + 1, r->pending + 2, (--r->n - 1) * sizeof *r->pending);
    } else if (r->n == RESTORES_PENDING) {
        forget_first(r);
    }
    r->pending[r->n++] = text;
    if (!uv_is_active((uv_handle_t *)&r->again)) go_on(r);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static void free_texts(struct restores *r)
{
    while (r->n > 0) free(r->pending[--r->n]);
    free(r->stream);
    free(r->node);
    free(r->workload);
    free(r->name);
    free(r);
}

int restores_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *node, const char *workload, struct restores **ret_restores,
                 struct error *e)
{
    struct restores *r = calloc(1, sizeof *r);
    if (r == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    r->client = client;
    r->node = strdup(node);
    r->workload = strdup(workload);
    if (asprintf(&r->stream, "%s" RESTORES_SUFFIX, stream) < 0) r->stream = NULL;
    if (asprintf(&r->name, "%.150s/%.63s", node, workload) < 0) r->name = NULL;
    if (r->node == NULL || r->workload == NULL || r->stream == NULL || r->name == NULL) {
        free_texts(r);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    r->refused = strlen(r->stream) > NAME_MAX_BYTES;
    if (r->refused) log_warn("recoveries are not noted in the log: the stream's name is too long for that", "stream=%s", stream);
    uv_timer_init(loop, &r->again);
    r->again.data = r;
    *ret_restores = r;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct restores *r = handle->data;
    void (*done)(void *user) = r->done;
    void *user = r->user;
    free_texts(r);
    done(user);
}

void restores_stop(struct restores *r)
{
    r->closing = true;
    uv_timer_stop(&r->again);
}

void restores_free(struct restores *r, void (*done)(void *user), void *user)
{
    r->producer = NULL; /* it was closed with the client */
    r->done = done;
    r->user = user;
    uv_close((uv_handle_t *)&r->again, on_closed);
}
