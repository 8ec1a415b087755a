#include "agent/kubelet.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "agent/call.h"
#include "agent/mntns.h"

enum { REACH_MS = 3000, MORE_MS = 10000, TOKEN_MAX = 16 << 10, SAID_MAX = 150, TICK_US = 20000 /* what a file's time may be behind the clock */ };

/* ---- words ------------------------------------------------------------------------------------------------------- */

/* Names of Kubernetes need no escapes in a path; what is none is refused, never sent. */
static bool is_name(const char *text)
{
    size_t len = strlen(text);
    return len > 0 && len <= 253 && text[0] != '.' && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len;
}

int kubelet_target(const char *url, const char *namespace, const char *pod, const char *container, uint64_t timeout_ms, char ret_url[KUBELET_URL_MAX], struct error *e)
{
    if (*url == '\0') return error_set(e, ERROR_UNAVAILABLE, "this node's agent has no --kubelet: crsc.io/backend: kubelet wants one");
    if (!is_name(namespace) || !is_name(pod) || !is_name(container)) return error_set(e, ERROR_INVALID, "%.80s/%.80s/%.60s are no names of Kubernetes", namespace, pod, container);
    int n = snprintf(ret_url, KUBELET_URL_MAX, "%s/checkpoint/%s/%s/%s?timeout=%llu", url, namespace, pod, container, (unsigned long long)(timeout_ms + 999) / 1000);
    return n < KUBELET_URL_MAX ? 0 : error_set(e, ERROR_INVALID, "kubelet: the URL is too long");
}

/* Its first words, on one line, of letters that a cut leaves whole: they go into JSON. */
static const char *said(const char *body, size_t len, char to[SAID_MAX + 1])
{
    size_t n = len < SAID_MAX ? len : SAID_MAX;
    memcpy(to, body, n);
    to[n] = '\0';
    for (char *p = to; *p != '\0'; p++)
        *p = (unsigned char)*p < 0x20 ? ' ' : (unsigned char)*p > 0x7e ? '?' : *p;
    while (n > 0 && to[n - 1] == ' ') to[--n] = '\0';
    return to;
}

static bool mentions(const char *body, size_t len, const char *word)
{
    return memmem(body, len, word, strlen(word)) != NULL;
}

static int refusal(int code, const char *body, size_t len, struct error *e)
{
    char text[SAID_MAX + 1];
    said(body, len, text);
    switch (code) {
    case 401: return error_set(e, ERROR_DENIED, "the kubelet does not know the agent (401): its token or certificate is not accepted");
    case 403: return error_set(e, ERROR_DENIED, "the kubelet refuses the agent (403): it wants create on nodes/checkpoint: %.120s", text);
    case 404:
        if (mentions(body, len, "does not exist")) return error_set(e, ERROR_NOT_FOUND, "the kubelet does not know that container: %s", text);
        return error_set(e, ERROR_UNAVAILABLE, "the kubelet has no checkpoints (404): its feature gate ContainerCheckpoint is off");
    case 500:
        if (mentions(body, len, "DeadlineExceeded") || mentions(body, len, "deadline exceeded") || mentions(body, len, "context canceled"))
            return error_set(e, ERROR_TIMEOUT, "the kubelet's checkpoint did not end in time: %s", text);
        if (mentions(body, len, "Unimplemented")) return error_set(e, ERROR_UNAVAILABLE, "the node's container runtime takes no checkpoints: %s", text);
        return error_set(e, ERROR_UNAVAILABLE, "the node's container runtime could not (is CRIU there?): %s", text);
    default: return error_set(e, ERROR_UNAVAILABLE, "the kubelet answered %d: %s", code, text);
    }
}

void kubelet_prefix(const char *namespace, const char *pod, const char *container, char ret_prefix[KUBELET_PREFIX_MAX])
{
    snprintf(ret_prefix, KUBELET_PREFIX_MAX, "checkpoint-%.253s_%.253s-%.253s-", pod, namespace, container);
}

/* The time makes the rest: of a container called app, what is of one called app-x is not. */
bool kubelet_is_archive(const char *name, const char *prefix)
{
    static const char time[] = "dddd-dd-ddTdd:dd:dd"; /* then Z or +hh:mm, and .tar */
    size_t len = strlen(prefix), i = 0;
    if (strncmp(name, prefix, len) != 0) return false;
    for (name += len; time[i] != '\0'; i++)
        if (time[i] == 'd' ? name[i] < '0' || name[i] > '9' : name[i] != time[i]) return false;
    return (strlen(name) == i + 5 && name[i] == 'Z' && strcmp(name + i + 1, ".tar") == 0) ||
           (strlen(name) == i + 10 && (name[i] == '+' || name[i] == '-') && strcmp(name + i + 6, ".tar") == 0 && strchr(name + i, '/') == NULL);
}

static bool is_archive(const char *path, const char *prefix)
{
    const char *name = strrchr(path, '/');
    static const char folder[] = "/checkpoints";
    for (const char *p = path; *p != '\0'; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p > 0x7e) return false;
    if (path[0] != '/' || strlen(path) >= PATH_MAX || strstr(path, "/../") != NULL || !kubelet_is_archive(name + 1, prefix)) return false;
    return (size_t)(name - path) >= strlen(folder) && strncmp(name - strlen(folder), folder, strlen(folder)) == 0;
}

int kubelet_answer(int code, const char *body, size_t len, const char *prefix, char ret_path[PATH_MAX], struct error *e)
{
    if (code != 200) return refusal(code, body, len, e);
    yyjson_doc *doc = yyjson_read(body, len, YYJSON_READ_NOFLAG);
    yyjson_val *items = yyjson_obj_get(yyjson_doc_get_root(doc), "items"), *first = yyjson_arr_get_first(items);
    const char *path = yyjson_get_str(first);
    bool good = yyjson_arr_size(items) == 1 && path != NULL && strlen(path) == yyjson_get_len(first) && is_archive(path, prefix);
    if (good) strcpy(ret_path, path);
    yyjson_doc_free(doc);
    char text[SAID_MAX + 1];
    return good ? 0 : error_set(e, ERROR_PROTOCOL, "the kubelet's answer names not exactly one archive of that container: %.100s", said(body, len, text));
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

/* Read anew each time: the kubelet renews it. */
static int read_token(const char *file, char **ret_header, struct error *e)
{
    static const char before[] = "Authorization: Bearer ";
    char *header = malloc(sizeof before + TOKEN_MAX);
    FILE *f = fopen(file, "re");
    size_t len = f != NULL && header != NULL ? fread(header + sizeof before - 1, 1, TOKEN_MAX, f) : 0;
    if (f != NULL) fclose(f);
    if (len == 0 || len == TOKEN_MAX) {
        free(header);
        return error_set(e, ERROR_DENIED, "kubelet-token: \"%.150s\" has no token", file);
    }
    memcpy(header, before, sizeof before - 1);
    header[sizeof before - 1 + len] = '\0';
    header[strcspn(header, "\r\n")] = '\0';
    *ret_header = header;
    return 0;
}

/* `*ret_sent`: the kubelet may have begun with it, however that ended. */
static int ask(const struct kubelet *k, const char *url, uint64_t timeout_ms, bool *ret_sent, struct call_reply *ret_reply, struct error *e)
{
    char *token = NULL;
    struct call_tls tls = {.ca = k->ca, .cert = k->cert, .key = k->key, .anybody = k->insecure};
    int rc = *k->token != '\0' ? read_token(k->token, &token, e) : 0;
    if (rc != 0) return rc;
    const char *const headers[] = {token, NULL};
    struct call call = {.method = "POST", .url = url, .headers = headers, .body = "", .tls = &tls, .timeout_ms = (uint32_t)timeout_ms, .sent = ret_sent};
    rc = call_do(&call, ret_reply, e);
    if (token != NULL) explicit_bzero(token, strlen(token));
    free(token);
    return rc;
}

/* A pod of that name cannot be, as a namespace's has no dots: a kubelet that would take checkpoints says so, after it has found that we may ask. */
int kubelet_reach(const struct kubelet *k, struct error *e)
{
    char url[KUBELET_URL_MAX];
    struct call_reply reply;
    bool unused = false;
    if (*k->url == '\0') return error_set(e, ERROR_UNAVAILABLE, "not configured: --kubelet");
    snprintf(url, sizeof url, "%.1000s/checkpoint/no.such/no.such/no.such", k->url);
    int rc = ask(k, url, REACH_MS, &unused, &reply, e);
    if (rc != 0) return rc;
    rc = reply.code / 100 == 2 ? error_set(e, ERROR_PROTOCOL, "what answers at %.100s is no kubelet", k->url) : refusal(reply.code, reply.body, reply.len, e);
    call_reply_fini(&reply);
    return rc == -ERROR_NOT_FOUND ? 0 : rc;
}

int kubelet_checkpoint(const struct kubelet *k, const char *namespace, const char *pod, const char *container, uint64_t timeout_ms, char ret_path[PATH_MAX],
                       enum kubelet_end *ret_end, struct error *e)
{
    char url[KUBELET_URL_MAX], prefix[KUBELET_PREFIX_MAX];
    struct call_reply reply;
    bool sent = false;
    *ret_end = KUBELET_REFUSED;
    int rc = kubelet_target(k->url, namespace, pod, container, timeout_ms, url, e);
    if (rc == 0) rc = ask(k, url, timeout_ms + MORE_MS, &sent, &reply, e);
    if (rc != 0) {
        if (sent) *ret_end = KUBELET_SILENT;
        return rc;
    }
    kubelet_prefix(namespace, pod, container, prefix);
    rc = kubelet_answer(reply.code, reply.body, reply.len, prefix, ret_path, e);
    if (reply.code / 100 != 4) *ret_end = KUBELET_ANSWERED;
    call_reply_fini(&reply);
    return rc;
}

/* ---- the archive -------------------------------------------------------------------------------------------------- */

struct visit {
    const struct kubelet *kubelet;
    const char *path;   /* of an archive; NULL: all of ... */
    const char *prefix; /* ... those of `since_us` and later */
    uint64_t since_us;
    bool remove;
    unsigned n; /* so many were removed */
    int fd;
};

static int sweep(struct visit *v, struct error *e)
{
    int rc = 0;
    DIR *dir = opendir(v->kubelet->archives);
    struct dirent *entry;
    struct stat st;
    if (dir == NULL && errno != ENOENT) rc = error_errno(e, ERROR_IO, errno, "%.150s cannot be read", v->kubelet->archives);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (!kubelet_is_archive(entry->d_name, v->prefix) || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if ((uint64_t)st.st_mtim.tv_sec * 1000000 + (uint64_t)st.st_mtim.tv_nsec / 1000 + TICK_US < v->since_us) continue; /* somebody else's */
        if (unlinkat(dirfd(dir), entry->d_name, 0) == 0) v->n++;
        else if (errno != ENOENT) rc = error_errno(e, ERROR_IO, errno, "%.80s in %.80s cannot be removed", entry->d_name, v->kubelet->archives);
    }
    if (dir != NULL) closedir(dir);
    return rc;
}

static int look(void *user, struct error *e)
{
    struct visit *v = user;
    struct stat st;
    if (v->path == NULL) return sweep(v, e);
    if (v->remove) return unlink(v->path) == 0 || errno == ENOENT ? 0 : error_errno(e, ERROR_IO, errno, "%.150s cannot be removed", v->path);
    v->fd = open(v->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (v->fd < 0) return error_errno(e, ERROR_IO, errno, "%.150s cannot be read", v->path);
    if (fstat(v->fd, &st) == 0 && S_ISREG(st.st_mode)) return 0;
    close(v->fd);
    return error_set(e, ERROR_INVALID, "%.150s is no file", v->path);
}

static int visit(struct visit *v, struct error *e)
{
    return mntns_do(v->kubelet->mount_namespace, look, v, e);
}

int kubelet_open(const struct kubelet *k, const char *path, int *ret_fd, struct error *e)
{
    struct visit v = {.kubelet = k, .path = path};
    int rc = visit(&v, e);
    if (rc == 0) *ret_fd = v.fd;
    return rc;
}

int kubelet_remove(const struct kubelet *k, const char *path, struct error *e)
{
    struct visit v = {.kubelet = k, .path = path, .remove = true};
    return visit(&v, e);
}

int kubelet_sweep(const struct kubelet *k, const char *prefix, uint64_t since_us, unsigned *ret_n, struct error *e)
{
    struct visit v = {.kubelet = k, .prefix = prefix, .since_us = since_us, .remove = true};
    int rc = visit(&v, e);
    *ret_n = v.n;
    return rc;
}
