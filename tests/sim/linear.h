/* Is there one order of the operations on a stream's epochs and snapshots that explains every answer, and in which no operation
 * comes before one that had ended when it began? (Herlihy and Wing, 1990; the search is that of Wing and Gong, 1993, with the
 * states already visited remembered, as Lowe, 2017, does.)
 *
 * The object: the lowest epoch that may append, the last epoch given, the highest offset of a valid snapshot. An operation without
 * an answer may have taken effect at any time after it began, or never. Thread: one. */
#ifndef CRSC_TESTS_SIM_LINEAR_H
#define CRSC_TESTS_SIM_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

enum linear_kind { LINEAR_OPEN, LINEAR_FENCE, LINEAR_RECORD, LINEAR_LATEST };
enum { LINEAR_OPS = 192 };

void linear_begin(void);
/* A handle, or -1 when the history is full (then it is not recorded). */
int linear_invoke(unsigned stream, enum linear_kind kind, uint64_t argument);
/* OPEN and FENCE: the epoch; LATEST: the offset, 0: there is none. Never called: unknown. */
void linear_respond(unsigned stream, int op, uint64_t result);
void linear_void(unsigned stream, int op); /* it surely had no effect, and its answer says nothing */
/* False: there is no such order; `ret_text` says about which operation none could go on. */
bool linear_check(unsigned stream, char *ret_text, unsigned size);
unsigned linear_count(unsigned stream);

#endif
