#include "operator/drivers/containers.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operator/drivers/record.h"

enum { NAME_MAX_BYTES = RUNC_ID_MAX - 24 }; /* leaves room for "-" and a generation */

char *containers_id(const char *name, uint64_t generation, char id[RUNC_ID_MAX])
{
    if (generation == 0) snprintf(id, RUNC_ID_MAX, "%s", name);
    else snprintf(id, RUNC_ID_MAX, "%s-%" PRIu64, name, generation);
    return id;
}

static bool alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

int containers_check_name(const char *name, struct error *e)
{
    size_t len = strlen(name), digits = 0;
    for (size_t i = 0; i < len; i++)
        if (!alphanumeric(name[i]) && (i == 0 || strchr("-_.", name[i]) == NULL))
            return error_set(e, ERROR_INVALID, "\"%.100s\" cannot be a workload's name: use letters, digits, - _ .", name);
    if (len == 0 || len > NAME_MAX_BYTES)
        return error_set(e, ERROR_INVALID, "a workload's name has 1 to %d letters", NAME_MAX_BYTES);
    if (strcmp(name, "runc") == 0) return error_set(e, ERROR_INVALID, "a workload cannot be called \"runc\"");
    while (name[len - 1 - digits] >= '0' && name[len - 1 - digits] <= '9' && digits + 1 < len) digits++;
    if (digits > 0 && name[len - 1 - digits] == '-')
        return error_set(e, ERROR_INVALID, "\"%s\" cannot be a workload's name: it ends as its containers' names do (-%s)", name,
                         name + len - digits);
    return 0;
}

/* Is it one of ours? */
static bool parse_id(const char *name, const char *id, uint64_t *ret_generation)
{
    size_t len = strlen(name);
    *ret_generation = 0;
    if (strncmp(id, name, len) != 0) return false;
    if (id[len] == '\0') return true;
    return id[len] == '-' && record_parse_generation(id + len + 1, id + strlen(id), ret_generation) && *ret_generation > 0;
}

/* Keeps the order. */
static bool insert(struct containers *c, uint64_t generation)
{
    size_t at = c->n;
    while (at > 0 && c->generations[at - 1] > generation) at--;
    if (at > 0 && c->generations[at - 1] == generation) return true;
    uint64_t *more = realloc(c->generations, (c->n + 1) * sizeof *more);
    if (more == NULL) return false;
    memmove(more + at + 1, more + at, (c->n - at) * sizeof *more);
    more[at] = generation;
    c->generations = more;
    c->n++;
    return true;
}

int containers_list(const char *records, const char *runc_root, const char *name, struct containers *ret_all, struct error *e)
{
    struct containers c = {0};
    uint64_t generation;
    int rc = record_list(records, &c.generations, &c.n, e);
    if (rc != 0) return rc;
    DIR *d = opendir(runc_root);
    if (d == NULL && errno != ENOENT) rc = error_errno(e, ERROR_IO, errno, "%s cannot be read", runc_root);
    for (struct dirent *entry; d != NULL && rc == 0 && (entry = readdir(d)) != NULL;)
        if (parse_id(name, entry->d_name, &generation) && !insert(&c, generation))
            rc = error_set(e, ERROR_NOMEM, "no memory for the names of containers");
    if (d != NULL) closedir(d);
    if (rc == 0) *ret_all = c;
    else containers_free(&c);
    return rc;
}

void containers_free(struct containers *c)
{
    free(c->generations);
    *c = (struct containers){0};
}
