#include "logd/server/scrub_plan.h"

#include <inttypes.h>
#include <stdio.h>

static struct scrub_suspect *find(const struct scrub_plan *p, uint64_t segment)
{
    for (unsigned i = 0; i < p->n; i++)
        if (p->suspects[i].segment == segment) return (struct scrub_suspect *)(uintptr_t)&p->suspects[i];
    return NULL;
}

const struct scrub_suspect *scrub_plan_find(const struct scrub_plan *p, uint64_t segment)
{
    return find(p, segment);
}

static void forget(struct scrub_plan *p, struct scrub_suspect *s)
{
    *s = p->suspects[--p->n];
    if (!scrub_plan_alarm(p)) p->since_ms = p->handed_ms = 0;
}

/* ---- what is next --------------------------------------------------------------------------------------------- */

static const struct scrub_segment *lookup(const struct scrub_segment *list, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].id == id) return &list[i];
    return NULL;
}

static enum scrub_step next_suspect(struct scrub_plan *p, uint64_t now, const struct scrub_segment *list, size_t n, uint64_t *ret_segment)
{
    for (unsigned i = 0; i < p->n;) {
        struct scrub_suspect *s = &p->suspects[i];
        const struct scrub_segment *is = lookup(list, n, s->segment);
        if (is == NULL) {
            forget(p, s); /* nobody needed it any more */
            continue;
        }
        i++;
        if (s->next_ms > now || is->held) continue;
        *ret_segment = s->segment;
        if (is->sealed) return SCRUB_LOOK;
        s->next_ms = now + SCRUB_SEAL_MS;
        s->why = SCRUB_FILLS;
        return SCRUB_ROLL;
    }
    return SCRUB_NOTHING;
}

enum scrub_step scrub_plan_next(struct scrub_plan *p, uint64_t now, const struct scrub_segment *list, size_t n, uint64_t *ret_segment)
{
    enum scrub_step step = next_suspect(p, now, list, n, ret_segment);
    if (step != SCRUB_NOTHING || p->index) return step;
    if (!p->passing) {
        if (p->interval_ms == 0 || now < p->due_ms) return SCRUB_NOTHING;
        p->passing = true;
        p->at = 0;
        p->due_ms = now + p->interval_ms;
    }
    for (size_t i = 0; i < n; i++) {
        if (list[i].id <= p->at || !(list[i].sealed || list[i].settled) || list[i].held || find(p, list[i].id) != NULL) continue;
        p->at = *ret_segment = list[i].id;
        return SCRUB_LOOK;
    }
    p->index = true;
    return SCRUB_INDEX;
}

void scrub_plan_index(struct scrub_plan *p, bool damaged, uint64_t now)
{
    p->index = p->passing = false;
    p->passes++;
    if (damaged) scrub_plan_blame_index(p, now);
    else p->index_damaged = false;
    if (!scrub_plan_alarm(p)) p->since_ms = p->handed_ms = 0;
}

void scrub_plan_blame_index(struct scrub_plan *p, uint64_t now)
{
    if (!p->index_damaged) {
        p->found++;
        p->index_since_ms = now;
    }
    p->index_damaged = true;
    if (p->since_ms == 0) p->since_ms = now;
}

bool scrub_plan_wants_state(const struct scrub_plan *p, uint64_t now)
{
    return p->index_damaged && now >= p->index_since_ms + SCRUB_STATE_MS;
}

/* ---- what is known -------------------------------------------------------------------------------------------- */

static bool was_cleared(const struct scrub_plan *p, uint64_t segment, uint64_t now)
{
    for (unsigned i = 0; i < SCRUB_CLEARED; i++)
        if (p->cleared[i].segment == segment && now < p->cleared[i].at_ms + SCRUB_RETRY_MOST_MS) return true;
    return false;
}

bool scrub_plan_suspect(struct scrub_plan *p, uint64_t segment, uint64_t now)
{
    if (find(p, segment) != NULL || p->n == SCRUB_SUSPECTS) return false; /* with so many, the next pass finds it */
    bool again = was_cleared(p, segment, now);
    p->suspects[p->n++] = (struct scrub_suspect){.segment = segment, .next_ms = again ? now + SCRUB_RETRY_MOST_MS : now, .why = again ? SCRUB_AGAIN : SCRUB_MET};
    if (p->since_ms == 0) p->since_ms = now;
    return true;
}

bool scrub_plan_whole(struct scrub_plan *p, uint64_t segment, uint64_t now)
{
    struct scrub_suspect *s = find(p, segment);
    if (s == NULL) return false;
    if (s->why == SCRUB_MET || s->why == SCRUB_AGAIN) {
        unsigned at = p->n_cleared++ % SCRUB_CLEARED;
        p->cleared[at].segment = segment;
        p->cleared[at].at_ms = now;
    }
    forget(p, s);
    return true;
}

void scrub_plan_damaged(struct scrub_plan *p, uint64_t segment, unsigned bad, uint64_t now)
{
    scrub_plan_suspect(p, segment, now);
    struct scrub_suspect *s = find(p, segment);
    if (s == NULL) return;
    if (bad > s->bad) p->found += bad - s->bad;
    s->bad = bad;
    s->why = SCRUB_REPAIRS;
}

void scrub_plan_repaired(struct scrub_plan *p, uint64_t segment, unsigned n, uint64_t now)
{
    struct scrub_suspect *s = find(p, segment);
    p->repaired += n;
    if (s == NULL) return;
    s->bad -= n < s->bad ? n : s->bad;
    s->next_ms = now + (++s->writes <= 3 ? 0 : SCRUB_RETRY_MS); /* a disk that does not keep what it is given is not worn out */
}

void scrub_plan_stuck(struct scrub_plan *p, uint64_t segment, enum scrub_why why, uint64_t now)
{
    struct scrub_suspect *s = find(p, segment);
    if (s == NULL) return;
    uint64_t pause = (uint64_t)SCRUB_RETRY_MS << (s->tries < 8 ? s->tries : 8);
    s->next_ms = now + (pause < SCRUB_RETRY_MOST_MS ? pause : SCRUB_RETRY_MOST_MS);
    s->tries++;
    s->why = why;
}

/* ---- the alarm ------------------------------------------------------------------------------------------------ */

bool scrub_plan_alarm(const struct scrub_plan *p)
{
    return p->n > 0 || p->index_damaged;
}

bool scrub_plan_hands_over(struct scrub_plan *p, uint64_t now)
{
    if (!scrub_plan_alarm(p) || now < p->since_ms + SCRUB_PATIENCE_MS || (p->handed_ms != 0 && now < p->handed_ms + SCRUB_HAND_OVER_MS)) return false;
    p->handed_ms = now;
    return true;
}

void scrub_plan_text(const struct scrub_plan *p, size_t size, char *text)
{
    static const char *const whys[] = {
        [SCRUB_MET] = "which is being looked at",
        [SCRUB_REPAIRS] = "being repaired from the other servers",
        [SCRUB_FILLS] = "repaired when the next segment is begun",
        [SCRUB_LOST] = "which no other server can give: OPERATIONS.md",
        [SCRUB_LOG] = "repaired when the log begins behind it",
        [SCRUB_FAILS] = "and the repaired file cannot be written",
        [SCRUB_AGAIN] = "though its disk is right: OPERATIONS.md",
    };
    text[0] = '\0';
    if (p->n > 0) { /* the one that will not be right by itself is the one to hear of */
        const struct scrub_suspect *s = &p->suspects[0];
        for (unsigned i = 1; i < p->n; i++)
            if (p->suspects[i].why == SCRUB_LOST) s = &p->suspects[i];
        char count[24] = "something";
        if (s->bad > 0) snprintf(count, sizeof count, "%u records", s->bad);
        snprintf(text, size, "data damaged: %s in segment %" PRIu64 ", %s", s->bad == 1 ? "1 record" : count, s->segment, whys[s->why]);
    } else if (p->index_damaged) {
        snprintf(text, size, "data damaged: the index: another server's state replaces it when all others are well (OPERATIONS.md)");
    }
}
