/* What an app wants to know of the client, which it does not see: RFC 7239's Forwarded, and X-Forwarded-For, -Proto and -Host.
 *
 * What came in those fields is kept and ours is added behind it, as the standard has it: whoever reads them has to know how many proxies
 * stand in front of the app, and to believe only so many from the end. X-Forwarded-Proto and -Host name the first hop, so they are
 * added only where they are missing. Pure. Thread: any. */
#ifndef CRSC_INTERCEPTOR_PROXY_FORWARDED_H
#define CRSC_INTERCEPTOR_PROXY_FORWARDED_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/http.h"

enum forwarded_kind { FORWARDED_OFF = 0, FORWARDED_X = 1, FORWARDED_STANDARD = 2, FORWARDED_BOTH = 3 };

/* "off", "x-forwarded", "forwarded", "both". False: none of them. */
bool forwarded_parse(const char *text, enum forwarded_kind *ret);

/* Appends header lines to `out`; the message's own fields that they replace are named in `ret_without` (ended by NULL). `peer`: the client's
 * address without port. 0 or -ERROR_NOMEM. */
enum { FORWARDED_NAMES = 4 };
int forwarded_write(struct buf *out, enum forwarded_kind kind, const struct http_message *m, const char *peer, bool secure,
                    const char *ret_without[static FORWARDED_NAMES]);

#endif
