#include "checkpoint/runc_report.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <yyjson.h>

enum { TAIL_MAX = 256 << 10 }; /* bytes of a log that are looked at, from its end */

/* The end of a file, zero-terminated, from the beginning of a line; NULL when it cannot be read. The caller frees it. */
static char *read_tail(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return NULL;
    off_t size = lseek(fd, 0, SEEK_END), from = size > TAIL_MAX ? size - TAIL_MAX : 0;
    char *text = malloc(TAIL_MAX + 1);
    ssize_t n = text != NULL ? pread(fd, text, TAIL_MAX, from) : -1;
    close(fd);
    if (n < 0) {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    if (from > 0) {
        char *line = strchr(text, '\n');
        if (line != NULL) memmove(text, line + 1, strlen(line + 1) + 1);
    }
    return text;
}

static void one_line(const char *from, char *text, size_t cap)
{
    size_t n = 0;
    for (; *from != '\0' && n + 1 < cap; from++) text[n++] = (unsigned char)*from < 0x20 ? ' ' : *from;
    while (n > 0 && text[n - 1] == ' ') n--;
    text[n] = '\0';
}

void runc_report_message(const char *log_path, char *text, size_t cap)
{
    text[0] = '\0';
    char *log = read_tail(log_path), *rest = log, *line;
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        yyjson_doc *doc = yyjson_read(line, strlen(line), YYJSON_READ_NOFLAG);
        yyjson_val *object = yyjson_doc_get_root(doc);
        const char *message = yyjson_get_str(yyjson_obj_get(object, "msg"));
        yyjson_val *level = yyjson_obj_get(object, "level");
        if (message != NULL && (yyjson_equals_str(level, "error") || yyjson_equals_str(level, "fatal"))) one_line(message, text, cap);
        yyjson_doc_free(doc);
    }
    free(log);
}

static void keep_last(char *detail, size_t cap, const char *line)
{
    size_t len = strlen(line), used = strlen(detail);
    if (len + 2 > cap) return;
    while (used + len + 2 > cap) { /* forget the oldest line */
        char *next = strchr(detail, '\n');
        size_t cut = next != NULL ? (size_t)(next + 1 - detail) : used;
        memmove(detail, detail + cut, used - cut + 1);
        used -= cut;
    }
    if (used > 0) detail[used++] = '\n';
    memcpy(detail + used, line, len + 1);
}

void runc_report_criu(const char *log_path, char *first, size_t first_cap, char *detail, size_t detail_cap)
{
    first[0] = detail[0] = '\0';
    char *log = read_tail(log_path), *rest = log, *line;
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        const char *from = strstr(line, "Error (");
        if (from == NULL || strstr(line, "rlimit: Can't setup RLIMIT_NOFILE") != NULL) continue;
        if (first[0] == '\0') one_line(from, first, first_cap);
        keep_last(detail, detail_cap, line);
    }
    free(log);
}

bool runc_report_criu_failed(const char *log_path)
{
    char *log = read_tail(log_path);
    bool failed = log != NULL && (strstr(log, "Dumping FAILED") != NULL || strstr(log, "Pre-dumping FAILED") != NULL || strstr(log, "Restoring FAILED") != NULL);
    free(log);
    return failed;
}

bool runc_report_criu_ended(const char *log_path)
{
    char *log = read_tail(log_path);
    bool done = log != NULL && (strstr(log, "Dumping finished successfully") != NULL || strstr(log, "Pre-dumping finished successfully") != NULL || strstr(log, "Restore finished successfully") != NULL);
    free(log);
    return done || runc_report_criu_failed(log_path);
}

/* Many lines may follow that one: all of the log is looked at. */
bool runc_report_criu_let_go(const char *log_path)
{
    bool let_go = false;
    char *line = NULL;
    size_t cap = 0;
    FILE *f = fopen(log_path, "re");
    while (f != NULL && !let_go && getline(&line, &cap, f) >= 0) let_go = strstr(line, "Pre-dumping tasks' memory") != NULL;
    free(line);
    if (f != NULL) fclose(f);
    return let_go;
}

enum error_code runc_report_code(const char *message)
{
    if (strstr(message, "does not exist") != NULL) return ERROR_NOT_FOUND;
    if (strstr(message, "already exists") != NULL || strstr(message, "id already in use") != NULL) return ERROR_EXISTS;
    if (strstr(message, "not running") != NULL || strstr(message, "not paused") != NULL || strstr(message, "process already finished") != NULL) return ERROR_CONFLICT;
    return ERROR_IO;
}

int runc_report_state(const char *json, size_t len, enum runc_status *ret_status, int *ret_pid)
{
    static const struct {
        const char *name;
        enum runc_status status;
    } names[] = {{"creating", RUNC_CREATED}, {"created", RUNC_CREATED}, {"running", RUNC_RUNNING}, {"paused", RUNC_PAUSED},
        {"stopped", RUNC_STOPPED}};
    int rc = -ERROR_INVALID;
    yyjson_doc *doc = yyjson_read(json, len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *status = yyjson_obj_get(root, "status"), *pid = yyjson_obj_get(root, "pid");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!yyjson_equals_str(status, names[i].name)) continue;
        *ret_status = names[i].status;
        *ret_pid = yyjson_is_uint(pid) && yyjson_get_uint(pid) <= INT_MAX ? (int)yyjson_get_uint(pid) : 0;
        rc = 0;
    }
    yyjson_doc_free(doc);
    return rc;
}
