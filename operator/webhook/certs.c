#include "operator/webhook/certs.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SKEW_S = 300 /* clocks of others may be behind */, DAY_S = 86400 };

static int failed(struct error *e, const char *what)
{
    char why[160];
    ERR_error_string_n(ERR_peek_last_error(), why, sizeof why);
    ERR_clear_error();
    return error_set(e, ERROR_INTERNAL, "%s: %s", what, why);
}

static char *text_of(BIO *bio)
{
    char *data, *text;
    long len = BIO_get_mem_data(bio, &data);
    if (len < 0 || (text = malloc((size_t)len + 1)) == NULL) return NULL;
    memcpy(text, data, (size_t)len);
    text[len] = '\0';
    return text;
}

static X509 *read_cert(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *x = bio != NULL ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    if (x == NULL) ERR_clear_error();
    return x;
}

static EVP_PKEY *read_key(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *k = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return k;
}

static bool write_pair(X509 *x, EVP_PKEY *key, struct certs_pair *ret)
{
    BIO *a = BIO_new(BIO_s_mem()), *b = BIO_new(BIO_s_mem());
    struct certs_pair p = {0};
    if (a != NULL && b != NULL && PEM_write_bio_X509(a, x) == 1 && PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) == 1) {
        p.cert = text_of(a);
        p.key = text_of(b);
    }
    BIO_free(a);
    BIO_free(b);
    if (p.cert == NULL || p.key == NULL) {
        certs_free(&p);
        return false;
    }
    *ret = p;
    return true;
}

static bool extend(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool ok = ext != NULL && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

/* A serial number nobody used before: 127 random bits. */
static bool set_serial(X509 *x)
{
    unsigned char bytes[16];
    if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
    bytes[0] &= 0x7f;
    BIGNUM *n = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool ok = n != NULL && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x)) != NULL;
    BN_free(n);
    return ok;
}

static X509 *blank(const char *common_name, EVP_PKEY *key, int64_t now, int days)
{
    X509 *x = X509_new();
    X509_NAME *name = x != NULL ? X509_get_subject_name(x) : NULL;
    bool ok = name != NULL && X509_set_version(x, 2) == 1 && set_serial(x) && X509_set_pubkey(x, key) == 1 &&
              X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0) == 1 &&
              ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(now - SKEW_S)) != NULL &&
              ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(now + (int64_t)days * DAY_S)) != NULL;
    if (ok) return x;
    X509_free(x);
    return NULL;
}

int certs_make_ca(const char *common_name, int64_t now, struct certs_pair *ret_ca, struct error *e)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = key != NULL ? blank(common_name, key, now, CERTS_CA_DAYS) : NULL;
    bool ok = x != NULL && X509_set_issuer_name(x, X509_get_subject_name(x)) == 1 &&
              extend(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") && extend(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
              extend(x, x, NID_subject_key_identifier, "hash") && X509_sign(x, key, EVP_sha256()) > 0 && write_pair(x, key, ret_ca);
    X509_free(x);
    EVP_PKEY_free(key);
    return ok ? 0 : failed(e, "a CA cannot be made");
}

static bool is_uri(const char *name)
{
    return strstr(name, "://") != NULL;
}

static bool add_names(X509 *x, const struct certs_request *r)
{
    GENERAL_NAMES *all = sk_GENERAL_NAME_new_null();
    bool ok = all != NULL && r->n_names <= CERTS_NAMES_MAX;
    for (size_t i = 0; ok && i < r->n_names; i++) {
        struct in6_addr a;
        bool address = inet_pton(AF_INET, r->names[i], &a) == 1 || inet_pton(AF_INET6, r->names[i], &a) == 1;
        int kind = address ? GEN_IPADD : is_uri(r->names[i]) ? GEN_URI : GEN_DNS;
        GENERAL_NAME *name = a2i_GENERAL_NAME(NULL, NULL, NULL, kind, r->names[i], 0);
        ok = name != NULL && sk_GENERAL_NAME_push(all, name) > 0;
        if (!ok) GENERAL_NAME_free(name);
    }
    if (ok && r->n_names > 0) ok = X509_add1_ext_i2d(x, NID_subject_alt_name, all, 0, 0) == 1;
    GENERAL_NAMES_free(all);
    return ok;
}

int certs_issue(const struct certs_pair *ca, const struct certs_request *r, int64_t now, struct certs_pair *ret_leaf, struct error *e)
{
    X509 *issuer = read_cert(ca->cert), *x = NULL;
    EVP_PKEY *signer = read_key(ca->key), *key = EVP_EC_gen("P-256");
    const char *usage = r->server && r->client ? "serverAuth,clientAuth" : r->server ? "serverAuth" : "clientAuth";
    bool ok = issuer != NULL && signer != NULL && key != NULL && (x = blank(r->common_name, key, now, CERTS_LEAF_DAYS)) != NULL &&
              X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1 && extend(x, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
              extend(x, issuer, NID_key_usage, "critical,digitalSignature") && extend(x, issuer, NID_ext_key_usage, usage) &&
              extend(x, issuer, NID_subject_key_identifier, "hash") && extend(x, issuer, NID_authority_key_identifier, "keyid") &&
              add_names(x, r) && X509_sign(x, signer, EVP_sha256()) > 0 && write_pair(x, key, ret_leaf);
    X509_free(x);
    X509_free(issuer);
    EVP_PKEY_free(signer);
    EVP_PKEY_free(key);
    return ok ? 0 : failed(e, "a certificate cannot be issued");
}

static int64_t seconds(const ASN1_TIME *t)
{
    struct tm tm = {0};
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static bool has_uri(X509 *x, const char *uri)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    bool found = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(all, i);
        if (n->type != GEN_URI) continue;
        size_t len = (size_t)ASN1_STRING_length(n->d.uniformResourceIdentifier);
        found = found || (len == strlen(uri) && memcmp(ASN1_STRING_get0_data(n->d.uniformResourceIdentifier), uri, len) == 0);
    }
    GENERAL_NAMES_free(all);
    return found;
}

static bool has_name(X509 *x, const char *name)
{
    if (is_uri(name)) return has_uri(x, name);
    return X509_check_host(x, name, 0, X509_CHECK_FLAG_NO_WILDCARDS, NULL) == 1 || X509_check_ip_asc(x, name, 0) == 1;
}

bool certs_fresh(const char *cert, const char *const *names, size_t n_names, int64_t now)
{
    X509 *x = read_cert(cert);
    if (x == NULL) return false;
    int64_t from = seconds(X509_get0_notBefore(x)), to = seconds(X509_get0_notAfter(x));
    bool ok = from <= now && now < from + (to - from) / 3 * 2;
    for (size_t i = 0; ok && i < n_names; i++) ok = has_name(x, names[i]);
    X509_free(x);
    ERR_clear_error();
    return ok;
}

bool certs_signed_by(const char *cert, const char *ca)
{
    X509 *x = read_cert(cert), *issuer = read_cert(ca);
    EVP_PKEY *key = issuer != NULL ? X509_get_pubkey(issuer) : NULL;
    bool ok = x != NULL && key != NULL && X509_verify(x, key) == 1;
    EVP_PKEY_free(key);
    X509_free(x);
    X509_free(issuer);
    ERR_clear_error();
    return ok;
}

void certs_free(struct certs_pair *p)
{
    free(p->cert);
    if (p->key != NULL) explicit_bzero(p->key, strlen(p->key));
    free(p->key);
    p->cert = p->key = NULL;
}
