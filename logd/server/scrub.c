#include "logd/server/scrub.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/loop.h"
#include "logd/server/mover.h"
#include "logd/server/node.h"
#include "logd/server/pace.h"
#include "logd/server/peers.h"
#include "logd/server/reads.h"
#include "logd/server/repair.h"
#include "logd/server/scrub_plan.h"
#include "logd/server/sift.h"
#include "logd/streams/run_reader.h"
#include "logd/wal/patch.h"

enum { ANSWER_MS = 2000, FIRST_PASS_MS = 600000, TRIES = 3, DOUBTS = 8, STREAMS_AT_ONCE = 128, STREAMS_PAUSE_MS = 2 };

enum phase { IDLE, LOOKS, LISTS, ASKS, WRITES, INDEX, STREAMS };

_Static_assert((int)SCRUB_STATE_MS > (int)PEERS_ALARM_MS, "who fetches a state knows of all alarms that are as old as its own: no two do at once");

struct scrub {
    struct node *node;
    char dir[PATH_MAX], note[PATH_MAX]; /* note: the file that says when the last pass ended */
    uv_timer_t timer;
    uv_work_t work;
    struct pace pace;
    struct scrub_plan plan;
    enum phase phase;
    bool busy; /* what follows, up to `error`, is the worker's */
    struct sift sift;
    struct patch *patch;
    int rv;
    struct error error;
    struct repair *repair;
    uint64_t *ids, *sizes; /* for the look at the index */
    uint64_t stream;       /* the look at the streams goes on there */
    struct sift_stray doubts[DOUBTS]; /* rows that do not lead to a whole append: is it they, or their segment, that is damaged? */
    unsigned n_doubts;
    uint64_t bytes, pass_bytes, pass_of, pass_began_us, last_pass_us, paid;
    bool closing;
    void (*done)(void *user);
    void *user;
};

static void go_on(struct scrub *s);

/* ---- the worker's thread -------------------------------------------------------------------------------------- */

/* 0 without a patch: there is nothing to write. */
static int begin_patch(struct scrub *s)
{
    const struct wal_segment *segment = &s->sift.segment;
    const struct patch_piece *pieces;
    size_t n = repair_pieces(s->repair, &pieces);
    sift_close(&s->sift);
    if (n == 0) return 0;
    int rv = patch_begin(disk_system(), s->dir, segment->id, segment->bytes, pieces, n, &s->patch, &s->error);
    return rv == 0 ? 1 : rv;
}

static void step(uv_work_t *work)
{
    struct scrub *s = work->data;
    switch (s->phase) {
    case LOOKS: s->rv = sift_step(&s->sift); break;
    case LISTS: s->rv = sift_list_step(&s->sift, &s->error); break;
    case WRITES: s->rv = s->patch == NULL ? begin_patch(s) : patch_step(s->patch, &s->error); break;
    case INDEX: s->rv = sift_index_step(&s->sift, &s->error); break;
    default: break;
    }
}

/* ---- the loop's thread: work ---------------------------------------------------------------------------------- */

static void on_step(uv_work_t *work, int status);

static void work(struct scrub *s, enum phase phase)
{
    s->phase = phase;
    s->busy = true;
    if (uv_queue_work(s->node->loop, &s->work, step, on_step) != 0) abort(); /* only without a callback: cannot be */
}

static bool list_places(struct scrub *s);

static void on_turn(uv_timer_t *timer)
{
    struct scrub *s = timer->data;
    if (s->phase == INDEX) list_places(s); /* no memory: those of the step before; what is new is looked at twice then */
    work(s, s->phase);
}

/* The same again, when so many bytes may be read or written. */
static void work_later(struct scrub *s, uint64_t bytes)
{
    uint64_t now = loop_monotonic_us(), next = pace_take(&s->pace, now, bytes);
    uv_timer_start(&s->timer, on_turn, next <= now ? 0 : (next - now) / 1000 + 1, 0);
}

static void finish(struct scrub *s)
{
    patch_free(s->patch);
    s->patch = NULL;
    sift_close(&s->sift);
    repair_end(s->repair);
    free(s->ids);
    free(s->sizes);
    s->ids = s->sizes = NULL;
    s->phase = IDLE;
    go_on(s);
}

static void whole(struct scrub *s)
{
    uint64_t id = s->sift.segment.id;
    const struct scrub_suspect *was = scrub_plan_find(&s->plan, id);
    bool damaged = was != NULL && was->why != SCRUB_MET && was->why != SCRUB_AGAIN;
    if (scrub_plan_whole(&s->plan, id, node_now_ms())) {
        if (damaged) log_info("the damaged segment is whole again", "segment=%" PRIu64 " repaired=%" PRIu64, id, s->plan.repaired);
        else log_info("nothing is damaged in that segment", "segment=%" PRIu64, id);
        node_repaired(s->node);
    }
    finish(s);
}

static void stuck(struct scrub *s, enum scrub_why why)
{
    char text[128];
    uint64_t id = s->sift.segment.id;
    const struct scrub_suspect *was = scrub_plan_find(&s->plan, id);
    bool told = was != NULL && was->why == why && was->tries > 0;
    scrub_plan_stuck(&s->plan, id, why, node_now_ms());
    scrub_plan_text(&s->plan, sizeof text, text);
    if (!told) log_error("damaged data is not repaired; it is tried again", "segment=%" PRIu64 " reason=%s", id, text);
    finish(s);
}

/* ---- asking for what is damaged ------------------------------------------------------------------------------- */

static void on_silence(uv_timer_t *timer);

static void ask_on(struct scrub *s)
{
    if (repair_ask(s->repair)) {
        uv_timer_start(&s->timer, on_silence, ANSWER_MS, 0);
    } else {
        uv_timer_stop(&s->timer);
        work(s, WRITES);
    }
}

static void on_silence(uv_timer_t *timer)
{
    struct scrub *s = timer->data;
    repair_late(s->repair);
    ask_on(s);
}

void scrub_answer(struct scrub *s, uint64_t peer, uint64_t question, const void *bytes, size_t len)
{
    if (s == NULL || s->phase != ASKS || question != repair_question(s->repair) || s->closing) return;
    repair_answer(s->repair, peer, bytes, len);
    ask_on(s);
}

static void repair(struct scrub *s, unsigned bad)
{
    uint64_t id = s->sift.segment.id;
    const struct scrub_suspect *was = scrub_plan_find(&s->plan, id);
    if (was == NULL || was->bad < bad) log_error("damaged data is repaired from the other servers", "segment=%" PRIu64 " records=%u", id, bad);
    scrub_plan_damaged(&s->plan, id, bad, node_now_ms());
    s->phase = ASKS;
    ask_on(s);
}

/* ---- one segment ---------------------------------------------------------------------------------------------- */

static bool find_segment(const struct scrub *s, uint64_t id, struct wal_segment *ret_segment)
{
    for (size_t i = 0; i < wal_segments(s->node->wal); i++) {
        *ret_segment = wal_segment(s->node->wal, i);
        if (ret_segment->id == id) return true;
    }
    return false;
}

static void blame_index(struct scrub *s, uint64_t segment);

static void looked(struct scrub *s)
{
    struct wal_segment now;
    s->bytes += s->sift.check.file.loaded;
    if (s->plan.passing) s->pass_bytes += s->sift.check.file.loaded;
    if (!s->sift.segment.sealed) {
        struct error e;
        error_set(&e, ERROR_CORRUPT, "the record at %" PRIu64 " of the newest segment", s->sift.ranges[0].from);
        if (s->sift.n_ranges > 0) scrub_suspect(s, s->sift.segment.id, &e); /* it is repaired when it is sealed */
        finish(s);
    } else if (s->sift.n_ranges == 0 || !find_segment(s, s->sift.segment.id, &now)) {
        if (s->sift.n_ranges == 0) blame_index(s, s->sift.segment.id);
        whole(s);
    } else if (now.raft) {
        repair(s, repair_entries(s->repair));
    } else {
        sift_list(&s->sift);
        work(s, LISTS);
    }
}

static void listed(struct scrub *s)
{
    if (s->sift.n_checked == 0) whole(s); /* nobody needs what is damaged */
    else repair(s, repair_runs(s->repair));
}

/* What was written is looked at again, as any other: it is whole when that says so. */
static void written(struct scrub *s)
{
    uint64_t id = s->sift.segment.id;
    const struct scrub_suspect *is = scrub_plan_find(&s->plan, id);
    bool asked_often = is != NULL && is->tries >= TRIES;
    if (s->patch != NULL) {
        unsigned records = repair_records(s->repair);
        wal_replaced(s->node->wal, id);
        log_info("damaged data was written anew", "segment=%" PRIu64 " records=%u", id, records);
        scrub_plan_repaired(&s->plan, id, records, node_now_ms());
        finish(s);
    } else {
        stuck(s, repair_is_raft(s->repair) && (repair_hopeless(s->repair) || asked_often) ? SCRUB_LOG : SCRUB_LOST);
    }
}

/* ---- the index ------------------------------------------------------------------------------------------------ */

static bool list_places(struct scrub *s)
{
    size_t n = wal_segments(s->node->wal);
    uint64_t *ids = calloc(n + 1, sizeof *ids), *sizes = calloc(n + 1, sizeof *sizes);
    if (ids == NULL || sizes == NULL) {
        free(ids);
        free(sizes);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct wal_segment is = wal_segment(s->node->wal, i);
        ids[i] = is.id;
        sizes[i] = is.bytes;
    }
    free(s->ids);
    free(s->sizes);
    s->ids = ids;
    s->sizes = sizes;
    sift_segments(&s->sift, ids, sizes, n);
    return true;
}

static bool begin_index(struct scrub *s)
{
    if (!list_places(s)) return false;
    sift_index(&s->sift);
    s->n_doubts = 0;
    return true;
}

/* RIGHT: or not to be told now; WRONG: it is the row; UNSURE: no whole append is there, which may be its segment's fault. */
enum verdict { RIGHT, WRONG, UNSURE };

static enum verdict read_append(struct scrub *s, const struct streams_run *run)
{
    struct run_reader reader;
    struct frame f;
    struct buf bytes = BUF_INIT;
    enum verdict verdict = RIGHT;
    if (buf_reserve(&bytes, run->frame_len) != 0) return RIGHT;
    int rv = wal_read_at(s->node->wal, run->where, run->frame_len, bytes.data, NULL);
    bool good = rv == 0 && frame_decode(bytes.data, run->frame_len, &f, NULL) == (int64_t)run->frame_len;
    if (rv == 0) rv = run_open(&reader, run, bytes.data, run->frame_len, run->first_offset, NULL);
    if (rv == 0) run_close(&reader);
    else if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) verdict = good ? WRONG : UNSURE;
    buf_fini(&bytes);
    return verdict;
}

/* As of now: what the worker met may have moved meanwhile, or be gone. */
static enum verdict judge(struct scrub *s, const struct sift_stray *x)
{
    struct streams_run run;
    struct wal_segment is;
    struct streams_info info;
    if (streams_info(s->node->streams, x->stream, &info) != 0 || x->run.first_offset + x->run.count <= info.first_offset) return RIGHT;
    int rv = reads_find(s->node->reads, x->stream, x->run.first_offset, &run, NULL);
    if (rv != 0) return rv == -ERROR_CORRUPT ? WRONG : RIGHT;
    if (x->doubt == SIFT_GAP || run.where.segment != x->run.where.segment || run.where.position != x->run.where.position) return RIGHT;
    if (!find_segment(s, run.where.segment, &is) || run.where.position > is.bytes || run.frame_len > is.bytes - run.where.position) return WRONG;
    return x->doubt == SIFT_DIFFERS ? read_append(s, &run) : RIGHT;
}

static void say_wrong(struct scrub *s, const struct sift_stray *x)
{
    if (!s->plan.index_damaged)
        log_error("a row of the index is wrong", "stream=%" PRIu64 " offset=%" PRIu64 " segment=%" PRIu64 " position=%" PRIu64 " missing=%s", x->stream, x->run.first_offset,
                  x->run.where.segment, x->run.where.position, x->doubt == SIFT_GAP ? "true" : "false");
}

/* False: the index is damaged. A segment that is looked at already is not judged by its rows. */
static bool look_at_strays(struct scrub *s)
{
    for (unsigned i = 0; i < s->sift.n_strays; i++) {
        const struct sift_stray *x = &s->sift.strays[i];
        if (x->doubt == SIFT_DIFFERS && !s->plan.index_damaged && scrub_plan_find(&s->plan, x->run.where.segment) != NULL) continue;
        enum verdict verdict = judge(s, x);
        if (verdict == WRONG || (verdict == UNSURE && s->plan.index_damaged)) {
            say_wrong(s, x);
            return false;
        }
        if (verdict == RIGHT || s->n_doubts == DOUBTS) continue;
        struct error e;
        error_set(&e, ERROR_CORRUPT, "no append where offset %" PRIu64 " of stream %" PRIu64 " should be", x->run.first_offset, x->stream);
        s->doubts[s->n_doubts++] = *x;
        scrub_suspect(s, x->run.where.segment, &e);
    }
    return true;
}

/* The segment is as it was written: when a row does not lead to its append there, then it is the row that is wrong. */
static void blame_index(struct scrub *s, uint64_t segment)
{
    for (unsigned i = 0; i < s->n_doubts; i++) {
        if (s->doubts[i].run.where.segment != segment) continue;
        struct sift_stray x = s->doubts[i];
        s->doubts[i--] = s->doubts[--s->n_doubts];
        if (judge(s, &x) == RIGHT) continue;
        say_wrong(s, &x);
        scrub_plan_blame_index(&s->plan, node_now_ms());
    }
}

static void note_pass(struct scrub *s)
{
    const struct disk *d = disk_system();
    char text[32];
    int len = snprintf(text, sizeof text, "%020llu\n", (unsigned long long)s->last_pass_us), fd = d->open(d, s->note, O_RDWR | O_CREAT);
    if (fd < 0) return; /* a pass too early, after the next start */
    disk_write_all(d, fd, text, (size_t)len, 0);
    d->close(d, fd);
}

static void end_pass(struct scrub *s, bool damaged, const char *reason)
{
    scrub_plan_index(&s->plan, damaged, node_now_ms());
    s->last_pass_us = loop_wall_us();
    note_pass(s);
    if (damaged) log_error("the index is damaged", "reason=%s", reason);
    log_info("everything on the disk was looked at", "bytes=%" PRIu64 " seconds=%.1f found=%" PRIu64 " repaired=%" PRIu64 " damaged_segments=%u", s->pass_bytes,
             (double)(loop_monotonic_us() - s->pass_began_us) / 1e6, s->plan.found, s->plan.repaired, s->plan.n);
    s->pass_bytes = s->pass_of = 0;
    finish(s);
}

/* Rows that are hidden at a stream's beginning or end have none beside them that would tell. */
static bool has_ends(struct scrub *s, uint64_t stream)
{
    struct streams_info info;
    struct streams_run run;
    if (streams_info(s->node->streams, stream, &info) != 0 || info.first_offset > info.last_offset) return true;
    return reads_find(s->node->reads, stream, info.first_offset, &run, NULL) != -ERROR_CORRUPT &&
           reads_find(s->node->reads, stream, info.last_offset, &run, NULL) != -ERROR_CORRUPT;
}

static void on_streams(uv_timer_t *timer)
{
    struct scrub *s = timer->data;
    uint64_t n = streams_count(s->node->streams);
    for (unsigned i = 0; i < STREAMS_AT_ONCE && s->stream <= n; i++, s->stream++) {
        if (has_ends(s, s->stream)) continue;
        log_error("the index lacks a stream's beginning or end", "stream=%" PRIu64, s->stream);
        end_pass(s, true, "it lacks a stream's beginning or end");
        return;
    }
    if (s->stream <= n) uv_timer_start(timer, on_streams, STREAMS_PAUSE_MS, 0);
    else end_pass(s, false, "");
}

static void looked_at_rows(struct scrub *s)
{
    if (s->rv < 0) {
        if (s->rv != -ERROR_CORRUPT) log_warn("the index could not be looked at", "reason=%s", s->error.text);
        end_pass(s, s->rv == -ERROR_CORRUPT, s->error.text);
    } else if (!look_at_strays(s)) {
        end_pass(s, true, "a row does not lead to what it means");
    } else if (s->rv == 1) {
        work_later(s, s->sift.cost);
    } else {
        s->phase = STREAMS;
        s->stream = 1; /* ids begin there */
        uv_timer_start(&s->timer, on_streams, 0, 0);
    }
}

/* ---- what is next --------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct scrub *s = handle->data;
    void (*done)(void *user) = s->done;
    void *user = s->user;
    patch_free(s->patch);
    repair_free(s->repair);
    sift_fini(&s->sift);
    free(s->ids);
    free(s->sizes);
    free(s);
    done(user);
}

static void on_step(uv_work_t *work, int status)
{
    struct scrub *s = work->data;
    (void)status;
    s->busy = false;
    if (s->closing) {
        uv_close((uv_handle_t *)&s->timer, on_closed);
        return;
    }
    if (s->rv == 1 && s->phase != INDEX) {
        uint64_t paid = s->phase == LOOKS ? s->sift.check.file.loaded - s->paid : s->phase == WRITES ? 2 * PATCH_STEP : 0;
        if (s->phase == LOOKS) s->paid = s->sift.check.file.loaded;
        work_later(s, paid);
        return;
    }
    switch (s->phase) {
    case LOOKS: looked(s); break;
    case LISTS:
        if (s->rv == 0) listed(s);
        else stuck(s, SCRUB_FAILS);
        break;
    case WRITES:
        if (s->rv == 0) {
            written(s);
        } else {
            log_warn("a repaired segment cannot be written", "reason=%s", s->error.text);
            stuck(s, SCRUB_FAILS);
        }
        break;
    case INDEX: looked_at_rows(s); break;
    default: assert(false);
    }
}

static size_t list_segments(const struct scrub *s, struct scrub_segment **ret_list, uint64_t *ret_bytes)
{
    size_t n = wal_segments(s->node->wal);
    struct scrub_segment *list = calloc(n + 1, sizeof *list);
    struct wal_segment newest;
    uint64_t until;
    bool settled = wal_settled(s->node->wal, &newest, &until);
    *ret_list = list;
    *ret_bytes = 0;
    for (size_t i = 0; list != NULL && i < n; i++) {
        struct wal_segment is = wal_segment(s->node->wal, i);
        list[i] = (struct scrub_segment){.id = is.id, .sealed = is.sealed, .held = mover_holds(s->node->mover, is.id)};
        if (is.sealed) *ret_bytes += is.bytes;
        else if (settled && is.id == newest.id) list[i].settled = true, *ret_bytes += until;
    }
    return list == NULL ? 0 : n;
}

static bool begin(struct scrub *s, enum scrub_step what, uint64_t id)
{
    struct wal_segment segment, newest;
    uint64_t until = 0;
    s->paid = 0;
    bool found = what == SCRUB_LOOK && find_segment(s, id, &segment);
    if (found && !segment.sealed) found = wal_settled(s->node->wal, &newest, &until) && newest.id == id;
    if (found && sift_begin(&s->sift, &segment, until) == 0) work(s, LOOKS);
    else if (what == SCRUB_INDEX && begin_index(s)) work(s, INDEX);
    else return false;
    return true;
}

static void go_on(struct scrub *s)
{
    struct scrub_segment *list;
    uint64_t id = 0, bytes, now = node_now_ms();
    enum scrub_step what;
    if (s->phase != IDLE || s->closing || s->node->stopping) return;
    if (s->plan.n == 0 && !s->plan.passing && (s->plan.interval_ms == 0 || now < s->plan.due_ms)) return;
    bool passed = s->plan.passing;
    size_t n = list_segments(s, &list, &bytes);
    if (list == NULL) return; /* the next second tries again */
    while ((what = scrub_plan_next(&s->plan, now, list, n, &id)) == SCRUB_ROLL) wal_roll(s->node->wal);
    free(list);
    if (!passed && s->plan.passing) {
        s->pass_of = bytes;
        s->pass_began_us = loop_monotonic_us();
        log_debug("everything on the disk is looked at", "bytes=%" PRIu64, bytes);
    }
    if (!begin(s, what, id) && what == SCRUB_INDEX) s->plan.index = false; /* no memory: the next second tries again */
}

void scrub_tick(struct scrub *s)
{
    go_on(s);
}

/* ---- who meets damage ----------------------------------------------------------------------------------------- */

void scrub_suspect(struct scrub *s, uint64_t segment, const struct error *why)
{
    if (s == NULL || !scrub_plan_suspect(&s->plan, segment, node_now_ms())) return;
    log_error("damaged data was met: it is not served, and looked at", "segment=%" PRIu64 " reason=%s", segment, why->text);
    go_on(s);
}

void scrub_suspect_entry(struct scrub *s, uint64_t index, const struct error *why)
{
    struct wal_location at;
    if (s != NULL && wal_locate(s->node->wal, index, &at) == 0) scrub_suspect(s, at.segment, why);
}

int scrub_explain(const struct scrub *s, uint64_t segment, struct error *e)
{
    const struct scrub_suspect *is = s == NULL ? NULL : scrub_plan_find(&s->plan, segment);
    bool elsewhere = consensus_membership(s->node->consensus)->n > 1 && (is == NULL || is->why != SCRUB_LOST);
    e->code = elsewhere ? ERROR_UNAVAILABLE : ERROR_CORRUPT;
    return error_prefix(e, elsewhere ? "damaged on this server, which repairs it; ask another one" : "damaged");
}

bool scrub_holds(const struct scrub *s, uint64_t segment)
{
    return s != NULL && (s->phase == WRITES || s->phase == ASKS) && s->sift.segment.id == segment;
}

uint64_t scrub_wants_beginning(const struct scrub *s)
{
    uint64_t most = 0;
    for (unsigned i = 0; s != NULL && i < s->plan.n; i++)
        if (s->plan.suspects[i].why == SCRUB_LOG && s->plan.suspects[i].segment > most) most = s->plan.suspects[i].segment;
    return most;
}

bool scrub_alarm(const struct scrub *s)
{
    return s != NULL && scrub_plan_alarm(&s->plan);
}

void scrub_text(const struct scrub *s, size_t size, char *text)
{
    if (s != NULL) scrub_plan_text(&s->plan, size, text);
    else text[0] = '\0';
}

bool scrub_wants_state(const struct scrub *s)
{
    return s != NULL && scrub_plan_wants_state(&s->plan, node_now_ms());
}

bool scrub_hands_over(struct scrub *s)
{
    return s != NULL && scrub_plan_hands_over(&s->plan, node_now_ms());
}

void scrub_state(const struct scrub *s, struct scrub_state *ret_state)
{
    *ret_state = (struct scrub_state){.passes = s->plan.passes, .bytes = s->bytes, .found = s->plan.found, .repaired = s->plan.repaired, .pass_bytes = s->pass_bytes,
                                      .pass_of = s->plan.passing ? s->pass_of : 0, .last_pass_us = s->last_pass_us, .damaged = s->plan.n};
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

/* When the first pass begins: where the last life left off, and not at once. */
static uint64_t first_due(struct scrub *s)
{
    const struct disk *d = disk_system();
    uint64_t interval = s->plan.interval_ms, pause = interval < FIRST_PASS_MS ? interval : FIRST_PASS_MS, now_us = loop_wall_us();
    char text[22] = "";
    int fd = d->open(d, s->note, O_RDONLY);
    if (fd >= 0) {
        if (disk_read_all(d, fd, text, 20, 0) == 0) s->last_pass_us = strtoull(text, NULL, 10);
        d->close(d, fd);
    }
    if (s->last_pass_us > now_us) s->last_pass_us = 0; /* that clock was wrong */
    uint64_t since = s->last_pass_us == 0 ? interval : (now_us - s->last_pass_us) / 1000, left = since < interval ? interval - since : 0;
    return node_now_ms() + (left > pause ? left : pause);
}

struct scrub *scrub_new(struct node *node)
{
    struct scrub *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    s->node = node;
    s->work.data = s;
    s->pace.rate = node->settings->scrub_rate;
    s->plan.interval_ms = node->settings->scrub_interval_ms;
    snprintf(s->dir, sizeof s->dir, "%.4000s/wal", node->settings->data_dir);
    snprintf(s->note, sizeof s->note, "%.4000s/scrubbed", node->settings->data_dir);
    s->repair = repair_new(node, &s->sift);
    if (sift_init(&s->sift, node->index, s->dir) != 0 || s->repair == NULL) {
        sift_fini(&s->sift);
        repair_free(s->repair);
        free(s);
        return NULL;
    }
    patch_clean(disk_system(), s->dir);
    s->plan.due_ms = first_due(s);
    uv_timer_init(node->loop, &s->timer);
    s->timer.data = s;
    return s;
}

void scrub_close(struct scrub *s, void (*done)(void *user), void *user)
{
    s->closing = true;
    s->done = done;
    s->user = user;
    uv_timer_stop(&s->timer);
    if (!s->busy) uv_close((uv_handle_t *)&s->timer, on_closed);
}
