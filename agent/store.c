#include "agent/store.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/choose.h"
#include "agent/pod.h"
#include "checkpoint/digest.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

struct image {
    struct image *next;
    struct store_image known;
    unsigned holders;
    uint64_t used_us;
};

struct store {
    char *dir;
    uint64_t budget;
    pthread_mutex_t lock; /* of the list */
    struct image *images;
};

static int stream_path(const struct store *s, const char *stream, char path[PATH_MAX], struct error *e)
{
    char digest[OCI_DIGEST_MAX];
    if (digest_of(stream, strlen(stream), digest) != 0) return error_set(e, ERROR_NOMEM, "no memory for a digest");
    int n = snprintf(path, PATH_MAX, "%s/images/%.32s", s->dir, digest + strlen("sha256:"));
    return n < PATH_MAX ? 0 : error_set(e, ERROR_INVALID, "the store's path is too long");
}

int store_place(struct store *s, const char *stream, const char *id, char path[PATH_MAX], struct error *e)
{
    char folder[PATH_MAX];
    if (!pod_snapshot_id_valid(id)) return error_set(e, ERROR_INVALID, "\"%.64s\" is no checkpoint's id", id);
    int rc = stream_path(s, stream, folder, e);
    if (rc == 0) rc = tree_make(folder, e);
    if (rc == 0 && snprintf(path, PATH_MAX, "%s/%s", folder, id) >= PATH_MAX) rc = error_set(e, ERROR_INVALID, "the store's path is too long");
    return rc;
}

/* Under the lock. */
static struct image *find(struct store *s, const char *stream, const char *id)
{
    for (struct image *i = s->images; i != NULL; i = i->next)
        if (strcmp(i->known.id, id) == 0 && (stream == NULL || strcmp(i->known.image.labels.stream, stream) == 0)) return i;
    return NULL;
}

static void unlist(struct store *s, struct image *image)
{
    struct image **p = &s->images;
    while (*p != image) p = &(*p)->next;
    *p = image->next;
    free(image);
}

static int list(struct store *s, const char *id, const struct oci_image *image, const char *path, unsigned holders, struct error *e)
{
    struct image *i = calloc(1, sizeof *i);
    if (i == NULL) return error_set(e, ERROR_NOMEM, "no memory for an image");
    i->known.image = *image;
    snprintf(i->known.id, sizeof i->known.id, "%s", id);
    snprintf(i->known.path, sizeof i->known.path, "%s", path);
    i->holders = holders;
    i->used_us = loop_monotonic_us();
    pthread_mutex_lock(&s->lock);
    struct image *old = find(s, image->labels.stream, id);
    if (old != NULL) unlist(s, old);
    i->next = s->images;
    s->images = i;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int store_add(struct store *s, const char *id, const struct oci_image *image, struct error *e)
{
    char path[PATH_MAX];
    int rc = store_place(s, image->labels.stream, id, path, e);
    return rc == 0 ? list(s, id, image, path, 1, e) : rc;
}

/* One folder of images. What cannot be read is no image any more: it is removed. */
static void look_into(struct store *s, const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        struct oci_image image;
        struct error e;
        if (entry->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path) continue;
        int rc = pod_snapshot_id_valid(entry->d_name) && strstr(entry->d_name, ".partial") == NULL ? oci_image_inspect(path, NULL, &image, &e)
                                                                                                   : error_set(&e, ERROR_INVALID, "unfinished");
        if (rc == 0) rc = list(s, entry->d_name, &image, path, 0, &e);
        if (rc == 0) continue;
        log_warn("what is no image is removed", "path=%s reason=%s", path, e.text);
        tree_remove(path, NULL);
    }
    if (dir != NULL) closedir(dir);
}

int store_new(const char *dir, uint64_t budget, struct store **ret_store, struct error *e)
{
    char images[PATH_MAX], folder[PATH_MAX];
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL || (s->dir = strdup(dir)) == NULL) {
        free(s);
        return error_set(e, ERROR_NOMEM, "no memory for the store");
    }
    s->budget = budget;
    pthread_mutex_init(&s->lock, NULL);
    int rc = snprintf(images, sizeof images, "%s/images", dir) < (int)sizeof images ? tree_make(images, e)
                                                                                    : error_set(e, ERROR_INVALID, "the store's path is too long");
    if (rc != 0) {
        store_free(s);
        return rc;
    }
    DIR *all = opendir(images);
    struct dirent *entry;
    while (all != NULL && (entry = readdir(all)) != NULL)
        if (entry->d_name[0] != '.' && snprintf(folder, sizeof folder, "%s/%s", images, entry->d_name) < (int)sizeof folder) look_into(s, folder);
    if (all != NULL) closedir(all);
    *ret_store = s;
    return 0;
}

struct store *store_free(struct store *s)
{
    if (s == NULL) return NULL;
    while (s->images != NULL) unlist(s, s->images);
    pthread_mutex_destroy(&s->lock);
    free(s->dir);
    free(s);
    return NULL;
}

static bool hold(struct store *s, struct image *i, struct store_image *ret_image)
{
    if (i != NULL) {
        i->holders++;
        i->used_us = loop_monotonic_us();
        *ret_image = i->known;
    }
    pthread_mutex_unlock(&s->lock);
    return i != NULL;
}

bool store_hold(struct store *s, const char *stream, const char *id, struct store_image *ret_image)
{
    pthread_mutex_lock(&s->lock);
    return hold(s, find(s, stream, id), ret_image);
}

bool store_hold_digest(struct store *s, const char *digest, struct store_image *ret_image)
{
    pthread_mutex_lock(&s->lock);
    struct image *i = s->images;
    while (i != NULL && strcmp(i->known.image.digest, digest) != 0) i = i->next;
    return hold(s, i, ret_image);
}

void store_release(struct store *s, const struct store_image *image)
{
    pthread_mutex_lock(&s->lock);
    struct image *i = find(s, image->image.labels.stream, image->id);
    if (i != NULL && i->holders > 0) i->holders--;
    pthread_mutex_unlock(&s->lock);
}

int store_remove(struct store *s, const char *stream, const char *id, struct error *e)
{
    char path[PATH_MAX];
    pthread_mutex_lock(&s->lock);
    struct image *i = find(s, stream, id);
    int rc = i == NULL ? error_set(e, ERROR_NOT_FOUND, "there is no image of checkpoint %.64s here", id)
             : i->holders > 0 ? error_set(e, ERROR_BUSY, "checkpoint %.64s is in use", id) : 0;
    if (rc == 0) {
        memcpy(path, i->known.path, sizeof path);
        unlist(s, i);
    }
    pthread_mutex_unlock(&s->lock);
    return rc == 0 ? tree_remove(path, e) : rc;
}

static bool evict_one(struct store *s)
{
    struct image *images[256];
    struct kept kept[256];
    char stream[OCI_LABEL_MAX] = "", id[STORE_ID_MAX] = "";
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct image *i = s->images; i != NULL && n < 256; i = i->next, n++) {
        images[n] = i;
        kept[n] = (struct kept){.stream = i->known.image.labels.stream, .offset = i->known.image.labels.offset, .bytes = i->known.image.size,
            .used_us = i->used_us, .busy = i->holders > 0};
    }
    int at = choose_eviction(kept, n, s->budget);
    if (at >= 0) {
        memcpy(stream, kept[at].stream, strlen(kept[at].stream) + 1);
        memcpy(id, images[at]->known.id, sizeof id);
    }
    pthread_mutex_unlock(&s->lock);
    if (at < 0) return false;
    log_info("an image is removed for the store's budget", "stream=%s checkpoint=%s", stream, id);
    return store_remove(s, stream, id, NULL) == 0;
}

unsigned store_evict(struct store *s)
{
    unsigned n = 0;
    while (evict_one(s)) n++;
    return n;
}

struct store_image *store_list(struct store *s, size_t *ret_n)
{
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct image *i = s->images; i != NULL; i = i->next) n++;
    struct store_image *all = n > 0 ? calloc(n, sizeof *all) : NULL;
    n = 0;
    for (struct image *i = s->images; i != NULL && all != NULL; i = i->next) all[n++] = i->known;
    pthread_mutex_unlock(&s->lock);
    *ret_n = n;
    return all;
}

uint64_t store_bytes(struct store *s, uint64_t *ret_budget, size_t *ret_n)
{
    uint64_t sum = 0;
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct image *i = s->images; i != NULL; i = i->next, n++) sum += i->known.image.size;
    pthread_mutex_unlock(&s->lock);
    *ret_budget = s->budget;
    *ret_n = n;
    return sum;
}
