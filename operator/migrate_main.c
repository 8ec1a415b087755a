#include "operator/migrate_main.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <yyjson.h>

#include "common/config.h"
#include "operator/control.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

struct wish {
    const char *state_dir, *to, *from;
    uint64_t timeout_ms;
    bool json;
};

static const char help[] =
    "Usage: crsc-operator migrate [--state-dir DIR] [--from NAME] [--timeout DURATION] [--json] TO\n"
    "Moves an app to TO, the name of a workload file with \"spare: true\" of the same stream. The operator of this machine starts TO\n"
    "from the newest valid checkpoint, lets it follow the log as a standby until it lacks next to nothing, promotes it, has the\n"
    "source refuse new clients, waits until those that are there are answered, and ends the source's app: the source is the spare\n"
    "then. Nothing is frozen, unless there is no checkpoint, or one so old that its replay would take longer than another dump:\n"
    "then one is taken first. Until the last step the source serves; when a step fails, the time is over, or this command is\n"
    "interrupted, it goes on serving and TO is removed again.\n"
    "  --state-dir DIR      of that operator          [/var/lib/crsc/operator]\n"
    "  --from NAME          the one that is to go     [the one that serves, if there is only one]\n"
    "  --timeout DURATION   for all of it             [2m]\n"
    "  --json               a line of JSON for each step\n\n"
    "Exit status: 0 moved; 1 not moved; 2 the command line is wrong; 3 no operator answers there.\n";

static int parse(int argc, char **argv, struct wish *w)
{
    static const struct option known[] = {{"state-dir", required_argument, NULL, 's'}, {"from", required_argument, NULL, 'f'},
                                          {"timeout", required_argument, NULL, 't'},   {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},            {NULL, 0, NULL, 0}};
    int option;
    *w = (struct wish){.state_dir = "/var/lib/crsc/operator", .from = "-", .timeout_ms = 120000};
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (option) {
        case 's': w->state_dir = optarg; break;
        case 'f': w->from = optarg; break;
        case 'j': w->json = true; break;
        case 'h': fputs(help, stdout); return -1;
        case 't':
            if (config_parse_duration(optarg, &w->timeout_ms) == 0 && w->timeout_ms > 0 && w->timeout_ms <= CONTROL_MOVE_MAX_MS) break;
            fprintf(stderr, "crsc-operator migrate: --timeout: \"%s\" is not a time of at most an hour such as 30s, 2m\n", optarg);
            return EXIT_USAGE;
        default: return EXIT_USAGE;
        }
    }
    if (argc - optind == 1) {
        w->to = argv[optind];
        return 0;
    }
    fputs("crsc-operator migrate: the name of one spare is wanted; see crsc-operator migrate --help\n", stderr);
    return EXIT_USAGE;
}

/* A connection, or -1 after having said why. */
static int dial(const struct wish *w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct error e;
    if (control_path(w->state_dir, address.sun_path, sizeof address.sun_path, &e) != 0) {
        fprintf(stderr, "crsc-operator migrate: %s\n", e.text);
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    fprintf(stderr, "crsc-operator migrate: no operator answers at %s (--state-dir): %s\n", address.sun_path, strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
}

static const char *text(yyjson_val *o, const char *name)
{
    const char *value = yyjson_get_str(yyjson_obj_get(o, name));
    return value != NULL ? value : "";
}

static double number(yyjson_val *o, const char *name)
{
    return yyjson_get_num(yyjson_obj_get(o, name));
}

static void show(yyjson_val *o)
{
    const char *step = text(o, "step");
    if (strcmp(step, "done") == 0)
        printf("%s: moved from %s to %s; it began with offset %" PRIu64 " (%s), was up and had caught up in %.1f ms; switched in %.1f ms, the source was drained in %.1f ms\n",
               text(o, "stream"), text(o, "from"), text(o, "to"), yyjson_get_uint(yyjson_obj_get(o, "offset")), text(o, "snapshot")[0] != '\0' ? text(o, "snapshot") : "a fresh start",
               number(o, "start_ms"), number(o, "switch_ms"), number(o, "drain_ms"));
    else if (strcmp(step, "failed") == 0)
        fprintf(stderr, "crsc-operator migrate: not moved: %s; the app stays at %s\n", text(o, "reason"), text(o, "from"));
    else
        printf("%s ...\n", step);
    fflush(stdout);
}

/* The exit status that a line means; -1: there will be more. */
static int take(const struct wish *w, const char *line, size_t len)
{
    yyjson_doc *doc = yyjson_read(line, len, 0);
    yyjson_val *o = doc != NULL ? yyjson_doc_get_root(doc) : NULL;
    const char *step = text(o, "step"), *error = text(o, "error");
    int status = error[0] != '\0' || strcmp(step, "failed") == 0 ? EXIT_FAILED : strcmp(step, "done") == 0 ? EXIT_DONE : -1;
    if (error[0] != '\0') fprintf(stderr, "crsc-operator migrate: %s\n", error);
    else if (w->json) printf("%.*s\n", (int)len, line);
    else show(o);
    fflush(stdout);
    yyjson_doc_free(doc);
    return status;
}

int migrate_main(int argc, char **argv)
{
    struct wish w;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int status = parse(argc, argv, &w);
    if (status != 0) return status < 0 ? EXIT_DONE : status;
    signal(SIGPIPE, SIG_IGN);
    int fd = dial(&w);
    FILE *stream = fd >= 0 ? fdopen(fd, "r+") : NULL;
    if (stream == NULL) return EXIT_UNREACHABLE;
    fprintf(stream, "migrate %s %s %" PRIu64 "\n", w.to, w.from, w.timeout_ms);
    fflush(stream);
    for (status = -1; status < 0 && (len = getline(&line, &cap, stream)) > 0;) status = take(&w, line, (size_t)(line[len - 1] == '\n' ? len - 1 : len));
    if (status < 0) fputs("crsc-operator migrate: the operator ended before the move did; the next one begins where the app belongs\n", stderr);
    free(line);
    fclose(stream);
    return status < 0 ? EXIT_UNREACHABLE : status;
}
