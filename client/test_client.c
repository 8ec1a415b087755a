/* The whole client against servers that fail in every way there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/crsc.h"
#include "client/fake_cluster.h"

enum { EVENTS_MAX = 400, HANG_MS = 100000 };

struct world;

struct event { /* an append, and how it ended */
    struct world *world;
    unsigned number, called;
    enum error_code code;
    uint64_t offset;
    uint32_t size;
};

struct writer {
    struct world *world;
    char stream[16];
    struct crsc_producer *producer;
    unsigned target, made, done, opened, broken;
    enum error_code opened_code, broken_code;
    struct event events[EVENTS_MAX];
};

struct world {
    uv_loop_t loop;
    uv_timer_t hang, pulse;
    uv_prepare_t steps;
    struct fake_cluster *cluster;
    struct crsc_client *client;
    uint64_t random;
    struct writer writers[2];
    unsigned n_writers;
    struct crsc_follow *follow;
    uint64_t followed; /* highest offset seen of writers[0].stream */
    unsigned follow_ends, pauses;
    unsigned callbacks, close_at; /* close the client at this one; 0: never */
    bool closing, closed, big;
    unsigned calls_made, calls_ended;
    enum error_code last_code;
    uint64_t end;
    char last_text[ERROR_TEXT_MAX];
    uint64_t seed;
};

static void on_hang(uv_timer_t *timer)
{
    struct world *w = timer->data;
    for (unsigned i = 0; i < w->n_writers; i++)
        fprintf(stderr, "writer %u: made %u, done %u, opened %u, broken %d\n", i, w->writers[i].made,
                w->writers[i].done, w->writers[i].opened, w->writers[i].broken_code);
    fprintf(stderr, "hangs: seed %" PRIu64 " close_at %u callbacks %u followed %" PRIu64 "\n", w->seed, w->close_at,
            w->callbacks, w->followed);
    abort();
}

static void on_closed(void *user)
{
    struct world *w = user;
    assert_false(w->closed);
    w->closed = true;
}

static void close_client(struct world *w)
{
    if (w->closing) return;
    w->closing = true;
    crsc_client_close(w->client, on_closed, w);
}

/* Every callback of the user's passes here: that is where the test closes the client under it. */
static void note(struct world *w, const struct error *e)
{
    assert_false(w->closed);
    w->last_code = e != NULL ? e->code : ERROR_NONE;
    if (e != NULL) snprintf(w->last_text, sizeof w->last_text, "%s", e->text);
    if (++w->callbacks == w->close_at) close_client(w);
}

static struct world *world_new(unsigned servers, uint64_t seed, const char *addresses, uint32_t timeout_ms)
{
    struct world *w = calloc(1, sizeof *w);
    struct error e;
    w->seed = seed;
    w->random = seed;
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->hang);
    uv_timer_init(&w->loop, &w->pulse);
    uv_prepare_init(&w->loop, &w->steps);
    w->hang.data = w->pulse.data = w->steps.data = w;
    uv_timer_start(&w->hang, on_hang, HANG_MS, 0);
    if (servers > 0) w->cluster = fake_cluster_start(&w->loop, servers, seed);
    struct crsc_client_options o = {.servers = addresses != NULL ? addresses : fake_cluster_addresses(w->cluster),
                                    .timeout_ms = timeout_ms,
                                    .window_bytes = 1 << 20};
    assert_int_equal(crsc_client_new(&w->loop, &o, &w->client, &e), 0);
    return w;
}

static void world_free(struct world *w)
{
    close_client(w);
    while (!w->closed) uv_run(&w->loop, UV_RUN_ONCE);
    if (w->cluster != NULL) fake_cluster_stop(w->cluster);
    uv_close((uv_handle_t *)&w->pulse, NULL);
    uv_close((uv_handle_t *)&w->steps, NULL);
    uv_unref((uv_handle_t *)&w->hang); /* it watches over the end as well */
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&w->hang, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0); /* nothing of the client's is left in it */
    free(w);
}

#define RUN_UNTIL(w, condition)                                                                                        \
    while (!(condition)) uv_run(&(w)->loop, UV_RUN_ONCE)

/* ---- writers -------------------------------------------------------------------------------------------------- */

static void fill(const struct event *e, const struct writer *wr, uint8_t *to)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%s %u ", wr->stream, e->number);
    for (uint32_t i = 0; i < e->size; i++) to[i] = (uint8_t)text[i % (uint32_t)n];
}

static void pump(struct writer *wr);

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct event *event = user;
    struct writer *wr = &event->world->writers[0];
    while (event < wr->events || event >= wr->events + EVENTS_MAX) wr++;
    event->called++;
    event->code = e != NULL ? e->code : ERROR_NONE;
    event->offset = offset;
    assert_int_equal(wr->done, event->number); /* in order */
    wr->done++;
    note(event->world, e);
    if (e == NULL && !event->world->closing) pump(wr);
}

static void pump(struct writer *wr)
{
    struct world *w = wr->world;
    static uint8_t payload[400 << 10];
    unsigned burst = 1 + (unsigned)(fake_random(&w->random) % 6);
    while (!w->closing && wr->opened == 1 && wr->opened_code == 0 && burst-- > 0 && wr->made < wr->target &&
           wr->made - wr->done < 64) {
        struct event *event = &wr->events[wr->made];
        uint64_t r = fake_random(&w->random);
        *event = (struct event){.world = w, .number = wr->made, .size = (uint32_t)(r % 700)};
        if (w->big && r % 40 == 0) event->size = 300 << 10;
        fill(event, wr, payload);
        struct crsc_event c = {.kind = CRSC_REQUEST, .payload = payload, .size = event->size};
        int rv = crsc_append(wr->producer, &c, on_appended, event);
        if (rv != 0) {
            if (rv != -ERROR_BUSY && wr->broken == 0) fail_msg("append: %s", error_name(rv));
            return;
        }
        wr->made++;
    }
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last)
{
    struct writer *wr = user;
    (void)last;
    wr->opened++;
    wr->opened_code = e != NULL ? e->code : ERROR_NONE;
    assert_true((e == NULL) == (epoch > 0));
    note(wr->world, e);
    if (e == NULL && !wr->world->closing) pump(wr);
}

static void on_broken(void *user, const struct error *e)
{
    struct writer *wr = user;
    wr->broken++;
    wr->broken_code = e->code;
    assert_int_equal(wr->done, wr->made); /* all were answered first */
    note(wr->world, e);
}

static void add_writer(struct world *w, unsigned target)
{
    struct writer *wr = &w->writers[w->n_writers++];
    struct error e;
    wr->world = w;
    wr->target = target;
    snprintf(wr->stream, sizeof wr->stream, "s/%u", w->n_writers);
    assert_int_equal(
        crsc_producer_open(w->client, wr->stream, "test", false, on_opened, on_broken, wr, &wr->producer, &e), 0);
}

static void on_pulse(uv_timer_t *timer)
{
    struct world *w = timer->data;
    for (unsigned i = 0; i < w->n_writers && !w->closing; i++) pump(&w->writers[i]);
}

/* The truth against what was told: every acknowledged event is there at its offset, once, in order. */
static void verify_writer(struct world *w, const struct writer *wr, bool complete)
{
    static uint8_t expected[400 << 10];
    uint64_t last = fake_cluster_last(w->cluster, wr->stream), previous = 0;
    for (unsigned i = 0; i < wr->made; i++) {
        const struct event *e = &wr->events[i];
        uint32_t size = 0;
        if (e->called != 1) fail_msg("seed %" PRIu64 ": event %u had %u callbacks", w->seed, i, e->called);
        if (e->code != ERROR_NONE) continue;
        const void *is = fake_cluster_event(w->cluster, wr->stream, e->offset, &size);
        fill(e, wr, expected);
        if (is == NULL || size != e->size || memcmp(is, expected, size) != 0)
            fail_msg("seed %" PRIu64 ": event %u is not at %" PRIu64, w->seed, i, e->offset);
        assert_true(e->offset > previous);
        previous = e->offset;
    }
    if (complete && last != wr->made)
        fail_msg("seed %" PRIu64 ": %" PRIu64 " in the log of %u", w->seed, last, wr->made);
    assert_true(last <= wr->made);
    assert_int_equal(fake_cluster_violations(w->cluster), 0);
}

/* ---- a follower ----------------------------------------------------------------------------------------------- */

static void on_resume(uv_timer_t *timer);

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct world *w = user;
    (void)last;
    assert_int_equal(w->follow_ends, 0); /* an error is the last call */
    if (e != NULL) {
        w->follow_ends++;
    } else {
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++) {
            uint32_t size;
            const void *is = fake_cluster_event(w->cluster, "s/1", events[i].offset, &size);
            if (events[i].offset != w->followed + 1 || size != events[i].size ||
                memcmp(is, events[i].payload, size) != 0)
                fail_msg("seed %" PRIu64 ": %" PRIu64 " follows %" PRIu64, w->seed, events[i].offset, w->followed);
            w->followed++;
        }
        if (fake_random(&w->random) % 3 == 0) {
            crsc_follow_pause(w->follow);
            w->pauses++;
            uv_timer_start(&w->pulse, on_resume, 3, 0);
        }
    }
    note(w, e);
}

static void on_resume(uv_timer_t *timer)
{
    struct world *w = timer->data;
    if (!w->closing) crsc_follow_resume(w->follow);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    on_pulse(timer);
}

static const struct fake_faults everything = {.drop_before = 15,
                                              .drop_after = 15,
                                              .not_leader = 15,
                                              .unavailable = 10,
                                              .busy = 25,
                                              .garbage = 10,
                                              .repeats = 200,
                                              .new_leader = 5};

static void exactly_once_whatever_happens(void **state)
{
    (void)state;
    unsigned duplicates = 0, pauses = 0, gathered = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world *w = world_new(3, seed, NULL, 30000);
        w->big = seed % 4 == 0;
        fake_cluster_faults(w->cluster, &everything);
        add_writer(w, 300);
        add_writer(w, 200);
        assert_int_equal(crsc_follow(w->client, "s/1", 1, on_events, w, &w->follow), 0);
        uv_timer_start(&w->pulse, on_pulse, 1, 1);
        RUN_UNTIL(w, w->writers[0].done == 300 && w->writers[1].done == 200 && w->followed == 300);
        verify_writer(w, &w->writers[0], true);
        verify_writer(w, &w->writers[1], true);
        for (unsigned i = 0; i < 300; i++) assert_int_equal(w->writers[0].events[i].code, ERROR_NONE);
        duplicates += fake_cluster_duplicates(w->cluster);
        pauses += w->pauses;
        if (fake_cluster_largest_batch(w->cluster) > gathered) gathered = fake_cluster_largest_batch(w->cluster);
        world_free(w);
    }
    /* The test meant to test something: appends were repeated after having been applied, and events travelled together.
     */
    assert_true(duplicates > 20);
    assert_true(pauses > 20);
    assert_true(gathered > 1);
}

/* ---- one connection lost, at each frame in turn --------------------------------------------------------------- */

static void on_call(struct world *w, const struct error *e)
{
    w->calls_ended++;
    note(w, e);
}

static void on_read(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct world *w = user;
    if (e == NULL) {
        assert_int_equal(n, 20);
        assert_int_equal(last, 20);
        assert_int_equal(events[19].offset, 20);
    }
    on_call(w, e);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    if (e == NULL) assert_true(n == 1 && streams[0].last_offset == 20);
    on_call(user, e);
}

static void on_end(void *user, const struct error *e, uint64_t last_offset)
{
    ((struct world *)user)->end = last_offset;
    on_call(user, e);
}

static void on_fenced(void *user, const struct error *e, uint64_t epoch)
{
    if (e == NULL) assert_true(epoch > 0);
    on_call(user, e);
}

/* Open, 20 appends, follow, read, list, fence. True when the drop came into play. */
static bool one_course(unsigned nth, bool after)
{
    struct world *w = world_new(2, nth, NULL, 30000);
    fake_cluster_lead(w->cluster, 1);
    fake_cluster_drop_at(w->cluster, nth, after);
    add_writer(w, 20);
    assert_int_equal(crsc_follow(w->client, "s/1", 1, on_events, w, &w->follow), 0);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    RUN_UNTIL(w, w->writers[0].done == 20 && w->followed == 20);
    assert_int_equal(crsc_read(w->client, "s/1", 1, 0, 0, on_read, w), 0);
    assert_int_equal(crsc_list_streams(w->client, "", on_streams, w), 0);
    RUN_UNTIL(w, w->calls_ended == 2);
    assert_int_equal(w->last_code, ERROR_NONE);
    assert_int_equal(crsc_fence(w->client, "s/1", 0, on_fenced, w), 0);
    RUN_UNTIL(w, w->calls_ended == 3);
    assert_int_equal(w->last_code, ERROR_NONE);
    assert_int_equal(crsc_stream_end(w->client, "s/1", on_end, w), 0);
    RUN_UNTIL(w, w->calls_ended == 4);
    assert_true(w->last_code == ERROR_NONE && w->end == 20);
    verify_writer(w, &w->writers[0], true);
    bool came = fake_cluster_frames(w->cluster) >= nth;
    world_free(w);
    return came;
}

static void a_connection_lost_at_any_frame(void **state)
{
    (void)state;
    for (int after = 0; after < 2; after++) {
        unsigned nth = 1;
        while (nth < 200 && one_course(nth, after != 0)) nth++;
        assert_in_range(nth, 15, 199); /* every frame of the course had its turn */
    }
}

/* ---- closing -------------------------------------------------------------------------------------------------- */

static void one_close(unsigned at, bool in_callback)
{
    struct world *w = world_new(3, at, NULL, 30000);
    fake_cluster_faults(w->cluster, &everything);
    if (in_callback) w->close_at = at;
    add_writer(w, 60);
    add_writer(w, 60);
    assert_int_equal(crsc_follow(w->client, "s/1", 1, on_events, w, &w->follow), 0);
    /* s/1 may not be there yet, so nothing is asked of these but to end once */
    for (int i = 0; i < 3; i++) assert_int_equal(crsc_fence(w->client, "s/9", 0, on_fenced, w), 0);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    for (unsigned step = 0; !w->closing && w->calls_ended < 1000; step++) {
        if (!in_callback && step == at)
            close_client(w);
        else if (w->writers[0].done == 60 && w->writers[1].done == 60 && w->followed >= 60)
            break;
        else
            uv_run(&w->loop, UV_RUN_ONCE);
    }
    close_client(w);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(w->writers[i].opened, 1);
        assert_int_equal(w->writers[i].broken, 0);
        assert_int_equal(w->writers[i].done, w->writers[i].made);
        verify_writer(w, &w->writers[i], false);
    }
    assert_int_equal(w->calls_ended, 3);
    assert_int_equal(w->follow_ends, 1);
    if (!w->closed) assert_int_equal(crsc_fence(w->client, "s/9", 0, on_fenced, w), -ERROR_CANCELED);
    world_free(w);
}

static void closed_at_any_moment_each_ends_once(void **state)
{
    (void)state;
    for (unsigned at = 0; at < 120; at++) one_close(at, false);
    for (unsigned at = 1; at < 120; at++) one_close(at, true);
}

static void a_producer_closed_alone(void **state)
{
    (void)state;
    struct world *w = world_new(1, 7, NULL, 30000);
    add_writer(w, 100);
    add_writer(w, 100);
    crsc_producer_close(w->writers[1].producer); /* while it opens */
    assert_int_equal(w->writers[1].opened, 1);
    assert_int_equal(w->writers[1].opened_code, ERROR_CANCELED);
    RUN_UNTIL(w, w->writers[0].done > 10);
    w->writers[0].target = w->writers[0].made;
    w->closing = true; /* no more from the callbacks */
    crsc_producer_close(w->writers[0].producer);
    w->closing = false;
    assert_int_equal(w->writers[0].done, w->writers[0].made);
    unsigned callbacks = w->callbacks;
    for (int i = 0; i < 20; i++) uv_run(&w->loop, UV_RUN_ONCE);
    assert_int_equal(w->callbacks, callbacks);
    world_free(w);
}

/* ---- single refusals ------------------------------------------------------------------------------------------ */

static void a_fenced_producer_is_broken(void **state)
{
    (void)state;
    struct world *w = world_new(1, 1, NULL, 30000);
    add_writer(w, EVENTS_MAX);
    RUN_UNTIL(w, w->writers[0].done > 5);
    assert_int_equal(crsc_fence(w->client, "s/1", 0, on_fenced, w), 0);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    RUN_UNTIL(w, w->writers[0].broken > 0);
    assert_int_equal(w->writers[0].broken_code, ERROR_FENCED);
    struct crsc_event e = {.kind = CRSC_MARK};
    assert_int_equal(crsc_append(w->writers[0].producer, &e, on_appended, &w->writers[0].events[0]), -ERROR_FENCED);
    verify_writer(w, &w->writers[0], false);
    world_free(w);
}

static void an_append_without_answer_breaks_the_producer(void **state)
{
    (void)state;
    struct world *w = world_new(1, 1, NULL, 3000); /* for the first appends, too, which are to be answered in time */
    add_writer(w, EVENTS_MAX);
    RUN_UNTIL(w, w->writers[0].done > 5);
    fake_cluster_mute(w->cluster, true);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    RUN_UNTIL(w, w->writers[0].broken > 0);
    assert_int_equal(w->writers[0].broken_code, ERROR_TIMEOUT);
    assert_int_equal(w->writers[0].broken, 1);
    assert_non_null(strstr(w->last_text, fake_cluster_address(w->cluster, 0)));
    world_free(w);
}

static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    if (e == NULL) assert_int_equal(status->n_members, 3);
    on_call(user, e);
}

static void without_a_leader_calls_time_out_and_say_why(void **state)
{
    (void)state;
    struct world *w = world_new(3, 1, NULL, 3000);
    fake_cluster_lead(w->cluster, -1);
    assert_int_equal(crsc_list_streams(w->client, "", on_streams, w), 0);
    RUN_UNTIL(w, w->calls_ended == 1);
    assert_int_equal(w->last_code, ERROR_TIMEOUT);
    for (unsigned i = 0; i < 3; i++) assert_non_null(strstr(w->last_text, fake_cluster_address(w->cluster, i)));
    /* each server by itself still answers */
    assert_int_equal(crsc_status(w->client, fake_cluster_address(w->cluster, 2), on_status, w), 0);
    RUN_UNTIL(w, w->calls_ended == 2);
    assert_int_equal(w->last_code, ERROR_NONE);
    fake_cluster_lead(w->cluster, 2);
    assert_int_equal(crsc_status(w->client, NULL, on_status, w), 0);
    RUN_UNTIL(w, w->calls_ended == 3);
    assert_int_equal(w->last_code, ERROR_NONE);
    world_free(w);
}

static void the_rest_of_the_cluster_is_learnt(void **state)
{
    (void)state;
    struct world *w = world_new(3, 1, NULL, 30000);
    struct crsc_client_options o = {.servers = fake_cluster_address(w->cluster, 0)};
    close_client(w);
    RUN_UNTIL(w, w->closed);
    w->closed = w->closing = false;
    assert_int_equal(crsc_client_new(&w->loop, &o, &w->client, NULL), 0);
    fake_cluster_lead(w->cluster, 2);
    add_writer(w, 10);
    uv_timer_start(&w->pulse, on_pulse, 1, 1);
    RUN_UNTIL(w, w->writers[0].done == 10);
    verify_writer(w, &w->writers[0], true);
    world_free(w);
}

/* ---- strangers ------------------------------------------------------------------------------------------------ */

struct stranger {
    uv_tcp_t listener;
    uv_tcp_t peers[64];
    unsigned n;
    const uint8_t *says;
    unsigned len;
};

static void on_said(uv_write_t *write, int status)
{
    (void)status;
    free(write);
}

static void stranger_alloc(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    static char ignored[4096];
    (void)handle, (void)size;
    *ret = uv_buf_init(ignored, sizeof ignored);
}

static void stranger_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    if (n < 0 && !uv_is_closing((uv_handle_t *)stream)) uv_close((uv_handle_t *)stream, NULL);
}

static void on_stranger(uv_stream_t *listener, int status)
{
    struct stranger *s = listener->data;
    assert_int_equal(status, 0);
    if (s->n == 64) return;
    uv_tcp_t *peer = &s->peers[s->n++];
    uv_tcp_init(listener->loop, peer);
    uv_accept(listener, (uv_stream_t *)peer);
    uv_write_t *write = malloc(sizeof *write);
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)s->says, s->len);
    uv_write(write, (uv_stream_t *)peer, &b, 1, on_said);
    uv_read_start((uv_stream_t *)peer, stranger_alloc, stranger_read);
}

static void strangers_are_survived(void **state)
{
    (void)state;
    static const uint8_t zeros[64];
    static uint8_t huge[32] = {'C', 'R', 'S', '1', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    const struct {
        const void *bytes;
        unsigned len;
    } said[] = {
        {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", 47}, {zeros, 64}, {huge, 32}, {"CRS1", 4}, {"", 0}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        struct stranger *s = calloc(1, sizeof *s);
        struct sockaddr_in a;
        int len = sizeof a;
        char address[32];
        struct world *w = world_new(0, 1, "127.0.0.1:9", 30000);
        close_client(w);
        RUN_UNTIL(w, w->closed);
        w->closed = w->closing = false;
        s->says = said[i].bytes;
        s->len = said[i].len;
        s->listener.data = s;
        uv_ip4_addr("127.0.0.1", 0, &a);
        uv_tcp_init(&w->loop, &s->listener);
        uv_tcp_bind(&s->listener, (struct sockaddr *)&a, 0);
        uv_listen((uv_stream_t *)&s->listener, 16, on_stranger);
        uv_tcp_getsockname(&s->listener, (struct sockaddr *)&a, &len);
        snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(a.sin_port));
        struct crsc_client_options o = {.servers = address, .timeout_ms = 200};
        assert_int_equal(crsc_client_new(&w->loop, &o, &w->client, NULL), 0);
        assert_int_equal(crsc_list_streams(w->client, "", on_streams, w), 0);
        assert_int_equal(crsc_status(w->client, address, on_status, w), 0);
        RUN_UNTIL(w, w->calls_ended == 2);
        assert_true(w->last_code != ERROR_NONE);
        uv_close((uv_handle_t *)&s->listener, NULL);
        for (unsigned k = 0; k < s->n; k++)
            if (!uv_is_closing((uv_handle_t *)&s->peers[k])) uv_close((uv_handle_t *)&s->peers[k], NULL);
        world_free(w);
        free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_once_whatever_happens),
        cmocka_unit_test(a_connection_lost_at_any_frame),
        cmocka_unit_test(closed_at_any_moment_each_ends_once),
        cmocka_unit_test(a_producer_closed_alone),
        cmocka_unit_test(a_fenced_producer_is_broken),
        cmocka_unit_test(an_append_without_answer_breaks_the_producer),
        cmocka_unit_test(without_a_leader_calls_time_out_and_say_why),
        cmocka_unit_test(the_rest_of_the_cluster_is_learnt),
        cmocka_unit_test(strangers_are_survived),
    };
    signal(SIGPIPE, SIG_IGN); /* as every program that uses libuv must */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
