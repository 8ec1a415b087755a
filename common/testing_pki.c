#include "common/testing_pki.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

enum { PATHS_MAX = 256 };

struct pki {
    char dir[64];
    char *paths[PATHS_MAX];
    unsigned n_paths;
    long serial;
};

/* A test cannot go on without; cmocka is not known here. */
static void must(int good, const char *what)
{
    if (good) return;
    fprintf(stderr, "test certificates: %s failed\n", what);
    abort();
}

struct pki *pki_new(void)
{
    struct pki *p = calloc(1, sizeof *p);
    must(p != NULL, "calloc");
    snprintf(p->dir, sizeof p->dir, "/tmp/crsc-pki.XXXXXX");
    must(mkdtemp(p->dir) != NULL, "mkdtemp");
    return p;
}

void pki_free(struct pki *p)
{
    DIR *dir = opendir(p->dir);
    for (struct dirent *d; dir != NULL && (d = readdir(dir)) != NULL;) unlink(pki_path(p, d->d_name));
    if (dir != NULL) closedir(dir);
    rmdir(p->dir);
    for (unsigned i = 0; i < p->n_paths; i++) free(p->paths[i]);
    free(p);
}

const char *pki_path(struct pki *p, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", p->dir, file);
    for (unsigned i = 0; i < p->n_paths; i++)
        if (strcmp(p->paths[i], path) == 0) return p->paths[i];
    must(p->n_paths < PATHS_MAX && (p->paths[p->n_paths] = strdup(path)) != NULL, "strdup");
    return p->paths[p->n_paths++];
}

static const char *named(struct pki *p, const char *name, const char *ending)
{
    char file[256];
    snprintf(file, sizeof file, "%s%s", name, ending);
    return pki_path(p, file);
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    must(x != NULL && X509_add_ext(cert, x, -1) == 1, value);
    X509_EXTENSION_free(x);
}

static void save(struct pki *p, const char *name, X509 *cert, EVP_PKEY *key)
{
    const char *temporary = named(p, name, ".new");
    FILE *f = fopen(temporary, "w");
    must(f != NULL && PEM_write_X509(f, cert) == 1 && fclose(f) == 0, "writing a certificate");
    must(rename(temporary, named(p, name, ".pem")) == 0, "rename");
    f = fopen(temporary, "w");
    must(f != NULL && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0, "writing a key");
    must(rename(temporary, named(p, name, ".key")) == 0, "rename");
}

static void make(struct pki *p, const char *ca, const char *name, const char *names, int hours)
{
    EVP_PKEY *key = EVP_EC_gen("P-256"), *ca_key = key;
    X509 *cert = X509_new(), *ca_cert = cert;
    must(key != NULL && cert != NULL, "a key");
    if (ca != NULL) {
        FILE *f = fopen(named(p, ca, ".pem"), "r");
        must(f != NULL && (ca_cert = PEM_read_X509(f, NULL, NULL, NULL)) != NULL && fclose(f) == 0, "reading the CA");
        f = fopen(named(p, ca, ".key"), "r");
        must(f != NULL && (ca_key = PEM_read_PrivateKey(f, NULL, NULL, NULL)) != NULL && fclose(f) == 0, "reading the CA's key");
    }
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), ++p->serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), -24 * 3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), hours * 3600L);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(ca_cert));
    X509_set_pubkey(cert, key);
    if (ca == NULL) {
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
        add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign");
    } else {
        add_extension(cert, ca_cert, NID_ext_key_usage, "serverAuth,clientAuth");
        if (names != NULL) add_extension(cert, ca_cert, NID_subject_alt_name, names);
    }
    must(X509_sign(cert, ca_key, EVP_sha256()) > 0, "signing");
    save(p, name, cert, key);
    if (ca != NULL) {
        X509_free(ca_cert);
        EVP_PKEY_free(ca_key);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
}

void pki_ca(struct pki *p, const char *name)
{
    make(p, NULL, name, NULL, 24);
}

void pki_issue(struct pki *p, const char *ca, const char *name, const char *names, int hours)
{
    make(p, ca, name, names, hours);
}
