/* The engine's part for an interceptor that dies and an app that does not (replay/proof.h): marks are left in the log for whoever
 * comes after us, and those of whoever was before us are read at the start. */
#include <inttypes.h>
#include <string.h>

#include "interceptor/engine_internal.h"

static void on_begin(void *user, uint64_t from, uint64_t to)
{
    struct engine *engine = user;
    proof_begin(&engine->proof, from, to, engine->first_epoch);
}

static void on_event(void *user, const struct crsc_event *event)
{
    struct engine *engine = user;
    proof_event(&engine->proof, event);
}

/* Somebody else had the stream after it was opened and found to end there: what the app got from him is not in what we read. */
static void doubt(struct engine *engine)
{
    if (engine->interrupted && engine->proof.verdict == PROOF_KNOWN) engine->proof.verdict = PROOF_UNCERTAIN;
}

/* Our own events come behind the range: what was found stays true until an app is attached. */
static void on_end(void *user)
{
    struct engine *engine = user;
    struct proof *p = &engine->proof;
    proof_end(p);
    tenure_proof(engine);
    /* Under optimistic logging an app may get what never comes into the log. */
    if (p->verdict == PROOF_KNOWN && engine->settings->optimistic) p->verdict = PROOF_UNCERTAIN;
    doubt(engine);
    if (p->verdict == PROOF_KNOWN)
        log_info("the state of the app that was served is known from the log", "identity=%s offset=%" PRIu64, p->identity, p->offset);
    else if (p->verdict == PROOF_UNCERTAIN)
        log_info("the state of the app that was served is uncertain: restore it", "identity=%s outstanding=%" PRIu32 " first=%" PRIu64,
                 p->identity, p->outstanding, p->offset);
    engine_pump(engine);
}

int marks_new(struct engine *engine)
{
    static const struct lookback_handlers handlers = {.on_begin = on_begin, .on_event = on_event, .on_end = on_end};
    engine->marks = lookback_new(engine->loop, engine->client, engine->settings->stream, "marks", &handlers, engine);
    return engine->marks != NULL ? 0 : -ERROR_NOMEM;
}

void marks_begin(struct engine *engine, uint64_t last)
{
    uint64_t epoch = engine->order.epoch;
    if (engine->first_epoch == 0)
        engine->first_epoch = epoch;
    else if (epoch != engine->last_epoch + 1) /* ours follow each other; a try whose answer was lost looks the same, and is not told apart */
        engine->interrupted = true;
    engine->last_epoch = epoch;
    doubt(engine);
    lookback_start(engine->marks, engine->settings->shared ? 0 : PROOF_LOOKBACK, last); /* shared: others' completions prove nothing of our app */
}

void marks_leave(struct engine *engine)
{
    const struct order *o = &engine->order;
    struct buf text = BUF_INIT;
    bool due = engine->mark_due || engine->marked_attach != engine->attaches || o->known >= engine->marked_at + PROOF_MARK_EVERY;
    if (!due || engine->settings->optimistic || engine->settings->shared || engine->attaches == 0 || order_state(o) != ORDER_ACTIVE) return;
    if (proof_mark(&text, engine->identity, o->executed) == 0 && log_append_mark(engine->log, text.data, text.len)) {
        engine->marked_attach = engine->attaches;
        engine->marked_at = o->known;
        engine->mark_due = false;
    }
    buf_fini(&text);
}

/* With nothing attached yet, what was proven to us of an app holds on: it got nothing from us. Under optimistic logging nothing is ever proven. */
void marks_rest(struct engine *engine)
{
    const struct proof *p = &engine->proof;
    const char *identity = engine->attaches > 0 ? engine->identity : p->identity;
    uint64_t offset = p->offset;
    struct buf text = BUF_INIT;
    if (engine->settings->optimistic || engine->settings->shared) return;
    if (engine->attaches > 0 ? !order_rests(&engine->order, &offset) : p->verdict != PROOF_KNOWN) return;
    if (proof_rest(&text, identity, offset) == 0 && log_append_mark(engine->log, text.data, text.len))
        log_info("the app rests", "identity=%s offset=%" PRIu64, identity, offset);
    buf_fini(&text);
}

int marks_check(const struct engine *engine, const char *identity, uint64_t offset, bool proven, struct error *e)
{
    const struct proof *p = &engine->proof;
    if (engine->attaches > 0) {
        bool same = strcmp(identity, engine->identity) == 0;
        return proven && !same ? error_set(e, ERROR_CONFLICT, "another app was attached since: \"%s\"", engine->identity) : 0;
    }
    bool named = p->verdict > PROOF_NONE && strcmp(identity, p->identity) == 0;
    if (named && p->verdict == PROOF_UNCERTAIN)
        return error_set(e, ERROR_CONFLICT,
                         "this process was served by an earlier interceptor, and a request may have reached it or not: restore a checkpoint or "
                         "start afresh");
    if (named && offset != p->offset)
        return error_set(e, ERROR_CONFLICT, "this process was served by an earlier interceptor: its state is that of offset %" PRIu64, p->offset);
    if (proven && !named)
        return error_set(e, ERROR_CONFLICT, "nothing is proven of this process: %s", p->verdict == PROOF_PENDING ? "the log is being read" : "the log does not name it");
    return 0;
}
