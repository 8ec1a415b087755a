/* The log, as the agent needs it: snapshot records of a stream, and how far the stream goes. Each call opens a connection of its own, blocks, and is
 * bounded by `timeout_ms`. Thread: any. */
#ifndef CRSC_AGENT_LEDGER_H
#define CRSC_AGENT_LEDGER_H

#include "client/crsc.h"

struct ledger {
    const char *servers; /* strings are borrowed */
    const char *tls_ca, *tls_cert, *tls_key; /* "": no TLS */
    uint32_t timeout_ms;
};

struct ledger_snapshot {
    char id[65], template_hash[129], digest[80], image[768], node[254];
    uint64_t offset, size, recorded_us;
    enum crsc_snapshot_state state;
};

int ledger_record(const struct ledger *l, const struct crsc_snapshot *s, struct error *e);

/* Valid ones and those being taken. *ret_all: malloc()ed. A stream that nobody has written to yet has none, first offset 1 and last 0. */
int ledger_read(const struct ledger *l, const char *stream, struct ledger_snapshot **ret_all, size_t *ret_n, uint64_t *ret_first,
                uint64_t *ret_last, struct error *e);

/* The record of one checkpoint, whatever its state. -ERROR_NOT_FOUND: the log has none of that id. */
int ledger_find(const struct ledger *l, const char *stream, const char *id, struct ledger_snapshot *ret_snapshot, struct error *e);

/* After ledger_record() failed with `rc`: did the log itself refuse? Otherwise nobody knows whether it was recorded, and the log has to be asked. */
bool ledger_refused(int rc);

#endif
