#include "operator/placement.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/tree.h"
#include "common/buf.h"
#include "common/log.h"
#include "operator/workload_internal.h"

enum { FILE_MAX = 4096 };

/* FNV-1a: only for a name; the stream itself is in the file. */
static int file_of(const char *state_dir, const char *stream, char path[PATH_MAX])
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (const unsigned char *p = (const unsigned char *)stream; *p != '\0'; p++) hash = (hash ^ *p) * UINT64_C(1099511628211);
    return snprintf(path, PATH_MAX, "%s/moves/%016" PRIx64, state_dir, hash) < PATH_MAX - 8 ? 0 : -ERROR_INVALID;
}

/* ---- reading: the stream in the first line, then the name of a spare in each ----------------------------------- */

/* Takes the line off *text; NULL: no whole one is left. */
static char *take_line(char **text)
{
    char *line = *text, *end = strchr(line, '\n');
    if (end == NULL) return NULL;
    *end = '\0';
    *text = end + 1;
    return line;
}

static bool has_line(const char *text, const char *name)
{
    char copy[FILE_MAX], *rest = copy, *line;
    snprintf(copy, sizeof copy, "%s", text);
    while ((line = take_line(&rest)) != NULL)
        if (strcmp(line, name) == 0) return true;
    return false;
}

static bool is_of(const struct workload_settings *w, const char *stream)
{
    return w->checkpoint_restore && strcmp(w->stream, stream) == 0;
}

/* `names`: of the spares, a line each. */
static void apply(const char *stream, const char *names, struct workload_settings *all, size_t n)
{
    size_t spares = 0, named = 0, lines = 0;
    for (const char *p = names; (p = strchr(p, '\n')) != NULL; p++) lines++;
    for (size_t i = 0; i < n; i++) {
        if (!is_of(&all[i], stream)) continue;
        spares += all[i].spare;
        named += has_line(names, all[i].name);
    }
    if (spares == 0 || spares != named || named != lines) {
        log_warn("the workload files have changed since the app was moved: it begins where they say", "stream=%s", stream);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (is_of(&all[i], stream)) all[i].spare = has_line(names, all[i].name);
}

static void apply_stream(const char *state_dir, const char *stream, struct workload_settings *all, size_t n)
{
    char path[PATH_MAX], text[FILE_MAX], *rest = text;
    if (file_of(state_dir, stream, path) != 0) return;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return; /* never moved */
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    const char *first = take_line(&rest);
    if (first != NULL && strcmp(first, stream) == 0) apply(stream, rest, all, n);
}

void placement_apply(const char *state_dir, struct workload_settings *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        for (size_t k = 0; k < i; k++) seen = seen || is_of(&all[k], all[i].stream);
        if (!seen && all[i].checkpoint_restore) apply_stream(state_dir, all[i].stream, all, n);
    }
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

int placement_save(const struct workload *of, struct error *e)
{
    char path[PATH_MAX], directory[PATH_MAX];
    struct buf text = BUF_INIT;
    const char *stream = of->parts.words->stream, *state_dir = of->parts.settings->state_dir;
    if (file_of(state_dir, stream, path) != 0) return error_set(e, ERROR_INVALID, "the state directory's path is too long");
    snprintf(directory, sizeof directory, "%.*s/moves", PATH_MAX - 8, state_dir);
    int rv = buf_add(&text, stream, strlen(stream));
    if (rv == 0) rv = buf_add(&text, "\n", 1);
    for (const struct workload *w = replicas_first(of); rv == 0 && w != NULL; w = w->next) {
        if (!w->spare) continue;
        rv = buf_add(&text, w->name, strlen(w->name));
        if (rv == 0) rv = buf_add(&text, "\n", 1);
    }
    if (rv != 0) rv = error_set(e, ERROR_NOMEM, "no memory");
    if (rv == 0) rv = tree_make(directory, e);
    if (rv == 0) rv = tree_replace_file(path, text.data, text.len, e);
    buf_fini(&text);
    return rv;
}
