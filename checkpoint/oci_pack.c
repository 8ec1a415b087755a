/* Packing: dump directory, or archive -> image layout. The layer is hashed while it is written; what is visible is complete and synced. */
#include "checkpoint/oci_image.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
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

enum { CHUNK = 256 << 10 };

struct layer {
    int fd;
    struct digest *digest;
    uint64_t size;
    int failed; /* errno of a write */
};

static enum error_code code_of(int errno_value)
{
    return errno_value == ENOMEM ? ERROR_NOMEM : file_error_code(errno_value);
}

/* A failure is only noted: libarchive would lose its buffer for good if it were told. Whoever adds to the archive asks for it. */
static la_ssize_t on_write(struct archive *a, void *user, const void *data, size_t len)
{
    struct layer *layer = user;
    (void)a;
    if (layer->failed == 0) layer->failed = -file_write(layer->fd, data, len);
    if (layer->failed != 0) return (la_ssize_t)len;
    digest_add(layer->digest, data, len);
    layer->size += len;
    return (la_ssize_t)len;
}

static int archive_failed(struct archive *a, const struct layer *layer, const char *path, struct error *e)
{
    int why = layer->failed != 0 ? layer->failed : archive_errno(a);
    return error_set(e, code_of(why), "%s cannot be added to the image: %s", path,
        layer->failed != 0 ? strerror(why) : archive_error_string(a) != NULL ? archive_error_string(a) : "libarchive gave no reason");
}

/* Exactly st_size bytes: a file that changes meanwhile is no finished dump. */
static int add_content(struct archive *a, struct layer *layer, const char *path, uint64_t size, char *chunk, struct error *e)
{
    uint64_t done = 0;
    int rc = 0;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "%s cannot be read", path);
    while (rc == 0) {
        ssize_t n = read(fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be read", path);
        if (n <= 0) break;
        done += (uint64_t)n;
        if (done <= size && (archive_write_data(a, chunk, (size_t)n) != n || layer->failed != 0)) rc = archive_failed(a, layer, path, e);
    }
    close(fd);
    if (rc == 0 && done != size) rc = error_set(e, ERROR_CONFLICT, "%s changed while it was packed", path);
    return rc;
}

/* `target`: of a link; else NULL. */
static int add_entry(struct archive *a, struct layer *layer, const FTSENT *f, size_t root_len, const char *target, char *chunk, struct error *e)
{
    char name[PATH_MAX + 16];
    const struct stat *st = f->fts_statp;
    bool folder = f->fts_info == FTS_D, link = target != NULL;
    struct archive_entry *entry = archive_entry_new();
    if (entry == NULL) return error_set(e, ERROR_NOMEM, "no memory to pack");
    snprintf(name, sizeof name, "checkpoint%s", f->fts_path + root_len);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, folder ? AE_IFDIR : link ? AE_IFLNK : AE_IFREG);
    if (link) archive_entry_set_symlink(entry, target);
    archive_entry_set_perm(entry, folder ? 0700 : link ? 0777 : 0600);
    archive_entry_set_mtime(entry, 0, 0); /* the same dump has the same digest */
    if (!folder && !link) archive_entry_set_size(entry, st->st_size);
    int rc = archive_write_header(a, entry) == ARCHIVE_OK && layer->failed == 0 ? 0 : archive_failed(a, layer, f->fts_path, e);
    archive_entry_free(entry);
    if (rc == 0 && !folder && !link) rc = add_content(a, layer, f->fts_path, (uint64_t)st->st_size, chunk, e);
    return rc;
}

/* CRIU's links to the rounds before (precopy.h). */
static int add_link(struct archive *a, struct layer *layer, const FTSENT *f, size_t root_len, struct error *e)
{
    char target[64];
    ssize_t n = readlink(f->fts_accpath, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    if (n <= 0 || !precopy_is_link(f->fts_path + root_len + 1, target))
        return error_set(e, ERROR_INVALID, "%s is a link, and none of pre-copy: no part of a dump", f->fts_path);
    return add_entry(a, layer, f, root_len, target, NULL, e);
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int add_tree(struct archive *a, struct layer *layer, const char *dump_dir, struct error *e)
{
    int rc = 0;
    char *const roots[] = {(char *)(uintptr_t)dump_dir, NULL};
    char *chunk = malloc(CHUNK);
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, by_name);
    if (walk == NULL || chunk == NULL) rc = error_errno(e, code_of(errno), errno, "%s cannot be read", dump_dir);
    while (rc == 0) {
        errno = 0;
        FTSENT *f = fts_read(walk);
        if (f == NULL) {
            if (errno != 0) rc = error_errno(e, code_of(errno), errno, "%s cannot be read", dump_dir);
            break;
        }
        if (f->fts_info == FTS_DP) continue;
        if (f->fts_level == FTS_ROOTLEVEL && f->fts_info != FTS_D)
            rc = error_set(e, ERROR_NOT_FOUND, "%s is no directory with a dump", dump_dir);
        else if (f->fts_info == FTS_D || f->fts_info == FTS_F)
            rc = add_entry(a, layer, f, strlen(dump_dir), NULL, chunk, e);
        else if (f->fts_info == FTS_SL || f->fts_info == FTS_SLNONE)
            rc = add_link(a, layer, f, strlen(dump_dir), e);
        else if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS)
            rc = error_errno(e, ERROR_IO, f->fts_errno, "%s cannot be read", f->fts_path);
        else
            rc = error_set(e, ERROR_INVALID, "%s is neither a file nor a directory: no part of a dump", f->fts_path);
    }
    if (walk != NULL) fts_close(walk);
    free(chunk);
    return rc;
}

static int write_archive(struct layer *layer, const char *dump_dir, struct error *e)
{
    struct archive *a = archive_write_new();
    if (a == NULL) return error_set(e, ERROR_NOMEM, "no memory to pack");
    int rc = 0;
    if (archive_write_set_format_pax_restricted(a) != ARCHIVE_OK || archive_write_set_bytes_per_block(a, CHUNK) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK || archive_write_open(a, layer, NULL, on_write, NULL) != ARCHIVE_OK)
        rc = archive_failed(a, layer, dump_dir, e);
    if (rc == 0) rc = add_tree(a, layer, dump_dir, e);
    if (rc == 0 && (archive_write_close(a) != ARCHIVE_OK || layer->failed != 0)) rc = archive_failed(a, layer, dump_dir, e);
    archive_write_free(a);
    return rc;
}

static int blob_path(char path[PATH_MAX], const char *dir, const char *digest, struct error *e)
{
    int n = snprintf(path, PATH_MAX, "%s/blobs/sha256/%s", dir, digest + strlen("sha256:"));
    return n < PATH_MAX ? 0 : error_set(e, ERROR_INVALID, "the image's path is too long");
}

static int sync_and_close(int fd, int rc, const char *path, struct error *e)
{
    if (rc == 0 && fsync(fd) != 0) rc = error_errno(e, code_of(errno), errno, "%s cannot be synced", path);
    if (close(fd) != 0 && rc == 0) rc = error_errno(e, code_of(errno), errno, "%s cannot be closed", path);
    return rc;
}

/* As it is: a tar's first header has its mark at byte 257 (POSIX.1-1988, "ustar"). */
static int copy_archive(struct layer *layer, int fd, struct error *e)
{
    static const char mark[] = "ustar";
    char *chunk = malloc(CHUNK);
    uint64_t at = 0;
    int rc = chunk == NULL ? error_set(e, ERROR_NOMEM, "no memory to pack") : 0;
    while (rc == 0) {
        ssize_t n = pread(fd, chunk, CHUNK, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = error_errno(e, ERROR_IO, errno, "the archive cannot be read");
        else if (at == 0 && (n < 512 || memcmp(chunk + 257, mark, strlen(mark)) != 0)) rc = error_set(e, ERROR_INVALID, "the archive is no tar");
        if (rc != 0 || n == 0) break;
        at += (uint64_t)n;
        on_write(NULL, layer, chunk, (size_t)n);
        if (layer->failed != 0) rc = error_errno(e, code_of(layer->failed), layer->failed, "the archive cannot be copied into the image");
    }
    free(chunk);
    return rc;
}

/* What the layer is made of: a dump, or an archive that is there already. */
struct content {
    const char *dump_dir; /* NULL: */
    int archive_fd;
};

static int write_layer(const char *dir, const struct content *c, struct oci_blob *ret_layer, struct error *e)
{
    char unnamed[PATH_MAX], path[PATH_MAX];
    struct oci_blob blob = {0};
    if (snprintf(unnamed, sizeof unnamed, "%s/blobs/sha256/.layer", dir) >= (int)sizeof unnamed)
        return error_set(e, ERROR_INVALID, "the image's path is too long");
    struct layer layer = {.fd = open(unnamed, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), .digest = digest_new()};
    int rc = 0;
    if (layer.fd < 0) rc = error_errno(e, code_of(errno), errno, "%s cannot be made", unnamed);
    else if (layer.digest == NULL) rc = error_set(e, ERROR_NOMEM, "no memory to pack");
    if (rc == 0) rc = c->dump_dir != NULL ? write_archive(&layer, c->dump_dir, e) : copy_archive(&layer, c->archive_fd, e);
    if (rc == 0 && digest_end(layer.digest, blob.digest) != 0) rc = error_set(e, ERROR_INTERNAL, "OpenSSL gave no digest");
    if (layer.fd >= 0) rc = sync_and_close(layer.fd, rc, unnamed, e);
    digest_free(layer.digest);
    blob.size = layer.size;
    if (rc == 0) rc = blob_path(path, dir, blob.digest, e);
    if (rc == 0 && rename(unnamed, path) != 0) rc = error_errno(e, code_of(errno), errno, "%s cannot be renamed", unnamed);
    if (rc == 0) *ret_layer = blob;
    return rc;
}

static int write_file(const char *path, const char *text, size_t len, struct error *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(e, code_of(errno), errno, "%s cannot be made", path);
    int failed = -file_write(fd, text, len);
    int rc = failed == 0 ? 0 : error_errno(e, code_of(failed), failed, "%s cannot be written", path);
    return sync_and_close(fd, rc, path, e);
}

/* Takes and frees `text`; NULL means that there was no memory for it. */
static int write_blob(const char *dir, char *text, size_t len, struct oci_blob *ret_blob, struct error *e)
{
    char path[PATH_MAX];
    struct oci_blob blob = {.size = len};
    int rc = text == NULL || digest_of(text, len, blob.digest) != 0 ? error_set(e, ERROR_NOMEM, "no memory to pack") : 0;
    if (rc == 0) rc = blob_path(path, dir, blob.digest, e);
    if (rc == 0) rc = write_file(path, text, len, e);
    free(text);
    if (rc == 0) *ret_blob = blob;
    return rc;
}

static int write_named(const char *dir, const char *name, const char *text, size_t len, struct error *e)
{
    char path[PATH_MAX];
    if (text == NULL) return error_set(e, ERROR_NOMEM, "no memory to pack");
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return error_set(e, ERROR_INVALID, "the image's path is too long");
    return write_file(path, text, len, e);
}

static int write_image(const char *dir, const struct content *content, const struct oci_image_labels *labels, struct oci_image *ret_image,
    struct error *e)
{
    char blobs[PATH_MAX];
    struct oci_manifest m = {.labels = *labels};
    struct oci_blob manifest;
    size_t len = 0;
    char *text;
    if (snprintf(blobs, sizeof blobs, "%s/blobs/sha256", dir) >= (int)sizeof blobs)
        return error_set(e, ERROR_INVALID, "the image's path is too long");
    int rc = tree_make(blobs, e);
    if (rc == 0) rc = write_layer(dir, content, &m.layer, e);
    if (rc == 0) {
        text = oci_write_config(&m.layer, labels->user, &len);
        rc = write_blob(dir, text, len, &m.config, e);
    }
    if (rc == 0) {
        text = oci_write_manifest(&m, &len);
        rc = write_blob(dir, text, len, &manifest, e);
    }
    if (rc == 0) {
        text = oci_write_index(&manifest, labels, &len);
        rc = write_named(dir, "index.json", text, len, e);
        free(text);
    }
    if (rc == 0) rc = write_named(dir, "oci-layout", OCI_LAYOUT_TEXT, strlen(OCI_LAYOUT_TEXT), e);
    if (rc == 0) rc = file_sync_dir(blobs, e);
    blobs[strlen(dir) + strlen("/blobs")] = '\0';
    if (rc == 0) rc = file_sync_dir(blobs, e);
    if (rc == 0) rc = file_sync_dir(dir, e);
    if (rc != 0) return rc;
    *ret_image = (struct oci_image){.size = m.layer.size + m.config.size + manifest.size, .labels = *labels};
    memcpy(ret_image->digest, manifest.digest, sizeof manifest.digest);
    return 0;
}

static bool label_valid(const char *text)
{
    if (*text == '\0') return false;
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e) return false;
    return true;
}

static int make_image(const struct content *content, const char *dir, const struct oci_image_labels *labels, struct oci_image *ret_image, struct error *e)
{
    char partial[PATH_MAX];
    struct stat st;
    struct oci_image image;
    if (!label_valid(labels->container) || !label_valid(labels->stream))
        return error_set(e, ERROR_INVALID, "an image's labels are of printable ASCII, and not empty");
    if (*labels->spec != '\0' && !digest_valid(labels->spec)) return error_set(e, ERROR_INVALID, "\"%.80s\" is no digest", labels->spec);
    if (snprintf(partial, sizeof partial, "%s.partial", dir) >= (int)sizeof partial)
        return error_set(e, ERROR_INVALID, "the image's path is too long");
    if (lstat(dir, &st) == 0) return error_set(e, ERROR_EXISTS, "%s is there already", dir);
    int rc = tree_remove(partial, e);
    if (rc == 0) rc = write_image(partial, content, labels, &image, e);
    if (rc == 0 && renameat2(AT_FDCWD, partial, AT_FDCWD, dir, RENAME_NOREPLACE) != 0)
        rc = error_errno(e, errno == EEXIST ? ERROR_EXISTS : ERROR_IO, errno, "%s cannot be renamed", partial);
    if (rc != 0) {
        tree_remove(partial, NULL);
        return rc;
    }
    rc = tree_sync_parent(dir, e);
    if (rc == 0) *ret_image = image;
    else tree_remove(dir, NULL);
    return rc;
}

int oci_image_pack(const char *dump_dir, const char *dir, const struct oci_image_labels *labels, struct oci_image *ret_image,
    struct error *e)
{
    const struct content content = {.dump_dir = dump_dir};
    return make_image(&content, dir, labels, ret_image, e);
}

int oci_image_wrap(int fd, const char *dir, const struct oci_image_labels *labels, struct oci_image *ret_image, struct error *e)
{
    const struct content content = {.archive_fd = fd};
    return make_image(&content, dir, labels, ret_image, e);
}
