/* A small HTTP/1.1 server for the tests' own app: one thread, poll(2), keep-alive, pipelining, chunked requests and answers,
 * Expect: 100-continue. It links to nothing but the C library, so that it runs in an empty container, and it lives
 * through garbage: what it cannot parse is answered with 400 and closed.
 *
 * One request at a time per connection, in the order of arrival; requests of several connections in the order in which
 * they were completely read. */
#ifndef CRSC_TESTS_APPS_HTTPD_H
#define CRSC_TESTS_APPS_HTTPD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTPD_HEAD_MAX = 64 << 10,    /* bytes of request line and headers */
    HTTPD_BODY_MAX = 64 << 20,    /* bytes of body, after decoding */
    HTTPD_CONNECTIONS_MAX = 512,  /* more wait in the kernel's backlog */
};

struct httpd_text { /* a growing piece of text; zero is empty */
    char *at;
    size_t len, cap;
};

struct httpd_request {
    const char *method, *path, *query; /* query: "" when there is none; all borrowed, zero-terminated */
    const char *head;                  /* request line and headers as they came, zero-terminated */
    const char *body;
    size_t body_len;
};

struct httpd_answer {
    int status;
    struct httpd_text body;
    size_t chunk;       /* > 0: sent chunked, in pieces of this many bytes */
    uint64_t delay_ms;  /* the answer leaves that much later; other connections go on */
    uint64_t work_us;   /* the server is busy with it for that long, and uses no processor: it sleeps, the answer leaves, and the next connection has its turn */
};

typedef void httpd_handler(void *user, const struct httpd_request *request, struct httpd_answer *answer);

/* Appends; out of memory ends the process, as it may in a test's app. */
void httpd_put(struct httpd_text *t, const void *data, size_t len);
void httpd_printf(struct httpd_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The value of `name` in a request's headers, into `value`. False when it is not there or longer than that. */
bool httpd_header(const struct httpd_request *r, const char *name, char *value, size_t size);

/* The value of `name` in the query, percent-decoded, into `value`. False when it is not there or longer than that. */
bool httpd_query(const struct httpd_request *r, const char *name, char *value, size_t size);

/* Serves on "127.0.0.1:PORT" until the process ends. Returns -1, with a text on stderr, only when it cannot listen. */
int httpd_serve(const char *address, httpd_handler *handle, void *user);

#endif
