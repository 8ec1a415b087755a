#include "operator/drivers/kubernetes/newest.h"

#include <stdio.h>
#include <string.h>

#include "common/loop.h"
#include "operator/kube/object.h"

struct search {
    const char *space, *stream, *hash, *wanted; /* wanted NULL: the newest */
    uint64_t since_ms;
    unsigned unusable;
    uint64_t told_ms, log_first;  /* where the log began when that was noted last */
    yyjson_val *best;             /* not passed over */
    yyjson_val *passed;           /* the one that was tried longest ago */
    uint64_t passed_ms;
};

bool newest_reference(const char *image, const char *digest, char ret_reference[INJECT_IMAGE_MAX])
{
    const char *slash = strchr(image, '/'), *colon = strrchr(image, ':');
    if (slash == NULL || colon == NULL || colon < strrchr(image, '/') || strchr(image, '@') != NULL || strncmp(digest, "sha256:", 7) != 0) return false;
    return snprintf(ret_reference, INJECT_IMAGE_MAX, "%.*s@%s", (int)(colon - image), image, digest) < INJECT_IMAGE_MAX;
}

static bool each(void *user, yyjson_val *o)
{
    struct search *s = user;
    uint64_t unusable_ms = object_time_ms(object_text(o, "status.unusableAt"));
    bool lately = unusable_ms != 0 && unusable_ms > s->since_ms;
    if (strcmp(object_space(o), s->space) != 0 || strcmp(object_text(o, "status.stream"), s->stream) != 0) return true;
    if (lately) s->unusable++;
    if (unusable_ms > s->told_ms) s->told_ms = unusable_ms, s->log_first = object_number(o, "status.logFirstOffset");
    if (strcmp(object_text(o, "status.phase"), "Valid") != 0 || object_deleting(o) || strcmp(object_text(o, "status.templateHash"), s->hash) != 0) return true;
    if (s->wanted != NULL && strcmp(object_name(o), s->wanted) != 0) return true;
    if (object_text(o, "status.image")[0] == '\0' || strlen(object_name(o)) >= INJECT_CHECKPOINT_MAX) return true;
    if (lately && s->wanted == NULL) {
        if (s->passed == NULL || unusable_ms < s->passed_ms) s->passed = o, s->passed_ms = unusable_ms;
    } else if (s->best == NULL || object_number(o, "status.offset") > object_number(s->best, "status.offset")) {
        s->best = o;
    }
    return true;
}

/* The app's own image is no way out where the log does not have everything: then what was in vain is tried again. */
static yyjson_val *choose(const struct search *s)
{
    bool whole = s->log_first == 1, enough = s->unusable >= PROTECT_UNUSABLE_MAX && s->wanted == NULL;
    if (s->best != NULL && !(enough && whole)) return s->best;
    return whole ? NULL : s->passed;
}

bool newest_choose(void *caches, const char *space, const char *stream, const char *hash, const char *wanted, struct inject_checkpoint *ret_checkpoint)
{
    const struct caches *c = caches;
    uint64_t now_ms = loop_wall_us() / 1000;
    struct search s = {.space = space, .stream = stream, .hash = hash, .wanted = strcmp(wanted, "auto") != 0 ? wanted : NULL,
                       .since_ms = now_ms > PROTECT_WINDOW_MS ? now_ms - PROTECT_WINDOW_MS : 0};
    struct inject_checkpoint found;
    if (strcmp(wanted, "fresh") == 0) return false;
    kube_watch_each(c->checkpoints, each, &s);
    yyjson_val *best = choose(&s);
    if (best == NULL || !newest_reference(object_text(best, "status.image"), object_text(best, "status.digest"), found.image)) return false;
    snprintf(found.name, sizeof found.name, "%s", object_name(best));
    *ret_checkpoint = found;
    return true;
}
