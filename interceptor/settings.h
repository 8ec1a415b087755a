/* The settings of crsc-interceptor: docs/INTERCEPTOR.md describes each. */
#ifndef CRSC_INTERCEPTOR_SETTINGS_H
#define CRSC_INTERCEPTOR_SETTINGS_H

#include "common/config.h"
#include "common/log.h"
#include "interceptor/order/ordering.h"
#include "interceptor/proxy/forwarded.h"

struct settings {
    char *listen, *admin_listen, *probe_listen, *servers, *stream, *producer, *log_level, *ordering, *logging;
    char *log_tls_ca, *log_tls_cert, *log_tls_key;
    char *forwarded, *upgrade, *tls_cert, *tls_key, *tls_client_ca;
    char *replication, *reads, *role, *standby_of, *on_disagreement, *without_app, *app_version; /* several replicas */
    uint64_t replicas;
    bool log_safe_methods, offset_header, access_log;
    uint64_t max_headers, max_header_bytes, body_buffer, max_uploads;
    uint64_t lease; /* ms */
    uint64_t max_body, answer_buffer, hold_bytes;                                         /* bytes */
    uint64_t hold_requests, max_connections, retry_after, app_concurrency, app_pipeline; /* retry_after: seconds */
    uint64_t app_start_timeout, idle_timeout, stop_timeout, log_timeout; /* ms */
    uint64_t header_timeout, body_timeout, send_timeout, app_connect_timeout, app_first_byte_timeout, app_body_timeout; /* ms */
    uint64_t idempotency_ttl, idempotency_bytes, idempotency_answer, idempotency_lookback; /* ms, bytes, bytes, events */
    enum log_level level;
    struct ordering order; /* as `ordering` says */
    bool optimistic;       /* as `logging` says */
    bool pass_upgrades;    /* as `upgrade` says */
    enum forwarded_kind forwards; /* as `forwarded` says */
    bool shared;           /* as `replication` says */
    bool linearizable;     /* shared: as `reads` says */
    bool hold_on_disagreement;
    bool refuses;          /* shared: as `without_app` says */
    bool standby;          /* shared: as `role` says, at the start */
};

/* 0, or -ERROR_INVALID with a sentence for the user. */
int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *s);

#endif
