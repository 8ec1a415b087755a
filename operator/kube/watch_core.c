#include "operator/kube/watch_core.h"

#include <stdio.h>
#include <string.h>

void watch_core_init(struct watch_core *w)
{
    memset(w, 0, sizeof *w);
}

/* A version or token that does not fit is none: it leads to a list from the beginning, never to a cut one. */
static bool keep(char *to, size_t cap, const char *text)
{
    int n = snprintf(to, cap, "%s", text != NULL ? text : "");
    if (n >= 0 && (size_t)n < cap) return true;
    to[0] = '\0';
    return false;
}

static enum watch_do list(struct watch_core *w)
{
    w->state = WATCH_LISTING;
    w->next[0] = '\0';
    return WATCH_DO_LIST;
}

static enum watch_do watch(struct watch_core *w)
{
    if (w->version[0] == '\0') return list(w);
    w->state = WATCH_WATCHING;
    w->lively = false;
    return WATCH_DO_WATCH;
}

static enum watch_do pause_then(struct watch_core *w, bool relist, const struct watch_event *event)
{
    w->backoff_ms = w->backoff_ms == 0 ? WATCH_PAUSE_MIN_MS : w->backoff_ms * 2;
    if (w->backoff_ms > WATCH_PAUSE_MAX_MS) w->backoff_ms = WATCH_PAUSE_MAX_MS;
    w->pause_ms = w->backoff_ms / 2 + event->random % (w->backoff_ms / 2 + 1);
    if (event->retry_ms > w->pause_ms) w->pause_ms = event->retry_ms;
    w->relist = relist;
    w->state = WATCH_PAUSED;
    return WATCH_DO_PAUSE;
}

static enum watch_do on_page(struct watch_core *w, const struct watch_event *event)
{
    if (event->next != NULL && event->next[0] != '\0') {
        if (!keep(w->next, sizeof w->next, event->next)) return pause_then(w, true, event);
        return WATCH_DO_LIST;
    }
    if (!keep(w->version, sizeof w->version, event->version) || w->version[0] == '\0') return pause_then(w, true, event);
    return watch(w);
}

static enum watch_do on_seen(struct watch_core *w, const struct watch_event *event)
{
    char version[WATCH_VERSION_MAX];
    w->lively = true;
    w->after_gone = false;
    w->backoff_ms = 0;
    if (keep(version, sizeof version, event->version) && version[0] != '\0') memcpy(w->version, version, sizeof version);
    return WATCH_DO_NOTHING;
}

static enum watch_do on_failed(struct watch_core *w, const struct watch_event *event)
{
    bool listing = w->state == WATCH_LISTING;
    if (event->gone) {
        w->version[0] = '\0';
        if (!w->after_gone) {
            w->after_gone = true;
            return list(w);
        }
    }
    return pause_then(w, listing || event->gone, event);
}

enum watch_do watch_step(struct watch_core *w, const struct watch_event *event)
{
    switch (event->type) {
    case WATCH_START: return w->state == WATCH_IDLE ? list(w) : WATCH_DO_NOTHING;
    case WATCH_PAGE: return w->state == WATCH_LISTING ? on_page(w, event) : WATCH_DO_NOTHING;
    case WATCH_SEEN: return w->state == WATCH_WATCHING ? on_seen(w, event) : WATCH_DO_NOTHING;
    case WATCH_FAILED:
        return w->state == WATCH_LISTING || w->state == WATCH_WATCHING ? on_failed(w, event) : WATCH_DO_NOTHING;
    case WATCH_ENDED:
        if (w->state != WATCH_WATCHING) return WATCH_DO_NOTHING;
        return w->lively ? watch(w) : pause_then(w, false, event);
    case WATCH_TIMER:
        if (w->state != WATCH_PAUSED) return WATCH_DO_NOTHING;
        return w->relist ? list(w) : watch(w);
    }
    return WATCH_DO_NOTHING;
}
