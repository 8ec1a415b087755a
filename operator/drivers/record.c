#include "operator/drivers/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yyjson.h>

#include "checkpoint/tree.h"
#include "common/file.h"

enum { FILE_MAX = 4096 };

static int file_path(char path[PATH_MAX], const char *dir, uint64_t generation, const char *ending, struct error *e)
{
    int n = snprintf(path, PATH_MAX, "%s/%" PRIu64 "%s", dir, generation, ending);
    return n < PATH_MAX ? 0 : error_set(e, ERROR_INVALID, "the path of the instances' records is too long");
}

bool record_parse_generation(const char *text, const char *end, uint64_t *ret_generation)
{
    uint64_t value = 0;
    if (text >= end || (*text == '0' && end - text > 1)) return false;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9') return false;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > RECORD_GENERATION_MAX) return false;
    }
    *ret_generation = value;
    return true;
}

/* --- writing */

static char *to_json(const struct record *r, size_t *ret_len)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *top = yyjson_mut_obj(doc);
    char *text = NULL;
    bool ok = doc != NULL && yyjson_mut_obj_add_uint(doc, top, "generation", r->generation) &&
              yyjson_mut_obj_add_uint(doc, top, "offset", r->offset) &&
              yyjson_mut_obj_add_str(doc, top, "snapshot", r->snapshot) &&
              yyjson_mut_obj_add_str(doc, top, "spec", r->spec) &&
              yyjson_mut_obj_add_bool(doc, top, "attached", r->attached);
    if (ok) {
        yyjson_mut_doc_set_root(doc, top);
        text = yyjson_mut_write(doc, YYJSON_WRITE_NEWLINE_AT_END, ret_len);
    }
    yyjson_mut_doc_free(doc);
    return text;
}

int record_write(const char *dir, const struct record *r, struct error *e)
{
    char path[PATH_MAX];
    size_t len = 0;
    int rc = file_path(path, dir, r->generation, ".json", e);
    if (rc != 0) return rc;
    char *text = to_json(r, &len);
    if (text == NULL) return error_set(e, ERROR_NOMEM, "no memory for an instance's record");
    rc = tree_replace_file(path, text, len, e);
    free(text);
    return rc;
}

/* --- reading */

static bool get_text(yyjson_val *top, const char *key, char *to, size_t cap)
{
    yyjson_val *value = yyjson_obj_get(top, key);
    if (!yyjson_is_str(value) || yyjson_get_len(value) >= cap || strlen(yyjson_get_str(value)) != yyjson_get_len(value))
        return false;
    memcpy(to, yyjson_get_str(value), yyjson_get_len(value) + 1);
    return true;
}

static bool from_json(const char *text, size_t len, uint64_t generation, struct record *ret_record)
{
    struct record r = {0};
    yyjson_doc *doc = yyjson_read(text, len, YYJSON_READ_NOFLAG);
    yyjson_val *top = yyjson_doc_get_root(doc), *value;
    bool ok = yyjson_is_uint(value = yyjson_obj_get(top, "generation"));
    r.generation = yyjson_get_uint(value);
    ok = ok && r.generation == generation && yyjson_is_uint(value = yyjson_obj_get(top, "offset"));
    r.offset = yyjson_get_uint(value);
    ok = ok && get_text(top, "snapshot", r.snapshot, sizeof r.snapshot) && get_text(top, "spec", r.spec, sizeof r.spec) &&
         yyjson_is_bool(value = yyjson_obj_get(top, "attached"));
    r.attached = yyjson_get_bool(value);
    yyjson_doc_free(doc);
    if (ok) *ret_record = r;
    return ok;
}

int record_read(const char *dir, uint64_t generation, struct record *ret_record, struct error *e)
{
    char path[PATH_MAX], text[FILE_MAX + 1];
    int rc = file_path(path, dir, generation, ".json", e);
    if (rc != 0) return rc;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s cannot be read", path);
    ssize_t n = read(fd, text, sizeof text);
    int failed = errno;
    close(fd);
    if (n < 0) return error_errno(e, ERROR_IO, failed, "%s cannot be read", path);
    if (n <= FILE_MAX && from_json(text, (size_t)n, generation, ret_record)) return 0;
    return error_set(e, ERROR_CORRUPT, "%s is no record of an instance", path);
}

int record_remove(const char *dir, uint64_t generation, struct error *e)
{
    char path[PATH_MAX];
    record_unmark_dump(dir, generation);
    int rc = file_path(path, dir, generation, ".json", e);
    if (rc != 0) return rc;
    return unlink(path) == 0 || errno == ENOENT ? 0 : error_errno(e, ERROR_IO, errno, "%s cannot be removed", path);
}

/* --- listing */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool add(uint64_t **all, size_t *n, uint64_t generation)
{
    uint64_t *more = realloc(*all, (*n + 1) * sizeof *more);
    if (more == NULL) return false;
    more[(*n)++] = generation;
    *all = more;
    return true;
}

int record_list(const char *dir, uint64_t **ret_generations, size_t *ret_n, struct error *e)
{
    uint64_t *all = NULL, generation;
    size_t n = 0;
    int rc = 0;
    DIR *d = opendir(dir);
    if (d == NULL) return error_errno(e, ERROR_IO, errno, "%s cannot be read", dir);
    for (struct dirent *entry; rc == 0 && (entry = readdir(d)) != NULL;) {
        const char *dot = strchr(entry->d_name, '.');
        if (dot == NULL || !record_parse_generation(entry->d_name, dot, &generation)) continue;
        if (strcmp(dot, ".json.tmp") == 0) unlinkat(dirfd(d), entry->d_name, 0);
        if (strcmp(dot, ".json") == 0 && !add(&all, &n, generation)) rc = error_set(e, ERROR_NOMEM, "no memory for records");
    }
    closedir(d);
    if (rc != 0) {
        free(all);
        return rc;
    }
    if (n > 0) qsort(all, n, sizeof *all, by_value);
    *ret_generations = all;
    *ret_n = n;
    return 0;
}

/* --- dumps under way */

int record_mark_dump(const char *dir, uint64_t generation, struct error *e)
{
    char path[PATH_MAX];
    int rc = file_path(path, dir, generation, ".dumping", e);
    if (rc != 0) return rc;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(e, file_error_code(errno), errno, "%s cannot be made", path);
    close(fd);
    return 0;
}

void record_unmark_dump(const char *dir, uint64_t generation)
{
    char path[PATH_MAX];
    if (file_path(path, dir, generation, ".dumping", NULL) == 0) unlink(path);
}

bool record_dump_marked(const char *dir, uint64_t generation)
{
    char path[PATH_MAX];
    return file_path(path, dir, generation, ".dumping", NULL) == 0 && access(path, F_OK) == 0;
}
