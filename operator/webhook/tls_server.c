#include "operator/webhook/tls_server.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/conn.h"

enum { CHUNK = 16384, BACKLOG = 128 };

static const struct http_limits limits = {.head_bytes = 32 << 10, .headers = 100, .body_bytes = TLS_SERVER_BODY_MAX};

struct session {
    LIST_ENTRY(session) entry;
    struct tls_server *server;
    uv_tcp_t tcp;
    uv_timer_t idle;
    SSL *ssl;
    BIO *in, *out; /* owned by ssl: what came from the peer, what has to go to it */
    struct http_parser *parser;
    unsigned open, writes;
    bool ending; /* closes when everything is written */
    char chunk[CHUNK];
};

struct tls_server {
    uv_loop_t *loop;
    uv_tcp_t tcp;
    SSL_CTX *context;
    LIST_HEAD(, session) sessions;
    unsigned n_sessions;
    tls_server_cb *on_request;
    void *user;
    bool closing, closed;
    void (*done)(void *user);
    void *done_user;
};

/* ---- the certificate ------------------------------------------------------------------------------------------ */

static int tls_error(struct error *e, const char *what)
{
    char why[160];
    ERR_error_string_n(ERR_peek_last_error(), why, sizeof why);
    ERR_clear_error();
    return error_set(e, ERROR_INVALID, "%s: %s", what, why);
}

static SSL_CTX *make_context(const char *cert, const char *key)
{
    SSL_CTX *c = SSL_CTX_new(TLS_server_method());
    BIO *a = BIO_new_mem_buf(cert, -1), *b = BIO_new_mem_buf(key, -1);
    X509 *x = a != NULL ? PEM_read_bio_X509(a, NULL, NULL, NULL) : NULL;
    EVP_PKEY *k = b != NULL ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
    bool ok = c != NULL && x != NULL && k != NULL && SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) == 1 && SSL_CTX_use_certificate(c, x) == 1 &&
              SSL_CTX_use_PrivateKey(c, k) == 1 && SSL_CTX_check_private_key(c) == 1;
    X509_free(x);
    EVP_PKEY_free(k);
    BIO_free(a);
    BIO_free(b);
    if (ok) return c;
    SSL_CTX_free(c);
    return NULL;
}

int tls_server_set_certificate(struct tls_server *s, const char *cert, const char *key, struct error *e)
{
    SSL_CTX *c = make_context(cert, key);
    if (c == NULL) return tls_error(e, "the webhook's certificate");
    SSL_CTX_free(s->context); /* sessions hold references of their own */
    s->context = c;
    return 0;
}

/* ---- a session's end ------------------------------------------------------------------------------------------ */

static void let_go(struct tls_server *s)
{
    if (!s->closed || s->n_sessions > 0) return;
    void (*done)(void *user) = s->done;
    void *user = s->done_user;
    SSL_CTX_free(s->context);
    free(s);
    if (done != NULL) done(user);
}

static void on_session_closed(uv_handle_t *handle)
{
    struct session *c = handle->data;
    struct tls_server *s = c->server;
    if (--c->open > 0) return;
    LIST_REMOVE(c, entry);
    SSL_free(c->ssl);
    http_parser_free(c->parser);
    free(c);
    s->n_sessions--;
    let_go(s);
}

static void session_close(struct session *c)
{
    if (uv_is_closing((uv_handle_t *)&c->tcp)) return;
    uv_close((uv_handle_t *)&c->tcp, on_session_closed);
    uv_close((uv_handle_t *)&c->idle, on_session_closed);
}

static void on_idle(uv_timer_t *timer)
{
    session_close(timer->data);
}

/* ---- bytes out ------------------------------------------------------------------------------------------------ */

struct write {
    uv_write_t req;
    struct session *session;
    char data[];
};

static void on_written(uv_write_t *req, int status)
{
    struct write *w = (struct write *)req;
    struct session *c = w->session;
    free(w);
    c->writes--;
    if (status < 0 || (c->ending && c->writes == 0)) session_close(c);
}

/* What TLS has for the peer goes to the socket. */
static void flush(struct session *c)
{
    size_t len = BIO_ctrl_pending(c->out);
    if (len == 0 || uv_is_closing((uv_handle_t *)&c->tcp)) return;
    struct write *w = malloc(sizeof *w + len);
    if (w == NULL) {
        session_close(c);
        return;
    }
    w->session = c;
    uv_buf_t b = uv_buf_init(w->data, (unsigned)BIO_read(c->out, w->data, (int)len));
    if (uv_write(&w->req, (uv_stream_t *)&c->tcp, &b, 1, on_written) != 0) {
        free(w);
        session_close(c);
        return;
    }
    c->writes++;
}

static void end(struct session *c)
{
    SSL_shutdown(c->ssl);
    flush(c);
    c->ending = true;
    if (c->writes == 0) session_close(c);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* Memory BIOs take everything at once. */
static bool say(struct session *c, const struct buf *answer)
{
    return answer->len == 0 || SSL_write(c->ssl, answer->data, (int)answer->len) == (int)answer->len;
}

/* False: the connection has to end. */
static bool answer(struct session *c)
{
    const struct http_message *m = http_parser_message(c->parser);
    struct buf out = BUF_INIT;
    bool keep = m->keep_alive;
    c->server->on_request(c->server->user, m, &out);
    bool ok = say(c, &out) && out.len > 0;
    buf_fini(&out);
    return ok && keep;
}

static bool take(struct session *c, const char *data, size_t len)
{
    struct buf out = BUF_INIT;
    while (len > 0) {
        size_t used = 0;
        int rv = http_parser_feed(c->parser, data, len, &used, NULL);
        if (rv < 0) {
            if (http_write_plain(&out, http_parser_refusal(c->parser), "text/plain", "", 0, "", false) == 0) say(c, &out);
            buf_fini(&out);
            return false;
        }
        if (rv == 1 && !answer(c)) return false;
        data += used;
        len -= used;
    }
    if (http_parser_wants_continue(c->parser)) return SSL_write(c->ssl, "HTTP/1.1 100 Continue\r\n\r\n", 25) == 25;
    return true;
}

static void read_plain(struct session *c)
{
    char plain[CHUNK];
    int n;
    while ((n = SSL_read(c->ssl, plain, sizeof plain)) > 0) {
        uv_timer_again(&c->idle);
        if (take(c, plain, (size_t)n)) continue;
        end(c);
        return;
    }
    int why = SSL_get_error(c->ssl, n);
    ERR_clear_error();
    flush(c);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) end(c);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *b)
{
    struct session *c = handle->data;
    (void)suggested;
    *b = uv_buf_init(c->chunk, sizeof c->chunk);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct session *c = stream->data;
    if (c->ending) return;
    if (n < 0 || (n > 0 && BIO_write(c->in, b->base, (int)n) != (int)n))
        session_close(c);
    else if (n > 0)
        read_plain(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct tls_server *s = listener->data;
    struct session *c;
    if (status < 0 || (c = calloc(1, sizeof *c)) == NULL) return;
    c->server = s;
    c->open = 2;
    LIST_INSERT_HEAD(&s->sessions, c, entry);
    s->n_sessions++;
    uv_tcp_init(s->loop, &c->tcp);
    uv_timer_init(s->loop, &c->idle);
    c->tcp.data = c->idle.data = c;
    c->parser = http_parser_new(true, &limits);
    c->ssl = SSL_new(s->context);
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    if (c->ssl != NULL && c->in != NULL && c->out != NULL) {
        SSL_set_bio(c->ssl, c->in, c->out);
        SSL_set_accept_state(c->ssl);
        SSL_set_mode(c->ssl, SSL_MODE_AUTO_RETRY);
    }
    uv_timer_start(&c->idle, on_idle, TLS_SERVER_IDLE_MS, TLS_SERVER_IDLE_MS);
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0 || c->parser == NULL || c->ssl == NULL || c->in == NULL || c->out == NULL ||
        s->n_sessions > TLS_SERVER_SESSIONS_MAX || uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        session_close(c);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int tls_server_start(uv_loop_t *loop, const char *address, const char *cert, const char *key, tls_server_cb *on_request, void *user,
                     struct tls_server **ret_server, struct error *e)
{
    struct sockaddr_storage where;
    struct tls_server *s;
    int rv = address_numeric(address, &where, e);
    if (rv != 0) return rv;
    if ((s = calloc(1, sizeof *s)) == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    s->loop = loop;
    s->on_request = on_request;
    s->user = user;
    LIST_INIT(&s->sessions);
    if ((s->context = make_context(cert, key)) == NULL) {
        free(s);
        return tls_error(e, "the webhook's certificate");
    }
    uv_tcp_init(loop, &s->tcp);
    s->tcp.data = s;
    if ((rv = uv_tcp_bind(&s->tcp, (struct sockaddr *)&where, 0)) == 0) rv = uv_listen((uv_stream_t *)&s->tcp, BACKLOG, on_connection);
    if (rv != 0) {
        tls_server_close(s, NULL, NULL);
        return error_uv(e, ERROR_IO, rv, "cannot listen on %s", address);
    }
    *ret_server = s;
    return 0;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct tls_server *s = handle->data;
    s->closed = true;
    let_go(s);
}

void tls_server_close(struct tls_server *s, void (*done)(void *user), void *user)
{
    struct session *c;
    s->done = done;
    s->done_user = user;
    LIST_FOREACH(c, &s->sessions, entry) session_close(c);
    uv_close((uv_handle_t *)&s->tcp, on_listener_closed);
}
