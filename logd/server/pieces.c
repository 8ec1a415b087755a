#include "logd/server/pieces.h"

#include <stdlib.h>
#include <string.h>

int pieces_init(struct pieces *p, const struct state_manifest *manifest)
{
    *p = (struct pieces){.manifest = manifest, .files = calloc(manifest->n_files + 1, sizeof *p->files)};
    if (p->files == NULL) return -ERROR_NOMEM;
    for (size_t i = 0; i < manifest->n_files; i++) {
        p->files[i].missing = manifest->files[i].size;
        p->total += manifest->files[i].size;
    }
    return 0;
}

void pieces_fini(struct pieces *p)
{
    free(p->files);
    *p = (struct pieces){0};
}

static void skip_whole(struct pieces *p)
{
    while (p->first < p->manifest->n_files && p->files[p->first].state == PIECES_WHOLE) p->first++;
}

void pieces_have(struct pieces *p, size_t file, uint64_t bytes)
{
    struct pieces_file *f = &p->files[file];
    uint64_t size = p->manifest->files[file].size;
    if (bytes > size) bytes = size;
    f->next = f->noted = bytes;
    f->missing = size - bytes;
    p->there += bytes;
    if (bytes == size) f->state = PIECES_WHOLE;
    skip_whole(p);
}

static struct pieces_slot *in_state(struct pieces *p, int state)
{
    for (size_t i = 0; i < PIECES_WINDOW; i++)
        if ((int)p->slots[i].state == state) return &p->slots[i];
    return NULL;
}

struct pieces_slot *pieces_next(struct pieces *p, uint64_t frame)
{
    struct pieces_slot *s = in_state(p, PIECES_LOST);
    if (s == NULL && (s = in_state(p, PIECES_FREE)) != NULL) {
        while (p->asking < p->manifest->n_files && p->files[p->asking].next == p->manifest->files[p->asking].size) p->asking++;
        if (p->asking == p->manifest->n_files) return NULL;
        struct pieces_file *f = &p->files[p->asking];
        uint64_t left = p->manifest->files[p->asking].size - f->next;
        uint32_t length = (uint32_t)(left < STATE_PIECE_MAX ? left : STATE_PIECE_MAX);
        s->what = (struct state_piece){p->manifest->id, f->next, (uint32_t)p->asking, length};
        f->next += length;
    }
    if (s == NULL) return NULL;
    s->state = PIECES_ASKED;
    s->frame = frame;
    return s;
}

struct pieces_slot *pieces_came(struct pieces *p, uint64_t frame)
{
    for (size_t i = 0; i < PIECES_WINDOW; i++)
        if (p->slots[i].state == PIECES_ASKED && p->slots[i].frame == frame) {
            p->slots[i].state = PIECES_WRITING;
            return &p->slots[i];
        }
    return NULL;
}

void pieces_lost(struct pieces *p)
{
    for (size_t i = 0; i < PIECES_WINDOW; i++)
        if (p->slots[i].state == PIECES_ASKED) p->slots[i].state = PIECES_LOST;
}

void pieces_written(struct pieces *p, struct pieces_slot *slot)
{
    p->files[slot->what.file].missing -= slot->what.length;
    p->there += slot->what.length;
    slot->state = PIECES_FREE;
}

bool pieces_finish(struct pieces *p, size_t *ret_file)
{
    for (size_t i = p->first; i < p->manifest->n_files && i <= p->asking; i++) {
        struct pieces_file *f = &p->files[i];
        if (f->state != PIECES_NEEDED || f->missing > 0 || (p->noting && i == p->first)) continue;
        f->state = PIECES_FINISHING;
        *ret_file = i;
        return true;
    }
    return false;
}

void pieces_finished(struct pieces *p, size_t file)
{
    p->files[file].state = PIECES_WHOLE;
    skip_whole(p);
}

bool pieces_note(struct pieces *p, size_t *ret_file, uint64_t *ret_bytes)
{
    if (p->noting || p->first == p->manifest->n_files || p->files[p->first].state != PIECES_NEEDED) return false;
    uint64_t end = p->files[p->first].next;
    for (size_t i = 0; i < PIECES_WINDOW; i++) {
        const struct pieces_slot *s = &p->slots[i];
        if (s->state != PIECES_FREE && s->what.file == p->first && s->what.offset < end) end = s->what.offset;
    }
    if (end < p->files[p->first].noted + PIECES_SYNC) return false;
    p->noting = true;
    *ret_file = p->first;
    *ret_bytes = p->note = end;
    return true;
}

void pieces_noted(struct pieces *p)
{
    p->noting = false;
    p->files[p->first].noted = p->note; /* it cannot have become whole meanwhile */
}

bool pieces_done(const struct pieces *p)
{
    return p->first == p->manifest->n_files;
}
