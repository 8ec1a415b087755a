/* Keeps TLS contexts as their files are: looks at them every few seconds, and at once on SIGHUP.
 *
 * Files are compared by what stat() says, so that it does not matter how they are replaced: written over, renamed into place, or a link turned to
 * another folder (as Kubernetes does with mounted secrets). Certificate and key are two files, so a look in between may find a pair that does
 * not fit: that is logged, the old pair stays in use, and the next change is tried again.
 *
 * Thread: the loop's. It logs what it does: it is part of a program's shell. */
#ifndef CRSC_COMMON_TLS_WATCH_H
#define CRSC_COMMON_TLS_WATCH_H

#include <uv.h>

#include "common/error.h"
#include "common/tls.h"

enum { TLS_WATCH_MAX = 8, TLS_WATCH_MS = 2000 };

struct tls_watch;

/* `contexts` are borrowed; NULLs among them are skipped. Neither keeps the loop alive. */
int tls_watch_start(uv_loop_t *loop, struct tls_context *const *contexts, unsigned n, struct tls_watch **ret_watch, struct error *e);
void tls_watch_stop(struct tls_watch *w); /* takes NULL; frees itself in the loop's next turn, the contexts are not touched any more */

#endif
