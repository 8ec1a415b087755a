/* The operator's view of an interceptor that says what each test wants, on the same loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/loop.h"
#include "interceptor/proxy/server.h"
#include "operator/interceptor_client.h"

enum { HANG_MS = 100000 };

struct fixture {
    uv_loop_t loop;
    uv_timer_t hang;
    char address[32];
    struct server *server;
    struct session *watcher; /* NULL: nobody watches */
    unsigned watches;
    /* how calls are answered */
    int code;
    char answer[1024], path[64], body[256];
    bool silent;
    struct session *waiting;

    struct interceptor_client *client;
    unsigned changes, called, closed;
    struct interceptor_answer last;
    struct world_interceptor at_call; /* the world as the last callback saw it */
};

/* ---- the fake ------------------------------------------------------------------------------------------------- */

static void on_request(void *user, struct session *s, const struct http_message *m)
{
    struct fixture *f = user;
    static const struct http_message head = {.status = 200, .minor = 1, .length = -1};
    if (strcmp(m->target, "/watch") == 0) {
        f->watcher = s;
        f->watches++;
        session_begin(s, &head, "");
        return;
    }
    snprintf(f->path, sizeof f->path, "%s %s", m->method, m->target);
    snprintf(f->body, sizeof f->body, "%.*s", (int)m->body_len, (const char *)m->body);
    f->waiting = f->silent ? s : NULL;
    if (!f->silent) session_reply(s, f->code, "application/json", f->answer, strlen(f->answer), "");
}

static void on_gone(void *user, struct session *s)
{
    struct fixture *f = user;
    if (f->watcher == s) f->watcher = NULL;
    if (f->waiting == s) f->waiting = NULL;
}

static void serve(struct fixture *f)
{
    static const struct server_handlers handlers = {.on_request = on_request, .on_gone = on_gone};
    const struct server_options options = {.address = f->address,
                                           .limits = {.head_bytes = 16 << 10, .headers = 100, .body_bytes = 64 << 10},
                                           .sessions_max = 16,
                                           .idle_ms = HANG_MS,
                                           .header_ms = HANG_MS,
                                           .body_ms = HANG_MS,
                                           .send_ms = HANG_MS};
    struct error e;
    int rv = server_start(&f->loop, &options, &handlers, f, &f->server, &e);
    if (rv != 0) fail_msg("%s", e.text);
}

static void on_server_closed(void *user)
{
    *(bool *)user = true;
}

static void unserve(struct fixture *f)
{
    bool closed = false;
    server_close(f->server, on_server_closed, &closed);
    f->watcher = NULL;
    while (!closed) uv_run(&f->loop, UV_RUN_ONCE);
    f->server = NULL;
}

/* ---- the fixture ---------------------------------------------------------------------------------------------- */

static void on_hang(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("what the test waits for does not come");
}

static void on_change(void *user)
{
    struct fixture *f = user;
    f->changes++;
}

/* A port that nobody listens on: bound and let go again. Below those that the kernel gives to connections: it is found as it was left. */
static void find_port(struct fixture *f)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (bool found = false; !found;) {
        uint16_t random;
        int s = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(getrandom(&random, sizeof random, 0), sizeof random);
        at.sin_port = htons((uint16_t)(10000 + random % 20000));
        found = bind(s, (struct sockaddr *)&at, sizeof at) == 0;
        close(s);
    }
    snprintf(f->address, sizeof f->address, "127.0.0.1:%u", (unsigned)ntohs(at.sin_port));
}

static void begin(struct fixture *f, bool there)
{
    struct error e;
    memset(f, 0, sizeof *f);
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->hang);
    uv_timer_start(&f->hang, on_hang, HANG_MS, 0);
    find_port(f);
    if (there) serve(f);
    assert_int_equal(interceptor_client_new(&f->loop, f->address, on_change, f, &f->client, &e), 0);
    while (there && f->watcher == NULL) uv_run(&f->loop, UV_RUN_ONCE);
}

static void on_client_closed(void *user)
{
    struct fixture *f = user;
    f->closed++;
}

static void end(struct fixture *f)
{
    interceptor_client_close(f->client, on_client_closed, f);
    while (f->closed == 0) uv_run(&f->loop, UV_RUN_ONCE);
    if (f->server != NULL) unserve(f);
    uv_close((uv_handle_t *)&f->hang, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static const struct world_interceptor *world(const struct fixture *f)
{
    return interceptor_client_world(f->client);
}

static void status(char *out, size_t cap, const char *instance, unsigned version, const char *state, const char *identity, const char *token)
{
    snprintf(out, cap,
             "{\"instance\":\"%s\",\"version\":%u,\"state\":\"%s\",\"stream\":\"c/n/w/x\",\"app\":{\"identity\":\"%s\",\"lost\":false,"
             "\"suspect\":true},\"offsets\":{\"last\":9,\"executed\":7},\"replay\":{\"from\":1,\"to\":2,\"done\":3},\"drain\":{\"token\":\"%s\"},"
             "\"times\":{\"lost_us\":1,\"attached_us\":2,\"active_us\":3}}\n",
             instance, version, state, identity, token);
}

static void say(struct fixture *f, const char *instance, unsigned version, const char *state, const char *identity, const char *token)
{
    char line[1024];
    status(line, sizeof line, instance, version, state, identity, token);
    session_part(f->watcher, line, 20); /* lines come in pieces */
    session_part(f->watcher, line + 20, strlen(line) - 20);
}

static void until_state(struct fixture *f, enum world_traffic state)
{
    while (world(f)->state != state) uv_run(&f->loop, UV_RUN_ONCE);
}

static void until_watched(struct fixture *f, unsigned watches)
{
    while (f->watches < watches) uv_run(&f->loop, UV_RUN_ONCE);
}

static void on_answer(void *user, const struct interceptor_answer *answer)
{
    struct fixture *f = user;
    f->last = *answer;
    f->called++;
    f->at_call = *world(f);
}

static void until_called(struct fixture *f, unsigned called)
{
    while (f->called < called) uv_run(&f->loop, UV_RUN_ONCE);
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

static void lines_are_followed(void **state)
{
    struct fixture f;
    (void)state;
    begin(&f, true);
    assert_int_equal(world(&f)->state, WORLD_UNREACHABLE);
    say(&f, "a", 5, "replaying", "12:34", "t");
    until_state(&f, WORLD_REPLAYING);
    assert_string_equal(world(&f)->identity, "12:34");
    assert_string_equal(world(&f)->token, ""); /* only while it drains */
    assert_true(world(&f)->suspect);
    assert_int_equal(world(&f)->last, 9);
    assert_int_equal(world(&f)->executed, 7);
    assert_int_equal(interceptor_client_extra(f.client)->replay_done, 3);
    assert_string_equal(interceptor_client_extra(f.client)->stream, "c/n/w/x");
    unsigned changes = f.changes;
    say(&f, "a", 5, "replaying", "12:34", "t"); /* nothing new */
    say(&f, "a", 4, "waiting", "12:34", "t");   /* older */
    say(&f, "a", 6, "draining", "12:34", "t1");
    until_state(&f, WORLD_DRAINING);
    assert_int_equal(f.changes, changes + 1);
    assert_string_equal(world(&f)->token, "t1");
    end(&f);
}

static void a_new_one_counts_anew(void **state)
{
    struct fixture f;
    (void)state;
    begin(&f, true);
    say(&f, "a", 500, "active", "1:1", "");
    until_state(&f, WORLD_ACTIVE);
    unserve(&f);
    until_state(&f, WORLD_UNREACHABLE);
    serve(&f);
    until_watched(&f, 2);
    say(&f, "b", 1, "waiting", "", "");
    until_state(&f, WORLD_WAITING);
    end(&f);
}

static void it_may_come_later(void **state)
{
    struct fixture f;
    (void)state;
    begin(&f, false);
    for (int i = 0; i < 20; i++) uv_run(&f.loop, UV_RUN_ONCE);
    assert_int_equal(world(&f)->state, WORLD_UNREACHABLE);
    assert_int_equal(f.changes, 0);
    serve(&f);
    until_watched(&f, 1);
    say(&f, "a", 1, "active", "1:1", "");
    until_state(&f, WORLD_ACTIVE);
    end(&f);
}

static void strange_lines_end_the_watch(void **state)
{
    static const char *const lines[] = {"<html>\n",
                                        "{}\n",
                                        "{\"instance\":\"a\",\"version\":1,\"state\":\"dreaming\"}\n",
                                        "{\"instance\":\"a\",\"version\":-1,\"state\":\"active\"}\n",
                                        "\n"};
    struct fixture f;
    (void)state;
    begin(&f, true);
    for (unsigned i = 0; i < sizeof lines / sizeof *lines; i++) {
        say(&f, "a", 1, "active", "1:1", "");
        until_state(&f, WORLD_ACTIVE);
        session_part(f.watcher, lines[i], strlen(lines[i]));
        until_watched(&f, i + 2);
        assert_int_equal(world(&f)->state, WORLD_UNREACHABLE);
    }
    char endless[1000];
    memset(endless, 'x', sizeof endless);
    unsigned watches = f.watches;
    while (f.watches == watches) {
        if (f.watcher != NULL && session_queued(f.watcher) < 1 << 20) session_part(f.watcher, endless, sizeof endless);
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    end(&f);
}

static void answers_are_seen_at_once(void **state)
{
    struct fixture f;
    struct error e;
    (void)state;
    begin(&f, true);
    say(&f, "a", 5, "waiting", "", "");
    until_state(&f, WORLD_WAITING);
    f.code = 200;
    status(f.answer, sizeof f.answer, "a", 6, "replaying", "7:8", "");
    assert_int_equal(interceptor_attach(f.client, "7:8", 42, "127.0.0.1:80", false, on_answer, &f, &e), 0);
    assert_int_equal(interceptor_resume(f.client, "t", on_answer, &f, &e), -ERROR_BUSY);
    until_called(&f, 1);
    assert_int_equal(f.last.status, 0);
    assert_string_equal(f.path, "POST /attach");
    assert_string_equal(f.body, "{\"identity\":\"7:8\",\"offset\":42,\"upstream\":\"127.0.0.1:80\"}");
    assert_string_equal(f.at_call.identity, "7:8");
    assert_int_equal(f.at_call.state, WORLD_REPLAYING);
    say(&f, "a", 5, "waiting", "", ""); /* was on its way: undoes nothing */
    say(&f, "a", 7, "active", "7:8", "");
    until_state(&f, WORLD_ACTIVE);

    snprintf(f.answer, sizeof f.answer, "{\"instance\":\"a\",\"version\":8,\"state\":\"draining\",\"token\":\"t1\",\"offset\":9}");
    assert_int_equal(interceptor_drain(f.client, "t1", 1000, 50, on_answer, &f, &e), 0);
    until_called(&f, 2);
    assert_string_equal(f.path, "POST /checkpoint");
    assert_string_equal(f.body, "{\"token\":\"t1\",\"lease_ms\":1000,\"drain_ms\":50}");
    assert_int_equal(f.last.offset, 9);
    assert_int_equal(f.at_call.state, WORLD_DRAINING);
    assert_string_equal(f.at_call.token, "t1");
    assert_string_equal(f.at_call.identity, "7:8");

    snprintf(f.answer, sizeof f.answer,
             "{\"instance\":\"a\",\"version\":9,\"state\":\"active\",\"token\":\"t1\",\"offset\":9,\"unbroken\":true}");
    assert_int_equal(interceptor_resume(f.client, "t1", on_answer, &f, &e), 0);
    until_called(&f, 3);
    assert_true(f.last.unbroken);
    assert_int_equal(f.at_call.state, WORLD_ACTIVE);
    assert_string_equal(f.at_call.token, "");
    end(&f);
}

/* What replicas say of themselves; and a role is changed while a drain takes its time. */
static void roles_wait_for_nothing(void **state)
{
    struct fixture f;
    struct error e;
    (void)state;
    begin(&f, true);
    const char *line = "{\"instance\":\"a\",\"version\":1,\"state\":\"active\",\"replication\":\"log\",\"role\":\"standby\",\"leaving\":true,\"stream\":\"c/n/w/x\","
                       "\"app\":{\"identity\":\"7:8\",\"lost\":false,\"suspect\":true,\"diverged\":40,\"agreed\":31,\"disagreement\":12},"
                       "\"offsets\":{\"last\":9,\"executed\":7},\"replay\":{\"done\":3},\"drain\":null,\"times\":{\"lost_us\":1,\"attached_us\":2,\"active_us\":3}}\n";
    session_part(f.watcher, line, strlen(line));
    until_state(&f, WORLD_ACTIVE);
    const struct world_interceptor *w = world(&f);
    assert_true(w->standby && w->leaving && w->diverged == 40 && w->agreed == 31 && w->disagreement == 12);
    assert_true(interceptor_client_extra(f.client)->shared);
    f.silent = true;
    assert_int_equal(interceptor_drain(f.client, "t1", 1000, 50, on_answer, &f, &e), 0);
    while (f.waiting == NULL) uv_run(&f.loop, UV_RUN_ONCE);
    f.silent = false;
    f.code = 200;
    status(f.answer, sizeof f.answer, "a", 2, "active", "7:8", "");
    assert_int_equal(interceptor_role(f.client, false, on_answer, &f, &e), 0);
    assert_int_equal(interceptor_role(f.client, true, on_answer, &f, &e), -ERROR_BUSY);
    until_called(&f, 1);
    assert_string_equal(f.path, "POST /role?role=active");
    assert_int_equal(f.last.status, 0);
    assert_false(f.at_call.standby);
    end(&f); /* the drain is told that it is over */
}

static void another_process_answers(void **state)
{
    struct fixture f;
    struct error e;
    (void)state;
    begin(&f, true);
    say(&f, "a", 5, "waiting", "", "");
    until_state(&f, WORLD_WAITING);
    f.code = 200;
    status(f.answer, sizeof f.answer, "b", 1, "replaying", "7:8", "");
    assert_int_equal(interceptor_attach(f.client, "7:8", 42, "127.0.0.1:80", false, on_answer, &f, &e), 0);
    until_called(&f, 1);
    assert_int_equal(f.last.status, 0);
    assert_int_equal(f.at_call.state, WORLD_UNREACHABLE); /* what was watched is gone */
    until_watched(&f, 2);
    end(&f);
}

static void refusals_are_told(void **state)
{
    static const struct {
        int code, status;
    } cases[] = {{400, -ERROR_INVALID},   {404, -ERROR_NOT_FOUND}, {409, -ERROR_CONFLICT},
                 {413, -ERROR_TOO_LARGE}, {504, -ERROR_TIMEOUT},   {500, -ERROR_UNAVAILABLE}};
    struct fixture f;
    struct error e;
    (void)state;
    begin(&f, true);
    snprintf(f.answer, sizeof f.answer, "{\"error\":\"this is why\"}");
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        f.code = cases[i].code;
        assert_int_equal(interceptor_resume(f.client, "t", on_answer, &f, &e), 0);
        until_called(&f, i + 1);
        assert_int_equal(f.last.status, cases[i].status);
        assert_string_equal(f.last.error.text, "this is why");
    }
    static const char *const strange[] = {"", "{}", "[]", "<html>", "{\"instance\":\"a\",\"version\":1,\"offset\":\"9\"}"};
    for (unsigned i = 0; i < sizeof strange / sizeof *strange; i++) {
        f.code = i == 3 ? 404 : 200;
        snprintf(f.answer, sizeof f.answer, "%s", strange[i]);
        f.called = 0;
        assert_int_equal(interceptor_resume(f.client, "t", on_answer, &f, &e), 0);
        until_called(&f, 1);
        assert_int_equal(f.last.status, -ERROR_PROTOCOL);
    }
    unserve(&f);
    f.called = 0;
    assert_int_equal(interceptor_resume(f.client, "t", on_answer, &f, &e), 0);
    until_called(&f, 1);
    assert_int_equal(f.last.status, -ERROR_UNAVAILABLE);
    end(&f);
}

static void closing_ends_a_call(void **state)
{
    struct fixture f;
    struct error e;
    (void)state;
    begin(&f, true);
    f.silent = true;
    assert_int_equal(interceptor_resume(f.client, "t", on_answer, &f, &e), 0);
    while (f.waiting == NULL) uv_run(&f.loop, UV_RUN_ONCE);
    assert_int_equal(f.called, 0);
    end(&f);
    assert_int_equal(f.called, 1);
    assert_int_equal(f.last.status, -ERROR_CANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_followed),       cmocka_unit_test(a_new_one_counts_anew),   cmocka_unit_test(it_may_come_later),
        cmocka_unit_test(strange_lines_end_the_watch), cmocka_unit_test(answers_are_seen_at_once), cmocka_unit_test(another_process_answers),
        cmocka_unit_test(roles_wait_for_nothing),   cmocka_unit_test(refusals_are_told),        cmocka_unit_test(closing_ends_a_call),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
