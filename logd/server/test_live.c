/* The real crsc-logd as a process, spoken to over plain sockets: bytes that are no protocol, refusals and exit statuses,
 * restart, follow, a cluster of three.
 *
 *   test_live PATH-OF-CRSC-LOGD */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/frame.h"
#include "proto/rpc.pb-c.h"

enum { ARGS_MAX = 24, WAIT_S = 120 };
static const char *program;
static char root_dir[64];
static pid_t started[256]; /* 0 once it has ended: a failed test must not leave a server behind */

/* ---- processes ------------------------------------------------------------------------------------------------ */

struct server {
    pid_t pid;
    int port;
    char log[128];
};

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

/* Runs it with `args` (separated by spaces) added; stderr goes to a file of its own. */
static void spawn(struct server *s, const char *args)
{
    static unsigned number;
    char *argv[ARGS_MAX] = {(char *)(uintptr_t)program}, copy[1024], *rest = copy;
    snprintf(copy, sizeof copy, "%s", args);
    for (int n = 1; n < ARGS_MAX - 1 && (argv[n] = strsep(&rest, " ")) != NULL; n++) continue;
    snprintf(s->log, sizeof s->log, "%s/log.%u", root_dir, number++);
    s->port = 0;
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid > 0) started[number % 256] = s->pid;
    if (s->pid == 0) {
        int fd = open(s->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 2);
        execv(program, argv);
        _exit(127);
    }
}

static bool log_has(const struct server *s, const char *needle, char *line, size_t size)
{
    FILE *f = fopen(s->log, "r");
    bool found = false;
    while (f != NULL && !found && fgets(line, (int)size, f) != NULL) found = strstr(line, needle) != NULL;
    if (f != NULL) fclose(f);
    return found;
}

static void wait_ready(struct server *s)
{
    char line[2048];
    for (int i = 0; i < WAIT_S * 200; i++, nap()) {
        if (log_has(s, "\"msg\":\"ready\"", line, sizeof line)) {
            char *at = strstr(line, "\"listen\":\"127.0.0.1:");
            assert_non_null(at);
            s->port = atoi(at + strlen("\"listen\":\"127.0.0.1:"));
            return;
        }
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid) fail_msg("it ended instead of getting ready: see %s", s->log);
    }
    fail_msg("it did not get ready: see %s", s->log);
}

static void start(struct server *s, const char *args)
{
    spawn(s, args);
    wait_ready(s);
}

static int wait_exit(struct server *s)
{
    int status;
    for (int i = 0; i < WAIT_S * 200; i++, nap())
        if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
            for (int k = 0; k < 256; k++)
                if (started[k] == s->pid) started[k] = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        }
    kill(s->pid, SIGKILL);
    waitpid(s->pid, &status, 0);
    fail_msg("it did not end: see %s", s->log);
    return -1;
}

static int stop(struct server *s, int signal_number)
{
    kill(s->pid, signal_number);
    return wait_exit(s);
}

static void run_ends_with(const char *args, int status, const char *says)
{
    struct server s;
    char line[2048];
    spawn(&s, args);
    int got = wait_exit(&s);
    if (got != status) fail_msg("\"%s\" ended with %d, not %d: see %s", args, got, status, s.log);
    if (!log_has(&s, says, line, sizeof line)) fail_msg("\"%s\" did not say \"%s\": see %s", args, says, s.log);
}

static const char *single(const char *name)
{
    static char args[256];
    snprintf(args, sizeof args, "--listen 127.0.0.1:0 --segment-size 1MiB --data-dir %s/%s", root_dir, name);
    return args;
}

/* ---- a socket ------------------------------------------------------------------------------------------------- */

struct link {
    int fd;
    struct buf in;
    struct frame f; /* the last one received; points into `in` */
    size_t used;
};

static void dial(struct link *l, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = WAIT_S};
    *l = (struct link){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_true(l->fd >= 0);
    setsockopt(l->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(l->fd, (struct sockaddr *)&a, sizeof a), 0);
}

static void hang_up(struct link *l)
{
    close(l->fd);
    buf_fini(&l->in);
}

static void put(struct link *l, const void *bytes, size_t len)
{
    assert_int_equal(send(l->fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void ask_raw(struct link *l, uint16_t type, uint64_t id, const void *head, size_t head_len, const void *body, size_t body_len)
{
    struct buf bytes = BUF_INIT;
    struct frame f = {.type = type, .id = id, .head = head, .head_len = head_len, .body = body, .body_len = body_len};
    assert_int_equal(frame_encode(&bytes, &f), 0);
    put(l, bytes.data, bytes.len);
    buf_fini(&bytes);
}

static void ask(struct link *l, uint16_t type, uint64_t id, const ProtobufCMessage *m, const void *body, size_t body_len)
{
    uint8_t head[8192];
    assert_true(protobuf_c_message_get_packed_size(m) <= sizeof head);
    ask_raw(l, type, id, head, protobuf_c_message_pack(m, head), body, body_len);
}

/* Waits for a frame: 1, or 0 when the server closed the connection. */
static int get(struct link *l)
{
    struct error e;
    buf_consume(&l->in, l->used);
    l->used = 0;
    for (;;) {
        int64_t size = frame_decode(l->in.data, l->in.len, &l->f, &e);
        assert_true(size >= 0);
        if (size > 0) {
            l->used = (size_t)size;
            return 1;
        }
        assert_int_equal(buf_reserve(&l->in, 65536), 0);
        ssize_t n = recv(l->fd, l->in.data + l->in.len, 65536, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return 0;
        if (n < 0) fail_msg("nothing came: %s", strerror(errno));
        l->in.len += (size_t)n;
    }
}

static void expect_reply(struct link *l, uint16_t type, uint64_t id)
{
    assert_int_equal(get(l), 1);
    if (l->f.type == (FRAME_ERROR | FRAME_REPLY)) {
        Crsc__ErrorReply *r = crsc__error_reply__unpack(NULL, l->f.head_len, l->f.head);
        fail_msg("refused with %u: %s", r->code, r->text);
    }
    assert_int_equal(l->f.type, type | FRAME_REPLY);
    assert_int_equal(l->f.id, id);
}

/* The refusal with its leader's address, if `leader` is given. */
static void expect_error(struct link *l, uint64_t id, enum error_code code, char *leader)
{
    assert_int_equal(get(l), 1);
    assert_int_equal(l->f.type, FRAME_ERROR | FRAME_REPLY);
    assert_int_equal(l->f.id, id);
    Crsc__ErrorReply *r = crsc__error_reply__unpack(NULL, l->f.head_len, l->f.head);
    assert_non_null(r);
    assert_int_equal(r->code, code);
    assert_true(strlen(r->text) > 5);
    if (leader != NULL) snprintf(leader, 64, "%s", r->leader_address);
    crsc__error_reply__free_unpacked(r, NULL);
}

static void greet(struct link *l, int port)
{
    Crsc__Hello m = CRSC__HELLO__INIT;
    m.version = 1;
    m.software = (char *)(uintptr_t) "test_live";
    dial(l, port);
    ask(l, FRAME_HELLO, 1, &m.base, NULL, 0);
    expect_reply(l, FRAME_HELLO, 1);
}

static Crsc__StatusReply *status_of(int port)
{
    Crsc__StatusRequest m = CRSC__STATUS_REQUEST__INIT;
    struct link l;
    greet(&l, port);
    ask(&l, FRAME_STATUS, 7, &m.base, NULL, 0);
    expect_reply(&l, FRAME_STATUS, 7);
    Crsc__StatusReply *r = crsc__status_reply__unpack(NULL, l.f.head_len, l.f.head);
    assert_non_null(r);
    hang_up(&l);
    return r;
}

static void expect_alive(int port)
{
    Crsc__StatusReply *r = status_of(port);
    crsc__status_reply__free_unpacked(r, NULL);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static char *const stream_name = (char *)(uintptr_t) "test/ns/kind/name";

static uint64_t open_producer(struct link *l)
{
    Crsc__OpenProducerRequest m = CRSC__OPEN_PRODUCER_REQUEST__INIT;
    m.stream = stream_name;
    m.producer = (char *)(uintptr_t) "test_live";
    ask(l, FRAME_OPEN_PRODUCER, 2, &m.base, NULL, 0);
    expect_reply(l, FRAME_OPEN_PRODUCER, 2);
    Crsc__OpenProducerReply *r = crsc__open_producer_reply__unpack(NULL, l->f.head_len, l->f.head);
    uint64_t epoch = r->epoch;
    crsc__open_producer_reply__free_unpacked(r, NULL);
    return epoch;
}

static void ask_append(struct link *l, uint64_t epoch, uint64_t sequence)
{
    Crsc__AppendRequest m = CRSC__APPEND_REQUEST__INIT;
    Crsc__EventHead head = CRSC__EVENT_HEAD__INIT, *list = &head;
    char payload[64];
    head.kind = CRSC__EVENT_KIND__REQUEST;
    head.size = (uint32_t)snprintf(payload, sizeof payload, "payload %llu", (unsigned long long)sequence);
    m.stream = stream_name;
    m.epoch = epoch;
    m.sequence = sequence;
    m.n_events = 1;
    m.events = &list;
    ask(l, FRAME_APPEND, 100 + sequence, &m.base, payload, head.size);
}

static uint64_t expect_appended(struct link *l, uint64_t sequence, bool duplicate)
{
    expect_reply(l, FRAME_APPEND, 100 + sequence);
    Crsc__AppendReply *r = crsc__append_reply__unpack(NULL, l->f.head_len, l->f.head);
    uint64_t offset = r->first_offset;
    assert_int_equal(r->count, 1);
    assert_int_equal(r->duplicate, duplicate);
    crsc__append_reply__free_unpacked(r, NULL);
    return offset;
}

/* Checks a ReadReply in l->f against what ask_append() wrote; returns the offset after its last event. */
static uint64_t check_events(struct link *l, uint64_t next)
{
    Crsc__ReadReply *r = crsc__read_reply__unpack(NULL, l->f.head_len, l->f.head);
    size_t at = 0;
    assert_non_null(r);
    for (size_t i = 0; i < r->n_events; i++, next++) {
        char want[64];
        int len = snprintf(want, sizeof want, "payload %llu", (unsigned long long)next);
        assert_int_equal(r->events[i]->offset, next);
        assert_int_equal(r->events[i]->sequence, next);
        assert_int_equal(r->events[i]->size, len);
        assert_memory_equal(l->f.body + at, want, (size_t)len);
        at += (size_t)len;
    }
    assert_int_equal(at, l->f.body_len);
    crsc__read_reply__free_unpacked(r, NULL);
    return next;
}

static void read_all(struct link *l, uint64_t last)
{
    uint64_t next = 1;
    while (next <= last) {
        Crsc__ReadRequest m = CRSC__READ_REQUEST__INIT;
        m.stream = stream_name;
        m.from = next;
        m.max_bytes = 200; /* many requests, in the middle of runs too */
        ask(l, FRAME_READ, 9, &m.base, NULL, 0);
        expect_reply(l, FRAME_READ, 9);
        uint64_t after = check_events(l, next);
        assert_true(after > next);
        next = after;
    }
    assert_int_equal(next, last + 1);
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

/* The server closes, perhaps after an ErrorReply. */
static void expect_closed(struct link *l)
{
    while (get(l) == 1) assert_int_equal(l->f.type, FRAME_ERROR | FRAME_REPLY);
    hang_up(l);
}

static void test_no_protocol(void **state)
{
    (void)state;
    struct server s;
    struct link l;
    struct buf hello = BUF_INIT;
    start(&s, single("noise"));
    struct frame f = {.type = FRAME_HELLO, .head = (const uint8_t *)"\x08\x01", .head_len = 2};
    assert_int_equal(frame_encode(&hello, &f), 0);

    static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n", noise[] = "\x00\xff\x13\x37 anything at all, long enough for a header";
    uint8_t bytes[64];
    dial(&l, s.port), put(&l, http, sizeof http - 1), expect_closed(&l);
    dial(&l, s.port), put(&l, noise, sizeof noise - 1), expect_closed(&l);
    memcpy(bytes, hello.data, hello.len), put_u32(bytes + 16, UINT32_MAX); /* giant head */
    dial(&l, s.port), put(&l, bytes, hello.len), expect_closed(&l);
    memcpy(bytes, hello.data, hello.len), put_u32(bytes + 20, 1u << 30); /* giant body */
    dial(&l, s.port), put(&l, bytes, hello.len), expect_closed(&l);
    memcpy(bytes, hello.data, hello.len), bytes[32] ^= 1; /* wrong checksum */
    dial(&l, s.port), put(&l, bytes, hello.len), expect_closed(&l);
    for (size_t len = 0; len < hello.len; len++) dial(&l, s.port), put(&l, hello.data, len), hang_up(&l); /* cut anywhere */
    expect_alive(s.port);
    buf_fini(&hello);
    assert_int_equal(stop(&s, SIGTERM), 0);
}

static void refused_hello(int port, uint32_t version, const char *cluster, uint64_t node, enum error_code code)
{
    Crsc__Hello m = CRSC__HELLO__INIT;
    struct link l;
    m.version = version;
    m.cluster = (char *)(uintptr_t)cluster;
    m.node_id = node;
    dial(&l, port);
    ask(&l, FRAME_HELLO, 5, &m.base, NULL, 0);
    expect_error(&l, 5, code, NULL);
    assert_int_equal(get(&l), 0);
    hang_up(&l);
}

static void test_bad_requests(void **state)
{
    (void)state;
    struct server s;
    struct link l;
    start(&s, single("requests"));
    refused_hello(s.port, 2, "", 0, ERROR_PROTOCOL);
    refused_hello(s.port, 1, "other", 0, ERROR_INVALID);
    refused_hello(s.port, 1, "crsc", 1, ERROR_INVALID); /* ourselves */
    refused_hello(s.port, 1, "crsc", 9, ERROR_UNAVAILABLE); /* a stranger: it may be added */
    refused_hello(s.port, 1, "", 9, ERROR_INVALID);

    dial(&l, s.port);
    ask_raw(&l, FRAME_STATUS, 3, NULL, 0, NULL, 0); /* no HELLO */
    expect_error(&l, 3, ERROR_PROTOCOL, NULL);
    expect_closed(&l);
    dial(&l, s.port);
    ask_raw(&l, FRAME_HELLO, 3, "\xff\xff\xff", 3, NULL, 0);
    expect_error(&l, 3, ERROR_PROTOCOL, NULL);
    expect_closed(&l);

    static const uint16_t strange[] = {0, FRAME_HELLO, 77, FRAME_RAFT, FRAME_READ_PROBE, FRAME_STATUS | FRAME_REPLY, 0xffff};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        greet(&l, s.port);
        ask_raw(&l, strange[i], 4, NULL, 0, NULL, 0);
        expect_error(&l, 4, ERROR_PROTOCOL, NULL);
        expect_closed(&l);
    }

    /* A request that cannot be understood or obeyed is refused; the connection goes on. */
    static const uint16_t types[] = {FRAME_OPEN_PRODUCER, FRAME_APPEND, FRAME_FENCE, FRAME_RECORD_SNAPSHOT, FRAME_READ, FRAME_FOLLOW,
                                     FRAME_LATEST_SNAPSHOT, FRAME_LIST_SNAPSHOTS};
    greet(&l, s.port);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        ask_raw(&l, types[i], 5, "\xff\xff\xff", 3, "x", 1);
        assert_int_equal(get(&l), 1);
        assert_int_equal(l.f.type, FRAME_ERROR | FRAME_REPLY);
        ask_raw(&l, types[i], 6, NULL, 0, NULL, 0); /* an empty message lacks what it must have */
        expect_error(&l, 6, ERROR_INVALID, NULL);
    }
    Crsc__ReadRequest read = CRSC__READ_REQUEST__INIT;
    read.stream = stream_name;
    read.from = 1;
    ask(&l, FRAME_READ, 8, &read.base, NULL, 0);
    expect_error(&l, 8, ERROR_NOT_FOUND, NULL);
    uint64_t epoch = open_producer(&l);
    ask_append(&l, epoch, 2); /* skips 1 */
    expect_error(&l, 102, ERROR_SEQUENCE, NULL);
    uint64_t old = epoch;
    epoch = open_producer(&l);
    ask_append(&l, old, 1);
    expect_error(&l, 101, ERROR_FENCED, NULL);
    ask_append(&l, epoch, 1);
    assert_int_equal(expect_appended(&l, 1, false), 1);
    hang_up(&l);
    assert_int_equal(stop(&s, SIGTERM), 0);
}

/* Frames that are well formed outside and random inside, of every type. */
static void test_random_heads(void **state)
{
    (void)state;
    static const uint16_t types[] = {FRAME_OPEN_PRODUCER, FRAME_APPEND, FRAME_FENCE, FRAME_RECORD_SNAPSHOT, FRAME_READ, FRAME_FOLLOW,
                                     FRAME_FOLLOW_CREDIT, FRAME_FOLLOW_CANCEL, FRAME_LATEST_SNAPSHOT, FRAME_LIST_SNAPSHOTS,
                                     FRAME_LIST_STREAMS, FRAME_STATUS};
    uint64_t x = 424242;
    struct server s;
    struct link l;
    print_message("seed %llu\n", (unsigned long long)x);
    start(&s, single("random"));
    greet(&l, s.port);
    for (int i = 0; i < 3000; i++) {
        uint8_t head[48];
        size_t len = 0, want = (size_t)(x >> 33) % sizeof head;
        while (len < want) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            head[len++] = (x >> 60) < 8 ? (uint8_t)((x >> 40) % 7 << 3 | (x >> 50) % 3) : (uint8_t)(x >> 35);
        }
        ask_raw(&l, types[(x >> 45) % 12], (uint64_t)i, head, len, head, (x >> 20) % 5);
        x = x * 6364136223846793005u + 1442695040888963407u;
        if (i % 100 == 99) { /* read nothing in between: answers may fill our side, which must not hurt it either */
            hang_up(&l);
            greet(&l, s.port);
        }
    }
    hang_up(&l);
    expect_alive(s.port);
    assert_int_equal(stop(&s, SIGTERM), 0);
}

static void test_restart(void **state)
{
    (void)state;
    enum { EVENTS = 400 };
    struct server s;
    struct link l;
    start(&s, single("restart"));
    greet(&l, s.port);
    uint64_t epoch = open_producer(&l), done = 0;
    while (done < EVENTS) { /* a kill every hundred events, with some on their way */
        uint64_t first = done + 1;
        for (uint64_t i = 0; i < 100; i++) ask_append(&l, epoch, first + i);
        for (uint64_t i = 0; i < 60; i++) assert_int_equal(expect_appended(&l, first + i, false), first + i);
        assert_int_equal(stop(&s, SIGKILL), 1000 + SIGKILL);
        hang_up(&l);
        start(&s, single("restart"));
        greet(&l, s.port);
        for (uint64_t i = 0; i < 60; i++) { /* acknowledged ones are there: a repetition changes nothing */
            ask_append(&l, epoch, first + i);
            assert_int_equal(expect_appended(&l, first + i, true), first + i);
        }
        done += 60;
        for (uint64_t i = 60; i < 100; i++) { /* the others may be or not: a repetition makes sure */
            ask_append(&l, epoch, first + i);
            expect_reply(&l, FRAME_APPEND, 100 + first + i);
            done++;
        }
        read_all(&l, done);
    }
    assert_int_equal(stop(&s, SIGINT), 0);
    hang_up(&l);
    start(&s, single("restart"));
    greet(&l, s.port);
    read_all(&l, EVENTS);
    hang_up(&l);
    assert_int_equal(stop(&s, SIGTERM), 0);
}

static void test_refused_starts(void **state)
{
    (void)state;
    struct server s;
    struct link l;
    char args[512], path[256];
    run_ends_with("--no-such-flag", 2, "no-such-flag");
    run_ends_with("--id 3 --initial-cluster 1=127.0.0.1:1,2=127.0.0.1:2", 2, "initial-cluster");
    run_ends_with("--segment-size 5000", 2, "segment-size");
    run_ends_with("--listen nowhere", 2, "nowhere");
    start(&s, single("own"));
    greet(&l, s.port);
    uint64_t epoch = open_producer(&l);
    ask_append(&l, epoch, 1);
    expect_appended(&l, 1, false);
    hang_up(&l);
    run_ends_with(single("own"), 1, "cannot start"); /* the data directory is in use */
    snprintf(args, sizeof args, "--listen 127.0.0.1:%d --data-dir %s/other", s.port, root_dir);
    run_ends_with(args, 1, "cannot listen");
    assert_int_equal(stop(&s, SIGTERM), 0);
    snprintf(args, sizeof args, "%s --cluster red", single("own"));
    run_ends_with(args, 2, "cluster");
    snprintf(args, sizeof args, "%s --id 2", single("own"));
    run_ends_with(args, 2, "server 1");
    snprintf(args, sizeof args, "%s --initial-cluster-state old", single("own"));
    run_ends_with(args, 2, "neither new nor existing");
    snprintf(path, sizeof path, "%s/own/wal", root_dir); /* an index without its log */
    snprintf(args, sizeof args, "%s.away", path);
    assert_int_equal(rename(path, args), 0);
    run_ends_with(single("own"), 3, "the index has applied entry");
}

static void test_follow(void **state)
{
    (void)state;
    struct server s;
    struct link writer, reader;
    start(&s, single("follow"));
    greet(&writer, s.port);
    greet(&reader, s.port);
    Crsc__FollowRequest m = CRSC__FOLLOW_REQUEST__INIT;
    m.stream = stream_name;
    m.from = 1;
    ask(&reader, FRAME_FOLLOW, 11, &m.base, NULL, 0);
    expect_error(&reader, 11, ERROR_NOT_FOUND, NULL);
    m.wait = 1;
    m.credit = 300;
    ask(&reader, FRAME_FOLLOW, 11, &m.base, NULL, 0);
    ask(&reader, FRAME_FOLLOW, 11, &m.base, NULL, 0);
    expect_error(&reader, 11, ERROR_INVALID, NULL); /* that id is taken */
    uint64_t epoch = open_producer(&writer), next = 1, received = 0;
    for (uint64_t i = 1; i <= 200; i++) ask_append(&writer, epoch, i);
    for (uint64_t i = 1; i <= 200; i++) expect_appended(&writer, i, false);
    while (next <= 200) {
        expect_reply(&reader, FRAME_FOLLOW, 11);
        size_t len = frame_length(&reader.f);
        assert_true(received < 300 && len < 1000); /* never more than the credit and one event */
        next = check_events(&reader, next);
        received += len;
        if (received >= 300) {
            Crsc__FollowCredit credit = CRSC__FOLLOW_CREDIT__INIT;
            credit.bytes = (uint32_t)received;
            ask(&reader, FRAME_FOLLOW_CREDIT, 11, &credit.base, NULL, 0);
            received = 0;
        }
    }
    ask_raw(&reader, FRAME_FOLLOW_CANCEL, 11, NULL, 0, NULL, 0);
    ask_append(&writer, epoch, 201);
    expect_appended(&writer, 201, false);
    Crsc__StatusRequest status = CRSC__STATUS_REQUEST__INIT; /* the next frame is this one's, no event */
    ask(&reader, FRAME_STATUS, 12, &status.base, NULL, 0);
    expect_reply(&reader, FRAME_STATUS, 12);
    hang_up(&reader);
    hang_up(&writer);
    assert_int_equal(stop(&s, SIGTERM), 0);
}

/* Below those that the kernel gives to connections: nobody has it when a server comes to it, or comes back. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (;;) {
        uint16_t random;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(getrandom(&random, sizeof random, 0), sizeof random);
        a.sin_port = htons((uint16_t)(10000 + random % 20000));
        int rv = bind(fd, (struct sockaddr *)&a, sizeof a);
        close(fd);
        if (rv == 0) return ntohs(a.sin_port);
    }
}

static int leader_of(const int *ports, const struct server *s)
{
    for (int i = 0; i < WAIT_S * 200; i++, nap())
        for (int k = 0; k < 3; k++) {
            if (s[k].pid == 0) continue;
            Crsc__StatusReply *r = status_of(ports[k]);
            bool leads = strcmp(r->role, "leader") == 0;
            crsc__status_reply__free_unpacked(r, NULL);
            if (leads) return k;
        }
    fail_msg("there is no leader");
    return -1;
}

static void record_snapshot(struct link *l, uint64_t offset)
{
    Crsc__RecordSnapshotRequest m = CRSC__RECORD_SNAPSHOT_REQUEST__INIT;
    Crsc__Snapshot snapshot = CRSC__SNAPSHOT__INIT;
    char id[32];
    snprintf(id, sizeof id, "snapshot-%llu", (unsigned long long)offset);
    snapshot.stream = stream_name;
    snapshot.id = id;
    snapshot.offset = offset;
    snapshot.state = CRSC__SNAPSHOT_STATE__VALID;
    m.snapshot = &snapshot;
    ask(l, FRAME_RECORD_SNAPSHOT, 20, &m.base, NULL, 0);
    expect_reply(l, FRAME_RECORD_SNAPSHOT, 20);
    Crsc__RecordSnapshotReply *r = crsc__record_snapshot_reply__unpack(NULL, l->f.head_len, l->f.head);
    assert_non_null(r->snapshot);
    assert_string_equal(r->snapshot->id, id);
    assert_true(r->snapshot->recorded_us > 0);
    crsc__record_snapshot_reply__free_unpacked(r, NULL);
}

static void test_three(void **state)
{
    (void)state;
    struct server s[3];
    struct link l;
    int ports[3];
    char args[3][512], leader_address[64], want[64];
    for (int i = 0; i < 3; i++) ports[i] = free_port();
    for (int i = 0; i < 3; i++) {
        snprintf(args[i], sizeof args[i], "--id %d --listen 127.0.0.1:%d --data-dir %s/three%d --election-timeout 2s "
                 "--segment-size 1MiB --initial-cluster 1=127.0.0.1:%d,2=127.0.0.1:%d,3=127.0.0.1:%d",
                 i + 1, ports[i], root_dir, i, ports[0], ports[1], ports[2]);
        spawn(&s[i], args[i]);
    }
    for (int i = 0; i < 3; i++) wait_ready(&s[i]);
    int leader = leader_of(ports, s), follower = (leader + 1) % 3;
    greet(&l, ports[leader]);
    uint64_t epoch = open_producer(&l);
    for (uint64_t i = 1; i <= 50; i++) ask_append(&l, epoch, i);
    for (uint64_t i = 1; i <= 50; i++) assert_int_equal(expect_appended(&l, i, false), i);
    record_snapshot(&l, 10);
    record_snapshot(&l, 40);
    Crsc__LatestSnapshotRequest latest = CRSC__LATEST_SNAPSHOT_REQUEST__INIT;
    latest.stream = stream_name;
    ask(&l, FRAME_LATEST_SNAPSHOT, 21, &latest.base, NULL, 0);
    expect_reply(&l, FRAME_LATEST_SNAPSHOT, 21);
    Crsc__LatestSnapshotReply *r = crsc__latest_snapshot_reply__unpack(NULL, l.f.head_len, l.f.head);
    assert_int_equal(r->snapshot->offset, 40);
    crsc__latest_snapshot_reply__free_unpacked(r, NULL);
    hang_up(&l);

    /* A follower sends writers and linearizable readers to the leader; it serves committed events itself. */
    greet(&l, ports[follower]);
    ask_append(&l, epoch, 51);
    expect_error(&l, 151, ERROR_NOT_LEADER, leader_address);
    snprintf(want, sizeof want, "127.0.0.1:%d", ports[leader]);
    assert_string_equal(leader_address, want);
    ask(&l, FRAME_LATEST_SNAPSHOT, 22, &latest.base, NULL, 0);
    expect_error(&l, 22, ERROR_NOT_LEADER, NULL);
    Crsc__FollowRequest follow = CRSC__FOLLOW_REQUEST__INIT;
    follow.stream = stream_name;
    follow.from = 1;
    follow.wait = 1;
    ask(&l, FRAME_FOLLOW, 23, &follow.base, NULL, 0);
    for (uint64_t next = 1; next <= 50;) {
        expect_reply(&l, FRAME_FOLLOW, 23);
        next = check_events(&l, next);
    }
    hang_up(&l);

    /* The leader dies; the other two go on, and exactly once holds across them. */
    stop(&s[leader], SIGKILL);
    s[leader].pid = 0;
    int next_leader = leader_of(ports, s);
    greet(&l, ports[next_leader]);
    ask_append(&l, epoch, 50);
    assert_int_equal(expect_appended(&l, 50, true), 50);
    ask_append(&l, epoch, 51);
    assert_int_equal(expect_appended(&l, 51, false), 51);
    read_all(&l, 51);
    hang_up(&l);
    start(&s[leader], args[leader]);
    for (int i = 0; i < 3; i++) assert_int_equal(stop(&s[i], SIGTERM), 0);
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root_dir, sizeof root_dir, "/tmp/crsc-live-XXXXXX");
    return mkdtemp(root_dir) == NULL ? -1 : 0;
}

static int remove_root(void **state)
{
    char command[128];
    (void)state;
    for (int k = 0; k < 256; k++)
        if (started[k] > 0) kill(started[k], SIGKILL), waitpid(started[k], NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", root_dir);
    return system(command);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_protocol), cmocka_unit_test(test_bad_requests),   cmocka_unit_test(test_random_heads),
        cmocka_unit_test(test_restart),     cmocka_unit_test(test_refused_starts), cmocka_unit_test(test_follow),
        cmocka_unit_test(test_three),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: test_live PATH-OF-CRSC-LOGD\n");
        return 2;
    }
    program = argv[1];
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
