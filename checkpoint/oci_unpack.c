/* Unpacking: image layout -> dump directory, believing nothing but the digest that the caller brought. */
#include "checkpoint/oci_image.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "checkpoint/digest.h"
#include "checkpoint/oci_json.h"
#include "checkpoint/precopy.h"
#include "checkpoint/tree.h"
#include "common/file.h"

enum {
    CHUNK = 256 << 10,
    ENTRIES_MAX = 1 << 16, /* files and directories of one dump; CRIU makes some tens */
};

static const char top[] = "checkpoint";

/* Reads a whole small file; *ret_text is malloc()ed, with a zero behind it. */
static int read_small(const char *path, char **ret_text, size_t *ret_len, struct error *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s cannot be read", path);
    int rc = 0;
    size_t len = 0;
    char *text = NULL;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) rc = error_set(e, ERROR_INVALID, "%s is no file", path);
    else if (st.st_size > OCI_JSON_MAX) rc = error_set(e, ERROR_TOO_LARGE, "%s is larger than %d bytes", path, OCI_JSON_MAX);
    else if ((text = malloc((size_t)st.st_size + 1)) == NULL) rc = error_set(e, ERROR_NOMEM, "no memory to read an image");
    while (rc == 0 && len < (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size - len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be read", path);
        if (n <= 0) break;
        len += (size_t)n;
    }
    close(fd);
    if (rc != 0) {
        free(text);
        return rc;
    }
    text[len] = '\0';
    *ret_text = text;
    *ret_len = len;
    return 0;
}

static int blob_path(char path[PATH_MAX], const char *dir, const char *digest, struct error *e)
{
    int n = snprintf(path, PATH_MAX, "%s/blobs/sha256/%s", dir, digest + strlen("sha256:"));
    return n < PATH_MAX ? 0 : error_set(e, ERROR_INVALID, "the image's path is too long");
}

/* As read_small(), of a blob, and only if it has that digest. */
static int read_blob(const char *dir, const char *digest, char **ret_text, size_t *ret_len, struct error *e)
{
    char path[PATH_MAX], found[OCI_DIGEST_MAX], *text = NULL;
    size_t len = 0;
    int rc = blob_path(path, dir, digest, e);
    if (rc == 0) rc = read_small(path, &text, &len, e);
    if (rc != 0) return rc;
    if (digest_of(text, len, found) != 0) rc = error_set(e, ERROR_NOMEM, "no memory to read an image");
    else if (strcmp(found, digest) != 0) rc = error_set(e, ERROR_CORRUPT, "%s is not what was written: it has digest %s", path, found);
    if (rc != 0) {
        free(text);
        return rc;
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

static int read_image(const char *dir, const char *digest, struct oci_manifest *m, struct oci_image *image, struct error *e)
{
    char *text = NULL, path[PATH_MAX];
    size_t len = 0, manifest_len = 0;
    int rc = 0;
    memset(image, 0, sizeof *image);
    if (digest != NULL) {
        if (!digest_valid(digest)) return error_set(e, ERROR_INVALID, "\"%.80s\" is no digest of an image", digest);
        memcpy(image->digest, digest, strlen(digest) + 1);
    } else {
        if (snprintf(path, sizeof path, "%s/index.json", dir) >= (int)sizeof path)
            return error_set(e, ERROR_INVALID, "the image's path is too long");
        rc = read_small(path, &text, &len, e);
        if (rc == 0) rc = oci_read_index(text, len, image->digest, e);
        free(text);
        text = NULL;
    }
    if (rc == 0) rc = read_blob(dir, image->digest, &text, &manifest_len, e);
    if (rc == 0) rc = oci_read_manifest(text, manifest_len, m, e);
    free(text);
    text = NULL;
    if (rc == 0) rc = read_blob(dir, m->config.digest, &text, &len, e);
    if (rc == 0 && len != m->config.size) rc = error_set(e, ERROR_INVALID, "the image's config is not of the size that its manifest says");
    if (rc == 0) rc = oci_check_config(text, len, &m->layer, e);
    free(text);
    image->labels = m->labels;
    image->size = manifest_len + m->config.size + m->layer.size;
    return rc;
}

int oci_image_inspect(const char *dir, const char *digest, struct oci_image *ret_image, struct error *e)
{
    struct oci_manifest m = {0};
    struct oci_image image;
    struct error local;
    int rc = read_image(dir, digest, &m, &image, e != NULL ? e : &local);
    if (rc == 0) *ret_image = image;
    return rc;
}

/* --- the layer */

struct source {
    int fd;
    struct digest *digest;
    uint64_t left; /* bytes that may still come */
    int failed;    /* errno of a read */
    char *chunk;   /* CHUNK bytes */
};

static la_ssize_t on_read(struct archive *a, void *user, const void **ret_data)
{
    struct source *s = user;
    ssize_t n;
    do
        n = read(s->fd, s->chunk, s->left < CHUNK ? (size_t)s->left : CHUNK);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        s->failed = errno;
        if (a != NULL) archive_set_error(a, errno, "read failed");
        return -1;
    }
    digest_add(s->digest, s->chunk, (size_t)n);
    s->left -= (uint64_t)n;
    *ret_data = s->chunk;
    return n;
}

/* The path of an entry below `target`, or an error: names are "checkpoint" or "checkpoint/a/b", without "." or ".." or empty
 * parts, and no link on its way. In a fresh directory whose only links are those of extract_link() such a path cannot leave it. */
static int entry_path(struct archive_entry *entry, const char *target, char path[PATH_MAX], struct error *e)
{
    const char *name = archive_entry_pathname(entry);
    size_t len = name != NULL ? strlen(name) : 0;
    if (len > 0 && name[len - 1] == '/') len--;
    if (len < strlen(top) || strncmp(name, top, strlen(top)) != 0 || (len > strlen(top) && name[strlen(top)] != '/'))
        return error_set(e, ERROR_INVALID, "the image has an entry outside of %s/: \"%.100s\"", top, name != NULL ? name : "");
    for (const char *part = name; part < name + len;) {
        size_t n = strcspn(part, "/");
        if (part + n > name + len) n = (size_t)(name + len - part);
        bool linked = n == 6 && strncmp(part, "parent", n) == 0 && part + n < name + len; /* through a link */
        if (n == 0 || linked || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return error_set(e, ERROR_INVALID, "the image has an entry with an unsafe name: \"%.100s\"", name);
        part += n + 1;
    }
    if (snprintf(path, PATH_MAX, "%s%.*s", target, (int)(len - strlen(top)), name + strlen(top)) >= PATH_MAX)
        return error_set(e, ERROR_INVALID, "the image has an entry whose name is too long");
    return 0;
}

/* Want of memory is not the image's fault: an ERROR_INVALID would condemn it. */
static int reader_error(struct archive *a, const char *what, struct error *e)
{
    if (a == NULL || archive_errno(a) == ENOMEM) return error_set(e, ERROR_NOMEM, "no memory to read the image's layer");
    return error_set(e, ERROR_INVALID, "%s: %s", what, archive_error_string(a));
}

static int extract_file(struct archive *a, const char *path, uint64_t *budget, struct error *e)
{
    const void *data;
    size_t len;
    la_int64_t at, expected = 0;
    int rc = 0, step;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(e, errno == EEXIST ? ERROR_INVALID : errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s", path);
    while (rc == 0 && (step = archive_read_data_block(a, &data, &len, &at)) != ARCHIVE_EOF) {
        if (step != ARCHIVE_OK) rc = reader_error(a, "the image's layer is no proper tar", e);
        else if (at != expected) rc = error_set(e, ERROR_INVALID, "the image has a sparse file");
        else if (len > *budget) rc = error_set(e, ERROR_TOO_LARGE, "the image has more content than may be");
        int failed = rc == 0 ? -file_write(fd, data, len) : 0;
        if (failed != 0) rc = error_errno(e, file_error_code(failed), failed, "%s", path);
        if (rc == 0) {
            expected += (la_int64_t)len;
            *budget -= len;
        }
    }
    if (close(fd) != 0 && rc == 0) rc = error_errno(e, ERROR_IO, errno, "%s", path);
    return rc;
}

/* CRIU's links to the rounds before (precopy.h): they lead to folders of the dump. */
static int extract_link(const char *name, const char *target, const char *path, struct error *e)
{
    size_t skipped = strlen(top) + 1;
    if (strlen(name) <= skipped || !precopy_is_link(name + skipped, target))
        return error_set(e, ERROR_INVALID, "the image has a link that is none of a checkpoint: \"%.100s\" to \"%.60s\"", name, target);
    if (symlink(target, path) == 0) return 0;
    return error_errno(e, errno == EEXIST ? ERROR_INVALID : errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s", path);
}

static int extract_entry(struct archive *a, struct archive_entry *entry, const char *target, uint64_t *budget, struct error *e)
{
    char path[PATH_MAX];
    int rc = entry_path(entry, target, path, e);
    if (rc != 0) return rc;
    if (archive_entry_filetype(entry) == AE_IFLNK && archive_entry_symlink(entry) != NULL && archive_entry_hardlink(entry) == NULL)
        return extract_link(archive_entry_pathname(entry), archive_entry_symlink(entry), path, e);
    bool link = archive_entry_hardlink(entry) != NULL || archive_entry_symlink(entry) != NULL;
    if (!link && archive_entry_filetype(entry) == AE_IFREG) return extract_file(a, path, budget, e);
    if (link || archive_entry_filetype(entry) != AE_IFDIR)
        return error_set(e, ERROR_INVALID, "the image has an entry that is neither file nor directory: \"%.100s\"",
            archive_entry_pathname(entry));
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s", path);
    return 0;
}

static int extract(struct source *s, const char *target, uint64_t max_bytes, struct error *e)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    uint64_t budget = max_bytes;
    int rc = 0, step, entries = 0;
    if (a == NULL || archive_read_support_format_tar(a) != ARCHIVE_OK || archive_read_support_format_empty(a) != ARCHIVE_OK ||
        archive_read_open(a, s, NULL, on_read, NULL) != ARCHIVE_OK)
        rc = reader_error(a, "the image's layer is no tar", e);
    while (rc == 0 && (step = archive_read_next_header(a, &entry)) != ARCHIVE_EOF) {
        if (step != ARCHIVE_OK) rc = reader_error(a, "the image's layer is no proper tar", e);
        else if (++entries > ENTRIES_MAX) rc = error_set(e, ERROR_TOO_LARGE, "the image has more than %d files", ENTRIES_MAX);
        else rc = extract_entry(a, entry, target, &budget, e);
    }
    archive_read_free(a);
    return rc;
}

/* What the tar reader did not ask for is hashed too. Bytes that are not the written ones outrank what they made the tar reader
 * say. */
static int verify(struct source *s, const struct oci_blob *layer, const char *path, int rc, struct error *e)
{
    const void *unused;
    char found[OCI_DIGEST_MAX];
    if (rc == -ERROR_NOSPACE || rc == -ERROR_NOMEM || rc == -ERROR_TOO_LARGE) return rc;
    while (s->failed == 0 && s->left > 0 && on_read(NULL, s, &unused) > 0) {}
    if (s->failed != 0) return error_errno(e, ERROR_IO, s->failed, "%s cannot be read", path);
    if (digest_end(s->digest, found) != 0) return error_set(e, ERROR_INTERNAL, "OpenSSL gave no digest");
    if (strcmp(found, layer->digest) != 0) return error_set(e, ERROR_CORRUPT, "%s is not what was written: it has digest %s", path, found);
    return rc;
}

/* `target` NULL: only read, against its digest. */
static int extract_layer(const char *dir, const struct oci_blob *layer, const char *target, uint64_t max_bytes, struct error *e)
{
    char path[PATH_MAX];
    struct stat st;
    int rc = blob_path(path, dir, layer->digest, e);
    if (rc != 0) return rc;
    struct source s = {.fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), .digest = digest_new(), .chunk = malloc(CHUNK),
        .left = layer->size};
    if (s.fd < 0) rc = error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s cannot be read", path);
    else if (s.digest == NULL || s.chunk == NULL) rc = error_set(e, ERROR_NOMEM, "no memory to unpack");
    else if (fstat(s.fd, &st) != 0 || !S_ISREG(st.st_mode)) rc = error_set(e, ERROR_INVALID, "%s is no file", path);
    else if ((uint64_t)st.st_size != layer->size)
        rc = error_set(e, ERROR_CORRUPT, "%s has %lld bytes and should have %llu", path, (long long)st.st_size,
            (unsigned long long)layer->size);
    if (rc == 0) {
        if (target != NULL) rc = extract(&s, target, max_bytes, e);
        rc = verify(&s, layer, path, rc, e);
    }
    if (s.fd >= 0) close(s.fd);
    digest_free(s.digest);
    free(s.chunk);
    return rc;
}

static int unpack(const char *dir, const char *digest, const char *target, uint64_t max_bytes, struct oci_image *ret_image,
    struct error *e)
{
    char partial[PATH_MAX];
    struct stat st;
    struct oci_manifest m = {0};
    struct oci_image image;
    if (digest == NULL) return error_set(e, ERROR_INVALID, "an image is unpacked by the digest that the log has, or not at all");
    if (snprintf(partial, sizeof partial, "%s.partial", target) >= (int)sizeof partial)
        return error_set(e, ERROR_INVALID, "the path is too long");
    if (lstat(target, &st) == 0) return error_set(e, ERROR_EXISTS, "%s is there already", target);
    int rc = read_image(dir, digest, &m, &image, e);
    if (rc == 0) rc = tree_remove(partial, e);
    if (rc != 0) return rc;
    if (mkdir(partial, 0700) != 0) return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s cannot be made", partial);
    rc = extract_layer(dir, &m.layer, partial, max_bytes, e);
    if (rc == 0 && renameat2(AT_FDCWD, partial, AT_FDCWD, target, RENAME_NOREPLACE) != 0)
        rc = error_errno(e, errno == EEXIST ? ERROR_EXISTS : ERROR_IO, errno, "%s cannot be renamed", partial);
    if (rc == 0) *ret_image = image;
    else tree_remove(partial, NULL);
    return rc;
}

int oci_image_unpack(const char *dir, const char *digest, const char *target, uint64_t max_bytes, struct oci_image *ret_image,
    struct error *e)
{
    struct error local;
    return unpack(dir, digest, target, max_bytes, ret_image, e != NULL ? e : &local);
}

int oci_image_verify(const char *dir, const char *digest, struct oci_image *ret_image, struct error *e)
{
    struct oci_manifest m = {0};
    struct oci_image image;
    struct error local;
    struct error *why = e != NULL ? e : &local;
    int rc = digest == NULL ? error_set(why, ERROR_INVALID, "an image is verified by the digest that the log has, or not at all") : read_image(dir, digest, &m, &image, why);
    if (rc == 0) rc = extract_layer(dir, &m.layer, NULL, 0, why);
    if (rc == 0) *ret_image = image;
    return rc;
}
