/* What the parts of crsc-appendload share: the options, and payloads that prove what they are.
 *
 * A payload is "NAME NUMBER " and a pattern that depends on the number, so that a reader can tell from the bytes alone
 * who wrote it, as which event, and whether all of it is there. Its id is "NAME/NUMBER". */
#ifndef CRSC_CLIENT_APPENDLOAD_H
#define CRSC_CLIENT_APPENDLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_options {
    const char *servers, *stream, *out;
    const char *tls_ca, *tls_cert, *tls_key; /* NULL: not given */
    unsigned producers, window;
    double seconds, warmup; /* warmup: before the measured seconds; appends of that time count nowhere */
    uint64_t count; /* appends in all; 0: until the time is over */
    uint64_t rate; /* events per second, all producers together; 0: as fast as it goes */
    uint32_t size; /* bytes of payload, at least */
    uint32_t timeout_ms;
    bool verify, read;
};

enum { LOAD_NAME_MAX = 40, LOAD_SIZE_MAX = 1 << 20, LOAD_PRODUCERS_MAX = 1024 };

/* Fills `to` (room for size + LOAD_NAME_MAX + 24 bytes); returns the payload's size. */
uint32_t load_payload(char *to, const char *name, uint64_t number, uint32_t size);
/* 0 and name and number when these bytes are a payload made so; -1 when not. */
int load_payload_check(const char *payload, uint32_t size, char ret_name[static LOAD_NAME_MAX], uint64_t *ret_number);

/* The exit status: 0, 1 for a violation, 3 when a server could not be read. */
int load_verify(const struct load_options *o);

/* 0, or 1 when it could not be done or something was missing. */
int load_read(const struct load_options *o);

#endif
