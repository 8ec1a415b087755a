#include "logd/consensus/read_index.h"

#include <assert.h>

void read_index_init(struct read_index *r, uint64_t self, const struct consensus_member *members, unsigned n)
{
    assert(n > 0 && n <= CONSENSUS_MEMBERS_MAX);
    *r = (struct read_index){.self = self, .n_members = n};
    for (unsigned i = 0; i < n; i++) r->members[i] = members[i].id;
}

static bool majority(const struct read_index *r)
{
    return (unsigned)__builtin_popcount(r->yes) * 2 > r->n_members;
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
