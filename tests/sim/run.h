/* One run: a seed decides everything. Thread: one. */
#ifndef CRSC_TESTS_SIM_RUN_H
#define CRSC_TESTS_SIM_RUN_H

#include <stdbool.h>
#include <stdint.h>

enum { RUN_SKIPS = 64 };

struct run_options {
    uint64_t seed;
    uint64_t skip; /* bit i: the plan's fault i does not happen */
    unsigned calm_ms;
    bool verbose, founding; /* founding: a world whose founding is disturbed, whatever the seed says */
};

struct run_result {
    bool failed;
    char failure[1024];
    uint64_t hash, simulated_ns, events, faults;
    unsigned planned; /* faults in the plan */
    bool spoiled; /* a damaged index made it crash: nothing more is known */
    uint64_t index_rots, appends, acknowledged, seen, operations;
};

void run(const struct run_options *options, struct run_result *ret);
bool run_damages_index(const struct run_options *options); /* it may crash: in a process of its own */
void run_print_plan(const struct run_options *options);
/* Sums over all runs of this process. */
void run_print_counts(void);

#endif
