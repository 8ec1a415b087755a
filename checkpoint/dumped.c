#include "checkpoint/dumped.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

enum { BLOCK = 64 << 10, WORDS_MAX = 256 << 10, MEMBERS_MAX = 1 << 20 };

static bool read_words(struct archive *a, char ret_id[DUMPED_ID_MAX])
{
    char *words = malloc(WORDS_MAX);
    size_t len = 0;
    la_ssize_t n;
    while (words != NULL && len < WORDS_MAX && (n = archive_read_data(a, words + len, WORDS_MAX - len)) > 0) len += (size_t)n;
    yyjson_doc *doc = len < WORDS_MAX ? yyjson_read(words, len, YYJSON_READ_NOFLAG) : NULL;
    yyjson_val *id = yyjson_obj_get(yyjson_doc_get_root(doc), "id");
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    bool good = yyjson_is_str(id) && yyjson_get_len(id) > 0 && yyjson_get_len(id) < DUMPED_ID_MAX && strspn(yyjson_get_str(id), letters) == yyjson_get_len(id);
    if (good) snprintf(ret_id, DUMPED_ID_MAX, "%s", yyjson_get_str(id));
    yyjson_doc_free(doc);
    free(words);
    return good;
}

/* Large members are passed over, not read: the pages come first. */
static int look_for(struct archive *a, char ret_id[DUMPED_ID_MAX], struct error *e)
{
    struct archive_entry *entry;
    int step = ARCHIVE_OK;
    for (int n = 0; n < MEMBERS_MAX && (step = archive_read_next_header(a, &entry)) == ARCHIVE_OK; n++) {
        const char *name = archive_entry_pathname(entry);
        if (name == NULL || archive_entry_filetype(entry) != AE_IFREG) continue;
        if (strcmp(name, "config.dump") != 0 && strcmp(name, "./config.dump") != 0) continue;
        return read_words(a, ret_id) ? 0 : error_set(e, ERROR_INVALID, "the archive's config.dump does not say of which container it is");
    }
    if (step == ARCHIVE_EOF || step == ARCHIVE_OK) return error_set(e, ERROR_INVALID, "the archive has no config.dump, and is no container runtime's checkpoint");
    return error_set(e, ERROR_INVALID, "the archive is no tar file: %.150s", archive_error_string(a));
}

int dumped_container(int fd, char ret_id[DUMPED_ID_MAX], struct error *e)
{
    struct archive *a = archive_read_new();
    int rc = lseek(fd, 0, SEEK_SET) == 0 ? 0 : error_errno(e, ERROR_IO, errno, "an archive cannot be read");
    if (rc == 0 && (a == NULL || archive_read_support_format_tar(a) != ARCHIVE_OK || archive_read_support_format_empty(a) != ARCHIVE_OK))
        rc = error_set(e, ERROR_NOMEM, "no memory to read an archive");
    if (rc == 0 && archive_read_open_fd(a, fd, BLOCK) != ARCHIVE_OK) rc = error_set(e, ERROR_INVALID, "the archive is no tar file: %.150s", archive_error_string(a));
    if (rc == 0) rc = look_for(a, ret_id, e);
    if (a != NULL) archive_read_free(a);
    if (rc == 0 && lseek(fd, 0, SEEK_SET) != 0) rc = error_errno(e, ERROR_IO, errno, "an archive cannot be read");
    return rc;
}
