#include "logd/index/index.h"

#include <assert.h>
#include <stdlib.h>

#include "logd/index/store.h"

/* A transaction costs a sync however small it is: effects wait for company up to commit_ms, or this many bytes. Beyond
 * QUEUE_MAX index_put() waits for the worker: a log that is applied faster than it can be indexed is slowed down. */
enum { ROOM_MS = 100, COMMIT_MS = 100, COMMIT_BYTES = 4 << 20, QUEUE_MAX = 32 << 20 };

struct index {
    uv_loop_t *loop;
    struct index_options options;
    struct store *store;
    uv_thread_t thread;
    uv_async_t async; /* the worker has an answer */
    uv_timer_t timer; /* the oldest queued effect is commit_ms old */

    /* The loop's thread only: */
    struct batch queued;
    uint64_t put;     /* highest index given to index_put() */
    uint64_t applied; /* durably */
    bool busy;        /* `committing` is the worker's */
    bool wanted;      /* a transaction is due as soon as the worker is free */
    bool news;        /* on_durable() is owed */
    bool backlog;     /* trimmed rows are to be deleted: also without new effects */
    bool failed;      /* on_failed() was called or is owed */
    bool told;        /* on_failed() was called */
    struct error why;
    bool closing;
    bool ended;       /* the worker was told to stop */
    unsigned open_handles;
    void (*done)(void *user);
    void *done_user;

    struct batch committing; /* the worker's while `busy`, else the loop's */

    uv_mutex_t lock; /* for what follows */
    uv_cond_t changed;
    enum { WORKER_IDLE, WORKER_GIVEN, WORKER_DONE, WORKER_STOP } state;
    int result;
    bool result_backlog;
    struct error result_why;
    bool no_room; /* the worker waits for room on the disk */
    bool give_up; /* it need not any more */
};

/* ---- the worker's thread -------------------------------------------------------------------------------------- */

/* A transaction that found the disk full is made again, from its beginning, when there is room: LMDB writes to pages that the last committed state does not
 * use, so what a failed one left is nothing to build on, and all of it is written anew. (A failed write of its meta page is another error, and fatal.) */
static int commit(struct index *x, struct error *why)
{
    int result;
    while ((result = store_commit(x->store, &x->committing, why)) == -ERROR_NOSPACE) {
        uv_mutex_lock(&x->lock);
        x->no_room = true;
        if (!x->give_up) uv_cond_timedwait(&x->changed, &x->lock, ROOM_MS * UINT64_C(1000000));
        bool ends = x->give_up;
        uv_mutex_unlock(&x->lock);
        if (ends) return result;
    }
    uv_mutex_lock(&x->lock);
    x->no_room = false;
    uv_mutex_unlock(&x->lock);
    return result;
}

static void work(void *arg)
{
    struct index *x = arg;
    uv_mutex_lock(&x->lock);
    for (;;) {
        while (x->state != WORKER_GIVEN && x->state != WORKER_STOP) uv_cond_wait(&x->changed, &x->lock);
        if (x->state == WORKER_STOP) break;
        uv_mutex_unlock(&x->lock);
        struct error why = {0};
        int result = commit(x, &why);
        bool backlog = result == 0 && store_trims(x->store);
        uv_mutex_lock(&x->lock);
        x->result = result;
        x->result_backlog = backlog;
        x->result_why = why;
        x->state = WORKER_DONE;
        uv_cond_broadcast(&x->changed);
        uv_async_send(&x->async);
    }
    uv_mutex_unlock(&x->lock);
}

static void set_state(struct index *x, int state)
{
    uv_mutex_lock(&x->lock);
    x->state = state;
    uv_cond_broadcast(&x->changed);
    uv_mutex_unlock(&x->lock);
}

/* ---- the loop's thread: starting and ending transactions ------------------------------------------------------ */

static void start(struct index *x)
{
    bool due = (x->wanted && x->queued.applied != 0) || x->queued.moves.len > 0;
    if (x->busy || x->failed || !(due || (x->backlog && !x->closing))) return;
    struct batch empty = x->committing;
    x->committing = x->queued;
    x->queued = empty;
    x->wanted = false;
    x->busy = true;
    uv_timer_stop(&x->timer);
    set_state(x, WORKER_GIVEN);
}

/* Takes the worker's answer, if there is one (or waits for it). Calls nobody: who is to hear of it does so later. */
static void harvest(struct index *x, bool wait)
{
    uv_mutex_lock(&x->lock);
    while (wait && x->state == WORKER_GIVEN) uv_cond_wait(&x->changed, &x->lock);
    bool done = x->state == WORKER_DONE;
    if (done) x->state = WORKER_IDLE;
    int result = x->result;
    bool backlog = x->result_backlog;
    struct error why = x->result_why;
    uv_mutex_unlock(&x->lock);
    if (!done) return;

    x->busy = false;
    if (result == 0) {
        x->backlog = backlog;
        x->news = x->news || x->committing.applied != 0;
        if (x->committing.applied != 0) x->applied = x->committing.applied;
    } else {
        x->failed = true;
        x->why = why;
        uv_timer_stop(&x->timer);
    }
    batch_clear(&x->committing);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct index *x = handle->data;
    if (--x->open_handles > 0) return;
    store_close(x->store);
    batch_fini(&x->queued);
    batch_fini(&x->committing);
    uv_cond_destroy(&x->changed);
    uv_mutex_destroy(&x->lock);
    void (*done)(void *) = x->done;
    void *user = x->done_user;
    free(x);
    if (done != NULL) done(user);
}

/* Once closing, and when nothing is under way or left to commit. */
static void end_if_done(struct index *x)
{
    if (!x->closing || x->ended || x->busy || (x->queued.applied != 0 && !x->failed)) return;
    x->ended = true;
    set_state(x, WORKER_STOP);
    uv_thread_join(&x->thread); /* it is idle: this does not wait for a disk */
    uv_close((uv_handle_t *)&x->timer, on_handle_closed);
    uv_close((uv_handle_t *)&x->async, on_handle_closed);
}

static void on_answer(uv_async_t *async)
{
    struct index *x = async->data;
    harvest(x, false);
    start(x);
    /* The callbacks may call anything here, index_close() too; `x` lives on until its handles are closed. */
    if (x->news) {
        x->news = false;
        x->options.on_durable(x->options.user, x->applied);
    }
    bool stopped = x->closing && x->why.code == ERROR_NOSPACE; /* closed while it waited for room: the log has it all */
    if (x->failed && !x->told && !stopped) {
        x->told = true;
        x->options.on_failed(x->options.user, &x->why);
    }
    end_if_done(x);
}

static void on_due(uv_timer_t *timer)
{
    index_sync(timer->data);
}

/* ---- public --------------------------------------------------------------------------------------------------- */

static void free_unopened(struct index *x)
{
    store_close(x->store);
    free(x);
}

int index_open(uv_loop_t *loop, const struct index_options *options, struct index **ret_index, struct error *e)
{
    assert(options->on_durable != NULL && options->on_failed != NULL);
    struct index *x = calloc(1, sizeof *x);
    if (x == NULL) return error_set(e, ERROR_NOMEM, "no memory for the index");
    x->loop = loop;
    x->options = *options;
    x->options.dir = NULL; /* borrowed only during this call */
    if (x->options.commit_ms == 0) x->options.commit_ms = COMMIT_MS;
    int rv = store_open(options->dir, options->map_bytes, &x->store, e);
    if (rv != 0) {
        free_unopened(x);
        return rv;
    }
    x->applied = x->put = store_opened_at(x->store);
    if (uv_mutex_init(&x->lock) != 0) {
        free_unopened(x);
        return error_set(e, ERROR_NOMEM, "no memory for the index' lock");
    }
    int status = uv_cond_init(&x->changed);
    if (status == 0) {
        status = uv_thread_create(&x->thread, work, x);
        if (status != 0) uv_cond_destroy(&x->changed);
    }
    if (status != 0) {
        uv_mutex_destroy(&x->lock);
        free_unopened(x);
        return error_uv(e, ERROR_IO, status, "cannot start the index' thread");
    }
    uv_timer_init(loop, &x->timer);
    uv_async_init(loop, &x->async, on_answer);
    x->timer.data = x->async.data = x;
    x->open_handles = 2;
    *ret_index = x;
    return 0;
}

void index_close(struct index *x, void (*done)(void *user), void *user)
{
    assert(!x->closing);
    x->closing = true;
    x->done = done;
    x->done_user = user;
    index_sync(x);
    uv_mutex_lock(&x->lock);
    x->give_up = true;
    uv_cond_broadcast(&x->changed);
    uv_mutex_unlock(&x->lock);
    end_if_done(x);
}

uint64_t index_applied(const struct index *x)
{
    return x->applied;
}

uint64_t index_queued_bytes(const struct index *x)
{
    return x->queued.bytes.len + (x->busy ? x->committing.bytes.len : 0);
}

bool index_no_room(struct index *x)
{
    uv_mutex_lock(&x->lock);
    bool no_room = x->no_room;
    uv_mutex_unlock(&x->lock);
    return no_room;
}

uint64_t index_bytes(const struct index *x)
{
    return store_bytes(x->store);
}

struct load {
    struct streams *streams;
    enum streams_table table;
};

static int load_record(void *user, const void *key, size_t key_len, const void *value, size_t value_len, struct error *e)
{
    struct load *l = user;
    return streams_load(l->streams, l->table, key, key_len, value, value_len, e);
}

int index_load(struct index *x, struct streams *streams, struct error *e)
{
    static const enum streams_table tables[] = {STREAMS_TABLE_STREAM, STREAMS_TABLE_SESSION, STREAMS_TABLE_SNAPSHOT};
    assert(!x->busy);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        struct load l = {streams, tables[i]};
        int rv = store_each(x->store, tables[i], load_record, &l, e);
        if (rv != 0) return rv;
    }
    x->backlog = store_trims(x->store);
    start(x);
    return streams_loaded(streams, x->applied, e);
}

int index_put(struct index *x, uint64_t applied_index, const struct streams_update *update, struct error *e)
{
    assert(applied_index > x->put && !x->closing);
    if (x->failed) {
        if (e != NULL) *e = x->why;
        return -(int)x->why.code;
    }
    int rv = batch_add(&x->queued, applied_index, update);
    if (rv != 0) return error_set(e, ERROR_NOMEM, "no memory to queue effects for the index");
    x->put = applied_index;
    if (x->queued.bytes.len >= COMMIT_BYTES)
        index_sync(x);
    else if (!x->wanted && !uv_is_active((uv_handle_t *)&x->timer))
        uv_timer_start(&x->timer, on_due, x->options.commit_ms, 0);
    if (x->busy && x->queued.bytes.len >= QUEUE_MAX) {
        harvest(x, true);
        start(x);
    }
    return 0;
}

int index_move(struct index *x, const struct batch_move *moves, size_t n, struct error *e)
{
    if (x->failed) {
        if (e != NULL) *e = x->why;
        return -(int)x->why.code;
    }
    if (batch_move(&x->queued, moves, n) != 0) return error_set(e, ERROR_NOMEM, "no memory to queue places for the index");
    start(x);
    return 0;
}

bool index_moving(const struct index *x)
{
    return !x->failed && (x->queued.moves.len > 0 || (x->busy && x->committing.moves.len > 0));
}

int index_scan(struct index *x, uint64_t *stream, uint64_t *offset, unsigned most,
               int (*each)(void *user, uint64_t stream_id, const struct streams_run *run, struct error *e), void *user, bool *ret_end, struct error *e)
{
    return store_scan(x->store, stream, offset, most, each, user, ret_end, e);
}

int index_note(struct index *x, const void *bytes, size_t len)
{
    return batch_note(&x->queued, bytes, len);
}

const struct buf *index_opened_note(const struct index *x)
{
    return store_opened_note(x->store);
}

void index_sync(struct index *x)
{
    x->wanted = x->queued.applied != 0;
    start(x);
}

int index_live(struct index *x, uint64_t segment, uint64_t *ret_bytes, struct error *e)
{
    return store_live(x->store, segment, ret_bytes, e);
}

int index_copy(struct index *x, const char *dir, struct error *e)
{
    return store_copy(x->store, dir, e);
}

/* ---- looking into one that nobody has open -------------------------------------------------------------------- */

struct pass {
    const struct index_inspection *inspection;
    uint64_t stream, from; /* where its runs begin; stream 0: none yet */
};

enum { BEGIN_LATER = 2 }; /* on_row()'s, beside INDEX_NEXT_STREAM */

static int on_row(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct pass *p = user;
    const struct index_inspection *i = p->inspection;
    if (stream != p->stream) {
        p->stream = stream;
        p->from = i->from == NULL ? 0 : i->from(i->user, stream);
        if (run->first_offset < p->from) return BEGIN_LATER;
    }
    return i->each_run(i->user, stream, run, e);
}

static int each_run(struct store *store, const struct index_inspection *i, struct error *e)
{
    struct pass p = {.inspection = i};
    uint64_t stream = 0, offset = 0;
    bool end = false;
    while (!end) {
        int rv = store_scan(store, &stream, &offset, UINT32_MAX, on_row, &p, &end, e);
        if (rv < 0) return rv;
        if (rv == INDEX_NEXT_STREAM) stream = p.stream + 1, offset = 0;
        else if (rv == BEGIN_LATER) stream = p.stream, offset = p.from;
    }
    return 0;
}

int index_inspect(const char *dir, const struct index_inspection *i, uint64_t *ret_applied, struct error *e)
{
    struct store *store;
    int rv = store_open(dir, 0, &store, e);
    if (rv != 0) return rv;
    *ret_applied = store_opened_at(store);
    rv = store_each_live(store, i->each_segment, i->user, e);
    for (int again = i->each_run != NULL; rv == 0 && again;) {
        rv = each_run(store, i, e);
        again = rv == 0 && i->again != NULL ? i->again(i->user, e) : 0;
        if (again < 0) rv = again;
    }
    store_close(store);
    return rv;
}

int index_find(struct index *x, uint64_t stream_id, uint64_t offset, struct streams_run *ret_runs, unsigned most, unsigned *ret_n,
               struct error *e)
{
    return store_find(x->store, stream_id, offset, ret_runs, most, ret_n, e);
}
