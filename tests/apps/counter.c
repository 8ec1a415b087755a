/* counter: an HTTP app that keeps all its state in memory and can say exactly what it was given, in which order.
 *
 *   POST /add?id=X        (or the id as the body) appends X to the list, answers {"n":COUNT,"id":"X"}
 *   GET  /list            the list, an id per line; GET /count: how many; GET /last: the last id
 *   GET  /replays         how many requests said `Crsc-Replay`
 *   POST /slow?ms=N&id=X  as /add, but its answer leaves N ms later
 *   POST /of/KEY?id=X     appends KEY.X, answers its position among those of KEY: {"n":COUNT,"id":"KEY.X"}; with &ms=N as /slow
 *   POST /crash           ends the process at once, with no answer
 *   POST /save?file=PATH  writes the list to a file: a "checkpoint" for tests that have no CRIU; --restore PATH takes it back
 *   POST /random          answers something else each time (an app that is not deterministic)
 *   GET  /blob?bytes=N    N bytes (up to 64 MiB); GET /chunked?n=N: N chunks of a line each; GET /slow?ms=N
 *   POST /echo            answers the request's body; GET /head: the request's line and headers as they came
 *
 * Options: --listen 127.0.0.1:PORT, --restore FILE, --version WORD (answers to /add say "version":"WORD", as a newer version of an app might), --work-us W (each request, read or
 * write, takes W microseconds in which nothing else is done, and no processor is used: an app that is itself the limit), --ballast-mb N (N MB of
 * memory, every page different: a state of that size). Linked statically, so that it runs in an empty container. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/apps/httpd.h"

enum { ID_MAX = 256, BLOB_MAX = 64 << 20, CHUNK_LINE = 32 };

struct counter {
    struct httpd_text list; /* an id per line */
    char last[ID_MAX];
    uint64_t count, replays;
    const char *version; /* NULL: answers do not say */
    uint64_t work_us;    /* each request takes */
};

static uint64_t number(const struct httpd_request *r, const char *name, uint64_t most)
{
    char text[24];
    uint64_t n = httpd_query(r, name, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
    return n < most ? n : most;
}

static bool plain(const char *id)
{
    if (*id == '\0') return false;
    for (; *id != '\0'; id++)
        if (*id <= ' ' || *id == '"' || *id == '\\' || *id == 0x7f) return false;
    return true;
}

static void append(struct counter *c, const char *id)
{
    httpd_put(&c->list, id, strlen(id));
    httpd_put(&c->list, "\n", 1);
    strcpy(c->last, id);
    c->count++;
}

static void add(struct counter *c, const struct httpd_request *r, struct httpd_answer *a)
{
    char id[ID_MAX] = "";
    if (!httpd_query(r, "id", id, sizeof id) && r->body_len < sizeof id) {
        memcpy(id, r->body, r->body_len);
        id[r->body_len] = '\0';
    }
    if (!plain(id)) {
        a->status = 400;
        httpd_printf(&a->body, "an id has 1 to %d characters and no space, quote or backslash\n", ID_MAX - 1);
        return;
    }
    append(c, id);
    httpd_printf(&a->body, "{\"n\":%" PRIu64 ",\"id\":\"%s\"", c->count, id);
    if (c->version != NULL) httpd_printf(&a->body, ",\"version\":\"%s\"", c->version);
    httpd_put(&a->body, "}", 1);
}

static void add_of(struct counter *c, const struct httpd_request *r, struct httpd_answer *a)
{
    char id[ID_MAX] = "", whole[2 * ID_MAX];
    const char *key = r->path + strlen("/of/");
    size_t len = strlen(key);
    uint64_t n = 1;
    if (!httpd_query(r, "id", id, sizeof id) || !plain(id) || !plain(key) || strchr(key, '.') != NULL || len + strlen(id) + 2 > ID_MAX) {
        a->status = 400;
        return;
    }
    snprintf(whole, sizeof whole, "%s.%s", key, id);
    for (const char *at = c->list.at, *end = at + c->list.len; at != NULL && at < end; at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1)
        n += strncmp(at, whole, len + 1) == 0;
    append(c, whole);
    httpd_printf(&a->body, "{\"n\":%" PRIu64 ",\"id\":\"%s\"}", n, whole);
    a->delay_ms = number(r, "ms", 60000);
}

static void save(struct counter *c, const struct httpd_request *r, struct httpd_answer *a)
{
    char path[1024];
    FILE *out = httpd_query(r, "file", path, sizeof path) ? fopen(path, "w") : NULL;
    bool written = out != NULL && fwrite(c->list.at != NULL ? c->list.at : "", 1, c->list.len, out) == c->list.len;
    if (out != NULL && fclose(out) != 0) written = false;
    if (!written) a->status = 400;
    httpd_printf(&a->body, "{\"saved\":%" PRIu64 "}", written ? c->count : 0);
}

static int restore(struct counter *c, const char *path)
{
    char line[ID_MAX + 1];
    FILE *in = fopen(path, "r");
    if (in == NULL) {
        perror(path);
        return -1;
    }
    while (fgets(line, sizeof line, in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        append(c, line);
    }
    fclose(in);
    return 0;
}

static void fill(struct httpd_text *t, size_t bytes)
{
    char line[CHUNK_LINE + 1];
    for (size_t at = 0; at < bytes; at += CHUNK_LINE) {
        snprintf(line, sizeof line, "%031zu\n", at / CHUNK_LINE);
        httpd_put(t, line, bytes - at < CHUNK_LINE ? bytes - at : CHUNK_LINE);
    }
}

static int load(size_t mb)
{
    size_t words = mb * ((1 << 20) / sizeof(uint64_t));
    uint64_t *ballast = malloc(words * sizeof *ballast), x = 88172645463325252;
    if (ballast == NULL) return -1;
    for (size_t i = 0; i < words; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ballast[i] = x;
    }
    __asm__ volatile("" : : "r"(ballast) : "memory"); /* it is the state of somebody who reads it later, for all that the compiler knows */
    return 0;
}

static void handle_get(struct counter *c, const struct httpd_request *r, struct httpd_answer *a)
{
    if (strcmp(r->path, "/list") == 0) {
        httpd_put(&a->body, c->list.at, c->list.len);
    } else if (strcmp(r->path, "/count") == 0) {
        httpd_printf(&a->body, "{\"count\":%" PRIu64 "}", c->count);
    } else if (strcmp(r->path, "/last") == 0) {
        httpd_printf(&a->body, "%s\n", c->last);
    } else if (strcmp(r->path, "/replays") == 0) {
        httpd_printf(&a->body, "{\"replays\":%" PRIu64 "}", c->replays);
    } else if (strcmp(r->path, "/blob") == 0) {
        fill(&a->body, number(r, "bytes", BLOB_MAX));
    } else if (strcmp(r->path, "/chunked") == 0) {
        fill(&a->body, number(r, "n", BLOB_MAX / CHUNK_LINE) * CHUNK_LINE);
        a->chunk = CHUNK_LINE;
    } else if (strcmp(r->path, "/slow") == 0) {
        a->delay_ms = number(r, "ms", 60000);
    } else if (strcmp(r->path, "/head") == 0) {
        httpd_put(&a->body, r->head, strlen(r->head));
    } else if (strcmp(r->path, "/") == 0) {
        httpd_printf(&a->body, "counter\n");
    } else {
        a->status = 404;
    }
}

static void handle_post(struct counter *c, const struct httpd_request *r, struct httpd_answer *a)
{
    if (strcmp(r->path, "/add") == 0) {
        add(c, r, a);
    } else if (strncmp(r->path, "/of/", 4) == 0) {
        add_of(c, r, a);
    } else if (strcmp(r->path, "/slow") == 0) {
        add(c, r, a);
        a->delay_ms = number(r, "ms", 60000);
    } else if (strcmp(r->path, "/crash") == 0) {
        _exit(1);
    } else if (strcmp(r->path, "/save") == 0) {
        save(c, r, a);
    } else if (strcmp(r->path, "/random") == 0) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        httpd_printf(&a->body, "%ld.%09ld\n", t.tv_sec, t.tv_nsec);
    } else if (strcmp(r->path, "/echo") == 0) {
        httpd_put(&a->body, r->body, r->body_len);
    } else {
        a->status = 404;
    }
}

static void handle(void *user, const struct httpd_request *r, struct httpd_answer *a)
{
    struct counter *c = user;
    char value[64];
    a->work_us = c->work_us;
    if (httpd_header(r, "Crsc-Replay", value, sizeof value)) c->replays++;
    if (strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0) {
        handle_get(c, r, a);
    } else if (strcmp(r->method, "POST") == 0 || strcmp(r->method, "PUT") == 0) {
        handle_post(c, r, a);
    } else {
        a->status = 404;
    }
}

int main(int argc, char **argv)
{
    static struct counter counter;
    const char *listen = "127.0.0.1:8080";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0) {
            listen = argv[i + 1];
        } else if (strcmp(argv[i], "--version") == 0) {
            counter.version = argv[i + 1];
        } else if (strcmp(argv[i], "--ballast-mb") == 0) {
            if (load(strtoull(argv[i + 1], NULL, 10)) != 0) return 1;
        } else if (strcmp(argv[i], "--work-us") == 0) {
            counter.work_us = strtoull(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--restore") != 0) {
            fprintf(stderr, "counter: unknown option %s\n", argv[i]);
            return 2;
        } else if (restore(&counter, argv[i + 1]) != 0) {
            return 1;
        }
    }
    return httpd_serve(listen, handle, &counter) == 0 ? 0 : 1;
}
