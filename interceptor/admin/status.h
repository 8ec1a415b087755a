/* The engine's status as JSON and as Prometheus text. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_ADMIN_STATUS_H
#define CRSC_INTERCEPTOR_ADMIN_STATUS_H

#include "common/buf.h"
#include "interceptor/engine.h"

int status_json(struct buf *out, const struct engine_status *s);    /* one line with its end; 0 or -ERROR_NOMEM */
int status_metrics(struct buf *out, const struct engine_status *s); /* the same */

#endif
