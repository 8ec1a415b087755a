#include "common/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILES = 3, NAME_MAX_BYTES = 512 };

/* What tells one version of a file from the next: a new file renamed into its place, or a link to another one, has another inode. */
struct stamp {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
};

struct tls_context {
    enum tls_side side;
    char *paths[FILES]; /* ca, cert, key; "" for none */
    unsigned char protocol[TLS_PROTOCOL_MAX + 1]; /* as ALPN has it: length, bytes; length 0: none */
    bool anyone;
    SSL_CTX *ssl; /* in use; each session has a reference of its own */
    struct tls_context *also;
    struct stamp stamps[FILES]; /* at the last attempt to load */
};

struct tls {
    SSL *ssl;
    struct buf out;    /* encrypted, for the socket */
    const uint8_t *in; /* what tls_receive() was given and OpenSSL has not taken */
    size_t in_len;
    bool client, ready, ended, failed;
    const char *expects; /* name the server has to prove; in `ssl` */
    struct tls_peer peer;
    char **names;
    char subject[256], protocol[TLS_PROTOCOL_MAX + 1];
};

/* ---- errors --------------------------------------------------------------------------------------------------- */

/* The newest reason that OpenSSL has queued; forgets the queue. */
static const char *reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return text != NULL ? text : "unknown reason";
}

/* OpenSSL's reasons that people meet, in words that say what to do. */
static int explain(struct tls *t, struct error *e)
{
    unsigned long code = ERR_peek_last_error();
    long verified = SSL_get_verify_result(t->ssl);
    int why = ERR_GET_REASON(code);
    if (why == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        ERR_clear_error();
        if (verified == X509_V_ERR_HOSTNAME_MISMATCH || verified == X509_V_ERR_IP_ADDRESS_MISMATCH)
            return error_set(e, ERROR_DENIED, "TLS: the server's certificate is not for \"%s\"", t->expects != NULL ? t->expects : "");
        return error_set(e, ERROR_DENIED, "TLS: the other side's certificate is not accepted: %s", X509_verify_cert_error_string(verified));
    }
    if (why == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return ERR_clear_error(), error_set(e, ERROR_DENIED, "TLS: the client shows no certificate, and one is needed");
    if (why == SSL_R_UNSUPPORTED_PROTOCOL || why == SSL_R_NO_PROTOCOLS_AVAILABLE || why == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION)
        return ERR_clear_error(), error_set(e, ERROR_PROTOCOL, "TLS: the other side does not speak TLS 1.3");
    if (!t->ready && (why == SSL_R_WRONG_VERSION_NUMBER || why == SSL_R_HTTP_REQUEST || why == SSL_R_BAD_RECORD_TYPE ||
                      why == SSL_R_PACKET_LENGTH_TOO_LONG))
        return ERR_clear_error(), error_set(e, ERROR_PROTOCOL, "TLS: the other side does not speak TLS");
    if (why == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED)
        return ERR_clear_error(), error_set(e, ERROR_DENIED, "TLS: the server wants a certificate from us, and none is configured");
    /* Reasons above are our own view; alerts are the other side's. */
    if (why == SSL_R_TLSV1_ALERT_UNKNOWN_CA || why == SSL_R_SSLV3_ALERT_BAD_CERTIFICATE || why == SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED ||
        why == SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED || why == SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN || why == SSL_R_TLSV1_ALERT_ACCESS_DENIED ||
        why == SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE || why == SSL_R_TLSV1_ALERT_DECRYPT_ERROR)
        return error_set(e, ERROR_DENIED, "TLS: the other side does not accept our certificate (%s)", reason());
    return error_set(e, ERROR_PROTOCOL, "TLS: %s", reason());
}

static int file_error(struct error *e, const char *what, const char *path)
{
    unsigned long code = ERR_peek_error();
    if (ERR_GET_LIB(code) == ERR_LIB_SYS) {
        int system = ERR_GET_REASON(code);
        ERR_clear_error();
        return error_errno(e, ERROR_IO, system, "%s %s", what, path);
    }
    return error_set(e, ERROR_INVALID, "%s %s: %s", what, path, reason());
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void take_stamps(const struct tls_context *c, struct stamp stamps[FILES])
{
    memset(stamps, 0, sizeof(struct stamp) * FILES); /* also the holes: they are compared as bytes */
    for (int i = 0; i < FILES; i++) {
        struct stat s;
        if (c->paths[i][0] == '\0' || stat(c->paths[i], &s) != 0) continue; /* the loading says why */
        stamps[i].device = s.st_dev;
        stamps[i].inode = s.st_ino;
        stamps[i].size = s.st_size;
        stamps[i].changed = s.st_mtim;
    }
}

/* A daemon has no terminal to be asked at. */
static int no_password(char *buffer, int size, int writing, void *user)
{
    (void)buffer, (void)size, (void)writing, (void)user;
    return -1;
}

static int load_files(SSL_CTX *ssl, const struct tls_context *c, struct error *e)
{
    const char *ca = c->paths[0], *cert = c->paths[1], *key = c->paths[2];
    ERR_clear_error();
    if (ca[0] != '\0') {
        if (SSL_CTX_load_verify_file(ssl, ca) != 1) return file_error(e, "the CAs of", ca);
        /* Clients with several certificates choose by what the server names. */
        if (c->side == TLS_SERVER) SSL_CTX_set_client_CA_list(ssl, SSL_load_client_CA_file(ca));
        ERR_clear_error();
    }
    if (cert[0] == '\0') return 0;
    if (SSL_CTX_use_certificate_chain_file(ssl, cert) != 1) return file_error(e, "the certificate", cert);
    if (SSL_CTX_use_PrivateKey_file(ssl, key, SSL_FILETYPE_PEM) != 1) {
        /* With a certificate already there a key of another one is refused here. */
        if (ERR_GET_LIB(ERR_peek_last_error()) == ERR_LIB_X509) {
            ERR_clear_error();
            return error_set(e, ERROR_INVALID, "the key %s does not belong to the certificate %s", key, cert);
        }
        return file_error(e, "the key (PEM, without a password)", key);
    }
    if (SSL_CTX_check_private_key(ssl) != 1) {
        ERR_clear_error();
        return error_set(e, ERROR_INVALID, "the key %s does not belong to the certificate %s", key, cert);
    }
    return 0;
}

/* ---- contexts ------------------------------------------------------------------------------------------------- */

/* The server's side of ALPN. Who names nothing is served too: it gets this context's rules. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *user)
{
    const struct tls_context *c = user;
    if (c->protocol[0] == 0) return SSL_TLSEXT_ERR_NOACK;
    for (unsigned at = 0; at < in_len && at + 1 + in[at] <= in_len; at += 1u + in[at])
        if (in[at] == c->protocol[0] && memcmp(in + at + 1, c->protocol + 1, in[at]) == 0) {
            *out = in + at + 1;
            *out_len = in[at];
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL; /* it wants to speak something else */
}

static bool asks_for(SSL *ssl, const unsigned char *protocol)
{
    const unsigned char *list;
    size_t len;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &list, &len) != 1 || len < 2) return false;
    for (size_t at = 2; at < len && at + 1 + list[at] <= len; at += 1u + list[at])
        if (list[at] == protocol[0] && memcmp(list + at + 1, protocol + 1, protocol[0]) == 0) return true;
    return false;
}

/* Before anything else is looked at: whose certificate and CAs this session goes by. */
static int on_client_hello(SSL *ssl, int *alert, void *user)
{
    const struct tls_context *c = user;
    (void)alert;
    if (c->also != NULL && c->also->protocol[0] != 0 && asks_for(ssl, c->also->protocol) && SSL_set_SSL_CTX(ssl, c->also->ssl) == NULL)
        return SSL_CLIENT_HELLO_ERROR;
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int load(const struct tls_context *c, SSL_CTX **ret_ssl, struct error *e)
{
    SSL_CTX *ssl = SSL_CTX_new(c->side == TLS_SERVER ? TLS_server_method() : TLS_client_method());
    if (ssl == NULL) return error_set(e, ERROR_NOMEM, "no memory for TLS: %s", reason());
    SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(ssl, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_num_tickets(ssl, 0);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS); /* an idle connection keeps no 32 KiB */
    SSL_CTX_set_default_passwd_cb(ssl, no_password);
    if (c->side == TLS_CLIENT) {
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
        if (c->protocol[0] != 0) SSL_CTX_set_alpn_protos(ssl, c->protocol, c->protocol[0] + 1u);
    } else {
        int wanted = SSL_VERIFY_PEER | (c->anyone ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
        SSL_CTX_set_verify(ssl, c->paths[0][0] == '\0' ? SSL_VERIFY_NONE : wanted, NULL);
        SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, (void *)c);
        SSL_CTX_set_client_hello_cb(ssl, on_client_hello, (void *)c);
    }
    int rv = load_files(ssl, c, e);
    if (rv != 0) {
        SSL_CTX_free(ssl);
        return rv;
    }
    *ret_ssl = ssl;
    return 0;
}

static int check_options(const struct tls_options *o, struct error *e)
{
    bool cert = o->cert != NULL && o->cert[0] != '\0', key = o->key != NULL && o->key[0] != '\0', ca = o->ca != NULL && o->ca[0] != '\0';
    if (cert != key) return error_set(e, ERROR_INVALID, "a certificate and its key go together: one of the two files is not given");
    if (o->side == TLS_SERVER && !cert) return error_set(e, ERROR_INVALID, "a server needs a certificate and a key");
    if (!ca && !(o->side == TLS_SERVER && o->anyone)) return error_set(e, ERROR_INVALID, "a file with the CAs to trust is needed");
    if (o->protocol != NULL && strlen(o->protocol) > TLS_PROTOCOL_MAX - 1) return error_set(e, ERROR_INVALID, "the protocol's name is too long");
    return 0;
}

int tls_context_new(const struct tls_options *o, struct tls_context **ret_context, struct error *e)
{
    int rv = check_options(o, e);
    if (rv != 0) return rv;
    struct tls_context *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory for TLS");
    const char *paths[FILES] = {o->ca, o->cert, o->key};
    c->side = o->side;
    c->anyone = o->anyone;
    if (o->protocol != NULL) {
        c->protocol[0] = (unsigned char)strlen(o->protocol);
        memcpy(c->protocol + 1, o->protocol, c->protocol[0]);
    }
    for (int i = 0; i < FILES && rv == 0; i++)
        if ((c->paths[i] = strdup(paths[i] != NULL ? paths[i] : "")) == NULL) rv = error_set(e, ERROR_NOMEM, "no memory for TLS");
    if (rv == 0) {
        take_stamps(c, c->stamps);
        rv = load(c, &c->ssl, e);
    }
    if (rv != 0) {
        tls_context_free(c);
        return rv;
    }
    *ret_context = c;
    return 0;
}

struct tls_context *tls_context_free(struct tls_context *c)
{
    if (c == NULL) return NULL;
    SSL_CTX_free(c->ssl);
    for (int i = 0; i < FILES; i++) free(c->paths[i]);
    free(c);
    return NULL;
}

void tls_context_also(struct tls_context *c, struct tls_context *other)
{
    assert(c->side == TLS_SERVER && other->side == TLS_SERVER);
    c->also = other;
}

int tls_context_reload(struct tls_context *c, struct error *e)
{
    SSL_CTX *ssl;
    take_stamps(c, c->stamps); /* before reading: what changes from here on is seen the next time */
    int rv = load(c, &ssl, e);
    if (rv != 0) return rv;
    SSL_CTX_free(c->ssl);
    c->ssl = ssl;
    return 0;
}

int tls_context_refresh(struct tls_context *c, bool *ret_reloaded, struct error *e)
{
    struct stamp now[FILES];
    *ret_reloaded = false;
    take_stamps(c, now);
    if (memcmp(now, c->stamps, sizeof now) == 0) return 0;
    int rv = tls_context_reload(c, e);
    *ret_reloaded = rv == 0;
    return rv;
}

int64_t tls_context_expiry(const struct tls_context *c)
{
    struct tm tm;
    X509 *own = SSL_CTX_get0_certificate(c->ssl);
    if (own == NULL || ASN1_TIME_to_tm(X509_get0_notAfter(own), &tm) != 1) return 0;
    return (int64_t)timegm(&tm);
}

/* ---- OpenSSL's view of the socket: a pair of memory buffers --------------------------------------------------- */

static int bio_write(BIO *bio, const char *data, int len)
{
    struct tls *t = BIO_get_data(bio);
    return buf_add(&t->out, data, (size_t)len) == 0 ? len : -1;
}

static int bio_read(BIO *bio, char *data, int len)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (t->in_len == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t n = t->in_len < (size_t)len ? t->in_len : (size_t)len;
    memcpy(data, t->in, n);
    t->in += n;
    t->in_len -= n;
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *bio_method(void)
{
    static BIO_METHOD *method; /* lives as long as the process */
    if (method != NULL) return method;
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "crsc");
    if (m == NULL) return NULL;
    BIO_meth_set_write(m, bio_write);
    BIO_meth_set_read(m, bio_read);
    BIO_meth_set_ctrl(m, bio_ctrl);
    return method = m;
}

/* ---- sessions ------------------------------------------------------------------------------------------------- */

/* libssl checks the name along with the chain. */
static bool expect_name(struct tls *t, const char *name)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(t->ssl);
    unsigned char address[16];
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return (t->expects = strdup(name)) != NULL && X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    return (t->expects = strdup(name)) != NULL && X509_VERIFY_PARAM_set1_host(param, name, 0) == 1 &&
           SSL_set_tlsext_host_name(t->ssl, name) == 1;
}

struct tls *tls_new(struct tls_context *c, const char *name, struct error *e)
{
    struct tls *t = calloc(1, sizeof *t);
    BIO *bio = bio_method() != NULL ? BIO_new(bio_method()) : NULL;
    if (t != NULL) t->ssl = SSL_new(c->ssl);
    if (t == NULL || bio == NULL || t->ssl == NULL) {
        BIO_free(bio);
        tls_free(t);
        error_set(e, ERROR_NOMEM, "no memory for a TLS session: %s", reason());
        return NULL;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    t->client = c->side == TLS_CLIENT;
    if (!t->client) {
        SSL_set_accept_state(t->ssl);
        return t;
    }
    SSL_set_connect_state(t->ssl);
    ERR_clear_error();
    if ((name != NULL && !expect_name(t, name)) || (SSL_do_handshake(t->ssl) != 1 && t->out.len == 0)) {
        error_set(e, ERROR_INVALID, "TLS cannot begin with \"%s\": %s", name != NULL ? name : "", reason());
        return tls_free(t);
    }
    ERR_clear_error();
    return t;
}

struct tls *tls_free(struct tls *t)
{
    if (t == NULL) return NULL;
    SSL_free(t->ssl);
    buf_fini(&t->out);
    for (unsigned i = 0; i < t->peer.n_names; i++) free(t->names[i]);
    free(t->names);
    free((char *)t->expects);
    free(t);
    return NULL;
}

/* One name as text; NULL: of a kind that is not used. `*bad`: it cannot be what it says (a zero byte inside, too long). */
static char *name_text(const GENERAL_NAME *name, bool *bad)
{
    char text[NAME_MAX_BYTES + 8], address[INET6_ADDRSTRLEN];
    const ASN1_STRING *s = name->type == GEN_IPADD ? name->d.iPAddress : name->d.ia5;
    if (name->type != GEN_DNS && name->type != GEN_URI && name->type != GEN_IPADD) return NULL;
    const unsigned char *bytes = ASN1_STRING_get0_data(s);
    size_t len = (size_t)ASN1_STRING_length(s);
    if (name->type == GEN_IPADD) {
        *bad = (len != 4 && len != 16) || inet_ntop(len == 4 ? AF_INET : AF_INET6, bytes, address, sizeof address) == NULL;
        snprintf(text, sizeof text, "IP:%s", *bad ? "" : address);
    } else {
        *bad = len > NAME_MAX_BYTES || memchr(bytes, 0, len) != NULL;
        snprintf(text, sizeof text, "%s:%.*s", name->type == GEN_DNS ? "DNS" : "URI", *bad ? 0 : (int)len, (const char *)bytes);
    }
    return *bad ? NULL : strdup(text);
}

/* The handshake is done: who is it? */
static int learn_peer(struct tls *t, struct error *e)
{
    const unsigned char *protocol;
    unsigned len;
    int rv = 0;
    SSL_get0_alpn_selected(t->ssl, &protocol, &len);
    if (len > 0 && len <= TLS_PROTOCOL_MAX) memcpy(t->protocol, protocol, len);
    t->peer.protocol = t->protocol;
    t->peer.subject = t->subject;
    X509 *cert = SSL_get0_peer_certificate(t->ssl);
    if (cert == NULL) return 0;
    X509_NAME_oneline(X509_get_subject_name(cert), t->subject, sizeof t->subject);
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int n = names != NULL ? sk_GENERAL_NAME_num(names) : 0;
    if (n > TLS_NAMES_MAX) {
        rv = error_set(e, ERROR_DENIED, "TLS: the other side's certificate has %d names, more than %d", n, TLS_NAMES_MAX);
    } else if (n > 0 && (t->names = calloc((size_t)n, sizeof *t->names)) == NULL) {
        rv = error_set(e, ERROR_NOMEM, "no memory for a certificate's names");
    }
    for (int i = 0; i < n && rv == 0; i++) {
        bool bad = false;
        char *text = name_text(sk_GENERAL_NAME_value(names, i), &bad);
        if (bad) rv = error_set(e, ERROR_DENIED, "TLS: a name in the other side's certificate is malformed");
        else if (text != NULL) t->names[t->peer.n_names++] = text;
    }
    t->peer.names = (const char *const *)t->names;
    sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
    return rv;
}

static int handshake(struct tls *t, struct error *e)
{
    ERR_clear_error();
    int done = SSL_do_handshake(t->ssl);
    if (done == 1) {
        int rv = learn_peer(t, e);
        t->ready = rv == 0;
        return rv;
    }
    return SSL_get_error(t->ssl, done) == SSL_ERROR_WANT_READ ? 0 : explain(t, e);
}

static int decrypt(struct tls *t, struct buf *plain, struct error *e)
{
    for (;;) {
        size_t n = 0;
        if (buf_reserve(plain, SSL3_RT_MAX_PLAIN_LENGTH) != 0) return error_set(e, ERROR_NOMEM, "no memory for received bytes");
        ERR_clear_error();
        int got = SSL_read_ex(t->ssl, plain->data + plain->len, plain->cap - plain->len, &n);
        plain->len += n;
        if (got == 1) continue;
        int why = SSL_get_error(t->ssl, got);
        if (why == SSL_ERROR_WANT_READ) return 0;
        if (why != SSL_ERROR_ZERO_RETURN) return explain(t, e);
        t->ended = true;
        return 0;
    }
}

int tls_receive(struct tls *t, const void *bytes, size_t len, struct buf *plain, struct error *e)
{
    int rv = 0;
    if (t->failed) return error_set(e, ERROR_PROTOCOL, "TLS: the session has failed before");
    if (t->ended) return 0; /* nothing may come any more */
    t->in = bytes;
    t->in_len = len;
    if (!t->ready) rv = handshake(t, e);
    if (rv == 0 && t->ready) rv = decrypt(t, plain, e);
    t->failed = rv != 0;
    t->in = NULL;
    t->in_len = 0;
    return rv;
}

int tls_send(struct tls *t, const void *plain, size_t len, struct error *e)
{
    size_t written, at = 0;
    assert(t->ready);
    if (t->failed) return error_set(e, ERROR_PROTOCOL, "TLS: the session has failed before");
    if (buf_reserve(&t->out, len + len / 64 + 64) != 0) return error_set(e, ERROR_NOMEM, "no memory for encrypted bytes");
    while (at < len) {
        size_t n = len - at > INT_MAX ? INT_MAX : len - at;
        ERR_clear_error();
        int done = SSL_write_ex(t->ssl, (const uint8_t *)plain + at, n, &written);
        if (done != 1) {
            t->failed = true;
            return explain(t, e);
        }
        at += written;
    }
    return 0;
}

void tls_finish(struct tls *t)
{
    if (!t->ready || t->failed) return;
    SSL_shutdown(t->ssl);
    ERR_clear_error();
}

bool tls_ready(const struct tls *t)
{
    return t->ready;
}

bool tls_ended(const struct tls *t)
{
    return t->ended;
}

struct buf *tls_outgoing(struct tls *t)
{
    return &t->out;
}

const struct tls_peer *tls_peer(const struct tls *t)
{
    return t->ready ? &t->peer : NULL;
}
