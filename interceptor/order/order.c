#include "interceptor/order/order.h"

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
    TAILQ_INIT(&o->out);
}

/* ---- what it looks like from outside -------------------------------------------------------------------------- */

/* Something at or before the target of the replay has not been executed. The queue's offsets ascend, so its head tells.
 */
static bool replay_left(const struct order *o)
{
    const struct order_entry *head = TAILQ_FIRST(&o->queue);
    return o->reading || !TAILQ_EMPTY(&o->replays) || (o->flying != NULL && o->flying->offset <= o->replay_to) ||
           (head != NULL && head->life == ORDER_LOGGED && head->offset <= o->replay_to);
}

static bool app_there(const struct order *o)
{
    return o->app == ORDER_APP_STARTING || o->app == ORDER_APP_READY;
}

enum order_state order_state(const struct order *o)
{
    if (o->fenced || !app_there(o)) return ORDER_WAITING;
    if (o->drain != ORDER_DRAIN_NONE) return ORDER_DRAINING;
    if (!o->log_open || o->hold) return ORDER_WAITING;
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
    if (o->app == ORDER_APP_NONE) return "no app is attached: nobody has said which offset its state contains";
    if (o->app == ORDER_APP_LOST) return "the app is gone";
    if (o->app == ORDER_APP_SUSPECT) return "the app lives and its state is uncertain: restore it";
    if (o->drain == ORDER_DRAIN_DONE) return "drained for a checkpoint";
    if (o->drain != ORDER_DRAIN_NONE) return "draining for a checkpoint";
    if (!o->log_open) return "the log is not open for appending";
    if (o->hold) return "held by a person";
    if (o->app == ORDER_APP_STARTING) return "connecting to the app";
    if (replay_left(o)) return "replaying";
    return "serving";
}

/* ---- entries and lists ---------------------------------------------------------------------------------------- */

static void hold_bytes(struct order *o, const struct order_entry *r)
{
    o->n_held++;
    o->held_bytes += r->bytes;
}

static void unhold_bytes(struct order *o, const struct order_entry *r)
{
    o->n_held--;
    o->held_bytes -= r->bytes;
}

static void over(struct order *o, struct order_entry *r, enum order_outcome outcome)
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
        over(o, r, ORDER_DROPPED);
        return;
    }
    r->life = ORDER_ARRIVED;
    TAILQ_INSERT_HEAD(&o->held, r, link);
    hold_bytes(o, r);
}

static void leave_queue(struct order *o, struct order_entry *r)
{
    if (o->unsent == r) o->unsent = TAILQ_NEXT(r, link); /* all behind an ARRIVED one are ARRIVED */
    if (o->matched == r) o->matched = TAILQ_PREV(r, order_list, link);
    TAILQ_REMOVE(&o->queue, r, link);
    unhold_bytes(o, r);
}

static void drop_replays(struct order *o)
{
    struct order_entry *r;
    while ((r = TAILQ_FIRST(&o->replays)) != NULL) {
        TAILQ_REMOVE(&o->replays, r, link);
        over(o, r, ORDER_DROPPED);
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
    if (o->flying != NULL) {
        o->flying->life = ORDER_LOGGED; /* still at the head of queue or replays */
        o->flying = NULL;
        o->unsettled = true;
    }
    while ((r = TAILQ_LAST(&o->sent, order_list)) != NULL) {
        TAILQ_REMOVE(&o->sent, r, link);
        o->n_sent--;
        hold_again(o, r);
    }
    drop_replays(o);
    stop_reading(o);
    end_drain(o, true);
    o->do_reopen = o->do_connect = false;
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
        if (r->life == ORDER_UNKNOWN) r->life = ORDER_ARRIVED;
        if (r->life == ORDER_ARRIVED && o->unsent == NULL) o->unsent = r;
    }
}

static void read_done(struct order *o)
{
    if (!o->reading || !o->log_open || o->read_pos < o->read_to) return;
    if (!o->do_read) o->do_stop = true;
    o->reading = o->do_read = false;
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
    read_done(o);
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
    if (o->log_open && ev->offset > o->known)
        return error_set(e, ERROR_INVALID, "offset %llu is beyond the end of the log, %llu",
                         (unsigned long long)ev->offset, (unsigned long long)o->known);
    part(o, ORDER_APP_STARTING);
    o->attached = o->executed = o->replay_from = ev->offset;
    o->unsettled = false;
    o->do_connect = true;
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
    o->log_open = true;
    o->epoch = ev->epoch;
    o->known = ev->offset > before ? ev->offset : before;
    if (!app_there(o)) return;
    if (o->executed > o->known)
        part(o, ORDER_APP_SUSPECT); /* it claims to contain what the log does not have */
    else
        begin_reading(o, o->reading ? o->read_pos : before); /* up to there all is executed or queued here */
}

static void log_lost(struct order *o)
{
    struct order_entry *r;
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
        leave_queue(o, r);
        over(o, r, !r->waiting ? ORDER_DROPPED : untold ? ORDER_REJECTED : ORDER_ABANDONED);
    }
    while ((r = TAILQ_FIRST(&o->held)) != NULL) {
        TAILQ_REMOVE(&o->held, r, link);
        unhold_bytes(o, r);
        over(o, r, ORDER_REJECTED);
    }
}

/* The entry of the queue which is what the log has here, or NULL. Queue and log have the same order: it is the first
 * that was not matched yet, if any. */
static struct order_entry *find_own(struct order *o, const struct order_event *ev)
{
    for (;;) {
        struct order_entry *r = o->matched != NULL ? TAILQ_NEXT(o->matched, link) : TAILQ_FIRST(&o->queue);
        if (r == NULL) return NULL;
        if (r->life == ORDER_UNKNOWN) return r->epoch == ev->epoch && r->sequence == ev->sequence ? r : NULL;
        if (r->life != ORDER_LOGGED && r->life != ORDER_SENT) return NULL;
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
    if (ev->entry != NULL) {
        struct order_entry *own = find_own(o, ev), *r = ev->entry;
        r->waiting = false;
        r->from_log = true;
        r->read = false;
        r->attempts = 0;
        r->offset = ev->offset;
        if (own != NULL) {
            own->life = own->life == ORDER_SENT ? ORDER_SENT : ORDER_LOGGED;
            own->offset = ev->offset;
            o->matched = own;
            over(o, r, ORDER_DROPPED);
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
    r->offset = r->epoch = r->sequence = 0;
    if (o->fenced || o->n_held >= o->limits.hold_requests || o->held_bytes + r->bytes > o->limits.hold_bytes) {
        over(o, r, ORDER_REJECTED);
        return;
    }
    hold_bytes(o, r);
    if (r->read) {
        TAILQ_INSERT_TAIL(&o->held, r, link);
    } else {
        TAILQ_INSERT_TAIL(&o->queue, r, link);
        if (o->unsent == NULL) o->unsent = r;
    }
}

static void gone(struct order *o, struct order_entry *r)
{
    r->waiting = false;
    if (r->life != ORDER_ARRIVED) return;
    if (r->read) {
        TAILQ_REMOVE(&o->held, r, link);
        unhold_bytes(o, r);
    } else {
        leave_queue(o, r);
    }
    over(o, r, ORDER_DROPPED);
}

static void logged(struct order *o, const struct order_event *ev)
{
    if (ev->offset > o->known) o->known = ev->offset;
    if (ev->entry == NULL) return;
    assert(ev->entry->life == ORDER_APPENDING);
    ev->entry->life = ORDER_LOGGED;
    ev->entry->offset = ev->offset;
    o->counters.logged++;
}

static void unknown(struct order_entry *r, const struct order_event *ev)
{
    assert(r->life == ORDER_APPENDING);
    r->life = ev->sequence > 0 ? ORDER_UNKNOWN : ORDER_ARRIVED;
    r->epoch = ev->epoch;
    r->sequence = ev->sequence;
}

static void answered(struct order *o, struct order_entry *r)
{
    assert(r->life == ORDER_SENT);
    if (r->read) {
        TAILQ_REMOVE(&o->sent, r, link);
        o->n_sent--;
        o->counters.reads++;
    } else {
        assert(o->flying == r && r->offset > o->executed);
        o->flying = NULL;
        o->executed = r->offset;
        if (r->from_log) {
            TAILQ_REMOVE(&o->replays, r, link);
        } else {
            leave_queue(o, r);
            o->counters.acknowledged++;
        }
    }
    over(o, r, ORDER_FINISHED);
}

static void read_dropped(struct order *o, struct order_entry *r)
{
    assert(r->life == ORDER_SENT && r->read);
    TAILQ_REMOVE(&o->sent, r, link);
    o->n_sent--;
    if (r->waiting && r->attempts >= READ_ATTEMPTS)
        over(o, r, ORDER_FAILED);
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
    case ORDER_EV_UNKNOWN: unknown(ev->entry, ev); break;
    case ORDER_EV_LOG_OPENED: log_opened(o, ev); break;
    case ORDER_EV_LOG_LOST: log_lost(o); break;
    case ORDER_EV_FENCED: fenced(o); break;
    case ORDER_EV_READ: return log_read(o, ev, e);
    case ORDER_EV_READ_FAILED: read_failed(o); break;
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
    }
    return 0;
}

/* ---- what is to be done --------------------------------------------------------------------------------------- */

static bool pull(bool *flag)
{
    bool set = *flag;
    *flag = false;
    return set;
}

/* The logged request that is next: the smallest offset not executed, if everything before it is known. */
static struct order_entry *next_logged(struct order *o)
{
    enum order_state state = order_state(o);
    struct order_entry *own = TAILQ_FIRST(&o->queue), *replay = TAILQ_FIRST(&o->replays);
    if ((state != ORDER_ACTIVE && state != ORDER_REPLAYING) || o->app != ORDER_APP_READY || o->flying != NULL)
        return NULL;
    if (own != NULL && own->life != ORDER_LOGGED) own = NULL; /* it will be behind all that was read */
    struct order_entry *r = own == NULL || (replay != NULL && replay->offset < own->offset) ? replay : own;
    return r == NULL || (o->reading && r->offset > o->read_pos) ? NULL : r;
}

static struct order_entry *next_read(struct order *o)
{
    struct order_entry *r = TAILQ_FIRST(&o->held);
    return r != NULL && o->n_sent < o->limits.reads && order_state(o) == ORDER_ACTIVE ? r : NULL;
}

static void send(struct order *o, struct order_entry *r)
{
    r->life = ORDER_SENT;
    if (r->read) {
        TAILQ_REMOVE(&o->held, r, link);
        unhold_bytes(o, r);
        TAILQ_INSERT_TAIL(&o->sent, r, link);
        o->n_sent++;
    } else {
        o->flying = r;
        if (r->from_log || r->attempts > 0) o->counters.replayed++;
    }
    if (r->attempts < UINT8_MAX) r->attempts++;
}

static void hand_back(struct order *o, struct order_entry *r, struct order_action *a)
{
    static const enum order_action_kind kinds[] = {
        [ORDER_FINISHED] = ORDER_DO_FINISH, [ORDER_DROPPED] = ORDER_DO_FREE,      [ORDER_REJECTED] = ORDER_DO_REJECT,
        [ORDER_FAILED] = ORDER_DO_FAIL,     [ORDER_ABANDONED] = ORDER_DO_ABANDON,
    };
    TAILQ_REMOVE(&o->out, r, link);
    a->kind = kinds[r->outcome];
    a->entry = r;
}

static bool next_of_log(struct order *o, struct order_action *a)
{
    if (pull(&o->do_stop)) {
        a->kind = ORDER_DO_STOP;
    } else if (o->log_open && pull(&o->do_read)) {
        *a = (struct order_action){.kind = ORDER_DO_READ, .offset = o->read_pos + 1, .to = o->read_to};
    } else if (o->log_open && !o->unresolved && o->unsent != NULL) {
        a->kind = ORDER_DO_APPEND;
        a->entry = o->unsent;
        o->unsent->life = ORDER_APPENDING;
        o->unsent = TAILQ_NEXT(o->unsent, link);
    } else {
        return false;
    }
    return true;
}

static bool next_of_drain(struct order *o, struct order_action *a)
{
    a->number = o->drain_number;
    if (o->drain == ORDER_DRAIN_WANTED && o->flying == NULL && o->n_sent == 0) {
        o->drain = ORDER_DRAIN_CLOSING;
        o->do_close = true;
    }
    if (pull(&o->do_broken)) {
        a->kind = ORDER_DO_BROKEN;
    } else if (pull(&o->do_reopen)) {
        a->kind = ORDER_DO_REOPEN;
    } else if (pull(&o->do_close)) {
        a->kind = ORDER_DO_CLOSE;
    } else if (pull(&o->do_drained)) {
        a->kind = ORDER_DO_DRAINED;
        a->offset = o->executed;
    } else {
        return false;
    }
    return true;
}

bool order_next(struct order *o, struct order_action *a)
{
    struct order_entry *r;
    *a = (struct order_action){0};
    if (pull(&o->do_drop)) {
        a->kind = ORDER_DO_DROP;
    } else if ((r = TAILQ_FIRST(&o->out)) != NULL) {
        hand_back(o, r, a);
    } else if (pull(&o->do_connect)) {
        a->kind = ORDER_DO_CONNECT;
    } else if (next_of_log(o, a) || next_of_drain(o, a)) {
        return true;
    } else if ((r = next_logged(o)) != NULL || (r = next_read(o)) != NULL) {
        send(o, r);
        a->kind = ORDER_DO_SEND;
        a->entry = r;
    } else {
        return false;
    }
    return true;
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
