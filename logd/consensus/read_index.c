#include "logd/consensus/read_index.h"

#include "common/mutant.h"

void read_index_init(struct read_index *r, uint64_t self)
{
    *r = (struct read_index){.self = self};
}

void read_index_members(struct read_index *r, const struct membership *m)
{
    r->n_members = 0;
    for (unsigned i = 0; i < m->n; i++)
        if (m->servers[i].voter) r->members[r->n_members++] = m->servers[i].id;
    if (r->flying) r->wanted = true;
    r->flying = false;
}

static bool majority(const struct read_index *r)
{
    return (unsigned)__builtin_popcount(r->yes) * 2 > r->n_members || MUTANT(stale_read);
}

static void vote(struct read_index *r, uint64_t id)
{
    for (unsigned i = 0; i < r->n_members; i++)
        if (r->members[i] == id) r->yes |= 1u << i;
}

static bool complete(struct read_index *r)
{
    if (!r->flying || !majority(r)) return false;
    r->flying = false;
    r->confirmed = r->started;
    return true;
}

uint64_t read_index_ask(struct read_index *r)
{
    r->wanted = true;
    return r->started + 1;
}

uint64_t read_index_begin(struct read_index *r, uint64_t term, uint64_t index)
{
    if (r->flying || !r->wanted) return 0;
    r->started++;
    r->wanted = false;
    r->flying = true;
    r->term = term;
    r->index = index;
    r->yes = 0;
    vote(r, r->self);
    complete(r);
    return r->started;
}

bool read_index_reply(struct read_index *r, uint64_t from, uint64_t round, uint64_t term)
{
    if (!r->flying || round != r->started || term != r->term) return false;
    vote(r, from);
    return complete(r);
}

uint64_t read_index_flying(const struct read_index *r)
{
    return r->flying ? r->started : 0;
}

void read_index_reset(struct read_index *r)
{
    r->flying = false;
    r->wanted = false;
}
