/* crsc-runtime: runc, except that `create` of a protected container restores it from a checkpoint when the node's agent says so.
 *
 * Small on purpose, and static: it runs as root on the host for every container of its handler. It understands no JSON: the agent is given config.json
 * as it is. On any doubt the container is started fresh, and what was done is left for the agent (started.h). It never blocks a pod: each
 * wait has a bound. In a pod with `crsc.io/redirect` it also leads the app's port to the interceptor, when the pod's first container is created: before
 * there is an app to be reached. Everything else goes to runc by exec, word for word. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/leftover.h"
#include "checkpoint/tree.h"
#include "common/redirect.h"
#include "runtime/ask.h"
#include "runtime/command.h"
#include "runtime/settings.h"
#include "runtime/started.h"

enum { WORDS_MAX = 64, RESTORE_MS = 90000, DELETE_MS = 10000 };

/* A command line of runc's, taken apart: runc GLOBALS VERB REST, where the last of REST is the container's id. */
struct line {
    char **globals;
    int n_globals;
    const char *verb;
    char **rest;
    int n_rest;
    const char *id;
};

static bool takes_value(const char *flag)
{
    static const char *const flags[] = {"--root", "--log", "--log-format", "--criu", "--rootless"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(flag, flags[i]) == 0) return true;
    return false;
}

static struct line take_apart(int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-') i += takes_value(argv[i]) ? 2 : 1;
    struct line l = {.globals = argv + 1, .n_globals = (i < argc ? i : argc) - 1, .verb = i < argc ? argv[i] : ""};
    if (i + 1 < argc) {
        l.rest = argv + i + 1;
        l.n_rest = argc - i - 1;
        l.id = argv[argc - 1];
    }
    return l;
}

/* The value of "--name value" or "--name=value"; NULL. */
static const char *value_of(char **words, int n, const char *name)
{
    size_t len = strlen(name);
    for (int i = 0; i < n; i++) {
        if (strncmp(words[i], name, len) != 0) continue;
        if (words[i][len] == '=') return words[i] + len + 1;
        if (words[i][len] == '\0' && i + 1 < n) return words[i + 1];
    }
    return NULL;
}

static void be_runc(const struct settings *s, char **argv)
{
    argv[0] = (char *)(uintptr_t)s->runc;
    execvp(s->runc, argv);
    fprintf(stderr, "crsc-runtime: %s cannot be run: %s; \"runc\" in " SETTINGS_PATH " names it\n", s->runc, strerror(errno));
    exit(127);
}

/* The bundle's config.json in memory; NULL: it cannot be read. */
static char *read_config(const char *bundle, size_t *ret_len)
{
    char path[PATH_MAX];
    struct stat st;
    char *text = NULL;
    size_t len = 0;
    if (snprintf(path, sizeof path, "%s/config.json", bundle) >= (int)sizeof path) return NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= ASK_CONFIG_MAX) text = malloc((size_t)st.st_size);
    while (text != NULL && len < (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size - len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        len += (size_t)n;
    }
    if (fd >= 0) close(fd);
    if (text != NULL && len < (size_t)st.st_size) {
        free(text);
        return NULL;
    }
    *ret_len = len;
    return text;
}

static uint64_t monotonic_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int32_t read_pid(const char *file)
{
    long pid = 0;
    FILE *f = file != NULL ? fopen(file, "re") : NULL;
    if (f == NULL || fscanf(f, "%ld", &pid) != 1 || pid < 0 || pid > INT32_MAX) pid = 0;
    if (f != NULL) fclose(f);
    return (int32_t)pid;
}

/* CRIU's first complaint. */
static void why_not(const char *work, char *reason)
{
    char path[PATH_MAX], line[512];
    snprintf(reason, ASK_REASON_MAX, "CRIU could not restore it; its log is in %.150s", work);
    if (snprintf(path, sizeof path, "%s/restore.log", work) >= (int)sizeof path) return;
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *error = strstr(line, "Error (");
        if (error == NULL || strstr(error, "RLIMIT_NOFILE") != NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(reason, ASK_REASON_MAX, "CRIU: %.240s", error);
        break;
    }
    if (f != NULL) fclose(f);
}

static void add(char **words, int *n, const char *word)
{
    if (*n < WORDS_MAX - 1) words[(*n)++] = (char *)(uintptr_t)word;
}

/* Connections that were open at the dump are closed in the restored process: CRIU has to be told, and without a file of the settings' it is ours. */
static void tell_criu(const struct settings *s)
{
    char path[PATH_MAX];
    if (*s->criu_config != '\0') {
        setenv("CRIU_CONFIG_FILE", s->criu_config, 1);
        return;
    }
    if (snprintf(path, sizeof path, "%s/../criu.conf", s->started) >= (int)sizeof path) return;
    FILE *f = fopen(path, "we");
    if (f == NULL) return;
    fputs("tcp-close\nskip-in-flight\n", f);
    if (fclose(f) == 0) setenv("CRIU_CONFIG_FILE", path, 1);
}

/* True: it runs, restored. Else nothing of it is left, and `a` has the reason. */
static bool restore(const struct settings *s, const struct line *l, struct answer *a, uint64_t *ret_us)
{
    char work[PATH_MAX], *words[WORDS_MAX] = {NULL}, *removal[WORDS_MAX] = {NULL};
    int n = 0, m = 0;
    const char *root = value_of(l->globals, l->n_globals, "--root");
    snprintf(work, sizeof work, "%.3000s/../work/%.200s", s->started, l->id);
    tree_make(work, NULL);
    tell_criu(s);
    add(words, &n, s->runc);
    for (int i = 0; i < l->n_globals; i++) add(words, &n, l->globals[i]);
    static const char *const fixed[] = {"restore", "--detach", "--manage-cgroups-mode", "ignore", "--image-path"};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) add(words, &n, fixed[i]);
    add(words, &n, a->image);
    add(words, &n, "--work-path");
    add(words, &n, work);
    for (int i = 0; i < l->n_rest - 1; i++) /* --bundle, --pid-file, --console-socket, ...; of create's alone: --preserve-fds */
        if (strncmp(l->rest[i], "--preserve-fds", 14) != 0) add(words, &n, l->rest[i]);
        else i += l->rest[i][14] == '\0';
    add(words, &n, l->id);
    uint64_t begun = monotonic_us();
    int status = command_run(words, RESTORE_MS);
    *ret_us = monotonic_us() - begun;
    if (status == 0) {
        tree_remove(work, NULL);
        return true;
    }
    a->restore = false;
    why_not(work, a->reason);
    /* What a failed restore leaves shows the rootfs: `delete --force` would remove the rootfs' files through it. */
    if (root == NULL || leftover_unmount(root, l->id, NULL) != 0) return false;
    add(removal, &m, s->runc);
    for (int i = 0; i < l->n_globals; i++) add(removal, &m, l->globals[i]);
    add(removal, &m, "delete");
    add(removal, &m, "--force");
    add(removal, &m, l->id);
    command_run(removal, DELETE_MS);
    return false;
}

/* The value of "crsc.io/redirect" in a config.json, found as text: a quote within a JSON string has a backslash before it, so this is a key wherever it stands,
 * and all that it can change is the container's own network. False: there is none, or it is not understood; of that the agent tells. */
static bool find_redirect(const char *config, size_t len, struct redirect *ret_redirect)
{
    static const char key[] = "\"crsc.io/redirect\"";
    char text[REDIRECT_TEXT_MAX];
    size_t n = 0;
    const char *at = memmem(config, len, key, sizeof key - 1), *end = config + len;
    if (at == NULL) return false;
    for (at += sizeof key - 1; at < end && (*at == ' ' || *at == ':'); at++) {}
    if (at == end || *at++ != '"') return false;
    for (; at < end && *at != '"' && n < sizeof text - 1; at++) text[n++] = *at;
    text[n] = '\0';
    return at < end && *at == '"' && redirect_parse(text, ret_redirect, NULL) == 0;
}

/* In the network of the container's process. What fails here the agent does again, before it lets the interceptor serve the app. */
static void lead(int32_t pid, const struct redirect *r)
{
    struct error e = {0};
    if (pid > 0 && redirect_set(pid, r, &e) != 0) fprintf(stderr, "crsc-runtime: crsc.io/redirect: %s\n", e.text);
}

static int create(const struct settings *s, const struct line *l, char **argv)
{
    const char *bundle = value_of(l->rest, l->n_rest, "--bundle"), *pid_file = value_of(l->rest, l->n_rest, "--pid-file");
    struct answer a;
    struct redirect redirect;
    uint64_t criu_us = 0;
    size_t len = 0;
    char *config = bundle != NULL && pid_file != NULL ? read_config(bundle, &len) : NULL;
    /* The agent decides what is protected; a config without our word is not even shown to it. */
    if (config == NULL || memmem(config, len, "\"crsc.io/stream\"", 16) == NULL) be_runc(s, argv);
    started_remove(s->started, l->id);
    ask(s->socket, &ask_bounds, l->id, config, len, &a);
    bool leads = find_redirect(config, len, &redirect);
    free(config);
    if (a.plain && !leads) be_runc(s, argv);
    bool restored = a.restore && restore(s, l, &a, &criu_us);
    if (!restored) {
        argv[0] = (char *)(uintptr_t)s->runc;
        int status = command_run(argv, -1);
        if (status != 0) return status > 0 ? status : 1;
    }
    int32_t pid = read_pid(pid_file);
    if (leads) lead(pid, &redirect);
    if (a.plain) return 0;
    struct started done = {.id = l->id, .bundle = bundle, .pid = pid, .restored = restored, .answer = &a, .criu_us = criu_us};
    if (!started_write(s->started, &done)) fprintf(stderr, "crsc-runtime: %s: %s\n", s->started, strerror(errno));
    return 0;
}

int main(int argc, char **argv)
{
    struct settings s;
    settings_read(getenv("CRSC_RUNTIME_CONFIG") != NULL ? getenv("CRSC_RUNTIME_CONFIG") : SETTINGS_PATH, &s);
    struct line l = take_apart(argc, argv);
    if (*s.path != '\0') {
        char path[2 * PATH_MAX];
        const char *old = getenv("PATH");
        snprintf(path, sizeof path, "%s:%s", s.path, old != NULL ? old : "/usr/sbin:/usr/bin:/sbin:/bin");
        setenv("PATH", path, 1);
    }
    if (l.id != NULL && strcmp(l.verb, "create") == 0) return create(&s, &l, argv);
    if (l.id != NULL && strcmp(l.verb, "start") == 0 && started_restored(s.started, l.id)) return 0;
    if (l.id != NULL && strcmp(l.verb, "delete") == 0) started_remove(s.started, l.id);
    be_runc(&s, argv);
}
