#include "logd/server/backup_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

enum { HASH = 32, NAME_MAX_BYTES = 255, BUFFER = 1 << 20, FRAME_LARGEST = FRAME_HEADER + FRAME_HEAD_MAX + STATE_PIECE_MAX };
enum { TYPE_HEAD = FRAME_FETCH_STATE | FRAME_REPLY, TYPE_PIECE = FRAME_FETCH_BYTES | FRAME_REPLY, TYPE_END = FRAME_ERROR | FRAME_REPLY };

struct backup_writer {
    FILE *file;
    EVP_MD_CTX *hash;
    struct buf frame, head;
    uint64_t bytes;
    char path[PATH_MAX], part[PATH_MAX + 8];
};

/* ---- writing -------------------------------------------------------------------------------------------------- */

struct backup_writer *backup_abandon(struct backup_writer *w)
{
    if (w == NULL) return NULL;
    if (w->file != NULL) {
        fclose(w->file);
        unlink(w->part);
    }
    EVP_MD_CTX_free(w->hash);
    buf_fini(&w->frame);
    buf_fini(&w->head);
    free(w);
    return NULL;
}

static int put(struct backup_writer *w, const struct frame *f, struct error *e)
{
    w->frame.len = 0;
    int rv = frame_encode(&w->frame, f);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "a part of the backup cannot be made: %s", error_name(rv));
    if (fwrite(w->frame.data, 1, w->frame.len, w->file) != w->frame.len)
        return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s cannot be written", w->part);
    EVP_DigestUpdate(w->hash, w->frame.data, w->frame.len);
    w->bytes += w->frame.len;
    return 0;
}

int backup_create(const char *path, const char *cluster, const struct state_manifest *manifest, struct backup_writer **ret_writer, struct error *e)
{
    if (strlen(path) >= PATH_MAX || strlen(cluster) > NAME_MAX_BYTES) return error_set(e, ERROR_INVALID, "%.80s: too long a name", path);
    if (access(path, F_OK) == 0) return error_set(e, ERROR_EXISTS, "%s is there already: it is not overwritten", path);
    struct backup_writer *w = calloc(1, sizeof *w);
    if (w == NULL || (w->hash = EVP_MD_CTX_new()) == NULL || EVP_DigestInit_ex(w->hash, EVP_sha256(), NULL) != 1) {
        backup_abandon(w);
        return error_set(e, ERROR_NOMEM, "no memory for a backup");
    }
    strcpy(w->path, path);
    snprintf(w->part, sizeof w->part, "%s.part", path);
    int fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rv = 0; /* it holds every request of every workload */
    w->file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (w->file == NULL) rv = error_errno(e, ERROR_IO, errno, "%s cannot be made", w->part);
    if (rv == 0) {
        setvbuf(w->file, NULL, _IOFBF, BUFFER);
        rv = state_encode_manifest(manifest, &w->head);
        if (rv != 0) error_set(e, (enum error_code)-rv, "the list of files cannot be written");
    }
    struct frame f = {.type = TYPE_HEAD, .head = w->head.data, .head_len = w->head.len, .body = (const uint8_t *)cluster, .body_len = strlen(cluster)};
    if (rv == 0) rv = put(w, &f, e);
    if (rv != 0) backup_abandon(w);
    else *ret_writer = w;
    return rv;
}

static bool all_zeros(const uint8_t *bytes, size_t len)
{
    return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

int backup_put(struct backup_writer *w, const struct state_piece *piece, const void *bytes, struct error *e)
{
    if (all_zeros(bytes, piece->length)) return 0;
    int rv = state_encode_piece(piece, &w->head);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "a part of the backup cannot be made");
    struct frame f = {.type = TYPE_PIECE, .head = w->head.data, .head_len = w->head.len, .body = bytes, .body_len = piece->length};
    return put(w, &f, e);
}

static int sync_parent(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rv = fd >= 0 ? fsync(fd) : -1;
    if (fd >= 0) close(fd);
    return rv;
}

int backup_finish(struct backup_writer *w, uint64_t *ret_bytes, struct error *e)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(w->hash, digest, NULL);
    struct frame f = {.type = TYPE_END, .body = digest, .body_len = HASH};
    int rv = put(w, &f, e);
    if (rv == 0 && (fflush(w->file) != 0 || fsync(fileno(w->file)) != 0 || rename(w->part, w->path) != 0 || sync_parent(w->path) != 0))
        rv = error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s cannot be written", w->path);
    if (rv == 0) {
        *ret_bytes = w->bytes;
        fclose(w->file);
        w->file = NULL;
    }
    backup_abandon(w);
    return rv;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

struct reader {
    FILE *file;
    const char *path;
    EVP_MD_CTX *hash;
    uint8_t *frame;
    struct state_piece last; /* length 0: none yet */
    bool ended;
};

static int damaged(const struct reader *r, uint64_t at, const char *what, struct error *e)
{
    return error_set(e, ERROR_CORRUPT, "%s, byte %" PRIu64 ": %s: this backup must not be used", r->path, at, what);
}

static int take_head(const struct reader *r, struct backup_reading *b, const struct frame *f, struct error *e)
{
    char cluster[NAME_MAX_BYTES + 1];
    struct error why;
    if (f->type != TYPE_HEAD || f->body_len > NAME_MAX_BYTES) return error_set(e, ERROR_CORRUPT, "%s is no backup of crsc-logd", r->path);
    if (state_decode_manifest(f, &b->manifest, &why) != 0) return damaged(r, 0, why.text, e);
    memcpy(cluster, f->body, f->body_len);
    cluster[f->body_len] = '\0';
    return b->on_manifest != NULL ? b->on_manifest(b->user, cluster, &b->manifest, e) : 0;
}

static int take_piece(struct reader *r, struct backup_reading *b, const struct frame *f, struct error *e)
{
    struct state_piece p;
    struct error why;
    if (state_decode_piece(f, &p, &why) != 0) return damaged(r, b->bytes, why.text, e);
    bool behind = r->last.length == 0 || p.file > r->last.file || (p.file == r->last.file && p.offset >= r->last.offset + r->last.length);
    if (!behind || f->body_len != p.length || p.file >= b->manifest.n_files || p.offset > b->manifest.files[p.file].size ||
        p.length > b->manifest.files[p.file].size - p.offset)
        return damaged(r, b->bytes, "a piece that does not fit", e);
    r->last = p;
    b->pieces++;
    return b->on_piece != NULL ? b->on_piece(b->user, &b->manifest, &p, f->body, e) : 0;
}

static int take_end(struct reader *r, const struct backup_reading *b, const struct frame *f, struct error *e)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(r->hash, digest, NULL);
    r->ended = true;
    return f->body_len == HASH && memcmp(f->body, digest, HASH) == 0 ? 0 : damaged(r, b->bytes, "its SHA-256 is another", e);
}

static int read_frame(struct reader *r, struct backup_reading *b, struct error *e)
{
    struct frame f;
    struct error why;
    if (fread(r->frame, 1, FRAME_HEADER, r->file) != FRAME_HEADER) return damaged(r, b->bytes, "it ends too early", e);
    int64_t size = frame_size(r->frame, &why);
    if (size < 0 || size > FRAME_LARGEST) return damaged(r, b->bytes, size < 0 ? why.text : "too long a part", e);
    size_t rest = (size_t)size - FRAME_HEADER;
    if (fread(r->frame + FRAME_HEADER, 1, rest, r->file) != rest) return damaged(r, b->bytes, "it ends too early", e);
    if (frame_decode(r->frame, (size_t)size, &f, &why) != size) return damaged(r, b->bytes, why.text, e);
    int rv = b->bytes == 0            ? take_head(r, b, &f, e)
             : f.type == TYPE_PIECE   ? take_piece(r, b, &f, e)
             : f.type == TYPE_END     ? take_end(r, b, &f, e)
                                      : damaged(r, b->bytes, "a part that does not belong here", e);
    EVP_DigestUpdate(r->hash, r->frame, (size_t)size);
    b->bytes += (uint64_t)size;
    return rv;
}

int backup_read(const char *path, struct backup_reading *b, struct error *e)
{
    struct reader r = {.path = path, .file = fopen(path, "re"), .hash = EVP_MD_CTX_new(), .frame = malloc(FRAME_LARGEST)};
    int rv = 0;
    b->manifest = (struct state_manifest){0};
    b->bytes = b->pieces = 0;
    if (r.file == NULL) rv = error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s", path);
    else if (r.hash == NULL || r.frame == NULL || EVP_DigestInit_ex(r.hash, EVP_sha256(), NULL) != 1)
        rv = error_set(e, ERROR_NOMEM, "no memory to read a backup");
    else setvbuf(r.file, NULL, _IOFBF, BUFFER);
    while (rv == 0 && !r.ended) rv = read_frame(&r, b, e);
    if (rv == 0 && fgetc(r.file) != EOF) rv = damaged(&r, b->bytes, "something stands behind its end", e);
    if (r.file != NULL) fclose(r.file);
    EVP_MD_CTX_free(r.hash);
    free(r.frame);
    return rv;
}
