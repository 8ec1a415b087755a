/* store: registers and queues in memory, for tests whose checker knows what those are (tests/chaos/linearizable/store).
 *
 *   GET  /reg/KEY                   {"value":V}; 0: never written
 *   POST /reg/KEY?id=I&to=V         writes: {"value":V}
 *   POST /reg/KEY?id=I&from=U&to=V  compare and swap: {"swapped":true,"value":V}, or {"swapped":false,"value":W} with what is there
 *   GET  /queue/KEY                 its length and its front (0: empty): {"length":N,"value":V}
 *   POST /queue/KEY?id=I&push=V     {"length":N}, this one included
 *   POST /queue/KEY/pop?id=I        {"value":V}, of the front; 0: empty
 *   GET  /journal                   the id of every request that changes something or might, a line each, in the order of execution
 *   GET  /all                       the whole state, as text: equal for equal histories
 *   POST /save?file=PATH            writes that to a file: a "checkpoint"; --restore PATH takes it back
 *
 * Keys are words of letters, digits and '-'; values are numbers above 0. The answers depend on nothing but the requests and their order.
 * Options: --listen IPV4:PORT, --restore FILE. Linked statically, as the counter. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/apps/httpd.h"

enum { KEY_MAX = 32, ID_MAX = 64 };

/* A register or a queue: linked, in the order of their first use. */
struct thing {
    struct thing *next;
    char key[KEY_MAX];
    uint64_t value;           /* of a register */
    uint64_t *items;          /* of a queue: those popped stay in front */
    size_t begin, end, space; /* in items */
};

struct store {
    struct thing *registers, *queues;
    struct httpd_text journal; /* an id per line */
};

/* NULL: not there. A read makes nothing: it is not in the log, and other replicas never hear of it. */
static const struct thing *look(const struct thing *list, const char *key)
{
    while (list != NULL && strcmp(list->key, key) != 0) list = list->next;
    return list;
}

static struct thing *find(struct thing **list, const char *key)
{
    for (; *list != NULL; list = &(*list)->next)
        if (strcmp((*list)->key, key) == 0) return *list;
    *list = calloc(1, sizeof **list);
    if (*list == NULL) abort();
    strcpy((*list)->key, key);
    return *list;
}

static void push(struct thing *queue, uint64_t value)
{
    if (queue->end == queue->space) {
        queue->space = queue->space > 0 ? 2 * queue->space : 16;
        queue->items = realloc(queue->items, queue->space * sizeof *queue->items);
        if (queue->items == NULL) abort();
    }
    queue->items[queue->end++] = value;
}

static uint64_t front(const struct thing *queue)
{
    return queue->begin < queue->end ? queue->items[queue->begin] : 0;
}

static void note(struct store *s, const char *id)
{
    httpd_put(&s->journal, id, strlen(id));
    httpd_put(&s->journal, "\n", 1);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* The key behind `prefix`, up to the end of the path or `suffix`. */
static bool key_of(const char *path, const char *prefix, const char *suffix, char key[static KEY_MAX])
{
    size_t skip = strlen(prefix), len = strlen(path), cut = strlen(suffix);
    if (len <= skip + cut || strncmp(path, prefix, skip) != 0 || strcmp(path + len - cut, suffix) != 0) return false;
    len -= skip + cut;
    if (len >= KEY_MAX) return false;
    memcpy(key, path + skip, len);
    key[len] = '\0';
    for (const char *c = key; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && *c != '-') return false;
    return true;
}

static uint64_t number(const struct httpd_request *r, const char *name)
{
    char text[24];
    return httpd_query(r, name, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

static void write_register(struct thing *reg, const struct httpd_request *r, struct httpd_answer *a)
{
    uint64_t to = number(r, "to");
    char from[24];
    if (!httpd_query(r, "from", from, sizeof from)) {
        reg->value = to;
        httpd_printf(&a->body, "{\"value\":%" PRIu64 "}", to);
        return;
    }
    bool swapped = reg->value == strtoull(from, NULL, 10);
    if (swapped) reg->value = to;
    httpd_printf(&a->body, "{\"swapped\":%s,\"value\":%" PRIu64 "}", swapped ? "true" : "false", reg->value);
}

static void print_all(const struct store *s, struct httpd_text *out)
{
    for (const struct thing *t = s->registers; t != NULL; t = t->next) httpd_printf(out, "reg %s %" PRIu64 "\n", t->key, t->value);
    for (const struct thing *t = s->queues; t != NULL; t = t->next) {
        httpd_printf(out, "queue %s 0\n", t->key);
        for (size_t i = t->begin; i < t->end; i++) httpd_printf(out, "item %s %" PRIu64 "\n", t->key, t->items[i]);
    }
    for (const char *at = s->journal.at, *end; at != NULL && (end = strchr(at, '\n')) != NULL; at = end + 1)
        httpd_printf(out, "did %.*s 0\n", (int)(end - at), at);
}

static void save(const struct store *s, const struct httpd_request *r, struct httpd_answer *a)
{
    char path[1024];
    struct httpd_text text = {0};
    FILE *out = httpd_query(r, "file", path, sizeof path) ? fopen(path, "w") : NULL;
    print_all(s, &text);
    bool written = out != NULL && fwrite(text.len > 0 ? text.at : "", 1, text.len, out) == text.len;
    if (out != NULL && fclose(out) != 0) written = false;
    if (!written) a->status = 400;
    free(text.at);
}

static void handle_get(struct store *s, const struct httpd_request *r, struct httpd_answer *a)
{
    char key[KEY_MAX];
    if (key_of(r->path, "/reg/", "", key)) {
        const struct thing *reg = look(s->registers, key);
        httpd_printf(&a->body, "{\"value\":%" PRIu64 "}", reg != NULL ? reg->value : 0);
    } else if (key_of(r->path, "/queue/", "", key)) {
        const struct thing *queue = look(s->queues, key);
        httpd_printf(&a->body, "{\"length\":%zu,\"value\":%" PRIu64 "}", queue != NULL ? queue->end - queue->begin : 0, queue != NULL ? front(queue) : 0);
    } else if (strcmp(r->path, "/journal") == 0) {
        httpd_put(&a->body, s->journal.at, s->journal.len);
    } else if (strcmp(r->path, "/all") == 0) {
        print_all(s, &a->body);
    } else {
        a->status = 404;
    }
}

static void handle_post(struct store *s, const struct httpd_request *r, struct httpd_answer *a)
{
    char key[KEY_MAX], id[ID_MAX];
    if (strcmp(r->path, "/save") == 0) {
        save(s, r, a);
        return;
    }
    if (!httpd_query(r, "id", id, sizeof id) || id[0] == '\0') {
        a->status = 400;
        return;
    }
    uint64_t value = number(r, "push");
    if (number(r, "to") > 0 && key_of(r->path, "/reg/", "", key)) {
        write_register(find(&s->registers, key), r, a);
    } else if (key_of(r->path, "/queue/", "/pop", key)) {
        struct thing *queue = find(&s->queues, key);
        httpd_printf(&a->body, "{\"value\":%" PRIu64 "}", front(queue));
        if (queue->begin < queue->end) queue->begin++;
    } else if (value > 0 && key_of(r->path, "/queue/", "", key)) {
        struct thing *queue = find(&s->queues, key);
        push(queue, value);
        httpd_printf(&a->body, "{\"length\":%zu}", queue->end - queue->begin);
    } else {
        a->status = 404;
        return;
    }
    note(s, id);
}

static void handle(void *user, const struct httpd_request *r, struct httpd_answer *a)
{
    if (strcmp(r->method, "GET") == 0) handle_get(user, r, a);
    else if (strcmp(r->method, "POST") == 0) handle_post(user, r, a);
    else a->status = 404;
}

static int restore(struct store *s, const char *path)
{
    char what[8], name[ID_MAX];
    uint64_t value;
    FILE *in = fopen(path, "r");
    if (in == NULL) {
        perror(path);
        return -1;
    }
    while (fscanf(in, "%7s %63s %" SCNu64, what, name, &value) == 3) {
        if (strcmp(what, "did") == 0) note(s, name);
        if (strlen(name) >= KEY_MAX) continue;
        if (strcmp(what, "reg") == 0) find(&s->registers, name)->value = value;
        if (strcmp(what, "queue") == 0) find(&s->queues, name);
        if (strcmp(what, "item") == 0) push(find(&s->queues, name), value);
    }
    fclose(in);
    return 0;
}

int main(int argc, char **argv)
{
    static struct store store;
    const char *listen = "127.0.0.1:8080";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0) {
            listen = argv[i + 1];
        } else if (strcmp(argv[i], "--restore") != 0) {
            fprintf(stderr, "store: unknown option %s\n", argv[i]);
            return 2;
        } else if (restore(&store, argv[i + 1]) != 0) {
            return 1;
        }
    }
    return httpd_serve(listen, handle, &store) == 0 ? 0 : 1;
}
