/* The admin interface: HTTP and JSON on a port of its own. docs/INTERCEPTOR.md describes each request.
 *
 *   GET /status /watch /metrics /healthz /readyz
 *   POST /attach /detach /checkpoint /resume /state
 *
 * Everything wrong in a request is answered with {"error":"..."} and 400, 404, 405, 409, 413 or 504.
 * Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_ADMIN_ADMIN_H
#define CRSC_INTERCEPTOR_ADMIN_ADMIN_H

#include "interceptor/engine.h"

struct admin;

int admin_start(uv_loop_t *loop, const char *address, struct engine *engine, struct admin **ret_admin, struct error *e);
void admin_changed(struct admin *admin);                                     /* the engine's on_change */
void admin_close(struct admin *admin, void (*done)(void *user), void *user); /* `done` from the loop */

#endif
