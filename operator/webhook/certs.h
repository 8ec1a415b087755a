/* Certificates of our own: a CA (P-256), and what it signs. With libcrypto; keys and certificates are PEM texts, freed by the caller.
 * `now` is seconds since 1970. Thread: any. */
#ifndef CRSC_OPERATOR_WEBHOOK_CERTS_H
#define CRSC_OPERATOR_WEBHOOK_CERTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { CERTS_CA_DAYS = 3650, CERTS_LEAF_DAYS = 90, CERTS_NAMES_MAX = 256 };

struct certs_pair {
    char *cert, *key;
};

struct certs_request {
    const char *common_name;
    const char *const *names; /* DNS names, addresses, and URIs (what has "://" in it), all as alternative names */
    size_t n_names;
    bool server, client;
};

int certs_make_ca(const char *common_name, int64_t now, struct certs_pair *ret_ca, struct error *e);
int certs_issue(const struct certs_pair *ca, const struct certs_request *request, int64_t now, struct certs_pair *ret_leaf, struct error *e);
/* Whether a certificate (the first of the text) is good and less than two thirds of its life are over; `names`: it must have them all. */
bool certs_fresh(const char *cert, const char *const *names, size_t n_names, int64_t now);
/* Whether it was signed by this CA. */
bool certs_signed_by(const char *cert, const char *ca);
void certs_free(struct certs_pair *p);

#endif
