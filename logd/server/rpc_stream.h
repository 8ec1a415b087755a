/* Which stream a request is about, without decoding all of it: for access checks on every request.
 *
 * It reads the head's outermost fields only, and is stricter than the decoders: what it and they could read differently (the name twice, a
 * tag of an odd form) is refused, so that nobody is checked for one stream and served another. Pure; thread: any. */
#ifndef CRSC_LOGD_SERVER_RPC_STREAM_H
#define CRSC_LOGD_SERVER_RPC_STREAM_H

#include <stddef.h>

#include "common/frame.h"

/* The name is in the frame; empty when the request does not say one. 0 or -ERROR_PROTOCOL. */
int rpc_stream(const struct frame *f, const char **ret_name, size_t *ret_len);

#endif
