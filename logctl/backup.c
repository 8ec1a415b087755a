#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "logctl/progress.h"
#include "logctl/verbs.h"
#include "logd/server/backup_file.h"

enum { WINDOW = 8, PATIENCE_MS = 600000 /* the server copies its index before it answers */ };

struct slot {
    struct backup *b;
    struct state_piece piece; /* length 0: free */
    uint8_t *bytes;           /* there, and not written yet; NULL: still asked for */
};

struct backup {
    uv_loop_t loop;
    struct crsc_client *client;
    struct state_manifest manifest;
    struct backup_writer *writer;
    struct slot slots[WINDOW]; /* a ring, in the order of the file */
    unsigned first, n;
    size_t file; /* next to be asked for */
    uint64_t offset, done, total, file_bytes;
    struct progress progress;
    struct buf head;
    bool over;
    int rv;
    struct error error;
    const char *path;
};

static void end(struct backup *b, int rv, const struct error *e)
{
    if (b->over) return;
    b->over = true;
    b->rv = rv;
    if (e != NULL) b->error = *e;
    crsc_client_close(b->client, NULL, NULL);
}

/* ---- pieces --------------------------------------------------------------------------------------------------- */

static void on_piece(void *user, const struct error *e, const struct frame *f);

static void ask(struct backup *b)
{
    struct error e;
    while (!b->over && b->n < WINDOW && b->file < b->manifest.n_files) {
        uint64_t left = b->manifest.files[b->file].size - b->offset;
        if (left == 0) {
            b->file++;
            b->offset = 0;
            continue;
        }
        struct slot *s = &b->slots[(b->first + b->n++) % WINDOW];
        *s = (struct slot){b, {b->manifest.id, b->offset, (uint32_t)b->file, (uint32_t)(left < STATE_PIECE_MAX ? left : STATE_PIECE_MAX)}, NULL};
        b->offset += s->piece.length;
        int rv = state_encode_piece(&s->piece, &b->head);
        if (rv == 0) rv = crsc_ask(b->client, FRAME_FETCH_BYTES, b->head.data, b->head.len, on_piece, s);
        if (rv != 0) {
            error_set(&e, (enum error_code)-rv, "the backup cannot go on: %s", error_name(rv));
            end(b, rv, &e);
        }
    }
}

/* What is there, in order. */
static void write_out(struct backup *b)
{
    struct error e;
    int rv = 0;
    while (rv == 0 && b->n > 0 && b->slots[b->first].bytes != NULL) {
        struct slot *s = &b->slots[b->first];
        rv = backup_put(b->writer, &s->piece, s->bytes, &e);
        b->done += s->piece.length;
        free(s->bytes);
        *s = (struct slot){0};
        b->first = (b->first + 1) % WINDOW;
        b->n--;
    }
    progress_set(&b->progress, b->done);
    if (rv == 0 && b->done == b->total) {
        rv = backup_finish(b->writer, &b->file_bytes, &e);
        b->writer = NULL;
        end(b, rv, &e);
    } else if (rv != 0) {
        end(b, rv, &e);
    }
}

static void on_piece(void *user, const struct error *e, const struct frame *f)
{
    struct slot *s = user;
    struct backup *b = s->b;
    struct error mine;
    if (b == NULL || b->over) return;
    if (e != NULL) {
        mine = *e;
        if (e->code == ERROR_NOT_FOUND) error_set(&mine, ERROR_UNAVAILABLE, "the server that gave the backup leads no more or has removed its copy: try again");
        end(b, -(int)mine.code, &mine);
        return;
    }
    if (f->body_len != s->piece.length || (s->bytes = malloc(f->body_len)) == NULL) {
        error_set(&mine, ERROR_PROTOCOL, "%zu bytes came, %u were asked for", f->body_len, s->piece.length);
        end(b, -ERROR_PROTOCOL, &mine);
        return;
    }
    memcpy(s->bytes, f->body, f->body_len);
    write_out(b);
    ask(b);
}

static void on_manifest(void *user, const struct error *e, const struct frame *f)
{
    struct backup *b = user;
    struct error mine;
    int rv = e != NULL ? -(int)e->code : state_decode_manifest(f, &b->manifest, &mine);
    if (e == NULL && rv == 0) rv = backup_create(b->path, "", &b->manifest, &b->writer, &mine);
    if (rv != 0) {
        end(b, rv, e != NULL ? e : &mine);
        return;
    }
    for (size_t i = 0; i < b->manifest.n_files; i++) b->total += b->manifest.files[i].size;
    progress_begin(&b->progress, "backup", PROGRESS_BYTES, b->total);
    ask(b);
}

/* Everything acknowledged before the call is to be in it: the copy is of what is durable in the index, a moment behind. */
static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    struct backup *b = user;
    struct error mine;
    int rv = e != NULL ? -(int)e->code : state_encode_request(status->commit_index, &b->head);
    if (rv == 0) rv = crsc_ask(b->client, FRAME_FETCH_STATE, b->head.data, b->head.len, on_manifest, b);
    if (rv == 0 || b->over) return;
    error_set(&mine, (enum error_code)-rv, "the backup cannot begin: %s", e != NULL ? e->text : error_name(rv));
    end(b, rv, &mine);
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

static int fetch(struct backup *b, const struct options *o, struct error *e)
{
    struct crsc_client_options options = {.servers = o->servers, .software = "crsc-logctl " CRSC_VERSION, .timeout_ms = PATIENCE_MS,
                                          .tls_ca = o->tls_ca, .tls_cert = o->tls_cert, .tls_key = o->tls_key, .tls_name = o->tls_name};
    uv_loop_init(&b->loop);
    int rv = crsc_client_new(&b->loop, &options, &b->client, e);
    if (rv != 0) return rv;
    rv = crsc_status(b->client, NULL, on_status, b);
    if (rv != 0) {
        error_set(&b->error, (enum error_code)-rv, "the backup cannot begin");
        end(b, rv, NULL);
    }
    uv_run(&b->loop, UV_RUN_DEFAULT);
    progress_end(&b->progress);
    *e = b->error;
    return b->rv;
}

static int run(const struct options *o)
{
    struct backup *b = calloc(1, sizeof *b);
    struct backup_reading verified = {0};
    struct crsc_sync *reachable;
    struct error e;
    int status = EXIT_FAILED;
    if (b == NULL) return EXIT_FAILED;
    b->path = o->argument;
    if ((reachable = open_client(o, &status)) == NULL) goto end; /* what is wrong with the options is told there */
    crsc_sync_free(reachable);
    int rv = fetch(b, o, &e);
    if (rv == 0) rv = backup_read(o->argument, &verified, &e); /* what is on the disk, not what was meant */
    if (rv != 0) {
        status = fail(o, &e);
    } else {
        uint64_t applied = verified.manifest.applied_index;
        if (o->json) printf("{\"applied_index\":%" PRIu64 ",\"files\":%zu,\"bytes\":%" PRIu64 "}\n", applied, verified.manifest.n_files, verified.bytes);
        else printf("%s: the state at entry %" PRIu64 ", %" PRIu64 " bytes, written and verified\n", o->argument, applied, verified.bytes);
        status = EXIT_OK;
    }
end:
    for (unsigned i = 0; i < WINDOW; i++) free(b->slots[i].bytes);
    backup_abandon(b->writer);
    state_manifest_fini(&b->manifest);
    state_manifest_fini(&verified.manifest);
    buf_fini(&b->head);
    uv_loop_close(&b->loop);
    free(b);
    return status;
}

const struct verb verb_backup = {
    .name = "backup",
    .summary = "writes the cluster's state to one file",
    .help =
        "Usage: crsc-logctl backup FILE\n"
        "Everything that was acknowledged before the call, and perhaps some of what came during it, from the leader: streams, events, snapshot records. Appends go on meanwhile.\n"
        "The file must not exist; it is written as FILE.part, synced, renamed, and then read again and verified, every byte. Its mode is 0600: it holds\n"
        "every request of every workload. A terminal shows how far it is.\n\n"
        "A new cluster, of any size, is made from it by running, once for each of its servers, crsc-logd --restore FILE with the settings\n"
        "that the server will have (id, initial-cluster, data-dir); then they are started without --restore.\n\n"
        "Examples:\n"
        "  crsc-logctl backup /backup/crsc-2026-11-26\n"
        "  crsc-logd --restore /backup/crsc-2026-11-26 --id 1 --listen 10.0.0.1:7400 --initial-cluster 1=10.0.0.1:7400 --data-dir /var/lib/crsc\n",
    .argument = 1,
    .words = "FILE",
    .run = run,
};
