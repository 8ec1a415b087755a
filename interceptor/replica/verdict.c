#include "interceptor/replica/verdict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

static const char mark[] = "\nvote ";          /* NAME: nobody says of which version */
static const char mark_of[] = "\nvote-of "; /* VERSION NAME: older interceptors, which would count it, do not know it for a vote */

struct verdicts *verdicts_new(const char *name, const char *version, unsigned replicas)
{
    struct verdicts *v = calloc(1, sizeof *v); /* untouched pages take no memory */
    if (v == NULL) return NULL;
    snprintf(v->name, sizeof v->name, "%s", name);
    snprintf(v->version, sizeof v->version, "%s", version);
    v->replicas = replicas;
    return v;
}

void verdicts_count(struct verdicts *v, unsigned replicas)
{
    v->replicas = replicas;
}

struct verdicts *verdicts_free(struct verdicts *v)
{
    free(v);
    return NULL;
}

void verdicts_attached(struct verdicts *v)
{
    for (size_t i = 0; i < VERDICT_OWN; i++)
        if (v->own[i].offset != 0) v->own[i].offset = 0;
    memset(v->disputes, 0, sizeof v->disputes);
    v->newest = 0;
}

static const struct answer_digest *own(const struct verdicts *v, uint64_t offset)
{
    return v->own[offset % VERDICT_OWN].offset == offset ? &v->own[offset % VERDICT_OWN].digest : NULL;
}

static bool same(const struct answer_digest *a, const struct answer_digest *b)
{
    return a->status == b->status && memcmp(a->sha256, b->sha256, DIGEST_SIZE) == 0;
}

static struct dispute *find(struct verdicts *v, uint64_t offset)
{
    for (unsigned i = 0; i < VERDICT_OPEN; i++)
        if (v->disputes[i].offset == offset) return &v->disputes[i];
    return NULL;
}

static struct dispute *open_dispute(struct verdicts *v, uint64_t offset)
{
    struct dispute *d = find(v, offset);
    if (d != NULL) return d;
    d = &v->disputes[v->next++ % VERDICT_OPEN];
    memset(d, 0, sizeof *d);
    d->offset = offset;
    return d;
}

/* The digest that a majority of all replicas has; NULL: none. */
static const struct answer_digest *majority(const struct verdicts *v, const struct dispute *d)
{
    for (unsigned i = 0; i < d->n_votes; i++) {
        unsigned n = 0;
        for (unsigned k = 0; k < d->n_votes; k++) n += same(&d->votes[i].digest, &d->votes[k].digest);
        if (n > v->replicas / 2) return &d->votes[i].digest;
    }
    return NULL;
}

static bool differ(const struct dispute *d)
{
    for (unsigned i = 1; i < d->n_votes; i++)
        if (!same(&d->votes[0].digest, &d->votes[i].digest)) return true;
    return false;
}

/* Each outcome of a dispute is told once. */
static enum verdict judge(const struct verdicts *v, struct dispute *d)
{
    if (v->replicas == 0) return VERDICT_NOTHING; /* what was told stays so until there is a count */
    const struct answer_digest *right = majority(v, d), *ours = own(v, d->offset);
    enum verdict now = VERDICT_NOTHING;
    if (right != NULL)
        now = ours != NULL && !same(ours, right) ? VERDICT_DIVERGED : VERDICT_SETTLED;
    else if (differ(d))
        now = VERDICT_DISAGREEMENT;
    if (now == d->told) return VERDICT_NOTHING;
    d->told = now;
    return now;
}

static bool is_decided(const struct dispute *d)
{
    return d->told == VERDICT_SETTLED || d->told == VERDICT_DIVERGED;
}

bool verdicts_again(struct verdicts *v, uint64_t *offset, enum verdict *ret)
{
    struct dispute *next = NULL;
    for (unsigned i = 0; i < VERDICT_OPEN; i++) {
        struct dispute *d = &v->disputes[i];
        if (d->offset > *offset && !is_decided(d) && (next == NULL || d->offset < next->offset)) next = d;
    }
    if (next == NULL) return false;
    *offset = next->offset;
    *ret = judge(v, next);
    return true;
}

enum verdict verdicts_own(struct verdicts *v, uint64_t offset, const struct answer_digest *digest, bool *ret_cast)
{
    struct dispute *d = find(v, offset);
    v->own[offset % VERDICT_OWN].offset = offset;
    v->own[offset % VERDICT_OWN].digest = *digest;
    *ret_cast = d != NULL && !d->cast;
    if (d == NULL) return VERDICT_NOTHING;
    d->cast = true;
    return judge(v, d);
}

enum verdict verdicts_differs(struct verdicts *v, uint64_t offset)
{
    if (own(v, offset) == NULL || (v->newest != 0 && offset < v->newest + VERDICT_EVERY)) return VERDICT_NOTHING;
    struct dispute *d = open_dispute(v, offset);
    if (d->cast) return VERDICT_NOTHING;
    v->newest = offset;
    d->cast = true;
    return VERDICT_CAST;
}

enum verdict verdicts_read(struct verdicts *v, uint64_t offset, const struct verdict_vote *vote, bool *ret_cast)
{
    *ret_cast = false;
    if (strcmp(vote->version, v->version) != 0) return VERDICT_NOTHING;
    struct dispute *d = open_dispute(v, offset);
    unsigned i = 0;
    while (i < d->n_votes && strcmp(d->votes[i].replica, vote->replica) != 0) i++;
    if (i == VERDICT_REPLICAS_MAX) return VERDICT_NOTHING;
    d->votes[i] = *vote;
    if (i == d->n_votes) d->n_votes++;
    if (strcmp(vote->replica, v->name) == 0) d->cast = true;
    *ret_cast = !d->cast && own(v, offset) != NULL;
    d->cast = d->cast || *ret_cast;
    return judge(v, d);
}

size_t verdict_print(const struct verdicts *v, uint64_t offset, char text[static VERDICT_TEXT_MAX])
{
    const struct answer_digest *digest = own(v, offset);
    if (digest == NULL) return 0;
    size_t len = digest_print(digest, text);
    if (v->version[0] == '\0') return len + (size_t)snprintf(text + len, VERDICT_TEXT_MAX - len, "%s%s", mark, v->name);
    return len + (size_t)snprintf(text + len, VERDICT_TEXT_MAX - len, "%s%s %s", mark_of, v->version, v->name);
}

/* 1 to `max` bytes of text. */
static bool take(char *into, const char *at, size_t len, size_t max)
{
    if (len == 0 || len > max || memchr(at, '\0', len) != NULL) return false;
    memcpy(into, at, len);
    into[len] = '\0';
    return true;
}

/* What follows `prefix` at *at, if it begins with that. */
static bool skip(const char **at, const char *end, const char *prefix)
{
    size_t n = strlen(prefix);
    if ((size_t)(end - *at) < n || memcmp(*at, prefix, n) != 0) return false;
    *at += n;
    return true;
}

int verdict_parse(const void *text, size_t len, struct verdict_vote *ret)
{
    if (len == 0 || digest_parse(text, len, &ret->digest) != 0) return -ERROR_CORRUPT;
    const char *end = (const char *)text + len, *at = memchr(text, '\n', len);
    ret->version[0] = '\0';
    if (at == NULL) return -ERROR_CORRUPT;
    if (skip(&at, end, mark_of)) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        if (space == NULL || !take(ret->version, at, (size_t)(space - at), VERDICT_VERSION_MAX)) return -ERROR_CORRUPT;
        at = space + 1;
    } else if (!skip(&at, end, mark)) {
        return -ERROR_CORRUPT;
    }
    return take(ret->replica, at, (size_t)(end - at), VERDICT_NAME_MAX) ? 0 : -ERROR_CORRUPT;
}
