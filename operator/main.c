/* crsc-operator: reads its settings and workload files, protects those workloads until it is told to stop. Exit statuses are in
 * --help. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "client/crsc.h"
#include "common/log.h"
#include "common/loop.h"
#include "operator/control.h"
#include "operator/criu_check.h"
#include "operator/drivers/kubernetes/kubernetes.h"
#include "operator/migrate_main.h"
#include "operator/monitor.h"
#include "operator/placement.h"
#include "operator/settings.h"
#include "operator/workload.h"

enum { THREADS_MAX = 1024 /* libuv's own bound */ };

struct program {
    uv_loop_t *loop;
    struct settings settings;
    struct workload_settings *words;
    size_t n_words;
    struct workload **workloads;
    const char **streams; /* theirs; borrowed */
    size_t n_workloads, left;
    struct loop_signals signals;
    struct monitor *monitor; /* NULL: none */
    struct control *control; /* NULL: none */
    struct crsc_client *client;
};

/* ---- the end: the control socket, the metrics, the workloads let go, then the client, then what is left of the workloads ---------- */

static void on_freed(void *user)
{
    struct program *p = user;
    if (--p->left == 0) loop_signals_stop(&p->signals);
}

static void on_client_closed(void *user)
{
    struct program *p = user;
    p->left = p->n_workloads;
    for (size_t i = 0; i < p->n_workloads; i++) workload_free(p->workloads[i], on_freed, p);
}

static void on_workload_stopped(void *user)
{
    struct program *p = user;
    if (--p->left == 0) crsc_client_close(p->client, on_client_closed, p);
}

static void on_monitor_closed(void *user)
{
    struct program *p = user;
    p->left = p->n_workloads;
    for (size_t i = 0; i < p->n_workloads; i++)
        workload_stop(p->workloads[i], p->settings.stop_containers, on_workload_stopped, p);
}

static void on_control_closed(void *user)
{
    struct program *p = user;
    monitor_close(p->monitor, on_monitor_closed, p);
}

static void on_stop(void *user)
{
    struct program *p = user;
    log_info("stopping", NULL);
    control_close(p->control, on_control_closed, p);
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

/* Whether checkpoints are taken; asks CRIU once, when the first workload wants to know. */
static int choose(struct program *p, const struct workload_settings *words, bool *ret_checkpoints, struct error *e)
{
    static struct error why;
    static int works = 1;
    *ret_checkpoints = false;
    if (words->mode == WORKLOAD_REPLAY) return 0;
    if (works == 1) works = criu_check(p->settings.criu, &why);
    *ret_checkpoints = works == 0;
    if (works == 0) return 0;
    if (words->mode == WORKLOAD_CRIU)
        return error_set(e, ERROR_UNAVAILABLE, "workload %s wants mode criu, but it cannot run here: %s", words->name, why.text);
    log_warn("CRIU cannot run here: recovery is a fresh start and a replay of everything", "workload=%s reason=%s", words->name,
             why.text);
    return 0;
}

static int start_workload(struct program *p, const struct workload_settings *words, struct error *e)
{
    struct workload_parts parts = {.loop = p->loop, .client = p->client, .settings = &p->settings, .words = words};
    if (!words->checkpoint_restore) {
        log_info("passed over, as checkpoint-restore is false", "workload=%s", words->name);
        return 0;
    }
    for (size_t i = 0; i < p->n_workloads; i++)
        if (strcmp(p->streams[i], words->stream) == 0) parts.sibling = p->workloads[i];
    int rv = choose(p, words, &parts.checkpoints, e);
    if (rv == 0) rv = workload_new(&parts, &p->workloads[p->n_workloads], e);
    if (rv != 0) return rv;
    p->streams[p->n_workloads++] = words->stream;
    log_info("protecting", "workload=%s stream=%s mode=%s interceptor=%s upstream=%s", words->name, words->stream,
             parts.checkpoints ? "criu" : "replay", words->interceptor, words->upstream);
    return 0;
}

/* Without it apps are kept alive all the same. */
static void start_control(struct program *p)
{
    struct error e;
    if (control_start(p->loop, p->settings.state_dir, p->workloads, p->n_workloads, &p->control, &e) != 0)
        log_warn("there is no control socket: apps cannot be moved", "reason=%s", e.text);
}

static int start(struct program *p, struct error *e)
{
    struct crsc_client_options client = {.servers = p->settings.servers, .software = "crsc-operator/" CRSC_VERSION,
        .tls_ca = p->settings.log_tls_ca, .tls_cert = p->settings.log_tls_cert, .tls_key = p->settings.log_tls_key};
    int rv = loop_signals_start(p->loop, &p->signals, on_stop, p);
    if (rv != 0) return error_uv(e, ERROR_INTERNAL, rv, "signals cannot be handled");
    p->workloads = calloc(p->n_words, sizeof *p->workloads);
    p->streams = calloc(p->n_words, sizeof *p->streams);
    if (p->workloads == NULL || p->streams == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    rv = crsc_client_new(p->loop, &client, &p->client, e);
    for (size_t i = 0; rv == 0 && i < p->n_words; i++) rv = start_workload(p, &p->words[i], e);
    if (rv == 0 && p->settings.metrics_listen[0] != '\0')
        rv = monitor_start(p->loop, p->settings.metrics_listen, p->workloads, p->n_workloads, &p->monitor, e);
    if (rv == 0) start_control(p);
    if (rv == 0 && p->n_workloads == 0) rv = error_set(e, ERROR_INVALID, "there is no workload to protect");
    return rv;
}

/* Packing and hashing take seconds: each workload has the threads for all that it may do at a time (unpack, sweep, pack), so that no
 * recovery waits for another's packing. Before libuv's first use of its pool; a value given by a person stays. */
static void size_thread_pool(size_t workloads)
{
    char text[24];
    size_t threads = workloads * 3 + 2;
    snprintf(text, sizeof text, "%zu", threads < THREADS_MAX ? threads : THREADS_MAX);
    setenv("UV_THREADPOOL_SIZE", text, 0);
}

int main(int argc, char **argv)
{
    static struct program p;
    enum config_action action = CONFIG_RUN;
    struct error e = {0};
    uv_loop_t loop;
    if (argc > 1 && strcmp(argv[1], "kubernetes") == 0) return kubernetes_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "migrate") == 0) return migrate_main(argc - 1, argv + 1);
    log_init("operator", LOG_INFO);
    int rv = settings_load(argc, argv, &p.settings, &action, &e);
    if (rv == 0 && action == CONFIG_RUN) rv = workload_settings_load(p.settings.workload, &p.words, &p.n_words, &e);
    if (rv != 0) {
        fprintf(stderr, "crsc-operator: %s\n", e.text);
        return 2;
    }
    if (action == CONFIG_EXIT) {
        settings_free(&p.settings);
        return 0;
    }
    log_init("operator", p.settings.level);
    size_thread_pool(p.n_words);
    placement_apply(p.settings.state_dir, p.words, p.n_words);
    uv_loop_init(&loop);
    p.loop = &loop;
    if (start(&p, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        _Exit(e.code == ERROR_INVALID ? 2 : 1); /* nothing was begun that a next start does not find */
    }
    log_info("ready", "node=%s workloads=%zu state_dir=%s metrics=%s", p.settings.node, p.n_workloads, p.settings.state_dir,
             p.monitor != NULL ? monitor_address(p.monitor) : "");
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) log_warn("something was left open at the end", NULL);
    free(p.workloads);
    free(p.streams);
    workload_settings_free(p.words, p.n_words);
    settings_free(&p.settings);
    log_info("stopped", NULL);
    return 0;
}
