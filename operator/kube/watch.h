/* All objects of one kind, kept as the API server has them: list in pages, then watch with bookmarks (kube/watch_core.h decides).
 *
 * The cache is what was last heard. An object is kept without its managedFields. After a relist, objects that are not in the new list go
 * as deleted ones. Thread: the loop's. What it shows is borrowed until the loop goes on. */
#ifndef CRSC_OPERATOR_KUBE_WATCH_H
#define CRSC_OPERATOR_KUBE_WATCH_H

#include <stdbool.h>
#include <uv.h>
#include <yyjson.h>

#include "common/error.h"
#include "operator/kube/client.h"

struct kube_watch;

struct kube_watch_options {
    const char *path;     /* "/apis/apps/v1/deployments" */
    const char *selector; /* query to add: "labelSelector=..."; "" for none */
    /* Something of this object changed; it may be gone by now. Calls nothing of the client from inside: set a timer. */
    void (*on_change)(void *user, const struct kube_watch *w, yyjson_val *object);
    void *user;
};

int kube_watch_new(uv_loop_t *loop, struct kube_client *client, const struct kube_watch_options *options, struct kube_watch **ret_watch,
                   struct error *e);
/* `done` from the loop; it is gone by then. Before the client is closed. */
void kube_watch_close(struct kube_watch *w, void (*done)(void *user), void *user);

bool kube_watch_synced(const struct kube_watch *w); /* a whole list came once */
const char *kube_watch_path(const struct kube_watch *w);
yyjson_val *kube_watch_get(const struct kube_watch *w, const char *space, const char *name); /* NULL; `space` "" for cluster-wide kinds */
/* Calls `each` for all, in no order, until it says false. It may not change the cache. */
void kube_watch_each(const struct kube_watch *w, bool (*each)(void *user, yyjson_val *object), void *user);
size_t kube_watch_count(const struct kube_watch *w);
/* An answer to a write of ours has a newer object than the watch: take it, so that the next look sees what was done. */
void kube_watch_put(struct kube_watch *w, yyjson_val *object);

#endif
