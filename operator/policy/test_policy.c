/* Annotations: what is understood, what is refused, and that docs/ANNOTATIONS.md says the same. Argument: that file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/policy/policy.h"

static const char *doc_path;

static void test_defaults(void **state)
{
    const struct policy_annotation *t = policy_table();
    struct policy p;
    char text[POLICY_TEXT_MAX];
    (void)state;
    policy_defaults(&p);
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        policy_text(&p, &t[i], text, sizeof text);
        assert_string_equal(text, t[i].initial);
    }
    assert_int_equal(p.interval_ms, 30000);
    assert_int_equal(p.retain, 3);
}

static void test_values(void **state)
{
    static const struct {
        const char *key, *value;
        bool good;
    } cases[] = {
        {"checkpoint-restore", "true", true}, {"checkpoint-restore", "yes", false}, {"checkpoint-restore", "", false},
        {"checkpoint-interval", "1s", true}, {"checkpoint-interval", "999ms", false}, {"checkpoint-interval", "24h", true},
        {"checkpoint-interval", "25h", false}, {"checkpoint-interval", "30", false}, {"checkpoint-interval", "-1s", false},
        {"recovery-time-objective", "0s", true}, {"recovery-time-objective", "500ms", true}, {"recovery-time-objective", "2h", false},
        {"ordering", "serial", true}, {"ordering", "seria", false}, {"ordering", "", false}, {"ordering", "keyed:x", true}, {"ordering", "keyed:/cart/{id}", true}, {"ordering", "concurrent", true}, {"ordering", "keyed:", false}, {"ordering", "keyed:a b", false},
        {"logging", "pessimistic", true}, {"logging", "optimistic", true}, {"logging", "none", false}, {"reads", "local", true}, {"reads", "linearizable|local", false},
        {"retain", "1", true}, {"retain", "32", true}, {"retain", "0", false}, {"retain", "33", false}, {"retain", "3x", false}, {"retain", "99999999999", false},
        {"port", "8080", true}, {"port", "65536", false}, {"container", "app", true}, {"container", "a\"b", false}, {"container", "a b", false},
        {"traffic", "service", true}, {"traffic", "none", true}, {"traffic", "redirect", true}, {"traffic", "service|none", false}, {"redirect", "1=2", true}, {"image-registry", "10.0.0.1:5000/x", true},
        {"image-registry", "-", true}, {"image-registry", "a'b", false}, {"nonsense", "x", false}, {"stream", "a/b", true}, {"restore", "fresh", true}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct policy p;
        struct error e = {0};
        char key[96];
        policy_defaults(&p);
        snprintf(key, sizeof key, "crsc.io/%s", cases[i].key);
        int rv = policy_set(&p, key, cases[i].value, &e);
        if ((rv == 0) != cases[i].good) fail_msg("%s=%s: %d %s", key, cases[i].value, rv, e.text);
        if (rv != 0 && strstr(e.text, cases[i].key) == NULL) fail_msg("\"%s\" does not name %s", e.text, key);
    }
    struct policy p;
    policy_defaults(&p);
    assert_int_equal(policy_set(&p, "example.com/retain", "what ever", NULL), 0);
    char field[POLICY_NAME_MAX];
    policy_field(&policy_table()[1], field);
    assert_string_equal(field, "checkpointInterval");
}

static char *read_doc(void)
{
    FILE *f = fopen(doc_path, "r");
    assert_non_null(f);
    char *text = calloc(1, 1 << 16);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 1000);
    fclose(f);
    return text;
}

/* Each annotation has its row, with its default; and the table has no row more. */
static void test_doc_agrees(void **state)
{
    const struct policy_annotation *t = policy_table();
    char row[160], *doc = read_doc();
    size_t rows = 0;
    (void)state;
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        snprintf(row, sizeof row, t[i].initial[0] != '\0' ? "\n| `crsc.io/%s` | `%s` | " : "\n| `crsc.io/%s` | *(empty)%s* | ", t[i].name, t[i].initial);
        const char *at = strstr(doc, row), *values = at != NULL ? at + strlen(row) : NULL, *shown = t[i].values;
        if (at == NULL) fail_msg("docs/ANNOTATIONS.md has no row%s", row);
        for (; *shown != '\0'; shown++) { /* words are "a|b" in the table and "a, b" in the doc */
            if (*shown == '|') assert_memory_equal(values, ", ", 2), values += 2;
            else if (*values++ != *shown) fail_msg("docs/ANNOTATIONS.md: the values of %s are not \"%s\"", t[i].name, t[i].values);
        }
        assert_memory_equal(values, " |", 2);
    }
    for (const char *at = doc; (at = strstr(at, "\n| `crsc.io/")) != NULL; at++) rows++;
    assert_int_equal(rows, POLICY_ANNOTATIONS);
    free(doc);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_values), cmocka_unit_test(test_doc_agrees)};
    doc_path = argc > 1 ? argv[1] : "docs/ANNOTATIONS.md";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
