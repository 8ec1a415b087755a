#include <inttypes.h>
#include <stdio.h>

#include "logctl/progress.h"
#include "logctl/verbs.h"
#include "logd/server/check.h"

enum { DAMAGES_SHOWN = 100 };

struct shown {
    const struct options *o;
    struct progress progress;
    uint64_t n;
};

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar((unsigned char)*text < 0x20 ? ' ' : *text);
    }
    putchar('"');
}

static void on_damage(void *user, const struct error *e)
{
    struct shown *s = user;
    if (++s->n > DAMAGES_SHOWN) return;
    if (s->o->json) {
        fputs(s->n == 1 ? "" : ",", stdout);
        print_json_text(e->text);
    } else {
        progress_end(&s->progress);
        printf("DAMAGED  %s\n", e->text);
    }
}

static void on_progress(void *user, uint64_t bytes)
{
    progress_set(&((struct shown *)user)->progress, bytes);
}

static void print(const struct options *o, const struct check *c)
{
    if (o->json) {
        printf("],\"damages\":%" PRIu64 ",\"first_index\":%" PRIu64 ",\"last_index\":%" PRIu64 ",\"term\":%" PRIu64 ",\"applied_index\":%" PRIu64
               ",\"appends\":%" PRIu64 ",\"events\":%" PRIu64 ",\"log_bytes\":%" PRIu64 ",\"torn_bytes\":%" PRIu64 ",\"rebuild\":%s}\n",
               c->damages, c->first_index, c->last_index, c->term, c->applied, c->appends, c->events, c->log_bytes, c->torn_bytes, c->rebuild ? "true" : "false");
        return;
    }
    printf("log      entries %" PRIu64 " to %" PRIu64 ", term %" PRIu64 ", %" PRIu64 " bytes of segments\n", c->first_index, c->last_index, c->term, c->log_bytes);
    printf("index    applied up to entry %" PRIu64 "; %" PRIu64 " events of %" PRIu64 " appends, each read and compared with its checksum\n", c->applied, c->events,
           c->appends);
    if (c->torn_bytes > 0) printf("note     %" PRIu64 " bytes of a write that nobody was told about: the next start cuts them\n", c->torn_bytes);
    if (c->rebuild) puts("note     a state is being fetched from another server: the next start goes on with that");
    if (c->damages == 0) puts("clean");
    else printf("%" PRIu64 " damages. A server must not be started on this: remove it from the cluster and add it again with an empty directory\n", c->damages);
}

static int run(const struct options *o)
{
    struct shown shown = {.o = o};
    struct check c = {.on_damage = on_damage, .on_progress = on_progress, .user = &shown};
    struct error e;
    if (o->json) fputs("{\"found\":[", stdout);
    progress_begin(&shown.progress, "check", PROGRESS_BYTES, 0);
    int rv = check_run(o->argument, &c, &e);
    progress_end(&shown.progress);
    if (rv != 0) {
        if (o->json) puts("],\"damages\":null}");
        fprintf(stderr, "crsc-logctl: %s (%s)\n", e.text, error_name(rv));
        return rv == -ERROR_NOT_FOUND ? EXIT_NOT_FOUND : EXIT_FAILED;
    }
    print(o, &c);
    return c.damages == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct verb verb_check = {
    .name = "check",
    .summary = "looks for damage in a stopped server's data directory",
    .help =
        "Usage: crsc-logctl check DATA-DIR\n"
        "Reads all of a data directory of crsc-logd whose server is stopped: every record of the log, term and vote, every event that the index knows, by\n"
        "its client's checksum; and whether log and index meet. Nothing of the log is changed. Asks no server. At most 100 damages are printed, all\n"
        "are counted. Exit status 0: clean, 1: damaged, or it could not be read, 4: that is no data directory.\n\n"
        "Examples:\n"
        "  crsc-logctl check /var/lib/crsc-logd\n",
    .argument = 1,
    .words = "DATA-DIR",
    .run = run,
};
