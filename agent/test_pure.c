/* What the agent reads and decides, without a node: pods' words, specification digests, choices and evictions; the last two by thousands of seeded
 * random cases against what the header promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/choose.h"
#include "agent/found.h"
#include "agent/kubelet.h"
#include "agent/pod.h"

#define CONFIG(annotations, process, mounts)                                                                                          \
    "{\"ociVersion\":\"1.0\",\"process\":{\"user\":{\"uid\":1000},\"args\":[\"/app\"],\"cwd\":\"/\"" process                          \
    "},\"root\":{\"path\":\"rootfs\"},\"mounts\":[" mounts "],\"annotations\":{" annotations "},\"linux\":{\"namespaces\":[{\"type\":" \
    "\"pid\"}]}}"
#define CRI "\"io.kubernetes.cri.container-type\":\"container\",\"io.kubernetes.cri.container-name\":\"app\",\"io.kubernetes.cri.sandbox-namespace\":\"ns\",\"io.kubernetes.cri.sandbox-name\":\"p\""
#define WORDS "\"crsc.io/stream\":\"a/b\",\"crsc.io/container\":\"app\",\"crsc.io/upstream\":\"127.0.0.1:1\",\"crsc.io/admin\":\"127.0.0.1:2\""

static struct pod pod;
static struct error error;

static int read_pod(const char *text)
{
    memset(&pod, 0, sizeof pod);
    return pod_read(text, strlen(text), &pod, &error);
}

static void test_words(void **state)
{
    (void)state;
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/template-hash\":\"h\",\"crsc.io/image-registry\":\"r:5000/x\"", "", "")), 0);
    assert_true(pod.is_protected && pod.has_registry);
    assert_string_equal(pod.namespace, "ns");
    assert_string_equal(pod.name, "p");
    assert_string_equal(pod.stream, "a/b");
    assert_string_equal(pod.restore, "auto");
    assert_string_equal(pod.template_hash, "h");
    assert_string_equal(pod.registry, "r:5000/x");
    assert_int_equal(pod.redirect.n, 0);
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/redirect\":\"8080=15020,15023=8080\"", "", "")), 0);
    assert_true(pod.redirect.n == 2 && pod.redirect.pairs[0].from == 8080 && pod.redirect.pairs[1].to == 8080);
    /* CRI-O's names */
    assert_int_equal(read_pod(CONFIG("\"io.kubernetes.cri-o.ContainerType\":\"container\",\"io.kubernetes.container.name\":\"app\","
                                     "\"io.kubernetes.pod.name\":\"q\"," WORDS, "", "")), 0);
    assert_true(pod.is_protected && !pod.has_registry);
    assert_string_equal(pod.name, "q");
    /* the sandbox, another container, no stream */
    assert_int_equal(read_pod(CONFIG("\"io.kubernetes.cri.container-type\":\"sandbox\",\"io.kubernetes.cri.container-name\":\"app\"," WORDS, "", "")), 0);
    assert_false(pod.is_protected);
    assert_int_equal(read_pod(CONFIG("\"io.kubernetes.cri.container-type\":\"container\",\"io.kubernetes.cri.container-name\":\"side\"," WORDS, "", "")), 0);
    assert_false(pod.is_protected);
    assert_int_equal(read_pod(CONFIG(CRI, "", "")), 0);
    assert_false(pod.is_protected);
}

static void test_bad_words(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "[]", "{", CONFIG(CRI ",\"crsc.io/stream\":\"a\",\"crsc.io/container\":\"app\"", "", ""),
        CONFIG(CRI "," WORDS ",\"crsc.io/restore\":\"../x\"", "", ""), CONFIG(CRI "," WORDS ",\"crsc.io/restore\":\"\"", "", ""),
        CONFIG(CRI "," WORDS ",\"crsc.io/redirect\":\"8080\"", "", "")};
    char text[4096], longer[600];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(read_pod(bad[i]), -ERROR_INVALID);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    snprintf(text, sizeof text, CONFIG(CRI "," WORDS ",\"crsc.io/template-hash\":\"%s\"", "", ""), longer);
    assert_int_equal(read_pod(text), -ERROR_INVALID);
    static const char *const ids[] = {"", ".", "a/b", "A", "-a", "a_b"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) assert_false(pod_snapshot_id_valid(ids[i]));
    assert_true(pod_snapshot_id_valid("c-17.x"));
}

static void test_spec(void **state)
{
    (void)state;
    char first[OCI_DIGEST_MAX];
#define MOUNT(source, options) "{\"destination\":\"/a\",\"type\":\"bind\",\"source\":\"" source "\",\"options\":[\"" options "\"]}"
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS, "", MOUNT("/x", "ro"))), 0);
    memcpy(first, pod.spec, sizeof first);
    /* another pod of the same template: other sources, environment, names */
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"io.kubernetes.cri.sandbox-id\":\"z\"", ",\"env\":[\"A=1\"]", MOUNT("/y", "ro"))), 0);
    assert_string_equal(pod.spec, first);
    static const char *const others[] = {CONFIG(CRI "," WORDS, "", MOUNT("/x", "rw")), CONFIG(CRI "," WORDS, "", ""),
        CONFIG(CRI "," WORDS, ",\"noNewPrivileges\":true", MOUNT("/x", "ro")),
        CONFIG(CRI "," WORDS, ",\"capabilities\":{\"bounding\":[\"CAP_SYS_ADMIN\"]}", MOUNT("/x", "ro")),
        CONFIG(CRI "," WORDS ",\"io.kubernetes.cri.image-name\":\"i:2\"", "", MOUNT("/x", "ro"))};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(read_pod(others[i]), 0);
        assert_string_not_equal(pod.spec, first);
    }
}

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
}

static void test_choose(void **state)
{
    (void)state;
    static const char *const ids[] = {"c-0", "c-1", "c-2", "c-3", "c-4", "c-5"}, *const hashes[] = {"h", "i"};
    static const char *const restores[] = {"auto", "auto", "fresh", "c-3", "c-9"};
    unsigned restored = 0, cheaper = 0;
    for (seed = 1; seed < 20000;) {
        uint64_t round = seed;
        struct candidate all[6];
        char reason[CHOOSE_REASON_MAX] = "";
        size_t n = draw(7);
        for (size_t i = 0; i < n; i++)
            all[i] = (struct candidate){.id = ids[i], .template_hash = hashes[draw(3) == 0], .offset = draw(100000), .size = draw(1 << 30),
                .recorded_us = draw(100), .here = draw(2), .unusable = draw(4) == 0, .failures = (unsigned)draw(4)};
        struct wish w = {.restore = restores[draw(5)], .template_hash = hashes[draw(4) == 0], .first_offset = 1 + draw(2) * 50,
            .last_offset = draw(4) == 0 ? UINT64_MAX : 100000 + draw(100000), .replay_us = draw(200), .restore_us = draw(1000000)};
        int got = choose(all, n, &w, reason);
        assert_in_range((unsigned)(got + 1), 0, n);
        if (got < 0) assert_true(*reason != '\0');
        bool automatic = strcmp(w.restore, "auto") == 0, usable = false;
        for (size_t i = 0; i < n; i++) {
            const struct candidate *c = &all[i];
            bool may = strcmp(c->template_hash, w.template_hash) == 0 && !c->unusable && c->failures < CHOOSE_FAILURES_MAX &&
                       (automatic || strcmp(c->id, w.restore) == 0);
            usable |= may;
            if (got == (int)i) assert_true(may && strcmp(w.restore, "fresh") != 0);
            if (got >= 0 && may) assert_true(c->offset <= all[got].offset);
        }
        /* a way back is never left unused, unless everything is still in the log and cheaper to replay */
        if (usable && got < 0) assert_true(automatic && w.first_offset <= 1);
        restored += got >= 0;
        cheaper += usable && got < 0;
        seed = round + 1;
    }
    assert_true(restored > 1000 && cheaper > 1000); /* both were tried */
}

static void test_eviction(void **state)
{
    (void)state;
    static const char *const streams[] = {"a", "b", "c"};
    unsigned removed = 0;
    for (seed = 1; seed < 5000;) {
        uint64_t round = seed, sum = 0, budget = draw(4000);
        struct kept all[8];
        size_t n = draw(9);
        uint64_t best[3] = {0};
        bool had[3] = {0};
        for (size_t i = 0; i < n; i++) {
            size_t s = draw(3);
            all[i] = (struct kept){.stream = streams[s], .offset = draw(10), .bytes = draw(1000), .used_us = draw(100), .busy = draw(5) == 0};
            sum += all[i].bytes;
            had[s] = true;
            if (all[i].offset > best[s]) best[s] = all[i].offset;
        }
        for (int at; (at = choose_eviction(all, n, budget)) >= 0; removed++) {
            assert_true(sum > budget && (size_t)at < n && !all[at].busy);
            sum -= all[at].bytes;
            all[at] = all[--n];
        }
        /* each stream's newest is there, and only such and busy ones are over the budget */
        for (size_t s = 0; s < 3; s++) {
            size_t top = 0;
            for (size_t i = 0; i < n; i++) {
                if (all[i].stream != streams[s]) continue;
                top += all[i].offset == best[s];
                if (sum > budget && all[i].offset != best[s]) assert_true(all[i].busy);
            }
            assert_true(top > 0 || !had[s]);
        }
        seed = round + 1;
    }
    assert_true(removed > 1000);
}

/* ---- crsc.io/backend: kubelet ------------------------------------------------------------------------------------ */

static void test_backend(void **state)
{
    (void)state;
    char reason[AGENT_REASON_MAX] = "";
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS, "", "")), 0);
    assert_false(pod.by_kubelet);
    assert_string_equal(pod.user, "1000:0");
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"runtime\"", "", "")), 0);
    assert_false(pod.by_kubelet);
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"podman\"", "", "")), -ERROR_INVALID);
    assert_non_null(strstr(error.text, "podman"));
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"kubelet\"", "", "")), 0);
    assert_true(pod.by_kubelet);
    assert_int_equal(found_how(&pod, reason), FOUND_FRESH);
    /* what the webhook meant and what the container runtime did have to be the same */
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/checkpoint\":\"c-1\"", "", "")), 0);
    assert_int_equal(found_how(&pod, reason), FOUND_DOUBT);
    assert_non_null(strstr(reason, "container_annotations"));
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"kubelet\",\"checkpointImage\":\"r/x@sha256:0\"", "", "")), 0);
    assert_int_equal(found_how(&pod, reason), FOUND_DOUBT);
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/checkpoint\":\"c-1\",\"checkpointImage\":\"r/x@sha256:0\"", "", "")), 0);
    assert_int_equal(found_how(&pod, reason), FOUND_RESTORED);
    assert_string_equal(pod.checkpoint_image, "r/x@sha256:0");
#define OTHER "\"io.kubernetes.cri.container-type\":\"container\",\"io.kubernetes.cri.container-name\":\"containerd\"," WORDS ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/checkpoint\":\"c-1\""
    assert_int_equal(read_pod(CONFIG(OTHER ",\"checkpointImage\":\"r/x@sha256:0\"", "", "")), 0); /* containerd's own name for what it restores */
    assert_true(pod.is_protected);
    assert_string_equal(pod.container, "app");
    assert_int_equal(read_pod(CONFIG(OTHER, "", "")), 0);
    assert_false(pod.is_protected);
    assert_int_equal(read_pod(CONFIG(CRI "," WORDS ",\"crsc.io/backend\":\"kubelet\",\"crsc.io/checkpoint\":\"../x\"", "", "")), -ERROR_INVALID);
}

static void test_kubelet_target(void **state)
{
    (void)state;
    char url[KUBELET_URL_MAX], longer[600];
    assert_int_equal(kubelet_target("https://10.0.0.1:10250", "shop", "counter-x", "app", 30000, url, &error), 0);
    assert_string_equal(url, "https://10.0.0.1:10250/checkpoint/shop/counter-x/app?timeout=30");
    assert_int_equal(kubelet_target("https://[fd00::1]:10250", "shop", "counter-x", "app", 1, url, &error), 0);
    assert_string_equal(url, "https://[fd00::1]:10250/checkpoint/shop/counter-x/app?timeout=1");
    assert_int_equal(kubelet_target("", "shop", "counter-x", "app", 1, url, &error), -ERROR_UNAVAILABLE);
    static const char *const bad[] = {"", "..", "a/b", "a?b", "A", "a b", "a%2f"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(kubelet_target("https://x", "shop", bad[i], "app", 1, url, &error), -ERROR_INVALID);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(kubelet_target("https://x", longer, "p", "app", 1, url, &error), -ERROR_INVALID);
}

static void test_kubelet_answer(void **state)
{
    (void)state;
    char path[PATH_MAX] = "";
    static const char good[] = "{\"items\":[\"/var/lib/kubelet/checkpoints/checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar\"]}";
    static const struct {
        int code;
        const char *body;
        enum error_code rc;
        const char *words;
    } refused[] = {
        {401, "Unauthorized", ERROR_DENIED, "401"},
        {403, "Forbidden (user=u, verb=create, resource=nodes, subresource(s)=[checkpoint])", ERROR_DENIED, "nodes/checkpoint"},
        {404, "404 page not found\n", ERROR_UNAVAILABLE, "ContainerCheckpoint"},
        {404, "pod does not exist", ERROR_NOT_FOUND, "does not know"},
        {500, "checkpointing of ns/p/app failed (rpc error: code = Unknown desc = CRIU binary not found)", ERROR_UNAVAILABLE, "CRIU binary not found"},
        {500, "checkpointing of ns/p/app failed (rpc error: code = Unimplemented desc = unknown method CheckpointContainer)", ERROR_UNAVAILABLE, "takes no checkpoints"},
        {500, "checkpointing of ns/p/app failed (rpc error: code = DeadlineExceeded desc = context deadline exceeded)", ERROR_TIMEOUT, "in time"},
        {503, "", ERROR_UNAVAILABLE, "503"},
        {200, "", ERROR_PROTOCOL, "archive"}, {200, "{", ERROR_PROTOCOL, "archive"}, {200, "[]", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[1]}", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[\"/a/checkpoints/x.tar\",\"/a/checkpoints/y.tar\"]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[\"/var/lib/kubelet/checkpoints/checkpoint-q_ns-app-2026-11-28T05:00:00Z.tar\"]}", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[\"/a/checkpoints/x.tar\"]}", ERROR_PROTOCOL, "archive"},
        {500, "\xc3\x28\xff", ERROR_UNAVAILABLE, "?(?"}, {200, "{\"items\":[\"/\u00e4/checkpoints/checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar\"]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[\"/var/checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar\"]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[\"checkpoints/x.tar\"]}", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[\"/checkpoints/../etc/x.tar\"]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[\"/etc/shadow\"]}", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[\"/etc/x.tar\"]}", ERROR_PROTOCOL, "archive"},
        {200, "{\"items\":[\"/checkpoints/x.tar\\u0000\"]}", ERROR_PROTOCOL, "archive"}, {200, "{\"items\":[\".tar\"]}", ERROR_PROTOCOL, "archive"}};
    assert_int_equal(kubelet_answer(200, good, strlen(good), "checkpoint-p_ns-app-", path, &error), 0);
    assert_string_equal(path, "/var/lib/kubelet/checkpoints/checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        int rc = kubelet_answer(refused[i].code, refused[i].body, strlen(refused[i].body), "checkpoint-p_ns-app-", path, &error);
        if (rc != -(int)refused[i].rc || strstr(error.text, refused[i].words) == NULL) fail_msg("%d %s: %d %s", refused[i].code, refused[i].body, rc, error.text);
    }
    for (size_t cut = 0; cut < strlen(good); cut++) assert_int_equal(kubelet_answer(200, good, cut, "checkpoint-p_ns-app-", path, &error), -ERROR_PROTOCOL);
}

static void test_kubelet_archives(void **state)
{
    (void)state;
    char prefix[KUBELET_PREFIX_MAX];
    kubelet_prefix("ns", "p", "app", prefix);
    assert_string_equal(prefix, "checkpoint-p_ns-app-");
    static const char *const good[] = {"checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar", "checkpoint-p_ns-app-2026-11-28T05:00:00+02:00.tar", "checkpoint-p_ns-app-2026-11-28T05:00:00-11:30.tar"},
                      *const bad[] = {"", "checkpoint-p_ns-app-", "checkpoint-p_ns-app-x-2026-11-28T05:00:00Z.tar", "checkpoint-p_ns-app-2-2026-11-28T05:00:00Z.tar",
        "checkpoint-p_ns-app-2026-11-28T05:00:00Z", "checkpoint-p_ns-app-2026-11-28T05:00:00Z.tar.gz", "checkpoint-q_ns-app-2026-11-28T05:00:00Z.tar",
        "checkpoint-p_ns-app-2026-11-28T05:00:00+02:00", "checkpoint-p_ns-app-2026-11-28 05:00:00Z.tar", "checkpoint-p_ns-app-2026-11-28T05:00:00.tar"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(kubelet_is_archive(good[i], prefix));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(kubelet_is_archive(bad[i], prefix));
    for (size_t cut = 0; cut < strlen(good[1]); cut++) {
        char name[80];
        snprintf(name, sizeof name, "%.*s", (int)cut, good[1]);
        assert_false(kubelet_is_archive(name, prefix));
    }
}

static void test_found(void **state)
{
    (void)state;
    struct found_state s;
    static const char good[] = "{\"id\":\"x\",\"init_process_pid\":42,\"init_process_start\":77,\"config\":{\"labels\":[\"a=b\",\"bundle=/run/containerd/x\"]}}";
    static const char *const bad[] = {"", "[]", "{}", "{\"init_process_pid\":0,\"init_process_start\":7,\"config\":{\"labels\":[\"bundle=/x\"]}}",
        "{\"init_process_pid\":-1,\"init_process_start\":7,\"config\":{\"labels\":[\"bundle=/x\"]}}", "{\"init_process_pid\":42,\"init_process_start\":7,\"config\":{}}",
        "{\"init_process_pid\":42,\"init_process_start\":7,\"config\":{\"labels\":[\"bundle=x\"]}}", "{\"init_process_pid\":99999999999,\"init_process_start\":7,\"config\":{\"labels\":[\"bundle=/x\"]}}"};
    assert_int_equal(found_read(good, strlen(good), &s, &error), 0);
    assert_true(s.process.pid == 42 && s.process.start_time == 77);
    assert_string_equal(s.bundle, "/run/containerd/x");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(found_read(bad[i], strlen(bad[i]), &s, &error), -ERROR_INVALID);
    for (size_t cut = 0; cut < strlen(good); cut++) assert_int_equal(found_read(good, cut, &s, &error), -ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_backend), cmocka_unit_test(test_kubelet_target), cmocka_unit_test(test_kubelet_answer), cmocka_unit_test(test_kubelet_archives),
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_words), cmocka_unit_test(test_bad_words), cmocka_unit_test(test_spec),
        cmocka_unit_test(test_choose), cmocka_unit_test(test_eviction)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
