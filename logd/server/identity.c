#include "logd/server/identity.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

#include "logd/server/note.h"

/* Three lines of text, so that a person can read it: "id N", "cluster NAME", "instance HEX". */
enum { IDENTITY_MAX = 512 };

static int make_directories(const char *dir, struct error *e)
{
    char path[4096];
    size_t len = strlen(dir);
    if (len == 0 || len >= sizeof path) return error_set(e, ERROR_INVALID, "data-dir is empty or too long");
    memcpy(path, dir, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        char kept = path[i];
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return error_errno(e, ERROR_IO, errno, "cannot make the directory %s", path);
        path[i] = kept;
    }
    return 0;
}

static int write_new(const char *dir, const char *text, uint64_t *ret_instance, struct error *e)
{
    char all[IDENTITY_MAX];
    uint64_t instance = 0;
    int rv = uv_random(NULL, NULL, &instance, sizeof instance, 0, NULL);
    if (rv != 0) return error_uv(e, ERROR_IO, rv, "no random number for %s/identity", dir);
    if (instance == 0) instance = 1;
    snprintf(all, sizeof all, "%.400sinstance %016llx\n", text, (unsigned long long)instance);
    if ((rv = note_write(dir, "identity", all, e)) == 0) *ret_instance = instance;
    return rv;
}

int identity_check(const char *dir, uint64_t id, const char *cluster, uint64_t *ret_instance, struct error *e)
{
    char want[IDENTITY_MAX], found[IDENTITY_MAX];
    int rv = make_directories(dir, e);
    if (rv != 0) return rv;
    snprintf(want, sizeof want, "id %llu\ncluster %s\n", (unsigned long long)id, cluster);
    if ((rv = note_read(dir, "identity", sizeof found, found, e)) < 0) return rv;
    if (rv == 0) return write_new(dir, want, ret_instance, e);
    unsigned long long was = 0, instance = 0;
    size_t len = strlen(want);
    if (strcmp(found, want) == 0) return write_new(dir, want, ret_instance, e); /* of a version without */
    if (strncmp(found, want, len) == 0) {
        if (sscanf(found + len, "instance %16llx\n", &instance) != 1 || instance == 0)
            return error_set(e, ERROR_CORRUPT, "%s/identity is damaged: its last line should say \"instance HEX\"", dir);
        *ret_instance = instance;
        return 0;
    }
    char name[256] = "";
    if (sscanf(found, "id %llu\ncluster %255[^\n]\n", &was, name) != 2)
        return error_set(e, ERROR_CORRUPT, "%s/identity is damaged: it should say \"id N\" and \"cluster NAME\"", dir);
    return error_set(e, ERROR_INVALID, "%s holds the data of server %llu of cluster \"%s\", but this is server %llu of \"%s\": "
                     "use its own data-dir, or an empty one", dir, was, name, (unsigned long long)id, cluster);
}

int identity_renew(const char *dir, uint64_t id, const char *cluster, uint64_t *ret_instance, struct error *e)
{
    char text[IDENTITY_MAX];
    snprintf(text, sizeof text, "id %llu\ncluster %s\n", (unsigned long long)id, cluster);
    return write_new(dir, text, ret_instance, e);
}
