#include "logd/server/verification.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/frame.h"
#include "logd/index/index.h"
#include "logd/wal/writer.h"

struct look {
    struct verification *v;
    char dir[PATH_MAX];
    uint64_t segment; /* mapped now; 0: none */
    uint8_t *bytes;
    size_t len;
};

static void unmap(struct look *l)
{
    if (l->bytes != NULL) munmap(l->bytes, l->len);
    l->bytes = NULL;
    l->segment = 0;
}

static int map(struct look *l, uint64_t segment, struct error *e)
{
    char path[PATH_MAX];
    struct stat st;
    if (l->segment == segment) return 0;
    unmap(l);
    if (writer_segment_path(path, sizeof path, l->dir, segment) != 0) return error_set(e, ERROR_INVALID, "the path of the log is too long");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rv = error_errno(e, errno == ENOENT ? ERROR_CORRUPT : ERROR_IO, errno, "the index points to segment %" PRIu64 ": %s", segment, path);
        if (fd >= 0) close(fd);
        return rv;
    }
    l->len = (size_t)st.st_size;
    l->bytes = l->len > 0 ? mmap(NULL, l->len, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (l->bytes == MAP_FAILED) {
        l->bytes = NULL;
        return error_set(e, l->len == 0 ? ERROR_CORRUPT : ERROR_IO, "%s %s", path, l->len == 0 ? "is empty" : "cannot be read");
    }
    l->segment = segment;
    return 0;
}

static int check_run(struct look *l, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct frame f;
    int rv = map(l, run->where.segment, e);
    if (rv != 0) return rv;
    uint64_t at = run->where.position;
    if (at <= l->len && run->frame_len <= l->len - at && frame_decode(l->bytes + at, run->frame_len, &f, NULL) == (int64_t)run->frame_len) return 0;
    return error_set(e, ERROR_CORRUPT, "segment %" PRIu64 ", byte %" PRIu64 ": the events %" PRIu64 " to %" PRIu64 " of stream %" PRIu64 " are damaged",
                     run->where.segment, at, run->first_offset, run->first_offset + run->count - 1, stream);
}

static int each_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct look *l = user;
    struct verification *v = l->v;
    struct error why;
    v->runs++;
    v->events += run->count;
    v->bytes += run->frame_len;
    if (v->on_progress != NULL && v->runs % 1024 == 0) v->on_progress(v->user, v->bytes);
    int rv = check_run(l, stream, run, &why);
    if (rv == 0) return 0;
    if (rv == -ERROR_CORRUPT && v->damages++ == 0) v->damaged_segment = run->where.segment;
    if (rv == -ERROR_CORRUPT && v->all) {
        v->on_damage(v->user, &why);
        return 0;
    }
    if (e != NULL) *e = why;
    return rv;
}

static int each_segment(void *user, uint64_t segment, uint64_t live_bytes, struct error *e)
{
    (void)user, (void)segment, (void)live_bytes, (void)e;
    return 0;
}

int verification_run(struct verification *v, const char *dir, struct error *e)
{
    struct look l = {.v = v};
    const struct index_inspection inspection = {.each_segment = each_segment, .each_run = each_run, .user = &l};
    char index[PATH_MAX];
    uint64_t applied;
    snprintf(l.dir, sizeof l.dir, "%.4000s/wal", dir);
    snprintf(index, sizeof index, "%.4000s/index", dir);
    int rv = index_inspect(index, &inspection, &applied, e);
    unmap(&l);
    if (rv == 0 && v->expected_applied != 0 && applied != v->expected_applied)
        rv = error_set(e, ERROR_CORRUPT, "the index has applied entry %" PRIu64 ", not %" PRIu64, applied, v->expected_applied);
    if (rv == 0) v->expected_applied = applied;
    if (rv == 0 && v->damages > 0) rv = error_set(e, ERROR_CORRUPT, "%" PRIu64 " of %" PRIu64 " appends are damaged", v->damages, v->runs);
    return rv;
}
