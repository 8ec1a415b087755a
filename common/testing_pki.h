/* For tests: CAs and certificates of all sorts, as PEM files in a folder of their own, which goes with pki_free(). */
#ifndef CRSC_COMMON_TESTING_PKI_H
#define CRSC_COMMON_TESTING_PKI_H

struct pki;

struct pki *pki_new(void);
void pki_free(struct pki *p);

/* Makes NAME.pem and NAME.key: a CA of its own. */
void pki_ca(struct pki *p, const char *name);
/* Makes NAME.pem and NAME.key, signed by the CA. `names`: subject alternative names as OpenSSL's configuration has them,
 * "DNS:localhost,IP:127.0.0.1,URI:crsc://role/admin", or NULL. Valid from a day ago until `hours` from now. The files are replaced by renaming. */
void pki_issue(struct pki *p, const char *ca, const char *name, const char *names, int hours);
/* The file's path, valid until pki_free(): pki_path(p, "server.key"). */
const char *pki_path(struct pki *p, const char *file);

#endif
