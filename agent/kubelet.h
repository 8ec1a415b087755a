/* The kubelet of this node: its checkpoint API (POST /checkpoint/NAMESPACE/POD/CONTAINER, ContainerCheckpoint), for containers that crsc-runtime did not
 * start. What it answers is understood by pure functions, which tests feed; the calls block. Thread: any.
 *
 * An archive is a file of the host, root's, in the kubelet's own folder: it is opened and removed in the host's mount namespace, and only where it is what the kubelet
 * says it is: a regular file in a folder called checkpoints, called as the kubelet calls an archive of that container. */
#ifndef CRSC_AGENT_KUBELET_H
#define CRSC_AGENT_KUBELET_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { KUBELET_URL_MAX = 1400, KUBELET_PREFIX_MAX = 800 };

struct kubelet {
    const char *url;             /* https://address:10250; "": there is none to be asked */
    const char *ca;              /* PEM file of who certified it */
    bool insecure;               /* without it: whoever answers there is believed */
    const char *token;           /* file with a service account's token; "": none */
    const char *cert, *key;      /* PEM files of our certificate, instead; "": none */
    const char *mount_namespace; /* the host's; "": ours is the host's */
    const char *archives;        /* the folder of its checkpoints there */
};

/* Pure: the URL of a checkpoint, and what the answer to it says: 0 with the archive's path; else a sentence on what to do about it. */
int kubelet_target(const char *url, const char *namespace, const char *pod, const char *container, uint64_t timeout_ms, char ret_url[KUBELET_URL_MAX], struct error *e);
int kubelet_answer(int code, const char *body, size_t len, const char *prefix, char ret_path[PATH_MAX], struct error *e);

/* Pure: what the names of a container's archives begin with, and whether one is of those. */
void kubelet_prefix(const char *namespace, const char *pod, const char *container, char ret_prefix[KUBELET_PREFIX_MAX]);
bool kubelet_is_archive(const char *name, const char *prefix);

/* 0: it would take checkpoints, and from us. Nothing is begun. */
int kubelet_reach(const struct kubelet *k, struct error *e);

/* Has the container runtime dump that container, which goes on. After a failure that is not KUBELET_REFUSED nobody knows how far it came: the container may stand
 * still, what the container runtime wrote may lie in the kubelet's folder, and after KUBELET_SILENT it may still be at work. */
enum kubelet_end { KUBELET_REFUSED /* nothing was begun */, KUBELET_ANSWERED, KUBELET_SILENT };

int kubelet_checkpoint(const struct kubelet *k, const char *namespace, const char *pod, const char *container, uint64_t timeout_ms, char ret_path[PATH_MAX],
                       enum kubelet_end *ret_end, struct error *e);

/* The archive, for reading. */
int kubelet_open(const struct kubelet *k, const char *path, int *ret_fd, struct error *e);
int kubelet_remove(const struct kubelet *k, const char *path, struct error *e);

/* Removes what a container's checkpoints left in its folder since then (CLOCK_REALTIME). */
int kubelet_sweep(const struct kubelet *k, const char *prefix, uint64_t since_us, unsigned *ret_n, struct error *e);

#endif
