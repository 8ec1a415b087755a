/* A backup file. The bytes choose its parts, each with a right checksum (random ones never have one), or are a file as they are. What is read to its
 * end is well formed: pieces ascend and lie within their files; names stay in their folder. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "logd/server/backup_file.h"
#include "tests/fuzz/fuzz.h"

static int on_manifest(void *user, const char *cluster, const struct state_manifest *m, struct error *e)
{
    (void)user, (void)e;
    FUZZ_CHECK(strlen(cluster) <= 255);
    for (size_t i = 0; i < m->n_files; i++) FUZZ_CHECK(strstr(m->files[i].name, "..") == NULL && m->files[i].name[0] != '/');
    return 0;
}

static int on_piece(void *user, const struct state_manifest *m, const struct state_piece *p, const void *bytes, struct error *e)
{
    struct state_piece *last = user;
    (void)e;
    FUZZ_CHECK(p->file < m->n_files && p->length >= 1 && p->offset + p->length <= m->files[p->file].size && bytes != NULL);
    FUZZ_CHECK(last->length == 0 || p->file > last->file || (p->file == last->file && p->offset >= last->offset + last->length));
    *last = *p;
    return 0;
}

static void read_file(const void *bytes, size_t len)
{
    static int fd = -1;
    char path[64];
    struct error e;
    struct state_piece last = {0};
    struct backup_reading r = {.on_manifest = on_manifest, .on_piece = on_piece, .user = &last};
    if (fd < 0) fd = memfd_create("backup", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, bytes, len, 0) == (ssize_t)len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (backup_read(path, &r, &e) == 0) FUZZ_CHECK(r.bytes == len);
    else FUZZ_CHECK(e.text[0] != '\0');
    state_manifest_fini(&r.manifest);
}

/* Parts: a byte for the kind, two for the head's length, two for the body's, then these. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t types[] = {FRAME_FETCH_BYTES | FRAME_REPLY, FRAME_FETCH_STATE | FRAME_REPLY, FRAME_ERROR | FRAME_REPLY, FRAME_STATUS};
    struct fuzz_input in = {data, size};
    struct buf file = BUF_INIT;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    read_file(data, size);
    while (in.len > 0) {
        struct frame f = {.type = types[fuzz_number(&in, 1) % 4]};
        f.head_len = (size_t)fuzz_number(&in, 2), f.body_len = (size_t)fuzz_number(&in, 2);
        if (f.head_len > in.len) f.head_len = in.len;
        f.head = in.data;
        if (f.body_len > in.len - f.head_len) f.body_len = in.len - f.head_len;
        f.body = f.head + f.head_len;
        in.data += f.head_len + f.body_len, in.len -= f.head_len + f.body_len;
        FUZZ_CHECK(frame_encode(&file, &f) == 0);
    }
    SHA256(file.data == NULL ? data : file.data, file.len, hash);
    struct frame end = {.type = FRAME_ERROR | FRAME_REPLY, .body = hash, .body_len = sizeof hash};
    FUZZ_CHECK(frame_encode(&file, &end) == 0);
    read_file(file.data, file.len);
    buf_fini(&file);
    return 0;
}
