#include "operator/kube/elector.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/lease.h"

struct elector {
    struct kube_client *client;
    char space[128], name[128];
    struct lease lease;
    uv_timer_t timer;
    struct kube_call *call;
    uint64_t begun_ms, transitions;
    bool told; /* what on_change said last */
    void (*on_change)(void *user, bool leads);
    void *user;
    void (*done)(void *user);
    void *done_user;
};

static uint64_t now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

static void tell(struct elector *el)
{
    bool leads = lease_leads(&el->lease, now_ms());
    if (leads == el->told) return;
    el->told = leads;
    log_info(leads ? "leading" : "not leading any more", "lease=%s/%s self=%s", el->space, el->name, el->lease.self);
    el->on_change(el->user, leads);
}

static void on_timer(uv_timer_t *timer);

static void again(struct elector *el)
{
    tell(el);
    uv_timer_start(&el->timer, on_timer, LEASE_RETRY_MS, 0);
}

/* MicroTime of metav1. */
static void stamp(char *to, size_t cap)
{
    uint64_t us = loop_wall_us();
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    char day[40];
    gmtime_r(&s, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(to, cap, "%s.%06uZ", day, (unsigned)(us % 1000000));
}

static void on_written(void *user, struct kube_reply *r)
{
    struct elector *el = user;
    const char *version = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(r->root, "metadata"), "resourceVersion"));
    el->call = NULL;
    if (r->status != 0 && r->status != -ERROR_CONFLICT && r->status != -ERROR_EXISTS)
        log_warn("the lease cannot be written", "reason=%s", r->error.text);
    lease_written(&el->lease, r->status == 0 && version != NULL, version, el->begun_ms);
    again(el);
}

static void write_lease(struct elector *el, enum lease_do what, const char *holder, kube_cb *cb)
{
    char path[400], body[1200], when[48], version[160] = "", acquired[96] = "";
    struct error e;
    bool create = what == LEASE_CREATE;
    stamp(when, sizeof when);
    if (!create) snprintf(version, sizeof version, ",\"resourceVersion\":\"%s\"", el->lease.seen.version);
    if (what != LEASE_RENEW) snprintf(acquired, sizeof acquired, ",\"acquireTime\":\"%s\"", when);
    if (what == LEASE_TAKE) el->transitions++;
    snprintf(path, sizeof path, "/apis/coordination.k8s.io/v1/namespaces/%s/leases%s%s", el->space, create ? "" : "/", create ? "" : el->name);
    snprintf(body, sizeof body,
             "{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\"metadata\":{\"name\":\"%s\",\"namespace\":\"%s\"%s},"
             "\"spec\":{\"holderIdentity\":\"%s\",\"leaseDurationSeconds\":%d,\"renewTime\":\"%s\"%s,\"leaseTransitions\":%llu}}",
             el->name, el->space, version, holder, LEASE_DURATION_MS / 1000, when, acquired, (unsigned long long)el->transitions);
    const struct kube_request q = {.method = create ? "POST" : "PATCH", .path = path, .body = body,
                                   .content_type = create ? NULL : KUBE_MERGE, .timeout_ms = 5000};
    el->begun_ms = now_ms();
    if (kube_call(el->client, &q, cb, el, &el->call, &e) != 0) {
        el->call = NULL;
        again(el);
    }
}

static void copy(char *to, size_t cap, yyjson_val *v)
{
    snprintf(to, cap, "%s", yyjson_is_str(v) ? yyjson_get_str(v) : "");
}

static void on_read(void *user, struct kube_reply *r)
{
    struct elector *el = user;
    struct lease_view view = {.exists = r->status == 0};
    el->call = NULL;
    if (r->status != 0 && r->status != -ERROR_NOT_FOUND) {
        log_warn("the lease cannot be read", "reason=%s", r->error.text);
        again(el);
        return;
    }
    yyjson_val *spec = yyjson_obj_get(r->root, "spec");
    copy(view.holder, sizeof view.holder, yyjson_obj_get(spec, "holderIdentity"));
    copy(view.version, sizeof view.version, yyjson_obj_get(yyjson_obj_get(r->root, "metadata"), "resourceVersion"));
    view.duration_ms = yyjson_get_uint(yyjson_obj_get(spec, "leaseDurationSeconds")) * 1000;
    el->transitions = yyjson_get_uint(yyjson_obj_get(spec, "leaseTransitions"));
    enum lease_do what = lease_seen(&el->lease, &view, now_ms());
    if (what == LEASE_WAIT)
        again(el);
    else
        write_lease(el, what, el->lease.self, on_written);
}

static void on_timer(uv_timer_t *timer)
{
    struct elector *el = timer->data;
    char path[400];
    struct error e;
    const struct kube_request q = {.method = "GET", .path = path, .timeout_ms = 5000};
    snprintf(path, sizeof path, "/apis/coordination.k8s.io/v1/namespaces/%s/leases/%s", el->space, el->name);
    tell(el); /* the last renewal may have run out meanwhile */
    if (kube_call(el->client, &q, on_read, el, &el->call, &e) != 0) {
        el->call = NULL;
        again(el);
    }
}

int elector_new(uv_loop_t *loop, struct kube_client *client, const char *space, const char *name, const char *self,
                void (*on_change)(void *user, bool leads), void *user, struct elector **ret_elector, struct error *e)
{
    struct elector *el = calloc(1, sizeof *el);
    if (el == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    el->client = client;
    el->on_change = on_change;
    el->user = user;
    snprintf(el->space, sizeof el->space, "%s", space);
    snprintf(el->name, sizeof el->name, "%s", name);
    lease_init(&el->lease, self);
    uv_timer_init(loop, &el->timer);
    el->timer.data = el;
    uv_timer_start(&el->timer, on_timer, 0, 0);
    *ret_elector = el;
    return 0;
}

bool elector_leads(struct elector *el)
{
    return lease_leads(&el->lease, now_ms());
}

static void on_closed(uv_handle_t *handle)
{
    struct elector *el = handle->data;
    void (*done)(void *user) = el->done;
    void *user = el->done_user;
    free(el);
    if (done != NULL) done(user);
}

static void on_released(void *user, struct kube_reply *r)
{
    struct elector *el = user;
    (void)r; /* the lease runs out by itself */
    el->call = NULL;
    uv_close((uv_handle_t *)&el->timer, on_closed);
}

static void on_failed_release(struct elector *el)
{
    if (el->call == NULL) uv_close((uv_handle_t *)&el->timer, on_closed);
}

void elector_close(struct elector *el, void (*done)(void *user), void *user)
{
    char path[400], body[400];
    struct error e;
    const struct kube_request q = {.method = "PATCH", .path = path, .body = body, .content_type = KUBE_MERGE, .timeout_ms = 2000};
    bool held = elector_leads(el);
    el->lease.leads = false; /* while it is being given back, too */
    el->done = done;
    el->done_user = user;
    if (el->call != NULL) kube_call_cancel(el->call);
    el->call = NULL;
    uv_timer_stop(&el->timer);
    snprintf(path, sizeof path, "/apis/coordination.k8s.io/v1/namespaces/%s/leases/%s", el->space, el->name);
    snprintf(body, sizeof body, "{\"metadata\":{\"resourceVersion\":\"%s\"},\"spec\":{\"holderIdentity\":\"\"}}", el->lease.seen.version);
    if (held && kube_call(el->client, &q, on_released, el, &el->call, &e) != 0) el->call = NULL;
    on_failed_release(el);
}
