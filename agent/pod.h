/* What a container's config.json says about its pod: the words that the webhook wrote, and a digest of what a restored process keeps from its old
 * life. Both container runtimes' own annotations are understood.
 *
 * Pure: text in, struct out. Thread: any. */
#ifndef CRSC_AGENT_POD_H
#define CRSC_AGENT_POD_H

#include <stdbool.h>
#include <stddef.h>

#include "checkpoint/oci_image.h"
#include "common/error.h"
#include "common/redirect.h"

enum { POD_NAME_MAX = 254, POD_WORD_MAX = 512, POD_HASH_MAX = 129, POD_RESTORE_MAX = 65, POD_IMAGE_MAX = 1024 };

struct pod {
    char namespace[POD_NAME_MAX], name[POD_NAME_MAX], uid[POD_NAME_MAX];
    char container[POD_NAME_MAX]; /* this container's name; "" for the sandbox */
    bool is_protected;            /* it is the container that crsc.io/container names, in a pod with crsc.io/stream */
    char stream[POD_WORD_MAX];
    char upstream[POD_WORD_MAX], admin[POD_WORD_MAX]; /* host:port inside the pod */
    char template_hash[POD_HASH_MAX];
    char restore[POD_RESTORE_MAX]; /* "auto", "fresh" or a snapshot's id */
    char registry[POD_WORD_MAX];   /* host[:port]/prefix, "" for none */
    bool has_registry;             /* the pod says which, or that there is none */
    struct redirect redirect;      /* ports that lead to the interceptor and past it; n 0: its Services do that */
    bool by_kubelet;               /* crsc.io/backend: kubelet; else by runc and crsc-runtime */
    char checkpoint[POD_RESTORE_MAX];      /* by_kubelet: its image is that of this checkpoint; "": of the app */
    char checkpoint_image[POD_IMAGE_MAX];  /* by_kubelet: the container runtime says that it restored that; "": it does not */
    char user[OCI_USER_MAX];       /* uid:gid of its process */
    char spec[OCI_DIGEST_MAX];
};

/* -ERROR_INVALID: no configuration of a container, or words that are too long or missing where there is a stream. */
int pod_read(const char *config, size_t len, struct pod *ret_pod, struct error *e);

/* May it be a snapshot's id: 1 to 64 of a-z 0-9 . -, a letter or digit first. */
bool pod_snapshot_id_valid(const char *id);

#endif
