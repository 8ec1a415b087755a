#include "tests/apps/httpd.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { READ_HEAD, READ_FIXED, READ_CHUNK_SIZE, READ_CHUNK, READ_CHUNK_END, READ_TRAILERS, HOLD };

struct connection {
    int fd; /* -1: free */
    enum state state;
    struct httpd_text in, out, body, head;
    size_t taken, sent;     /* of `in` and `out` */
    uint64_t wanted;        /* bytes of the body, or of the chunk, still to come */
    uint64_t hold_until;    /* HOLD: `held` joins `out` then */
    struct httpd_text held;
    bool close, keep_alive;
    bool worked;            /* on its last request: the next one of this connection, if it is here, has to wait for those of the others */
};

struct server {
    int listener;
    httpd_handler *handle;
    void *user;
    uint64_t busy_until_us; /* the last work's end; 0: none, or nothing was there to do since */
    int n; /* the first that are looked at: all behind them are free */
    struct connection connections[HTTPD_CONNECTIONS_MAX];
};

void httpd_put(struct httpd_text *t, const void *data, size_t len)
{
    if (t->len + len + 1 > t->cap) {
        size_t cap = t->cap > 0 ? t->cap : 256;
        while (cap < t->len + len + 1) cap *= 2;
        t->at = realloc(t->at, cap);
        if (t->at == NULL) abort();
        t->cap = cap;
    }
    if (len > 0) memcpy(t->at + t->len, data, len);
    t->len += len;
    t->at[t->len] = '\0';
}

void httpd_printf(struct httpd_text *t, const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) httpd_put(t, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static void clear(struct httpd_text *t)
{
    free(t->at);
    *t = (struct httpd_text){0};
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool httpd_header(const struct httpd_request *r, const char *name, char *value, size_t size)
{
    size_t n = strlen(name);
    for (const char *line = strstr(r->head, "\r\n"); line != NULL && line[2] != '\0'; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, n) != 0 || line[n] != ':') continue;
        line += n + 1;
        line += strspn(line, " \t");
        size_t len = strcspn(line, "\r");
        while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t')) len--;
        if (len >= size) return false;
        memcpy(value, line, len);
        value[len] = '\0';
        return true;
    }
    return false;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool httpd_query(const struct httpd_request *r, const char *name, char *value, size_t size)
{
    size_t n = strlen(name), out = 0;
    const char *p = r->query;
    while (*p != '\0' && !(strncmp(p, name, n) == 0 && p[n] == '=')) {
        p += strcspn(p, "&");
        p += *p == '&';
    }
    if (*p == '\0') return false;
    for (p += n + 1; *p != '\0' && *p != '&'; p++) {
        if (out + 1 >= size) return false;
        if (*p == '%' && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
            value[out++] = (char)(hex(p[1]) * 16 + hex(p[2]));
            p += 2;
        } else {
            value[out++] = *p == '+' ? ' ' : *p;
        }
    }
    value[out] = '\0';
    return true;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 202: return "Accepted";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 413: return "Content Too Large";
    case 431: return "Request Header Fields Too Large";
    default: return "Answer";
    }
}

static void render(struct httpd_text *out, const struct httpd_answer *a, bool keep_alive, bool body_too)
{
    httpd_printf(out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\n", a->status, reason(a->status),
                 a->body.len > 0 && a->body.at[0] == '{' ? "application/json" : "text/plain");
    if (!keep_alive) httpd_printf(out, "Connection: close\r\n");
    if (a->chunk == 0) {
        httpd_printf(out, "Content-Length: %zu\r\n\r\n", a->body.len);
        if (body_too) httpd_put(out, a->body.at, a->body.len);
        return;
    }
    httpd_printf(out, "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; body_too && at < a->body.len; at += a->chunk) {
        size_t n = a->body.len - at < a->chunk ? a->body.len - at : a->chunk;
        httpd_printf(out, "%zx\r\n", n);
        httpd_put(out, a->body.at + at, n);
        httpd_put(out, "\r\n", 2);
    }
    if (body_too) httpd_printf(out, "0\r\n\r\n");
}

static void refuse(struct connection *c, int status)
{
    struct httpd_answer a = {.status = status};
    httpd_printf(&a.body, "%s\n", reason(status));
    render(&c->out, &a, false, true);
    clear(&a.body);
    c->close = true;
}

/* Splits a copy of the head's first line, to be freed with free(*ret_method). False when it is not three words. */
static bool request_line(const struct connection *c, char **ret_method, char **ret_target)
{
    char *save = NULL, *line = strndup(c->head.at, strcspn(c->head.at, "\r\n"));
    if (line == NULL) abort();
    char *method = strtok_r(line, " ", &save), *target = method != NULL ? strtok_r(NULL, " ", &save) : NULL;
    char *version = target != NULL ? strtok_r(NULL, " ", &save) : NULL;
    if (method != line || version == NULL || strncmp(version, "HTTP/1.", 7) != 0) {
        free(line);
        return false;
    }
    *ret_method = method;
    *ret_target = target;
    return true;
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Takes time and no processor. Begins when it came, or else when the work before it was due to be done: that this process was woken late, because others have
 * the processors, is not part of the work. So never more than one in `us`, and as many when one always waits. */
static void work(struct server *s, uint64_t us)
{
    s->busy_until_us = (s->busy_until_us > 0 ? s->busy_until_us : now_us()) + us;
    struct timespec until = {.tv_sec = (time_t)(s->busy_until_us / 1000000), .tv_nsec = (long)(s->busy_until_us % 1000000) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {}
}

static void answer(struct server *s, struct connection *c)
{
    char *method, *target;
    if (!request_line(c, &method, &target)) abort(); /* it was whole when the head was taken */
    struct httpd_request r = {.method = method, .path = target, .query = "", .head = c->head.at,
                              .body = c->body.len > 0 ? c->body.at : "", .body_len = c->body.len};
    struct httpd_answer a = {.status = 200};
    char *query = strchr(target, '?');
    if (query != NULL) {
        *query = '\0';
        r.query = query + 1;
    }
    s->handle(s->user, &r, &a);
    c->worked = a.work_us > 0;
    if (c->worked) work(s, a.work_us);
    render(a.delay_ms > 0 ? &c->held : &c->out, &a, c->keep_alive, strcmp(method, "HEAD") != 0);
    c->state = a.delay_ms > 0 ? HOLD : READ_HEAD;
    c->hold_until = now_ms() + a.delay_ms;
    c->close = !c->keep_alive;
    clear(&a.body);
    clear(&c->head);
    clear(&c->body);
    free(method);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static bool number(const char *text, int base, uint64_t *ret)
{
    char *end;
    if (!isxdigit((unsigned char)text[0])) return false;
    errno = 0;
    *ret = strtoull(text, &end, base);
    return errno == 0 && (*end == '\0' || (base == 16 && *end == ';'));
}

/* Takes a line of `in` (without its end) into `line`. 1, 0 when it is not there yet, -1 when it is too long. */
static int take_line(struct connection *c, char *line, size_t size)
{
    if (c->taken == c->in.len) return 0;
    char *from = c->in.at + c->taken, *end = memchr(from, '\n', c->in.len - c->taken);
    if (end == NULL) return c->in.len - c->taken >= size ? -1 : 0;
    size_t n = (size_t)(end - from);
    if (n >= size) return -1;
    c->taken += n + 1;
    if (n > 0 && from[n - 1] == '\r') n--;
    memcpy(line, from, n);
    line[n] = '\0';
    return 1;
}

/* 1: a head was taken and the state says what follows. 0: more bytes are needed. < 0: minus the status to refuse with. */
static int take_head(struct connection *c)
{
    char value[64], *method, *target;
    if (c->taken == c->in.len) return 0;
    char *from = c->in.at + c->taken, *end = memmem(from, c->in.len - c->taken, "\r\n\r\n", 4);
    if (end == NULL) return c->in.len - c->taken > HTTPD_HEAD_MAX ? -431 : 0;
    size_t n = (size_t)(end - from) + 2;
    if (n > HTTPD_HEAD_MAX) return -431;
    if (memchr(from, '\0', n) != NULL) return -400;
    httpd_put(&c->head, from, n);
    c->taken += n + 2;
    if (!request_line(c, &method, &target)) return -400;
    free(method);
    struct httpd_request r = {.head = c->head.at};
    c->keep_alive = strncmp(strstr(c->head.at, " HTTP/1."), " HTTP/1.0", 9) != 0;
    if (httpd_header(&r, "Connection", value, sizeof value) && strcasecmp(value, "close") == 0) c->keep_alive = false;
    bool chunked = httpd_header(&r, "Transfer-Encoding", value, sizeof value);
    if (chunked && strcasecmp(value, "chunked") != 0) return -400;
    c->wanted = 0;
    if (httpd_header(&r, "Content-Length", value, sizeof value) && (chunked || !number(value, 10, &c->wanted))) return -400;
    if (c->wanted > HTTPD_BODY_MAX) return -413;
    if (httpd_header(&r, "Expect", value, sizeof value) && strcasecmp(value, "100-continue") == 0)
        httpd_printf(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    c->state = chunked ? READ_CHUNK_SIZE : READ_FIXED;
    return 1;
}

static int take_bytes(struct connection *c)
{
    size_t n = c->in.len - c->taken;
    if (n > c->wanted) n = (size_t)c->wanted;
    httpd_put(&c->body, n > 0 ? c->in.at + c->taken : "", n);
    c->taken += n;
    c->wanted -= n;
    return c->wanted == 0;
}

/* One step of the parser; returns as take_head(). */
static int step(struct server *s, struct connection *c)
{
    char line[1024];
    int rv;
    switch (c->state) {
    case READ_HEAD: return take_head(c);
    case READ_FIXED:
        if (!take_bytes(c)) return 0;
        answer(s, c);
        return 1;
    case READ_CHUNK_SIZE:
        if ((rv = take_line(c, line, sizeof line)) <= 0) return rv == 0 ? 0 : -400;
        if (!number(line, 16, &c->wanted)) return -400;
        if (c->wanted > HTTPD_BODY_MAX - c->body.len) return -413;
        c->state = c->wanted == 0 ? READ_TRAILERS : READ_CHUNK;
        return 1;
    case READ_CHUNK:
        if (!take_bytes(c)) return 0;
        c->state = READ_CHUNK_END;
        return 1;
    case READ_CHUNK_END:
        if ((rv = take_line(c, line, sizeof line)) <= 0) return rv == 0 ? 0 : -400;
        c->state = READ_CHUNK_SIZE;
        return line[0] == '\0' ? 1 : -400;
    case READ_TRAILERS:
        if ((rv = take_line(c, line, sizeof line)) <= 0) return rv == 0 ? 0 : -400;
        if (line[0] == '\0') answer(s, c);
        return 1;
    case HOLD: return 0;
    }
    return -400;
}

static void parse(struct server *s, struct connection *c)
{
    int rv = 1;
    c->worked = false;
    while (rv > 0 && !c->close && c->state != HOLD && !c->worked) rv = step(s, c);
    if (rv < 0) refuse(c, -rv);
    memmove(c->in.at, c->in.at + c->taken, c->in.len - c->taken);
    c->in.len -= c->taken;
    c->taken = 0;
}

/* ---- sockets -------------------------------------------------------------------------------------------------- */

static void drop(struct connection *c)
{
    close(c->fd);
    clear(&c->in);
    clear(&c->out);
    clear(&c->body);
    clear(&c->head);
    clear(&c->held);
    *c = (struct connection){.fd = -1};
}

static void receive(struct server *s, struct connection *c)
{
    static char piece[64 << 10];
    ssize_t n = recv(c->fd, piece, sizeof piece, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        drop(c);
        return;
    }
    httpd_put(&c->in, piece, (size_t)n);
    if (c->state != HOLD) parse(s, c);
}

static void transmit(struct connection *c)
{
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.at + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) {
            drop(c);
            return;
        }
        c->sent += (size_t)n;
    }
    clear(&c->out);
    c->sent = 0;
    if (c->close && c->state != HOLD) drop(c);
}

static void release(struct server *s, struct connection *c)
{
    httpd_put(&c->out, c->held.at, c->held.len);
    clear(&c->held);
    c->state = READ_HEAD;
    if (c->in.len > 0 && !c->close) parse(s, c);
}

static void take_connection(struct server *s, int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int i = 0; i < HTTPD_CONNECTIONS_MAX; i++)
        if (s->connections[i].fd < 0) {
            s->connections[i].fd = fd;
            if (i >= s->n) s->n = i + 1;
            return;
        }
    close(fd);
}

/* All that wait: a turn may be long. */
static void take_connections(struct server *s)
{
    int fd;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) take_connection(s, fd);
}

static void turn(struct server *s)
{
    struct pollfd polls[HTTPD_CONNECTIONS_MAX + 1];
    uint64_t now = now_ms();
    int timeout = -1;
    while (s->n > 0 && s->connections[s->n - 1].fd < 0) s->n--;
    polls[0] = (struct pollfd){.fd = s->listener, .events = POLLIN};
    for (int i = 0; i < s->n; i++) {
        struct connection *c = &s->connections[i];
        polls[i + 1] = (struct pollfd){.fd = c->fd};
        /* one that waits for its answer, or does not read its answers, is not read from */
        if (c->state != HOLD && c->out.len < HTTPD_HEAD_MAX) polls[i + 1].events |= POLLIN;
        if (c->out.len > c->sent) polls[i + 1].events |= POLLOUT;
        if (c->fd >= 0 && c->worked && c->in.len > 0) timeout = 0; /* perhaps a whole request */
        if (c->fd < 0 || c->state != HOLD) continue;
        int left = c->hold_until > now ? (int)(c->hold_until - now) : 0;
        if (timeout < 0 || left < timeout) timeout = left;
    }
    if (s->busy_until_us > 0 && timeout != 0 && poll(polls, (nfds_t)s->n + 1, 0) == 0) s->busy_until_us = 0;
    if (poll(polls, (nfds_t)s->n + 1, timeout) < 0) return;
    now = now_ms();
    for (int i = 0; i < s->n; i++) {
        struct connection *c = &s->connections[i];
        if (c->fd < 0 || polls[i + 1].fd != c->fd) continue;
        if (c->state == HOLD && (polls[i + 1].revents & (POLLERR | POLLHUP)) != 0) drop(c);
        if (c->fd >= 0 && c->state == HOLD && now >= c->hold_until) release(s, c);
        if (c->fd >= 0 && c->state != HOLD && (polls[i + 1].revents & (POLLIN | POLLERR | POLLHUP)) != 0)
            receive(s, c);
        else if (c->fd >= 0 && c->worked && c->in.len > 0)
            parse(s, c);
        if (c->fd >= 0 && c->out.len > 0) transmit(c);
    }
    if (polls[0].revents != 0) take_connections(s);
}

int httpd_serve(const char *address, httpd_handler *handle, void *user)
{
    static struct server s;
    char host[64];
    unsigned port;
    int one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (sscanf(address, "%63[0-9.]:%u", host, &port) != 2 || port > 65535 || inet_pton(AF_INET, host, &to.sin_addr) != 1) {
        fprintf(stderr, "--listen wants IPV4:PORT, not \"%s\"\n", address);
        return -1;
    }
    to.sin_port = htons((uint16_t)port);
    s = (struct server){.handle = handle, .user = user};
    for (int i = 0; i < HTTPD_CONNECTIONS_MAX; i++) s.connections[i].fd = -1;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL); /* 50 microseconds otherwise */
    s.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s.listener < 0 || setsockopt(s.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0
        || bind(s.listener, (struct sockaddr *)&to, sizeof to) != 0 || listen(s.listener, 128) != 0) {
        fprintf(stderr, "cannot listen on %s: %s\n", address, strerror(errno));
        return -1;
    }
    for (;;) turn(&s);
}
