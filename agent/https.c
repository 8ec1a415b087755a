#include "agent/https.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "common/conn.h"
#include "common/log.h"
#include "common/loop.h"

enum { HEAD_MAX = 16 << 10, FIELDS_MAX = 64, BODY_MAX = 1 << 20, SEND_S = 75, LOOK_MS = 1000, CHUNK = 64 << 10 };

struct https {
    struct call_tls tls;
    https_handler *handler;
    void *user;
    int fd;
    pthread_mutex_t lock;
    LIST_HEAD(, connection) connections; /* lock */
    SSL_CTX *context; /* only the accepting thread's */
    struct timespec read_at[3];
};

struct connection {
    LIST_ENTRY(connection) entry; /* lock; its thread takes it out before it closes fd */
    struct https *server;
    SSL *ssl;
    int fd;
    /* lock: */
    uint64_t since_ms; /* since then it waits for a request */
    uint64_t until_ms; /* it is ended then; UINT64_MAX: it is being answered */
    bool answered;     /* once at least */
    bool ended;        /* its thread is about to see that */
};

static void last_reason(char *text, size_t cap)
{
    unsigned long code = ERR_get_error();
    if (code != 0) ERR_error_string_n(code, text, cap);
    else snprintf(text, cap, "no reason given");
    ERR_clear_error();
}

/* ---- certificates ------------------------------------------------------------------------------------------------ */

static bool changed(struct https *s, struct timespec now[3])
{
    const char *const files[] = {s->tls.ca, s->tls.cert, s->tls.key};
    struct stat st;
    bool different = false;
    for (int i = 0; i < 3; i++) {
        now[i] = (struct timespec){0};
        if (stat(files[i], &st) == 0) now[i] = st.st_mtim;
        different |= now[i].tv_sec != s->read_at[i].tv_sec || now[i].tv_nsec != s->read_at[i].tv_nsec;
    }
    return different;
}

/* Reads them if they changed. A set that cannot be read (half of it renewed) leaves the old one in force. */
static int refresh(struct https *s, struct error *e)
{
    struct timespec now[3];
    char reason[200];
    if (!changed(s, now)) return 0;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    bool ok = context != NULL && SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
              SSL_CTX_use_certificate_chain_file(context, s->tls.cert) == 1 && SSL_CTX_use_PrivateKey_file(context, s->tls.key, SSL_FILETYPE_PEM) == 1 &&
              SSL_CTX_check_private_key(context) == 1 && SSL_CTX_load_verify_locations(context, s->tls.ca, NULL) == 1;
    if (!ok) {
        last_reason(reason, sizeof reason);
        SSL_CTX_free(context);
        return error_set(e, ERROR_INVALID, "tls-ca, tls-cert, tls-key cannot be used: %s", reason);
    }
    SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(s->tls.ca));
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_free(s->context); /* connections keep theirs */
    s->context = context;
    memcpy(s->read_at, now, sizeof now);
    return 0;
}

/* The common name of a verified certificate; "": none. */
static void client_name(SSL *ssl, char name[HTTPS_CLIENT_MAX])
{
    X509 *certificate = SSL_get1_peer_certificate(ssl);
    name[0] = '\0';
    if (certificate == NULL) return;
    int len = SSL_get_verify_result(ssl) == X509_V_OK
                  ? X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, HTTPS_CLIENT_MAX) : -1;
    if (len < 0 || strlen(name) != (size_t)len) name[0] = '\0';
    X509_free(certificate);
}

/* ---- a connection ------------------------------------------------------------------------------------------------ */

static bool send_all(SSL *ssl, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        int n = SSL_write(ssl, p, len > CHUNK ? CHUNK : (int)len);
        if (n <= 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool send_file(SSL *ssl, const struct https_answer *a, bool keep)
{
    char head[256], *chunk = malloc(CHUNK);
    int len = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %" PRIu64 "\r\n%s\r\n", a->type, a->file_len,
                       keep ? "" : "Connection: close\r\n");
    bool ok = chunk != NULL && send_all(ssl, head, (size_t)len);
    for (uint64_t left = a->file_len; ok && left > 0;) {
        ssize_t n = read(a->file_fd, chunk, left > CHUNK ? CHUNK : (size_t)left);
        ok = n > 0 && send_all(ssl, chunk, (size_t)n);
        if (ok) left -= (uint64_t)n;
    }
    free(chunk);
    return ok;
}

/* It waits from now on, at most so long. */
static void waits(struct connection *c, uint64_t ms, bool answered)
{
    pthread_mutex_lock(&c->server->lock);
    c->since_ms = loop_monotonic_us() / 1000;
    c->until_ms = c->since_ms + ms;
    c->answered = answered;
    pthread_mutex_unlock(&c->server->lock);
}

/* False: it was ended just then. */
static bool is_served(struct connection *c)
{
    pthread_mutex_lock(&c->server->lock);
    c->until_ms = UINT64_MAX;
    bool on = !c->ended;
    pthread_mutex_unlock(&c->server->lock);
    return on;
}

static bool respond(struct connection *c, const struct http_message *m)
{
    struct https_request request = {.method = m->method, .target = m->target, .body_len = m->body_len};
    struct https_answer answer = {.status = 500, .type = "application/json", .body = BUF_INIT, .file_fd = -1};
    struct buf out = BUF_INIT, body = BUF_INIT;
    client_name(c->ssl, request.client);
    bool ok = buf_add(&body, m->body, m->body_len) == 0 && buf_add(&body, "", 1) == 0;
    if (ok) {
        request.body = (const char *)body.data;
        c->server->handler(c->server->user, &request, &answer);
        bool head = strcmp(m->method, "HEAD") == 0;
        if (answer.file_fd >= 0 && !head) ok = send_file(c->ssl, &answer, m->keep_alive);
        else if (answer.file_fd >= 0) ok = http_write_plain(&out, answer.status, answer.type, "", 0, "", m->keep_alive) == 0 && send_all(c->ssl, out.data, out.len);
        else
            ok = http_write_plain(&out, answer.status, answer.type, answer.body.data, head ? 0 : answer.body.len, "", m->keep_alive) == 0 &&
                 send_all(c->ssl, out.data, out.len);
    }
    if (answer.file_fd >= 0) close(answer.file_fd);
    buf_fini(&answer.body);
    buf_fini(&body);
    buf_fini(&out);
    return ok && m->keep_alive;
}

static void refuse(struct connection *c, int status, const char *why)
{
    struct buf out = BUF_INIT;
    if (http_write_plain(&out, status, "text/plain", why, strlen(why), "", false) == 0) send_all(c->ssl, out.data, out.len);
    buf_fini(&out);
}

static void serve_requests(struct connection *c)
{
    static const struct http_limits limits = {.head_bytes = HEAD_MAX, .headers = FIELDS_MAX, .body_bytes = BODY_MAX};
    struct http_parser *parser = http_parser_new(true, &limits);
    char *data = malloc(CHUNK);
    bool on = parser != NULL && data != NULL, begun = true; /* the first request began with the connection */
    while (on) {
        int n = SSL_read(c->ssl, data, CHUNK);
        if (n <= 0) break;
        if (!begun) waits(c, HTTPS_REQUEST_MS, true);
        begun = true;
        for (size_t at = 0; on && at < (size_t)n;) {
            struct error e;
            size_t used = 0;
            int rc = http_parser_feed(parser, data + at, (size_t)n - at, &used, &e);
            at += used;
            if (rc < 0) refuse(c, http_parser_refusal(parser), e.text);
            if (rc > 0) {
                on = is_served(c) && respond(c, http_parser_message(parser));
                begun = at < (size_t)n;
                waits(c, begun ? HTTPS_REQUEST_MS : HTTPS_IDLE_MS, true);
            }
            if (rc < 0) on = false;
            if (rc == 0) break;
        }
    }
    free(data);
    http_parser_free(parser);
}

static void connection_free(struct connection *c)
{
    pthread_mutex_lock(&c->server->lock);
    LIST_REMOVE(c, entry);
    pthread_mutex_unlock(&c->server->lock);
    SSL_free(c->ssl);
    close(c->fd);
    free(c);
}

static void *serve(void *user)
{
    struct connection *c = user;
    if (SSL_accept(c->ssl) == 1) {
        serve_requests(c);
        SSL_shutdown(c->ssl);
    }
    ERR_clear_error();
    connection_free(c);
    return NULL;
}

/* ---- who has a place ---------------------------------------------------------------------------------------------- */

/* Under the lock. Its thread, which reads or writes, sees an end. */
static void end(struct connection *c)
{
    c->ended = true;
    shutdown(c->fd, SHUT_RDWR);
}

/* Ends those whose time is over. Whether there is anybody to be looked at again. */
static bool look_over(struct https *s)
{
    struct connection *c;
    uint64_t now_ms = loop_monotonic_us() / 1000;
    pthread_mutex_lock(&s->lock);
    LIST_FOREACH(c, &s->connections, entry)
        if (!c->ended && c->until_ms <= now_ms) end(c);
    bool any = !LIST_EMPTY(&s->connections);
    pthread_mutex_unlock(&s->lock);
    return any;
}

static bool goes_before(const struct connection *c, const struct connection *than)
{
    if (than == NULL || c->answered != than->answered) return than == NULL || !c->answered;
    return c->since_ms < than->since_ms;
}

/* A place for one more, which is put into the list; false: there is none. Threads that are about to end are not counted for long. */
static bool take_place(struct https *s, struct connection *newcomer)
{
    struct connection *c, *first = NULL;
    unsigned n = 0, ending = 0;
    pthread_mutex_lock(&s->lock);
    LIST_FOREACH(c, &s->connections, entry) {
        n += !c->ended;
        ending += c->ended;
        if (!c->ended && c->until_ms != UINT64_MAX && goes_before(c, first)) first = c;
    }
    bool room = ending < HTTPS_CONNECTIONS_MAX && (n < HTTPS_CONNECTIONS_MAX || first != NULL);
    if (room && n >= HTTPS_CONNECTIONS_MAX) end(first);
    if (room) LIST_INSERT_HEAD(&s->connections, newcomer, entry);
    pthread_mutex_unlock(&s->lock);
    return room;
}

static void welcome(struct https *s, int fd)
{
    struct error e;
    struct timeval patience = {.tv_sec = SEND_S};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (refresh(s, &e) != 0) log_warn("new certificates cannot be used yet", "reason=%s", e.text);
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL || (c->ssl = SSL_new(s->context)) == NULL || SSL_set_fd(c->ssl, fd) != 1) {
        if (c != NULL) SSL_free(c->ssl);
        free(c);
        close(fd);
        return;
    }
    c->server = s;
    c->fd = fd;
    c->since_ms = loop_monotonic_us() / 1000;
    c->until_ms = c->since_ms + HTTPS_REQUEST_MS;
    if (!take_place(s, c)) {
        SSL_free(c->ssl);
        close(fd);
        free(c);
    } else if (agent_thread(serve, c, &e) != 0) {
        connection_free(c);
    }
}

static void *accept_all(void *user)
{
    struct https *s = user;
    for (;;) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        if (poll(&p, 1, look_over(s) ? LOOK_MS : -1) <= 0) continue;
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) welcome(s, fd);
        else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) poll(NULL, 0, 50);
    }
    return NULL;
}

int https_start(const char *address, const struct call_tls *tls, https_handler *handler, void *user, struct error *e)
{
    struct sockaddr_storage where;
    struct https *s = calloc(1, sizeof *s);
    int on = 1;
    if (s == NULL) return error_set(e, ERROR_NOMEM, "no memory for the API");
    *s = (struct https){.tls = *tls, .handler = handler, .user = user, .fd = -1};
    pthread_mutex_init(&s->lock, NULL);
    int rc = address_numeric(address, &where, e);
    if (rc != 0) error_prefix(e, "listen");
    if (rc == 0) rc = refresh(s, e);
    if (rc == 0) {
        s->fd = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t len = where.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        if (s->fd < 0 || setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 || bind(s->fd, (struct sockaddr *)&where, len) != 0 ||
            listen(s->fd, 64) != 0)
            rc = error_errno(e, ERROR_IO, errno, "%s cannot be listened at", address);
    }
    if (rc == 0) rc = agent_thread(accept_all, s, e);
    if (rc == 0) return 0;
    if (s->fd >= 0) close(s->fd);
    SSL_CTX_free(s->context);
    free(s);
    return rc;
}
