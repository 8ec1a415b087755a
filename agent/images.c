#include "agent/images.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "checkpoint/tree.h"
#include "common/log.h"

enum { IMAGE_MAX_TIMES = 4, PEERS_MAX = 64, PEER_PORT = 7443 };

int images_reference(const struct agent *a, const struct pod *pod, const char *id, char ret_reference[AGENT_REFERENCE_MAX], struct error *e)
{
    const char *where = pod->has_registry ? pod->registry : a->settings.registry;
    *ret_reference = '\0';
    if (*where == '\0') return 0;
    if (snprintf(ret_reference, AGENT_REFERENCE_MAX, "%s/%s:%s", where, pod->stream, id) >= AGENT_REFERENCE_MAX)
        return error_set(e, ERROR_INVALID, "the image's name is too long");
    /* a stream's characters are those of a repository's name once they are small */
    for (char *p = ret_reference + strlen(where); *p != '\0' && *p != ':'; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p - 'A' + 'a');
    return 0;
}

int images_unpush(struct agent *a, const char *reference, struct error *e)
{
    char base[300], repository[700], digest[OCI_DIGEST_MAX];
    struct registry r;
    const char *tag = strrchr(reference, ':');
    if (tag == NULL || strchr(tag, '/') != NULL) return error_set(e, ERROR_INVALID, "\"%.150s\" names no tag", reference);
    int rc = agent_registry(a, reference, base, repository, &r, e);
    if (rc == 0) rc = registry_resolve(&r, tag + 1, digest, e);
    if (rc == 0) rc = registry_delete(&r, digest, e);
    return rc == -ERROR_NOT_FOUND ? 0 : rc;
}

/* ---- one place --------------------------------------------------------------------------------------------------- */

/* On success it is listed, and held once. */
static int fetch_from(struct agent *a, const struct registry *r, const char *stream, const struct ledger_snapshot *s, struct error *e)
{
    char path[PATH_MAX];
    struct oci_image image;
    int rc = store_place(a->store, stream, s->id, path, e);
    if (rc == 0) rc = tree_remove(path, e); /* not listed: nobody's */
    if (rc == 0) rc = registry_fetch(r, s->digest, path, a->settings.store_budget, e);
    if (rc == 0) rc = oci_image_inspect(path, s->digest, &image, e);
    if (rc == 0 && (strcmp(image.labels.stream, stream) != 0 || image.labels.offset != s->offset))
        rc = error_set(e, ERROR_CORRUPT, "the image of %s says that it is of %.100s", s->id, image.labels.stream);
    if (rc == 0) rc = store_add(a->store, s->id, &image, e);
    if (rc != 0) tree_remove(path, NULL);
    return rc;
}

/* Held by the caller afterwards, if it is here and the one that the log means. */
static bool hold_here(struct agent *a, const char *stream, const struct ledger_snapshot *s, struct store_image *ret_image)
{
    if (!store_hold(a->store, stream, s->id, ret_image)) return false;
    if (strcmp(ret_image->image.digest, s->digest) == 0) return true;
    store_release(a->store, ret_image);
    store_remove(a->store, stream, s->id, NULL); /* another life's of the same name */
    return false;
}

int images_fetch(struct agent *a, const char *stream, const struct ledger_snapshot *s, const char *const *from, struct store_image *ret_image, struct error *e)
{
    char base[300], repository[700];
    struct registry r;
    if (hold_here(a, stream, s, ret_image)) return 0;
    int rc = error_set(e, ERROR_NOT_FOUND, "checkpoint %s is on no node that is known, and was pushed nowhere", s->id);
    for (; from != NULL && *from != NULL && rc != 0; from++) {
        r = (struct registry){.base = *from, .repository = "images", .tls = &a->tls};
        rc = fetch_from(a, &r, stream, s, e);
    }
    if (rc != 0 && *s->image != '\0') {
        rc = agent_registry(a, s->image, base, repository, &r, e);
        if (rc == 0) rc = fetch_from(a, &r, stream, s, e);
    }
    if (rc != 0) return rc;
    if (!store_hold(a->store, stream, s->id, ret_image)) return error_set(e, ERROR_INTERNAL, "an image that was fetched is gone");
    store_release(a->store, ret_image); /* store_add()'s hold: the caller's stays */
    store_evict(a->store);
    return 0;
}

/* ---- all places, until one is good ------------------------------------------------------------------------------- */

struct search {
    struct agent *agent;
    const struct pod *pod;
    const struct ledger_snapshot *wanted;
    const char *path;
    bool damaged, silent; /* a copy was bad; one who may have a copy said nothing */
    struct error *e;
};

static int check_labels(const struct search *s, const struct oci_image *image)
{
    if (strcmp(image->labels.stream, s->pod->stream) != 0 || image->labels.offset != s->wanted->offset)
        return error_set(s->e, ERROR_CORRUPT, "the image is of another stream or offset than the log says");
    if (strcmp(image->labels.spec, s->pod->spec) != 0) return error_set(s->e, ERROR_CONFLICT, "it was dumped from a container with other rights or mounts");
    return 0;
}

/* The copy that is here, once held. True: the search is over, with *ret_rc. A bad copy is removed. */
static bool unpack(struct search *s, struct store_image *held, int *ret_rc)
{
    struct oci_image image;
    int rc = tree_remove(s->path, s->e);
    if (rc == 0) rc = oci_image_unpack(held->path, s->wanted->digest, s->path, held->image.size * IMAGE_MAX_TIMES + (1 << 20), &image, s->e);
    store_release(s->agent->store, held);
    if (rc == -ERROR_CORRUPT || rc == -ERROR_INVALID || rc == -ERROR_NOT_FOUND) {
        store_remove(s->agent->store, s->pod->stream, s->wanted->id, NULL);
        log_warn("a copy is damaged, and removed", "stream=%s checkpoint=%s reason=%s", s->pod->stream, s->wanted->id, s->e->text);
        s->damaged = true;
        return false;
    }
    *ret_rc = rc == 0 ? check_labels(s, &image) : rc;
    return true;
}

static bool try_place(struct search *s, const struct registry *r, int *ret_rc)
{
    struct store_image held;
    int rc = fetch_from(s->agent, r, s->pod->stream, s->wanted, s->e);
    if (rc == -ERROR_CORRUPT) s->damaged = true;
    else if (rc != 0 && rc != -ERROR_NOT_FOUND) s->silent = true;
    if (rc != 0) {
        log_warn("no copy from there", "checkpoint=%s from=%s reason=%s", s->wanted->id, r->base, s->e->text);
        return false;
    }
    if (!store_hold(s->agent->store, s->pod->stream, s->wanted->id, &held)) {
        *ret_rc = error_set(s->e, ERROR_INTERNAL, "an image that was fetched is gone");
        return true;
    }
    store_release(s->agent->store, &held); /* store_add()'s; unpack() gives ours back */
    bool over = unpack(s, &held, ret_rc);
    store_evict(s->agent->store);
    return over;
}

/* An agent of --peers: "host" or "host:port"; each address of a name is one. */
static bool try_peer(struct search *s, const char *peer, int *ret_rc)
{
    char host[256], base[300], number[64], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = NULL;
    bool over = false;
    snprintf(host, sizeof host, "%.*s", (int)strcspn(peer, ","), peer);
    char *colon = strrchr(host, ':');
    snprintf(port, sizeof port, "%.10s", colon != NULL ? colon + 1 : "");
    if (colon == NULL) snprintf(port, sizeof port, "%d", PEER_PORT);
    else *colon = '\0';
    if (getaddrinfo(host, port, &hints, &all) != 0) {
        log_warn("agents cannot be found by that name", "name=%s", host);
        s->silent = true;
    }
    unsigned n = 0;
    for (struct addrinfo *i = all; i != NULL && !over && n < PEERS_MAX; i = i->ai_next, n++) {
        if (getnameinfo(i->ai_addr, i->ai_addrlen, number, sizeof number, NULL, 0, NI_NUMERICHOST) != 0) continue;
        snprintf(base, sizeof base, strchr(number, ':') != NULL ? "https://[%s]:%s" : "https://%s:%s", number, port);
        over = try_place(s, &(struct registry){.base = base, .repository = "images", .tls = &s->agent->tls}, ret_rc);
    }
    if (all != NULL) freeaddrinfo(all);
    return over;
}

/* The registry before other agents: one of them may be on the node that was lost. */
static bool find(struct search *s, int *ret_rc)
{
    char base[300], repository[700];
    struct store_image held;
    struct registry r;
    if (hold_here(s->agent, s->pod->stream, s->wanted, &held) && unpack(s, &held, ret_rc)) return true;
    if (*s->wanted->image != '\0') {
        if (agent_registry(s->agent, s->wanted->image, base, repository, &r, s->e) != 0) s->silent = true;
        else if (try_place(s, &r, ret_rc)) return true;
    }
    for (const char *p = s->agent->settings.peers; *p != '\0'; p += strcspn(p, ","), p += *p == ',')
        if (try_peer(s, p, ret_rc)) return true;
    return false;
}

int images_prepare(struct agent *a, const struct pod *pod, const struct ledger_snapshot *s, const char *path, struct error *e)
{
    struct search search = {.agent = a, .pod = pod, .wanted = s, .path = path, .e = e};
    char said[160];
    int rc = 0;
    error_set(e, ERROR_NOT_FOUND, "it is on no node that is known, and was pushed nowhere");
    if (find(&search, &rc)) {
        if (rc != 0) tree_remove(path, NULL);
        return rc;
    }
    tree_remove(path, NULL);
    snprintf(said, sizeof said, "%.150s", e->text);
    if (search.silent) return error_set(e, ERROR_UNAVAILABLE, "who may have a good copy cannot be asked now: %s", said);
    if (search.damaged) return error_set(e, ERROR_CORRUPT, "every copy is damaged or gone: %s", said);
    return -ERROR_NOT_FOUND;
}
