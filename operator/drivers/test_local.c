/* The local driver against a script that plays runc: its containers are real processes, its dumps are files. What is promised in
 * driver.h, also across the driver's own end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/precopy.h"
#include "checkpoint/process.h"
#include "checkpoint/tree.h"
#include "operator/drivers/containers.h"
#include "operator/drivers/local.h"

/* Its global options are: --root R --log L --log-format json VERB ... */
static const char script[] =
    "#!/bin/sh\n"
    "here=$(dirname \"$0\")\n"
    "[ \"$1\" = restore ] && { echo \"cgroups mode: 'soft', 'full', 'strict', 'ignore'\"; exit 0; }\n"
    "root=$2; log=$4; verb=$7; shift 7\n"
    "say() { echo \"{\\\"level\\\":\\\"error\\\",\\\"msg\\\":\\\"$1\\\"}\" >>$log; exit 1; }\n"
    "previous=; image=; parent=; for id in \"$@\"; do\n"
    "  [ \"$previous\" = --pid-file ] && pid_file=$id; [ \"$previous\" = --image-path ] && image=$id\n"
    "  [ \"$previous\" = --work-path ] && work=$id; [ \"$previous\" = --parent-path ] && parent=$id; previous=$id; done\n"
    "echo \"$verb $id\" >>$here/calls\n"
    "[ -e $here/$verb-fails ] && { rm $here/$verb-fails; say 'told to fail'; }\n"
    "[ -e $here/criu-fails-$verb ] && { rm $here/criu-fails-$verb; echo '(0.1) Error (x.c:1): Restoring FAILED.' >$work/$verb.log; say 'criu failed'; }\n"
    "[ -e $here/criu-killed ] && [ $verb = checkpoint ] && { rm $here/criu-killed; echo '(0.1) Seized' >$work/dump.log; say 'criu: signal: killed'; }\n"
    "pid=$(cat $root/$id/pid 2>/dev/null)\n"
    "case $verb in\n"
    "  run|restore) [ -e $root/$id ] && say 'container with id already exists'; mkdir -p $root/$id\n"
    "    [ $verb = run ] || cp $image/memory $here/restored || say 'no image'\n"
    "    if [ -e $here/big ]; then setsid $here/hog --hog $here/full; else setsid sleep 600; fi </dev/null >/dev/null 2>&1 & echo $! >$root/$id/pid; echo $! >$pid_file;;\n"
    "  state) [ -n \"$pid\" ] || say 'container does not exist'\n"
    "    case $(cut -d' ' -f3 /proc/$pid/stat 2>/dev/null) in ''|Z) s=stopped; pid=0;; *) s=running;; esac\n"
    "    echo \"{\\\"id\\\":\\\"$id\\\",\\\"pid\\\":$pid,\\\"status\\\":\\\"$s\\\"}\";;\n"
    "  checkpoint) [ -e $here/checkpoint-hangs ] && sleep 60; echo \"memory of $id\" >$image/memory; [ -z \"$parent\" ] || ln -s $parent $image/parent; : >$image/inventory.img;;\n"
    "  delete) [ -n \"$pid\" ] || say 'container does not exist'; kill -9 $pid 2>/dev/null; rm -rf $root/$id;;\n"
    "esac\n";

/* CRIU: check --feature mem_dirty_track, and pre-dump --tree PID --images-dir DIR --work-dir WORK --log-file LOG -v4 --prev-images-dir PARENT. Each round takes
 * the next line of `sizes`. */
static const char criu_script[] =
    "#!/bin/sh\n"
    "here=$(dirname \"$(readlink -f \"$0\")\")\n"
    "[ \"$1 $2\" = \"check --feature\" ] && { [ -e $here/tracks ]; exit; }\n"
    "[ \"$1\" = pre-dump ] || exit 0\n"
    "echo \"pre-dump ${12:-first}\" >>$here/calls\n"
    "echo '(0.1) Pre-dumping' >$7/dump.log\n"
    "[ -e $here/round-cut ] && { rm $here/round-cut; kill -9 $$; }\n"
    "[ -e $here/round-hangs ] && { : >$here/round-hung; sleep 600; }\n"
    "bytes=$(head -1 $here/sizes); sed -i 1d $here/sizes\n"
    "[ \"$bytes\" = fails ] && { echo '(0.2) Error (x.c:1): Pre-dumping FAILED.' >>$7/dump.log; exit 1; }\n"
    "truncate -s $bytes $5/pages-1.img; : >$5/inventory.img\n"
    "[ -z \"${12}\" ] || ln -s ${12} $5/parent\n"
    "echo '(0.3) Pre-dumping finished successfully' >>$7/dump.log\n";

static char base[64];
static uv_loop_t loop;
static struct driver *driver;
static struct driver_outcome last;
static char image[PATH_MAX];
static unsigned called, changes, closed;

static char *at(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", base, name);
    return path;
}

static void write_text(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static bool there(const char *name)
{
    return access(at(name), F_OK) == 0;
}

static void on_change(void *user)
{
    (void)user;
    changes++;
}

static void on_outcome(void *user, const struct driver_outcome *outcome)
{
    (void)user;
    last = *outcome;
    snprintf(image, sizeof image, "%s", outcome->image != NULL ? outcome->image : "");
    called++;
}

static void on_closed(void *user)
{
    (void)user;
    closed++;
}

static int make_named(const char *name, const char *bundle, struct driver **ret_driver, uint32_t timeout_ms, struct error *e)
{
    const struct local_options options = {.name = name,
                                          .stream = "a/b/c/app",
                                          .bundle = at(bundle),
                                          .state_dir = at("state"),
                                          .runc_root = at("root"),
                                          .runc = at("runc"),
                                          .criu = at("criu"),
                                          .timeout_ms = timeout_ms,
                                          .precopy_rounds = 3};
    return local_new(&loop, &options, on_change, NULL, ret_driver, e);
}

static int make(struct driver **ret_driver, uint32_t timeout_ms, struct error *e)
{
    return make_named("app", "bundle", ret_driver, timeout_ms, e);
}

/* What is wanted of a call that was begun. */
static void done(int rc, int status)
{
    unsigned before = called;
    assert_int_equal(rc, 0);
    assert_int_equal(called, before); /* never from inside */
    while (called == before) uv_run(&loop, UV_RUN_ONCE);
    if (last.status != status) fail_msg("status %d instead of %d: %s", last.status, status, last.error.text);
}

static const struct world_instance *instance(void)
{
    return driver->ops->instance(driver);
}

static void look(void)
{
    done(driver->ops->look(driver, on_outcome, NULL, NULL), 0);
}

static void start(void)
{
    done(driver->ops->start(driver, on_outcome, NULL, NULL), 0);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
}

static void open_driver(uint32_t timeout_ms)
{
    struct error e = {0};
    if (make(&driver, timeout_ms, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(instance()->state, WORLD_APP_UNKNOWN);
    look();
}

static void close_driver(bool stop)
{
    unsigned before = closed;
    driver->ops->close(driver, stop, on_closed, NULL);
    while (closed == before) uv_run(&loop, UV_RUN_ONCE);
    driver = NULL;
}

static pid_t pid_of_instance(void)
{
    struct process p;
    assert_int_equal(process_parse(instance()->identity, &p), 0);
    return p.pid;
}

/* A snapshot `id` of the running instance, packed with `offset`; its digest is last.digest. */
static void snapshot(const char *id, uint64_t offset)
{
    done(driver->ops->dump(driver, instance()->generation, id, on_outcome, NULL, NULL), 0);
    assert_true(driver->ops->has(driver, id));
    done(driver->ops->pack(driver, id, offset, on_outcome, NULL, NULL), 0);
    assert_true(last.size > 0);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(base, sizeof base, "/tmp/crsc-test-local-XXXXXX");
    if (mkdtemp(base) == NULL || uv_loop_init(&loop) != 0) return 1;
    write_text(at("runc"), script, 0755);
    write_text(at("criu"), criu_script, 0755);
    mkdir(at("bundle"), 0755);
    write_text(at("bundle/config.json"), "{\"the\":\"first\"}", 0644);
    called = changes = 0;
    open_driver(60000);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (driver != NULL) close_driver(true);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) != 0 || tree_remove(base, NULL) != 0;
}

static void a_start_is_recorded_and_its_end_noticed(void **state)
{
    (void)state;
    assert_int_equal(instance()->state, WORLD_APP_NONE);
    start();
    assert_int_equal(instance()->generation, 1);
    assert_true(instance()->origin_known && instance()->fits && !instance()->attached);
    assert_int_equal(instance()->offset, 0);
    assert_true(there("state/app/instances/1.json"));
    assert_true(there("root/app-1"));
    assert_int_equal(changes, 0);
    kill(pid_of_instance(), SIGKILL);
    while (changes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(instance()->state, WORLD_APP_EXITED);
    assert_string_equal(instance()->identity, "");
    start(); /* and what was before goes */
    assert_int_equal(instance()->generation, 2);
    assert_false(there("root/app-1"));
}

static void the_next_driver_finds_it(void **state)
{
    (void)state;
    char identity[WORLD_IDENTITY_MAX];
    start();
    memcpy(identity, instance()->identity, sizeof identity);
    done(driver->ops->mark(driver, 1, true, on_outcome, NULL, NULL), 0);
    close_driver(false);
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    assert_string_equal(instance()->identity, identity);
    assert_true(instance()->attached && instance()->origin_known && instance()->fits);
    close_driver(false);
    write_text(at("state/app/instances/1.json"), "{\"generation\":1,", 0600);
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    assert_false(instance()->origin_known);
    done(driver->ops->kill(driver, 1, on_outcome, NULL, NULL), 0);
    assert_int_equal(instance()->state, WORLD_APP_NONE);
    assert_false(there("root/app-1") || there("state/app/instances/1.json"));
    start();
    assert_int_equal(instance()->generation, 2); /* numbers are not used again */
}

static void calls_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    struct error e;
    struct driver *second;
    assert_int_equal(make(&second, 0, &e), -ERROR_BUSY);
    start();
    assert_int_equal(driver->ops->kill(driver, 7, on_outcome, NULL, &e), -ERROR_CONFLICT);
    assert_int_equal(driver->ops->dump(driver, 1, "../x", on_outcome, NULL, &e), -ERROR_INVALID);
    assert_int_equal(driver->ops->pack(driver, "unheard-of", 3, on_outcome, NULL, &e), -ERROR_NOT_FOUND);
    assert_int_equal(driver->ops->look(driver, on_outcome, NULL, &e), 0);
    assert_int_equal(driver->ops->start(driver, on_outcome, NULL, &e), -ERROR_BUSY);
    while (called < 3) uv_run(&loop, UV_RUN_ONCE);
    static const char *const names[] = {"", "runc", "app-12", "a/b", "-a", ".."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(containers_check_name(names[i], &e), -ERROR_INVALID);
    assert_int_equal(containers_check_name("app-v2", &e), 0);
}

static void a_restore_begins_where_the_dump_was(void **state)
{
    (void)state;
    char digest[DRIVER_DIGEST_MAX], text[64] = "";
    start();
    snapshot("c1", 120);
    memcpy(digest, last.digest, sizeof digest);
    assert_false(there("state/app/dumps/c1"));
    done(driver->ops->pack(driver, "c1", 120, on_outcome, NULL, NULL), 0); /* once more: the same */
    assert_string_equal(last.digest, digest);
    done(driver->ops->restore(driver, driver, "c1", digest, 121, on_outcome, NULL, NULL), -ERROR_CORRUPT);
    digest[20] = digest[20] == 'a' ? 'b' : 'a';
    done(driver->ops->restore(driver, driver, "c1", digest, 120, on_outcome, NULL, NULL), -ERROR_NOT_FOUND);
    assert_int_equal(instance()->state, WORLD_APP_EXITED);
    done(driver->ops->restore(driver, driver, "c2", digest, 120, on_outcome, NULL, NULL), -ERROR_NOT_FOUND);
    done(driver->ops->pack(driver, "c1", 120, on_outcome, NULL, NULL), 0);
    done(driver->ops->restore(driver, driver, "c1", last.digest, 120, on_outcome, NULL, NULL), 0);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    assert_int_equal(instance()->offset, 120);
    assert_string_equal(instance()->snapshot, "c1");
    FILE *f = fopen(at("restored"), "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    assert_string_equal(text, "memory of app-1\n");
    look(); /* what the record says is the same */
    assert_int_equal(instance()->offset, 120);
    done(driver->ops->discard(driver, "c1", on_outcome, NULL, NULL), 0);
    assert_false(driver->ops->has(driver, "c1") || there("state/app/images/c1"));
}

static void a_failed_restore_is_not_the_snapshots_fault(void **state)
{
    (void)state;
    start();
    snapshot("c1", 5);
    write_text(at("restore-fails"), "", 0644);
    char digest[DRIVER_DIGEST_MAX];
    memcpy(digest, last.digest, sizeof digest);
    done(driver->ops->restore(driver, driver, "c1", digest, 5, on_outcome, NULL, NULL), -ERROR_IO);
    assert_false(last.tried); /* runc failed before CRIU saw the image */
    write_text(at("criu-fails-restore"), "", 0644);
    done(driver->ops->restore(driver, driver, "c1", digest, 5, on_outcome, NULL, NULL), -ERROR_IO);
    assert_true(last.tried);
    look();
    assert_int_equal(instance()->state, WORLD_APP_EXITED);
    done(driver->ops->restore(driver, driver, "c1", digest, 5, on_outcome, NULL, NULL), 0);
}

static void a_changed_specification_fits_no_more(void **state)
{
    (void)state;
    char spec[DRIVER_DIGEST_MAX], digest[DRIVER_DIGEST_MAX];
    start();
    snapshot("c1", 9);
    snprintf(spec, sizeof spec, "%s", driver->spec);
    memcpy(digest, last.digest, sizeof digest);
    write_text(at("bundle/config.json"), "{\"the\":\"second\"}", 0644);
    done(driver->ops->restore(driver, driver, "c1", digest, 9, on_outcome, NULL, NULL), -ERROR_CONFLICT);
    assert_string_not_equal(driver->spec, spec);
    start();
    assert_true(instance()->fits);
}

/* Two bundles that differ in nothing but where they run have one specification. */
static void a_replica_is_restored_from_anothers_image(void **state)
{
    (void)state;
    static const char here[] = "{\"a\":1,\"linux\":{\"cgroupsPath\":\"/x\",\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"network\",\"path\":\"/n/x\"}]}}";
    static const char there_too[] = "{\"a\":1,\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"network\",\"path\":\"/n/y\"}]}}";
    static const char other[] = "{\"a\":2,\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"network\",\"path\":\"/n/y\"}]}}";
    struct driver *first, *second;
    struct error e = {0};
    char digest[DRIVER_DIGEST_MAX];
    write_text(at("bundle/config.json"), here, 0644);
    mkdir(at("bundle2"), 0755);
    write_text(at("bundle2/config.json"), there_too, 0644);
    start();
    snapshot("c1", 7);
    memcpy(digest, last.digest, sizeof digest);
    first = driver;
    assert_int_equal(make_named("app2", "bundle2", &second, 60000, &e), 0);
    driver = second;
    look();
    done(second->ops->restore(second, second, "c1", digest, 7, on_outcome, NULL, NULL), -ERROR_NOT_FOUND);
    assert_string_equal(first->spec, second->spec);
    done(second->ops->restore(second, first, "c1", digest, 7, on_outcome, NULL, NULL), 0);
    assert_int_equal(instance()->offset, 7);
    assert_true(instance()->fits && !second->ops->has(second, "c1") && first->ops->has(first, "c1"));
    assert_true(there("state/app/images/c1") && there("root/app2-2"));
    write_text(at("bundle2/config.json"), other, 0644);
    done(second->ops->restore(second, first, "c1", digest, 7, on_outcome, NULL, NULL), -ERROR_CONFLICT);
    close_driver(true);
    driver = first;
}

static void a_failed_dump_leaves_the_app(void **state)
{
    (void)state;
    start();
    write_text(at("checkpoint-fails"), "", 0644);
    done(driver->ops->dump(driver, 1, "c1", on_outcome, NULL, NULL), -ERROR_IO);
    assert_false(last.lost || driver->ops->has(driver, "c1") || there("state/app/dumps/c1"));
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    snapshot("c2", 1);
    close_driver(false);
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    assert_true(driver->ops->has(driver, "c2"));
}

static void a_dump_cut_short_condemns_the_app(void **state)
{
    (void)state;
    start();
    close_driver(false);
    open_driver(3000); /* in which a look has to be done all the same */
    write_text(at("checkpoint-hangs"), "", 0644);
    done(driver->ops->dump(driver, 1, "c1", on_outcome, NULL, NULL), -ERROR_TIMEOUT);
    assert_true(last.lost);
    assert_false(driver->ops->has(driver, "c1"));
    close_driver(false);
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_EXITED); /* the next driver knows, too */
    assert_true(there("root/app-1"));
    assert_int_equal(unlink(at("checkpoint-hangs")), 0);
    start();
    assert_false(there("root/app-1"));
    write_text(at("criu-killed"), "", 0644); /* out of memory, say: runc itself goes on and says that it failed */
    done(driver->ops->dump(driver, instance()->generation, "c2", on_outcome, NULL, NULL), -ERROR_IO);
    assert_true(last.lost);
}

/* A container with memory enough for pre-copy: this program. */
static int hog(const char *full)
{
    enum { BYTES = 48 << 20 };
    volatile char *memory = malloc(BYTES);
    for (size_t i = 0; memory != NULL && i < BYTES; i += 512) memory[i] = 1;
    FILE *f = fopen(full, "w");
    if (f == NULL || fclose(f) != 0 || memory == NULL) return 1;
    sleep(600);
    return memory[0];
}

/* `sizes`: of the rounds. The driver is told that the kernel tracks written pages, and the container has much memory. */
static void start_big(const char *sizes)
{
    close_driver(false);
    write_text(at("tracks"), "", 0644);
    write_text(at("big"), "", 0644);
    write_text(at("sizes"), sizes, 0644);
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = '\0';
    assert_int_equal(symlink(self, at("hog")), 0);
    open_driver(60000);
    assert_true(driver->precopies);
    start();
    for (int i = 0; i < 9000 && !there("full"); i++) usleep(10000);
    assert_true(there("full"));
}

static bool called_with(const char *line)
{
    char text[256];
    bool found = false;
    FILE *f = fopen(at("calls"), "r");
    while (f != NULL && fgets(text, sizeof text, f) != NULL) {
        text[strcspn(text, "\n")] = '\0';
        found = found || strcmp(text, line) == 0;
    }
    if (f != NULL) fclose(f);
    return found;
}

static void precopy(const char *id, int status)
{
    done(driver->ops->precopy(driver, instance()->generation, id, on_outcome, NULL, NULL), status);
}

static void no_rounds_where_the_kernel_does_not_track(void **state)
{
    (void)state;
    assert_false(driver->precopies);
    start();
    precopy("c1", 0); /* and should somebody ask all the same */
    assert_int_equal(last.rounds, 0);
    snapshot("c1", 1);
    assert_false(called_with("pre-dump first"));
}

static void a_dump_is_built_upon_rounds(void **state)
{
    (void)state;
    char digest[DRIVER_DIGEST_MAX];
    start_big("20000000\n9000000\n1000000\n");
    precopy("c1", 0);
    assert_int_equal(last.rounds, 3);
    assert_int_equal(last.round_bytes, 30000000);
    assert_true(driver->ops->has(driver, "c1") && there("state/app/dumps/c1/pre-3/parent/parent/pages-1.img"));
    assert_true(called_with("pre-dump first") && called_with("pre-dump ../pre-1") && called_with("pre-dump ../pre-2"));
    snapshot("c1", 120);
    assert_true(last.size > 30000000);
    memcpy(digest, last.digest, sizeof digest);
    assert_false(there("state/app/dumps/c1"));
    done(driver->ops->restore(driver, driver, "c1", digest, 120, on_outcome, NULL, NULL), 0);
    assert_int_equal(instance()->offset, 120);
    write_text(at("sizes"), "20000000\n9000000\n5000000\n1000000\n", 0644); /* the third is not much less */
    for (int i = 0; i < 9000 && precopy_resident(pid_of_instance()).own < PRECOPY_WORTH; i++) usleep(10000);
    precopy("c2", 0);
    assert_int_equal(last.rounds, 3);
    done(driver->ops->discard(driver, "c2", on_outcome, NULL, NULL), 0); /* the drain failed, say */
    assert_false(driver->ops->has(driver, "c2") || there("state/app/dumps/c2"));
}

/* The chain is broken then: nothing of it is used. */
static void a_round_that_fails_makes_the_dump_plain(void **state)
{
    (void)state;
    start_big("20000000\nfails\n");
    precopy("c1", -ERROR_IO);
    assert_false(last.lost || there("state/app/dumps/c1"));
    assert_int_equal(last.rounds, 0);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    look();
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    done(driver->ops->dump(driver, 1, "c1", on_outcome, NULL, NULL), 0);
    assert_true(there("state/app/dumps/c1/memory") && !there("state/app/dumps/c1/parent") && !there("state/app/dumps/c1/pre-1"));
    write_text(at("sizes"), "20000000\n1000000\n", 0644);
    precopy("c2", 0); /* what failed would mostly fail again: it is left for a while */
    assert_int_equal(last.rounds, 0);
}

static void after_a_dump_upon_rounds_that_failed_the_next_is_plain(void **state)
{
    (void)state;
    start_big("20000000\n1000000\n20000000\n1000000\n");
    precopy("c1", 0);
    write_text(at("checkpoint-fails"), "", 0644);
    done(driver->ops->dump(driver, 1, "c1", on_outcome, NULL, NULL), -ERROR_IO);
    assert_false(last.lost || driver->ops->has(driver, "c1") || there("state/app/dumps/c1"));
    precopy("c2", 0);
    assert_int_equal(last.rounds, 0);
    snapshot("c2", 1);
    precopy("c3", 0);
    assert_int_equal(last.rounds, 2);
}

/* An app that writes as much as is copied has plain dumps for a while. */
static void rounds_that_do_not_pay_are_not_kept(void **state)
{
    (void)state;
    char id[16];
    start_big("20000000\n11000000\n20000000\n1000000\n");
    precopy("c0", 0);
    assert_int_equal(last.rounds, 0);
    assert_false(there("state/app/dumps/c0"));
    snapshot("c0", 1);
    for (int i = 1; i <= PRECOPY_REST; i++) {
        snprintf(id, sizeof id, "c%d", i);
        precopy(id, 0);
        assert_int_equal(last.rounds, 0);
        done(driver->ops->discard(driver, id, on_outcome, NULL, NULL), 0);
    }
    precopy("d", 0);
    assert_int_equal(last.rounds, 2);
}

/* What was copied of one container is no part of another one's dump. */
static void rounds_of_another_container_are_dropped(void **state)
{
    (void)state;
    start_big("20000000\n1000000\n");
    precopy("c1", 0);
    assert_int_equal(last.rounds, 2);
    start();
    done(driver->ops->dump(driver, 2, "c1", on_outcome, NULL, NULL), 0);
    assert_true(there("state/app/dumps/c1/memory") && !there("state/app/dumps/c1/parent") && !there("state/app/dumps/c1/pre-1"));
}

static void a_round_cut_short_condemns_the_app(void **state)
{
    (void)state;
    start_big("20000000\n1000000\n");
    write_text(at("round-cut"), "", 0644);
    precopy("c1", -ERROR_IO);
    assert_true(last.lost);
    close_driver(false);
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_EXITED); /* the next driver knows, too */
    start();
    assert_false(there("root/app-1"));
}

static void a_round_ends_with_the_app(void **state)
{
    (void)state;
    start_big("20000000\n1000000\n");
    write_text(at("round-hangs"), "", 0644);
    unsigned before = called;
    assert_int_equal(driver->ops->precopy(driver, 1, "c1", on_outcome, NULL, NULL), 0);
    for (int i = 0; i < 9000 && !there("round-hung"); i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(10000);
    }
    kill(pid_of_instance(), SIGKILL);
    while (called == before || changes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(last.rounds, 0);
    assert_int_equal(instance()->state, WORLD_APP_EXITED);
    assert_true(driver->ops->has(driver, "c1"));
    done(driver->ops->discard(driver, "c1", on_outcome, NULL, NULL), 0);
    assert_false(driver->ops->has(driver, "c1") || there("state/app/dumps/c1"));
    assert_int_equal(unlink(at("round-hangs")) | unlink(at("full")), 0);
    start();
    for (int i = 0; i < 9000 && !there("full"); i++) usleep(10000);
    precopy("c2", 0); /* it was not the round's fault */
    assert_int_equal(last.rounds, 2);
}

static void a_container_of_somebody_elses_can_be_adopted(void **state)
{
    (void)state;
    start();
    close_driver(false);
    assert_int_equal(rename(at("root/app-1"), at("root/app")), 0);
    unlink(at("state/app/instances/1.json"));
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_RUNNING);
    assert_int_equal(instance()->generation, 0);
    assert_false(instance()->origin_known);
    done(driver->ops->adopt(driver, 0, on_outcome, NULL, NULL), 0);
    assert_true(instance()->origin_known && instance()->fits && instance()->offset == 0);
    look();
    assert_true(instance()->origin_known);
}

static void closing_stops_what_it_is_told_to(void **state)
{
    (void)state;
    start();
    assert_int_equal(driver->ops->mark(driver, 1, true, on_outcome, NULL, NULL), 0);
    close_driver(true); /* after the call under way */
    assert_int_equal(last.status, 0);
    assert_false(there("root/app-1") || there("state/app/instances/1.json"));
    open_driver(60000);
    assert_int_equal(instance()->state, WORLD_APP_NONE);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--hog") == 0) return hog(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_start_is_recorded_and_its_end_noticed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_next_driver_finds_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_that_do_not_fit_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_restore_begins_where_the_dump_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_restore_is_not_the_snapshots_fault, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_changed_specification_fits_no_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_replica_is_restored_from_anothers_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_dump_leaves_the_app, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_dump_cut_short_condemns_the_app, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_rounds_where_the_kernel_does_not_track, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_dump_is_built_upon_rounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_round_that_fails_makes_the_dump_plain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(after_a_dump_upon_rounds_that_failed_the_next_is_plain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rounds_that_do_not_pay_are_not_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rounds_of_another_container_are_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_round_cut_short_condemns_the_app, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_round_ends_with_the_app, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_container_of_somebody_elses_can_be_adopted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_stops_what_it_is_told_to, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("local", tests, NULL, NULL);
}
