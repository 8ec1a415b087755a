/* Images: what was packed comes out again; what was damaged, cut or forged does not, and leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>

#include "checkpoint/digest.h"
#include "checkpoint/oci_image.h"
#include "checkpoint/oci_json.h"
#include "checkpoint/tree.h"

enum { LIMIT = 64 << 20, PAGES = 300000 };

static char base[64];
static const struct oci_image_labels labels = {.container = "counter", .stream = "demo/default/workload/counter", .offset = 4711};

static char *at(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", base, name);
    return path;
}

static void write_file(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}

static char *read_file(const char *path, size_t *ret_len)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    char *data = malloc((size_t)st.st_size + 1);
    assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
    close(fd);
    *ret_len = (size_t)st.st_size;
    return data;
}

static void assert_absent(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), -1);
    assert_int_equal(errno, ENOENT);
}

static int set_up(void **state)
{
    (void)state;
    struct error e;
    snprintf(base, sizeof base, "/tmp/crsc-test-oci-XXXXXX");
    if (mkdtemp(base) == NULL) return 1;
    if (tree_make(at("dump/fs"), &e) != 0 || tree_make(at("dump/empty"), &e) != 0) return 1;
    char *pages = malloc(PAGES);
    for (int i = 0; i < PAGES; i++) pages[i] = (char)(i * 31 >> 3);
    write_file(at("dump/pages-1.img"), pages, PAGES);
    free(pages);
    write_file(at("dump/inventory.img"), "inventory", 9);
    write_file(at("dump/fs/none.img"), "", 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return tree_remove(base, NULL);
}

static struct oci_image pack(const char *name)
{
    struct error e = {0};
    struct oci_image image;
    int rc = oci_image_pack(at("dump"), at(name), &labels, &image, &e);
    if (rc != 0) fail_msg("%s", e.text);
    return image;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t a_len, b_len;
    char *a_data = read_file(a, &a_len), *b_data = read_file(b, &b_len);
    assert_int_equal(a_len, b_len);
    assert_memory_equal(a_data, b_data, a_len);
    free(a_data);
    free(b_data);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_image image = pack("image"), again = pack("again"), out;
    struct stat st;
    assert_true(digest_valid(image.digest));
    assert_string_equal(image.digest, again.digest); /* the same dump, the same name */
    assert_true(image.size > PAGES);
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e), 0);
    assert_same_file(at("dump/pages-1.img"), at("out/pages-1.img"));
    assert_same_file(at("dump/inventory.img"), at("out/inventory.img"));
    assert_same_file(at("dump/fs/none.img"), at("out/fs/none.img"));
    assert_int_equal(stat(at("out/empty"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(at("out/pages-1.img"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(at("image"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(at("image/index.json"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_string_equal(out.labels.stream, labels.stream);
    assert_string_equal(out.labels.container, labels.container);
    assert_int_equal(out.labels.offset, 4711);
    assert_int_equal(out.size, image.size);
    assert_int_equal(oci_image_inspect(at("image"), NULL, &out, &e), 0);
    assert_string_equal(out.digest, image.digest);
    /* nothing is overwritten, nothing is left over */
    assert_int_equal(oci_image_pack(at("dump"), at("image"), &labels, &out, &e), -ERROR_EXISTS);
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e), -ERROR_EXISTS);
    assert_absent(at("image.partial"));
    assert_absent(at("out.partial"));
}

static void test_leftovers(void **state)
{
    (void)state;
    struct error e;
    assert_int_equal(tree_make(at("image.partial/blobs/sha256"), &e), 0); /* a crash in the middle of a pack */
    write_file(at("image.partial/blobs/sha256/.layer"), "half", 4);
    struct oci_image image = pack("image"), out;
    assert_int_equal(tree_make(at("out.partial/x"), &e), 0); /* and of an unpack */
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e), 0);
    assert_absent(at("out/x"));
}

/* Every blob: every byte of the small ones, every 997th of the layer. */
static void test_every_flipped_byte(void **state)
{
    (void)state;
    struct oci_image image = pack("image"), out;
    struct dirent *entry;
    DIR *dir = opendir(at("image/blobs/sha256"));
    int blobs = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        size_t len;
        if (entry->d_name[0] == '.') continue;
        blobs++;
        snprintf(path, sizeof path, "%s/image/blobs/sha256/%s", base, entry->d_name);
        char *data = read_file(path, &len);
        for (size_t i = 0; i < len; i += len > 4096 ? 997 : 1) {
            struct error e = {0};
            data[i] ^= (char)(1 << (i % 8));
            write_file(path, data, len);
            assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e), -ERROR_CORRUPT);
            assert_true(strlen(e.text) > 10);
            data[i] ^= (char)(1 << (i % 8));
        }
        write_file(path, data, len);
        free(data);
    }
    closedir(dir);
    assert_int_equal(blobs, 3);
    assert_absent(at("out"));
    assert_absent(at("out.partial"));
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, NULL), 0);
}

static void test_cut(void **state)
{
    (void)state;
    struct oci_image image = pack("image"), out;
    struct dirent *entry;
    DIR *dir = opendir(at("image/blobs/sha256"));
    while ((entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        size_t len;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/image/blobs/sha256/%s", base, entry->d_name);
        char *data = read_file(path, &len);
        const size_t cuts[] = {0, 1, len / 2, len - 1};
        for (size_t i = 0; i < 4; i++) {
            write_file(path, data, cuts[i]);
            assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, NULL), -ERROR_CORRUPT);
        }
        assert_int_equal(unlink(path), 0);
        assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, NULL), -ERROR_NOT_FOUND);
        write_file(path, data, len);
        free(data);
    }
    closedir(dir);
    assert_absent(at("out"));
    assert_absent(at("out.partial"));
}

static void test_wrong_words(void **state)
{
    (void)state;
    struct error e;
    struct oci_image image = pack("image"), out;
    struct oci_image_labels bad = labels;
    char other[OCI_DIGEST_MAX];
    assert_int_equal(oci_image_unpack(at("image"), "sha256:../../../etc/passwd", at("out"), LIMIT, &out, &e), -ERROR_INVALID);
    assert_int_equal(oci_image_unpack(at("image"), NULL, at("out"), LIMIT, &out, &e), -ERROR_INVALID);
    assert_int_equal(digest_of("x", 1, other), 0);
    assert_int_equal(oci_image_unpack(at("image"), other, at("out"), LIMIT, &out, &e), -ERROR_NOT_FOUND);
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("out"), PAGES, &out, &e), -ERROR_TOO_LARGE);
    assert_int_equal(oci_image_unpack(at("image"), image.digest, at("no/out"), LIMIT, &out, &e), -ERROR_IO);
    assert_int_equal(oci_image_pack(at("nothing"), at("new"), &labels, &out, &e), -ERROR_NOT_FOUND);
    assert_int_equal(oci_image_pack(at("dump/inventory.img"), at("new"), &labels, &out, &e), -ERROR_NOT_FOUND);
    strcpy(bad.stream, "");
    assert_int_equal(oci_image_pack(at("dump"), at("new"), &bad, &out, &e), -ERROR_INVALID);
    strcpy(bad.stream, "a\nb");
    assert_int_equal(oci_image_pack(at("dump"), at("new"), &bad, &out, &e), -ERROR_INVALID);
    assert_int_equal(symlink("/etc/passwd", at("dump/link")), 0);
    assert_int_equal(oci_image_pack(at("dump"), at("new"), &labels, &out, &e), -ERROR_INVALID);
    assert_absent(at("new"));
    assert_absent(at("new.partial"));
    assert_absent(at("out"));
}

static void test_no_space(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_image out;
    struct rlimit old, small = {.rlim_cur = 100000};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0); /* the nearest to a full disk that needs no disk */
    int packed = oci_image_pack(at("dump"), at("image"), &labels, &out, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(packed, -ERROR_IO);
    assert_non_null(strstr(e.text, "too large"));
    assert_absent(at("image"));
    assert_absent(at("image.partial"));
    struct oci_image image = pack("image");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int unpacked = oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(unpacked, -ERROR_IO);
    assert_absent(at("out"));
    assert_absent(at("out.partial"));
}

/* --- forged images: right digests, wrong content */

static void put_blob(const void *data, size_t len, struct oci_blob *ret_blob)
{
    char path[PATH_MAX];
    ret_blob->size = len;
    assert_int_equal(digest_of(data, len, ret_blob->digest), 0);
    snprintf(path, sizeof path, "%s/forged/blobs/sha256/%s", base, ret_blob->digest + 7);
    write_file(path, data, len);
}

static int unpack_forged(const void *tar, size_t len, struct error *e)
{
    struct oci_manifest m = {.labels = labels};
    struct oci_blob manifest;
    struct oci_image out;
    size_t text_len;
    assert_int_equal(tree_remove(at("forged"), e), 0);
    assert_int_equal(tree_make(at("forged/blobs/sha256"), e), 0);
    put_blob(tar, len, &m.layer);
    char *text = oci_write_config(&m.layer, "", &text_len);
    put_blob(text, text_len, &m.config);
    free(text);
    text = oci_write_manifest(&m, &text_len);
    put_blob(text, text_len, &manifest);
    free(text);
    int rc = oci_image_unpack(at("forged"), manifest.digest, at("out"), LIMIT, &out, e);
    assert_absent(at("out.partial"));
    return rc;
}

static int unpack_entry(const char *name, mode_t type, const char *link, bool hard)
{
    static char tar[64 << 10];
    struct error e = {0};
    size_t used = 0;
    struct archive *a = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    archive_write_set_format_pax_restricted(a);
    assert_int_equal(archive_write_open_memory(a, tar, sizeof tar, &used), ARCHIVE_OK);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, 0777);
    if (link != NULL && hard) archive_entry_set_hardlink(entry, link);
    else if (link != NULL) archive_entry_set_symlink(entry, link);
    if (type == AE_IFREG && link == NULL) archive_entry_set_size(entry, 4);
    assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
    if (type == AE_IFREG && link == NULL) assert_int_equal(archive_write_data(a, "evil", 4), 4);
    archive_write_close(a);
    archive_entry_free(entry);
    archive_write_free(a);
    int rc = unpack_forged(tar, used, &e);
    if (rc == 0) assert_int_equal(tree_remove(at("out"), &e), 0);
    else assert_absent(at("out"));
    return rc;
}

/* What a container runtime wrote, as far as anybody here looks at it. */
static void write_archive(const char *path)
{
    static const char *const names[] = {"config.dump", "spec.dump", "checkpoint/pages-1.img"};
    static char content[PAGES];
    struct archive *a = archive_write_new();
    archive_write_set_format_pax_restricted(a);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, names[i]);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0600);
        archive_entry_set_size(entry, PAGES);
        assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
        assert_int_equal(archive_write_data(a, content, PAGES), PAGES);
        archive_entry_free(entry);
    }
    archive_write_close(a);
    archive_write_free(a);
}

/* The one blob that has this text in it. */
static void find_blob(const char *text, char ret_path[PATH_MAX])
{
    struct dirent *entry;
    DIR *dir = opendir(at("wrapped/blobs/sha256"));
    int found = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        size_t len;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/wrapped/blobs/sha256/%s", base, entry->d_name);
        char *data = read_file(path, &len);
        if (memmem(data, len, text, strlen(text)) != NULL) {
            strcpy(ret_path, path);
            found++;
        }
        free(data);
    }
    closedir(dir);
    assert_int_equal(found, 1);
}

/* The archive's bytes are the layer, both runtimes know the image for a checkpoint, and a kubelet which user it is of. */
static void test_wrapped(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_image image, out;
    struct oci_image_labels named = labels;
    char path[PATH_MAX], layer[OCI_DIGEST_MAX];
    size_t len;
    strcpy(named.user, "1000:1000");
    write_archive(at("archive.tar"));
    int fd = open(at("archive.tar"), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(oci_image_wrap(fd, at("wrapped"), &named, &image, &e), 0);
    assert_int_equal(oci_image_wrap(fd, at("wrapped"), &named, &out, &e), -ERROR_EXISTS);
    close(fd);
    assert_int_equal(oci_file_digest(at("archive.tar"), layer, &e), 0);
    snprintf(path, sizeof path, "%s/wrapped/blobs/sha256/%s", base, layer + strlen("sha256:"));
    assert_same_file(at("archive.tar"), path);
    find_blob("\"org.criu.checkpoint.container.name\":\"counter\",\"io.kubernetes.cri-o.annotations.checkpoint.name\":\"counter\"", path);
    find_blob("\"config\":{\"User\":\"1000:1000\"}", path);
    assert_int_equal(oci_image_verify(at("wrapped"), image.digest, &out, &e), 0);
    assert_int_equal(out.labels.offset, 4711);
    assert_int_equal(out.size, image.size);
    assert_int_equal(oci_image_unpack(at("wrapped"), image.digest, at("out"), LIMIT, &out, &e), -ERROR_INVALID); /* it is not ours to restore */
    assert_absent(at("out"));
    snprintf(path, sizeof path, "%s/wrapped/blobs/sha256/%s", base, layer + strlen("sha256:"));
    char *data = read_file(path, &len);
    data[len / 2] ^= 1;
    write_file(path, data, len);
    assert_int_equal(oci_image_verify(at("wrapped"), image.digest, &out, &e), -ERROR_CORRUPT);
    write_file(path, data, len / 2);
    assert_int_equal(oci_image_verify(at("wrapped"), image.digest, &out, &e), -ERROR_CORRUPT);
    free(data);
    assert_int_equal(oci_image_verify(at("wrapped"), NULL, &out, &e), -ERROR_INVALID);
    /* what is no tar, or not even a header of one */
    fd = open(at("dump/pages-1.img"), O_RDONLY);
    assert_int_equal(oci_image_wrap(fd, at("none"), &labels, &out, &e), -ERROR_INVALID);
    close(fd);
    fd = open(at("dump/fs/none.img"), O_RDONLY);
    assert_int_equal(oci_image_wrap(fd, at("none"), &labels, &out, &e), -ERROR_INVALID);
    close(fd);
    assert_absent(at("none"));
    assert_absent(at("none.partial"));
}

static void test_forged(void **state)
{
    (void)state;
    struct error e;
    assert_int_equal(unpack_entry("checkpoint/good.img", AE_IFREG, NULL, false), 0);
    assert_int_equal(unpack_entry("checkpoint/", AE_IFDIR, NULL, false), 0);
    static const char *const names[] = {"../evil", "checkpoint/../../evil", "/tmp/evil", "evil", "checkpoint", "checkpoint/./x",
        "checkpoint//x", "checkpointx/evil", "checkpoint/..", "checkpoint/a/../../../evil"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(unpack_entry(names[i], AE_IFREG, NULL, false), -ERROR_INVALID);
    assert_int_equal(unpack_entry("checkpoint/link", AE_IFLNK, "/etc", false), -ERROR_INVALID);
    assert_int_equal(unpack_entry("checkpoint/link", AE_IFREG, "/etc/passwd", true), -ERROR_INVALID);
    assert_int_equal(unpack_entry("checkpoint/fifo", AE_IFIFO, NULL, false), -ERROR_INVALID);
    assert_int_equal(unpack_entry("checkpoint/device", AE_IFCHR, NULL, false), -ERROR_INVALID);
    assert_absent(at("evil"));
    /* no tar at all, and manifests that lie */
    static const char garbage[4096] = "this is no tar";
    assert_int_equal(unpack_forged(garbage, sizeof garbage, &e), -ERROR_INVALID);
}

static void read_link(const char *path, const char *expected)
{
    char target[64];
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    assert_string_equal(target, expected);
}

/* The rounds before a dump, and CRIU's links to them. */
static void test_rounds(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_image image, out;
    char before[OCI_DIGEST_MAX], after[OCI_DIGEST_MAX];
    assert_int_equal(tree_make(at("dump/pre-1"), &e), 0);
    assert_int_equal(tree_make(at("dump/pre-2"), &e), 0);
    assert_int_equal(symlink("pre-2", at("dump/parent")), 0);
    assert_int_equal(symlink("../pre-1", at("dump/pre-2/parent")), 0);
    assert_int_equal(link(at("dump/pages-1.img"), at("dump/pre-1/pages-1.img")), 0);
    if (oci_image_pack(at("dump"), at("image"), &labels, &image, &e) != 0) fail_msg("%s", e.text);
    if (oci_image_unpack(at("image"), image.digest, at("out"), LIMIT, &out, &e) != 0) fail_msg("%s", e.text);
    read_link(at("out/parent"), "pre-2");
    read_link(at("out/pre-2/parent"), "../pre-1");
    assert_int_equal(oci_file_digest(at("dump/pages-1.img"), before, &e), 0);
    assert_int_equal(oci_file_digest(at("out/parent/parent/pages-1.img"), after, &e), 0);
    assert_string_equal(before, after);
    assert_int_equal(tree_remove(at("out"), &e), 0);
    static const char *const targets[] = {"pre-9", "/etc", "..", "../pre-1", "../../pre-1", "pre-1/x", "parent"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) { /* what else is called so is no part of a dump */
        assert_int_equal(unlink(at("dump/parent")), 0);
        assert_int_equal(symlink(targets[i], at("dump/parent")), 0);
        assert_int_equal(oci_image_pack(at("dump"), at("none"), &labels, &out, &e), -ERROR_INVALID);
    }
    assert_absent(at("none"));
}

/* Several entries in one archive: file, folder or link, by the second word. */
static int unpack_entries(const char *const entries[][2], size_t n)
{
    static char tar[64 << 10];
    struct error e = {0};
    size_t used = 0;
    struct archive *a = archive_write_new();
    archive_write_set_format_pax_restricted(a);
    assert_int_equal(archive_write_open_memory(a, tar, sizeof tar, &used), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        bool file = strcmp(entries[i][1], "file") == 0, folder = strcmp(entries[i][1], "folder") == 0;
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, entries[i][0]);
        archive_entry_set_filetype(entry, file ? AE_IFREG : folder ? AE_IFDIR : AE_IFLNK);
        if (!file && !folder) archive_entry_set_symlink(entry, entries[i][1]);
        archive_entry_set_perm(entry, 0777);
        if (file) archive_entry_set_size(entry, 4);
        assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
        if (file) assert_int_equal(archive_write_data(a, "evil", 4), 4);
        archive_entry_free(entry);
    }
    archive_write_close(a);
    archive_write_free(a);
    int rc = unpack_forged(tar, used, &e);
    if (rc == 0) assert_int_equal(tree_remove(at("out"), &e), 0);
    else assert_absent(at("out"));
    return rc;
}

/* An image is not trusted: only the links of pre-copy, to where they belong, and nothing goes through one. */
static void test_forged_links(void **state)
{
    (void)state;
    static const char *const good[][2] = {{"checkpoint", "folder"}, {"checkpoint/parent", "pre-2"}, {"checkpoint/pre-1", "folder"}, {"checkpoint/pre-1/x", "file"},
        {"checkpoint/pre-2", "folder"}, {"checkpoint/pre-2/parent", "../pre-1"}};
    assert_int_equal(unpack_entries(good, 6), 0);
    static const char *const bad[][2] = {{"checkpoint/parent", "/etc"}, {"checkpoint/parent", "/"}, {"checkpoint/parent", ".."}, {"checkpoint/parent", "../pre-1"},
        {"checkpoint/parent", "../../pre-1"}, {"checkpoint/parent", "pre-1/../../.."}, {"checkpoint/parent", "."}, {"checkpoint/parent", ""}, {"checkpoint/inventory.img", "pre-1"},
        {"checkpoint/pre-1", "pre-2"}, {"checkpoint/pre-2/parent", "../../../etc"}, {"checkpoint/pre-2/parent", "/etc"}, {"checkpoint/pre-1/parent", "../pre-1"},
        {"checkpoint/pre-1/parent", "../pre-2"}, {"checkpoint/pre-2/x/parent", "../pre-1"}, {"checkpoint", "pre-1"}, {"parent", "pre-1"}, {"checkpoint/parent/", "pre-1/"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *const all[][2] = {{"checkpoint", "folder"}, {"checkpoint/pre-1", "folder"}, {"checkpoint/pre-2", "folder"}, {"checkpoint/pre-2/x", "folder"}, {bad[i][0], bad[i][1]}};
        if (unpack_entries(all + (i == 9 ? 2 : 0), i == 9 ? 3 : 5) != -ERROR_INVALID) fail_msg("%s -> %s", bad[i][0], bad[i][1]);
    }
    /* through a link, in place of a file, a file in place of a link */
    static const char *const through[][2] = {{"checkpoint", "folder"}, {"checkpoint/pre-1", "folder"}, {"checkpoint/parent", "pre-1"}, {"checkpoint/parent/x", "file"}};
    assert_int_equal(unpack_entries(through, 4), -ERROR_INVALID);
    static const char *const folder[][2] = {{"checkpoint", "folder"}, {"checkpoint/pre-1", "folder"}, {"checkpoint/parent", "pre-1"}, {"checkpoint/parent/x", "folder"}};
    assert_int_equal(unpack_entries(folder, 4), -ERROR_INVALID);
    static const char *const twice[][2] = {{"checkpoint", "folder"}, {"checkpoint/parent", "file"}, {"checkpoint/parent", "pre-1"}};
    assert_int_equal(unpack_entries(twice, 3), -ERROR_INVALID);
    static const char *const over[][2] = {{"checkpoint", "folder"}, {"checkpoint/pre-1", "folder"}, {"checkpoint/parent", "pre-1"}, {"checkpoint/parent", "file"}};
    assert_int_equal(unpack_entries(over, 4), -ERROR_INVALID);
    assert_absent(at("evil"));
}

static void test_manifests(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_manifest m = {.labels = labels}, back;
    size_t len;
    assert_int_equal(digest_of("c", 1, m.config.digest), 0);
    assert_int_equal(digest_of("l", 1, m.layer.digest), 0);
    char *text = oci_write_manifest(&m, &len);
    assert_int_equal(oci_read_manifest(text, len, &back, &e), 0);
    assert_string_equal(back.layer.digest, m.layer.digest);
    for (size_t cut = 0; cut < len; cut++) assert_int_equal(oci_read_manifest(text, cut, &back, &e), -ERROR_INVALID);
    for (size_t i = 0; i < len; i++) { /* any byte: refused or understood, never more */
        char kept = text[i];
        for (int c = 1; c < 128; c += 9) {
            text[i] = (char)c;
            int rc = oci_read_manifest(text, len, &back, &e);
            assert_true(rc == 0 || rc == -ERROR_INVALID);
        }
        text[i] = kept;
    }
    free(text);
    static const char *const bad[] = {"", "[]", "{}", "null", "{\"schemaVersion\":2}", "{\"schemaVersion\":2,\"config\":[],\"layers\":{}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(oci_read_manifest(bad[i], strlen(bad[i]), &back, &e), -ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_leftovers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_every_flipped_byte, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_space, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrapped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_forged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_forged_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_manifests, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
