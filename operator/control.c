#include "operator/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <yyjson.h>

#include "operator/workload_internal.h"

struct caller {
    struct caller *next; /* in control->callers */
    struct control *control;
    uv_pipe_t pipe;
    char line[CONTROL_LINE_MAX];
    size_t len;
    struct workload *moving; /* the target of its move; NULL: none is under way */
    bool heard, ended, closing; /* heard: its command; ended: the last word is on its way */
    unsigned writing;
};

struct control {
    uv_pipe_t listener;
    char path[sizeof ((struct sockaddr_un *)0)->sun_path];
    struct workload *const *workloads;
    size_t n;
    struct caller *callers;
    unsigned n_callers;
    bool closing, listener_closed;
    void (*done)(void *user);
    void *user;
};

/* ---- the end of a connection, and of all ---------------------------------------------------------------------- */

static void maybe_gone(struct control *c)
{
    if (!c->closing || !c->listener_closed || c->callers != NULL) return;
    void (*done)(void *user) = c->done;
    void *user = c->user;
    free(c);
    done(user);
}

static void on_closed(uv_handle_t *handle)
{
    struct caller *k = handle->data;
    struct control *c = k->control;
    struct caller **at = &c->callers;
    while (*at != k) at = &(*at)->next;
    *at = k->next;
    c->n_callers--;
    free(k);
    maybe_gone(c);
}

static void hang_up(struct caller *k)
{
    if (k->closing) return;
    k->closing = true;
    if (k->moving != NULL) replicas_migrate_end(k->moving, k);
    k->moving = NULL;
    uv_close((uv_handle_t *)&k->pipe, on_closed);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

struct word {
    uv_write_t request;
    struct caller *caller;
    char *text;
};

static void on_written(uv_write_t *request, int status)
{
    struct word *word = request->data;
    struct caller *k = word->caller;
    free(word->text);
    free(word);
    if (--k->writing == 0 && (k->ended || status != 0)) hang_up(k);
}

/* Takes the document. Without memory the connection ends. */
static void say(struct caller *k, yyjson_mut_doc *doc)
{
    size_t len = 0;
    char *text = doc != NULL ? yyjson_mut_write(doc, YYJSON_WRITE_NEWLINE_AT_END | YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len) : NULL;
    struct word *word = text != NULL ? malloc(sizeof *word) : NULL;
    yyjson_mut_doc_free(doc);
    if (k->closing || word == NULL) {
        free(text);
        free(word);
        hang_up(k);
        return;
    }
    *word = (struct word){.caller = k, .text = text};
    word->request.data = word;
    uv_buf_t buf = uv_buf_init(text, (unsigned)len);
    k->writing++;
    if (uv_write(&word->request, (uv_stream_t *)&k->pipe, &buf, 1, on_written) == 0) return;
    k->writing--;
    free(text);
    free(word);
    hang_up(k);
}

static void refuse(struct caller *k, const struct error *e)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_str(doc, o, "error", e->text);
    k->ended = true;
    say(k, doc);
}

static void on_news(void *user, const struct migration_news *news)
{
    struct caller *k = user;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_str(doc, o, "step", move_step_name(news->step));
    yyjson_mut_obj_add_str(doc, o, "stream", news->stream);
    yyjson_mut_obj_add_str(doc, o, "from", news->from);
    yyjson_mut_obj_add_str(doc, o, "to", news->to);
    if (news->step == MOVE_FAILED) yyjson_mut_obj_add_str(doc, o, "reason", news->reason);
    if (news->step == MOVE_DONE) {
        yyjson_mut_obj_add_str(doc, o, "snapshot", news->snapshot);
        yyjson_mut_obj_add_uint(doc, o, "offset", news->offset);
        yyjson_mut_obj_add_uint(doc, o, "executed", news->executed);
        yyjson_mut_obj_add_real(doc, o, "start_ms", (double)news->start_us / 1000);
        yyjson_mut_obj_add_real(doc, o, "switch_ms", (double)news->switch_us / 1000);
        yyjson_mut_obj_add_real(doc, o, "drain_ms", (double)news->drain_us / 1000);
    }
    if (news->step == MOVE_DONE || news->step == MOVE_FAILED) {
        k->ended = true;
        k->moving = NULL;
    }
    say(k, doc);
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

static struct workload *find(const struct control *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->workloads[i]->name, name) == 0) return c->workloads[i];
    return NULL;
}

/* Of the stream, the one that serves; NULL: there are several, or none. */
static struct workload *only_one(const struct control *c, const struct workload *to)
{
    struct workload *found = NULL;
    for (size_t i = 0; i < c->n; i++) {
        struct workload *w = c->workloads[i];
        if (w->replicas != to->replicas || w->away || interceptor_client_world(w->interceptor)->standby) continue;
        if (found != NULL) return NULL;
        found = w;
    }
    return found;
}

static int migrate(struct caller *k, const char *to_name, const char *from_name, unsigned long ms, struct error *e)
{
    const struct control *c = k->control;
    struct workload *to = find(c, to_name);
    if (to == NULL) return error_set(e, ERROR_NOT_FOUND, "there is no workload \"%.63s\"", to_name);
    struct workload *from = strcmp(from_name, "-") == 0 ? only_one(c, to) : find(c, from_name);
    if (from == NULL && strcmp(from_name, "-") == 0) return error_set(e, ERROR_CONFLICT, "not one replica serves, but several or none: say which one is to go (--from)");
    if (from == NULL) return error_set(e, ERROR_NOT_FOUND, "there is no workload \"%.63s\"", from_name);
    if (ms == 0 || ms > CONTROL_MOVE_MAX_MS) return error_set(e, ERROR_INVALID, "the time for a move is 1 ms to an hour");
    int rv = replicas_migrate(to, from, (uint32_t)ms, on_news, k, e);
    if (rv == 0) k->moving = to;
    return rv;
}

static void obey(struct caller *k)
{
    char to[64], from[64];
    unsigned long ms;
    int end = -1;
    struct error e;
    k->heard = true;
    if (sscanf(k->line, "migrate %63s %63s %lu%n", to, from, &ms, &end) != 3 || k->line[end] != '\0') {
        error_set(&e, ERROR_INVALID, "that is no command: migrate TO FROM MS");
        refuse(k, &e);
    } else if (migrate(k, to, from, ms, &e) != 0) {
        refuse(k, &e);
    }
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct caller *k = handle->data;
    (void)suggested;
    *buf = uv_buf_init(k->line + k->len, (unsigned)(sizeof k->line - 1 - k->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct caller *k = stream->data;
    (void)buf;
    if (n < 0 || (n > 0 && k->heard)) { /* gone, full, or more than one command */
        hang_up(k);
        return;
    }
    k->len += (size_t)n;
    k->line[k->len] = '\0';
    char *end = strchr(k->line, '\n');
    if (end == NULL) return;
    *end = '\0';
    k->len = 0;
    obey(k);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct control *c = listener->data;
    struct caller *k = status == 0 ? calloc(1, sizeof *k) : NULL;
    if (k == NULL) return; /* it stays in the queue of the socket until the next one comes */
    k->control = c;
    k->next = c->callers;
    c->callers = k;
    c->n_callers++;
    uv_pipe_init(listener->loop, &k->pipe, 0);
    k->pipe.data = k;
    bool full = c->closing || c->n_callers > CONTROL_CONNECTIONS;
    if (uv_accept(listener, (uv_stream_t *)&k->pipe) != 0 || full || uv_read_start((uv_stream_t *)&k->pipe, on_room, on_read) != 0) hang_up(k);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int control_path(const char *state_dir, char *path, size_t size, struct error *e)
{
    int n = snprintf(path, size, "%s/control", state_dir);
    if (n >= 0 && (size_t)n < size) return 0;
    return error_set(e, ERROR_INVALID, "the state directory's path is too long for a socket in it: at most %zu bytes", size - sizeof "/control");
}

static int bind_it(struct control *c)
{
    mode_t before = umask(0177);
    unlink(c->path); /* of an earlier life: each workload's folder is locked by now */
    int rv = uv_pipe_bind(&c->listener, c->path);
    umask(before);
    return rv != 0 ? rv : uv_listen((uv_stream_t *)&c->listener, CONTROL_CONNECTIONS, on_connection);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct control *c = handle->data;
    c->listener_closed = true;
    maybe_gone(c);
}

static void on_nothing(void *user)
{
    (void)user;
}

int control_start(uv_loop_t *loop, const char *state_dir, struct workload *const *workloads, size_t n, struct control **ret_control, struct error *e)
{
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    c->workloads = workloads;
    c->n = n;
    int rv = control_path(state_dir, c->path, sizeof c->path, e);
    if (rv != 0) {
        free(c);
        return rv;
    }
    uv_pipe_init(loop, &c->listener, 0);
    c->listener.data = c;
    if ((rv = bind_it(c)) != 0) {
        error_uv(e, ERROR_IO, rv, "%s cannot be listened on", c->path);
        control_close(c, on_nothing, NULL);
        return -ERROR_IO;
    }
    *ret_control = c;
    return 0;
}

void control_close(struct control *c, void (*done)(void *user), void *user)
{
    if (c == NULL) {
        done(user);
        return;
    }
    c->closing = true;
    c->done = done;
    c->user = user;
    for (struct caller *k = c->callers; k != NULL; k = k->next) hang_up(k);
    uv_close((uv_handle_t *)&c->listener, on_listener_closed);
}
