/* One request to the Kubernetes API server and its answer, read as JSON and with its refusals told apart.
 *
 * Asynchronous, over common/http_client.h. A 401 is tried once more with the token read anew. Nothing else is repeated here: who asks
 * knows whether it is safe (kube/queue.h says when). Answers are bounded (KUBE_ANSWER_MAX).
 * Thread: the loop's. A call calls back once, from the loop (or kube_client_close()), unless it is canceled. Strings are copied. */
#ifndef CRSC_OPERATOR_KUBE_CLIENT_H
#define CRSC_OPERATOR_KUBE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include <yyjson.h>

#include "common/error.h"
#include "operator/kube/config.h"

enum {
    KUBE_ANSWER_MAX = 32 << 20, /* a page of a list is asked for in 200 objects, of at most about 1.5 MiB each, mostly of 10 KiB */
    KUBE_LINE_MAX = 4 << 20,    /* one event of a watch; etcd takes no object over 1.5 MiB */
    KUBE_CALL_MS = 20000,
};

#define KUBE_APPLY "application/apply-patch+yaml" /* server-side apply; JSON is YAML */
#define KUBE_MERGE "application/merge-patch+json"
#define KUBE_JSON_PATCH "application/json-patch+json"
#define KUBE_FIELD_MANAGER "crsc-operator"

struct kube_client;
struct kube_call;

struct kube_reply {
    int status;         /* 0: 2xx; -ERROR_NOT_FOUND 404; -ERROR_CONFLICT 409 (an old resource version); -ERROR_EXISTS 409 AlreadyExists;
                           -ERROR_SEQUENCE 410 (that version is gone: list again); -ERROR_BUSY 429; -ERROR_INVALID 400, 401, 403, 422;
                           -ERROR_UNAVAILABLE, -ERROR_TIMEOUT: no answer or 5xx: the outcome is unknown; -ERROR_PROTOCOL: not JSON */
    struct error error; /* with what the server said */
    int code;           /* of HTTP; 0: no answer */
    uint64_t retry_ms;  /* the server asked for this pause; 0: it did not */
    yyjson_doc *doc;    /* NULL without an answer in JSON; until the callback returns, unless it takes it (sets it to NULL) */
    yyjson_val *root;
};
typedef void kube_cb(void *user, struct kube_reply *reply);

struct kube_request {
    const char *method;
    const char *path;         /* "/api/v1/namespaces/x/pods?..." */
    const char *body;         /* NULL: none */
    const char *content_type; /* NULL: application/json */
    uint32_t timeout_ms;      /* 0: KUBE_CALL_MS */
    /* a watch: each line is handed over as it comes (zero-terminated, without the newline); false ends it */
    bool (*on_line)(void *user, int code, const char *line, size_t len);
    uint32_t silence_s;
};

/* `config` is borrowed, and changed when its token is read again. */
int kube_client_new(uv_loop_t *loop, struct kube_config *config, struct kube_client **ret_client, struct error *e);
int kube_call(struct kube_client *c, const struct kube_request *request, kube_cb *cb, void *user, struct kube_call **ret_call, struct error *e);
void kube_call_cancel(struct kube_call *call);
/* Calls under way call back with -ERROR_CANCELED before this returns; none begins any more. `done` (may be NULL) from the loop; the client is gone by then. */
void kube_client_close(struct kube_client *c, void (*done)(void *user), void *user);

#endif
