#include "logd/server/roll.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mutant.h"

#define ROLL_ADVICE "If a server has a leader: crsc-logctl members. If none has a log yet (no .seg file in DATA-DIR/wal): stop all, empty the data-dir of each, start them"

enum { SAID_MAX = 1024 }; /* bytes; CONSENSUS_MEMBERS_MAX of them take a quarter of that */

static struct roll_place *find(struct roll *r, uint64_t id)
{
    for (unsigned i = 0; i < r->n; i++)
        if (r->places[i].id == id) return &r->places[i];
    return NULL;
}

/* Another one is there, or, with instance 0, nobody: what was said from this place is not waited for any more. */
static void occupy(struct roll_place *p, uint64_t instance)
{
    p->said = blob_unref(p->said);
    p->founded = false;
    p->instance = instance;
}

/* Of what another server's roll differs in, what a person can mend. */
static int differs(const struct roll *r, const struct roll_place *p, struct error *e)
{
    struct membership theirs;
    bool same_ids = membership_decode(p->said->data, p->said->len, &theirs) == 0 && theirs.n == r->n;
    for (unsigned i = 0; same_ids && i < r->n; i++) same_ids = membership_find(&theirs, r->places[i].id) != NULL;
    if (!same_ids)
        return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " was started with another initial-cluster: it has to be the same on each server", p->id);
    return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " has met other data directories than this server: one was emptied or replaced while the cluster was "
                     "founded. " ROLL_ADVICE, p->id);
}

static int compare(struct roll *r, struct roll_place *p, struct error *e)
{
    if (r->entry == NULL || p->said == NULL) return 0;
    p->agrees = blob_equal(r->entry, p->said->data, p->said->len);
    if (p->agrees && p->founded) r->founded = true;
    return p->agrees ? 0 : differs(r, p, e);
}

/* The last place was filled: the first entry can be made, and what the others have told so far be looked at. */
static int fill(struct roll *r, struct error *e)
{
    struct consensus_member members[CONSENSUS_MEMBERS_MAX];
    char names[CONSENSUS_MEMBERS_MAX][24];
    int rv;
    for (unsigned i = 0; i < r->n; i++) {
        if (r->places[i].instance == 0) return 0;
        snprintf(names[i], sizeof names[i], "%" PRIu64, r->places[i].id); /* the entry names no addresses */
        members[i] = (struct consensus_member){.id = r->places[i].id, .address = names[i], .instance = r->places[i].instance};
    }
    if ((rv = consensus_first_entry(members, r->n, &r->entry, e)) != 0) return rv;
    for (unsigned i = 0; i < r->n && rv == 0; i++) rv = compare(r, &r->places[i], e);
    return rv;
}

int roll_init(struct roll *r, const struct consensus_member *members, unsigned n, uint64_t own, uint64_t instance, struct error *e)
{
    struct blob *entry;
    *r = (struct roll){0};
    int rv = consensus_first_entry(members, n, &entry, e); /* they are different, and not too many */
    if (rv != 0) return rv;
    blob_unref(entry);
    r->n = n;
    for (unsigned i = 0; i < n; i++) {
        r->places[i] = (struct roll_place){.id = members[i].id, .agrees = members[i].id == own};
        if (members[i].id == own) r->places[i].instance = instance;
    }
    return fill(r, e);
}

void roll_fini(struct roll *r)
{
    for (unsigned i = 0; i < r->n; i++) blob_unref(r->places[i].said);
    blob_unref(r->entry);
    *r = (struct roll){0};
}

int roll_met(struct roll *r, uint64_t id, uint64_t instance, struct error *e)
{
    struct roll_place *p = find(r, id);
    if (p == NULL || instance == 0 || p->instance == instance) return 0;
    if (r->entry != NULL && MUTANT(accept_emptied)) {
        r->entry = blob_unref(r->entry);
        p->agrees = false;
    }
    if (r->entry != NULL)
        return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " comes with another data directory than when all had met. " ROLL_ADVICE, id);
    occupy(p, instance);
    int rv = fill(r, e);
    if (rv == -ERROR_NOMEM) p->instance = 0;
    return rv == -ERROR_NOMEM ? rv : r->entry != NULL; /* a roll that differs is its teller's to hear of */
}

void roll_left(struct roll *r, uint64_t id)
{
    struct roll_place *p = find(r, id);
    if (p != NULL && r->entry == NULL) occupy(p, 0);
}

int roll_told(struct roll *r, uint64_t id, uint64_t instance, const void *entry, size_t len, bool founded, struct error *e)
{
    struct roll_place *p = find(r, id);
    if (p == NULL || instance == 0 || p->instance != instance) return 0;
    if (len > SAID_MAX) return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " tells a roll of %zu bytes", id, len);
    if (p->said == NULL) {
        if ((p->said = blob_new(len)) == NULL) return error_set(e, ERROR_NOMEM, "no memory for another server's roll");
        memcpy(p->said->data, entry, len);
    }
    if (!blob_equal(p->said, entry, len)) return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " tells another roll than before, with the same data directory", id);
    p->founded = p->founded || founded;
    return compare(r, p, e);
}

bool roll_agreed(const struct roll *r)
{
    unsigned agree = 0, wanted = MUTANT(found_unheard) ? 1 : MUTANT(found_by_majority) ? r->n / 2 + 1 : r->n;
    for (unsigned i = 0; i < r->n; i++) agree += r->places[i].agrees;
    return r->entry != NULL && (r->founded || agree >= wanted);
}

void roll_missing(const struct roll *r, size_t size, char *ret_text)
{
    size_t len = 0;
    ret_text[0] = '\0';
    for (unsigned i = 0; i < r->n && len < size; i++) {
        const struct roll_place *p = &r->places[i];
        if (p->agrees) continue;
        const char *why = p->instance == 0 ? "not met yet" : p->said == NULL ? "has not said that it has met all" : "has met others";
        int n = snprintf(ret_text + len, size - len, "%sserver %" PRIu64 " (%s)", len == 0 ? "" : ", ", p->id, why);
        len += n < 0 ? 0 : (size_t)n;
    }
}
