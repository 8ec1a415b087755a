#include "logd/consensus/membership.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static struct membership_server *find(struct membership *m, uint64_t id)
{
    for (unsigned i = 0; i < m->n; i++)
        if (m->servers[i].id == id) return &m->servers[i];
    return NULL;
}

const struct membership_server *membership_find(const struct membership *m, uint64_t id)
{
    for (unsigned i = 0; i < m->n; i++)
        if (m->servers[i].id == id) return &m->servers[i];
    return NULL;
}

bool membership_votes(const struct membership *m, uint64_t id)
{
    const struct membership_server *s = membership_find(m, id);
    return s != NULL && s->voter;
}

unsigned membership_voters(const struct membership *m)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->n; i++) n += m->servers[i].voter;
    return n;
}

bool membership_removed_data(const struct membership *m, uint64_t id, uint64_t instance)
{
    for (unsigned i = 0; instance != 0 && i < m->n_removed; i++)
        if (m->removed[i].id == id && m->removed[i].instance == instance) return true;
    return false;
}

bool membership_was_removed(const struct membership *m, uint64_t id, uint64_t instance)
{
    if (membership_removed_data(m, id, instance)) return true;
    for (unsigned i = 0; i < m->n_removed; i++)
        if (m->removed[i].id == id && m->removed[i].instance == 0) return membership_find(m, id) == NULL;
    return false;
}

int membership_add(struct membership *m, uint64_t id, const char *address, struct error *e)
{
    if (id == 0 || address[0] == '\0' || strlen(address) >= MEMBERSHIP_ADDRESS)
        return error_set(e, ERROR_INVALID, "a server has an id from 1 on and an address of 1 to %d bytes", MEMBERSHIP_ADDRESS - 1);
    for (unsigned i = 0; i < m->n; i++) {
        const struct membership_server *s = &m->servers[i];
        bool here = strcmp(s->address, address) == 0;
        if (s->id == id && here) return 0;
        if (s->id == id || here)
            return error_set(e, ERROR_EXISTS, "server %" PRIu64 " is a member already, at %s: remove it first", s->id, s->address);
    }
    if (m->n == MEMBERSHIP_MAX) return error_set(e, ERROR_TOO_LARGE, "a cluster has at most %d servers", MEMBERSHIP_MAX);
    struct membership_server *s = &m->servers[m->n++];
    *s = (struct membership_server){.id = id};
    snprintf(s->address, sizeof s->address, "%s", address);
    return 0;
}

int membership_promote(struct membership *m, uint64_t id, struct error *e)
{
    struct membership_server *s = find(m, id);
    if (s == NULL) return error_set(e, ERROR_NOT_FOUND, "server %" PRIu64 " is not a member: add it first", id);
    s->voter = true;
    return 0;
}

int membership_remove(struct membership *m, uint64_t id, struct error *e)
{
    struct membership_server *s = find(m, id);
    if (s == NULL) return error_set(e, ERROR_NOT_FOUND, "server %" PRIu64 " is not a member", id);
    if (s->voter && membership_voters(m) == 1)
        return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " is the only voter: without it there is no cluster", id);
    if (m->n_removed == MEMBERSHIP_REMOVED_MAX) {
        m->n_removed--;
        memmove(&m->removed[0], &m->removed[1], sizeof m->removed[0] * m->n_removed);
    }
    m->removed[m->n_removed].id = id;
    m->removed[m->n_removed++].instance = s->instance;
    unsigned at = (unsigned)(s - m->servers);
    memmove(s, s + 1, sizeof *s * (m->n - at - 1));
    m->n--;
    return 0;
}

bool membership_note(struct membership *m, uint64_t id, const char *address, uint64_t instance)
{
    struct membership_server *s = find(m, id);
    bool news = false;
    if (s == NULL) return false;
    if (s->instance == 0 && instance != 0) s->instance = instance, news = true;
    if (s->instance != instance || address[0] == '\0' || strlen(address) >= MEMBERSHIP_ADDRESS || strcmp(s->address, address) == 0) return news;
    for (unsigned i = 0; i < m->n; i++)
        if (m->servers[i].id != id && strcmp(m->servers[i].address, address) == 0) return news;
    snprintf(s->address, sizeof s->address, "%s", address);
    return true;
}

bool membership_equal(const struct membership *a, const struct membership *b)
{
    if (a->n != b->n || a->n_removed != b->n_removed) return false;
    for (unsigned i = 0; i < a->n; i++) {
        const struct membership_server *s = &a->servers[i], *t = &b->servers[i];
        if (s->id != t->id || s->voter != t->voter || s->instance != t->instance || strcmp(s->address, t->address) != 0) return false;
    }
    for (unsigned i = 0; i < a->n_removed; i++)
        if (a->removed[i].id != b->removed[i].id || a->removed[i].instance != b->removed[i].instance) return false;
    return true;
}

bool membership_may_follow(const struct membership *m, const struct membership *next)
{
    unsigned changed = 0;
    for (unsigned i = 0; i < m->n; i++) changed += m->servers[i].voter && !membership_votes(next, m->servers[i].id);
    for (unsigned i = 0; i < next->n; i++) changed += next->servers[i].voter && !membership_votes(m, next->servers[i].id);
    return changed <= 1 && membership_voters(next) > 0;
}
