/* The engine's part for several replicas whose answers differ (replica/verdict.h): votes go into the log, and an app that is not of the
 * majority is suspect: it gets nothing more, and a known state has to be attached. Only with --replication log. */
#include <inttypes.h>
#include <string.h>

#include "interceptor/engine_internal.h"

int disputes_new(struct engine *engine)
{
    engine->replicas = (unsigned)engine->settings->replicas;
    engine->verdicts = verdicts_new(engine->settings->producer, engine->settings->app_version, engine->replicas);
    return engine->verdicts != NULL ? 0 : -ERROR_NOMEM;
}

void disputes_agreed(struct engine *engine, uint64_t offset)
{
    if (engine->settings->shared) engine->agreements[engine->n_agreements++ % ENGINE_AGREEMENTS] = offset;
}

/* The newest answer before that one which was like the recorded one. What this app executed after it may be wrong; 0: all that it did. */
static uint64_t agreed_before(const struct engine *engine, uint64_t offset)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < ENGINE_AGREEMENTS; i++)
        if (engine->agreements[i] < offset && engine->agreements[i] > newest) newest = engine->agreements[i];
    return newest;
}

static void diverged(struct engine *engine, uint64_t offset)
{
    engine->diverged = offset;
    engine->agreed = agreed_before(engine, offset);
    engine->divergences++;
    log_error("this replica's app has diverged: rebuild it from another one's checkpoint", "offset=%" PRIu64 " identity=%s", offset,
              engine->identity);
    snprintf(engine->detail, sizeof engine->detail, "its answer to offset %" PRIu64 " is not that of the majority", offset);
    engine_step(engine, &(struct order_event){.kind = ORDER_EV_SUSPECT}, NULL);
}

static void disagreement(struct engine *engine, uint64_t offset)
{
    bool hold = engine->settings->hold_on_disagreement;
    engine->disagreement = offset;
    engine->disagreements++;
    log_error("replicas disagree, and there is no majority", "offset=%" PRIu64 " held=%d", offset, hold);
    if (hold && engine_hold(engine, true, NULL) == 0) engine->held_for = offset;
}

static void settled(struct engine *engine, uint64_t offset)
{
    if (engine->disagreement == offset) engine->disagreement = 0;
    if (engine->held_for != offset) return;
    engine->held_for = 0;
    engine_hold(engine, false, NULL);
}

static void follow_up(struct engine *engine, uint64_t offset, enum verdict verdict)
{
    if (verdict == VERDICT_DISAGREEMENT) disagreement(engine, offset);
    if (verdict == VERDICT_SETTLED || verdict == VERDICT_DIVERGED) settled(engine, offset);
    if (verdict == VERDICT_DIVERGED) diverged(engine, offset);
}

void disputes_count(struct engine *engine, unsigned replicas)
{
    uint64_t offset = 0;
    enum verdict verdict = VERDICT_NOTHING;
    engine->replicas = replicas;
    verdicts_count(engine->verdicts, replicas);
    while (verdict != VERDICT_DIVERGED && verdicts_again(engine->verdicts, &offset, &verdict)) follow_up(engine, offset, verdict);
}

static void cast(struct engine *engine, uint64_t offset)
{
    char text[VERDICT_TEXT_MAX];
    size_t len = verdict_print(engine->verdicts, offset, text);
    if (len > 0) log_append_vote(engine->log, offset, text, len);
}

void disputes_answered(struct engine *engine, uint64_t offset, const struct answer_digest *digest)
{
    bool ours;
    if (!engine->settings->shared) return;
    enum verdict verdict = verdicts_own(engine->verdicts, offset, digest, &ours);
    if (ours) cast(engine, offset);
    follow_up(engine, offset, verdict);
}

void disputes_differs(struct engine *engine, uint64_t offset)
{
    if (engine->settings->shared && verdicts_differs(engine->verdicts, offset) == VERDICT_CAST) cast(engine, offset);
}

void disputes_event(struct engine *engine, const struct crsc_event *event)
{
    struct verdict_vote vote;
    bool ours = false;
    if (!engine->settings->shared || event->kind != CRSC_MARK || event->ref == 0) return;
    if (verdict_parse(event->payload, event->size, &vote) != 0) return;
    enum verdict verdict = verdicts_read(engine->verdicts, event->ref, &vote, &ours);
    if (ours) cast(engine, event->ref);
    follow_up(engine, event->ref, verdict);
}

void disputes_attached(struct engine *engine)
{
    verdicts_attached(engine->verdicts);
    engine->diverged = engine->agreed = 0;
    memset(engine->agreements, 0, sizeof engine->agreements);
}
