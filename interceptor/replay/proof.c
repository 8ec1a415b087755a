#include "interceptor/replay/proof.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

static void set_open(struct proof *p, uint64_t offset, bool open)
{
    uint64_t at = offset % PROOF_LOOKBACK, bit = UINT64_C(1) << at % 64;
    if (open)
        p->open[at / 64] |= bit;
    else
        p->open[at / 64] &= ~bit;
}

static bool is_open(const struct proof *p, uint64_t offset)
{
    uint64_t at = offset % PROOF_LOOKBACK;
    return (p->open[at / 64] >> at % 64 & 1) != 0;
}

void proof_begin(struct proof *p, uint64_t from, uint64_t to, uint64_t epoch)
{
    *p = (struct proof){.from = from, .to = to, .epoch = epoch};
    if (from > to) proof_end(p);
}

static void read_mark(struct proof *p, const struct crsc_event *event)
{
    yyjson_doc *doc = event->size > 0 ? yyjson_read(event->payload, event->size, YYJSON_READ_NOFLAG) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc), *rests = yyjson_obj_get(root, "rests"), *executed = yyjson_obj_get(root, "executed");
    yyjson_val *identity = rests != NULL ? rests : yyjson_obj_get(root, "app");
    if (yyjson_is_str(identity) && yyjson_get_len(identity) <= PROOF_IDENTITY_MAX && yyjson_is_uint(executed)) {
        memcpy(p->identity, yyjson_get_str(identity), yyjson_get_len(identity) + 1);
        p->executed = yyjson_get_uint(executed);
        p->rests = rests != NULL;
        p->mark_epoch = event->epoch;
    }
    p->released = event->offset == p->to && yyjson_is_uint(yyjson_obj_get(root, "released"));
    yyjson_doc_free(doc); /* one that is none of ours says nothing */
}

void proof_event(struct proof *p, const struct crsc_event *event)
{
    if (p->verdict != PROOF_PENDING || event->offset < p->from || event->offset > p->to) return;
    if (event->kind == CRSC_REQUEST)
        set_open(p, event->offset, true);
    else if (event->kind == CRSC_COMPLETION && event->ref >= p->from && event->ref < event->offset)
        set_open(p, event->ref, false);
    else if (event->kind == CRSC_MARK && event->ref == 0) /* else it is a part of a body, and says what a client likes */
        read_mark(p, event);
}

void proof_end(struct proof *p)
{
    if (p->verdict != PROOF_PENDING) return;
    p->verdict = p->identity[0] == '\0' ? PROOF_NONE : PROOF_UNCERTAIN;
    if (p->rests) { /* whatever the log has behind it: the app did not get it from who left this mark, nor from anybody else */
        if (p->mark_epoch + 1 != p->epoch || p->executed > p->to) return;
        p->verdict = PROOF_KNOWN;
        p->offset = p->executed;
        return;
    }
    if (p->verdict == PROOF_NONE || p->executed + 1 < p->from || p->executed > p->to) return;
    for (uint64_t offset = p->executed + 1; offset <= p->to; offset++) {
        if (!is_open(p, offset)) continue;
        if (p->outstanding++ == 0) p->offset = offset;
    }
    if (p->outstanding > 0) return;
    p->verdict = PROOF_KNOWN;
    p->offset = p->to;
}

static int write_object(struct buf *out, const char *kind, const char *app, const char *name, uint64_t value)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    if (doc == NULL) return -ERROR_NOMEM;
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    if (app != NULL) yyjson_mut_obj_add_str(doc, root, kind, app);
    yyjson_mut_obj_add_uint(doc, root, name, value);
    size_t len;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    int rv = text == NULL ? -ERROR_NOMEM : buf_add(out, text, len);
    free(text);
    yyjson_mut_doc_free(doc);
    return rv;
}

int proof_mark(struct buf *out, const char *identity, uint64_t executed)
{
    return write_object(out, "app", identity, "executed", executed);
}

/* Not "app": to an interceptor of before there were these it is no mark, and proves nothing. */
int proof_rest(struct buf *out, const char *identity, uint64_t executed)
{
    return write_object(out, "rests", identity, "executed", executed);
}

int proof_release(struct buf *out, uint64_t epoch)
{
    return write_object(out, "", NULL, "released", epoch);
}

const char *proof_verdict_name(enum proof_verdict verdict)
{
    static const char *const names[] = {"pending", "none", "uncertain", "known"};
    return names[verdict];
}
