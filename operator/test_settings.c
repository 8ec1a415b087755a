/* Workload files: what is taken, what is refused and with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "operator/settings.h"

#define REST "bundle: /srv/b\nupstream: 127.0.0.1:1\ninterceptor: 127.0.0.1:2\n"
#define WHOLE "name: web\nstream: a/b/c/web\n" REST

static char directory[64], path[128];

static void write_file(const char *name, const char *text)
{
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/crsc-test-settings-XXXXXX");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"w.yaml", "a.yaml", "b.yml", "readme.txt"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    return rmdir(directory);
}

static void refused(const char *text, const char *words)
{
    struct workload_settings *all = NULL;
    struct error e = {0};
    size_t n = 0;
    write_file("w.yaml", text);
    assert_int_equal(workload_settings_load(path, &all, &n, &e), -ERROR_INVALID);
    assert_null(all);
    if (strstr(e.text, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", e.text, words);
    if (strstr(e.text, "w.yaml") == NULL) fail_msg("\"%s\" does not name the file", e.text);
}

static void test_whole(void **state)
{
    struct workload_settings *all;
    struct error e = {0};
    size_t n;
    (void)state;
    write_file("w.yaml", WHOLE "checkpoint-interval: 2m\nretain: 7\nmode: replay\n");
    assert_int_equal(workload_settings_load(path, &all, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_string_equal(all[0].name, "web");
    assert_int_equal(all[0].checkpoint_interval, 120000);
    assert_int_equal(all[0].retain, 7);
    assert_int_equal(all[0].mode, WORKLOAD_REPLAY);
    assert_true(all[0].checkpoint_restore);
    workload_settings_free(all, n);
}

static void test_refused(void **state)
{
    (void)state;
    refused("name: web\n", "required");
    refused("name: ../../x\nstream: s\n" REST, "name: 1 to 63");
    refused("name: -x\nstream: s\n" REST, "name: 1 to 63");
    refused(WHOLE "ordering: keyed:x\n", "ordering: only \"serial\"");
    refused(WHOLE "logging: optimistic\n", "logging: only \"pessimistic\"");
    refused(WHOLE "mode: best\n", "mode: criu, replay or auto");
    refused(WHOLE "checkpoint-interval: often\n", "checkpoint-interval");
    refused(WHOLE "retain: 0\n", "retain");
    refused(WHOLE "drain-timeout: 1m\n", "drain-timeout");
    refused(WHOLE "frobnicate: 1\n", "frobnicate");
    refused(WHOLE "standby: true\nspare: true\n", "spare: what runs nowhere");
    refused("name: web\nstream: s\nbundle: /b\nupstream: localhost\ninterceptor: 127.0.0.1:2\n", "upstream");
}

static void test_directory(void **state)
{
    struct workload_settings *all;
    struct error e = {0};
    size_t n;
    (void)state;
    unlink(path);
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "no *.yaml"));
    write_file("b.yml", "name: b\nstream: s/b\n" REST);
    write_file("a.yaml", "name: a\nstream: s/a\n" REST);
    write_file("readme.txt", "not one of them");
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_string_equal(all[0].name, "a");
    assert_string_equal(all[1].name, "b");
    workload_settings_free(all, n);
    write_file("b.yml", "name: a\nstream: s/b\n" REST);
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "already"));
}

static void write_replica(const char *file, const char *name, const char *port, const char *more)
{
    char text[300];
    snprintf(text, sizeof text, "name: %s\nstream: s\nbundle: /b/%s\nupstream: 127.0.0.1:1\ninterceptor: 127.0.0.1:%s\n%s", name, name, port, more);
    write_file(file, text);
}

static void refused_together(const char *words)
{
    struct workload_settings *all = NULL;
    struct error e = {0};
    size_t n = 0;
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), -ERROR_INVALID);
    assert_null(all);
    if (strstr(e.text, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", e.text, words);
}

static void test_replicas(void **state)
{
    struct workload_settings *all;
    struct error e = {0};
    size_t n;
    (void)state;
    unlink(path);
    write_replica("a.yaml", "a", "2", "");
    write_replica("b.yml", "b", "3", "standby: true\n");
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_true(!all[0].standby && all[1].standby);
    workload_settings_free(all, n);
    write_replica("b.yml", "b", "2", "");
    refused_together("its own interceptor");
    write_replica("b.yml", "b", "3", "retain: 2\n");
    refused_together("differ in retain");
    write_replica("b.yml", "b", "3", "mode: replay\n");
    refused_together("differ in mode");
    write_replica("b.yml", "b", "3", "standby: true\n");
    write_replica("a.yaml", "a", "2", "standby: true\n");
    refused_together("no other file of its stream serves");
    write_replica("a.yaml", "a", "2", "spare: true\n");
    refused_together("no other file of its stream serves");
    write_replica("a.yaml", "a", "2", "checkpoint-restore: false\n");
    refused_together("no other file of its stream serves");
    write_replica("b.yml", "b", "2", "retain: 2\n"); /* the other one is passed over */
    assert_int_equal(workload_settings_load(directory, &all, &n, &e), 0);
    workload_settings_free(all, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_refused), cmocka_unit_test(test_directory),
                                       cmocka_unit_test(test_replicas)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
