/* The port that the kubelet probes: GET /healthz and /readyz, and nothing that anybody could do harm with, so that it may listen where the admin port
 * must not. Ready: the app has caught up with the log, and a request would be served now; a drain for a checkpoint does not count, as it is over
 * before anybody could look twice. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_ADMIN_PROBE_H
#define CRSC_INTERCEPTOR_ADMIN_PROBE_H

#include <uv.h>

#include "common/error.h"
#include "common/http_listener.h"
#include "interceptor/engine.h"

/* `engine` is borrowed until the listener is closed: http_listener_close(). */
int probe_start(uv_loop_t *loop, const char *address, struct engine *engine, struct http_listener **ret_listener, struct error *e);

#endif
