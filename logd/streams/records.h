/* The index' keys and values: how streams, sessions, snapshots and runs look on disk.
 *
 *   table     key (big-endian: key order is number order)  value (little-endian)
 *   stream    stream id                                    version, numbers, name, newest producer, retention policy (may be missing: none)
 *   session   stream id, epoch                             version, last sequence, used offset, producer, runs
 *   snapshot  stream id, number                            version, state, numbers, strings
 *   event     stream id, first offset of the run           count, frame length, place, epoch, sequence, time, bytes before
 *
 * Every value ends with its seal: the CRC32C of key and value, because LMDB checks no page: a flipped bit is noticed
 * (L6), and so is a record under another's key. update.c seals; the encoders and decoders below see no seal.
 *
 * Decoding trusts nothing: bytes that no encoder of ours could have made are -ERROR_CORRUPT.
 * Pure. Thread: any. */
#ifndef CRSC_LOGD_STREAMS_RECORDS_H
#define CRSC_LOGD_STREAMS_RECORDS_H

#include "logd/streams/stream.h"

enum {
    RECORDS_KEY_MAX = 16,
    RECORDS_VALUE_MAX = 4096,
    RECORDS_EVENT_VALUE = 56,
    RECORDS_EVENT_VALUE_EARLY = 48, /* without `before`, as an early version wrote it */
    RECORDS_SEAL = 4,
};

/* All tables but the streams' own have this key; the streams' is its first half. */
void records_key(uint64_t stream_id, uint64_t number, uint8_t ret_key[static RECORDS_KEY_MAX]);

void records_seal(const void *key, size_t key_len, const void *value, size_t value_len, uint8_t ret_seal[static RECORDS_SEAL]);

/* Checks the seal at the value's end and takes it off *value_len. 0 or -ERROR_CORRUPT. */
int records_unseal(const void *key, size_t key_len, const void *value, size_t *value_len);

/* Each fills `ret` and returns its length, which is never 0. */
size_t records_encode_stream(const struct stream *s, uint8_t ret[static RECORDS_VALUE_MAX]);
size_t records_encode_session(const struct session *s, uint8_t ret[static RECORDS_VALUE_MAX]);
size_t records_encode_snapshot(const struct snapshot *s, uint8_t ret[static RECORDS_VALUE_MAX]);
size_t records_encode_event(const struct streams_run *run, uint8_t ret[static RECORDS_EVENT_VALUE]);

/* The numbers of a key of this table. 0 or -ERROR_CORRUPT. `ret_number` is 0 for a stream's key. */
int records_decode_key(enum streams_table table, const void *key, size_t key_len, uint64_t *ret_stream_id,
                       uint64_t *ret_number);

/* Fills the recorded fields of `s`, whose name and producer are NULL. 0, -ERROR_CORRUPT, -ERROR_NOMEM. */
int records_decode_stream(const void *value, size_t len, struct stream *s);

/* New objects for the caller. 0, -ERROR_CORRUPT, -ERROR_NOMEM. */
int records_decode_session(uint64_t epoch, const void *value, size_t len, struct session **ret_session);
int records_decode_snapshot(uint64_t number, const void *value, size_t len, struct snapshot **ret_snapshot);

#endif
