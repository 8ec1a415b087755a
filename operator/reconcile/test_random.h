/* Chance and complaint of the tests that run random worlds: `s` has `rng` (never 0), and `seed` and `now` for who reads what failed. */
#ifndef CRSC_OPERATOR_RECONCILE_TEST_RANDOM_H
#define CRSC_OPERATOR_RECONCILE_TEST_RANDOM_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

static inline uint64_t random_below(uint64_t *rng, uint64_t below)
{
    *rng ^= *rng << 13;
    *rng ^= *rng >> 7;
    *rng ^= *rng << 17;
    return *rng % below;
}

#define draw(s, below) random_below(&(s)->rng, below)
#define chance(s, p) ((double)draw(s, 1000000) < (p)*1e6)

#define hold(s, condition, ...)                                                                                        \
    do {                                                                                                               \
        if (condition) break;                                                                                          \
        print_error("seed %" PRIu64 " at %" PRIu64 " us: ", (s)->seed, (s)->now);                                      \
        print_error(__VA_ARGS__);                                                                                      \
        print_error("\n");                                                                                             \
        fail();                                                                                                        \
    } while (0)

#endif
