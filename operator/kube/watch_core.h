/* What a list/watch of one kind of object does next: the decisions of kube/watch.c, without I/O, clock or randomness of its own.
 *
 *   start ──► LISTING ──whole──► WATCHING ──ended, failed──► PAUSED ──timer──► WATCHING (from the last version seen)
 *                ▲ ▲── page ──┘      │                         │
 *                │                   └── 410: that version is gone ──► LISTING, at once the first time
 *                └── failed ─────────────────────────────────► PAUSED ──timer──► LISTING
 *
 * Pauses double from WATCH_PAUSE_MIN_MS to WATCH_PAUSE_MAX_MS with jitter (each between half and the whole), and begin anew once a watch
 * has brought something. A watch that ends by itself after bringing something goes on at once: servers end them every few minutes.
 *
 * Invariant: a watch begins only from a version that a whole list, an object or a bookmark had. */
#ifndef CRSC_OPERATOR_KUBE_WATCH_CORE_H
#define CRSC_OPERATOR_KUBE_WATCH_CORE_H

#include <stdbool.h>
#include <stdint.h>

enum { WATCH_PAUSE_MIN_MS = 100, WATCH_PAUSE_MAX_MS = 30000, WATCH_VERSION_MAX = 64, WATCH_CONTINUE_MAX = 2048 };

enum watch_state { WATCH_IDLE, WATCH_LISTING, WATCH_WATCHING, WATCH_PAUSED };

enum watch_event_type {
    WATCH_START,
    WATCH_PAGE,    /* of a list came: `version`, and `next` when there is more */
    WATCH_SEEN,    /* an object or a bookmark with `version` */
    WATCH_FAILED,  /* a list or watch failed: `gone` for 410, `retry_ms` when the server asked for a pause */
    WATCH_ENDED,   /* the watch ended by itself */
    WATCH_TIMER,
};

struct watch_event {
    enum watch_event_type type;
    const char *version, *next;
    bool gone;
    uint64_t retry_ms, random;
};

enum watch_do {
    WATCH_DO_NOTHING,
    WATCH_DO_LIST,  /* from the beginning, or the page `next` */
    WATCH_DO_WATCH, /* from `version` */
    WATCH_DO_PAUSE, /* WATCH_TIMER after pause_ms */
};

struct watch_core {
    enum watch_state state;
    bool relist;        /* what follows the pause is a list */
    bool lively;        /* this watch brought something */
    bool after_gone;    /* the list under way follows a 410: a second one in a row pauses */
    uint64_t backoff_ms, pause_ms;
    char version[WATCH_VERSION_MAX];
    char next[WATCH_CONTINUE_MAX]; /* "": the list's beginning */
};

void watch_core_init(struct watch_core *w);
/* Strings are copied. An event that does not fit the state is answered with nothing. */
enum watch_do watch_step(struct watch_core *w, const struct watch_event *event);

#endif
