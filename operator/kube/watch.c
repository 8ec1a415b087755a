#include "operator/kube/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uthash.h>

#include "common/log.h"
#include "operator/kube/watch_core.h"

enum {
    PAGE = 200,
    WATCH_SECONDS = 290,   /* what a watch is asked to last */
    SILENCE_SECONDS = 330, /* longer without a byte, and it is dead: bookmarks come about once a minute */
};

struct entry {
    UT_hash_handle hh;
    yyjson_doc *doc;
    uint64_t round; /* of the list that had it last */
    char key[];     /* "namespace/name" */
};

struct kube_watch {
    uv_loop_t *loop;
    struct kube_client *client;
    char *path, *selector;
    void (*on_change)(void *user, const struct kube_watch *w, yyjson_val *object);
    void *user;
    struct watch_core core;
    struct kube_call *call;
    uv_timer_t timer;
    struct entry *entries;
    uint64_t round;
    bool synced, complained, gone, malformed;
    void (*done)(void *user);
    void *done_user;
};

static void act(struct kube_watch *w, enum watch_do what);

static void step(struct kube_watch *w, struct watch_event event)
{
    if (getrandom(&event.random, sizeof event.random, GRND_NONBLOCK) < 0) event.random = (uint64_t)(uintptr_t)w;
    act(w, watch_step(&w->core, &event));
}

/* ---- the cache ------------------------------------------------------------------------------------------------ */

static const char *meta(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(object, "metadata"), name));
    return text != NULL ? text : "";
}

static struct entry *find(const struct kube_watch *w, const char *space, const char *name)
{
    char key[512];
    struct entry *e = NULL;
    if (snprintf(key, sizeof key, "%s/%s", space, name) < (int)sizeof key) HASH_FIND_STR(w->entries, key, e);
    return e;
}

/* A document of its own for one object, without managedFields (often half of it). */
static yyjson_doc *own(yyjson_val *object)
{
    yyjson_mut_doc *copy = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_val_mut_copy(copy, object);
    yyjson_mut_doc_set_root(copy, root);
    yyjson_mut_obj_remove_key(yyjson_mut_obj_get(root, "metadata"), "managedFields");
    yyjson_doc *doc = root != NULL ? yyjson_mut_doc_imut_copy(copy, NULL) : NULL;
    yyjson_mut_doc_free(copy);
    return doc;
}

static void drop(struct kube_watch *w, struct entry *e)
{
    HASH_DEL(w->entries, e);
    w->on_change(w->user, w, yyjson_doc_get_root(e->doc));
    yyjson_doc_free(e->doc);
    free(e);
}

static bool put(struct kube_watch *w, yyjson_val *object)
{
    const char *name = meta(object, "name"), *space = meta(object, "namespace");
    struct entry *e = find(w, space, name);
    if (name[0] == '\0') return false;
    bool same = e != NULL && strcmp(meta(yyjson_doc_get_root(e->doc), "resourceVersion"), meta(object, "resourceVersion")) == 0;
    if (e != NULL) e->round = w->round;
    if (same) return true;
    yyjson_doc *doc = own(object);
    if (doc == NULL) return false;
    if (e == NULL) {
        size_t len = strlen(space) + strlen(name) + 2;
        if ((e = calloc(1, sizeof *e + len)) == NULL) {
            yyjson_doc_free(doc);
            return false;
        }
        snprintf(e->key, len, "%s/%s", space, name);
        HASH_ADD_STR(w->entries, key, e);
    } else {
        yyjson_doc_free(e->doc);
    }
    e->doc = doc;
    e->round = w->round;
    w->on_change(w->user, w, yyjson_doc_get_root(doc));
    return true;
}

void kube_watch_put(struct kube_watch *w, yyjson_val *object)
{
    const char *name = meta(object, "name");
    struct entry *e = find(w, meta(object, "namespace"), name);
    /* Versions of one object grow; a line of the watch that was on its way may be older, and the next one puts it right. One that is not there though the
     * watch is beyond its version was deleted since: nobody would ever take it away again. */
    const char *known = e != NULL ? meta(yyjson_doc_get_root(e->doc), "resourceVersion") : w->core.version;
    if (strtoull(known, NULL, 10) >= strtoull(meta(object, "resourceVersion"), NULL, 10)) return;
    put(w, object);
}

yyjson_val *kube_watch_get(const struct kube_watch *w, const char *space, const char *name)
{
    struct entry *e = find(w, space, name);
    return e != NULL ? yyjson_doc_get_root(e->doc) : NULL;
}

void kube_watch_each(const struct kube_watch *w, bool (*each)(void *user, yyjson_val *object), void *user)
{
    for (struct entry *e = w->entries; e != NULL; e = e->hh.next)
        if (!each(user, yyjson_doc_get_root(e->doc))) return;
}

size_t kube_watch_count(const struct kube_watch *w)
{
    return HASH_COUNT(w->entries);
}

bool kube_watch_synced(const struct kube_watch *w)
{
    return w->synced;
}

const char *kube_watch_path(const struct kube_watch *w)
{
    return w->path;
}

/* ---- list ----------------------------------------------------------------------------------------------------- */

static void fail(struct kube_watch *w, const struct kube_reply *r)
{
    if (!w->complained) log_warn("a kind of object cannot be followed now", "path=%s reason=%s", w->path, r->error.text);
    w->complained = true;
    step(w, (struct watch_event){.type = WATCH_FAILED, .gone = r->status == -ERROR_SEQUENCE, .retry_ms = r->retry_ms});
}

static void sweep(struct kube_watch *w)
{
    struct entry *e, *next;
    HASH_ITER(hh, w->entries, e, next)
        if (e->round != w->round) drop(w, e);
}

static void on_listed(void *user, struct kube_reply *r)
{
    struct kube_watch *w = user;
    size_t i, max;
    yyjson_val *item, *items = yyjson_obj_get(r->root, "items"), *head = yyjson_obj_get(r->root, "metadata");
    w->call = NULL;
    if (r->status == 0 && (!yyjson_is_arr(items) || !yyjson_is_obj(head)))
        r->status = error_set(&r->error, ERROR_PROTOCOL, "the answer is no list");
    if (r->status != 0) {
        fail(w, r);
        return;
    }
    yyjson_arr_foreach(items, i, max, item) put(w, item);
    const char *next = yyjson_get_str(yyjson_obj_get(head, "continue"));
    if (next == NULL || next[0] == '\0') {
        sweep(w);
        if (!w->synced) log_debug("followed", "path=%s objects=%u", w->path, HASH_COUNT(w->entries));
        w->synced = true;
        w->complained = false;
    }
    step(w, (struct watch_event){.type = WATCH_PAGE, .version = yyjson_get_str(yyjson_obj_get(head, "resourceVersion")), .next = next});
}

/* ---- watch ---------------------------------------------------------------------------------------------------- */

/* Runs inside curl: the core is told, but nothing is begun here (none of these events begins anything). */
static bool on_line(void *user, int code, const char *line, size_t len)
{
    struct kube_watch *w = user;
    (void)code;
    yyjson_doc *doc = yyjson_read(line, len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *type = yyjson_obj_get(root, "type"), *object = yyjson_obj_get(root, "object");
    bool ok = yyjson_is_str(type) && yyjson_is_obj(object);
    if (ok && yyjson_equals_str(type, "ERROR")) {
        w->gone = yyjson_get_int(yyjson_obj_get(object, "code")) == 410;
        ok = false;
    } else if (ok) {
        if (yyjson_equals_str(type, "DELETED")) {
            struct entry *e = find(w, meta(object, "namespace"), meta(object, "name"));
            if (e != NULL) drop(w, e);
        } else if (!yyjson_equals_str(type, "BOOKMARK")) {
            ok = put(w, object);
        }
        const struct watch_event seen = {.type = WATCH_SEEN, .version = meta(object, "resourceVersion")};
        if (ok) watch_step(&w->core, &seen);
    } else {
        w->malformed = true;
    }
    yyjson_doc_free(doc);
    return ok;
}

static void on_watch_end(void *user, struct kube_reply *r)
{
    struct kube_watch *w = user;
    w->call = NULL;
    if (w->malformed) log_warn("a line of a watch is not what an API server says; watching again", "path=%s", w->path);
    if (w->gone) r->status = error_set(&r->error, ERROR_SEQUENCE, "the watch's version is gone");
    bool cut = r->status == -ERROR_UNAVAILABLE && r->code == 0 && !w->malformed;
    w->gone = w->malformed = false;
    if (r->status == 0 || cut)
        step(w, (struct watch_event){.type = WATCH_ENDED});
    else
        fail(w, r);
}

/* ---- what the core wants -------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    step(timer->data, (struct watch_event){.type = WATCH_TIMER});
}

static void escape(const char *text, char *to, size_t cap)
{
    size_t n = 0;
    for (; *text != '\0' && n + 4 < cap; text++) {
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~", *text) != NULL)
            to[n++] = *text;
        else
            n += (size_t)snprintf(to + n, cap - n, "%%%02X", (unsigned char)*text);
    }
    to[n] = '\0';
}

static void begin(struct kube_watch *w, const char *query, bool watch)
{
    char path[4096];
    struct error e;
    struct kube_reply failed = {0};
    const struct kube_request q = {.method = "GET", .path = path, .on_line = watch ? on_line : NULL, .silence_s = watch ? SILENCE_SECONDS : 0};
    snprintf(path, sizeof path, "%s?%s%s%s", w->path, query, w->selector[0] != '\0' ? "&" : "", w->selector);
    failed.status = kube_call(w->client, &q, watch ? on_watch_end : on_listed, w, &w->call, &e);
    if (failed.status == 0) return;
    failed.error = e;
    fail(w, &failed);
}

static void act(struct kube_watch *w, enum watch_do what)
{
    char query[3 * WATCH_CONTINUE_MAX + 256], text[3 * WATCH_CONTINUE_MAX + 1];
    switch (what) {
    case WATCH_DO_NOTHING: break;
    case WATCH_DO_LIST:
        if (w->core.next[0] == '\0') w->round++;
        escape(w->core.next, text, sizeof text);
        snprintf(query, sizeof query, "limit=%d%s%s", PAGE, text[0] != '\0' ? "&continue=" : "", text);
        begin(w, query, false);
        break;
    case WATCH_DO_WATCH:
        escape(w->core.version, text, sizeof text);
        snprintf(query, sizeof query, "watch=true&allowWatchBookmarks=true&timeoutSeconds=%d&resourceVersion=%s", WATCH_SECONDS, text);
        begin(w, query, true);
        break;
    case WATCH_DO_PAUSE: uv_timer_start(&w->timer, on_timer, w->core.pause_ms, 0); break;
    }
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int kube_watch_new(uv_loop_t *loop, struct kube_client *client, const struct kube_watch_options *o, struct kube_watch **ret_watch,
                   struct error *e)
{
    struct kube_watch *w = calloc(1, sizeof *w);
    if (w == NULL || (w->path = strdup(o->path)) == NULL || (w->selector = strdup(o->selector)) == NULL) {
        if (w != NULL) free(w->path);
        free(w);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    w->loop = loop;
    w->client = client;
    w->on_change = o->on_change;
    w->user = o->user;
    watch_core_init(&w->core);
    uv_timer_init(loop, &w->timer);
    w->timer.data = w;
    *ret_watch = w;
    step(w, (struct watch_event){.type = WATCH_START});
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct kube_watch *w = handle->data;
    struct entry *e, *next;
    HASH_ITER(hh, w->entries, e, next) {
        HASH_DEL(w->entries, e);
        yyjson_doc_free(e->doc);
        free(e);
    }
    void (*done)(void *user) = w->done;
    void *user = w->done_user;
    free(w->path);
    free(w->selector);
    free(w);
    if (done != NULL) done(user);
}

void kube_watch_close(struct kube_watch *w, void (*done)(void *user), void *user)
{
    if (w->call != NULL) kube_call_cancel(w->call);
    w->done = done;
    w->done_user = user;
    uv_close((uv_handle_t *)&w->timer, on_closed);
}
