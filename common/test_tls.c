/* TLS sessions in memory, and below connections on loopback: who is let in, who is not, what each side is told, and reloading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "common/conn.h"
#include "common/tls.h"
#include "common/tls_watch.h"
#include "common/testing_pki.h"

static struct pki *pki;

static int make_pki(void **state)
{
    (void)state;
    pki = pki_new();
    pki_ca(pki, "ca");
    pki_ca(pki, "other-ca");
    pki_issue(pki, "ca", "server", "DNS:localhost,DNS:logd.example,IP:127.0.0.1,URI:crsc://role/peer/1", 24);
    pki_issue(pki, "ca", "client", "URI:crsc://role/producer/demo/*,URI:crsc://role/reader/*", 24);
    pki_issue(pki, "ca", "expired", "DNS:localhost,IP:127.0.0.1", -1);
    pki_issue(pki, "other-ca", "stranger", "DNS:localhost,IP:127.0.0.1,URI:crsc://role/admin", 24);
    return 0;
}

static int drop_pki(void **state)
{
    (void)state;
    pki_free(pki);
    return 0;
}

static struct tls_context *context(enum tls_side side, const char *ca, const char *name, const char *protocol)
{
    struct tls_context *c = NULL;
    struct error e = {0};
    char cert[64], key[64];
    snprintf(cert, sizeof cert, "%s.pem", name);
    snprintf(key, sizeof key, "%s.key", name);
    struct tls_options o = {.side = side, .ca = pki_path(pki, ca), .cert = name[0] ? pki_path(pki, cert) : "",
                            .key = name[0] ? pki_path(pki, key) : "", .protocol = protocol};
    if (tls_context_new(&o, &c, &e) != 0) fail_msg("%s", e.text);
    return c;
}

/* ---- in memory ------------------------------------------------------------------------------------------------ */

struct side {
    struct tls *tls;
    struct buf plain;
    struct error e;
    int rv;
};

/* Carries bytes between both, `piece` at a time, until nobody has any more. */
static void carry(struct side *a, struct side *b, size_t piece)
{
    struct side *from = a, *to = b;
    for (int idle = 0; idle < 2;) {
        struct buf *out = tls_outgoing(from->tls);
        idle = out->len == 0 ? idle + 1 : 0;
        for (size_t at = 0; at < out->len; at += piece) {
            size_t n = out->len - at < piece ? out->len - at : piece;
            if (to->rv == 0) to->rv = tls_receive(to->tls, out->data + at, n, &to->plain, &to->e);
        }
        out->len = 0;
        struct side *swap = from;
        from = to;
        to = swap;
    }
}

static void side_fini(struct side *s)
{
    tls_free(s->tls);
    buf_fini(&s->plain);
}

/* A whole handshake; what each side thinks of it is in its `rv` and `e`. */
static void meet(struct tls_context *server, struct tls_context *client, const char *name, struct side *ret_server, struct side *ret_client)
{
    memset(ret_server, 0, sizeof *ret_server);
    memset(ret_client, 0, sizeof *ret_client);
    assert_non_null(ret_server->tls = tls_new(server, NULL, NULL));
    assert_non_null(ret_client->tls = tls_new(client, name, NULL));
    carry(ret_client, ret_server, 100000);
}

static bool says(const struct side *s, int code, const char *text)
{
    if (s->rv == -code && strstr(s->e.text, text) != NULL) return true;
    print_error("%d \"%s\", not %d \"%s\"\n", s->rv, s->e.text, -code, text);
    return false;
}

static void bytes_pass_both_ways_in_any_pieces(void **state)
{
    (void)state;
    static const size_t pieces[] = {1, 7, 1000, 100000};
    struct tls_context *sc = context(TLS_SERVER, "ca.pem", "server", "crsc"), *cc = context(TLS_CLIENT, "ca.pem", "client", "crsc");
    for (unsigned i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct side s = {0}, c = {0};
        s.tls = tls_new(sc, NULL, NULL);
        c.tls = tls_new(cc, "127.0.0.1", NULL);
        carry(&c, &s, pieces[i]);
        assert_true(tls_ready(s.tls) && tls_ready(c.tls));
        uint8_t data[50000];
        for (size_t k = 0; k < sizeof data; k++) data[k] = (uint8_t)(k * 31 >> 3);
        assert_int_equal(tls_send(c.tls, data, sizeof data, NULL), 0);
        assert_int_equal(tls_send(s.tls, data, 1, NULL), 0);
        assert_int_equal(tls_send(s.tls, data + 1, sizeof data - 1, NULL), 0);
        assert_null(memmem(tls_outgoing(c.tls)->data, tls_outgoing(c.tls)->len, data, 64)); /* it is encrypted */
        carry(&c, &s, pieces[i]);
        assert_int_equal(s.plain.len, sizeof data);
        assert_memory_equal(s.plain.data, data, sizeof data);
        assert_int_equal(c.plain.len, sizeof data);
        assert_memory_equal(c.plain.data, data, sizeof data);
        tls_finish(c.tls);
        assert_false(tls_ended(s.tls));
        carry(&c, &s, pieces[i]);
        assert_true(tls_ended(s.tls) && !tls_ended(c.tls));
        side_fini(&s);
        side_fini(&c);
    }
    tls_context_free(sc);
    tls_context_free(cc);
}

static void the_names_of_the_other_side_are_known(void **state)
{
    (void)state;
    struct tls_context *sc = context(TLS_SERVER, "ca.pem", "server", "crsc"), *cc = context(TLS_CLIENT, "ca.pem", "client", "crsc");
    struct side s, c;
    meet(sc, cc, "logd.example", &s, &c);
    const struct tls_peer *p = tls_peer(s.tls);
    assert_non_null(p);
    assert_int_equal(p->n_names, 2);
    assert_string_equal(p->names[0], "URI:crsc://role/producer/demo/*");
    assert_string_equal(p->names[1], "URI:crsc://role/reader/*");
    assert_string_equal(p->protocol, "crsc");
    assert_string_equal(p->subject, "/CN=client");
    p = tls_peer(c.tls);
    assert_int_equal(p->n_names, 4);
    assert_string_equal(p->names[0], "DNS:localhost");
    assert_string_equal(p->names[2], "IP:127.0.0.1");
    side_fini(&s);
    side_fini(&c);
    tls_context_free(sc);
    tls_context_free(cc);
}

static void who_is_not_let_in(void **state)
{
    (void)state;
    struct tls_context *server = context(TLS_SERVER, "ca.pem", "server", NULL), *client = context(TLS_CLIENT, "ca.pem", "client", NULL);
    struct tls_context *expired_server = context(TLS_SERVER, "ca.pem", "expired", NULL);
    struct tls_context *strange_server = context(TLS_SERVER, "ca.pem", "stranger", NULL);
    struct tls_context *expired = context(TLS_CLIENT, "ca.pem", "expired", NULL), *nobody = context(TLS_CLIENT, "ca.pem", "", NULL);
    struct tls_context *stranger = context(TLS_CLIENT, "ca.pem", "stranger", NULL);
    const struct {
        struct tls_context *server, *client;
        const char *name;
        int server_code, client_code;
        const char *server_says, *client_says;
    } cases[] = {
        /* the client sees a bad server, and its alert tells that one */
        {server, client, "other.example", ERROR_DENIED, ERROR_DENIED, "does not accept our certificate", "certificate is not for \"other.example\""},
        {server, client, "192.0.2.7", ERROR_DENIED, ERROR_DENIED, "does not accept our certificate", "certificate is not for \"192.0.2.7\""},
        {expired_server, client, "localhost", ERROR_DENIED, ERROR_DENIED, "does not accept our certificate", "certificate has expired"},
        {strange_server, client, "localhost", ERROR_DENIED, ERROR_DENIED, "does not accept our certificate", "is not accepted: unable to get local issuer"},
        /* the server sees a bad client */
        {server, expired, "localhost", ERROR_DENIED, ERROR_DENIED, "certificate has expired", "does not accept our certificate"},
        {server, stranger, "localhost", ERROR_DENIED, ERROR_DENIED, "is not accepted: unable to get local issuer", "does not accept our certificate"},
        {server, nobody, "localhost", ERROR_DENIED, ERROR_DENIED, "shows no certificate", "wants a certificate from us"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct side s, c;
        meet(cases[i].server, cases[i].client, cases[i].name, &s, &c);
        assert_true(says(&s, cases[i].server_code, cases[i].server_says));
        assert_true(says(&c, cases[i].client_code, cases[i].client_says));
        assert_false(tls_ready(s.tls));
        assert_null(tls_peer(s.tls));
        side_fini(&s);
        side_fini(&c);
    }
    struct tls_context *all[] = {server, client, expired_server, strange_server, expired, nobody, stranger};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) tls_context_free(all[i]);
}

static void only_tls_1_3_is_spoken(void **state)
{
    (void)state;
    struct tls_context *sc = context(TLS_SERVER, "ca.pem", "server", NULL), *cc = context(TLS_CLIENT, "ca.pem", "client", NULL);
    /* a client of another make, which knows TLS 1.2 only */
    SSL_CTX *old = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(old, TLS1_2_VERSION);
    SSL *ssl = SSL_new(old);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, out);
    assert_int_equal(SSL_connect(ssl), -1);
    char hello[4096];
    int n = BIO_read(out, hello, sizeof hello);
    assert_true(n > 0);
    struct side s = {.tls = tls_new(sc, NULL, NULL)};
    s.rv = tls_receive(s.tls, hello, (size_t)n, &s.plain, &s.e);
    assert_true(says(&s, ERROR_PROTOCOL, "does not speak TLS 1.3"));
    assert_true(tls_outgoing(s.tls)->len > 0); /* the alert */
    side_fini(&s);
    SSL_free(ssl);
    SSL_CTX_free(old);
    /* and no TLS at all, either way */
    s = (struct side){.tls = tls_new(sc, NULL, NULL)};
    s.rv = tls_receive(s.tls, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, &s.plain, &s.e);
    assert_true(says(&s, ERROR_PROTOCOL, "does not speak TLS"));
    side_fini(&s);
    s = (struct side){.tls = tls_new(cc, NULL, NULL)};
    s.rv = tls_receive(s.tls, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, &s.plain, &s.e);
    assert_true(says(&s, ERROR_PROTOCOL, "does not speak TLS"));
    side_fini(&s);
    tls_context_free(sc);
    tls_context_free(cc);
}

static void a_changed_bit_ends_it(void **state)
{
    (void)state;
    struct tls_context *sc = context(TLS_SERVER, "ca.pem", "server", NULL), *cc = context(TLS_CLIENT, "ca.pem", "client", NULL);
    struct side s, c;
    meet(sc, cc, "localhost", &s, &c);
    assert_int_equal(tls_send(c.tls, "hello", 5, NULL), 0);
    tls_outgoing(c.tls)->data[8] ^= 1;
    carry(&c, &s, 1000);
    assert_int_equal(s.rv, -ERROR_PROTOCOL);
    assert_int_equal(s.plain.len, 0);
    assert_int_equal(tls_receive(s.tls, "x", 1, &s.plain, &s.e), -ERROR_PROTOCOL); /* for good */
    side_fini(&s);
    side_fini(&c);
    tls_context_free(sc);
    tls_context_free(cc);
}

/* Two worlds on one port: each protocol with certificates and CAs of its own. */
static void each_protocol_has_its_own_rules(void **state)
{
    (void)state;
    pki_issue(pki, "other-ca", "peer", "DNS:localhost,URI:crsc://role/peer/2", 24);
    struct tls_context *clients = context(TLS_SERVER, "ca.pem", "server", "crsc"), *peers = context(TLS_SERVER, "other-ca.pem", "stranger", "crsc-peer");
    struct tls_context *client = context(TLS_CLIENT, "ca.pem", "client", "crsc"), *peer = context(TLS_CLIENT, "other-ca.pem", "peer", "crsc-peer");
    struct tls_context *liar = context(TLS_CLIENT, "other-ca.pem", "client", "crsc-peer"); /* a client's certificate for the peers' protocol */
    struct tls_context *other = context(TLS_CLIENT, "ca.pem", "client", "http/1.1");
    struct side s, c;
    tls_context_also(clients, peers);
    meet(clients, client, "localhost", &s, &c);
    assert_true(tls_ready(s.tls) && s.rv == 0 && c.rv == 0);
    assert_string_equal(tls_peer(s.tls)->protocol, "crsc");
    side_fini(&s);
    side_fini(&c);
    meet(clients, peer, "localhost", &s, &c);
    assert_true(tls_ready(s.tls) && s.rv == 0 && c.rv == 0);
    assert_string_equal(tls_peer(s.tls)->protocol, "crsc-peer");
    assert_string_equal(tls_peer(c.tls)->subject, "/CN=stranger");
    side_fini(&s);
    side_fini(&c);
    meet(clients, liar, "localhost", &s, &c);
    assert_true(says(&s, ERROR_DENIED, "is not accepted"));
    side_fini(&s);
    side_fini(&c);
    meet(clients, other, "localhost", &s, &c);
    assert_int_equal(s.rv, -ERROR_PROTOCOL);
    side_fini(&s);
    side_fini(&c);
    struct tls_context *all[] = {clients, peers, client, peer, liar, other};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) tls_context_free(all[i]);
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void wrong_files_are_named(void **state)
{
    (void)state;
    struct tls_context *c;
    struct error e;
    const char *ca = pki_path(pki, "ca.pem"), *cert = pki_path(pki, "server.pem"), *key = pki_path(pki, "server.key");
    FILE *f = fopen(pki_path(pki, "garbage.pem"), "w");
    fputs("not a certificate\n", f);
    fclose(f);
    const struct {
        const char *ca, *cert, *key;
        int code;
        const char *says;
    } cases[] = {
        {pki_path(pki, "none.pem"), cert, key, ERROR_IO, "none.pem: No such file"},
        {ca, pki_path(pki, "none.pem"), key, ERROR_IO, "none.pem: No such file"},
        {ca, cert, pki_path(pki, "none.key"), ERROR_IO, "none.key: No such file"},
        {pki_path(pki, "garbage.pem"), cert, key, ERROR_INVALID, "garbage.pem"},
        {ca, pki_path(pki, "garbage.pem"), key, ERROR_INVALID, "garbage.pem"},
        {ca, cert, pki_path(pki, "client.key"), ERROR_INVALID, "does not belong to"},
        {ca, cert, "", ERROR_INVALID, "go together"},
        {ca, "", "", ERROR_INVALID, "needs a certificate"},
        {"", cert, key, ERROR_INVALID, "CAs"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tls_options o = {.side = TLS_SERVER, .ca = cases[i].ca, .cert = cases[i].cert, .key = cases[i].key};
        assert_int_equal(tls_context_new(&o, &c, &e), -cases[i].code);
        if (strstr(e.text, cases[i].says) == NULL) fail_msg("\"%s\" does not say \"%s\"", e.text, cases[i].says);
    }
}

static void files_are_read_again(void **state)
{
    (void)state;
    struct side s, c;
    struct error e;
    bool reloaded;
    pki_issue(pki, "ca", "turned", "DNS:old.example", 1);
    struct tls_context *server = context(TLS_SERVER, "ca.pem", "turned", NULL), *client = context(TLS_CLIENT, "ca.pem", "client", NULL);
    int64_t expiry = tls_context_expiry(server);
    meet(server, client, "old.example", &s, &c);
    assert_true(tls_ready(s.tls) && c.rv == 0);
    assert_int_equal(tls_context_refresh(server, &reloaded, &e), 0);
    assert_false(reloaded);

    pki_issue(pki, "ca", "turned", "DNS:new.example", 48);
    assert_int_equal(tls_context_refresh(server, &reloaded, &e), 0);
    assert_true(reloaded);
    assert_true(tls_context_expiry(server) > expiry + 40 * 3600);
    assert_int_equal(tls_send(c.tls, "still", 5, NULL), 0); /* who is connected stays */
    carry(&c, &s, 1000);
    assert_int_equal(s.plain.len, 5);
    side_fini(&s);
    side_fini(&c);
    meet(server, client, "new.example", &s, &c);
    assert_true(tls_ready(s.tls) && c.rv == 0);
    side_fini(&s);
    side_fini(&c);

    /* half of a pair: the old one goes on, the error comes once, and the other half mends it */
    assert_int_equal(rename(pki_path(pki, "turned.key"), pki_path(pki, "turned.kept")), 0);
    assert_int_equal(link(pki_path(pki, "client.key"), pki_path(pki, "turned.key")), 0);
    assert_int_equal(tls_context_refresh(server, &reloaded, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "turned.key does not belong to"));
    assert_int_equal(tls_context_refresh(server, &reloaded, &e), 0);
    assert_false(reloaded);
    meet(server, client, "new.example", &s, &c);
    assert_true(tls_ready(s.tls) && c.rv == 0);
    side_fini(&s);
    side_fini(&c);
    assert_int_equal(rename(pki_path(pki, "turned.kept"), pki_path(pki, "turned.key")), 0);
    assert_int_equal(tls_context_refresh(server, &reloaded, &e), 0);
    assert_true(reloaded);
    tls_context_free(server);
    tls_context_free(client);
}

static void a_key_with_a_password_is_refused_not_asked_for(void **state)
{
    (void)state;
    struct tls_context *c;
    struct error e;
    FILE *in = fopen(pki_path(pki, "server.key"), "r"), *out = fopen(pki_path(pki, "locked.key"), "w");
    EVP_PKEY *key = PEM_read_PrivateKey(in, NULL, NULL, NULL);
    assert_int_equal(PEM_write_PKCS8PrivateKey(out, key, EVP_aes_128_cbc(), "secret", 6, NULL, NULL), 1);
    fclose(in);
    fclose(out);
    EVP_PKEY_free(key);
    struct tls_options o = {.side = TLS_SERVER, .ca = pki_path(pki, "ca.pem"), .cert = pki_path(pki, "server.pem"), .key = pki_path(pki, "locked.key")};
    assert_int_equal(tls_context_new(&o, &c, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "without a password"));
}

/* ---- on connections ------------------------------------------------------------------------------------------- */

struct end {
    struct conn *conn;
    uint64_t frames, bytes;
    unsigned opens, closes;
    struct error why;
    char name[128];
};

static uv_loop_t loop;
static uv_tcp_t listener;
static struct end server, client;
static char address[64];
static struct tls_context *listening; /* NULL: plain */

static void on_open(struct conn *c, void *user)
{
    struct end *end = user;
    (void)c;
    end->opens++;
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct end *end = user;
    const struct tls_peer *p = conn_tls_peer(c);
    assert_int_equal(f->id, ++end->frames);
    end->bytes += f->body_len;
    if (p != NULL) snprintf(end->name, sizeof end->name, "%s", p->subject);
    if (end == &server) assert_int_equal(conn_send(c, f), 0);
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct end *end = user;
    (void)c;
    end->closes++;
    end->why = *why;
    end->conn = NULL;
}

static const struct conn_handlers handlers = {on_open, on_frame, NULL, on_close};

static void on_connection(uv_stream_t *stream, int status)
{
    assert_int_equal(status, 0);
    assert_int_equal(conn_accept(stream, &handlers, &server, &server.conn, NULL), 0);
    if (listening != NULL) assert_int_equal(conn_secure(server.conn, listening, NULL, NULL), 0);
}

static int set_up(void **state)
{
    (void)state;
    struct sockaddr_in any, bound;
    int len = sizeof bound;
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&loop);
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr("127.0.0.1", 0, &any);
    uv_tcp_bind(&listener, (struct sockaddr *)&any, 0);
    if (uv_listen((uv_stream_t *)&listener, 8, on_connection) != 0) return 1;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&bound, &len);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(bound.sin_port));
    listening = context(TLS_SERVER, "ca.pem", "server", "crsc");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (client.conn != NULL) conn_close(client.conn, 0, NULL);
    if (server.conn != NULL) conn_close(server.conn, 0, NULL);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    tls_context_free(listening);
    return uv_loop_close(&loop);
}

static void dial(struct tls_context *tls)
{
    assert_int_equal(conn_connect(&loop, address, 60000, &handlers, &client, &client.conn, NULL), 0);
    if (tls != NULL) assert_int_equal(conn_secure(client.conn, tls, "127.0.0.1", NULL), 0);
}

static void send_frame(struct end *end, uint64_t id, size_t size)
{
    uint8_t *body = calloc(1, size + 1);
    struct frame f = {.type = FRAME_READ, .id = id, .body = body, .body_len = size};
    assert_int_equal(conn_send(end->conn, &f), 0);
    free(body);
}

static void frames_pass_through_tls(void **state)
{
    (void)state;
    struct tls_context *tls = context(TLS_CLIENT, "ca.pem", "client", "crsc");
    dial(tls);
    for (uint64_t i = 1; i <= 2000; i++) send_frame(&client, i, i == 1000 ? FRAME_BODY_MAX : (i * 37) % 3000);
    assert_true(conn_queued(client.conn) > 0);
    while (client.frames < 2000 && client.closes == 0 && server.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(client.frames, 2000);
    assert_int_equal(client.bytes, server.bytes);
    assert_int_equal(client.opens, 1);
    assert_string_equal(server.name, "/CN=client");
    assert_string_equal(client.name, "/CN=server");
    send_frame(&client, 2001, 100000);
    conn_close(client.conn, 60000, NULL); /* and what is queued still arrives */
    while (server.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(server.frames, 2001);
    assert_int_equal(server.why.code, ERROR_NONE);
    tls_context_free(tls);
}

static void the_client_hears_why_it_is_refused(void **state)
{
    (void)state;
    struct tls_context *tls = context(TLS_CLIENT, "ca.pem", "stranger", "crsc");
    dial(tls);
    for (uint64_t i = 1; i <= 100; i++) send_frame(&client, i, 50000); /* it has much to say, and may be cut short */
    while (client.closes == 0 || server.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(server.frames, 0);
    assert_int_equal(server.why.code, ERROR_DENIED);
    assert_int_equal(client.why.code, ERROR_DENIED);
    assert_non_null(strstr(client.why.text, "does not accept our certificate"));
    assert_non_null(strstr(client.why.text, address));
    tls_context_free(tls);
}

static void plain_and_tls_do_not_mix(void **state)
{
    (void)state;
    dial(NULL);
    send_frame(&client, 1, 10);
    while (client.closes == 0 || server.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(server.frames, 0);
    assert_non_null(strstr(server.why.text, "does not speak TLS"));

    struct tls_context *tls = context(TLS_CLIENT, "ca.pem", "client", "crsc");
    listening = tls_context_free(listening);
    server.closes = client.closes = client.opens = 0;
    dial(tls);
    while (client.closes == 0 || server.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(client.opens, 0);
    assert_non_null(strstr(client.why.text, "perhaps it does not speak TLS"));
    tls_context_free(tls);
}

static void a_hangup_reloads(void **state)
{
    (void)state;
    struct tls_watch *watch;
    struct error e;
    struct tls_context *contexts[] = {NULL, listening};
    pki_issue(pki, "ca", "server", "DNS:renewed.example", 72);
    int64_t expiry = tls_context_expiry(listening);
    assert_int_equal(tls_watch_start(&loop, contexts, 2, &watch, &e), 0);
    kill(getpid(), SIGHUP);
    while (tls_context_expiry(listening) == expiry) uv_run(&loop, UV_RUN_ONCE); /* the listener keeps the loop alive */
    /* and without a signal, when the file changes */
    expiry = tls_context_expiry(listening);
    pki_issue(pki, "ca", "server", "DNS:localhost,IP:127.0.0.1", 100);
    while (tls_context_expiry(listening) == expiry) uv_run(&loop, UV_RUN_ONCE);
    tls_watch_stop(watch);
}

int main(void)
{
#define NET(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_pass_both_ways_in_any_pieces),
        cmocka_unit_test(the_names_of_the_other_side_are_known),
        cmocka_unit_test(who_is_not_let_in),
        cmocka_unit_test(only_tls_1_3_is_spoken),
        cmocka_unit_test(a_changed_bit_ends_it),
        cmocka_unit_test(each_protocol_has_its_own_rules),
        cmocka_unit_test(wrong_files_are_named),
        cmocka_unit_test(files_are_read_again),
        cmocka_unit_test(a_key_with_a_password_is_refused_not_asked_for),
        NET(frames_pass_through_tls),
        NET(the_client_hears_why_it_is_refused),
        NET(plain_and_tls_do_not_mix),
        NET(a_hangup_reloads),
    };
    return cmocka_run_group_tests(tests, make_pki, drop_pki);
}
