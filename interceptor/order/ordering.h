/* The setting `ordering`, and the key that it finds in a request.
 *
 *   serial                     one logged request at a time
 *   concurrent                 any number
 *   keyed:X-Account            those with the same value of this header one at a time
 *   keyed:/accounts/{id}/...   the same by what stands in the path for {...}. `*` stands for any one segment; what follows
 *                              the pattern in the path does not matter.
 *
 * A request without the header, or with another path, has no key: it is executed alone. Pure. Thread: any. */
#ifndef CRSC_INTERCEPTOR_ORDER_ORDERING_H
#define CRSC_INTERCEPTOR_ORDER_ORDERING_H

#include <stddef.h>

#include "interceptor/order/order.h"

enum { ORDERING_TEXT_MAX = 255 };

struct ordering {
    enum order_mode mode;
    char header[ORDERING_TEXT_MAX + 1]; /* "" when there is a pattern */
    char pattern[ORDERING_TEXT_MAX + 1];
};

/* 0, or -ERROR_INVALID with a sentence for the user. */
int ordering_parse(const char *text, struct ordering *ret, struct error *e);
/* `message`: a request as it is logged: lines with CRLF, head and body. Never 0 when there is a key. */
uint64_t ordering_key(const struct ordering *ordering, const void *message, size_t len);

#endif
