/* crsc-logctl: looks into the log from a terminal. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "logctl/verbs.h"

const struct verb *const logctl_verbs[] = {&verb_status, &verb_health, &verb_top, &verb_streams, &verb_tail, &verb_events, &verb_snapshots, &verb_restores, &verb_trim, &verb_retention, &verb_members, &verb_leader, &verb_backup, &verb_check, &verb_migrate,
                                           &verb_bench, &verb_completion, NULL};
enum { TLS_CA = 256, TLS_CERT, TLS_KEY, TLS_NAME, KEEP_SNAPSHOTS, MAX_AGE, MAX_BYTES, BEYOND }; /* options without a letter */
enum { TIMEOUT_DEFAULT_MS = 5000, OPTIONS_MAX = 64 };

const struct option_info logctl_options[] = {
    {"servers", 's', "HOST:PORT,...", 0},
    {"output", 'o', "table|json", 0},
    {"timeout", 't', "DURATION", 0},
    {"tls-ca", TLS_CA, "FILE", 0},
    {"tls-cert", TLS_CERT, "FILE", 0},
    {"tls-key", TLS_KEY, "FILE", 0},
    {"tls-name", TLS_NAME, "NAME", 0},
    {"help", 'h', NULL, 0},
    {"version", 'V', NULL, 0},
    {"from", 'f', "N", OPTION_FROM},
    {"to", 'T', "N", OPTION_TO},
    {"n", 'n', "N", OPTION_COUNT},
    {"follow", 'F', NULL, OPTION_FOLLOW},
    {"body", 'b', NULL, OPTION_BODY},
    {"force", 'X', NULL, OPTION_FORCE},
    {"clients", 'c', "N", OPTION_CLIENTS},
    {"size", 'S', "SIZE", OPTION_SIZE},
    {"seconds", 'e', "N", OPTION_SECONDS},
    {"interval", 'i', "DURATION", OPTION_INTERVAL},
    {"once", '1', NULL, OPTION_ONCE},
    {"keep-snapshots", KEEP_SNAPSHOTS, "K", OPTION_KEEP_SNAPSHOTS},
    {"max-age", MAX_AGE, "DURATION", OPTION_MAX_AGE},
    {"max-bytes", MAX_BYTES, "SIZE", OPTION_MAX_BYTES},
    {"beyond-snapshots", BEYOND, NULL, OPTION_BEYOND},
    {NULL, 0, NULL, 0},
};

static void print_help(FILE *to)
{
    fputs("Usage: crsc-logctl [OPTION...] VERB [ARGUMENT]\n"
          "Looks into the replicated log of CRSC: who leads, which streams there are, what is in them; and trims them.\n\nVerbs:\n",
          to);
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) fprintf(to, "  %-10s %s\n", logctl_verbs[i]->name, logctl_verbs[i]->summary);
    fputs("  help       help VERB: what it prints, its options, examples\n"
          "\nOptions of all verbs, anywhere on the line:\n"
          "  --servers HOST:PORT,...  any of the cluster's servers; the others are learnt\n"
          "                           [$CRSC_SERVERS, else 127.0.0.1:7400]\n"
          "  --output table|json      for people, or for programs: one JSON document; a line per event for tail\n"
          "                           and events [table]\n"
          "  --timeout DURATION       500ms, 5s, 2m: give up when nobody answered for so long [5s]\n"
          "  --tls-ca FILE            PEM file of the CAs that the servers' certificates come from [$CRSC_TLS_CA; none: no TLS]\n"
          "  --tls-cert FILE, --tls-key FILE\n"
          "                           our own certificate, which says what we may do, and its key [$CRSC_TLS_CERT, $CRSC_TLS_KEY]\n"
          "  --tls-name NAME          what the servers' certificates must be for [$CRSC_TLS_NAME, else the host in --servers]\n"
          "  --help, --version\n"
          "\nExamples:\n"
          "  crsc-logctl status\n"
          "  crsc-logctl --servers 10.0.0.1:7400,10.0.0.2:7400 streams\n"
          "  crsc-logctl tail demo/default/workload/pushgateway --follow\n"
          "  crsc-logctl members add 4=10.0.0.4:7400\n"
          "  crsc-logctl events demo/default/workload/pushgateway --from 100 --to 120 --output json\n"
          "\nExit status: 0 done, 1 the operation failed, 2 the command line is wrong, 3 no server or no leader\n"
          "answered in time, 4 there is no such stream, offset or server.\n",
          to);
}

static int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("crsc-logctl: ", stderr);
    vfprintf(stderr, format, args);
    fputs("\n", stderr);
    va_end(args);
    return EXIT_USAGE;
}

static const struct verb *find_verb(const char *name)
{
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++)
        if (strcmp(logctl_verbs[i]->name, name) == 0) return logctl_verbs[i];
    return NULL;
}

struct crsc_sync *open_client(const struct options *o, int *ret_status)
{
    struct crsc_sync *s = NULL;
    struct error e;
    struct crsc_client_options options = {
        .servers = o->servers, .software = "crsc-logctl " CRSC_VERSION, .timeout_ms = o->timeout_ms,
        .tls_ca = o->tls_ca, .tls_cert = o->tls_cert, .tls_key = o->tls_key, .tls_name = o->tls_name};
    if (crsc_sync_new(&options, &s, &e) == 0) return s;
    *ret_status =
        e.code == ERROR_INVALID || e.code == ERROR_TOO_LARGE ? usage_error("%s", e.text) : fail(o, &e);
    return NULL;
}

int fail(const struct options *o, const struct error *e)
{
    fprintf(stderr, "crsc-logctl: %s (%s)\n", e->text, error_name((int)e->code));
    switch (e->code) {
    case ERROR_NOT_FOUND: fputs("The streams there are: crsc-logctl streams\n", stderr); return EXIT_NOT_FOUND;
    case ERROR_NOT_LEADER:
    case ERROR_UNAVAILABLE:
    case ERROR_TIMEOUT:
        fprintf(
            stderr,
            "Asked, beginning with: %s\n"
            "Who is up, and who leads: crsc-logctl status. Other servers: --servers or CRSC_SERVERS. More patience: "
            "--timeout.\n",
            o->servers);
        return EXIT_UNREACHABLE;
    default: return EXIT_FAILED;
    }
}

int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_OK;
    if (errno != EPIPE)
        perror("crsc-logctl: write to stdout"); /* whoever read it has had enough: no news to a person */
    return EXIT_FAILED;
}

/* ---- the command line ----------------------------------------------------------------------------------------- */

static int parse_number(const char *name, const char *text, uint64_t *ret_number)
{
    char *end;
    *ret_number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || *ret_number == 0)
        return usage_error("%s: \"%s\" is not a number from 1 on", name, text);
    return 0;
}

struct line {
    struct options o;
    bool help, version;
    const char *words[3];
    int n_words;
};

static int parse_option(struct line *l, int option)
{
    uint64_t ms;
    switch (option) {
    case 's': l->o.servers = optarg; return 0;
    case 'o':
        if (strcmp(optarg, "json") != 0 && strcmp(optarg, "table") != 0)
            return usage_error("--output: \"%s\" is neither table nor json", optarg);
        l->o.json = strcmp(optarg, "json") == 0;
        return 0;
    case 't':
        if (config_parse_duration(optarg, &ms) != 0 || ms == 0 || ms > 3600000)
            return usage_error("--timeout: \"%s\" is not a time of at most an hour such as 500ms, 5s, 2m", optarg);
        l->o.timeout_ms = (uint32_t)ms;
        return 0;
    case 'f': l->o.given |= OPTION_FROM; return parse_number("--from", optarg, &l->o.from);
    case 'T': l->o.given |= OPTION_TO; return parse_number("--to", optarg, &l->o.to);
    case 'n': l->o.given |= OPTION_COUNT; return parse_number("-n", optarg, &l->o.count);
    case 'F': l->o.given |= OPTION_FOLLOW; return 0;
    case 'b': l->o.given |= OPTION_BODY; return 0;
    case 'X': l->o.given |= OPTION_FORCE; return 0;
    case 'c':
        l->o.given |= OPTION_CLIENTS;
        if (parse_number("--clients", optarg, &l->o.clients) != 0) return EXIT_USAGE;
        return l->o.clients <= 4096 ? 0 : usage_error("--clients: at most 4096");
    case 'S':
        l->o.given |= OPTION_SIZE;
        if (config_parse_size(optarg, &l->o.size) == 0 && l->o.size <= CRSC_PAYLOAD_MAX) return 0;
        return usage_error("--size: \"%s\" is not a size of at most 8MiB such as 100, 1KiB", optarg);
    case 'e':
        l->o.given |= OPTION_SECONDS;
        if (parse_number("--seconds", optarg, &l->o.seconds) != 0) return EXIT_USAGE;
        return l->o.seconds <= 3600 ? 0 : usage_error("--seconds: at most 3600");
    case 'i':
        l->o.given |= OPTION_INTERVAL;
        if (config_parse_duration(optarg, &l->o.interval_ms) == 0 && l->o.interval_ms >= 100 && l->o.interval_ms <= 60000) return 0;
        return usage_error("--interval: \"%s\" is not a time from 100ms to 1m", optarg);
    case '1': l->o.given |= OPTION_ONCE; return 0;
    case KEEP_SNAPSHOTS:
        l->o.given |= OPTION_KEEP_SNAPSHOTS;
        if (parse_number("--keep-snapshots", optarg, &l->o.keep_snapshots) != 0) return EXIT_USAGE;
        return l->o.keep_snapshots <= 1024 ? 0 : usage_error("--keep-snapshots: at most 1024");
    case MAX_AGE:
        l->o.given |= OPTION_MAX_AGE;
        if (config_parse_duration(optarg, &l->o.max_age_ms) == 0 && l->o.max_age_ms > 0 && l->o.max_age_ms <= UINT64_C(100) * 365 * 86400000) return 0;
        return usage_error("--max-age: \"%s\" is not a time of at most a hundred years such as 30m, 12h, 7d", optarg);
    case MAX_BYTES:
        l->o.given |= OPTION_MAX_BYTES;
        if (config_parse_size(optarg, &l->o.max_bytes) == 0 && l->o.max_bytes > 0 && l->o.max_bytes <= UINT64_C(1) << 60) return 0;
        return usage_error("--max-bytes: \"%s\" is not a size such as 500MiB, 10GiB", optarg);
    case BEYOND: l->o.given |= OPTION_BEYOND; return 0;
    case TLS_CA: l->o.tls_ca = optarg; return 0;
    case TLS_CERT: l->o.tls_cert = optarg; return 0;
    case TLS_KEY: l->o.tls_key = optarg; return 0;
    case TLS_NAME: l->o.tls_name = optarg; return 0;
    case 'h': l->help = true; return 0;
    case 'V': l->version = true; return 0;
    default: return usage_error("see crsc-logctl --help"); /* getopt has said what it is */
    }
}

static int parse(int argc, char **argv, struct line *l)
{
    struct option known[OPTIONS_MAX] = {0};
    for (unsigned i = 0; logctl_options[i].name != NULL; i++) /* "n" is -n only */
        known[i] = (struct option){logctl_options[i].name, logctl_options[i].argument != NULL, NULL, logctl_options[i].code};
    const char *servers = getenv("CRSC_SERVERS");
    l->o = (struct options){.servers = servers != NULL && servers[0] != '\0' ? servers : "127.0.0.1:7400",
                            .timeout_ms = TIMEOUT_DEFAULT_MS,
                            .tls_ca = getenv("CRSC_TLS_CA"),
                            .tls_cert = getenv("CRSC_TLS_CERT"),
                            .tls_key = getenv("CRSC_TLS_KEY"),
                            .tls_name = getenv("CRSC_TLS_NAME"),
                            .count = 10,
                            .clients = 64,
                            .size = 1024,
                            .seconds = 10,
                            .interval_ms = 1000,
                            .from = 1};
    int option, rv = 0;
    while (rv == 0 && (option = getopt_long(argc, argv, "n:h", known, NULL)) != -1) rv = parse_option(l, option);
    for (; rv == 0 && optind < argc; optind++) {
        if (l->n_words == 3) return usage_error("\"%s\" is one word too many: see crsc-logctl --help", argv[optind]);
        l->words[l->n_words++] = argv[optind];
    }
    return rv;
}

static int check_options(const struct verb *v, const struct options *o)
{
    for (unsigned i = 0; logctl_options[i].name != NULL; i++) {
        const struct option_info *info = &logctl_options[i];
        if ((o->given & info->bit) != 0 && (v->options & info->bit) == 0)
            return usage_error("%s has no option %s%s: see crsc-logctl help %s", v->name, info->name[1] == '\0' ? "-" : "--", info->name, v->name);
    }
    if ((o->given & OPTION_TO) != 0 && o->to < o->from)
        return usage_error("--to %llu is before --from %llu", (unsigned long long)o->to, (unsigned long long)o->from);
    if (o->argument != NULL && v->argument == 0)
        return usage_error("%s takes no argument: see crsc-logctl help %s", v->name, v->name);
    if (o->argument == NULL && v->argument == 1 && v->words != NULL) return usage_error("%s needs one of: %s", v->name, v->words);
    if (o->argument == NULL && v->argument == 1)
        return usage_error("%s needs the name of a stream: crsc-logctl streams lists them", v->name);
    return 0;
}

int main(int argc, char **argv)
{
    struct line l = {0};
    signal(SIGPIPE, SIG_IGN); /* libuv wants it; a closed stdout is seen by finish_output() */
    int rv = parse(argc, argv, &l);
    if (rv != 0) return rv;
    bool help_verb = l.n_words > 0 && strcmp(l.words[0], "help") == 0;
    const char *name = help_verb ? l.words[1] : l.words[0];
    if (l.version) {
        puts("crsc-logctl " CRSC_VERSION);
        return finish_output();
    }
    if (name == NULL) {
        bool asked = l.help || help_verb;
        print_help(asked ? stdout : stderr);
        return asked ? finish_output() : EXIT_USAGE;
    }
    const struct verb *v = find_verb(name);
    if (v == NULL) return usage_error("there is no verb \"%s\": see crsc-logctl --help", name);
    if (l.help || help_verb) {
        fputs(v->help, stdout);
        return finish_output();
    }
    if (l.n_words > (v->argument2 ? 3 : 2))
        return usage_error("\"%s\" is one word too many: see crsc-logctl help %s", l.words[2], v->name);
    l.o.argument = l.words[1];
    l.o.argument2 = l.words[2];
    rv = check_options(v, &l.o);
    if (rv != 0) return rv;
    rv = v->run(&l.o);
    int written = finish_output();
    return rv != EXIT_OK ? rv : written;
}
