#include "operator/drivers/shelf.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/tree.h"

#define UNPACK_MAX (UINT64_C(256) << 30) /* bytes of a dump, with its rounds of pre-copy */

static const char partial[] = ".partial"; /* of an image that is being packed */

struct item {
    char id[SHELF_ID_MAX];
    bool dump, complete, image;
    char spec[OCI_DIGEST_MAX]; /* of a complete dump */
};

struct shelf {
    char *dir;
    struct item *items;
    size_t n;
};

/* --- the list */

bool shelf_id_valid(const char *id)
{
    static const char all[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t len = strlen(id);
    bool reserved = len >= strlen(partial) && strcmp(id + len - strlen(partial), partial) == 0;
    return len > 0 && len < SHELF_ID_MAX && id[0] != '.' && strspn(id, all) == len && !reserved;
}

static struct item *find(const struct shelf *s, const char *id)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->items[i].id, id) == 0) return &s->items[i];
    return NULL;
}

static struct item *add(struct shelf *s, const char *id)
{
    struct item *item = find(s, id);
    if (item != NULL) return item;
    struct item *more = realloc(s->items, (s->n + 1) * sizeof *more);
    if (more == NULL) return NULL;
    s->items = more;
    item = &more[s->n++];
    *item = (struct item){0};
    memcpy(item->id, id, strlen(id) + 1);
    return item;
}

static void drop_if_empty(struct shelf *s, struct item *item)
{
    if (!item->dump && !item->image) *item = s->items[--s->n];
}

bool shelf_has(const struct shelf *s, const char *id)
{
    return find(s, id) != NULL;
}

bool shelf_has_image(const struct shelf *s, const char *id)
{
    const struct item *item = find(s, id);
    return item != NULL && item->image;
}

const char *shelf_dump_spec(const struct shelf *s, const char *id)
{
    const struct item *item = find(s, id);
    return item != NULL && item->complete ? item->spec : NULL;
}

int shelf_dump_begins(struct shelf *s, const char *id, struct error *e)
{
    if (find(s, id) != NULL) return error_set(e, ERROR_EXISTS, "there is a dump or an image of %s already", id);
    struct item *item = add(s, id);
    if (item == NULL) return error_set(e, ERROR_NOMEM, "no memory for a snapshot's name");
    item->dump = true;
    return 0;
}

void shelf_dump_complete(struct shelf *s, const char *id, const char *spec)
{
    struct item *item = find(s, id);
    if (item == NULL) return;
    item->complete = true;
    snprintf(item->spec, sizeof item->spec, "%s", spec);
}

void shelf_dump_gone(struct shelf *s, const char *id)
{
    struct item *item = find(s, id);
    if (item == NULL) return;
    item->dump = item->complete = false;
    drop_if_empty(s, item);
}

void shelf_packed(struct shelf *s, const char *id)
{
    struct item *item = find(s, id);
    if (item != NULL) item->image = true;
}

void shelf_discarded(struct shelf *s, const char *id)
{
    struct item *item = find(s, id);
    if (item == NULL) return;
    item->image = false;
    shelf_dump_gone(s, id);
}

void shelf_dump_path(const struct shelf *s, const char *id, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/dumps/%s", s->dir, id);
}

void shelf_image_path(const struct shelf *s, const char *id, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/images/%s", s->dir, id);
}

/* What is in one of the two folders. What has no name of a snapshot is nobody's, except images that are not complete. */
static int list(struct shelf *s, const char *folder, bool images, struct error *e)
{
    char path[PATH_MAX];
    int rc = 0;
    DIR *d = opendir(folder);
    if (d == NULL) return error_errno(e, ERROR_IO, errno, "%s cannot be read", folder);
    for (struct dirent *entry; rc == 0 && (entry = readdir(d)) != NULL;) {
        size_t len = strlen(entry->d_name);
        if (images && len > strlen(partial) && strcmp(entry->d_name + len - strlen(partial), partial) == 0 &&
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path)
            rc = tree_remove(path, e);
        if (rc != 0 || !shelf_id_valid(entry->d_name)) continue;
        struct item *item = add(s, entry->d_name);
        if (item == NULL) rc = error_set(e, ERROR_NOMEM, "no memory for a snapshot's name");
        else if (images) item->image = true;
        else item->dump = true;
    }
    closedir(d);
    return rc;
}

int shelf_new(const char *dir, struct shelf **ret_shelf, struct error *e)
{
    char path[PATH_MAX];
    if (strlen(dir) + SHELF_ID_MAX + 64 > PATH_MAX) return error_set(e, ERROR_INVALID, "the path of the snapshots is too long");
    struct shelf *s = calloc(1, sizeof *s);
    if (s == NULL || (s->dir = strdup(dir)) == NULL) {
        shelf_free(s);
        return error_set(e, ERROR_NOMEM, "no memory for the list of snapshots");
    }
    int rc = 0;
    for (int images = 0; images < 2 && rc == 0; images++) {
        snprintf(path, sizeof path, "%s/%s", dir, images ? "images" : "dumps");
        rc = tree_make(path, e);
        if (rc == 0) rc = list(s, path, images, e);
    }
    if (rc == 0) *ret_shelf = s;
    else shelf_free(s);
    return rc;
}

struct shelf *shelf_free(struct shelf *s)
{
    if (s == NULL) return NULL;
    free(s->items);
    free(s->dir);
    free(s);
    return NULL;
}

/* --- the work */

int shelf_pack(const char *dump, const char *image, const struct oci_image_labels *labels, struct oci_image *ret_image,
               bool *ret_dump_left, struct error *e)
{
    struct oci_image packed;
    struct stat st;
    bool there = lstat(image, &st) == 0;
    int rc = there ? oci_image_inspect(image, NULL, &packed, e) : oci_image_pack(dump, image, labels, &packed, e);
    if (rc != 0) return rc;
    if (packed.labels.offset != labels->offset || strcmp(packed.labels.stream, labels->stream) != 0)
        return error_set(e, ERROR_CONFLICT, "the image that is there is of %.80s, offset %" PRIu64, packed.labels.stream,
                         packed.labels.offset);
    *ret_dump_left = tree_remove(dump, NULL) != 0;
    *ret_image = packed;
    return 0;
}

static int compare(const struct oci_image_labels *found, const struct oci_image_labels *expected, struct error *e)
{
    if (strcmp(found->stream, expected->stream) != 0)
        return error_set(e, ERROR_CORRUPT, "the image is of another stream: %.100s", found->stream);
    if (found->offset != expected->offset)
        return error_set(e, ERROR_CORRUPT, "the image is of offset %" PRIu64 ", and %" PRIu64 " was recorded", found->offset,
                         expected->offset);
    if (strcmp(found->spec, expected->spec) != 0)
        return error_set(e, ERROR_CORRUPT, "the image is of another specification: \"%.80s\", and the present one is %.80s",
                         found->spec, expected->spec);
    return 0;
}

int shelf_unpack(const char *image, const char *digest, const struct oci_image_labels *expected, const char *target,
                 struct error *e)
{
    struct oci_image unpacked;
    int rc = oci_image_unpack(image, digest, target, UNPACK_MAX, &unpacked, e);
    if (rc == 0) return compare(&unpacked.labels, expected, e);
    if (rc != -ERROR_INVALID && rc != -ERROR_TOO_LARGE) return rc;
    e->code = ERROR_CORRUPT; /* its digest is right: it will never be any better */
    return -ERROR_CORRUPT;
}

int shelf_remove(const char *dump, const char *image, struct error *e)
{
    int rc = tree_remove(dump, e);
    return rc == 0 ? tree_remove(image, e) : rc;
}
