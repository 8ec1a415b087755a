#include "runtime/started.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/process.h"

enum { FILE_MAX = 16 << 10 };

static bool path_of(char path[PATH_MAX], const char *dir, const char *id, const char *suffix)
{
    return strchr(id, '/') == NULL && *id != '.' && snprintf(path, PATH_MAX, "%s/%s%s", dir, id, suffix) < PATH_MAX;
}

static bool make_dir(const char *dir)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path) return false;
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p != '/') continue;
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    mkdir(path, 0700);
    return access(path, W_OK) == 0;
}

/* JSON's own characters, and what is not printable ASCII, become spaces: these are words for a person. */
static void plain(char *to, size_t cap, const char *text)
{
    size_t i = 0;
    for (; text[i] != '\0' && i < cap - 1; i++) to[i] = text[i] < 0x20 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\' ? ' ' : text[i];
    to[i] = '\0';
}

bool started_write(const char *dir, const struct started *s)
{
    char path[PATH_MAX], aside[PATH_MAX], reason[ASK_REASON_MAX], tried[ASK_SNAPSHOT_MAX], bundle[PATH_MAX];
    struct process process = {.pid = s->pid};
    struct timespec now;
    process_find(s->pid, &process);
    clock_gettime(CLOCK_REALTIME, &now);
    plain(reason, sizeof reason, s->restored ? "" : s->answer->reason);
    plain(tried, sizeof tried, s->answer->snapshot);
    plain(bundle, sizeof bundle, s->bundle);
    if (!make_dir(dir) || !path_of(path, dir, s->id, ".json") || !path_of(aside, dir, s->id, ".new")) return false;
    FILE *f = fopen(aside, "we");
    if (f == NULL) return false;
    fchmod(fileno(f), 0600);
    fprintf(f,
            "{\"v\":1,\"id\":\"%s\",\"bundle\":\"%s\",\"pid\":%d,\"start_time\":%" PRIu64 ",\"began\":\"%s\",\"snapshot\":\"%s\",\"tried\":\"%s\",\"offset\":%" PRIu64
            ",\"reason\":\"%s\",\"criu_us\":%" PRIu64 ",\"created_us\":%" PRIu64 "}\n",
            s->id, bundle, s->pid, process.start_time, s->restored ? "restored" : "fresh", s->restored ? tried : "", tried, s->restored ? s->answer->offset : 0,
            reason, s->criu_us, (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
    return fclose(f) == 0 && rename(aside, path) == 0;
}

bool started_restored(const char *dir, const char *id)
{
    char path[PATH_MAX], text[FILE_MAX];
    if (!path_of(path, dir, id, ".json")) return false;
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    fclose(f);
    return strstr(text, "\"began\":\"restored\"") != NULL;
}

void started_remove(const char *dir, const char *id)
{
    char path[PATH_MAX];
    if (path_of(path, dir, id, ".json")) unlink(path);
}
