#include "interceptor/admin/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/prom.h"

static void add_app(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct engine_status *s)
{
    yyjson_mut_val *app = yyjson_mut_obj_add_obj(doc, root, "app");
    if (s->identity != NULL)
        yyjson_mut_obj_add_str(doc, app, "identity", s->identity);
    else
        yyjson_mut_obj_add_null(doc, app, "identity");
    yyjson_mut_obj_add_str(doc, app, "upstream", s->upstream);
    yyjson_mut_obj_add_bool(doc, app, "lost", s->app == ORDER_APP_LOST);
    yyjson_mut_obj_add_uint(doc, app, "diverged", s->diverged);
    yyjson_mut_obj_add_uint(doc, app, "agreed", s->agreed);
    yyjson_mut_obj_add_uint(doc, app, "disagreement", s->disagreement);
    yyjson_mut_obj_add_bool(doc, app, "suspect", s->app == ORDER_APP_SUSPECT);
}

static void add_proof(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct proof *p)
{
    yyjson_mut_val *o = p != NULL ? yyjson_mut_obj_add_obj(doc, root, "proof") : NULL;
    if (o == NULL) {
        yyjson_mut_obj_add_null(doc, root, "proof");
        return;
    }
    yyjson_mut_obj_add_str(doc, o, "verdict", proof_verdict_name(p->verdict));
    yyjson_mut_obj_add_str(doc, o, "identity", p->identity);
    yyjson_mut_obj_add_uint(doc, o, "offset", p->offset);
    yyjson_mut_obj_add_uint(doc, o, "outstanding", p->outstanding);
}

static void add_requests(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct engine_status *s)
{
    yyjson_mut_val *r = yyjson_mut_obj_add_obj(doc, root, "requests");
    yyjson_mut_obj_add_uint(doc, r, "acknowledged", s->counters.acknowledged);
    yyjson_mut_obj_add_uint(doc, r, "logged", s->counters.logged);
    yyjson_mut_obj_add_uint(doc, r, "reads", s->counters.reads);
    yyjson_mut_obj_add_uint(doc, r, "held", s->held);
    yyjson_mut_obj_add_uint(doc, r, "rejected", s->counters.rejected);
    yyjson_mut_obj_add_uint(doc, r, "replayed", s->counters.replayed);
    yyjson_mut_obj_add_uint(doc, r, "followed", s->counters.followed);
    yyjson_mut_obj_add_uint(doc, r, "abandoned", s->counters.abandoned);
    yyjson_mut_obj_add_uint(doc, r, "repeated", s->repeated);
    yyjson_mut_obj_add_uint(doc, r, "digests_compared", s->digests_compared);
    yyjson_mut_obj_add_uint(doc, r, "digest_mismatches", s->digest_mismatches);
}

static void add_rest(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct engine_status *s)
{
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(doc, root, "offsets");
    yyjson_mut_obj_add_uint(doc, o, "last", s->last);
    yyjson_mut_obj_add_uint(doc, o, "executed", s->executed);
    o = yyjson_mut_obj_add_obj(doc, root, "replay");
    yyjson_mut_obj_add_uint(doc, o, "from", s->replay_from + 1);
    yyjson_mut_obj_add_uint(doc, o, "to", s->replay_to);
    yyjson_mut_obj_add_uint(doc, o, "done", s->replay.done);
    yyjson_mut_obj_add_uint(doc, o, "total", s->replay.total);
    yyjson_mut_obj_add_uint(doc, o, "per_s", (uint64_t)s->replay.per_s);
    yyjson_mut_obj_add_uint(doc, o, "eta_ms", s->replay.eta_ms);
    if (s->token != NULL) {
        o = yyjson_mut_obj_add_obj(doc, root, "drain");
        yyjson_mut_obj_add_str(doc, o, "token", s->token);
        yyjson_mut_obj_add_uint(doc, o, "offset", s->drain_offset);
        yyjson_mut_obj_add_bool(doc, o, "unbroken", s->unbroken);
    } else {
        yyjson_mut_obj_add_null(doc, root, "drain");
    }
    o = yyjson_mut_obj_add_obj(doc, root, "times");
    yyjson_mut_obj_add_uint(doc, o, "lost_us", s->lost_us);
    yyjson_mut_obj_add_uint(doc, o, "attached_us", s->attached_us);
    yyjson_mut_obj_add_uint(doc, o, "active_us", s->active_us);
}

int status_json(struct buf *out, const struct engine_status *s)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    if (doc == NULL) return -ERROR_NOMEM;
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "instance", s->instance);
    yyjson_mut_obj_add_uint(doc, root, "version", s->version);
    yyjson_mut_obj_add_str(doc, root, "state", order_state_name(s->state));
    yyjson_mut_obj_add_str(doc, root, "replication", s->shared ? "log" : "none");
    yyjson_mut_obj_add_str(doc, root, "role", s->standby ? "standby" : "active");
    yyjson_mut_obj_add_uint(doc, root, "replicas", s->shared ? s->replicas : 0);
    yyjson_mut_obj_add_str(doc, root, "app_version", s->app_version);
    yyjson_mut_obj_add_str(doc, root, "reason", s->reason);
    yyjson_mut_obj_add_str(doc, root, "detail", s->detail);
    yyjson_mut_obj_add_str(doc, root, "stream", s->stream);
    yyjson_mut_obj_add_uint(doc, root, "epoch", s->epoch);
    yyjson_mut_obj_add_bool(doc, root, "fenced", s->fenced);
    yyjson_mut_obj_add_bool(doc, root, "leaving", s->leaving);
    add_app(doc, root, s);
    add_proof(doc, root, s->proof);
    add_requests(doc, root, s);
    add_rest(doc, root, s);
    size_t len;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    int rv = text == NULL ? -ERROR_NOMEM : buf_add(out, text, len);
    if (rv == 0) rv = buf_add(out, "\n", 1);
    free(text);
    yyjson_mut_doc_free(doc);
    return rv;
}

static int refused_metrics(struct buf *out, const uint64_t *refused)
{
    struct prom p = {.out = out};
    char label[24];
    prom_family(&p, "crsc_interceptor_refused_total", "counter", "Answers of the interceptor's own, by status: the app was not asked, or did not answer");
    for (unsigned i = 0; i < ENGINE_STATUSES; i++) {
        if (refused[i] == 0) continue;
        snprintf(label, sizeof label, "status=\"%u\"", 400 + i);
        prom_count(&p, label, refused[i]);
    }
    return p.rv;
}

int status_metrics(struct buf *out, const struct engine_status *s)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } values[] = {
        {"crsc_interceptor_active", "gauge", "1 while requests are served", s->state == ORDER_ACTIVE},
        {"crsc_interceptor_ready", "gauge", "1 while requests can be logged and forwarded", s->ready},
        {"crsc_interceptor_state", "gauge", "0 waiting, 1 active, 2 draining, 3 replaying", s->state},
        {"crsc_interceptor_standby", "gauge", "1 while clients are refused because this replica is a standby", s->standby},
        {"crsc_interceptor_diverged", "gauge", "1 while this replica's app is not like the majority's", s->diverged != 0},
        {"crsc_interceptor_divergences_total", "counter", "Times that this replica's app was found to differ from the majority's", s->divergences},
        {"crsc_interceptor_disagreement", "gauge", "1 while replicas disagree and there is no majority", s->disagreement != 0},
        {"crsc_interceptor_disagreements_total", "counter", "Times that replicas disagreed without a majority", s->disagreements},
        {"crsc_interceptor_app_suspect", "gauge", "1 while the app's state is uncertain", s->app == ORDER_APP_SUSPECT},
        {"crsc_interceptor_epoch", "gauge", "Epoch under which the stream is open", s->epoch},
        {"crsc_interceptor_log_last_offset", "gauge", "Last offset of the stream, as known", s->last},
        {"crsc_interceptor_executed_offset", "gauge", "Offset up to which the app has executed", s->executed},
        {"crsc_interceptor_requests_held", "gauge", "Requests that wait", s->held},
        {"crsc_interceptor_tunnels", "gauge", "Connections that were upgraded and pass unlogged", s->tunnels},
        {"crsc_interceptor_requests_acknowledged_total", "counter", "Logged requests answered",
         s->counters.acknowledged},
        {"crsc_interceptor_requests_logged_total", "counter", "Requests made durable", s->counters.logged},
        {"crsc_interceptor_reads_total", "counter", "Unlogged requests answered", s->counters.reads},
        {"crsc_interceptor_requests_rejected_total", "counter", "Requests answered with 503", s->counters.rejected},
        {"crsc_interceptor_requests_replayed_total", "counter", "Requests given to the app again",
         s->counters.replayed},
        {"crsc_interceptor_requests_followed_total", "counter", "Requests of other replicas' clients given to the app", s->counters.followed},
        {"crsc_interceptor_requests_abandoned_total", "counter", "Requests without an answer, because the attached state contained them",
         s->counters.abandoned},
        {"crsc_interceptor_requests_repeated_total", "counter", "Requests answered from the record of their Idempotency-Key",
         s->repeated},
        {"crsc_interceptor_digests_compared_total", "counter", "Replayed answers compared with the first ones",
         s->digests_compared},
        {"crsc_interceptor_digest_mismatches_total", "counter", "Replayed answers that differed", s->digest_mismatches},
    };
    int rv = 0;
    for (size_t i = 0; i < sizeof values / sizeof *values && rv == 0; i++)
        rv = metrics_value(out, values[i].name, values[i].type, values[i].help, (double)values[i].value);
    if (rv == 0) rv = refused_metrics(out, s->refused);
    if (rv == 0)
        rv = metrics_histogram(out, "crsc_interceptor_append_seconds", "From a request's arrival until it is durable",
                               s->append);
    if (rv == 0)
        rv = metrics_histogram(out, "crsc_interceptor_request_seconds", "From a request's arrival to its answer",
                               s->total);
    return rv;
}
