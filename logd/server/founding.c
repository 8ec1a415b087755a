#include "logd/server/founding.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/server/node.h"
#include "logd/server/note.h"
#include "logd/server/peers.h"
#include "logd/server/roll.h"

static const char NOTE[] = "founders"; /* a line "ID INSTANCE" for each, once all have been met */
enum { NOTE_MAX = 1024, REMIND_S = 10 };

struct founding {
    struct node *node;
    struct roll roll;
    bool writes;
    unsigned seconds;  /* since it was said who is missing */
    char complaint[256]; /* the last one logged */
};

/* ---- what is remembered --------------------------------------------------------------------------------------- */

static void write_note(const struct founding *f)
{
    char text[NOTE_MAX] = "";
    struct error e;
    size_t len = 0;
    for (unsigned i = 0; i < f->roll.n; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%" PRIu64 " %016" PRIx64 "\n", f->roll.places[i].id, f->roll.places[i].instance);
    if (note_write(f->node->settings->data_dir, NOTE, text, &e) != 0) node_fatal("whom this server has met cannot be remembered", &e);
}

/* Whom it had met may have told others: so neither they nor the list of servers may be others now. */
static int read_note(struct founding *f, struct error *e)
{
    char text[NOTE_MAX];
    uint64_t id, instance;
    const struct settings *s = f->node->settings;
    int len, rv = MUTANT(forget_founders) ? 0 : note_read(s->data_dir, NOTE, sizeof text, text, e);
    unsigned n = 0, known = 0;
    if (rv <= 0) return rv;
    for (const char *at = text; *at != '\0'; at += len, n++) {
        if (sscanf(at, "%" SCNu64 " %16" SCNx64 "\n%n", &id, &instance, &len) != 2)
            return error_set(e, ERROR_CORRUPT, "%s/%s is damaged: each line should say \"ID INSTANCE\"", s->data_dir, NOTE);
        for (unsigned i = 0; i < s->n_members; i++) known += s->members[i].id == id;
        if ((rv = roll_met(&f->roll, id, instance, e)) < 0) return rv;
    }
    if (n == s->n_members && known == n) return 0;
    return error_set(e, ERROR_INVALID, "initial-cluster names other servers than those that have met to found the cluster (%s/%s): give it those, or, if no server has "
                     "a leader and none has a log yet, stop all, empty the data-dir of each, start them", s->data_dir, NOTE);
}

int founding_forget(const char *data_dir, struct error *e)
{
    return note_remove(data_dir, NOTE, e);
}

/* ---- founding ------------------------------------------------------------------------------------------------- */

static void complain(struct founding *f, const struct error *e)
{
    if (strcmp(f->complaint, e->text) == 0) return; /* it is told each second */
    snprintf(f->complaint, sizeof f->complaint, "%s", e->text);
    log_warn("the cluster cannot be founded", "reason=%s", e->text);
}

/* Node hears from the log when it is there (node.c, on_persisted()). */
static void found(struct founding *f)
{
    struct wal_entry entry = {1, 1, CONSENSUS_CHANGE, f->roll.entry};
    struct error e;
    if (f->writes || f->node->stopping || !roll_agreed(&f->roll)) return;
    f->writes = true;
    int rv = wal_append(f->node->wal, &entry, 1);
    if (rv == 0) return;
    error_set(&e, (enum error_code)-rv, "the first entry could not be written");
    node_fatal("the log cannot be written", &e);
}

int founding_met(struct founding *f, const struct rpc_hello *hello, struct error *e)
{
    int rv = f == NULL ? 0 : roll_met(&f->roll, hello->node_id, hello->instance, e);
    if (rv == -ERROR_CONFLICT) complain(f, e);
    if (rv <= 0) return rv == -ERROR_CONFLICT ? 0 : rv;
    write_note(f);
    founding_tell(f);
    found(f);
    return 0;
}

void founding_left(struct founding *f, uint64_t id)
{
    if (f != NULL) roll_left(&f->roll, id);
}

void founding_tell(struct founding *f)
{
    if (f != NULL && f->roll.entry != NULL && f->node->peers != NULL) peers_tell_founders(f->node->peers, f->roll.entry, true);
}

/* A log that does not begin with entry 1 any more has a leader that has said so to the others, or will. */
static void answer(struct node *node, const struct frame *frame)
{
    struct wal_entry entry;
    if (wal_last_index(node->wal) == 0 || wal_first_index(node->wal) > 1 || wal_read(node->wal, 1, &entry, NULL) != 0) return;
    bool same = blob_equal(entry.payload, frame->head, frame->head_len);
    if (same && node->peers != NULL) peers_tell_founders(node->peers, entry.payload, false);
    blob_unref(entry.payload);
}

void founding_told(struct node *node, uint64_t id, uint64_t instance, const struct frame *frame)
{
    struct founding *f = node->founding;
    struct error e;
    if (f == NULL && frame->id != 0) answer(node, frame); /* an answer is not answered */
    if (f == NULL || f->writes) return;
    if (roll_told(&f->roll, id, instance, frame->head, frame->head_len, frame->id == 0, &e) != 0) complain(f, &e);
    found(f);
}

bool founding_writes(const struct founding *f)
{
    return f != NULL && f->writes;
}

void founding_tick(struct founding *f)
{
    char who[256];
    if (f == NULL) return;
    founding_tell(f);
    if (++f->seconds % REMIND_S != 0) return;
    roll_missing(&f->roll, sizeof who, who);
    log_info("the cluster is not founded yet: all of initial-cluster have to be there once", "waiting_for=%s", who);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

int founding_open(struct node *node, struct founding **ret_founding, struct error *e)
{
    const struct settings *s = node->settings;
    struct founding *f = calloc(1, sizeof *f);
    if (f == NULL) return error_set(e, ERROR_NOMEM, "no memory to start");
    f->node = node;
    int rv = roll_init(&f->roll, s->members, s->n_members, s->id, node->instance, e);
    if (rv == 0) rv = read_note(f, e);
    if (rv != 0) {
        founding_free(f);
        return rv;
    }
    log_info("the data directory is empty: the cluster is founded when all of initial-cluster have met", "id=%" PRIu64 " servers=%u", s->id, s->n_members);
    *ret_founding = f;
    return 0;
}

struct founding *founding_free(struct founding *f)
{
    if (f != NULL) roll_fini(&f->roll);
    free(f);
    return NULL;
}
