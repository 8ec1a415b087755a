/* Can CRIU run here? What `criu check` says: the kernel's features, and the privileges. Blocks for some 50 ms: start-up only. */
#ifndef CRSC_OPERATOR_CRIU_CHECK_H
#define CRSC_OPERATOR_CRIU_CHECK_H

#include "common/error.h"

/* 0, or -ERROR_UNAVAILABLE with the reason: not root, no such program, or the last line of what it said. */
int criu_check(const char *criu, struct error *e);

#endif
