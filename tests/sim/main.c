/* crsc-sim: runs the cluster in simulated worlds, one per seed; docs/TESTING.md tells how to use it. */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/mutant.h"
#include "tests/sim/cluster.h"
#include "tests/sim/run.h"

enum { CALM_MS = 60000, EARLY_CALM_MS = 12000, MUTANT_SEEDS = 300, ENOUGH_SEEDS = 20 /* everything that is watched happens in so many */ };

struct options {
    uint64_t seed, seeds, skip;
    unsigned calm_ms;
    bool one, traces, verbose, twice, mutants, minimise, founding;
    const char *mutant;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t running; /* the seed, for on_crash() */

/* In a process of its own, which may crash. */
static struct run_result *shared;

static bool run_apart(const struct run_options *o)
{
    running = o->seed;
    *shared = (struct run_result){.failed = true};
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        run(o, shared);
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CLUSTER_SPOILED) {
        shared->spoiled = true;
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) { /* what it noted by then says nothing */
        shared->failed = true;
        if (WIFSIGNALED(status)) snprintf(shared->failure, sizeof shared->failure, "it crashed with signal %d", WTERMSIG(status));
        else snprintf(shared->failure, sizeof shared->failure, "it ended with status %d", WEXITSTATUS(status));
    }
    return shared->failed;
}

/* Leaves out one fault after the other as long as it fails all the same. */
static void minimise(struct run_options o)
{
    o.verbose = false;
    unsigned planned = shared->planned == 0 ? RUN_SKIPS : shared->planned;
    for (unsigned size = planned / 2; size > 0; size /= 2) {
        for (unsigned at = 0; at < planned; at += size) {
            struct run_options less = o;
            for (unsigned i = at; i < at + size && i < planned; i++) less.skip |= UINT64_C(1) << i;
            if (less.skip != o.skip && run_apart(&less)) o = less;
        }
    }
    run_apart(&o);
    printf("with as few faults as it takes: %s\n", shared->failure);
    run_print_plan(&o);
    printf("to see it: crsc-sim --seed %" PRIu64 "%s --calm-ms %u --skip %#" PRIx64 " --verbose\n", o.seed, o.founding ? " --founding" : "", o.calm_ms, o.skip);
}

static int report(const struct run_options *o, const char *failure, bool smaller)
{
    printf("seed %" PRIu64 " FAILED: %s\n", o->seed, failure);
    run_print_plan(o);
    if (smaller) minimise(*o);
    return 1;
}

/* Who makes those processes while many seeds run: forked before the first one, so that it has next to no memory of which each would make a copy, and neither
 * would this process of every page that it writes to afterwards. */
static struct { int ask, answer; } helper;

static void help(int asked, int answer)
{
    struct run_options o;
    char done = 0;
    while (read(asked, &o, sizeof o) == (ssize_t)sizeof o) {
        run_apart(&o);
        if (write(answer, &done, 1) != 1) break;
    }
    fflush(stdout);
    _exit(0);
}

static void helper_begin(void)
{
    int there[2], back[2];
    fflush(stdout);
    pid_t pid = pipe2(there, O_CLOEXEC) != 0 || pipe2(back, O_CLOEXEC) != 0 ? -1 : fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        close(there[1]);
        close(back[0]);
        help(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    helper.ask = there[1];
    helper.answer = back[0];
}

static void run_seed(const struct run_options *o, struct run_result *ret)
{
    char done;
    if (!run_damages_index(o)) {
        run(o, ret);
        return;
    }
    if (write(helper.ask, o, sizeof *o) != (ssize_t)sizeof *o || read(helper.answer, &done, 1) != 1) {
        fprintf(stderr, "crsc-sim: the process that makes the others has ended\n");
        exit(2);
    }
    *ret = *shared;
}

static int run_many(const struct options *o)
{
    double begun = now(), hours = 0;
    uint64_t damaged = 0, spoiled = 0, events = 0, acknowledged = 0, seen = 0, operations = 0, done = 0;
    static struct run_result r;
    helper_begin();
    for (uint64_t seed = o->seed; seed < o->seed + o->seeds; seed++) {
        struct run_options run_options = {.seed = seed, .skip = o->skip, .calm_ms = o->calm_ms, .verbose = o->verbose, .founding = o->founding};
        if (isatty(STDOUT_FILENO)) printf("seed %" PRIu64 " runs\r", seed);
        running = seed;
        fflush(stdout);
        run_seed(&run_options, &r);
        shared->planned = r.planned;
        damaged += r.index_rots + r.spoiled;
        spoiled += r.spoiled;
        if (r.failed) return report(&run_options, r.failure, o->minimise);
        done++;
        hours += (double)r.simulated_ns / 3.6e12;
        events += r.events;
        acknowledged += r.acknowledged;
        seen += r.seen;
        operations += r.operations;
        if (o->twice) {
            uint64_t hash = r.hash;
            run_seed(&run_options, &r);
            if (r.hash != hash) {
                printf("seed %" PRIu64 " FAILED: two runs of it differ: %016" PRIx64 " and %016" PRIx64 "\n", seed, hash, r.hash);
                return 1;
            }
        }
        if (o->one || o->traces) printf("seed %" PRIu64 ": trace %016" PRIx64 "\n", seed, r.hash);
    }
    double took = now() - begun;
    printf("%" PRIu64 " seeds from %" PRIu64 " in %.1f s: %.1f seeds/s of %.0f simulated seconds (%.1f hours in all), %.0f events each\n", done, o->seed, took,
           (double)done / took, hours * 3600 / (double)done, hours, (double)events / (double)done);
    printf("checked: %" PRIu64 " appends acknowledged, %" PRIu64 " times an event was given to somebody, %" PRIu64 " operations linearized\n", acknowledged, seen,
           operations);
    run_print_counts();
    printf("indexes damaged: %" PRIu64 " (in processes of their own, whose faults are not counted above), of which %" PRIu64 " runs crashed\n", damaged, spoiled);
    if (done >= ENOUGH_SEEDS && cluster_unwatched() != NULL) {
        printf("FAILED: this build leads no call of %s() through the simulator\n", cluster_unwatched());
        return 1;
    }
    return 0;
}

#ifdef CRSC_MUTANTS
static bool is_listed(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = list; (at = strstr(at, name)) != NULL; at += len)
        if ((at == list || at[-1] == ',') && (at[len] == '\0' || at[len] == ',')) return true;
    return false;
}

/* Of how a cluster is founded: tried in worlds in which that is disturbed, and little follows; four of those take the time of one. */
static bool is_early(int mutant)
{
    return mutant >= MUTANT_found_by_majority && mutant <= MUTANT_unused_segment;
}

static int run_mutants(const struct options *o)
{
    unsigned missed = 0, tried = 0;
    printf("| mutant | what is wrong | seeds needed | first finding |\n|---|---|---|---|\n");
    for (int m = 1; m < MUTANTS; m++) {
        if (o->mutant != NULL && !is_listed(o->mutant, mutants[m].name)) continue;
        mutant_active = (enum mutant)m;
        tried++;
        bool found = false;
        uint64_t needed = 0, most = o->seeds > 1 ? o->seeds : is_early(m) ? 4 * MUTANT_SEEDS : MUTANT_SEEDS;
        while (!found && needed < most) {
            struct run_options r = {.seed = o->seed + needed++, .calm_ms = is_early(m) ? EARLY_CALM_MS : o->calm_ms, .founding = o->founding || is_early(m), .verbose = o->verbose};
            found = run_apart(&r);
        }
        if (found) printf("| %s | %s | %" PRIu64 " | %.100s |\n", mutants[m].name, mutants[m].what, needed, shared->failure);
        else printf("| %s | %s | **not found in %" PRIu64 "** | |\n", mutants[m].name, mutants[m].what, needed), missed++;
        fflush(stdout);
    }
    mutant_active = MUTANT_none;
    printf("%u mutants, %u not found\n", tried, missed);
    return missed > 0 || tried == 0;
}
#else
static int run_mutants(const struct options *o)
{
    (void)o;
    fprintf(stderr, "crsc-sim: this build has no mutants: meson setup -Dmutants=true\n");
    return 2;
}
#endif

static void on_crash(int number)
{
    char text[120];
    cluster_crashed();
    int n = snprintf(text, sizeof text, "\nseed %" PRIu64 " FAILED: crsc-sim crashed with signal %d\n", running, number);
    signal(number, SIG_DFL);
    if (write(STDERR_FILENO, text, (size_t)n) < 0) number = SIGKILL;
    kill(getpid(), number);
}

static void usage(void)
{
    puts("Usage: crsc-sim [--seed N] [--seeds N] [--skip MASK] [--calm-ms N] [--verbose] [--twice] [--traces] [--founding] [--mutants] [--mutant NAME] [--no-minimise]\n"
         "Runs logd's servers and libcrsc's clients in a simulated world per seed, and checks what the log promises.\n"
         "  --seed N      the first seed, or the one to run again (then --seeds is 1)\n"
         "  --seeds N     how many\n"
         "  --skip MASK   faults of the plan that do not happen, one bit each\n"
         "  --calm-ms N   when the faults end, in simulated milliseconds\n"
         "  --verbose     print the trace\n"
         "  --twice       run each seed twice and compare the traces\n"
         "  --traces      print each seed's trace as a number: a change that means to change nothing leaves it\n"
         "  --founding    each world's founding is disturbed (else: of a quarter of the seeds)\n"
         "  --mutants     how many seeds it takes to find each seeded fault of logd (a build with -Dmutants=true); --seeds bounds it\n"
         "  --mutant LIST only these: \"skip_sync,leak\"\n"
         "  --no-minimise say which seed failed, and no more");
}

int main(int argc, char **argv)
{
    static char buffer[1 << 16];
    static const struct option table[] = {
        {"seed", required_argument, NULL, 's'}, {"seeds", required_argument, NULL, 'n'},  {"skip", required_argument, NULL, 'k'},
        {"calm-ms", required_argument, NULL, 'c'}, {"verbose", no_argument, NULL, 'v'}, {"twice", no_argument, NULL, 't'},
        {"founding", no_argument, NULL, 'f'}, {"traces", no_argument, NULL, 'T'},
        {"mutants", no_argument, NULL, 'm'},    {"mutant", required_argument, NULL, 'M'}, {"no-minimise", no_argument, NULL, 'x'},
        {"help", no_argument, NULL, 'h'},       {NULL, 0, NULL, 0}};
    struct options o = {.seed = 1, .seeds = 0, .calm_ms = CALM_MS, .minimise = true};
    bool given = false;
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer); /* not from the heap of whatever process prints first */
    for (int c; (c = getopt_long(argc, argv, "h", table, NULL)) != -1;) {
        switch (c) {
        case 's': o.seed = strtoull(optarg, NULL, 0), given = true; break;
        case 'n': o.seeds = strtoull(optarg, NULL, 0); break;
        case 'k': o.skip = strtoull(optarg, NULL, 0); break;
        case 'c': o.calm_ms = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'v': o.verbose = true; break;
        case 't': o.twice = true; break;
        case 'f': o.founding = true; break;
        case 'T': o.traces = true; break;
        case 'm': o.mutants = true; break;
        case 'M': o.mutants = true, o.mutant = optarg; break;
        case 'x': o.minimise = false; break;
        case 'h': usage(); return 0;
        default: usage(); return 2;
        }
    }
    if (optind < argc || o.calm_ms < 5000) {
        usage();
        return 2;
    }
    o.one = given && o.seeds == 0;
    if (o.seeds == 0) o.seeds = given || o.mutants ? 1 : 100;
    mallopt(M_TRIM_THRESHOLD, INT_MAX); /* what one seed has used the next one uses: the kernel need not have it in between */
    mallopt(M_MMAP_MAX, 0);
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_Digest("", 0, digest, NULL, EVP_sha256(), NULL); /* what libcrypto keeps for ever must not lie in a simulated process' heap */
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    const struct sigaction crash = {.sa_handler = on_crash, .sa_flags = SA_NODEFER}; /* cluster_crashed() leaves it for good */
    sigaction(SIGSEGV, &crash, NULL);
    sigaction(SIGBUS, &crash, NULL);
    sigaction(SIGFPE, &crash, NULL);
    if (o.mutants) return run_mutants(&o);
    return run_many(&o);
}
