/* Which segments hold so little that is still needed that their events are worth moving to another file. Decides only; thread: any. */
#ifndef CRSC_LOGD_SERVER_SPARSE_H
#define CRSC_LOGD_SERVER_SPARSE_H

#include <stddef.h>
#include <stdint.h>

struct sparse_segment {
    uint64_t id, bytes, live;
};

/* Sorts the list, the sparsest first, and answers how many of the first are to be rewritten. None, as long as all of them together have at most a
 * quarter more bytes than live ones, `slack` aside; else as many as it takes to have a tenth more. A little of dead bytes is left alone, as it costs
 * one written byte for each live one to get rid of them: at a tenth, ten for each that is won. */
size_t sparse_choose(struct sparse_segment *list, size_t n, uint64_t slack);

#endif
