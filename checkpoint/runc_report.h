/* What runc and CRIU said, in words for a person. Internal to checkpoint/. Thread: any; reads small files. */
#ifndef CRSC_CHECKPOINT_RUNC_REPORT_H
#define CRSC_CHECKPOINT_RUNC_REPORT_H

#include <stddef.h>

#include "checkpoint/runc.h"

/* The last error message in a log that runc wrote with --log-format json: one line, "" when there is none. */
void runc_report_message(const char *log_path, char *text, size_t cap);

/* The errors in one of CRIU's logs: the first into `first` (without its time stamp, "" when there is none), the last lines of
 * them into `detail`. CRIU's complaint that it may not raise its own limit of open files is left out: it is harmless. */
void runc_report_criu(const char *log_path, char *first, size_t first_cap, char *detail, size_t detail_cap);

/* Does CRIU's log say that CRIU itself gave up? Else something ended it. */
bool runc_report_criu_failed(const char *log_path);

/* Does it say that it came to an end, good or bad? */
bool runc_report_criu_ended(const char *log_path);

/* Does it say that a pre-dump had let the processes go on, and only wrote what it had of them? */
bool runc_report_criu_let_go(const char *log_path);

/* Which of our errors a message of runc stands for: ERROR_NOT_FOUND, ERROR_EXISTS, ERROR_CONFLICT (not running), else ERROR_IO. */
enum error_code runc_report_code(const char *message);

/* Status and pid in what `runc state` printed. 0 or -ERROR_INVALID. */
int runc_report_state(const char *json, size_t len, enum runc_status *ret_status, int *ret_pid);

#endif
