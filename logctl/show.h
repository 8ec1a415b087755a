/* How tail and events print an event, and how they find a stream's ends. */
#ifndef CRSC_LOGCTL_SHOW_H
#define CRSC_LOGCTL_SHOW_H

#include "logctl/verbs.h"

/* The line above the first event; nothing with --output json or --body. */
void show_header(const struct options *o);
void show_event(const struct options *o, const struct crsc_event *e);

struct ends {
    uint64_t first, last;
};
/* 0 and the offsets, or -ERROR_NOT_FOUND or another error. */
int show_ends(struct crsc_sync *s, const char *stream, struct ends *ret_ends, struct error *e);

/* The events [from, to], which the stream has, page by page. 0 or an error. */
int show_each(struct crsc_sync *s, const char *stream, uint64_t from, uint64_t to, void (*each)(void *user, const struct crsc_event *event), void *user, struct error *e);
/* Prints [from, to]. 0 or an error. */
int show_range(struct crsc_sync *s, const struct options *o, uint64_t from, uint64_t to, struct error *e);

#endif
