#include "logd/server/repair.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/sift.h"
#include "logd/server/state_codec.h"
#include "logd/streams/run_reader.h"
#include "logd/wal/mend.h"
#include "logd/wal/patch.h"
#include "logd/wal/segment.h"

enum { WANTS_MAX = SIFT_RUNS, WANTED_BYTES = 32 << 20 /* in memory at a time */ };

/* A damaged record, and what stood there. */
struct want {
    struct state_record ask;
    struct streams_run run; /* of an append */
    uint64_t position;      /* where the bytes go */
    uint32_t length, crc;   /* of an entry's payload */
    uint16_t type;
    unsigned range; /* in sift.ranges */
    uint64_t asked; /* the server that was asked last: they are asked in order of their ids */
    uint8_t *bytes; /* NULL: not yet */
    size_t len;
};

struct repair {
    struct node *node;
    const struct sift *sift;
    struct want *wants; /* WANTS_MAX */
    unsigned n_wants, want; /* want: which one is being asked for */
    bool raft, hopeless;
    size_t wanted_bytes;
    uint64_t question;
    struct patch_piece *pieces; /* SIFT_RANGES + WANTS_MAX */
    size_t n_pieces;
    unsigned records;              /* in them */
    uint8_t *mended[SIFT_RANGES]; /* bytes of the ranges */
};

/* ---- what is wanted ------------------------------------------------------------------------------------------- */

unsigned repair_entries(struct repair *r)
{
    static struct wal_place places[MEND_RECORDS_MAX + 1];
    unsigned bad = 0;
    repair_end(r);
    r->raft = true;
    for (unsigned i = 0; i < r->sift->n_ranges; i++) {
        const struct sieve_range *range = &r->sift->ranges[i];
        size_t n = range->header ? 0 : wal_entries_in(r->node->wal, r->sift->segment.id, range->from, range->to, places, MEND_RECORDS_MAX + 1);
        bad += n == 0 ? 1 : (unsigned)n;
        if (range->header || r->n_wants + n > WANTS_MAX) continue; /* that is known here; or the next round's */
        if (n == 0 || n > MEND_RECORDS_MAX || range->seq + n != range->next_seq) {
            r->hopeless = true;
            continue;
        }
        for (size_t k = 0; k < n; k++)
            r->wants[r->n_wants++] = (struct want){.ask = {.index = places[k].index, .term = places[k].term}, .position = places[k].position,
                                                   .length = places[k].length, .crc = places[k].crc, .type = places[k].type, .range = i};
    }
    return bad;
}

unsigned repair_runs(struct repair *r)
{
    repair_end(r);
    r->raft = false;
    for (unsigned i = 0; i < r->sift->n_checked; i++) {
        const struct sift_run *x = &r->sift->runs[i];
        r->wants[r->n_wants++] = (struct want){.ask = {.stream = x->stream, .offset = x->run.first_offset}, .run = x->run, .position = x->run.where.position};
    }
    return r->n_wants;
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static bool good_bytes(const struct want *w, const void *bytes, size_t len)
{
    struct run_reader reader;
    if (w->ask.stream == 0) return len == w->length && crc32c(0, bytes, len) == w->crc;
    if (len != w->run.frame_len || run_open(&reader, &w->run, bytes, len, w->run.first_offset, NULL) != 0) return false;
    run_close(&reader);
    return true;
}

static bool take(struct repair *r, struct want *w, const void *bytes, size_t len)
{
    if (!good_bytes(w, bytes, len) || (w->bytes = malloc(len + 1)) == NULL) return false;
    if (len > 0) memcpy(w->bytes, bytes, len);
    w->len = len;
    r->wanted_bytes += len;
    return true;
}

/* What is still in memory, or was read once and is right in the page cache, need not be asked for. */
static bool take_own(struct repair *r, struct want *w)
{
    struct wal_entry entry;
    if (w->ask.stream == 0) {
        if (wal_term_at(r->node->wal, w->ask.index) != w->ask.term || wal_read(r->node->wal, w->ask.index, &entry, NULL) != 0) return false;
        bool taken = take(r, w, entry.payload->data, entry.payload->len);
        blob_unref(entry.payload);
        return taken;
    }
    void *bytes = malloc(w->run.frame_len);
    bool taken = bytes != NULL && wal_read_at(r->node->wal, w->run.where, w->run.frame_len, bytes, NULL) == 0 && take(r, w, bytes, w->run.frame_len);
    free(bytes);
    return taken;
}

/* The next server that is there. False: all were asked. */
static bool ask_next(struct repair *r, struct want *w)
{
    const struct membership *m = consensus_membership(r->node->consensus);
    for (;;) {
        uint64_t next = 0;
        for (unsigned i = 0; i < m->n; i++) {
            uint64_t id = m->servers[i].id;
            if (id > w->asked && id != r->node->settings->id && (next == 0 || id < next)) next = id;
        }
        if (next == 0) return false;
        w->asked = next;
        if (peers_fetch_record(r->node->peers, next, ++r->question, &w->ask)) return true;
    }
}

bool repair_ask(struct repair *r)
{
    for (; r->want < r->n_wants && r->wanted_bytes < WANTED_BYTES; r->want++) {
        struct want *w = &r->wants[r->want];
        if (w->bytes != NULL || (w->asked == 0 && take_own(r, w))) continue;
        if (ask_next(r, w)) return true;
    }
    return false;
}

uint64_t repair_question(const struct repair *r)
{
    return r->question;
}

void repair_late(struct repair *r)
{
    r->question++;
}

void repair_answer(struct repair *r, uint64_t peer, const void *bytes, size_t len)
{
    struct want *w = &r->wants[r->want];
    r->question++;
    if (bytes == NULL || !take(r, w, bytes, len))
        log_debug("another server does not have what is damaged here", "peer=%" PRIu64 " index=%" PRIu64 " stream=%" PRIu64 " offset=%" PRIu64, peer, w->ask.index,
                  w->ask.stream, w->ask.offset);
}

/* ---- the bytes ------------------------------------------------------------------------------------------------ */

/* A record's bytes anew, or the header's; false: they cannot be. */
static bool mend(struct repair *r, unsigned i)
{
    const struct sieve_range *range = &r->sift->ranges[i];
    const struct wal_segment *segment = &r->sift->segment;
    struct mend_record records[MEND_RECORDS_MAX];
    unsigned n = 0;
    if ((r->mended[i] = malloc((size_t)(range->to - range->from))) == NULL) return false;
    if (range->header) {
        const struct segment_header h = {segment->id, segment->bytes, segment->first_seq, range->chain, segment->salt, true};
        segment_header_encode(&h, r->mended[i]);
        r->records++;
        return true;
    }
    for (unsigned k = 0; k < r->n_wants; k++) {
        const struct want *w = &r->wants[k];
        if (w->range != i) continue;
        if (w->bytes == NULL || n == MEND_RECORDS_MAX) return false; /* nobody gave it */
        records[n++] = (struct mend_record){w->ask.index, w->ask.term, w->type, w->bytes, w->length};
    }
    if (n == 0) return false;
    if (mend_range(range, segment->salt, segment->id + 1, records, n, r->mended[i]) != 0) {
        r->hopeless = true;
        return false;
    }
    r->records += n;
    return true;
}

static void mend_all(struct repair *r)
{
    for (unsigned i = 0; i < r->sift->n_ranges; i++) {
        const struct sieve_range *range = &r->sift->ranges[i];
        if (mend(r, i)) r->pieces[r->n_pieces++] = (struct patch_piece){range->from, r->mended[i], (size_t)(range->to - range->from)};
    }
}

static int by_place(const void *a, const void *b)
{
    const struct patch_piece *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void collect_runs(struct repair *r)
{
    for (unsigned i = 0; i < r->n_wants; i++)
        if (r->wants[i].bytes != NULL) r->pieces[r->n_pieces++] = (struct patch_piece){r->wants[i].position, r->wants[i].bytes, r->wants[i].len};
    r->records = (unsigned)r->n_pieces;
    qsort(r->pieces, r->n_pieces, sizeof *r->pieces, by_place);
}

size_t repair_pieces(struct repair *r, const struct patch_piece **ret_pieces)
{
    r->n_pieces = r->records = 0;
    if (r->raft) mend_all(r);
    else collect_runs(r);
    *ret_pieces = r->pieces;
    return r->n_pieces;
}

unsigned repair_records(const struct repair *r)
{
    return r->records;
}

bool repair_is_raft(const struct repair *r)
{
    return r->raft;
}

bool repair_hopeless(const struct repair *r)
{
    return r->hopeless;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

void repair_end(struct repair *r)
{
    for (unsigned i = 0; i < r->n_wants; i++) free(r->wants[i].bytes);
    for (unsigned i = 0; i < SIFT_RANGES; i++) free(r->mended[i]), r->mended[i] = NULL;
    r->n_wants = r->want = 0;
    r->n_pieces = 0;
    r->wanted_bytes = 0;
    r->hopeless = false;
}

struct repair *repair_new(struct node *node, const struct sift *sift)
{
    struct repair *r = calloc(1, sizeof *r);
    if (r == NULL) return NULL;
    r->node = node;
    r->sift = sift;
    r->wants = calloc(WANTS_MAX, sizeof *r->wants);
    r->pieces = calloc(SIFT_RANGES + WANTS_MAX, sizeof *r->pieces);
    if (r->wants != NULL && r->pieces != NULL) return r;
    repair_free(r);
    return NULL;
}

void repair_free(struct repair *r)
{
    if (r == NULL) return;
    if (r->wants != NULL) repair_end(r);
    free(r->wants);
    free(r->pieces);
    free(r);
}
