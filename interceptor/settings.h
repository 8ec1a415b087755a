/* The settings of crsc-interceptor: docs/INTERCEPTOR.md describes each. */
#ifndef CRSC_INTERCEPTOR_SETTINGS_H
#define CRSC_INTERCEPTOR_SETTINGS_H

#include "common/config.h"
#include "common/log.h"

struct settings {
    char *listen, *admin_listen, *servers, *stream, *producer, *log_level;
    bool log_safe_methods;
    uint64_t max_body, answer_buffer, hold_bytes;                                         /* bytes */
    uint64_t hold_requests, max_connections, retry_after;                                 /* retry_after: seconds */
    uint64_t app_start_timeout, idle_timeout, request_timeout, stop_timeout, log_timeout; /* ms */
    enum log_level level;
};

/* 0, or -ERROR_INVALID with a sentence for the user. */
int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *s);

#endif
