#include "interceptor/settings.h"

#include <stddef.h>
#include <string.h>

#include "common/conn.h"

#define AT(field) offsetof(struct settings, field)

static const struct config_setting table[] = {
    {"listen", CONFIG_STRING, AT(listen), "127.0.0.1:8080", 0, 0,
     "Address of the data port, where clients connect: host:port, numeric."},
    {"admin-listen", CONFIG_STRING, AT(admin_listen), "127.0.0.1:8081", 0, 0,
     "Address of the admin port. Who reaches it can hold, drain and re-attach the app: keep it private."},
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0,
     "The log's servers: host:port, separated by commas; any of the cluster."},
    {"stream", CONFIG_STRING, AT(stream), NULL, 0, 0, "The protected workload's stream: cluster/namespace/kind/name."},
    {"producer", CONFIG_STRING, AT(producer), "crsc-interceptor", 0, 0,
     "Name under which the stream is opened; shown by crsc-logctl."},
    {"log-safe-methods", CONFIG_BOOL, AT(log_safe_methods), "false", 0, 0,
     "Log GET, HEAD, OPTIONS and TRACE too, for an app whose state changes with them."},
    {"max-body", CONFIG_SIZE, AT(max_body), "4MiB", 0, 7 << 20, "Largest request body; more is answered with 413."},
    {"answer-buffer", CONFIG_SIZE, AT(answer_buffer), "1MiB", 4096, 64 << 20,
     "An answer up to this size is held until it is whole, and survives the app's death half-way; a larger one "
     "streams."},
    {"hold-requests", CONFIG_UINT, AT(hold_requests), "10000", 1, 1000000,
     "Requests that wait at a time; more are answered with 503 and Retry-After, and are not logged."},
    {"hold-bytes", CONFIG_SIZE, AT(hold_bytes), "64MiB", 1 << 16, UINT64_C(16) << 30,
     "Bytes of waiting requests at a time; beyond it 503, as above."},
    {"max-connections", CONFIG_UINT, AT(max_connections), "20000", 1, 1000000,
     "Clients connected at a time; more are closed at once."},
    {"retry-after", CONFIG_UINT, AT(retry_after), "1", 0, 3600, "Seconds in the Retry-After of a 503."},
    {"app-start-timeout", CONFIG_DURATION, AT(app_start_timeout), "30s", 1, 3600000,
     "How long an attached app may take until it accepts a connection."},
    {"idle-timeout", CONFIG_DURATION, AT(idle_timeout), "75s", 100, 86400000,
     "A client's connection without a request is closed after this."},
    {"request-timeout", CONFIG_DURATION, AT(request_timeout), "60s", 100, 86400000,
     "A client may take this long to send a whole request, and to take any of its answer."},
    {"log-timeout", CONFIG_DURATION, AT(log_timeout), "30s", 100, 3600000,
     "An append without an answer for this long is looked up in the log under a new epoch; its client goes on "
     "waiting."},
    {"stop-timeout", CONFIG_DURATION, AT(stop_timeout), "5s", 0, 3600000,
     "At SIGTERM: time for answers that are on their way."},
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

static int check(struct settings *s, struct error *e)
{
    int rv = check_address("listen", s->listen, e);
    if (rv == 0) rv = check_address("admin-listen", s->admin_listen, e);
    if (rv == 0) rv = check_servers(s->servers, e);
    if (rv == 0) rv = check_name("stream", s->stream, e);
    if (rv == 0) rv = check_name("producer", s->producer, e);
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
