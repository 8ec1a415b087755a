#include "operator/monitor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http_listener.h"
#include "common/loop.h"
#include "common/prom.h"
#include "operator/workload_internal.h"

struct monitor {
    struct http_listener *listener;
    struct workload *const *workloads;
    size_t n;
    uint64_t started_us;
    bool closing;
    void (*done)(void *user);
    void *user;
};

enum { LABELS_MAX = 2048 };

static const char *labels_of(const struct workload *w, char labels[LABELS_MAX])
{
    char stream[1024];
    snprintf(labels, LABELS_MAX, "workload=\"%s\",stream=\"%s\"", w->name, prom_label(w->parts.words->stream, stream, sizeof stream));
    return labels;
}

/* ---- what each workload says ---------------------------------------------------------------------------------- */

static double serving(const struct workload *w)
{
    return w->served;
}

static double standby(const struct workload *w)
{
    return interceptor_client_world(w->interceptor)->standby;
}

static double disagreement(const struct workload *w)
{
    return interceptor_client_world(w->interceptor)->disagreement != 0;
}

static double recoveries(const struct workload *w)
{
    return (double)w->counts.recoveries;
}

static double promotions(const struct workload *w)
{
    return (double)w->counts.promotions;
}

static double rounds(const struct workload *w)
{
    return (double)w->counts.rounds;
}

static double round_bytes(const struct workload *w)
{
    return (double)w->counts.round_bytes;
}

static void add_times(struct prom *p, const struct monitor *m)
{
    static const char *const phases[WORKLOAD_TIMES] = {"reaction", "repair", "recovery", "outage"};
    char labels[LABELS_MAX], text[LABELS_MAX + 32];
    for (int last = 0; last < 2; last++) {
        prom_family(p, last ? "crsc_operator_recovery_last_seconds" : "crsc_operator_recovery_seconds_total", last ? "gauge" : "counter",
                    last ? "Times of the last recovery, by phase" : "Times of all recoveries together, by phase");
        for (size_t i = 0; i < m->n; i++)
            for (int k = 0; k < WORKLOAD_TIMES; k++) {
                const struct workload_counts *c = &m->workloads[i]->counts;
                snprintf(text, sizeof text, "%s,phase=\"%s\"", labels_of(m->workloads[i], labels), phases[k]);
                prom_value(p, text, (double)(last ? c->last_us[k] : c->sum_us[k]) / 1e6);
            }
    }
}

static void add_checkpoints(struct prom *p, const struct monitor *m)
{
    char labels[LABELS_MAX], text[LABELS_MAX + 32];
    prom_family(p, "crsc_operator_checkpoints_total", "counter", "Checkpoints taken, by what became of them");
    for (size_t i = 0; i < m->n; i++)
        for (int failed = 0; failed < 2; failed++) {
            const struct workload_counts *c = &m->workloads[i]->counts;
            snprintf(text, sizeof text, "%s,result=\"%s\"", labels_of(m->workloads[i], labels), failed ? "failed" : "valid");
            prom_count(p, text, failed ? c->failed : c->valid);
        }
}

static void add_workloads(struct prom *p, const struct monitor *m)
{
    static const struct {
        const char *name, *type, *help;
        double (*value)(const struct workload *w);
    } families[] = {
        {"crsc_operator_serving", "gauge", "1 while it takes clients and its app answers", serving},
        {"crsc_operator_standby", "gauge", "1 while its clients are refused, as a standby's", standby},
        {"crsc_operator_disagreement", "gauge", "1 while replicas disagree and there is no majority", disagreement},
        {"crsc_operator_recoveries_total", "counter", "Times that its app was lost and came back", recoveries},
        {"crsc_operator_promotions_total", "counter", "Times that it was a standby and had to serve", promotions},
        {"crsc_operator_precopy_rounds_total", "counter", "Times that its memory was copied ahead of a checkpoint, while it served", rounds},
        {"crsc_operator_precopy_bytes_total", "counter", "Memory copied ahead of checkpoints", round_bytes},
    };
    char labels[LABELS_MAX];
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        prom_family(p, families[k].name, families[k].type, families[k].help);
        for (size_t i = 0; i < m->n; i++) prom_value(p, labels_of(m->workloads[i], labels), families[k].value(m->workloads[i]));
    }
    add_checkpoints(p, m);
    add_times(p, m);
}

/* ---- what each stream says ------------------------------------------------------------------------------------ */

static void add_streams(struct prom *p, const struct monitor *m)
{
    static const struct {
        const char *name, *type, *help;
    } families[] = {
        {"crsc_operator_availability", "gauge", "Part of the time since its first service in which the stream was served"},
        {"crsc_operator_outages_total", "counter", "Times that no replica served"},
        {"crsc_operator_outage_seconds_total", "counter", "Time in which no replica served, since the first service"},
    };
    char stream[1024], labels[LABELS_MAX];
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        prom_family(p, families[k].name, families[k].type, families[k].help);
        for (size_t i = 0; i < m->n; i++) {
            struct replicas_account account;
            if (!replicas_is_first(m->workloads[i])) continue;
            replicas_account(m->workloads[i]->replicas, 0, &account);
            snprintf(labels, sizeof labels, "stream=\"%s\"", prom_label(m->workloads[i]->parts.words->stream, stream, sizeof stream));
            prom_value(p, labels, k == 0 ? account.availability : k == 1 ? (double)account.outages : (double)account.down_us / 1e6);
        }
    }
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

static void reply_metrics(struct monitor *m, struct http_exchange *x)
{
    struct buf text = BUF_INIT;
    struct prom p = {.out = &text};
    add_streams(&p, m);
    add_workloads(&p, m);
    prom_process(&p, m->started_us);
    if (p.rv == 0) http_exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.len);
    else http_exchange_reply(x, 500, "text/plain", "no memory\n", 10);
    buf_fini(&text);
}

static void on_request(void *user, struct http_exchange *x, const char *target)
{
    struct monitor *m = user;
    size_t len = strcspn(target, "?");
    if (m->closing) http_exchange_reply(x, 503, "text/plain", "stopping\n", 9);
    else if (len == 8 && memcmp(target, "/metrics", len) == 0) reply_metrics(m, x);
    else if (len == 8 && memcmp(target, "/healthz", len) == 0) http_exchange_reply(x, 200, "text/plain", "ok\n", 3);
    else http_exchange_reply(x, 404, "text/plain", "/metrics, /healthz\n", 19);
}

int monitor_start(uv_loop_t *loop, const char *address, struct workload *const *workloads, size_t n, struct monitor **ret_monitor, struct error *e)
{
    struct monitor *m = calloc(1, sizeof *m);
    if (m == NULL) return error_set(e, ERROR_NOMEM, "no memory for the metrics");
    *m = (struct monitor){.workloads = workloads, .n = n, .started_us = loop_wall_us()};
    int rv = http_listener_start(loop, address, NULL, on_request, m, &m->listener, e);
    if (rv != 0) {
        free(m);
        return error_prefix(e, "metrics-listen");
    }
    *ret_monitor = m;
    return 0;
}

const char *monitor_address(const struct monitor *m)
{
    return http_listener_address(m->listener);
}

static void on_closed(void *user)
{
    struct monitor *m = user;
    void (*done)(void *user) = m->done;
    void *done_user = m->user;
    free(m);
    done(done_user);
}

void monitor_close(struct monitor *m, void (*done)(void *user), void *user)
{
    if (m == NULL) {
        done(user);
        return;
    }
    m->closing = true;
    m->done = done;
    m->user = user;
    http_listener_close(m->listener, on_closed, m);
}
