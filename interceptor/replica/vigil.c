#include "interceptor/replica/vigil.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/conn.h"

enum { RETRY_MS = 200 };

/* A connection, until libuv has closed it. */
struct link {
    uv_tcp_t socket; /* first */
    uv_connect_t connect;
    uv_write_t write;
    struct vigil *vigil; /* NULL: given up */
};

struct vigil {
    uv_loop_t *loop;
    struct sockaddr_storage where;
    void (*on_lost)(void *user, const char *why);
    void *user;
    struct link *link; /* NULL: none */
    uv_timer_t timer; /* of the next attempt, or of silence */
    char line[VIGIL_LINE_MAX], buffer[4096];
    size_t len;
    bool well; /* seen since it was lost last */
    bool told; /* that its app is gone, on this connection */
    void (*done)(void *user);
    void *done_user;
};

enum vigil_word vigil_read(const char *line, size_t len)
{
    while (len > 0 && *line != '{') line++, len--; /* what HTTP puts around it */
    yyjson_doc *doc = len > 0 ? yyjson_read(line, len, YYJSON_READ_STOP_WHEN_DONE) : NULL;
    yyjson_val *root = doc != NULL ? yyjson_doc_get_root(doc) : NULL;
    yyjson_val *app = yyjson_obj_get(root, "app");
    const char *state = yyjson_get_str(yyjson_obj_get(root, "state"));
    enum vigil_word word = VIGIL_NOTHING;
    if (yyjson_get_bool(yyjson_obj_get(app, "lost")) || yyjson_get_bool(yyjson_obj_get(app, "suspect"))) word = VIGIL_LOST;
    else if (yyjson_get_bool(yyjson_obj_get(root, "fenced")) || yyjson_get_bool(yyjson_obj_get(root, "leaving"))) word = VIGIL_LOST; /* whatever its app does: it answers nothing any more */
    else if (state != NULL && (strcmp(state, "active") == 0 || strcmp(state, "draining") == 0)) word = VIGIL_WELL;
    yyjson_doc_free(doc);
    return word;
}

static void begin(struct vigil *v);

static void on_retry(uv_timer_t *timer)
{
    begin(timer->data);
}

static void on_link_closed(uv_handle_t *handle)
{
    free(handle);
}

static void drop_link(struct vigil *v)
{
    if (v->link == NULL) return;
    v->link->vigil = NULL;
    uv_close((uv_handle_t *)&v->link->socket, on_link_closed);
    v->link = NULL;
    v->len = 0;
    v->told = false;
}

static void tell_lost(struct vigil *v, const char *why)
{
    bool was = v->well;
    v->well = false;
    if (was) v->on_lost(v->user, why);
}

/* The connection is over, however: another one is tried. */
static void end(struct vigil *v, const char *why)
{
    drop_link(v);
    uv_timer_start(&v->timer, on_retry, RETRY_MS, 0);
    tell_lost(v, why);
}

static void on_silence(uv_timer_t *timer)
{
    end(timer->data, "it says nothing");
}

static void take_line(struct vigil *v)
{
    enum vigil_word word = vigil_read(v->line, v->len);
    v->len = 0;
    if (word == VIGIL_WELL) v->well = true;
    if (word == VIGIL_LOST && !v->told) v->well = true; /* an app that is lost was there */
    v->told = word == VIGIL_LOST;
    if (word == VIGIL_LOST) tell_lost(v, "its app is gone, it was fenced, or it is about to end");
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct vigil *v = ((struct link *)stream)->vigil;
    if (v == NULL) return;
    if (n < 0) {
        end(v, "its connection ended");
        return;
    }
    uv_timer_start(&v->timer, on_silence, VIGIL_SILENCE_MS, 0);
    for (ssize_t i = 0; i < n && v->link != NULL; i++) {
        if (v->len < sizeof v->line) v->line[v->len++] = buf->base[i];
        if (buf->base[i] == '\n') take_line(v);
    }
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct vigil *v = ((struct link *)handle)->vigil;
    (void)size;
    *buf = v != NULL ? uv_buf_init(v->buffer, sizeof v->buffer) : uv_buf_init(NULL, 0);
}

static void on_written(uv_write_t *write, int status)
{
    (void)write;
    (void)status; /* the reading side hears of it */
}

static void on_connected(uv_connect_t *connect, int status)
{
    static char question[] = "GET /watch HTTP/1.1\r\nHost: crsc\r\n\r\n";
    struct link *link = (struct link *)connect->handle;
    struct vigil *v = link->vigil;
    uv_buf_t buf = uv_buf_init(question, sizeof question - 1);
    if (v == NULL) return;
    if (status != 0 || uv_write(&link->write, connect->handle, &buf, 1, on_written) != 0 || uv_read_start(connect->handle, on_alloc, on_read) != 0)
        end(v, "it takes no connection");
    else
        uv_timer_start(&v->timer, on_silence, VIGIL_SILENCE_MS, 0);
}

static void begin(struct vigil *v)
{
    struct link *link = calloc(1, sizeof *link);
    if (link == NULL || uv_tcp_init(v->loop, &link->socket) != 0) {
        free(link);
        uv_timer_start(&v->timer, on_retry, RETRY_MS, 0);
        return;
    }
    link->vigil = v;
    v->link = link;
    uv_timer_start(&v->timer, on_silence, VIGIL_SILENCE_MS, 0);
    if (uv_tcp_connect(&link->connect, &link->socket, (const struct sockaddr *)&v->where, on_connected) != 0) end(v, "it cannot be reached");
}

int vigil_new(uv_loop_t *loop, const char *address, void (*on_lost)(void *user, const char *why), void *user, struct vigil **ret_vigil,
              struct error *e)
{
    struct vigil *v = calloc(1, sizeof *v);
    if (v == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    int rv = address_numeric(address, &v->where, e);
    if (rv != 0) {
        free(v);
        return rv;
    }
    v->loop = loop;
    v->on_lost = on_lost;
    v->user = user;
    uv_timer_init(loop, &v->timer);
    v->timer.data = v;
    begin(v);
    *ret_vigil = v;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct vigil *v = handle->data;
    void (*done)(void *user) = v->done;
    void *user = v->done_user;
    free(v);
    done(user);
}

void vigil_free(struct vigil *v, void (*done)(void *user), void *user)
{
    if (v == NULL) {
        done(user);
        return;
    }
    v->done = done;
    v->done_user = user;
    drop_link(v);
    uv_close((uv_handle_t *)&v->timer, on_timer_closed);
}
