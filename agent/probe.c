#include "agent/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <yyjson.h>

#include "common/log.h"

enum { SAID_MAX = 512, REACH_AGAIN_MS = 30000 };

/* Written once, before the API listens. */
static struct {
    char runc[64], criu[64], why[SAID_MAX], cpu[128];
    bool works;
} found;

/* What a program says, and whether it ended well. `timeout` bounds it. */
static bool run(const char *program, const char *args, char said[SAID_MAX])
{
    char command[1024];
    snprintf(command, sizeof command, "timeout 10 '%.900s' %s 2>&1", program, args);
    FILE *f = popen(command, "re");
    size_t n = f != NULL ? fread(said, 1, SAID_MAX - 1, f) : 0;
    said[n] = '\0';
    char rest[SAID_MAX];
    while (f != NULL && fread(rest, 1, sizeof rest, f) > 0) {}
    return f != NULL && pclose(f) == 0;
}

/* The word behind `before`, up to a space or line's end. */
static void word_after(const char *text, const char *before, char *to, size_t cap)
{
    const char *at = strstr(text, before);
    if (at == NULL) return;
    at += strlen(before);
    size_t len = strcspn(at, " \n");
    snprintf(to, cap, "%.*s", (int)len, at);
}

static void read_cpu(void)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "model name", 10) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        const char *value = strchr(line, ':');
        snprintf(found.cpu, sizeof found.cpu, "%s", value != NULL ? value + 2 : "");
        break;
    }
    if (f != NULL) fclose(f);
}

static void *look(void *user)
{
    struct agent *a = user;
    char said[SAID_MAX];
    const char *runc = *a->settings.runc != '\0' ? a->settings.runc : "runc", *criu = *a->settings.criu != '\0' ? a->settings.criu : "criu";
    int fd = *a->settings.mount_namespace != '\0' ? open(a->settings.mount_namespace, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0 && (unshare(CLONE_FS) != 0 || setns(fd, CLONE_NEWNS) != 0)) snprintf(found.why, sizeof found.why, "the host's mount namespace cannot be entered");
    if (fd >= 0) close(fd);
    bool has_runc = run(runc, "--version", said);
    word_after(said, "runc version ", found.runc, sizeof found.runc);
    bool has_criu = run(criu, "--version", said);
    word_after(said, "Version: ", found.criu, sizeof found.criu);
    found.works = has_runc && has_criu && run(criu, "check", said);
    if (!found.works && found.why[0] == '\0') snprintf(found.why, sizeof found.why, "%s: %.400s", !has_runc ? "runc" : "criu check", said);
    read_cpu();
    return NULL;
}

static bool reach(struct agent *a)
{
    struct error e = {0};
    bool away = kubelet_reach(&a->kubelet, &e) != 0;
    pthread_mutex_lock(&a->lock);
    bool news = away != a->kubelet_away;
    if (away || news) snprintf(a->kubelet_why, sizeof a->kubelet_why, "%.250s", away ? e.text : "");
    a->kubelet_away = away;
    pthread_mutex_unlock(&a->lock);
    return news;
}

/* A kubelet is configured after its agent at times, and certificates and rights change. */
static void *reach_again(void *user)
{
    struct agent *a = user;
    while (!a->stopping) {
        poll(NULL, 0, REACH_AGAIN_MS);
        if (!reach(a)) continue;
        pthread_mutex_lock(&a->lock);
        if (a->kubelet_away) log_warn("the kubelet cannot be asked for checkpoints", "reason=%s", a->kubelet_why);
        else log_info("the kubelet takes checkpoints", "url=%s", a->kubelet.url);
        pthread_mutex_unlock(&a->lock);
    }
    return NULL;
}

void probe_look(struct agent *a)
{
    pthread_t thread; /* of its own: it goes to another mount namespace for good */
    if (pthread_create(&thread, NULL, look, a) == 0) pthread_join(thread, NULL);
    struct error e = {0};
    reach(a);
    if (*a->settings.kubelet != '\0' && agent_thread(reach_again, a, &e) != 0) log_warn("the kubelet is not asked again", "reason=%s", e.text);
    if (*a->settings.kubelet != '\0' && *a->kubelet_why != '\0') log_warn("the kubelet cannot be asked for checkpoints", "reason=%s", a->kubelet_why);
    if (found.works) log_info("checkpoints by runc and CRIU", "runc=%s criu=%s", found.runc, found.criu);
    else log_error("no checkpoints can be taken or restored here: pods start fresh, and everything is replayed", "reason=%s", found.why);
}

static const char *best(struct agent *a)
{
    if (found.works) return "runtime";
    pthread_mutex_lock(&a->lock);
    bool asked = *a->kubelet_why == '\0';
    pthread_mutex_unlock(&a->lock);
    return asked ? "kubelet" : "none";
}

static void add_kubelet(struct agent *a, yyjson_mut_doc *doc, yyjson_mut_val *one)
{
    pthread_mutex_lock(&a->lock);
    yyjson_mut_obj_add_bool(doc, one, "ok", *a->kubelet_why == '\0');
    if (*a->kubelet_why != '\0') yyjson_mut_obj_add_strcpy(doc, one, "why", a->kubelet_why);
    pthread_mutex_unlock(&a->lock);
}

int probe_write(struct agent *a, struct buf *out)
{
    struct utsname names;
    uint64_t budget = 0;
    size_t n = 0, len = 0;
    uint64_t bytes = store_bytes(a->store, &budget, &n);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *backends, *one;
    uname(&names);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_strcpy(doc, root, "node", a->settings.node);
    yyjson_mut_obj_add_str(doc, root, "version", CRSC_VERSION);
    yyjson_mut_obj_add_str(doc, root, "backend", best(a));
    backends = yyjson_mut_obj_add_obj(doc, root, "backends");
    one = yyjson_mut_obj_add_obj(doc, backends, "runtime");
    yyjson_mut_obj_add_bool(doc, one, "ok", found.works);
    if (!found.works) yyjson_mut_obj_add_strcpy(doc, one, "why", found.why);
    add_kubelet(a, doc, yyjson_mut_obj_add_obj(doc, backends, "kubelet"));
    yyjson_mut_obj_add_strcpy(doc, root, "criu", found.criu);
    yyjson_mut_obj_add_strcpy(doc, root, "runc", found.runc);
    yyjson_mut_obj_add_strcpy(doc, root, "kernel", names.release);
    yyjson_mut_obj_add_strcpy(doc, root, "arch", names.machine);
    yyjson_mut_obj_add_strcpy(doc, root, "cpu", found.cpu);
    yyjson_mut_obj_add_str(doc, root, "runtime_handler", "crsc");
    one = yyjson_mut_obj_add_obj(doc, root, "store");
    yyjson_mut_obj_add_uint(doc, one, "bytes", bytes);
    yyjson_mut_obj_add_uint(doc, one, "budget", budget);
    yyjson_mut_obj_add_uint(doc, one, "checkpoints", n);
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    yyjson_mut_doc_free(doc);
    int rc = text != NULL ? buf_add(out, text, len) : -ERROR_NOMEM;
    free(text);
    return rc;
}
