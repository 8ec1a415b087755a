#include "logd/streams/snapshot.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "logd/streams/command_codec.h"

const char **snapshot_string_of(struct streams_snapshot *s, enum snapshot_string which)
{
    switch (which) {
    case SNAPSHOT_ID: return &s->id;
    case SNAPSHOT_IMAGE: return &s->image;
    case SNAPSHOT_SHA256: return &s->sha256;
    case SNAPSHOT_NODE: return &s->node;
    case SNAPSHOT_TEMPLATE_HASH: return &s->template_hash;
    case SNAPSHOT_REASON: return &s->reason;
    case SNAPSHOT_STRINGS: break;
    }
    abort(); /* not a string of a snapshot: a programmer's error */
}

struct snapshot *snapshot_new(uint64_t number, const struct streams_snapshot *from)
{
    struct streams_snapshot out = *from;
    size_t bytes = 0;
    for (int i = 0; i < SNAPSHOT_STRINGS; i++) bytes += strlen(*snapshot_string_of(&out, (enum snapshot_string)i)) + 1;
    struct snapshot *s = malloc(sizeof *s + bytes);
    if (s == NULL) return NULL;
    s->number = number;
    s->out = out;
    char *at = s->strings;
    for (int i = 0; i < SNAPSHOT_STRINGS; i++) {
        const char **string = snapshot_string_of(&s->out, (enum snapshot_string)i);
        size_t len = strlen(*string) + 1;
        memcpy(at, *string, len);
        *string = at;
        at += len;
    }
    return s;
}

struct snapshot *snapshot_free(struct snapshot *s)
{
    free(s);
    return NULL;
}

bool snapshot_move_allowed(uint32_t from, uint32_t to)
{
    static const bool allowed[COMMAND_DELETED + 1][COMMAND_DELETED + 1] = {
        [0] = {[COMMAND_TAKING] = true, [COMMAND_VALID] = true, [COMMAND_FAILED] = true},
        [COMMAND_TAKING] = {[COMMAND_TAKING] = true, [COMMAND_VALID] = true, [COMMAND_FAILED] = true,
                            [COMMAND_DELETED] = true},
        [COMMAND_VALID] = {[COMMAND_VALID] = true, [COMMAND_FAILED] = true, [COMMAND_DELETED] = true},
        [COMMAND_FAILED] = {[COMMAND_FAILED] = true, [COMMAND_DELETED] = true},
        [COMMAND_DELETED] = {[COMMAND_DELETED] = true},
    };
    return from <= COMMAND_DELETED && to <= COMMAND_DELETED && allowed[from][to];
}

const char *snapshot_state_name(uint32_t state)
{
    static const char *const names[] = {"new", "taking", "valid", "failed", "deleted"};
    return state <= COMMAND_DELETED ? names[state] : "unknown";
}

void snapshots_fini(struct snapshots *all)
{
    for (uint32_t i = 0; i < all->n; i++) snapshot_free(all->all[i]);
    free(all->all);
    *all = (struct snapshots){0};
}

uint32_t snapshots_find(const struct snapshots *all, const char *id)
{
    uint32_t i = 0;
    while (i < all->n && strcmp(all->all[i]->out.id, id) != 0) i++;
    return i;
}

static uint32_t first_in_state(const struct snapshots *all, uint32_t state)
{
    uint32_t i = 0;
    while (i < all->n && all->all[i]->out.state != state) i++;
    return i;
}

uint32_t snapshots_victim(const struct snapshots *all)
{
    uint32_t i = first_in_state(all, COMMAND_DELETED);
    return i < all->n ? i : first_in_state(all, COMMAND_FAILED);
}

int snapshots_put(struct snapshots *all, struct snapshot *s)
{
    uint32_t i = all->n; /* nearly always the newest: from the end */
    while (i > 0 && all->all[i - 1]->number > s->number) i--;
    if (i > 0 && all->all[i - 1]->number == s->number) {
        snapshot_free(all->all[i - 1]);
        all->all[i - 1] = s;
        return 0;
    }
    if (all->n == all->cap) {
        uint32_t cap = all->cap == 0 ? 4 : all->cap * 2;
        struct snapshot **grown = realloc(all->all, cap * sizeof(*grown));
        if (grown == NULL) return -ERROR_NOMEM;
        all->all = grown;
        all->cap = cap;
    }
    memmove(all->all + i + 1, all->all + i, (all->n - i) * sizeof(*all->all));
    all->all[i] = s;
    all->n++;
    return 0;
}

void snapshots_remove(struct snapshots *all, uint32_t i)
{
    assert(i < all->n);
    snapshot_free(all->all[i]);
    all->n--;
    memmove(all->all + i, all->all + i + 1, (all->n - i) * sizeof(*all->all));
}

bool snapshot_usable(const struct snapshot *s, uint64_t first_offset)
{
    return s->out.state == COMMAND_VALID && s->out.offset + 1 >= first_offset;
}

const struct snapshot *snapshots_latest(const struct snapshots *all, const char *template_hash, uint64_t first_offset)
{
    const struct snapshot *best = NULL;
    for (uint32_t i = 0; i < all->n; i++) {
        const struct snapshot *s = all->all[i];
        if (!snapshot_usable(s, first_offset)) continue;
        if (template_hash[0] != '\0' && strcmp(template_hash, s->out.template_hash) != 0) continue;
        if (best == NULL || s->out.offset >= best->out.offset) best = s;
    }
    return best;
}
