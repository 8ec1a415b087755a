/* crsc-agent: reads its settings, opens its two doors, works until it is told to stop. Threads that are under way at the end are simply ended with the
 * process: what they leave is found at the next start (a dump thaws by itself, a drain ends by its lease, an image is whole or not there). */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/begin.h"
#include "agent/found.h"
#include "agent/https.h"
#include "agent/keeper.h"
#include "agent/probe.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

static int make_folders(const struct agent *a, struct error *e)
{
    static const char *const under_way[] = {"dumps", "restore", "work"};
    char path[4096];
    int rc = tree_make(a->settings.run, e);
    for (size_t i = 0; i < 3 && rc == 0; i++) {
        snprintf(path, sizeof path, "%.3000s/%s", a->settings.store, under_way[i]);
        if (i == 0) tree_remove(path, NULL); /* of an earlier life: nobody knows whether they are whole */
        rc = tree_make(path, e);
    }
    return rc;
}

/* crsc-runtime beside our own program, into a folder of the host: whole or not at all, and not while it is the same. */
static int install_runtime(const char *folder, struct error *e)
{
    char from[PATH_MAX], to[PATH_MAX], aside[PATH_MAX], theirs[OCI_DIGEST_MAX] = "", ours[OCI_DIGEST_MAX];
    if (*folder == '\0') return 0;
    ssize_t len = readlink("/proc/self/exe", from, sizeof from - 32);
    if (len < 0) return error_errno(e, ERROR_IO, errno, "/proc/self/exe cannot be read");
    from[len] = '\0';
    strcpy(strrchr(from, '/'), "/crsc-runtime");
    snprintf(to, sizeof to, "%.3000s/crsc-runtime", folder);
    snprintf(aside, sizeof aside, "%.3000s/.crsc-runtime", folder);
    int rc = oci_file_digest(from, ours, e);
    if (rc != 0 || (oci_file_digest(to, theirs, NULL) == 0 && strcmp(ours, theirs) == 0)) return rc;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    ssize_t n = 0;
    if (in >= 0 && out >= 0)
        while ((n = sendfile(out, in, NULL, 1 << 20)) > 0) {}
    if (in < 0 || out < 0 || n < 0 || fchmod(out, 0755) != 0 || fsync(out) != 0 || rename(aside, to) != 0)
        rc = error_errno(e, ERROR_IO, errno, "crsc-runtime cannot be installed as %s", to);
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    if (rc == 0) log_info("crsc-runtime installed", "path=%s digest=%s", to, ours);
    return rc;
}

static int start(struct agent *a, struct error *e)
{
    const struct settings *s = &a->settings;
    a->tls = (struct call_tls){.ca = s->tls_ca, .cert = s->tls_cert, .key = s->tls_key};
    a->ledger = (struct ledger){s->servers, s->log_tls_ca, s->log_tls_cert, s->log_tls_key, (uint32_t)s->log_timeout};
    a->kubelet = (struct kubelet){.url = s->kubelet, .ca = s->kubelet_ca, .insecure = s->kubelet_insecure, .token = s->kubelet_token, .cert = s->kubelet_cert, .key = s->kubelet_key,
        .mount_namespace = s->mount_namespace, .archives = s->kubelet_archives};
    pthread_condattr_t monotonic;
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->changed, &monotonic);
    a->changes = loop_wall_us();
    int rc = install_runtime(s->install_runtime, e);
    if (rc == 0) rc = make_folders(a, e);
    if (rc == 0) rc = store_new(s->store, s->store_budget, &a->store, e);
    if (rc != 0) return rc;
    probe_look(a);
    rc = begin_start(a, e);
    if (rc == 0) rc = keeper_start(a, e);
    if (rc == 0) rc = found_start(a, e);
    if (rc == 0) rc = https_start(s->listen, &a->tls, api_handle, a, e);
    return rc;
}

int main(int argc, char **argv)
{
    static struct agent a;
    enum config_action action;
    struct error e = {0};
    sigset_t stop;
    int signal_number;
    log_init("agent", LOG_INFO);
    if (settings_load(argc, argv, &a.settings, &action, &e) != 0) {
        fprintf(stderr, "crsc-agent: %s\n", e.text);
        return 2;
    }
    if (action == CONFIG_EXIT) {
        settings_free(&a.settings);
        return 0;
    }
    log_init("agent", a.settings.level);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before the first thread: they inherit it */
    umask(077);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (start(&a, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        return e.code == ERROR_INVALID ? 2 : 1;
    }
    log_info("started", "node=%s listen=%s store=%s run=%s", a.settings.node, a.settings.listen, a.settings.store, a.settings.run);
    sigwait(&stop, &signal_number);
    a.stopping = true;
    log_info("stopping", "signal=%d", signal_number);
    fflush(NULL);
    _Exit(0);
}
