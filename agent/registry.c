#include "agent/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/digest.h"
#include "checkpoint/oci_json.h"
#include "checkpoint/tree.h"
#include "common/file.h"

#define TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"

enum { URL_MAX = 4096, CALL_MS = 30000 };

static int format(char *to, size_t cap, struct error *e, const char *text, ...) __attribute__((format(printf, 4, 5)));
static int format(char *to, size_t cap, struct error *e, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    int n = vsnprintf(to, cap, text, args);
    va_end(args);
    return n >= 0 && (size_t)n < cap ? 0 : error_set(e, ERROR_INVALID, "an image's name or path is too long");
}

static int refused(const struct call_reply *r, const char *url, struct error *e)
{
    enum error_code code = r->code == 404 ? ERROR_NOT_FOUND : r->code == 413 ? ERROR_TOO_LARGE : ERROR_UNAVAILABLE;
    return error_set(e, code, "%.120s answered %d: %.100s", url, r->code, r->body);
}

static int blob_path(char path[PATH_MAX], const char *dir, const char *digest, struct error *e)
{
    return format(path, PATH_MAX, e, "%s/blobs/sha256/%s", dir, digest + strlen("sha256:"));
}

/* A whole small blob, verified. The caller frees *ret_text. */
static int read_blob(const char *dir, const char *digest, char **ret_text, size_t *ret_len, struct error *e)
{
    char path[PATH_MAX], actual[OCI_DIGEST_MAX];
    int rc = blob_path(path, dir, digest, e);
    if (rc != 0) return rc;
    FILE *f = fopen(path, "re");
    char *text = f != NULL ? malloc(OCI_JSON_MAX) : NULL;
    size_t len = text != NULL ? fread(text, 1, OCI_JSON_MAX, f) : 0;
    if (f == NULL) rc = error_errno(e, ERROR_NOT_FOUND, errno, "%s", path);
    else if (text == NULL || digest_of(text, len, actual) != 0) rc = error_set(e, ERROR_NOMEM, "no memory for a manifest");
    else if (strcmp(actual, digest) != 0) rc = error_set(e, ERROR_CORRUPT, "%s is not what its name says", path);
    if (f != NULL) fclose(f);
    if (rc != 0) {
        free(text);
        return rc;
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

/* ---- pushing ---------------------------------------------------------------------------------------------------- */

static int has_blob(const struct registry *r, const struct oci_blob *b, bool *ret_has, struct error *e)
{
    char url[URL_MAX];
    struct call_reply reply;
    int rc = format(url, sizeof url, e, "%s/v2/%s/blobs/%s", r->base, r->repository, b->digest);
    if (rc == 0) rc = call_do(&(struct call){.method = "HEAD", .url = url, .tls = r->tls, .timeout_ms = CALL_MS}, &reply, e);
    if (rc != 0) return rc;
    *ret_has = reply.code == 200;
    call_reply_fini(&reply);
    return 0;
}

/* Where the upload goes: the answer's Location, which may be without a host. */
static int begin_upload(const struct registry *r, const char *digest, char to[URL_MAX], struct error *e)
{
    char url[URL_MAX];
    struct call_reply reply;
    int rc = format(url, sizeof url, e, "%s/v2/%s/blobs/uploads/", r->base, r->repository);
    if (rc == 0) rc = call_do(&(struct call){.method = "POST", .url = url, .body = "", .tls = r->tls, .timeout_ms = CALL_MS}, &reply, e);
    if (rc != 0) return rc;
    const char *where = reply.location, *base = *where == '/' ? r->base : "";
    if (reply.code != 202 || *where == '\0') rc = refused(&reply, url, e);
    else rc = format(to, URL_MAX, e, "%s%s%cdigest=%s", base, where, strchr(where, '?') != NULL ? '&' : '?', digest);
    call_reply_fini(&reply);
    return rc;
}

static int push_blob(const struct registry *r, const char *dir, const struct oci_blob *b, struct error *e)
{
    static const char *const headers[] = {"Content-Type: application/octet-stream", NULL};
    char url[URL_MAX], path[PATH_MAX];
    struct call_reply reply;
    bool there = false;
    int rc = has_blob(r, b, &there, e);
    if (rc != 0 || there) return rc;
    rc = blob_path(path, dir, b->digest, e);
    if (rc == 0) rc = begin_upload(r, b->digest, url, e);
    if (rc != 0) return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "%s", path);
    rc = call_do(&(struct call){.method = "PUT", .url = url, .headers = headers, .upload_fd = fd, .upload_len = b->size, .tls = r->tls}, &reply, e);
    close(fd);
    if (rc != 0) return rc;
    if (reply.code != 201) rc = refused(&reply, url, e); /* the registry compares the digest */
    call_reply_fini(&reply);
    return rc;
}

/* The manifest of that tag or digest as the registry has it, and its digest. */
static int read_manifest(const struct registry *r, const char *name, struct call_reply *ret_reply, char digest[OCI_DIGEST_MAX], struct error *e)
{
    static const char *const headers[] = {"Accept: " TYPE_MANIFEST, NULL};
    char url[URL_MAX];
    struct call_reply reply;
    int rc = format(url, sizeof url, e, "%s/v2/%s/manifests/%s", r->base, r->repository, name);
    if (rc == 0) rc = call_do(&(struct call){.url = url, .headers = headers, .answer_max = OCI_JSON_MAX, .tls = r->tls, .timeout_ms = CALL_MS}, &reply, e);
    if (rc != 0) return rc;
    if (reply.code != 200) rc = refused(&reply, url, e);
    else if (digest_of(reply.body, reply.len, digest) != 0) rc = error_set(e, ERROR_NOMEM, "no memory for a manifest");
    if (rc != 0) call_reply_fini(&reply);
    else *ret_reply = reply;
    return rc;
}

static int get_manifest(const struct registry *r, const char *digest, struct call_reply *ret_reply, struct error *e)
{
    char actual[OCI_DIGEST_MAX];
    struct call_reply reply;
    int rc = read_manifest(r, digest, &reply, actual, e);
    if (rc != 0) return rc;
    if (strcmp(actual, digest) == 0) {
        *ret_reply = reply;
        return 0;
    }
    call_reply_fini(&reply);
    return error_set(e, ERROR_CORRUPT, "%.100s/%.100s: %s is not what its name says", r->base, r->repository, digest);
}

int registry_resolve(const struct registry *r, const char *tag, char ret_digest[OCI_DIGEST_MAX], struct error *e)
{
    struct call_reply reply;
    int rc = read_manifest(r, tag, &reply, ret_digest, e);
    if (rc == 0) call_reply_fini(&reply);
    return rc;
}

int registry_push(const struct registry *r, const char *dir, const char *digest, const char *tag, struct error *e)
{
    static const char *const headers[] = {"Content-Type: " TYPE_MANIFEST, NULL};
    char url[URL_MAX], *text = NULL;
    struct oci_manifest m;
    struct call_reply reply;
    size_t len = 0;
    bool there = false;
    int rc = read_blob(dir, digest, &text, &len, e);
    if (rc == 0) rc = oci_read_manifest(text, len, &m, e);
    if (rc == 0) rc = push_blob(r, dir, &m.layer, e);
    if (rc == 0) rc = push_blob(r, dir, &m.config, e);
    if (rc == 0) rc = format(url, sizeof url, e, "%s/v2/%s/manifests/%s", r->base, r->repository, tag);
    if (rc == 0) {
        rc = call_do(&(struct call){.method = "PUT", .url = url, .headers = headers, .body = text, .body_len = len, .tls = r->tls, .timeout_ms = CALL_MS}, &reply, e);
        bool answered = rc == 0;
        if (answered && reply.code != 201) rc = refused(&reply, url, e);
        if (answered) call_reply_fini(&reply);
    }
    free(text);
    if (rc == 0) rc = get_manifest(r, digest, &reply, e);
    if (rc != 0) return rc;
    call_reply_fini(&reply);
    rc = has_blob(r, &m.layer, &there, e);
    return rc == 0 && !there ? error_set(e, ERROR_CORRUPT, "%s took the image and does not have its layer", r->base) : rc;
}

/* ---- fetching --------------------------------------------------------------------------------------------------- */

static int write_blob(const char *dir, const char *digest, const char *text, size_t len, struct error *e)
{
    char path[PATH_MAX];
    int rc = blob_path(path, dir, digest, e);
    if (rc != 0) return rc;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rv = fd < 0 ? -errno : file_write(fd, text, len);
    if (rv != 0) rc = error_errno(e, rv == -ENOSPC ? ERROR_NOSPACE : ERROR_IO, -rv, "%s", path);
    if (fd >= 0) close(fd);
    return rc;
}

static int fetch_blob(const struct registry *r, const struct oci_blob *b, const char *dir, struct error *e)
{
    char url[URL_MAX], path[PATH_MAX];
    struct call_reply reply;
    struct stat st;
    int rc = format(url, sizeof url, e, "%s/v2/%s/blobs/%s", r->base, r->repository, b->digest);
    if (rc == 0) rc = blob_path(path, dir, b->digest, e);
    if (rc != 0) return rc;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "%s", path);
    rc = call_do(&(struct call){.url = url, .tls = r->tls, .sink_fd = fd, .sink_max = b->size + 4096}, &reply, e);
    if (rc == 0) {
        if (reply.code != 200) rc = refused(&reply, url, e);
        else if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != b->size) rc = error_set(e, ERROR_CORRUPT, "%.150s has another size than it should", url);
        call_reply_fini(&reply);
    }
    close(fd);
    return rc;
}

static int fetch(const struct registry *r, const char *digest, const char *dir, uint64_t max_bytes, struct error *e)
{
    char blobs[PATH_MAX];
    struct oci_manifest m;
    struct call_reply reply;
    int rc = format(blobs, sizeof blobs, e, "%s/blobs/sha256", dir);
    if (rc == 0) rc = tree_make(blobs, e);
    if (rc == 0) rc = get_manifest(r, digest, &reply, e);
    if (rc != 0) return rc;
    rc = oci_read_manifest(reply.body, reply.len, &m, e);
    if (rc == 0 && m.layer.size > max_bytes) rc = error_set(e, ERROR_TOO_LARGE, "the image is larger than %llu bytes", (unsigned long long)max_bytes);
    if (rc == 0) rc = write_blob(dir, digest, reply.body, reply.len, e);
    call_reply_fini(&reply);
    if (rc == 0) rc = fetch_blob(r, &m.config, dir, e);
    if (rc == 0) rc = fetch_blob(r, &m.layer, dir, e);
    return rc;
}

int registry_fetch(const struct registry *r, const char *digest, const char *dir, uint64_t max_bytes, struct error *e)
{
    char partial[PATH_MAX];
    int rc = format(partial, sizeof partial, e, "%s.partial", dir);
    if (rc == 0) rc = tree_remove(partial, e);
    if (rc == 0) rc = fetch(r, digest, partial, max_bytes, e);
    if (rc == 0 && rename(partial, dir) != 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be renamed", partial);
    if (rc != 0) tree_remove(partial, NULL);
    return rc;
}

int registry_delete(const struct registry *r, const char *digest, struct error *e)
{
    char url[URL_MAX];
    struct call_reply reply;
    int rc = format(url, sizeof url, e, "%s/v2/%s/manifests/%s", r->base, r->repository, digest);
    if (rc == 0) rc = call_do(&(struct call){.method = "DELETE", .url = url, .tls = r->tls, .timeout_ms = CALL_MS}, &reply, e);
    if (rc != 0) return rc;
    if (reply.code != 202 && reply.code != 404) rc = error_set(e, ERROR_UNAVAILABLE, "%.120s answered %d: %.100s", url, reply.code, reply.body);
    call_reply_fini(&reply);
    return rc;
}
