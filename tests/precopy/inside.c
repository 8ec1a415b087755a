/* inside: pre-copy with a real runc and CRIU, on the machine that it runs on, as root.
 *
 *   inside WRITER DIR MEBIBYTES [CRIU] [ROUNDS] [huge]
 *
 * Starts the app WRITER (writer.c) in a container, takes a plain checkpoint and one with rounds, prints for each how long the app stood still by its own
 * account and by CRIU's, and restores the one with rounds, through an image as it is kept: every page of its memory must be as the app left it. Where the kernel
 * does not track written pages it says so, and the second checkpoint is plain, too. `huge`: in pages of 2 MiB. All is done in a folder that is made in DIR and removed. CRIU: else, and
 * when it is not there, the one on PATH. Exit status: 0 all is as it should be; 1; 77
 * containers or CRIU do not work here. */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/oci_image.h"
#include "checkpoint/precopy.h"
#include "checkpoint/runc.h"
#include "checkpoint/tree.h"

enum { PATIENCE_S = 300, TIMEOUT_MS = 300000, RESTORES = 2 };

static const char configuration[] =
    "{\"ociVersion\":\"1.0.2\",\"hostname\":\"inside\",\"root\":{\"path\":\"rootfs\",\"readonly\":false},\"process\":{\"terminal\":false,\"user\":{\"uid\":0,\"gid\":0},"
    "\"args\":[\"/writer\",\"%lu\"%s],\"env\":[\"PATH=/\"],\"cwd\":\"/\",\"noNewPrivileges\":true},\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
    "{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\",\"options\":[\"nosuid\",\"strictatime\",\"mode=755\",\"size=65536k\"]}],"
    "\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}],\"resources\":{\"devices\":[{\"allow\":false,\"access\":\"rwm\"}]}}}\n";

struct status {
    unsigned long answers;
    uint64_t writes, gap_us, wrong;
};

static char base[PATH_MAX - 300], id[64];
static uv_loop_t loop;
static struct runc *runc;
static struct runc_result last;
static struct precopy_result rounds;
static bool called;

static const char *at(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", base, name);
    return path;
}

static void on_result(void *user, const struct runc_result *r)
{
    (void)user;
    last = *r;
    if (r->status != 0 && *r->detail != '\0') fprintf(stderr, "%s\n", r->detail);
    called = true;
}

static void on_rounds(void *user, const struct precopy_result *r)
{
    (void)user;
    rounds = *r;
    if (r->status != 0) fprintf(stderr, "inside: a round failed: %s\n%s\n", r->error.text, r->detail);
    called = true;
}

static void wait_called(void)
{
    while (!called) uv_run(&loop, UV_RUN_ONCE);
    called = false;
}

/* Nothing stays. */
static int clean_up(int status)
{
    struct error e;
    if (runc != NULL && runc_delete(runc, id, on_result, NULL, &e) == 0) {
        wait_called();
        if (last.status != 0) fprintf(stderr, "inside: the container stays: %s\n", last.error.text);
    }
    if (runc != NULL) runc_close(runc, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    if (tree_remove(base, &e) != 0) fprintf(stderr, "inside: %s\n", e.text);
    return status;
}

static void __attribute__((noreturn)) die(const char *what, const char *why)
{
    fprintf(stderr, "inside: %s: %s\n", what, why);
    exit(clean_up(1));
}

static void wait_success(const char *what, int rc, const struct error *e)
{
    if (rc != 0) die(what, e->text);
    wait_called();
    if (last.status != 0) die(what, last.error.text);
}

static void doze(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

/* ---- the app ----------------------------------------------------------------------------------------------------- */

static struct status read_status(void)
{
    struct status s = {0};
    FILE *f = fopen(at("bundle/rootfs/status"), "re");
    if (f != NULL && fscanf(f, "%lu %" SCNu64 " %" SCNu64 " %" SCNu64, &s.answers, &s.writes, &s.gap_us, &s.wrong) != 4) s.answers = 0;
    if (f != NULL) fclose(f);
    return s;
}

/* Its answer to a signal; 0: it was just started. */
static struct status ask(int number)
{
    unsigned long before = read_status().answers;
    if (number != 0) {
        int fd;
        if (process_open(&last.process, &fd) != 0 || process_signal(fd, number) != 0) die("the app", "it has ended");
        close(fd);
    }
    for (int i = 0; i < PATIENCE_S * 100; i++) {
        struct status s = read_status();
        if (s.answers > (number != 0 ? before : 0)) return s;
        if (!process_alive(&last.process)) die("the app", "it has ended");
        doze();
    }
    die("the app", "it does not answer");
}

static void copy(const char *from, const char *to)
{
    char chunk[65536];
    size_t n;
    FILE *in = fopen(from, "re"), *out = fopen(to, "we");
    if (in == NULL || out == NULL) die(from, "it cannot be copied");
    while ((n = fread(chunk, 1, sizeof chunk, in)) > 0)
        if (fwrite(chunk, 1, n, out) != n) die(to, "it cannot be written");
    fclose(in);
    if (fclose(out) != 0 || chmod(to, 0755) != 0) die(to, "it cannot be written");
}

static void make_bundle(const char *writer, unsigned long mebibytes, bool huge)
{
    static const char *const folders[] = {"bundle/rootfs/proc", "bundle/rootfs/dev"};
    struct error e;
    for (int i = 0; i < 2; i++)
        if (tree_make(at(folders[i]), &e) != 0) die("the bundle", e.text);
    copy(writer, at("bundle/rootfs/writer"));
    FILE *f = fopen(at("bundle/config.json"), "we");
    if (f == NULL || fprintf(f, configuration, mebibytes, huge ? ",\"huge\"" : "") < 0 || fclose(f) != 0) die("the bundle", "it cannot be written");
}

/* ---- what CRIU says ---------------------------------------------------------------------------------------------- */

static uint64_t varint(const unsigned char **p, const unsigned char *stop)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *p < stop && shift < 64; shift += 7) {
        unsigned char byte = *(*p)++;
        value |= (uint64_t)(byte & 127) << shift;
        if ((byte & 128) == 0) break;
    }
    return value;
}

/* stats-dump: two words of magic, the entry's length, a stats_entry whose field 1 is a dump_stats_entry {1 freezing_time, 2 frozen_time, 3 memdump_time,
 * 4 memwrite_time, 5 pages_scanned, 6 pages_skipped_parent, 7 pages_written}, all of them varints (CRIU's images/stats.proto). */
static void read_stats(uint64_t ret[8])
{
    unsigned char bytes[512];
    memset(ret, 0, 8 * sizeof *ret);
    char name[200];
    snprintf(name, sizeof name, "work/%s.criu/stats-dump", id);
    FILE *f = fopen(at(name), "re");
    size_t n = f != NULL ? fread(bytes, 1, sizeof bytes, f) : 0;
    if (f != NULL) fclose(f);
    if (n < 16 || bytes[12] != (1 << 3 | 2)) return;
    const unsigned char *p = bytes + 13, *stop = bytes + n;
    uint64_t len = varint(&p, stop);
    if (len < (uint64_t)(stop - p)) stop = p + len;
    while (p < stop) {
        uint64_t key = varint(&p, stop);
        if ((key & 7) != 0) return;
        uint64_t value = varint(&p, stop);
        if (key >> 3 < 8) ret[key >> 3] = value;
    }
}

static void tell(const char *what, uint64_t gap_us)
{
    uint64_t s[8];
    read_stats(s);
    printf("%-22s stood still %8.1f ms by its own account; CRIU: freezing %.1f ms, frozen %.1f ms, pages written %" PRIu64 ", left to the parents %" PRIu64 "\n", what,
           (double)gap_us / 1000, (double)s[1] / 1000, (double)s[2] / 1000, s[7], s[6]);
    fflush(stdout);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static void take_plain(void)
{
    struct error e;
    ask(SIGUSR2);
    struct process p = last.process;
    wait_success("a plain checkpoint", runc_checkpoint(runc, id, at("plain"), NULL, true, on_result, NULL, &e), &e);
    last.process = p;
    tell("a plain checkpoint:", ask(SIGUSR2).gap_us);
    if (tree_remove(at("plain"), &e) != 0) die("a plain checkpoint", e.text);
}

static uint64_t take_with_rounds(unsigned most)
{
    struct error e;
    struct precopy *unused;
    struct process p = last.process;
    if (precopy_start(&loop, runc, id, at("dump"), most, on_rounds, NULL, &unused, &e) != 0) die("pre-copy", e.text);
    wait_called();
    last.process = p;
    if (rounds.status != 0) die("pre-copy", rounds.error.text);
    printf("rounds: %u in %.1f ms:", rounds.rounds, (double)rounds.elapsed_us / 1000);
    for (unsigned i = 0; i < rounds.rounds; i++) printf(" %.1f MiB", (double)rounds.bytes[i] / 1048576);
    printf(rounds.futile ? " none is kept, as they do not pay\n" : "\n");
    tell("the last round:", ask(SIGUSR2).gap_us);
    wait_success("a checkpoint", runc_checkpoint(runc, id, at("dump"), *rounds.parent != '\0' ? rounds.parent : NULL, true, on_result, NULL, &e), &e);
    last.process = p;
    struct status s = ask(SIGUSR2);
    tell("the checkpoint after:", s.gap_us);
    return s.writes;
}

static void restore(int number)
{
    struct error e;
    wait_success("delete", runc_delete(runc, id, on_result, NULL, &e), &e);
    unlink(at("bundle/rootfs/status"));
    wait_success("restore", runc_restore(runc, id, at("bundle"), at("back"), on_result, NULL, &e), &e);
    struct status s = ask(SIGUSR1);
    printf("restored (%d):          in %.1f ms; %" PRIu64 " writes; pages that are not as they were left: %" PRIu64 "\n", number, (double)last.elapsed_us / 1000, s.writes, s.wrong);
    if (s.wrong != 0) die("restore", "the memory is not as it was");
}

static bool works(const char *criu)
{
    char command[PATH_MAX + 64];
    snprintf(command, sizeof command, "runc --version >/dev/null 2>&1 && '%s' check >/dev/null 2>&1", criu != NULL ? criu : "criu");
    return geteuid() == 0 && system(command) == 0;
}

int main(int argc, char **argv)
{
    struct error e = {0};
    if (argc < 4 || argv[2][0] != '/' || strlen(argv[2]) + sizeof id >= sizeof base) {
        fprintf(stderr, "usage: inside WRITER DIR MEBIBYTES [CRIU] [ROUNDS] [huge]   (DIR is absolute)\n");
        return 2;
    }
    unsigned long mebibytes = strtoul(argv[3], NULL, 10);
    unsigned most = argc > 5 ? (unsigned)strtoul(argv[5], NULL, 10) : PRECOPY_ROUNDS;
    snprintf(id, sizeof id, "crsc-inside-%d", (int)getpid());
    snprintf(base, sizeof base, "%s/%s", argv[2], id);
    const char *criu = argc > 4 && access(argv[4], X_OK) == 0 ? argv[4] : NULL;
    if (!works(criu)) return 77;
    uv_loop_init(&loop);
    make_bundle(argv[1], mebibytes, argc > 6 && strcmp(argv[6], "huge") == 0);
    struct runc_options options = {.criu = criu, .root = at("runc"), .work = at("work"), .timeout_ms = TIMEOUT_MS, .precopy = true};
    if (runc_new(&loop, &options, &runc, &e) != 0) die("runc", e.text);
    printf("CRIU can%s track here which pages are written\n", runc_tracks(runc) ? "" : "not");
    wait_success("run", runc_run(runc, id, at("bundle"), on_result, NULL, &e), &e);
    ask(0);
    take_plain();
    uint64_t writes = take_with_rounds(most);
    if (!runc_tracks(runc) != (rounds.rounds == 0) && !rounds.futile && most > 0) die("pre-copy", "rounds where there cannot be any, or none where there can");
    struct status s = ask(SIGUSR1);
    printf("the app goes on:        %" PRIu64 " writes; pages that are not as they were left: %" PRIu64 "\n", s.writes, s.wrong);
    if (s.wrong != 0) die("the app", "its memory is not as it was");
    struct oci_image image, back;
    struct oci_image_labels labels = {.container = "writer", .stream = "test/inside", .offset = writes};
    if (oci_image_pack(at("dump"), at("image"), &labels, &image, &e) != 0) die("pack", e.text);
    if (tree_remove(at("dump"), &e) != 0 || oci_image_unpack(at("image"), image.digest, at("back"), UINT64_MAX, &back, &e) != 0) die("unpack", e.text);
    printf("image:                  %.1f MiB\n", (double)image.size / 1048576);
    for (int i = 1; i <= RESTORES; i++) restore(i);
    return clean_up(0);
}
