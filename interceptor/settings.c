#include "interceptor/settings.h"

#include <stddef.h>
#include <string.h>

#include "common/conn.h"
#include "interceptor/replica/verdict.h"
#include "interceptor/upstream/upstream.h"

#define AT(field) offsetof(struct settings, field)

enum { BODY_WHOLE_MAX = 7 << 20 };

static const struct config_setting table[] = {
    {"listen", CONFIG_STRING, AT(listen), "127.0.0.1:8080", 0, 0,
     "Address of the data port, where clients connect: host:port, numeric."},
    {"tls-cert", CONFIG_STRING, AT(tls_cert), "", 0, 0,
     "PEM file of the data port's certificate, with its chain: clients speak TLS 1.3 then. Read again when it changes, and at SIGHUP. Empty: "
     "no TLS."},
    {"tls-key", CONFIG_STRING, AT(tls_key), "", 0, 0, "PEM file of its key, without a password."},
    {"tls-client-ca", CONFIG_STRING, AT(tls_client_ca), "", 0, 0,
     "PEM file of CAs: clients of the data port have to show a certificate from one of them. Empty: none is asked for."},
    {"admin-listen", CONFIG_STRING, AT(admin_listen), "127.0.0.1:8081", 0, 0,
     "Address of the admin port. Who reaches it can hold, drain and re-attach the app: keep it private."},
    {"probe-listen", CONFIG_STRING, AT(probe_listen), "", 0, 0,
     "Address of a port with /healthz and /readyz only, for a kubelet's or balancer's probes. Ready: the app has caught up with the log. Empty: none."},
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0,
     "The log's servers: host:port, separated by commas; any of the cluster."},
    {"log-tls-ca", CONFIG_STRING, AT(log_tls_ca), "", 0, 0,
     "PEM file of the CAs that the log's servers' certificates come from. Empty, all three: no TLS."},
    {"log-tls-cert", CONFIG_STRING, AT(log_tls_cert), "", 0, 0,
     "PEM file of our certificate, with the role producer for the stream. Read again when it changes."},
    {"log-tls-key", CONFIG_STRING, AT(log_tls_key), "", 0, 0, "PEM file of its key, without a password."},
    {"stream", CONFIG_STRING, AT(stream), NULL, 0, 0, "The protected workload's stream: cluster/namespace/kind/name."},
    {"producer", CONFIG_STRING, AT(producer), "crsc-interceptor", 0, 0,
     "Name under which the stream is opened; shown by crsc-logctl."},
    {"lease", CONFIG_DURATION, AT(lease), "1s", 0, 60000,
     "Time for which a look at the log that found the stream still ours allows to answer: a successor that found no clean end waits that long, and a "
     "tenth, before it serves. The same for all interceptors of a stream; at least 20ms. 0s: no leases, for where nothing can be cut off from the log "
     "and go on. With replication log there are none."},
    {"log-safe-methods", CONFIG_BOOL, AT(log_safe_methods), "false", 0, 0,
     "Log GET, HEAD, OPTIONS and TRACE too, for an app whose state changes with them."},
    {"ordering", CONFIG_STRING, AT(ordering), "serial", 0, 0,
     "Which logged requests the app may get at the same time: serial (none), keyed:HEADER or keyed:/path/{id} (those with "
     "different keys; one without a key is alone), concurrent (all)."},
    {"logging", CONFIG_STRING, AT(logging), "pessimistic", 0, 0,
     "pessimistic: a request is durable before the app gets it. optimistic: the app gets it at once, and the answer is kept "
     "until it is durable."},
    {"replication", CONFIG_STRING, AT(replication), "none", 0, 0,
     "none: this interceptor owns the stream. log: several interceptors append to it, each gives all of it to an app of its own, in "
     "order; each needs a `producer` name of its own. Only with ordering serial and logging pessimistic."},
    {"reads", CONFIG_STRING, AT(reads), "linearizable", 0, 0,
     "With replication log, unlogged requests are answered: linearizable: from a state that has everything that was acknowledged by "
     "any replica when the request came; local: from the state of this replica's app."},
    {"replicas", CONFIG_UINT, AT(replicas), "3", 0, 15,
     "With replication log: how many replicas there are, 2 to 15, of one app-version. When their answers differ, more than half of so many decide which app is "
     "wrong. 0: nobody decides, as long as POST /replicas does not say another number."},
    {"app-version", CONFIG_STRING, AT(app_version), "", 0, 0,
     "With replication log: which version the app is of: any word of up to 127 characters, the same for replicas that answer alike. What replicas of other "
     "versions answered decides nothing about this one. It is written to the log with votes."},
    {"on-disagreement", CONFIG_STRING, AT(on_disagreement), "alarm", 0, 0,
     "With replication log, when answers differ and there is no majority: alarm: go on, and tell; hold: hold all requests until a majority is found, "
     "or a person decides (POST /state?state=active)."},
    {"without-app", CONFIG_STRING, AT(without_app), "refuse", 0, 0,
     "With replication log, what becomes of new requests while this replica has no app, or one that has not caught up: refuse: 503 at once, not logged, "
     "with Retry-After: 0, as another replica can answer; hold: they are logged, and wait for it."},
    {"role", CONFIG_STRING, AT(role), "active", 0, 0,
     "With replication log: active: takes clients. standby: its app executes the stream, and clients are told 503 until POST /role?role=active."},
    {"standby-of", CONFIG_STRING, AT(standby_of), "", 0, 0,
     "A standby's: the admin address, host:port, of the replica that serves. When it, or its app, is lost the standby becomes active by itself."},
    {"app-concurrency", CONFIG_UINT, AT(app_concurrency), "64", 1, 10000,
     "Logged requests that the app gets at a time, unless serial."},
    {"app-pipeline", CONFIG_UINT, AT(app_pipeline), "1", 1, UPSTREAM_FOLLOW_MAX,
     "With ordering serial: logged requests that are sent to the app one behind the other on one connection, without waiting for the answers between "
     "them. More than 1 makes replays and load several times faster. For an app whose server takes what it reads from a connection one by one, as HTTP "
     "wants (most do; Node.js does not)."},
    {"idempotency-ttl", CONFIG_DURATION, AT(idempotency_ttl), "24h", 0, UINT64_C(31) * 86400000,
     "A logged request that repeats an Idempotency-Key within this time is answered with what the first one was answered. 0s: "
     "the field means nothing."},
    {"idempotency-bytes", CONFIG_SIZE, AT(idempotency_bytes), "16MiB", 4096, UINT64_C(16) << 30,
     "Memory for keys and their answers; beyond it the oldest are forgotten."},
    {"idempotency-answer", CONFIG_SIZE, AT(idempotency_answer), "64KiB", 0, 1 << 20,
     "Largest answer that is recorded with its key; a repetition of one with a larger answer gets 409."},
    {"idempotency-lookback", CONFIG_UINT, AT(idempotency_lookback), "200000", 0, 100000000,
     "Newest events of the stream that are looked through for keys when the interceptor starts."},
    {"max-body", CONFIG_SIZE, AT(max_body), "8GiB", 0, UINT64_C(64) << 30, "Largest request body; more is answered with 413."},
    {"body-buffer", CONFIG_SIZE, AT(body_buffer), "1MiB", 4096, 7 << 20,
     "A request body up to this size is held in memory, and is one event of the log. A larger one goes into the log in parts while it comes, and "
     "out of it again to the app."},
    {"max-uploads", CONFIG_UINT, AT(max_uploads), "32", 1, 1000,
     "Bodies over body-buffer that come at a time; more are answered with 503 and Retry-After."},
    {"answer-buffer", CONFIG_SIZE, AT(answer_buffer), "1MiB", 4096, 64 << 20,
     "An answer up to this size is held until it is whole, and survives the app's death half-way; a larger one "
     "streams."},
    {"hold-requests", CONFIG_UINT, AT(hold_requests), "10000", 1, 1000000,
     "Requests that wait at a time; more are answered with 503 and Retry-After, and are not logged."},
    {"hold-bytes", CONFIG_SIZE, AT(hold_bytes), "64MiB", 1 << 16, UINT64_C(16) << 30,
     "Bytes of waiting requests at a time; beyond it 503, as above."},
    {"max-connections", CONFIG_UINT, AT(max_connections), "20000", 1, 1000000,
     "Clients connected at a time; more are answered with 503 and Retry-After, and closed."},
    {"max-header-bytes", CONFIG_SIZE, AT(max_header_bytes), "64KiB", 1024, 1 << 20,
     "Largest request line and headers together; more is answered with 431."},
    {"max-headers", CONFIG_UINT, AT(max_headers), "100", 10, 10000, "Most headers of a request; more are answered with 431."},
    {"retry-after", CONFIG_UINT, AT(retry_after), "1", 0, 3600, "Seconds in the Retry-After of a 503."},
    {"app-start-timeout", CONFIG_DURATION, AT(app_start_timeout), "30s", 1, 3600000,
     "How long an attached app may take until it accepts a connection."},
    {"idle-timeout", CONFIG_DURATION, AT(idle_timeout), "75s", 100, 86400000,
     "A client's connection without a request is closed after this."},
    {"header-timeout", CONFIG_DURATION, AT(header_timeout), "60s", 100, 86400000,
     "A client may take this long from a request's first byte to the end of its headers; then 408."},
    {"body-timeout", CONFIG_DURATION, AT(body_timeout), "60s", 100, 86400000,
     "A client may let this much time pass without a byte of a request's body; then 408."},
    {"send-timeout", CONFIG_DURATION, AT(send_timeout), "60s", 100, 86400000,
     "A client that takes nothing of its answer for this long is let go."},
    {"app-connect-timeout", CONFIG_DURATION, AT(app_connect_timeout), "5s", 10, 3600000,
     "An app that takes no new connection within this time is gone."},
    {"app-first-byte-timeout", CONFIG_DURATION, AT(app_first_byte_timeout), "0s", 0, 86400000,
     "An app that has not begun its answer after this: the client gets 504. A logged request stays with the app, which executes it exactly "
     "once whatever the client was told. 0: no bound."},
    {"app-body-timeout", CONFIG_DURATION, AT(app_body_timeout), "60s", 0, 86400000,
     "An app that stops in the middle of an answer for this long: the client gets 504, or his connection is cut if he has a part of it. 0: no "
     "bound."},
    {"log-timeout", CONFIG_DURATION, AT(log_timeout), "30s", 100, 3600000,
     "An append without an answer for this long is looked up in the log under a new epoch; its client goes on "
     "waiting."},
    {"stop-timeout", CONFIG_DURATION, AT(stop_timeout), "5s", 0, 3600000,
     "At SIGTERM: time for answers that are on their way."},
    {"upgrade", CONFIG_STRING, AT(upgrade), "refuse", 0, 0,
     "What becomes of requests with Upgrade (WebSocket): refuse (501), or pass: they get a connection of their own to the app, whose bytes are not "
     "logged and not replayed, and which ends at each checkpoint."},
    {"forwarded", CONFIG_STRING, AT(forwarded), "both", 0, 0,
     "What the app is told of the client: x-forwarded (X-Forwarded-For, -Proto, -Host), forwarded (RFC 7239), both, or off (what clients "
     "sent is passed as it is)."},
    {"offset-header", CONFIG_BOOL, AT(offset_header), "false", 0, 0,
     "Answers to logged requests say in Crsc-Offset where in the log the request is."},
    {"access-log", CONFIG_BOOL, AT(access_log), "false", 0, 0,
     "A log line for each answer: method, target, status, offset, time, and the trace id of the request's traceparent."},
    {"log-level", CONFIG_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct config_program program = {
    .name = "crsc-interceptor",
    .summary = "Stands in front of one stateful app: logs each request durably, in order, before the app gets it, and "
               "after the app's "
               "death replays what its restored state lacks.",
    .epilog = "It holds every request until it is told which offset the app's state contains:\n"
              "  curl -X POST http://127.0.0.1:8081/attach -d "
              "'{\"identity\":\"1234:5678\",\"offset\":0,\"upstream\":\"127.0.0.1:9091\"}'\n"
              "The admin interface is described in docs/INTERCEPTOR.md.\n\n"
              "Exit status: 0 after SIGTERM or SIGINT; 1 when it cannot start or go on; 2 when a setting is wrong.\n",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

static int check_address(const char *name, const char *address, struct error *e)
{
    struct sockaddr_storage where;
    if (address_numeric(address, &where, e) == 0) return 0;
    return error_prefix(e, "%s", name);
}

static int check_servers(const char *servers, struct error *e)
{
    char one[300], host[256], port[16];
    const char *p = servers;
    do {
        size_t len = strcspn(p, ",");
        if (len == 0 || len >= sizeof one)
            return error_set(e, ERROR_INVALID, "servers: host:port,host:port,... is wanted, not \"%.100s\"", servers);
        memcpy(one, p, len);
        one[len] = '\0';
        if (address_split(one, host, sizeof host, port, sizeof port, e) != 0) return error_prefix(e, "servers");
        p += len + (p[len] == ',');
    } while (*p != '\0');
    return 0;
}

static int check_name(const char *name, const char *value, struct error *e)
{
    size_t len = strlen(value);
    if (len > 0 && len <= 255 &&
        strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == len)
        return 0;
    return error_set(e, ERROR_INVALID, "%s: 1 to 255 letters, digits, or . _ - / are wanted", name);
}

static int check_version(const char *version, struct error *e)
{
    size_t len = strlen(version);
    for (size_t i = 0; i < len; i++)
        if (version[i] <= ' ' || version[i] > '~') return error_set(e, ERROR_INVALID, "app-version: letters, digits and signs are wanted, without a space");
    return len <= VERDICT_VERSION_MAX ? 0 : error_set(e, ERROR_INVALID, "app-version: at most %d characters are wanted", VERDICT_VERSION_MAX);
}

static int check_replication(struct settings *s, struct error *e)
{
    s->shared = strcmp(s->replication, "log") == 0;
    if (!s->shared && strcmp(s->replication, "none") != 0)
        return error_set(e, ERROR_INVALID, "replication: none or log is wanted, not \"%.40s\"", s->replication);
    s->linearizable = s->shared && strcmp(s->reads, "linearizable") == 0;
    if (strcmp(s->reads, "linearizable") != 0 && strcmp(s->reads, "local") != 0)
        return error_set(e, ERROR_INVALID, "reads: linearizable or local is wanted, not \"%.40s\"", s->reads);
    s->hold_on_disagreement = strcmp(s->on_disagreement, "hold") == 0;
    if (!s->hold_on_disagreement && strcmp(s->on_disagreement, "alarm") != 0)
        return error_set(e, ERROR_INVALID, "on-disagreement: alarm or hold is wanted, not \"%.40s\"", s->on_disagreement);
    if (s->replicas == 1) return error_set(e, ERROR_INVALID, "replicas: 0, or 2 to 15 is wanted: one alone is compared with nobody");
    s->refuses = s->shared && strcmp(s->without_app, "refuse") == 0;
    if (strcmp(s->without_app, "refuse") != 0 && strcmp(s->without_app, "hold") != 0)
        return error_set(e, ERROR_INVALID, "without-app: refuse or hold is wanted, not \"%.40s\"", s->without_app);
    s->standby = strcmp(s->role, "standby") == 0;
    if (!s->standby && strcmp(s->role, "active") != 0)
        return error_set(e, ERROR_INVALID, "role: active or standby is wanted, not \"%.40s\"", s->role);
    if (s->standby && !s->shared) return error_set(e, ERROR_INVALID, "role standby wants replication log");
    if (s->standby_of[0] != '\0' && !s->standby) return error_set(e, ERROR_INVALID, "standby-of wants role standby");
    if (s->standby_of[0] != '\0') {
        int rv = check_address("standby-of", s->standby_of, e);
        if (rv != 0) return rv;
    }
    if (s->shared && s->max_body > BODY_WHOLE_MAX) s->max_body = BODY_WHOLE_MAX;
    if (s->shared) s->lease = 0; /* no epoch is anybody's own */
    if (s->shared) s->body_buffer = s->max_body; /* no bodies in parts: another replica's checkpoint may let go what they need */
    if (s->shared && s->pass_upgrades)
        return error_set(e, ERROR_INVALID, "upgrade pass is not for replication log: what goes through would change this replica's app, and no other one's");
    if (s->shared && (s->optimistic || s->order.mode != ORDER_SERIAL))
        return error_set(e, ERROR_INVALID, "replication log wants ordering serial and logging pessimistic: every replica executes the same order");
    return 0;
}

static int check(struct settings *s, struct error *e)
{
    int rv = check_address("listen", s->listen, e);
    if (rv == 0) rv = check_address("admin-listen", s->admin_listen, e);
    if (rv == 0 && s->probe_listen[0] != '\0') rv = check_address("probe-listen", s->probe_listen, e);
    if (rv == 0) rv = check_servers(s->servers, e);
    if (rv == 0) rv = ordering_parse(s->ordering, &s->order, e);
    s->optimistic = strcmp(s->logging, "optimistic") == 0;
    if (rv == 0 && !s->optimistic && strcmp(s->logging, "pessimistic") != 0)
        rv = error_set(e, ERROR_INVALID, "logging: pessimistic or optimistic is wanted, not \"%.40s\"", s->logging);
    s->pass_upgrades = strcmp(s->upgrade, "pass") == 0;
    if (rv == 0 && !s->pass_upgrades && strcmp(s->upgrade, "refuse") != 0)
        rv = error_set(e, ERROR_INVALID, "upgrade: refuse or pass is wanted, not \"%.40s\"", s->upgrade);
    if (rv == 0 && ((s->tls_cert[0] == '\0') != (s->tls_key[0] == '\0') || (s->tls_client_ca[0] != '\0' && s->tls_cert[0] == '\0')))
        rv = error_set(e, ERROR_INVALID, "tls-cert and tls-key go together, and tls-client-ca with both");
    if (rv == 0 && !forwarded_parse(s->forwarded, &s->forwards))
        rv = error_set(e, ERROR_INVALID, "forwarded: x-forwarded, forwarded, both or off is wanted, not \"%.40s\"", s->forwarded);
    if (rv == 0) rv = check_replication(s, e);
    if (rv == 0) rv = check_version(s->app_version, e);
    if (rv == 0) rv = check_name("stream", s->stream, e);
    if (rv == 0) rv = check_name("producer", s->producer, e);
    if (rv == 0 && s->lease > 0 && s->lease < 20) rv = error_set(e, ERROR_INVALID, "lease: 0s, or 20ms and more are wanted");
    if (rv == 0 && log_level_parse(s->log_level, &s->level) != 0)
        rv =
            error_set(e, ERROR_INVALID, "log-level: debug, info, warn or error is wanted, not \"%.40s\"", s->log_level);
    return rv;
}

int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e)
{
    int rv = config_load(&program, argc, argv, s, ret_action, e);
    if (rv == 0 && *ret_action == CONFIG_RUN) rv = check(s, e);
    return rv;
}

void settings_free(struct settings *s)
{
    config_free(&program, s);
}
