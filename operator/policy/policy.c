#include "operator/policy/policy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

#define AT(field) offsetof(struct policy, field)

static const struct policy_annotation table[POLICY_ANNOTATIONS] = {
    {"checkpoint-restore", POLICY_BOOL, AT(enabled), "false", "true, false", 0, 0, false},
    {"checkpoint-interval", POLICY_DURATION, AT(interval_ms), "30s", "1s to 24h", 1000, 86400000, false},
    {"recovery-time-objective", POLICY_DURATION, AT(objective_ms), "0s", "0s (none) to 1h", 0, 3600000, false},
    {"ordering", POLICY_ORDERING, AT(ordering), "serial", "serial, concurrent, keyed:HEADER, keyed:/path/{id}", 0, 0, true},
    {"logging", POLICY_WORD, AT(logging), "pessimistic", "pessimistic|optimistic", 0, 0, true},
    {"replication", POLICY_WORD, AT(replication), "none", "none|log", 0, 0, true},
    {"standby", POLICY_NUMBER, AT(standby), "0", "0 to 14", 0, POLICY_REPLICAS_MAX - 1, false},
    {"reads", POLICY_WORD, AT(reads), "linearizable", "linearizable|local", 0, 0, true},
    {"log-safe-methods", POLICY_BOOL, AT(log_safe_methods), "false", "true, false", 0, 0, true},
    {"retain", POLICY_NUMBER, AT(retain), "3", "1 to 32", 1, 32, false},
    {"port", POLICY_NUMBER, AT(port), "0", "1 to 65535; 0: the container's only port", 0, 65535, true},
    {"container", POLICY_NAME, AT(container), "", "a container of the pod; empty: its first", 0, 0, true},
    {"traffic", POLICY_WORD, AT(traffic), "service", "service|redirect|none", 0, 0, true},
    {"app-pipeline", POLICY_NUMBER, AT(app_pipeline), "1", "1 to 64", 1, 64, true},
    {"upgrade", POLICY_WORD, AT(upgrade), "refuse", "refuse|pass", 0, 0, true},
    {"tls-secret", POLICY_OBJECT, AT(tls_secret), "", "the name of a Secret; empty: no TLS", 0, 0, true},
    {"tls-client-ca", POLICY_SOURCE, AT(tls_client_ca), "", "secret/NAME or configmap/NAME, with /KEY behind it where that is not ca.crt; empty: none", 0, 0, true},
    {"backend", POLICY_WORD, AT(backend), "runtime", "runtime|kubelet", 0, 0, true},
    {"image-registry", POLICY_TEXT, AT(registry), "", "host[:port]/prefix; -: none; empty: the agents' own", 0, 0, true},
};

static const char *const ours[] = {"workload", "stream", "upstream", "admin", "template-hash", "injected", "restore", "original-ports", "data-port", "redirect", "checkpoint"};

const struct policy_annotation *policy_table(void)
{
    return table;
}

void policy_field(const struct policy_annotation *a, char to[POLICY_NAME_MAX])
{
    size_t n = 0;
    for (const char *p = a->name; *p != '\0' && n + 1 < POLICY_NAME_MAX; p++) {
        bool up = *p == '-';
        if (up) p++;
        to[n++] = up && *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
    }
    to[n] = '\0';
}

static size_t capacity(const struct policy_annotation *a)
{
    return a->kind == POLICY_WORD || a->kind == POLICY_NAME ? POLICY_NAME_MAX : POLICY_TEXT_MAX;
}

static bool is_one_of(const char *values, const char *value)
{
    size_t len = strlen(value);
    if (strchr(value, '|') != NULL) return false;
    for (const char *p = values; len > 0; p++) {
        if (strncmp(p, value, len) == 0 && (p[len] == '|' || p[len] == '\0')) return true;
        if ((p = strchr(p, '|')) == NULL) return false;
    }
    return false;
}

/* What ends up in arguments, patches and paths: nothing that would need quoting anywhere. */
static bool is_plain(const char *value)
{
    return value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_-")] == '\0';
}

/* The interceptor reads it more closely; here it must only be of that kind. */
static bool is_ordering(const char *value)
{
    if (strcmp(value, "serial") == 0 || strcmp(value, "concurrent") == 0) return true;
    if (strncmp(value, "keyed:", 6) != 0 || value[6] == '\0') return false;
    return value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_-{}")] == '\0';
}

/* The name of a Secret or ConfigMap, `len` bytes: a DNS subdomain (RFC 1123), as the API server wants it. */
static bool is_object_name(const char *name, size_t len)
{
    enum { OBJECT_NAME_MAX = 253 };
    static const char *const inner = "abcdefghijklmnopqrstuvwxyz0123456789";
    if (len == 0 || len > OBJECT_NAME_MAX) return false;
    for (size_t i = 0; i < len; i++) {
        bool edge = i == 0 || i + 1 == len || name[i - 1] == '.' || name[i + 1] == '.';
        if (strchr(inner, name[i]) == NULL && (edge || name[i] != '-') && (name[i] != '.' || edge)) return false;
    }
    return true;
}

/* A key of one: it becomes a file's name, so neither ".." nor what begins so. */
static bool is_object_key(const char *key)
{
    if (key[0] == '\0' || strcmp(key, ".") == 0 || strncmp(key, "..", 2) == 0) return false;
    return key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0';
}

static bool read_source(const char *value, struct policy_source *ret_source)
{
    struct policy_source s = {.secret = strncmp(value, "secret/", 7) == 0, .key = "ca.crt"};
    if (!s.secret && strncmp(value, "configmap/", 10) != 0) return false;
    const char *name = strchr(value, '/') + 1, *slash = strchr(name, '/');
    size_t len = slash != NULL ? (size_t)(slash - name) : strlen(name);
    if (!is_object_name(name, len) || (slash != NULL && !is_object_key(slash + 1))) return false;
    memcpy(s.name, name, len);
    if (slash != NULL) snprintf(s.key, sizeof s.key, "%s", slash + 1);
    *ret_source = s;
    return true;
}

bool policy_client_ca(const struct policy *p, struct policy_source *ret_source)
{
    return p->tls_client_ca[0] != '\0' && read_source(p->tls_client_ca, ret_source);
}

static int wrong(struct error *e, const struct policy_annotation *a, const char *value)
{
    return error_set(e, ERROR_INVALID, POLICY_PREFIX "%s: %s is wanted, not \"%.60s\"", a->name, a->values, value);
}

static int number(const char *value, uint64_t *ret)
{
    size_t digits = strspn(value, "0123456789");
    if (digits == 0 || digits > 10 || value[digits] != '\0') return -ERROR_INVALID;
    *ret = strtoull(value, NULL, 10);
    return 0;
}

static int set(struct policy *p, const struct policy_annotation *a, const char *value, struct error *e)
{
    char *at = (char *)p + a->at;
    uint64_t n = 0;
    struct policy_source source;
    switch (a->kind) {
    case POLICY_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) return wrong(e, a, value);
        *(bool *)at = value[0] == 't';
        return 0;
    case POLICY_DURATION:
        if (config_parse_duration(value, &n) != 0 || n < a->min || n > a->max) return wrong(e, a, value);
        *(uint64_t *)(void *)at = n;
        return 0;
    case POLICY_NUMBER:
        if (number(value, &n) != 0 || n < a->min || n > a->max) return wrong(e, a, value);
        *(uint32_t *)(void *)at = (uint32_t)n;
        return 0;
    case POLICY_WORD:
        if (!is_one_of(a->values, value)) return wrong(e, a, value);
        break;
    case POLICY_ORDERING:
        if (strlen(value) >= capacity(a) || !is_ordering(value)) return wrong(e, a, value);
        break;
    case POLICY_OBJECT:
        if (value[0] != '\0' && !is_object_name(value, strlen(value))) return wrong(e, a, value);
        break;
    case POLICY_SOURCE:
        if (value[0] != '\0' && (strlen(value) >= capacity(a) || !read_source(value, &source))) return wrong(e, a, value);
        break;
    case POLICY_NAME:
    case POLICY_TEXT:
        if (strlen(value) >= capacity(a) || !is_plain(value)) return wrong(e, a, value);
        break;
    }
    snprintf(at, capacity(a), "%s", value);
    return 0;
}

void policy_defaults(struct policy *p)
{
    memset(p, 0, sizeof *p);
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) set(p, &table[i], table[i].initial, NULL);
}

bool policy_is_ours(const char *key)
{
    if (strncmp(key, POLICY_PREFIX, strlen(POLICY_PREFIX)) != 0) return false;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(key + strlen(POLICY_PREFIX), ours[i]) == 0) return true;
    return false;
}

int policy_set(struct policy *p, const char *key, const char *value, struct error *e)
{
    if (strncmp(key, POLICY_PREFIX, strlen(POLICY_PREFIX)) != 0 || policy_is_ours(key)) return 0;
    const char *name = key + strlen(POLICY_PREFIX);
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++)
        if (strcmp(table[i].name, name) == 0) return set(p, &table[i], value, e);
    return error_set(e, ERROR_INVALID, "there is no annotation %.100s (docs/ANNOTATIONS.md has them all)", key);
}

int policy_check(const struct policy *p, struct error *e)
{
    if (p->tls_client_ca[0] != '\0' && p->tls_secret[0] == '\0')
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "tls-client-ca asks clients for a certificate, and without " POLICY_PREFIX "tls-secret there is no TLS");
    if (p->standby > 0 && !policy_replicated(p))
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "standby wants " POLICY_PREFIX "replication: log: who takes over has to have executed the same");
    if (p->standby > 0 && strcmp(p->traffic, "redirect") == 0)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "standby is not for " POLICY_PREFIX "traffic: redirect, which leaves Services alone: they would lead to standbys");
    if (policy_by_kubelet(p) && strcmp(p->traffic, "redirect") == 0)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "backend: kubelet is not for " POLICY_PREFIX "traffic: redirect: its rules are set by crsc-runtime, which starts no container of such a pod");
    if (policy_by_kubelet(p) && policy_replicated(p))
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "backend: kubelet is not for " POLICY_PREFIX "replication: log");
    if (policy_by_kubelet(p) && strcmp(p->registry, "-") == 0)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "backend: kubelet wants a registry, from which nodes pull checkpoints: " POLICY_PREFIX "image-registry is -");
    if (!policy_replicated(p)) return 0;
    if (strcmp(p->ordering, "serial") != 0 || strcmp(p->logging, "pessimistic") != 0)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "replication: log wants " POLICY_PREFIX "ordering: serial and " POLICY_PREFIX
                                           "logging: pessimistic: every replica executes the same order");
    if (strcmp(p->upgrade, "refuse") != 0)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "upgrade: pass is not for " POLICY_PREFIX "replication: log: what goes through would change one replica, and no other one");
    return 0;
}

bool policy_replicated(const struct policy *p)
{
    return strcmp(p->replication, "log") == 0;
}

bool policy_by_kubelet(const struct policy *p)
{
    return strcmp(p->backend, "kubelet") == 0;
}

int policy_check_replicas(const struct policy *p, bool deployment, uint64_t replicas, struct error *e)
{
    if (policy_replicated(p) && !deployment)
        return error_set(e, ERROR_INVALID, POLICY_PREFIX "replication: log is for Deployments: each pod of a StatefulSet, and one that belongs to nobody, has a state of its own");
    if (policy_replicated(p) && replicas > POLICY_REPLICAS_MAX)
        return error_set(e, ERROR_INVALID, "the Deployment has %llu replicas: with " POLICY_PREFIX "replication: log there are at most %d", (unsigned long long)replicas, POLICY_REPLICAS_MAX);
    if (!policy_replicated(p) && deployment && replicas > 1)
        return error_set(e, ERROR_INVALID, "the Deployment has %llu replicas, which would take its stream from each other: annotate it with " POLICY_PREFIX
                                           "replication=log, or scale it to 1", (unsigned long long)replicas);
    return 0;
}

void policy_text(const struct policy *p, const struct policy_annotation *a, char *to, size_t cap)
{
    const char *at = (const char *)p + a->at;
    uint64_t ms;
    switch (a->kind) {
    case POLICY_BOOL: snprintf(to, cap, "%s", *(const bool *)at ? "true" : "false"); break;
    case POLICY_DURATION:
        ms = *(const uint64_t *)(const void *)at;
        snprintf(to, cap, ms % 1000 == 0 ? "%" PRIu64 "s" : "%" PRIu64 "ms", ms % 1000 == 0 ? ms / 1000 : ms);
        break;
    case POLICY_NUMBER: snprintf(to, cap, "%" PRIu32, *(const uint32_t *)(const void *)at); break;
    case POLICY_WORD:
    case POLICY_NAME:
    case POLICY_ORDERING:
    case POLICY_OBJECT:
    case POLICY_SOURCE:
    case POLICY_TEXT: snprintf(to, cap, "%s", at); break;
    }
}
