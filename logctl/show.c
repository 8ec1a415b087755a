#include "logctl/show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"

enum { LINE_SHOWN = 100 }; /* bytes of a payload on its event's line */

static const char *kind_name(enum crsc_kind kind)
{
    switch (kind) {
    case CRSC_REQUEST: return "request";
    case CRSC_COMPLETION: return "completion";
    case CRSC_MARK: return "mark";
    }
    return "unknown";
}

static void show_json(const struct crsc_event *e)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc);
    const char *payload = e->payload != NULL ? e->payload : "";
    char *base64 = NULL;
    struct format_request r;
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_uint(doc, o, "offset", e->offset);
    yyjson_mut_obj_add_str(doc, o, "kind", kind_name(e->kind));
    yyjson_mut_obj_add_uint(doc, o, "time_us", e->time_us);
    yyjson_mut_obj_add_uint(doc, o, "epoch", e->epoch);
    yyjson_mut_obj_add_uint(doc, o, "sequence", e->sequence);
    yyjson_mut_obj_add_uint(doc, o, "after", e->after);
    if (e->kind == CRSC_COMPLETION) yyjson_mut_obj_add_uint(doc, o, "ref", e->ref);
    yyjson_mut_obj_add_uint(doc, o, "size", e->size);
    bool text = format_is_text(payload, e->size);
    if (e->kind == CRSC_REQUEST && format_request(payload, e->size, &r) && format_is_text(r.target, r.target_len)) {
        yyjson_mut_obj_add_strn(doc, o, "method", r.method, r.method_len);
        yyjson_mut_obj_add_strn(doc, o, "target", r.target, r.target_len);
    }
    if (text)
        yyjson_mut_obj_add_strn(doc, o, "text", payload, e->size);
    else if ((base64 = format_base64(payload, e->size)) != NULL)
        yyjson_mut_obj_add_str(doc, o, "base64", base64);
    yyjson_mut_write_fp(stdout, doc, 0, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
    free(base64);
}

/* What fits on the line: a request's method and target, else the first line if it is text. */
static void show_summary(const struct crsc_event *e)
{
    struct format_request r;
    const char *payload = e->payload;
    if (e->kind == CRSC_COMPLETION) printf("of %" PRIu64 "%s", e->ref, e->size > 0 ? ": " : "");
    if (e->size == 0) return;
    if (e->kind == CRSC_REQUEST && format_request(payload, e->size, &r)) {
        format_print_safe(stdout, r.method, r.method_len, false);
        fputs(" ", stdout);
        format_print_safe(stdout, r.target, r.target_len, false);
        return;
    }
    if (!format_is_text(payload, e->size)) {
        fputs("(binary)", stdout);
        return;
    }
    const char *end = memchr(payload, '\n', e->size);
    size_t len = end != NULL ? (size_t)(end - payload) : e->size;
    if (len > 0 && payload[len - 1] == '\r') len--;
    size_t shown = len > LINE_SHOWN ? LINE_SHOWN : len;
    while (shown < len && ((unsigned char)payload[shown] & 0xc0) == 0x80) shown++; /* whole characters */
    format_print_safe(stdout, payload, shown, false);
    if (shown < e->size && (shown < len || end != NULL)) fputs(" ...", stdout);
}

static void show_body(const struct crsc_event *e)
{
    if (e->size == 0) return;
    if (format_is_text(e->payload, e->size)) {
        format_print_safe(stdout, e->payload, e->size, true);
        if (((const char *)e->payload)[e->size - 1] != '\n') fputs("\n", stdout);
    } else {
        char *base64 = format_base64(e->payload, e->size);
        size_t len = base64 != NULL ? strlen(base64) : 0;
        fputs("(binary, as base64)\n", stdout);
        for (size_t at = 0; at < len; at += 76) printf("%.76s\n", base64 + at);
        free(base64);
    }
    fputs("\n", stdout);
}

void show_header(const struct options *o)
{
    if (o->json || (o->given & OPTION_BODY) != 0) return;
    printf("%10s  %-29s  %-10s  %11s  %10s  %s\n", "OFFSET", "TIME", "KIND", "EPOCH/SEQ", "SIZE", "CONTENT");
}

void show_event(const struct options *o, const struct crsc_event *e)
{
    char when[FORMAT_TIME_MAX], size[FORMAT_SIZE_MAX], place[48];
    if (o->json) {
        show_json(e);
        return;
    }
    snprintf(place, sizeof place, "%" PRIu64 "/%" PRIu64, e->epoch, e->sequence);
    printf("%10" PRIu64 "  %-29s  %-10s  %11s  %10s  ", e->offset, format_time(e->time_us, when), kind_name(e->kind),
           place, format_size(e->size, size));
    show_summary(e);
    fputs("\n", stdout);
    if ((o->given & OPTION_BODY) != 0) show_body(e);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

struct search {
    const char *name;
    struct ends ends;
    bool found;
};

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct search *f = user;
    (void)e;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, f->name) != 0) continue;
        f->found = true;
        f->ends = (struct ends){streams[i].first_offset, streams[i].last_offset};
    }
}

int show_ends(struct crsc_sync *s, const char *stream, struct ends *ret_ends, struct error *e)
{
    struct search search = {.name = stream};
    int rv = crsc_sync_streams(s, stream, on_streams, &search, e);
    if (rv != 0) return rv;
    if (!search.found) return error_set(e, ERROR_NOT_FOUND, "there is no stream \"%.180s\"", stream);
    *ret_ends = search.ends;
    return 0;
}

struct range {
    void (*each)(void *user, const struct crsc_event *event);
    void *user;
    uint64_t next;
};

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct range *range = user;
    (void)e, (void)last;
    for (size_t i = 0; i < n; i++) {
        range->each(range->user, &events[i]);
        range->next = events[i].offset + 1;
    }
}

int show_each(struct crsc_sync *s, const char *stream, uint64_t from, uint64_t to, void (*each)(void *user, const struct crsc_event *event), void *user, struct error *e)
{
    struct range range = {.each = each, .user = user, .next = from};
    while (range.next <= to && !ferror(stdout)) {
        uint64_t before = range.next;
        int rv = crsc_sync_read(s, stream, range.next, to, 0, on_events, &range, e);
        if (rv != 0) return rv;
        if (range.next == before)
            return error_set(e, ERROR_UNAVAILABLE, "the server gave nothing for offset %" PRIu64 ", which it has",
                             before);
    }
    return 0;
}

static void print_one(void *user, const struct crsc_event *event)
{
    const struct options *o = user;
    show_event(o, event);
}

int show_range(struct crsc_sync *s, const struct options *o, uint64_t from, uint64_t to, struct error *e)
{
    return show_each(s, o->argument, from, to, print_one, (void *)(uintptr_t)o, e);
}
