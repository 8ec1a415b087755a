/* Settings from defaults, file and flags; each kind of mistake gets a text that names it; log lines cannot be forged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/config.h"
#include "common/log.h"

struct values {
    char *name;
    uint64_t count, limit, every;
    bool on;
};

static const struct config_setting settings[] = {
    {"name", CONFIG_STRING, offsetof(struct values, name), NULL, 0, 0, "A name."},
    {"count", CONFIG_UINT, offsetof(struct values, count), "3", 1, 10, "A number."},
    {"limit", CONFIG_SIZE, offsetof(struct values, limit), "1MiB", 0, 0, "A size."},
    {"every", CONFIG_DURATION, offsetof(struct values, every), "5s", 0, 0, "A duration."},
    {"on", CONFIG_BOOL, offsetof(struct values, on), "false", 0, 0, "A switch."},
};
static const struct config_program program = {"prog", "Does things.", NULL, settings, 5};

static char path[64];

static void write_file(const char *text)
{
    snprintf(path, sizeof path, "/tmp/crsc-test-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static int load(struct values *v, struct error *e, char *a, char *b, char *c, char *d)
{
    char *argv[] = {"prog", a, b, c, d, NULL};
    int argc = 1;
    enum config_action action;
    while (argc < 5 && argv[argc] != NULL) argc++;
    memset(v, 0, sizeof *v);
    return config_load(&program, argc, argv, v, &action, e);
}

static void flags_win_over_file_over_defaults(void **state)
{
    (void)state;
    struct values v;
    struct error e;
    write_file("name: from-file\nlimit: 64KiB # comment\non: true\n");
    assert_int_equal(load(&v, &e, "--limit=2MiB", "--config", path, NULL), 0);
    unlink(path);
    assert_string_equal(v.name, "from-file");
    assert_int_equal(v.count, 3);
    assert_int_equal(v.limit, 2 << 20);
    assert_int_equal(v.every, 5000);
    assert_true(v.on);
    config_free(&program, &v);
    assert_int_equal(load(&v, &e, "--on", "--name", "x", NULL), 0); /* a switch needs no value */
    assert_true(v.on);
    config_free(&program, &v);
    assert_int_equal(load(&v, &e, "--name", "x", "--on", NULL), 0);
    assert_true(v.on);
    config_free(&program, &v);
}

static void refused(const char *file, char *a, char *b, const char *words)
{
    struct values v;
    struct error e = {0};
    if (file != NULL) {
        write_file(file);
        assert_int_equal(load(&v, &e, "--config", path, a, b), -ERROR_INVALID);
        unlink(path);
    } else {
        assert_int_equal(load(&v, &e, a, b, NULL, NULL), -ERROR_INVALID);
    }
    if (strstr(e.text, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", e.text, words);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    refused("name: x\nnmae: y\n", NULL, NULL, ":2: unknown setting \"nmae\"");
    refused("name: x\ncount: many\n", NULL, NULL, ":2: count must be a whole number");
    refused("name: x\ncount: 11\n", NULL, NULL, "count must be from 1 to 10");
    refused("name: x\nname: y\n", NULL, NULL, "duplicate key");
    refused("name: [1, 2]\n", NULL, NULL, "name must be a single value");
    refused("- a\n- b\n", NULL, NULL, "must be lines of");
    refused("name: \"unterminated\n", NULL, NULL, "not valid YAML");
    refused("\xbc\xd3 name: x\n", NULL, NULL, "not valid YAML");
    refused("count: 3\n", NULL, NULL, "name is required");
    refused("", NULL, NULL, "name is required");
    refused("# nothing\n\n  \n", NULL, NULL, "name is required");
    refused(NULL, "--every", "5", "every must be a duration");
    refused(NULL, "--every", NULL, "needs a value");
    refused(NULL, "--nope", "1", "unknown flag \"--nope\"");
    refused(NULL, "stray", NULL, "unexpected argument \"stray\"");
    refused(NULL, "--config", "/does/not/exist", "cannot read /does/not/exist");
    refused(NULL, "--on", "yes", "on must be true or false");
}

/* Reads what one log_write() put on stderr. */
static void logged(char *text, size_t size, const char *value, int number)
{
    int ends[2], saved = dup(2);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], 2);
    log_write(LOG_WARN, "hello", "number=%d value=%s hex=%x", number, value, 255);
    dup2(saved, 2);
    close(saved);
    close(ends[1]);
    ssize_t n = read(ends[0], text, size - 1);
    close(ends[0]);
    assert_true(n > 0);
    text[n] = '\0';
}

static void log_lines_are_whole(void **state)
{
    (void)state;
    char text[2 * LOG_LINE_MAX], longer[4000];
    logged(text, sizeof text, "a \"quoted\"\nname=1", -7);
    assert_non_null(strstr(text, "\"number\":-7,\"value\":\"a \\\"quoted\\\"\\u000aname=1\",\"hex\":\"ff\"}\n"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    memset(longer, '"', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    logged(text, sizeof text, longer, 1);
    assert_true(strlen(text) <= LOG_LINE_MAX);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_int_equal(text[strlen(text) - 2], '}');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_win_over_file_over_defaults),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(log_lines_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
