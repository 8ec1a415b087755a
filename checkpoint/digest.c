#include "checkpoint/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

static const char prefix[] = "sha256:";
enum { PREFIX = sizeof prefix - 1, BYTES = 32, CHUNK = 64 << 10 };

struct digest {
    EVP_MD_CTX *context;
    bool failed;
};

struct digest *digest_new(void)
{
    struct digest *d = calloc(1, sizeof *d);
    if (d == NULL) return NULL;
    d->context = EVP_MD_CTX_new();
    if (d->context == NULL) return digest_free(d);
    d->failed = EVP_DigestInit_ex(d->context, EVP_sha256(), NULL) != 1;
    return d;
}

struct digest *digest_free(struct digest *d)
{
    if (d == NULL) return NULL;
    EVP_MD_CTX_free(d->context);
    free(d);
    return NULL;
}

void digest_add(struct digest *d, const void *data, size_t len)
{
    if (len > 0 && EVP_DigestUpdate(d->context, data, len) != 1) d->failed = true;
}

int digest_end(struct digest *d, char ret_text[OCI_DIGEST_MAX])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (d->failed || EVP_DigestFinal_ex(d->context, bytes, &len) != 1 || len != BYTES) return -ERROR_INTERNAL;
    memcpy(ret_text, prefix, PREFIX);
    for (unsigned i = 0; i < BYTES; i++) {
        ret_text[PREFIX + 2 * i] = hex[bytes[i] >> 4];
        ret_text[PREFIX + 2 * i + 1] = hex[bytes[i] & 15];
    }
    ret_text[PREFIX + 2 * BYTES] = '\0';
    return 0;
}

int digest_of(const void *data, size_t len, char ret_text[OCI_DIGEST_MAX])
{
    struct digest *d = digest_new();
    if (d == NULL) return -ERROR_NOMEM;
    digest_add(d, data, len);
    int rc = digest_end(d, ret_text);
    digest_free(d);
    return rc;
}

bool digest_valid(const char *text)
{
    return text != NULL && strncmp(text, prefix, PREFIX) == 0 && strlen(text) == PREFIX + 2 * BYTES &&
           strspn(text + PREFIX, "0123456789abcdef") == 2 * BYTES;
}

int oci_file_digest(const char *path, char ret_digest[OCI_DIGEST_MAX], struct error *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s cannot be read", path);
    struct digest *d = digest_new();
    unsigned char *chunk = malloc(CHUNK);
    int rc = d == NULL || chunk == NULL ? error_set(e, ERROR_NOMEM, "no memory for a digest") : 0;
    while (rc == 0) {
        ssize_t n = read(fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be read", path);
        if (n <= 0) break;
        digest_add(d, chunk, (size_t)n);
    }
    if (rc == 0 && digest_end(d, ret_digest) != 0) rc = error_set(e, ERROR_INTERNAL, "OpenSSL gave no digest");
    free(chunk);
    digest_free(d);
    close(fd);
    return rc;
}
