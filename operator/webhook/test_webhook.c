/* Injection against golden patches, the hash, reviews, certificates. Argument: the directory of the golden files (golden/NAME.pod.json and
 * NAME.patch.json). With CRSC_GOLDEN=write they are written instead of compared: read the difference before you commit it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/webhook/certs.h"
#include "operator/webhook/review.h"

static const char *golden;
static const struct inject_settings defaults = {.image = "registry/crsc-interceptor:1", .pull_policy = "IfNotPresent", .servers = "log-0:7400,log-1:7400",
                                                .log_secret = "crsc-log", .cluster = "prod", .runtime_class = "crsc"};

static yyjson_doc *parse(const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), YYJSON_READ_NOFLAG);
    assert_non_null(doc);
    return doc;
}

static char *read_file(const char *name, const char *what)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.%s.json", golden, name, what);
    FILE *f = fopen(path, "r");
    if (f == NULL) fail_msg("%s is not there", path);
    char *text = calloc(1, 1 << 16);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

static void compare(const char *name, const char *patch)
{
    char path[512];
    yyjson_doc *got = parse(patch);
    if (getenv("CRSC_GOLDEN") != NULL && strcmp(getenv("CRSC_GOLDEN"), "write") == 0) {
        snprintf(path, sizeof path, "%s/%s.patch.json", golden, name);
        char *pretty = yyjson_val_write(yyjson_doc_get_root(got), YYJSON_WRITE_PRETTY_TWO_SPACES, NULL);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f, "%s\n", pretty);
        fclose(f);
        free(pretty);
    } else {
        char *text = read_file(name, "patch");
        yyjson_doc *wanted = parse(text);
        if (!yyjson_equals(yyjson_doc_get_root(got), yyjson_doc_get_root(wanted))) fail_msg("%s: the patch is another one: %s", name, patch);
        yyjson_doc_free(wanted);
        free(text);
    }
    yyjson_doc_free(got);
}

#define POD(annotations, spec) "{\"metadata\":{\"name\":\"p\",\"annotations\":{" annotations "}},\"spec\":{" spec "}}"
#define ON "\"crsc.io/checkpoint-restore\":\"true\""
#define APP "\"containers\":[{\"name\":\"app\",\"image\":\"a\",\"ports\":[{\"containerPort\":80}]}]"

static struct {
    unsigned n;
    char stream[INJECT_STREAM_MAX + 1], hash[INJECT_HASH_MAX], wanted[INJECT_CHECKPOINT_MAX];
} asked;

static bool newest(void *user, const char *space, const char *stream, const char *hash, const char *wanted, struct inject_checkpoint *ret_checkpoint)
{
    assert_ptr_equal(user, &asked);
    assert_string_equal(space, "shop");
    asked.n++;
    snprintf(asked.stream, sizeof asked.stream, "%s", stream);
    snprintf(asked.hash, sizeof asked.hash, "%s", hash);
    snprintf(asked.wanted, sizeof asked.wanted, "%s", wanted);
    *ret_checkpoint = (struct inject_checkpoint){.name = "counter-17", .image = "reg:5000/checkpoints/prod/shop/deployment/counter@sha256:11"};
    return true;
}

/* backend: kubelet: whom of whose checkpoints is asked for, and that a pod without one keeps its image. */
static void test_checkpoint(void **state)
{
    static const char *const pods[] = {POD(ON ",\"crsc.io/workload\":\"deployment/counter\",\"crsc.io/backend\":\"kubelet\"", APP),
                                       POD(ON ",\"crsc.io/workload\":\"deployment/counter\",\"crsc.io/backend\":\"kubelet\",\"crsc.io/restore\":\"fresh\"", APP),
                                       POD(ON ",\"crsc.io/workload\":\"deployment/counter\",\"crsc.io/backend\":\"kubelet\"", APP), POD(ON, APP)};
    static const char *const wanted[] = {"auto", "fresh", "c-9", NULL};
    struct inject_settings s = defaults;
    (void)state;
    s.newest_user = &asked;
    for (size_t i = 0; i < sizeof pods / sizeof *pods; i++) {
        for (int with = 0; with < 2; with++) {
            struct error e = {0};
            char *patch = NULL;
            yyjson_doc *pod = parse(pods[i]);
            asked.n = 0;
            s.newest = with ? newest : NULL;
            s.restore = i == 2 ? "c-9" : NULL;
            assert_int_equal(inject_pod(yyjson_doc_get_root(pod), "shop", &s, &patch, &e), INJECT_PATCHED);
            bool begins = with && wanted[i] != NULL;
            assert_int_equal(asked.n, begins);
            assert_int_equal(strstr(patch, "/spec/containers/0/image") != NULL, begins);
            assert_int_equal(strstr(patch, "crsc.io~1checkpoint") != NULL, begins);
            assert_int_equal(strstr(patch, "/spec/runtimeClassName") != NULL, wanted[i] == NULL);
            if (begins) {
                assert_string_equal(asked.wanted, wanted[i]);
                assert_string_equal(asked.stream, "prod/shop/deployment/counter");
                assert_non_null(strstr(patch, asked.hash)); /* the one that is written on the pod */
            }
            free(patch);
            yyjson_doc_free(pod);
        }
    }
}

static void test_golden(void **state)
{
    static const char *const names[] = {"deployment", "statefulset", "full", "redirect", "tls", "replicas", "kubelet"};
    struct inject_settings settings = defaults;
    settings.newest = newest;
    settings.newest_user = &asked;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct error e = {0};
        char *patch = NULL, *text = read_file(names[i], "pod");
        yyjson_doc *pod = parse(text);
        enum inject_outcome outcome = inject_pod(yyjson_doc_get_root(pod), "shop", &settings, &patch, &e);
        if (outcome != INJECT_PATCHED) fail_msg("%s: %d %s", names[i], (int)outcome, e.text);
        compare(names[i], patch);
        free(patch);
        yyjson_doc_free(pod);
        free(text);
    }
}

static void test_left_alone(void **state)
{
    static const struct {
        const char *pod, *space, *words; /* NULL: silently */
    } cases[] = {
        {POD("", APP), "x", NULL}, {POD("\"crsc.io/checkpoint-restore\":\"false\"", APP), "x", NULL}, {"{}", "x", NULL}, {"[]", "x", NULL},
        {POD(ON, APP ",\"initContainers\":[{\"name\":\"crsc-interceptor\"}]"), "x", NULL},
        {POD(ON, APP), "kube-system", "kube-system"}, {POD(ON, APP ",\"hostNetwork\":true"), "x", "hostNetwork"},
        {POD(ON, APP ",\"shareProcessNamespace\":true"), "x", "shareProcessNamespace"}, {POD(ON, APP ",\"runtimeClassName\":\"kata\""), "x", "kata"},
        {POD(ON ",\"crsc.io/container\":\"db\"", APP), "x", "db"}, {POD(ON ",\"crsc.io/retain\":\"many\"", APP), "x", "retain"},
        {POD(ON ",\"crsc.io/tls-client-ca\":\"secret/x\"", APP), "x", "crsc.io/tls-secret"},
        {POD(ON ",\"crsc.io/replication\":\"log\"", APP), "x", "for Deployments"},
        {POD(ON ",\"crsc.io/replication\":\"log\",\"crsc.io/workload\":\"statefulset/d\"", APP), "x", "for Deployments"},
        {POD(ON ",\"crsc.io/replication\":\"log\",\"crsc.io/logging\":\"optimistic\",\"crsc.io/workload\":\"deployment/d\"", APP), "x", "pessimistic"},
        {POD(ON, "\"containers\":[{\"name\":\"app\"}]"), "x", "crsc.io/port"}, {POD(ON, "\"containers\":[]"), "x", "container"}, {POD(ON, "\"containers\":7"), "x", "container"},
        {POD(ON ",\"crsc.io/port\":\"15021\"", APP), "x", "15021"},
        {POD(ON, APP ",\"volumes\":[{\"name\":\"data\"},{\"name\":\"crsc-log-tls\"}]"), "x", "crsc-log-tls"}, {POD(ON, APP ",\"volumes\":[{\"name\":\"crsc-data-tls\"}]"), "x", "crsc-data-tls"},
        {POD(ON ",\"crsc.io/container\":\"app\"", "\"containers\":[{\"name\":\"crsc-interceptor\"},{\"name\":\"app\",\"ports\":[{\"containerPort\":80}]}]"), "x", "crsc-interceptor"},
        {POD(ON, "\"containers\":[{\"name\":\"app\",\"ports\":[{\"containerPort\":80}]},{\"name\":\"mesh\",\"ports\":[{\"containerPort\":15020}]}]"), "x", "listens on port 15020"},
        {POD(ON, APP ",\"initContainers\":[{\"name\":\"mesh\",\"restartPolicy\":\"Always\",\"ports\":[{\"containerPort\":15021}]}]"), "x", "listens on port 15021"},
        {POD(ON ",\"crsc.io/traffic\":\"redirect\"", APP), "x", "belongs to nobody"}, {POD(ON ",\"crsc.io/backend\":\"kubelet\"", APP), "x", "belongs to nobody"},
        {POD(ON ",\"crsc.io/backend\":\"podman\"", APP), "x", "runtime|kubelet"},
        {POD(ON ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/workload\":\"deployment/d\",\"crsc.io/checkpoint\":\"c-1\"", APP), "x", "written by the webhook"}, {POD(ON ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/traffic\":\"redirect\",\"crsc.io/workload\":\"deployment/d\"", APP), "x", "crsc-runtime"},
        {POD(ON ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/workload\":\"deployment/d\"", APP ",\"runtimeClassName\":\"crsc\""), "x", "own handler"},
        {POD(ON ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/image-registry\":\"-\",\"crsc.io/workload\":\"deployment/d\"", APP), "x", "registry"},
        {POD(ON ",\"crsc.io/traffic\":\"redirect\",\"crsc.io/workload\":\"deployment/d\",\"crsc.io/port\":\"15023\"", APP), "x", "15023"}, {"{\"metadata\":{\"annotations\":{" ON "}},\"spec\":{" APP "}}", "x", "name"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        char *patch = NULL;
        yyjson_doc *pod = parse(cases[i].pod);
        enum inject_outcome outcome = inject_pod(yyjson_doc_get_root(pod), cases[i].space, &defaults, &patch, &e);
        bool noted = cases[i].words != NULL && strcmp(cases[i].space, "kube-system") != 0; /* the pod says why, and nothing else of it changes */
        if (noted != (patch != NULL)) fail_msg("%s: patch %s", cases[i].pod, patch != NULL ? patch : "none");
        if (noted) {
            yyjson_doc *ops = parse(patch);
            if (yyjson_arr_size(yyjson_doc_get_root(ops)) != 1) fail_msg("%s: more than a note: %s", cases[i].pod, patch);
            assert_non_null(strstr(patch, "crsc.io~1refused"));
            assert_non_null(strstr(patch, cases[i].words));
            yyjson_doc_free(ops);
        }
        free(patch);
        if (outcome != (cases[i].words != NULL ? INJECT_REFUSED : INJECT_SKIPPED)) fail_msg("%s: %d %s", cases[i].pod, (int)outcome, e.text);
        if (cases[i].words != NULL && strstr(e.text, cases[i].words) == NULL) fail_msg("\"%s\" does not say \"%s\"", e.text, cases[i].words);
        yyjson_doc_free(pod);
    }
}

static void hash_with(const char *spec, const char *backend, char hash[INJECT_HASH_MAX])
{
    yyjson_doc *doc = parse(spec);
    assert_int_equal(inject_template_hash(yyjson_doc_get_root(doc), backend, hash), 0);
    yyjson_doc_free(doc);
}

static void hash_of(const char *spec, char hash[INJECT_HASH_MAX])
{
    hash_with(spec, "runtime", hash);
}

/* What is made up anew for each pod, and what we add, changes nothing; what the app would see does. */
/* What we were asked about is scheduled, also when it cannot be protected; gates of others stay. */
static void test_gate(void **state)
{
    static const char *const gates = APP ",\"schedulingGates\":[{\"name\":\"other\"},{\"name\":\"crsc.io/injection\"}]";
    static const char *const annotations[] = {ON, ON ",\"crsc.io/retain\":\"many\""};
    char text[512];
    (void)state;
    for (size_t i = 0; i < sizeof annotations / sizeof *annotations; i++) {
        struct error e = {0};
        char *patch = NULL;
        snprintf(text, sizeof text, "{\"metadata\":{\"name\":\"p\",\"annotations\":{%s}},\"spec\":{%s}}", annotations[i], gates);
        yyjson_doc *pod = parse(text);
        inject_pod(yyjson_doc_get_root(pod), "x", &defaults, &patch, &e);
        assert_non_null(patch);
        assert_non_null(strstr(patch, "{\"op\":\"remove\",\"path\":\"/spec/schedulingGates/1\"}"));
        free(patch);
        yyjson_doc_free(pod);
    }
}

static void test_hash(void **state)
{
    char a[INJECT_HASH_MAX], b[INJECT_HASH_MAX];
    (void)state;
    hash_of("{\"containers\":[{\"name\":\"app\",\"image\":\"a\",\"volumeMounts\":[{\"name\":\"kube-api-access-1\"}]}],\"volumes\":[{\"name\":\"kube-api-access-1\"}]}", a);
    hash_of("{\"containers\":[{\"name\":\"app\",\"image\":\"a\",\"volumeMounts\":[{\"name\":\"kube-api-access-2\"}],\"resources\":{\"x\":1}}],\"nodeName\":\"n\","
            "\"initContainers\":[{\"name\":\"crsc-interceptor\",\"image\":\"z\"}],\"volumes\":[{\"name\":\"kube-api-access-2\"},{\"name\":\"crsc-log-tls\"},{\"name\":\"crsc-data-tls\"}]}", b);
    assert_string_equal(a, b);
    hash_of("{\"containers\":[{\"name\":\"app\",\"image\":\"b\"}]}", b);
    assert_string_not_equal(a, b);
    hash_of("{\"containers\":[{\"name\":\"app\",\"image\":\"a\"}],\"securityContext\":{\"runAsUser\":0}}", b);
    assert_string_not_equal(a, b);
    hash_of("{\"containers\":[{\"name\":\"app\",\"image\":\"b\"}]}", a);
    assert_string_equal(a, "sha256:f9bb84d44611872c0bc12ac3d2d884495757c42e0285d142026b2c108eaaaa18"); /* of checkpoints that are there already */
    hash_with("{\"containers\":[{\"name\":\"app\",\"image\":\"b\"}]}", "kubelet", b); /* neither can restore the other's */
    assert_string_not_equal(a, b);
}

static void test_review(void **state)
{
    static const char *const garbage[] = {"", "{", "[]", "null", "{\"request\":{}}", "{\"request\":{\"uid\":1,\"namespace\":\"x\",\"object\":{}}}"};
    struct error e;
    enum inject_outcome outcome;
    (void)state;
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++)
        assert_null(review_answer(garbage[i], strlen(garbage[i]), &defaults, NULL, NULL, &outcome, &e));
    const char *text = "{\"request\":{\"uid\":\"u\",\"namespace\":\"x\",\"object\":" POD(ON, APP ",\"hostPID\":true") "}}";
    char *answer = review_answer(text, strlen(text), &defaults, NULL, NULL, &outcome, &e);
    assert_int_equal(outcome, INJECT_REFUSED);
    assert_non_null(strstr(answer, "\"allowed\":true"));
    assert_non_null(strstr(answer, "hostPID"));
    free(answer);
}

static void test_certificates(void **state)
{
    static const char *const names[] = {"crsc-webhook.crsc-system.svc", "10.0.0.7", "fd00::7", "crsc://role/producer/prod/shop/*"}, *const other[] = {"elsewhere"},
                      *const role[] = {"crsc://role/admin"};
    struct certs_pair ca, second, leaf;
    struct error e;
    const struct certs_request r = {.common_name = "x", .names = names, .n_names = 4, .server = true};
    const int64_t now = 1790000000, day = 86400;
    (void)state;
    assert_int_equal(certs_make_ca("one", now, &ca, &e), 0);
    assert_int_equal(certs_make_ca("two", now, &second, &e), 0);
    assert_int_equal(certs_issue(&ca, &r, now, &leaf, &e), 0);
    assert_true(certs_fresh(leaf.cert, names, 4, now));
    assert_false(certs_fresh(leaf.cert, other, 1, now));
    assert_false(certs_fresh(leaf.cert, role, 1, now));
    assert_true(certs_fresh(leaf.cert, names, 4, now + (CERTS_LEAF_DAYS * 2 / 3 - 1) * day));
    assert_false(certs_fresh(leaf.cert, names, 4, now + (CERTS_LEAF_DAYS * 2 / 3 + 1) * day));
    assert_false(certs_fresh("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", NULL, 0, now));
    assert_true(certs_signed_by(leaf.cert, ca.cert));
    assert_false(certs_signed_by(leaf.cert, second.cert));
    certs_free(&leaf);
    certs_free(&second);
    certs_free(&ca);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_left_alone), cmocka_unit_test(test_gate), cmocka_unit_test(test_hash),
                                       cmocka_unit_test(test_review), cmocka_unit_test(test_certificates)};
    golden = argc > 1 ? argv[1] : "operator/webhook/golden";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
