/* A standby's watch over the replica that serves: is it there, and has it an app?
 *
 * Keeps a connection to that interceptor's GET /watch, which says something at each change and at least twice a second. Lost is: the
 * connection ends or is refused, or nothing is said for VIGIL_SILENCE_MS, when it had been well (a standby that starts first waits); or a
 * line says that its app is gone or suspect, that it was fenced, or that it is about to end.
 *
 * Being wrong costs nothing but a second replica that serves: the log orders both. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_REPLICA_VIGIL_H
#define CRSC_INTERCEPTOR_REPLICA_VIGIL_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "common/error.h"

enum { VIGIL_SILENCE_MS = 1500, VIGIL_LINE_MAX = 16 << 10 };

struct vigil;

/* `on_lost`: once for each time that it was well before; why, in words. `address`: host:port, numeric. */
int vigil_new(uv_loop_t *loop, const char *address, void (*on_lost)(void *user, const char *why), void *user, struct vigil **ret_vigil,
              struct error *e);
/* No callback any more; `done` from the loop. NULL: at once. */
void vigil_free(struct vigil *v, void (*done)(void *user), void *user);

/* What a line of /watch says of it. Pure. */
enum vigil_word { VIGIL_NOTHING, VIGIL_WELL, VIGIL_LOST };
enum vigil_word vigil_read(const char *line, size_t len);

#endif
