#include "logd/server/access.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/server/rpc_stream.h"

struct rule {
    enum access_role role;
    char *pattern; /* peer: an id or "*"; admin, operator: NULL */
};

struct access {
    struct rule rules[2 * TLS_NAMES_MAX]; /* a name is at most two */
    unsigned n;
    bool peers_protocol;
    char subject[128]; /* for messages */
};

static const char prefix[] = "URI:crsc://role/";

static const struct {
    const char *name;
    enum access_role role;
    bool has_pattern;
} roles[] = {
    {"peer", ACCESS_PEER, true},         {"admin", ACCESS_ADMIN, false},   {"operator", ACCESS_OPERATOR, false},
    {"producer", ACCESS_PRODUCER, true}, {"reader", ACCESS_READER, true},
};
enum { ROLES = sizeof roles / sizeof *roles };

/* ---- the table ------------------------------------------------------------------------------------------------ */

enum { ALL_CLIENTS = ACCESS_ADMIN | ACCESS_OPERATOR | ACCESS_PRODUCER | ACCESS_READER };

/* What a request of the type needs: one of these roles. Of producer and reader, one whose pattern matches the stream, where the request is about one.
 * A type that is not here is nobody's. docs/OPERATIONS.md shows this table; test_access.c has a test for each cell. */
static const struct {
    uint16_t type;
    unsigned allowed;
    bool stream; /* the request names one */
    const char *what;
} table[] = {
    {FRAME_OPEN_PRODUCER, ACCESS_ADMIN | ACCESS_PRODUCER, true, "opening"},
    {FRAME_APPEND, ACCESS_ADMIN | ACCESS_PRODUCER, true, "appending to"},
    {FRAME_FENCE, ACCESS_ADMIN | ACCESS_OPERATOR, true, "fencing"},
    {FRAME_RECORD_SNAPSHOT, ACCESS_ADMIN | ACCESS_OPERATOR, true, "recording a snapshot of"},
    {FRAME_TRIM, ACCESS_ADMIN | ACCESS_OPERATOR, true, "trimming"},
    {FRAME_SET_RETENTION, ACCESS_ADMIN | ACCESS_OPERATOR, true, "setting the retention of"},
    {FRAME_READ, ALL_CLIENTS, true, "reading"},
    {FRAME_FOLLOW, ALL_CLIENTS, true, "following"},
    {FRAME_LATEST_SNAPSHOT, ALL_CLIENTS, true, "reading snapshots of"},
    {FRAME_LIST_SNAPSHOTS, ALL_CLIENTS, true, "reading snapshots of"},
    {FRAME_FOLLOW_CREDIT, ALL_CLIENTS, false, "a follow"},        /* of a follow that was allowed on this connection */
    {FRAME_FOLLOW_CANCEL, ALL_CLIENTS, false, "a follow"},
    {FRAME_LIST_STREAMS, ALL_CLIENTS, false, "listing streams"},  /* it sees those that it may read: access_sees() */
    {FRAME_STATUS, ALL_CLIENTS, false, "asking for the status"},
    {FRAME_ADD_SERVER, ACCESS_ADMIN, false, "adding a server"},
    {FRAME_PROMOTE_SERVER, ACCESS_ADMIN, false, "promoting a server"},
    {FRAME_REMOVE_SERVER, ACCESS_ADMIN, false, "removing a server"},
    {FRAME_TRANSFER_LEADERSHIP, ACCESS_ADMIN, false, "moving leadership"},
    {FRAME_FETCH_STATE, ACCESS_ADMIN, false, "a backup"},
    {FRAME_FETCH_BYTES, ACCESS_ADMIN, false, "a backup"},
};

/* ---- roles ---------------------------------------------------------------------------------------------------- */

bool access_match(const char *pattern, const char *name, size_t len)
{
    /* One star is tried at a time: when what follows does not match, it takes one more character. Linear in pattern times name. */
    const char *star = NULL, *p = pattern, *end = name + len, *n = name, *from = NULL;
    while (n < end) {
        if (*p == '*') {
            star = p++;
            from = n;
        } else if (*p != '\0' && *p == *n) {
            p++;
            n++;
        } else if (star != NULL) {
            p = star + 1;
            n = ++from;
        } else {
            return false;
        }
    }
    while (*p == '*') p++;
    return *p == '\0';
}

static bool add_pattern(struct access *a, enum access_role role, const char *pattern)
{
    if ((a->rules[a->n].pattern = strdup(pattern)) == NULL) return false;
    a->rules[a->n++].role = role;
    return true;
}

/* False without memory. */
static bool add_rule(struct access *a, const char *text)
{
    for (unsigned i = 0; i < ROLES; i++) {
        size_t len = strlen(roles[i].name);
        if (strncmp(text, roles[i].name, len) != 0) continue;
        const char *pattern = text + len;
        if (!roles[i].has_pattern) {
            if (*pattern != '\0') continue;
            a->rules[a->n++].role = roles[i].role;
            if (roles[i].role == ACCESS_OPERATOR && !add_pattern(a, ACCESS_PRODUCER, "*/restores")) return false;
            continue;
        }
        if (pattern[0] != '/' || pattern[1] == '\0') continue; /* without a pattern it is for no stream */
        if (!add_pattern(a, roles[i].role, pattern + 1)) return false;
    }
    return true;
}

struct access *access_new(const struct tls_peer *peer)
{
    struct access *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    a->peers_protocol = strcmp(peer->protocol, ACCESS_PEER_PROTOCOL) == 0;
    snprintf(a->subject, sizeof a->subject, "%s", peer->subject[0] != '\0' ? peer->subject : "(no subject)");
    for (unsigned i = 0; i < peer->n_names && i < TLS_NAMES_MAX; i++)
        if (strncmp(peer->names[i], prefix, sizeof prefix - 1) == 0 && !add_rule(a, peer->names[i] + sizeof prefix - 1))
            return access_free(a);
    return a;
}

struct access *access_free(struct access *a)
{
    if (a == NULL) return NULL;
    for (unsigned i = 0; i < a->n; i++) free(a->rules[i].pattern);
    free(a);
    return NULL;
}

/* ---- questions ------------------------------------------------------------------------------------------------ */

/* A role among `allowed` is there; `stream` NULL: the request is about none. */
static bool granted(const struct access *a, unsigned allowed, const char *stream, size_t len)
{
    for (unsigned i = 0; i < a->n; i++) {
        const struct rule *r = &a->rules[i];
        if ((r->role & allowed) != 0 && (r->pattern == NULL || stream == NULL || access_match(r->pattern, stream, len))) return true;
    }
    return false;
}

int access_check_peer(const struct access *a, uint64_t id, struct error *e)
{
    char text[24];
    int len = snprintf(text, sizeof text, "%" PRIu64, id);
    if (a == NULL) return 0;
    if (!a->peers_protocol) return error_set(e, ERROR_DENIED, "who wants to be a server must speak the servers' protocol (ALPN " ACCESS_PEER_PROTOCOL ")");
    if (granted(a, ACCESS_PEER, text, (size_t)len)) return 0;
    return error_set(e, ERROR_DENIED, "the certificate %s is not server %s's: it lacks the name URI:crsc://role/peer/%s", a->subject, text, text);
}

int access_check_client(const struct access *a, struct error *e)
{
    if (a == NULL) return 0;
    if (a->peers_protocol) return error_set(e, ERROR_DENIED, "a client must not speak the servers' protocol (ALPN " ACCESS_PEER_PROTOCOL ")");
    if (granted(a, ALL_CLIENTS, NULL, 0)) return 0;
    return error_set(e, ERROR_DENIED, "the certificate %s has no role: it lacks a name such as URI:crsc://role/reader/*", a->subject);
}

/* "admin, producer/..." */
static void list_roles(unsigned allowed, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < ROLES && at < size; i++)
        if ((roles[i].role & allowed) != 0)
            at += (size_t)snprintf(text + at, size - at, "%s%s%s", at > 0 ? ", " : "", roles[i].name, roles[i].has_pattern ? "/..." : "");
}

int access_check(const struct access *a, const struct frame *f, struct error *e)
{
    const char *stream = NULL;
    size_t len = 0;
    char needed[64];
    if (a == NULL) return 0;
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].type != f->type) continue;
        if (table[i].stream && rpc_stream(f, &stream, &len) != 0)
            return error_set(e, ERROR_INVALID, "a request of type %u does not name its stream in a way that can be checked", f->type);
        if (!a->peers_protocol && granted(a, table[i].allowed, stream, len)) return 0;
        list_roles(table[i].allowed, needed, sizeof needed);
        return error_set(e, ERROR_DENIED, "the certificate %s does not allow %s %.*s: it needs one of the roles %s", a->subject, table[i].what,
                         len > 100 ? 100 : (int)len, stream != NULL ? stream : "", needed);
    }
    return error_set(e, ERROR_DENIED, "a request of type %u is allowed to nobody here", f->type);
}

bool access_sees(const struct access *a, const char *stream)
{
    return a == NULL || granted(a, ALL_CLIENTS, stream, strlen(stream));
}
