/* Another HTTP/1.1 parser (http-parser, of another lineage of releases and in its lenient mode, as an app may be) behind a small face: what would an app
 * understand of these bytes? */
#ifndef CRSC_TESTS_FUZZ_SECOND_PARSER_H
#define CRSC_TESTS_FUZZ_SECOND_PARSER_H

#include <stdbool.h>

#include "common/buf.h"

struct second_message {
    struct buf method, target, body;
    unsigned status, n_fields;
    bool complete;
    size_t used; /* bytes up to and including the message's end */
};

/* The first message in the bytes. False when that parser refuses them. */
bool second_parse(bool request, bool head, const uint8_t *data, size_t len, struct second_message *ret_message);
void second_message_fini(struct second_message *m);

#endif
