/* A filesystem in memory (FUSE) that forgets at a power cut what no sync had made durable, as a disk may:
 *
 *   - of a file's bytes written since its last fsync, any choice of 512-byte sectors stays, the others are as they were;
 *   - its size is the old or the new one, whatever happened to the bytes;
 *   - of names made, changed and removed since the directory's last fsync, the first few stay, the later ones never were.
 *
 * After the cut every call fails (EIO) until power is back. What is tested sees the real kernel, the real libc and LMDB; nothing is preloaded.
 *
 *   forgetfs DIRECTORY        stays in the foreground; unmount it to end it
 *
 * DIRECTORY/.power is how it is told:  "cut N SEED" (the power goes off before the N-th change from now on), "on" (power is back, and the
 * choice is made), "slow MS" (each sync of a file N.seg takes that long). Reading it gives "on CHANGES" or "off CHANGES". One thread. */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512 };

struct bytes {
    uint8_t *data;
    size_t len, cap;
};

struct node {
    bool dir;
    unsigned refs; /* names, live and durable, and open files */
    struct bytes live, durable;
    size_t from, to; /* live and durable bytes are equal outside of these; from == to: everywhere */
};

/* A name; the names of a directory's children begin with its own. */
struct entry {
    uint64_t hash; /* of the path: what is looked up at each call is compared with it first */
    char *path;
    struct node *node;
};

struct names {
    struct entry *list;
    size_t n;
};

/* A change of names that is not durable yet. */
struct change {
    char *from, *to; /* from NULL: made; to NULL: removed; both: renamed */
    struct node *node;
};

static struct names live, durable;
static struct change *changes;
static size_t n_changes;
static uint64_t seed = 1, counted;
static int64_t left = -1; /* changes until the cut; -1: none is planned */
static unsigned slow_ms; /* each sync of a segment takes so long */
static bool off;

static void *must(void *p)
{
    if (p == NULL) abort();
    return p;
}

static uint64_t random_next(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}

/* ---- bytes and names ---------------------------------------------------------------------------------------------- */

static void resize(struct bytes *b, size_t len)
{
    if (len > b->cap) {
        b->cap = len + len / 2 + 4096;
        b->data = must(realloc(b->data, b->cap));
    }
    if (len > b->len) memset(b->data + b->len, 0, len - b->len);
    b->len = len;
}

static void set_dirty(struct node *n, size_t from, size_t to)
{
    if (n->from == n->to) n->from = from, n->to = to;
    if (from < n->from) n->from = from;
    if (to > n->to) n->to = to;
}

static void resize_live(struct node *n, size_t len)
{
    if (len < n->live.len) set_dirty(n, len, n->live.len);
    else if (len > n->live.len) set_dirty(n, n->live.len, len);
    resize(&n->live, len);
}

/* What differs only: a sync of a few bytes must not cost the whole file. */
static void copy(struct node *n, struct bytes *to, const struct bytes *from)
{
    resize(to, from->len);
    size_t end = n->to < from->len ? n->to : from->len;
    if (n->from < end) memcpy(to->data + n->from, from->data + n->from, end - n->from);
    n->from = n->to = 0;
}

static struct node *ref(struct node *n)
{
    n->refs++;
    return n;
}

static void unref(struct node *n)
{
    if (--n->refs > 0) return;
    free(n->live.data);
    free(n->durable.data);
    free(n);
}

static uint64_t hash_of(const char *path)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    while (*path != '\0') h = (h ^ (uint8_t)*path++) * UINT64_C(0x100000001b3);
    return h;
}

static size_t find(const struct names *s, const char *path)
{
    uint64_t hash = hash_of(path);
    size_t i = 0;
    while (i < s->n && (s->list[i].hash != hash || strcmp(s->list[i].path, path) != 0)) i++;
    return i;
}

static void put_name(struct names *s, const char *path, struct node *node)
{
    size_t i = find(s, path);
    ref(node);
    if (i < s->n) {
        unref(s->list[i].node);
        s->list[i].node = node;
        return;
    }
    s->list = must(realloc(s->list, sizeof *s->list * (s->n + 1)));
    s->list[s->n++] = (struct entry){hash_of(path), must(strdup(path)), node};
}

static void drop_name(struct names *s, const char *path)
{
    size_t i = find(s, path);
    if (i == s->n) return;
    free(s->list[i].path);
    unref(s->list[i].node);
    s->list[i] = s->list[--s->n];
}

static void move_name(struct names *s, const char *from, const char *to)
{
    size_t i = find(s, from), len = strlen(from);
    if (i == s->n) return;
    struct node *node = ref(s->list[i].node);
    drop_name(s, from);
    put_name(s, to, node);
    unref(node);
    for (size_t k = 0; k < s->n; k++) { /* what is below goes along */
        if (strncmp(s->list[k].path, from, len) != 0 || s->list[k].path[len] != '/') continue;
        char path[4096];
        snprintf(path, sizeof path, "%s%s", to, s->list[k].path + len);
        free(s->list[k].path);
        s->list[k].path = must(strdup(path));
        s->list[k].hash = hash_of(path);
    }
}

static void apply_change(struct names *s, const struct change *c)
{
    if (c->from == NULL) put_name(s, c->to, c->node);
    else if (c->to == NULL) drop_name(s, c->from);
    else move_name(s, c->from, c->to);
}

static void change_names(const char *from, const char *to, struct node *node)
{
    struct change c = {from == NULL ? NULL : must(strdup(from)), to == NULL ? NULL : must(strdup(to)), node == NULL ? NULL : ref(node)};
    apply_change(&live, &c);
    changes = must(realloc(changes, sizeof *changes * (n_changes + 1)));
    changes[n_changes++] = c;
}

static void free_change(struct change *c)
{
    free(c->from);
    free(c->to);
    if (c->node != NULL) unref(c->node);
}

/* The first `n` changes become durable, in order; the rest stay or, with `forget`, never were. */
static void settle_names(size_t n, bool forget)
{
    for (size_t i = 0; i < n; i++) apply_change(&durable, &changes[i]);
    for (size_t i = 0; i < (forget ? n_changes : n); i++) free_change(&changes[i]);
    memmove(changes, changes + n, sizeof *changes * (n_changes - n));
    n_changes = forget ? 0 : n_changes - n;
}

/* ---- the power ---------------------------------------------------------------------------------------------------- */

static void lose_bytes(struct node *n)
{
    size_t end = n->live.len > n->durable.len ? n->live.len : n->durable.len;
    size_t len = n->live.len != n->durable.len && random_next() % 2 == 0 ? n->live.len : n->durable.len;
    uint64_t stay = random_next() % 4; /* 0: none, 3: all, else by chance */
    resize(&n->durable, end);
    for (size_t at = n->from / SECTOR * SECTOR; at < n->live.len && at < n->to; at += SECTOR) {
        size_t size = n->live.len - at < SECTOR ? n->live.len - at : SECTOR;
        bool stays = stay == 3 || (stay != 0 && random_next() % 2 == 0);
        if (stays) memcpy(n->durable.data + at, n->live.data + at, size);
    }
    n->durable.len = len;
    copy(n, &n->live, &n->durable);
}

static void power_on(void)
{
    settle_names(n_changes > 0 ? random_next() % (n_changes + 1) : 0, true);
    while (live.n > 0) drop_name(&live, live.list[0].path);
    for (size_t i = 0; i < durable.n; i++) {
        put_name(&live, durable.list[i].path, durable.list[i].node);
        lose_bytes(durable.list[i].node);
    }
    off = false;
    left = -1;
}

/* Before each change: 0, or the power is off. */
static int change(void)
{
    if (!off && left >= 0 && left-- == 0) off = true;
    if (off) return -EIO;
    counted++;
    return 0;
}

static void command(char *text)
{
    char *word = strtok(text, " \n");
    char *number = strtok(NULL, " \n"), *random = strtok(NULL, " \n");
    if (word != NULL && strcmp(word, "cut") == 0 && number != NULL && random != NULL) {
        left = (int64_t)strtoll(number, NULL, 10);
        seed = strtoull(random, NULL, 10) * 2654435761u + 1;
    } else if (word != NULL && strcmp(word, "slow") == 0 && number != NULL) {
        slow_ms = (unsigned)strtoul(number, NULL, 10);
    } else if (word != NULL && strcmp(word, "on") == 0) {
        power_on();
    }
}

/* ---- the calls ---------------------------------------------------------------------------------------------------- */

static const char power[] = "/.power";

static struct node *node_of(struct fuse_file_info *fi)
{
    return (struct node *)(uintptr_t)fi->fh;
}

static struct node *look(const char *path)
{
    size_t i = find(&live, path);
    return i < live.n ? live.list[i].node : NULL;
}

static int op_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    struct node *n = strcmp(path, power) == 0 ? NULL : fi != NULL && fi->fh != 0 ? node_of(fi) : look(path);
    memset(st, 0, sizeof *st);
    st->st_nlink = 1;
    st->st_blksize = 4096;
    if (strcmp(path, power) == 0) {
        st->st_mode = S_IFREG | 0600;
        return 0;
    }
    if (n == NULL) return -ENOENT;
    st->st_mode = n->dir ? S_IFDIR | 0700 : S_IFREG | 0600;
    st->st_size = (off_t)n->live.len;
    st->st_blocks = (blkcnt_t)((n->live.len + 511) / 512);
    return 0;
}

static int make(const char *path, bool dir, struct node **ret)
{
    int rv = change();
    if (rv != 0) return rv;
    struct node *n = must(calloc(1, sizeof *n));
    n->dir = dir;
    n->refs = 1;
    change_names(NULL, path, n);
    if (ret != NULL) *ret = ref(n);
    unref(n);
    return 0;
}

static int op_mkdir(const char *path, mode_t mode)
{
    (void)mode;
    return look(path) != NULL ? -EEXIST : make(path, true, NULL);
}

static int op_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)mode;
    struct node *n;
    int rv = make(path, false, &n);
    if (rv == 0) fi->fh = (uintptr_t)n;
    return rv;
}

static int resize_node(struct node *n, size_t len)
{
    int rv = change();
    if (rv == 0) resize_live(n, len);
    return rv;
}

static int op_open(const char *path, struct fuse_file_info *fi)
{
    if (strcmp(path, power) == 0) {
        fi->direct_io = 1;
        return 0;
    }
    struct node *n = look(path);
    if (n == NULL) return -ENOENT;
    if (off) return -EIO;
    if ((fi->flags & O_TRUNC) != 0 && resize_node(n, 0) != 0) return -EIO;
    fi->fh = (uintptr_t)ref(n);
    return 0;
}

static int op_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    if (fi->fh != 0) unref(node_of(fi));
    return 0;
}

static int op_read(const char *path, char *to, size_t len, off_t at, struct fuse_file_info *fi)
{
    if (strcmp(path, power) == 0) {
        char text[64];
        int n = snprintf(text, sizeof text, "%s %llu\n", off ? "off" : "on", (unsigned long long)counted);
        if (at >= n) return 0;
        memcpy(to, text + at, (size_t)(n - at));
        return (int)(n - at);
    }
    struct node *n = node_of(fi);
    if (off) return -EIO;
    if ((size_t)at >= n->live.len) return 0;
    if (len > n->live.len - (size_t)at) len = n->live.len - (size_t)at;
    memcpy(to, n->live.data + at, len);
    return (int)len;
}

static int op_write(const char *path, const char *from, size_t len, off_t at, struct fuse_file_info *fi)
{
    if (strcmp(path, power) == 0) {
        char text[64] = "";
        memcpy(text, from, len < sizeof text - 1 ? len : sizeof text - 1);
        command(text);
        return (int)len;
    }
    struct node *n = node_of(fi);
    size_t end = (size_t)at + len;
    int rv = change();
    if (rv != 0 && (counted % 2 == 0 || n->live.len < end)) return rv;
    if (rv != 0) len = (random_next() % (len / SECTOR + 1)) * SECTOR; /* the write that was under way: some of it got there */
    if (end > n->live.len) resize_live(n, end);
    set_dirty(n, (size_t)at, (size_t)at + len);
    memcpy(n->live.data + at, from, len);
    if (rv == 0 && (fi->flags & (O_DSYNC | O_SYNC)) != 0) copy(n, &n->durable, &n->live);
    return rv != 0 ? rv : (int)len;
}

static int op_truncate(const char *path, off_t len, struct fuse_file_info *fi)
{
    if (strcmp(path, power) == 0) return 0;
    struct node *n = fi != NULL ? node_of(fi) : look(path);
    return n == NULL ? -ENOENT : resize_node(n, (size_t)len);
}

static int op_fallocate(const char *path, int mode, off_t at, off_t len, struct fuse_file_info *fi)
{
    (void)path;
    if (mode != 0) return -EOPNOTSUPP;
    struct node *n = node_of(fi);
    return resize_node(n, (size_t)(at + len) > n->live.len ? (size_t)(at + len) : n->live.len);
}

static int op_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)data_only;
    int rv = change();
    if (slow_ms > 0 && strstr(path, ".seg") != NULL) usleep(slow_ms * 1000);
    if (rv == 0 && fi->fh != 0) copy(node_of(fi), &node_of(fi)->durable, &node_of(fi)->live);
    return rv;
}

static int op_fsyncdir(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path, (void)data_only, (void)fi;
    int rv = change();
    if (rv == 0) settle_names(n_changes, false);
    return rv;
}

static int op_unlink(const char *path)
{
    if (look(path) == NULL) return -ENOENT;
    int rv = change();
    if (rv == 0) change_names(path, NULL, NULL);
    return rv;
}

static int op_rmdir(const char *path)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < live.n; i++)
        if (strncmp(live.list[i].path, path, len) == 0 && live.list[i].path[len] == '/') return -ENOTEMPTY;
    return op_unlink(path);
}

static int op_rename(const char *from, const char *to, unsigned flags)
{
    if (flags != 0) return -EINVAL;
    if (look(from) == NULL) return -ENOENT;
    int rv = change();
    if (rv == 0) change_names(from, to, NULL);
    return rv;
}

static int op_readdir(const char *path, void *to, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    (void)at, (void)fi, (void)flags;
    size_t len = strcmp(path, "/") == 0 ? 0 : strlen(path);
    fill(to, ".", NULL, 0, 0);
    fill(to, "..", NULL, 0, 0);
    for (size_t i = 0; i < live.n; i++) {
        const char *p = live.list[i].path;
        if (strncmp(p, path, len) == 0 && p[len] == '/' && p[len + 1] != '\0' && strchr(p + len + 1, '/') == NULL) fill(to, p + len + 1, NULL, 0, 0);
    }
    return 0;
}

static int op_nothing(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)path, (void)mode, (void)fi;
    return 0;
}

static int op_statfs(const char *path, struct statvfs *st)
{
    (void)path;
    *st = (struct statvfs){.f_bsize = 4096, .f_frsize = 4096, .f_blocks = 1 << 22, .f_bfree = 1 << 21, .f_bavail = 1 << 21, .f_namemax = 255};
    return 0;
}

static void *op_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    (void)conn;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    config->hard_remove = 1; /* an open file that was removed is ours to keep: no .fuse_hidden */
    config->nullpath_ok = 0;
    return NULL;
}

/* What libfuse has of a request when the filesystem is unmounted under it is its own. Called by LeakSanitizer. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfuse3";
}

int main(int argc, char **argv)
{
    static const struct fuse_operations ops = {
        .init = op_init, .getattr = op_getattr, .mkdir = op_mkdir, .create = op_create, .open = op_open, .release = op_release, .read = op_read,
        .write = op_write, .truncate = op_truncate, .fallocate = op_fallocate, .fsync = op_fsync, .fsyncdir = op_fsyncdir, .unlink = op_unlink,
        .rmdir = op_rmdir, .rename = op_rename, .readdir = op_readdir, .chmod = op_nothing, .statfs = op_statfs};
    if (argc != 2) {
        fprintf(stderr, "usage: forgetfs DIRECTORY\n");
        return 2;
    }
    struct node *top = must(calloc(1, sizeof *top));
    top->dir = true;
    top->refs = 1;
    put_name(&live, "/", top);
    put_name(&durable, "/", top);
    char *args[] = {argv[0], "-f", "-s", "-o", "fsname=forgetfs,default_permissions", argv[1], NULL};
    return fuse_main(6, args, &ops, NULL);
}
