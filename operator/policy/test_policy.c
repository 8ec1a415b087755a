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

#define TEN "a123456789"
#define FIFTY TEN TEN TEN TEN TEN
#define NAME_253 FIFTY FIFTY FIFTY FIFTY FIFTY "abc" /* as long as a Secret's name can be */

/* Which object and key tls-client-ca means, and that it goes with tls-secret only. */
static void test_client_ca(void **state)
{
    static const struct {
        const char *value, *name, *key;
        bool secret;
    } cases[] = {{"secret/shop-tls", "shop-tls", "ca.crt", true}, {"configmap/trust", "trust", "ca.crt", false}, {"configmap/trust/ca-bundle.pem", "trust", "ca-bundle.pem", false}};
    struct policy_source source;
    struct policy p;
    (void)state;
    policy_defaults(&p);
    assert_int_equal(policy_check(&p, NULL), 0);
    assert_false(policy_client_ca(&p, &source));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        policy_defaults(&p);
        assert_int_equal(policy_set(&p, "crsc.io/tls-client-ca", cases[i].value, NULL), 0);
        assert_int_equal(policy_check(&p, &e), -ERROR_INVALID);
        assert_non_null(strstr(e.text, "crsc.io/tls-secret"));
        assert_int_equal(policy_set(&p, "crsc.io/tls-secret", "shop-tls", NULL), 0);
        assert_int_equal(policy_check(&p, &e), 0);
        assert_true(policy_client_ca(&p, &source));
        assert_string_equal(source.name, cases[i].name);
        assert_string_equal(source.key, cases[i].key);
        assert_int_equal(source.secret, cases[i].secret);
    }
}

/* Several replicas: what goes together with them, and of whom there can be several. */
static void test_replication(void **state)
{
    static const struct {
        const char *key, *value, *word;
    } wrong[] = {{"ordering", "concurrent", "ordering: serial"}, {"ordering", "keyed:x", "ordering: serial"}, {"logging", "optimistic", "logging: pessimistic"}, {"upgrade", "pass", "upgrade: pass"}};
    struct error e = {0};
    struct policy p;
    char key[64];
    (void)state;
    policy_defaults(&p);
    assert_false(policy_replicated(&p));
    assert_int_equal(policy_check_replicas(&p, true, 1, &e), 0);
    assert_int_equal(policy_check_replicas(&p, true, 0, &e), 0);
    assert_int_equal(policy_check_replicas(&p, false, 5, &e), 0); /* a StatefulSet's pods have a stream each */
    assert_int_equal(policy_check_replicas(&p, true, 2, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "crsc.io/replication=log"));
    assert_int_equal(policy_set(&p, "crsc.io/replication", "log", &e), 0);
    assert_true(policy_replicated(&p));
    assert_int_equal(policy_check(&p, &e), 0);
    assert_int_equal(policy_check_replicas(&p, true, 1, &e), 0);
    assert_int_equal(policy_check_replicas(&p, true, POLICY_REPLICAS_MAX, &e), 0);
    assert_int_equal(policy_check_replicas(&p, true, POLICY_REPLICAS_MAX + 1, &e), -ERROR_INVALID);
    assert_int_equal(policy_check_replicas(&p, false, 1, &e), -ERROR_INVALID);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        policy_defaults(&p);
        assert_int_equal(policy_set(&p, "crsc.io/replication", "log", &e), 0);
        snprintf(key, sizeof key, "crsc.io/%s", wrong[i].key);
        assert_int_equal(policy_set(&p, key, wrong[i].value, &e), 0);
        assert_int_equal(policy_check(&p, &e), -ERROR_INVALID);
        if (strstr(e.text, wrong[i].word) == NULL) fail_msg("\"%s\" does not say %s", e.text, wrong[i].word);
    }
}

/* Standbys are replicas, and Services can be told to leave them out. */
static void test_standby(void **state)
{
    struct error e = {0};
    struct policy p;
    (void)state;
    policy_defaults(&p);
    assert_int_equal(policy_set(&p, "crsc.io/standby", "1", &e), 0);
    assert_int_equal(p.standby, 1);
    assert_int_equal(policy_check(&p, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "crsc.io/replication: log"));
    assert_int_equal(policy_set(&p, "crsc.io/replication", "log", &e), 0);
    assert_int_equal(policy_check(&p, &e), 0);
    assert_int_equal(policy_set(&p, "crsc.io/traffic", "redirect", &e), 0);
    assert_int_equal(policy_check(&p, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "crsc.io/traffic: redirect"));
    assert_int_equal(policy_set(&p, "crsc.io/standby", "0", &e), 0);
    assert_int_equal(policy_check(&p, &e), 0);
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
        {"app-pipeline", "1", true}, {"app-pipeline", "64", true}, {"app-pipeline", "0", false}, {"app-pipeline", "65", false}, {"app-pipeline", "", false},
        {"standby", "14", true}, {"standby", "15", false}, {"standby", "-1", false}, {"standby", "true", false}, {"standby", "", false},
        {"replication", "log", true}, {"replication", "none", true}, {"replication", "raft", false}, {"replication", "", false},
        {"upgrade", "pass", true}, {"upgrade", "refuse", true}, {"upgrade", "true", false}, {"upgrade", "", false},
        {"tls-secret", "shop-tls", true}, {"tls-secret", "shop.example.com", true}, {"tls-secret", "", true}, {"tls-secret", "Shop", false}, {"tls-secret", "other/shop", false},
        {"tls-secret", "-a", false}, {"tls-secret", "a-", false}, {"tls-secret", "a..b", false}, {"tls-secret", "a.-b", false}, {"tls-secret", ".a", false}, {"tls-secret", "a.", false},
        {"tls-secret", NAME_253, true}, {"tls-secret", NAME_253 "x", false},
        {"tls-client-ca", "", true}, {"tls-client-ca", "secret/shop-tls", true}, {"tls-client-ca", "configmap/trust/ca-bundle.pem", true}, {"tls-client-ca", "secret/a/..b", false},
        {"tls-client-ca", "shop-tls", false}, {"tls-client-ca", "configMap/trust", false}, {"tls-client-ca", "secret/", false}, {"tls-client-ca", "secret/A", false}, {"tls-client-ca", "secret/a/", false},
        {"tls-client-ca", "secret/a/b/c", false}, {"tls-client-ca", "secret/a/.", false}, {"tls-client-ca", "secret//k", false}, {"tls-client-ca", "configmap/" NAME_253, false},
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_values), cmocka_unit_test(test_client_ca), cmocka_unit_test(test_replication), cmocka_unit_test(test_standby),
                                       cmocka_unit_test(test_doc_agrees)};
    doc_path = argc > 1 ? argv[1] : "docs/ANNOTATIONS.md";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
