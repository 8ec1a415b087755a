#include "logd/server/sparse.h"

#include <stdlib.h>

static int sparsest_first(const void *a, const void *b)
{
    const struct sparse_segment *x = a, *y = b;
    double left = (double)x->live * (double)y->bytes, right = (double)y->live * (double)x->bytes;
    return left < right ? -1 : left > right ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

size_t sparse_choose(struct sparse_segment *list, size_t n, uint64_t slack)
{
    uint64_t bytes = 0, live = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += list[i].bytes;
        live += list[i].live;
    }
    if (bytes <= live + live / 4 + slack) return 0;
    qsort(list, n, sizeof *list, sparsest_first);
    size_t chosen = 0;
    while (chosen < n && bytes > live + live / 10 && list[chosen].live < list[chosen].bytes - list[chosen].bytes / 10) {
        bytes -= list[chosen].bytes - list[chosen].live;
        chosen++;
    }
    return chosen;
}
