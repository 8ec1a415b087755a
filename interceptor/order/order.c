/* The events: what happens to the ordering core. What it wants done is in next.c. */
#include "interceptor/order/internal.h"

#include <assert.h>
#include <string.h>

enum { READ_ATTEMPTS = 3 }; /* times a read is given to an app that drops it */

void order_init(struct order *o, const struct order_limits *limits)
{
    memset(o, 0, sizeof *o);
    o->limits = *limits;
    TAILQ_INIT(&o->queue);
    TAILQ_INIT(&o->replays);
    TAILQ_INIT(&o->held);
    TAILQ_INIT(&o->sent);
    TAILQ_INIT(&o->ripe);
    TAILQ_INIT(&o->out);
}

/* ---- what it looks like from outside -------------------------------------------------------------------------- */

/* Something at or before the target of the replay has not been executed. The queue's offsets ascend, so its head tells.
 */
static bool replay_left(const struct order *o)
{
    const struct order_entry *head = order_head(o), *replay = TAILQ_FIRST(&o->replays);
    if (o->limits.shared ? o->aiming || o->read_pos < o->read_to || (replay != NULL && replay->offset <= o->replay_to)
                         : o->reading || replay != NULL)
        return true;
    return (head != NULL && head->life == ORDER_LOGGED && head->offset <= o->replay_to);
}

static bool app_there(const struct order *o)
{
    return o->app == ORDER_APP_STARTING || o->app == ORDER_APP_READY;
}

enum order_state order_state(const struct order *o)
{
    if (o->fenced || !app_there(o)) return ORDER_WAITING;
    if (o->drain != ORDER_DRAIN_NONE) return ORDER_DRAINING;
    if (!o->log_open || o->lapsed || o->hold || o->stopped) return ORDER_WAITING;
    if (o->app == ORDER_APP_STARTING || replay_left(o)) return ORDER_REPLAYING;
    return ORDER_ACTIVE;
}

const char *order_state_name(enum order_state state)
{
    static const char *const names[] = {"waiting", "active", "draining", "replaying"};
    return names[state];
}

const char *order_reason(const struct order *o)
{
    if (o->fenced) return "a newer epoch owns the stream: another interceptor serves it";
    if (o->stopped) return "stopping";
    if (o->app == ORDER_APP_NONE) return "no app is attached: nobody has said which offset its state contains";
    if (o->app == ORDER_APP_LOST) return "the app is gone";
    if (o->app == ORDER_APP_SUSPECT) return "the app lives and its state is uncertain: restore it";
    if (o->drain == ORDER_DRAIN_DONE) return "drained for a checkpoint";
    if (o->drain != ORDER_DRAIN_NONE) return "draining for a checkpoint";
    if (!o->log_open) return "the log is not open for appending";
    if (o->lapsed) return "our lease on the stream is not live: another interceptor may serve it";
    if (o->hold) return "held by a person";
    if (o->app == ORDER_APP_STARTING) return "connecting to the app";
    if (replay_left(o)) return "replaying";
    return "serving";
}

uint64_t order_shown(const struct order *o)
{
    return o->sent_number;
}

bool order_may_show(const struct order *o, uint64_t number)
{
    return number <= o->durable_number && !o->lapsed;
}

bool order_must_keep(const struct order *o, const struct order_entry *r)
{
    return !r->from_log && !order_may_show(o, o->sent_number);
}

bool order_is_replay(const struct order *o, const struct order_entry *r)
{
    return r->from_log && (!o->limits.shared || r->offset <= o->replay_to);
}

/* What was overtaken by requests that the app has (keyed, concurrent) is a hole: no offset describes that state. */
bool order_rests(const struct order *o, uint64_t *ret_offset)
{
    if (!o->stopped || !app_there(o) || o->n_flying > 0 || !TAILQ_EMPTY(&o->ripe) || o->furthest > o->executed) return false;
    *ret_offset = o->executed;
    return true;
}

bool order_was_fed(const struct order *o)
{
    return o->executed != o->attached || o->furthest > o->executed || o->n_flying > 0 || !TAILQ_EMPTY(&o->ripe) || o->unsettled;
}

/* ---- entries and lists ---------------------------------------------------------------------------------------- */

static void hold_bytes(struct order *o, const struct order_entry *r)
{
    o->n_held++;
    o->held_bytes += r->bytes;
}

void order_unhold(struct order *o, const struct order_entry *r)
{
    o->n_held--;
    o->held_bytes -= r->bytes;
}

void order_lives(struct order *o, struct order_entry *r, enum order_life life)
{
    o->lives[r->life]--;
    o->lives[life]++;
    r->life = life;
}

void order_over(struct order *o, struct order_entry *r, enum order_outcome outcome)
{
    r->life = ORDER_OVER;
    r->outcome = outcome;
    TAILQ_INSERT_TAIL(&o->out, r, link);
    if (outcome == ORDER_REJECTED) o->counters.rejected++;
}

/* A read that was with the app and got no answer: first in the line again, unless nobody waits for it. */
static void hold_again(struct order *o, struct order_entry *r)
{
    if (!r->waiting) {
        order_over(o, r, ORDER_DROPPED);
        return;
    }
    r->place = ORDER_AWAY;
    TAILQ_INSERT_HEAD(&o->held, r, link);
    hold_bytes(o, r);
}

static void skip_answered(struct order *o, struct order_entry *from)
{
    while (from != NULL && from->place == ORDER_ANSWERED) from = TAILQ_NEXT(from, link);
    o->first = from;
}

void order_leave_queue(struct order *o, struct order_entry *r)
{
    if (o->unsent == r) o->unsent = TAILQ_NEXT(r, link); /* all behind an ARRIVED one are ARRIVED */
    if (o->matched == r) o->matched = TAILQ_PREV(r, order_list, link);
    if (o->first == r) skip_answered(o, TAILQ_NEXT(r, link));
    TAILQ_REMOVE(&o->queue, r, link);
    o->n_anchored -= r->anchored;
    o->lives[r->life]--;
    order_unhold(o, r);
}

static void drop_replays(struct order *o)
{
    struct order_entry *r;
    while ((r = TAILQ_FIRST(&o->replays)) != NULL) {
        TAILQ_REMOVE(&o->replays, r, link);
        order_over(o, r, ORDER_DROPPED);
    }
}

/* ---- the app comes and goes ----------------------------------------------------------------------------------- */

static void end_drain(struct order *o, bool broken)
{
    if (o->drain == ORDER_DRAIN_NONE) return;
    o->drain = ORDER_DRAIN_NONE;
    o->do_close = o->do_drained = false;
    o->do_broken = broken;
    o->do_reopen = true;
}

static void stop_reading(struct order *o)
{
    if (o->reading && !o->do_read) o->do_stop = true;
    o->reading = o->do_read = false;
}

/* What was with the app takes its old place again; nothing of the app counts any more. */
static void part(struct order *o, enum order_app how)
{
    struct order_entry *r;
    if (o->n_flying > 0 || o->furthest > o->executed || !TAILQ_EMPTY(&o->ripe)) o->unsettled = true;
    TAILQ_FOREACH(r, &o->queue, link) r->place = ORDER_AWAY;
    o->first = TAILQ_FIRST(&o->queue);
    TAILQ_INIT(&o->ripe);
    o->n_flying = 0;
    o->sent_number = 0;
    while ((r = TAILQ_LAST(&o->sent, order_list)) != NULL) {
        TAILQ_REMOVE(&o->sent, r, link);
        o->n_sent--;
        hold_again(o, r);
    }
    drop_replays(o);
    stop_reading(o);
    end_drain(o, true);
    o->do_reopen = o->do_connect = o->aiming = false;
    o->do_drop = true;
    o->matched = NULL;
    o->app = how;
}

/* All that the log has of the unknown ones was found: the others are not in it. They are older than what came since, so
 * the queue ends in a run of ARRIVED ones again. */
static void resolve(struct order *o)
{
    struct order_entry *r;
    if (!o->unresolved) return;
    o->unresolved = false;
    o->unsent = NULL;
    TAILQ_FOREACH(r, &o->queue, link)
    {
        if (r->life == ORDER_UNKNOWN && !r->murky) order_lives(o, r, ORDER_ARRIVED);
        if (r->life == ORDER_ARRIVED && o->unsent == NULL) o->unsent = r;
    }
    order_shared_resolve(o);
}

static void read_done(struct order *o)
{
    if (!o->reading || !o->log_open || o->read_pos < o->read_to) return;
    if (!o->limits.shared) stop_reading(o);
    resolve(o);
}

/* Has the log read behind `pos` up to the end that is known; when the log is not open, later. */
static void begin_reading(struct order *o, uint64_t pos)
{
    if (o->reading && !o->do_read) o->do_stop = true;
    o->reading = o->do_read = true;
    o->read_pos = pos;
    o->read_to = o->replay_to = o->known;
    o->matched = NULL;
    if (!o->limits.shared) read_done(o); /* else the end is asked for */
}

static int attach(struct order *o, const struct order_event *ev, struct error *e)
{
    if (o->drain != ORDER_DRAIN_NONE)
        return error_set(e, ERROR_CONFLICT,
                         "a drain is going on: end it with POST /resume, or wait until its lease has run out");
    if (o->fenced) return error_set(e, ERROR_CONFLICT, "%s", order_reason(o));
    if (ev->same && app_there(o)) {
        if (ev->offset == o->attached || ev->offset == o->executed) return 0;
        return error_set(e, ERROR_CONFLICT, "this process is attached already, with offset %llu",
                         (unsigned long long)o->attached);
    }
    if (ev->same && (ev->offset != o->executed || o->unsettled))
        return error_set(
            e, ERROR_CONFLICT,
            "this process was attached with offset %llu and has been given requests since%s: restore a checkpoint "
            "or start afresh",
            (unsigned long long)o->attached, o->unsettled ? ", one with an unknown outcome" : "");
    if (o->limits.shared)
        order_shared_attach(o, ev->offset);
    else if (o->log_open && ev->offset > o->known)
        return error_set(e, ERROR_INVALID, "offset %llu is beyond the end of the log, %llu",
                         (unsigned long long)ev->offset, (unsigned long long)o->known);
    const struct order_entry *head = TAILQ_FIRST(&o->queue);
    if (head != NULL && head->life == ORDER_LOGGED && head->offset <= ev->offset)
        return error_set(e, ERROR_INVALID, "offset %llu is beyond what any app has executed: the request at %llu still waits",
                         (unsigned long long)ev->offset, (unsigned long long)head->offset);
    part(o, ORDER_APP_STARTING);
    o->attached = o->executed = o->furthest = o->replay_from = ev->offset;
    o->unsettled = false;
    o->do_connect = true;
    o->aiming = o->limits.shared;
    o->asked_aim = false;
    begin_reading(o, ev->offset);
    return 0;
}

static int detach(struct order *o, struct error *e)
{
    if (o->drain != ORDER_DRAIN_NONE)
        return error_set(e, ERROR_CONFLICT, "a drain is going on: end it with POST /resume first");
    if (o->app != ORDER_APP_NONE) part(o, ORDER_APP_NONE);
    return 0;
}

/* ---- the log -------------------------------------------------------------------------------------------------- */

static void log_opened(struct order *o, const struct order_event *ev)
{
    uint64_t before = o->known;
    if (o->fenced) return;
    if (o->epoch == 0) o->seen = ev->offset; /* answered by whoever was here before us, for all we know */
    o->log_open = true;
    o->epoch = ev->epoch;
    o->known = ev->offset > before ? ev->offset : before;
    if (!app_there(o)) return;
    if (o->executed > o->known) {
        part(o, ORDER_APP_SUSPECT); /* it claims to contain what the log does not have */
    } else if (o->limits.shared && o->reading) {
        o->read_to = o->known;
        read_done(o);
    } else
        begin_reading(o, o->reading ? o->read_pos : before); /* up to there all is executed or queued here */
}

static void log_lost(struct order *o)
{
    struct order_entry *r;
    /* What the app got ahead of the log may never be in it, or in another order. */
    if (app_there(o) && o->sent_number > o->durable_number) part(o, ORDER_APP_SUSPECT);
    o->log_open = false;
    o->unsent = NULL;
    TAILQ_FOREACH(r, &o->queue, link)
    {
        assert(r->life != ORDER_APPENDING);
        if (r->life == ORDER_UNKNOWN) o->unresolved = true;
        if (r->life == ORDER_ARRIVED && o->unsent == NULL) o->unsent = r;
    }
}

static void fenced(struct order *o)
{
    struct order_entry *r;
    if (o->fenced) return;
    if (app_there(o)) part(o, o->app);
    o->fenced = true;
    o->log_open = false;
    while ((r = TAILQ_FIRST(&o->queue)) != NULL) {
        bool untold = r->life == ORDER_ARRIVED; /* certainly in no log */
        order_leave_queue(o, r);
        order_over(o, r, !r->waiting ? ORDER_DROPPED : untold ? ORDER_REJECTED : ORDER_ABANDONED);
    }
    while ((r = TAILQ_FIRST(&o->held)) != NULL) {
        TAILQ_REMOVE(&o->held, r, link);
        order_unhold(o, r);
        order_over(o, r, ORDER_REJECTED);
    }
}

/* The entry of the queue which is what the log has here, or NULL. Queue and log have the same order: it is the first
 * that was not matched yet, if any; murky ones may be further in front. */
static struct order_entry *find_own(struct order *o, const struct order_event *ev)
{
    struct order_entry *r = o->matched != NULL ? TAILQ_NEXT(o->matched, link) : TAILQ_FIRST(&o->queue);
    for (;; r = TAILQ_NEXT(r, link)) {
        if (r == NULL) return NULL;
        if (r->life == ORDER_UNKNOWN && r->epoch == ev->epoch && r->sequence == ev->sequence) return r;
        if (order_is_aside(r)) continue;
        if (r->life != ORDER_LOGGED) return NULL;
        if (r->offset == ev->offset) return r;
        if (r->offset > ev->offset) return NULL;
        o->matched = r;
    }
}

static int log_read(struct order *o, const struct order_event *ev, struct error *e)
{
    if (!o->reading || ev->offset != o->read_pos + 1)
        return error_set(e, ERROR_PROTOCOL, "offset %llu of the log came where %llu was wanted",
                         (unsigned long long)ev->offset, (unsigned long long)o->read_pos + 1);
    o->read_pos = ev->offset;
    if (o->limits.shared && ev->offset > o->known) o->known = ev->offset;
    if (ev->entry != NULL) {
        struct order_entry *own = find_own(o, ev), *r = ev->entry;
        r->waiting = false;
        r->from_log = true;
        r->read = false;
        r->attempts = 0;
        r->place = ORDER_AWAY;
        r->offset = ev->offset;
        r->after = ev->after;
        r->ordered = ev->ordered;
        if (own != NULL) {
            order_lives(o, own, ORDER_LOGGED);
            own->murky = false;
            own->offset = ev->offset;
            if (own->number > o->durable_number) o->durable_number = own->number;
            o->matched = own;
            order_over(o, r, ORDER_DROPPED);
        } else {
            r->life = ORDER_LOGGED;
            TAILQ_INSERT_TAIL(&o->replays, r, link);
        }
    }
    read_done(o);
    return 0;
}

static void read_failed(struct order *o)
{
    if (o->reading && app_there(o)) part(o, ORDER_APP_SUSPECT);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void arrived(struct order *o, struct order_entry *r)
{
    r->life = ORDER_ARRIVED;
    r->waiting = true;
    r->from_log = false;
    r->attempts = 0;
    r->ordered = r->murky = r->aimed = false;
    r->place = ORDER_AWAY;
    r->offset = r->after = r->epoch = r->sequence = r->need = 0;
    r->number = ++o->numbers;
    if (o->fenced || o->n_held >= o->limits.hold_requests || o->held_bytes + r->bytes > o->limits.hold_bytes) {
        order_over(o, r, ORDER_REJECTED);
        return;
    }
    hold_bytes(o, r);
    if (r->read) {
        TAILQ_INSERT_TAIL(&o->held, r, link);
    } else {
        TAILQ_INSERT_TAIL(&o->queue, r, link);
        o->lives[ORDER_ARRIVED]++;
        o->n_anchored += r->anchored;
        if (o->unsent == NULL) o->unsent = r;
        if (o->first == NULL) o->first = r;
    }
}

static void gone(struct order *o, struct order_entry *r)
{
    r->waiting = false;
    if (r->life != ORDER_ARRIVED || r->place != ORDER_AWAY) return;
    if (r->read) {
        TAILQ_REMOVE(&o->held, r, link);
        order_unhold(o, r);
    } else {
        order_leave_queue(o, r);
    }
    order_over(o, r, ORDER_DROPPED);
}

/* All that can be seen in its answer is durable. */
static void finish(struct order *o, struct order_entry *r)
{
    if (r->read) {
        TAILQ_REMOVE(&o->sent, r, link);
        o->n_sent--;
        o->counters.reads++;
        if (o->sent_offset > o->seen) o->seen = o->sent_offset;
        order_over(o, r, ORDER_FINISHED);
        return;
    }
    if (r->offset > o->furthest) o->furthest = r->offset;
    if (r->from_log) {
        TAILQ_REMOVE(&o->replays, r, link);
    } else {
        order_leave_queue(o, r);
        o->counters.acknowledged++;
    }
    if (r->offset > o->seen) o->seen = r->offset;
    const struct order_entry *own = order_head(o), *replay = TAILQ_FIRST(&o->replays);
    o->executed = o->furthest;
    if (own != NULL && own->life == ORDER_LOGGED && own->offset <= o->executed) o->executed = own->offset - 1;
    if (replay != NULL && replay->offset <= o->executed) o->executed = replay->offset - 1;
    order_over(o, r, ORDER_FINISHED);
}

static void finish_ripe(struct order *o)
{
    struct order_entry *r;
    while ((r = TAILQ_FIRST(&o->ripe)) != NULL && order_may_show(o, r->need)) {
        TAILQ_REMOVE(&o->ripe, r, ripening);
        finish(o, r);
    }
}

static void logged(struct order *o, const struct order_event *ev)
{
    struct order_entry *r = ev->entry;
    if (ev->offset > o->known) o->known = ev->offset;
    if (r == NULL) return;
    assert(r->life == ORDER_APPENDING && (r->number > o->durable_number || r->murky));
    order_lives(o, r, ORDER_LOGGED);
    r->offset = ev->offset;
    if (r->number > o->durable_number) o->durable_number = r->number;
    o->counters.logged++;
    if (r->place != ORDER_AWAY && r->offset > o->sent_offset) o->sent_offset = r->offset;
    if (o->limits.shared && app_there(o) && r->offset <= o->attached) order_shared_abandon(o, r);
    finish_ripe(o);
}

static void unknown(struct order *o, struct order_entry *r, const struct order_event *ev)
{
    assert(r->life == ORDER_APPENDING);
    order_lives(o, r, ev->sequence > 0 ? ORDER_UNKNOWN : ORDER_ARRIVED);
    r->epoch = ev->epoch;
    r->sequence = ev->sequence;
}

static void answered(struct order *o, struct order_entry *r)
{
    assert(r->place == ORDER_SENT);
    if (!r->read) o->n_flying--;
    r->place = ORDER_ANSWERED;
    if (o->first == r) skip_answered(o, r);
    if (order_must_keep(o, r)) {
        r->need = o->sent_number;
        TAILQ_INSERT_TAIL(&o->ripe, r, ripening);
    } else {
        finish(o, r);
    }
}

static void read_dropped(struct order *o, struct order_entry *r)
{
    assert(r->place == ORDER_SENT && r->read);
    TAILQ_REMOVE(&o->sent, r, link);
    o->n_sent--;
    if (r->waiting && r->attempts >= READ_ATTEMPTS)
        order_over(o, r, ORDER_FAILED);
    else
        hold_again(o, r);
}

/* ---- drains and a person's hold ------------------------------------------------------------------------------- */

static int begin_drain(struct order *o, struct error *e)
{
    if (order_state(o) != ORDER_ACTIVE)
        return error_set(e, ERROR_CONFLICT, "a drain begins in the state active only; this is %s: %s",
                         order_state_name(order_state(o)), order_reason(o));
    o->drain = ORDER_DRAIN_WANTED;
    o->drain_number++;
    return 0;
}

static int release(struct order *o, struct error *e)
{
    if (!o->fenced && app_there(o)) {
        o->hold = false;
        return 0;
    }
    return error_set(e, ERROR_CONFLICT, "cannot be active: %s", order_reason(o));
}

int order_step(struct order *o, const struct order_event *ev, struct error *e)
{
    switch (ev->kind) {
    case ORDER_EV_ARRIVED: arrived(o, ev->entry); break;
    case ORDER_EV_GONE: gone(o, ev->entry); break;
    case ORDER_EV_LOGGED: logged(o, ev); break;
    case ORDER_EV_UNKNOWN: unknown(o, ev->entry, ev); break;
    case ORDER_EV_LOG_OPENED: log_opened(o, ev); break;
    case ORDER_EV_LOG_LOST: log_lost(o); break;
    case ORDER_EV_LAPSED: o->lapsed = true; break;
    case ORDER_EV_LEASED:
        o->lapsed = false;
        finish_ripe(o);
        break;
    case ORDER_EV_FENCED: fenced(o); break;
    case ORDER_EV_READ: return log_read(o, ev, e);
    case ORDER_EV_READ_FAILED: read_failed(o); break;
    case ORDER_EV_END:
        if (!order_shared_end(o, ev->offset)) break;
        if (o->attached > ev->offset)
            part(o, ORDER_APP_SUSPECT); /* it claims to contain what the log does not have */
        else
            read_done(o);
        break;
    case ORDER_EV_ATTACH: return attach(o, ev, e);
    case ORDER_EV_DETACH: return detach(o, e);
    case ORDER_EV_CONNECTED:
        if (o->app == ORDER_APP_STARTING) o->app = ORDER_APP_READY;
        break;
    case ORDER_EV_LOST:
        if (app_there(o) || o->app == ORDER_APP_SUSPECT) part(o, ORDER_APP_LOST);
        break;
    case ORDER_EV_SUSPECT:
        if (app_there(o)) part(o, ORDER_APP_SUSPECT);
        break;
    case ORDER_EV_SHOWN:
        if (o->sent_offset > o->seen) o->seen = o->sent_offset;
        break;
    case ORDER_EV_ANSWERED: answered(o, ev->entry); break;
    case ORDER_EV_READ_DROPPED: read_dropped(o, ev->entry); break;
    case ORDER_EV_HOLD: o->hold = true; break;
    case ORDER_EV_RELEASE: return release(o, e);
    case ORDER_EV_DRAIN: return begin_drain(o, e);
    case ORDER_EV_CLOSED:
        if (o->drain != ORDER_DRAIN_CLOSING || ev->number != o->drain_number) break;
        o->drain = ORDER_DRAIN_DONE;
        o->do_drained = true;
        break;
    case ORDER_EV_RESUME:
        if (o->drain == ORDER_DRAIN_NONE) return error_set(e, ERROR_CONFLICT, "no drain is going on");
        end_drain(o, false);
        break;
    case ORDER_EV_EXPIRED: end_drain(o, true); break;
    case ORDER_EV_STOP:
        o->stopped = true;
        end_drain(o, true);
        break;
    }
    return 0;
}

struct order_entry *order_take_any(struct order *o)
{
    struct order_list *const lists[] = {&o->queue, &o->replays, &o->held, &o->sent, &o->out};
    for (unsigned i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct order_entry *r = TAILQ_FIRST(lists[i]);
        if (r == NULL) continue;
        TAILQ_REMOVE(lists[i], r, link);
        return r;
    }
    return NULL;
}
