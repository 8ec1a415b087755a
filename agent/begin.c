#include "agent/begin.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "agent/choose.h"
#include "agent/images.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

enum { CONFIG_MAX = 4 << 20, READ_MS = 2000, SIGN_MS = 500, ANSWER_MAX = 4096 };

/* A question and the answer to it: worked out by one thread while another says that it is being worked on. */
struct question {
    struct agent *agent;
    int fd;
    char id[AGENT_CONTAINER_MAX];
    struct pod pod;
    bool told; /* the log answered: what it has is known */
    char answer[ANSWER_MAX];
};

/* ---- the decision ------------------------------------------------------------------------------------------------ */

/* What this node knows by itself, when the log does not answer. */
static int read_store(struct agent *a, const struct pod *pod, struct ledger_snapshot **ret_all, size_t *ret_n)
{
    size_t n = 0;
    struct store_image *images = store_list(a->store, &n);
    struct ledger_snapshot *all = calloc(n + 1, sizeof *all);
    *ret_n = 0;
    for (size_t i = 0; i < n && all != NULL; i++) {
        if (strcmp(images[i].image.labels.stream, pod->stream) != 0 || strcmp(images[i].image.labels.spec, pod->spec) != 0) continue;
        struct ledger_snapshot *s = &all[(*ret_n)++];
        s->offset = images[i].image.labels.offset;
        s->size = images[i].image.size;
        s->state = CRSC_VALID;
        memcpy(s->id, images[i].id, sizeof images[i].id);
        snprintf(s->digest, sizeof s->digest, "%s", images[i].image.digest);
        memcpy(s->template_hash, pod->template_hash, sizeof s->template_hash); /* the specification is the same: that says it */
        char reference[AGENT_REFERENCE_MAX];
        if (images_reference(a, pod, s->id, reference, NULL) == 0 && strlen(reference) < sizeof s->image) strcpy(s->image, reference);
    }
    free(images);
    *ret_all = all;
    return all != NULL ? 0 : -ERROR_NOMEM;
}

static void record_failed(struct agent *a, const struct pod *pod, const struct ledger_snapshot *s, const struct error *why)
{
    struct crsc_snapshot record = {.stream = pod->stream, .id = s->id, .offset = s->offset, .state = CRSC_FAILED, .image = s->image, .sha256 = s->digest,
        .node = s->node, .template_hash = s->template_hash, .size = s->size, .reason = why->text, .finished_us = loop_wall_us()};
    struct error e;
    log_error("a checkpoint is damaged and given up", "stream=%s checkpoint=%s reason=%s", pod->stream, s->id, why->text);
    if (ledger_record(&a->ledger, &record, &e) != 0) log_warn("the log could not be told", "reason=%s", e.text);
}

static void decide(struct question *q, struct ledger_snapshot *all, size_t n, uint64_t first, uint64_t last)
{
    struct agent *a = q->agent;
    struct wish w = {.restore = q->pod.restore, .template_hash = q->pod.template_hash, .first_offset = first, .last_offset = last,
        .replay_us = a->settings.replay_cost_us, .restore_us = a->settings.restore_cost * 1000};
    struct candidate *candidates = calloc(n + 1, sizeof *candidates);
    char reason[CHOOSE_REASON_MAX] = "no memory", parent[PATH_MAX], path[PATH_MAX];
    size_t valid = 0;
    snprintf(parent, sizeof parent, "%.2000s/restore/%.200s", a->settings.store, q->id);
    snprintf(path, sizeof path, "%.3000s/checkpoint", parent);
    for (size_t i = 0; i < n; i++)
        if (all[i].state == CRSC_VALID) all[valid++] = all[i];
    for (size_t i = 0; i < valid && candidates != NULL; i++) {
        struct store_image held;
        bool here = store_hold(a->store, q->pod.stream, all[i].id, &held);
        if (here) store_release(a->store, &held);
        candidates[i] = (struct candidate){.id = all[i].id, .template_hash = all[i].template_hash, .offset = all[i].offset, .size = all[i].size,
            .recorded_us = all[i].recorded_us, .here = here, .failures = agent_failures(a, q->pod.stream, all[i].id)};
    }
    int at = -1;
    while (candidates != NULL && (at = choose(candidates, valid, &w, reason)) >= 0) {
        struct error e = {0};
        if (tree_make(parent, &e) == 0 && images_prepare(a, &q->pod, &all[at], path, &e) == 0) break;
        log_warn("a checkpoint cannot be used", "stream=%s checkpoint=%s reason=%s", q->pod.stream, all[at].id, e.text);
        if (e.code == ERROR_CORRUPT && q->told) record_failed(a, &q->pod, &all[at], &e);
        candidates[at].unusable = true;
    }
    free(candidates);
    if (at < 0) tree_remove(parent, NULL);
    if (at >= 0) snprintf(q->answer, sizeof q->answer, "restore %" PRIu64 " %s %.3000s\n", all[at].offset, all[at].id, path);
    else snprintf(q->answer, sizeof q->answer, "fresh %s\n", reason);
}

static void *work_out(void *user)
{
    struct question *q = user;
    struct agent *a = q->agent;
    struct ledger_snapshot *all = NULL;
    size_t n = 0;
    uint64_t first = 2, last = 0; /* unknown: not a reason for a fresh start */
    struct error e;
    q->told = ledger_read(&a->ledger, q->pod.stream, &all, &n, &first, &last, &e) == 0;
    if (!q->told) {
        log_warn("the log does not answer; what is on this node is taken", "stream=%s reason=%s", q->pod.stream, e.text);
        first = 2;
        if (read_store(a, &q->pod, &all, &n) != 0) n = 0;
    }
    decide(q, all, n, first, last);
    free(all);
    log_info("answered the runtime", "pod=%s/%s container=%s answer=%s", q->pod.namespace, q->pod.name, q->id, q->answer);
    return NULL;
}

/* ---- the socket -------------------------------------------------------------------------------------------------- */

static bool receive(int fd, char *to, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, READ_MS) <= 0) return false;
        ssize_t n = recv(fd, to + done, len - done, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static bool read_head(struct question *q, size_t *ret_len)
{
    char line[256], tail;
    for (size_t n = 0; n < sizeof line; n++) {
        if (!receive(q->fd, line + n, 1)) return false;
        if (line[n] != '\n') continue;
        line[n] = '\0';
        return sscanf(line, "create %127[0-9a-zA-Z_.+-] %zu%c", q->id, ret_len, &tail) == 2 && q->id[0] != '.' && *ret_len <= CONFIG_MAX;
    }
    return false;
}

static bool say(int fd, const char *line)
{
    return send(fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line);
}

static void wait_for(struct question *q)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work_out, q) != 0) {
        say(q->fd, "fresh the agent has no thread for it\n");
        return;
    }
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += SIGN_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (pthread_timedjoin_np(thread, NULL, &until) == 0) break;
        say(q->fd, "wait the checkpoint is being looked for and verified\n");
    }
    say(q->fd, q->answer);
}

static void *answer(void *user)
{
    struct question *q = user;
    struct error e;
    size_t len = 0;
    char *config = read_head(q, &len) ? malloc(len + 1) : NULL;
    if (config == NULL || !receive(q->fd, config, len)) {
        say(q->fd, "fresh the question is not understood\n");
    } else if (pod_read(config, len, &q->pod, &e) != 0) {
        log_error("a pod's words are wrong: it is not protected", "container=%s reason=%s", q->id, e.text);
        say(q->fd, "plain\n");
    } else if (!q->pod.is_protected || q->pod.by_kubelet) {
        say(q->fd, "plain\n");
    } else {
        wait_for(q);
    }
    free(config);
    close(q->fd);
    free(q);
    return NULL;
}

struct door {
    struct agent *agent;
    int fd;
};

static void *listen_for(void *user)
{
    struct door *door = user;
    for (;;) {
        struct error e;
        int fd = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && errno != EINTR && errno != ECONNABORTED) poll(NULL, 0, 50); /* no descriptors left: others will end */
        if (fd < 0) continue;
        struct question *q = calloc(1, sizeof *q);
        if (q != NULL) {
            q->agent = door->agent;
            q->fd = fd;
        }
        if (q == NULL || agent_thread(answer, q, &e) != 0) {
            free(q);
            close(fd);
        }
    }
    return NULL;
}

int begin_start(struct agent *a, struct error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct door *door = malloc(sizeof *door);
    if (door == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/agent.sock", a->settings.run) >= (int)sizeof address.sun_path) {
        free(door);
        return error_set(e, ERROR_INVALID, "run: the path is too long for a socket");
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) rc = error_set(e, ERROR_IO, "another agent listens at %s", address.sun_path);
    if (fd >= 0) close(fd);
    if (rc == 0) {
        unlink(address.sun_path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        mode_t mask = umask(0177);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 64) != 0)
            rc = error_errno(e, ERROR_IO, errno, "%s cannot be made", address.sun_path);
        umask(mask);
    }
    if (rc == 0) {
        *door = (struct door){a, fd};
        rc = agent_thread(listen_for, door, e);
    }
    if (rc != 0) free(door);
    return rc;
}
