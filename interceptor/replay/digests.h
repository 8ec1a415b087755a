/* Compares the answers of a replay with those that were given before it.
 *
 * A completion in the log says what a request was answered; the replay answers it again, before or after that
 * completion is read. Whichever comes second is compared. Memory is bounded: a table over the last DIGESTS_SLOTS
 * offsets; what is pushed out of it stays uncompared. Pure. Thread: one. */
#ifndef CRSC_INTERCEPTOR_REPLAY_DIGESTS_H
#define CRSC_INTERCEPTOR_REPLAY_DIGESTS_H

#include <stddef.h>
#include <stdint.h>

enum { DIGESTS_SLOTS = 65536, DIGEST_SIZE = 32 };

/* What an answer was. */
struct answer_digest {
    int status;
    uint8_t sha256[DIGEST_SIZE]; /* of the body */
};

/* As in a completion's payload: {"status":200,"sha256":"..."}; where the answer is recorded, "\n" and the answer as HTTP. */
enum { DIGEST_TEXT_MAX = 112 };
size_t digest_print(const struct answer_digest *d, char text[static DIGEST_TEXT_MAX]); /* its length */
int digest_parse(const void *text, size_t len, struct answer_digest *ret);             /* 0 or -ERROR_CORRUPT */

struct digests;
enum digests_verdict { DIGESTS_PENDING, DIGESTS_SAME, DIGESTS_DIFFERENT };

struct digests *digests_new(void); /* NULL without memory */
struct digests *digests_free(struct digests *d);
void digests_clear(struct digests *d); /* before a replay */
/* Of request `offset`: recorded in the log, or seen in this replay. */
enum digests_verdict digests_recorded(struct digests *d, uint64_t offset, const struct answer_digest *a);
enum digests_verdict digests_seen(struct digests *d, uint64_t offset, const struct answer_digest *a);

#endif
