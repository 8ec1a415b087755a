#include "logd/server/restore.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "common/log.h"
#include "logd/index/index.h"
#include "logd/server/backup_file.h"
#include "logd/server/identity.h"
#include "logd/server/staging.h"
#include "logd/server/verification.h"
#include "logd/wal/disk.h"
#include "logd/wal/hard_state.h"

struct restoring {
    struct staging staging;
    int fd;
    size_t file; /* the one that is open, if fd is not -1; else the next */
    char cluster[256];
};

static int is_empty(const char *dir, struct error *e)
{
    struct dirent *entry;
    DIR *d = opendir(dir);
    if (d == NULL) return errno == ENOENT ? 0 : error_errno(e, ERROR_IO, errno, "%s", dir);
    do entry = readdir(d);
    while (entry != NULL && entry->d_name[0] == '.');
    int rv = entry == NULL ? 0 : error_set(e, ERROR_EXISTS, "%s is not empty: a backup is restored into a new directory", dir);
    closedir(d);
    return rv;
}

/* ---- the files ------------------------------------------------------------------------------------------------ */

static int finish_file(struct restoring *r, const struct state_manifest *m, struct error *e)
{
    const struct state_file *f = &m->files[r->file++];
    int fd = r->fd;
    r->fd = -1;
    return staging_close_file(&r->staging, f->name, f->size, fd, e);
}

static int open_file(struct restoring *r, const struct state_file *f, struct error *e)
{
    int rv = staging_open_file(&r->staging, f->name, false, &r->fd, e);
    return rv != 0 ? rv : staging_reserve(f->name, r->fd, f->size, e);
}

/* Every file up to `file`, which is left open; n_files: all. */
static int go_to(struct restoring *r, const struct state_manifest *m, size_t file, struct error *e)
{
    int rv = 0;
    while (rv == 0 && r->file < file) {
        if (r->fd < 0) rv = open_file(r, &m->files[r->file], e);
        if (rv == 0) rv = finish_file(r, m, e);
    }
    if (rv == 0 && file < m->n_files && r->fd < 0) rv = open_file(r, &m->files[file], e);
    return rv;
}

static int on_manifest(void *user, const char *cluster, const struct state_manifest *m, struct error *e)
{
    struct restoring *r = user;
    snprintf(r->cluster, sizeof r->cluster, "%s", cluster);
    return staging_begin(&r->staging, 0, 0, m, e);
}

static int on_piece(void *user, const struct state_manifest *m, const struct state_piece *p, const void *bytes, struct error *e)
{
    struct restoring *r = user;
    int rv = go_to(r, m, p->file, e);
    if (rv != 0) return rv;
    rv = disk_write_all(disk_system(), r->fd, bytes, p->length, p->offset);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "%s cannot be written", m->files[p->file].name);
}

/* ---- the membership ------------------------------------------------------------------------------------------- */

static void on_durable(void *user, uint64_t applied_index)
{
    (void)user, (void)applied_index;
}

static void on_failed(void *user, const struct error *e)
{
    *(struct error *)user = *e;
}

static void on_closed(void *user)
{
    (void)user;
}

/* As if the entry behind the backup's last had been the new membership, and had been applied. */
static int set_members(const struct restoring *r, struct state_manifest *m, const struct settings *s, struct error *e)
{
    struct blob *payload;
    struct index *index = NULL;
    struct streams_update nothing = STREAMS_UPDATE_INIT;
    struct error failed = {.code = ERROR_NONE};
    struct buf note = BUF_INIT;
    uint8_t number[8];
    char dir[PATH_MAX];
    uv_loop_t loop;
    int rv = consensus_first_entry(s->members, s->n_members, &payload, e);
    if (rv != 0) return rv;
    put_u64(number, ++m->applied_index);
    m->members.len = 0;
    if (buf_add(&m->members, payload->data, payload->len) != 0 || buf_add(&note, number, sizeof number) != 0 ||
        buf_add(&note, payload->data, payload->len) != 0)
        rv = error_set(e, ERROR_NOMEM, "no memory for the membership");
    blob_unref(payload);
    uv_loop_init(&loop);
    staging_path(&r->staging, "index", dir);
    struct index_options options = {.dir = dir, .user = &failed, .on_durable = on_durable, .on_failed = on_failed};
    if (rv == 0) rv = index_open(&loop, &options, &index, e);
    if (rv == 0 && (rv = index_note(index, note.data, note.len)) == 0) rv = index_put(index, m->applied_index, &nothing, e);
    if (index != NULL) index_close(index, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    streams_update_fini(&nothing);
    buf_fini(&note);
    if (rv == 0 && failed.code != ERROR_NONE) {
        *e = failed;
        rv = -(int)failed.code;
    }
    return rv;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static int begin(struct restoring *r, const struct settings *s, struct error *e)
{
    struct hard_state h;
    char wal[PATH_MAX], address[MEMBERSHIP_ADDRESS] = "";
    uint64_t instance, index, from;
    bool needed;
    int rv = is_empty(s->data_dir, e);
    if (rv == 0) rv = identity_check(s->data_dir, s->id, s->cluster, &instance, e);
    if (rv == 0) rv = staging_mark(s->data_dir, UINT64_MAX, 0, "-", e); /* a start before the end finds a note that nobody can serve */
    if (rv == 0) rv = staging_open(&r->staging, s->data_dir, &needed, &index, &from, address, e);
    if (rv != 0) return rv;
    snprintf(wal, sizeof wal, "%.4000s/wal", s->data_dir);
    rv = hard_state_open(&h, disk_system(), wal, true, e);
    hard_state_close(&h);
    return rv;
}

static int fill(struct restoring *r, const struct settings *s, const char *backup, struct error *e)
{
    struct backup_reading reading = {.on_manifest = on_manifest, .on_piece = on_piece, .user = r};
    struct verification v = {0};
    char path[PATH_MAX];
    int rv = backup_read(backup, &reading, e);
    if (rv == 0) rv = go_to(r, &reading.manifest, reading.manifest.n_files, e);
    if (r->fd >= 0) close(r->fd);
    v.expected_applied = reading.manifest.applied_index;
    staging_path(&r->staging, "", path);
    if (rv == 0) rv = verification_run(&v, path, e);
    if (rv == 0) rv = set_members(r, &reading.manifest, s, e);
    if (rv == 0) rv = staging_finish(&r->staging, &reading.manifest, e);
    if (rv == 0) rv = staging_exchange(&r->staging, e);
    if (rv == 0)
        log_info("the backup is restored: start this server, and the others that were restored from the same file", "of=%s entries=%" PRIu64 " appends=%" PRIu64 " events=%" PRIu64,
                 r->cluster, reading.manifest.applied_index - 1, v.runs, v.events);
    state_manifest_fini(&reading.manifest);
    return rv;
}

int restore_run(const struct settings *s, const char *backup, struct error *e)
{
    struct restoring r = {.fd = -1, .staging = {.lock = -1}};
    struct backup_reading verify = {0};
    int rv = s->n_members == 0 || s->joins ? error_set(e, ERROR_INVALID, "restore makes a new cluster: it needs initial-cluster, and no initial-cluster-state") : 0;
    if (rv == 0) rv = backup_read(backup, &verify, e); /* all of it, before anything is made */
    state_manifest_fini(&verify.manifest);
    if (rv == 0) rv = begin(&r, s, e);
    if (rv == 0) rv = fill(&r, s, backup, e);
    staging_close(&r.staging);
    return rv;
}
