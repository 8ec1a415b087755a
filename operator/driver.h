/* What the operator needs done to one workload's containers and images, whoever does it: the local driver (runc and CRIU on
 * this machine, drivers/local.h); later Kubernetes. The reconcile core decides, a driver obeys and observes.
 *
 * A driver keeps, beside each container, a durable record of its origin {generation, offset, snapshot, spec, attached}, written
 * and synced *before* the container is started: so that after any crash the state of what runs is known or known to be
 * unknown. Containers outlive the driver.
 *
 * Calls come in two lanes that run at the same time, with one call at a time in each (a second gets -ERROR_BUSY):
 *   app:   look, start, restore, adopt, kill, mark, precopy, dump
 *   store: pack, discard
 * Each call returns 0 and calls back once from the loop, never from inside the call; or it returns an error, did nothing,
 * and will not call back. A failure that is called back may have been half done; what there is, `instance` and `has` show.
 *
 * Thread: the loop's. Strings are copied. */
#ifndef CRSC_OPERATOR_DRIVER_H
#define CRSC_OPERATOR_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "operator/reconcile/world.h"

enum { DRIVER_DIGEST_MAX = 72 }; /* bytes of "sha256:" and 64 hex digits, with the terminating zero */

struct driver_outcome {
    int status;         /* 0 or the negated error code; restore: -ERROR_CORRUPT (or -ERROR_NOT_FOUND) when the snapshot itself
                           is to blame and trying it again is useless */
    struct error error; /* when status is not 0 */
    const char *detail; /* more lines for a log, "" for none; borrowed until the callback returns */
    bool lost;          /* dump, precopy: it was cut short and the instance may be harmed */
    bool tried;         /* restore: CRIU itself tried the image and failed; else it says nothing about the snapshot */
    uint64_t elapsed_us;
    char digest[DRIVER_DIGEST_MAX]; /* pack: the image's name */
    uint64_t size;                  /* pack: bytes of the image */
    unsigned rounds;                /* precopy: so many were made that the dump can build upon ... */
    uint64_t round_bytes;           /* ... with so much memory in all of them */
    const char *image;              /* pack: where it is; borrowed until the callback returns */
};

typedef void driver_cb(void *user, const struct driver_outcome *outcome);

struct driver {
    const struct driver_ops *ops;
    const char *spec; /* digest of the present specification: a snapshot fits when it was recorded with the same */
    bool precopies;   /* it can copy memory ahead of a dump, and was asked to */
};

/* Each gets the driver first. `generation` is that of the instance which is meant: if it is not the newest, -ERROR_CONFLICT. */
struct driver_ops {
    /* Finds the newest container, whether it runs, and its record. Called once before anything else, and after failures. */
    int (*look)(struct driver *d, driver_cb *cb, void *user, struct error *e);
    /* What is known of it now, kept up to date: when its process ends, `on_change` of the driver's maker is called at once.
     * Valid until the loop goes on. state is WORLD_APP_UNKNOWN before the first look. */
    const struct world_instance *(*instance)(const struct driver *d);

    /* Removes every container of the workload, then starts a new one from its specification, record: offset 0. */
    int (*start)(struct driver *d, driver_cb *cb, void *user, struct error *e);
    /* The same from a snapshot, whose every byte is verified against `digest` first, record: `offset`. `from`: the driver that has the image,
     * this one or another replica's, which must keep it until the call has ended. */
    int (*restore)(struct driver *d, const struct driver *from, const char *snapshot, const char *digest, uint64_t offset, driver_cb *cb, void *user,
                   struct error *e);
    /* Writes a record with offset 0 for a running container that has none. */
    int (*adopt)(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e);
    /* Kills and removes the container and its record. It may have ended or vanished by itself. */
    int (*kill)(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e);
    /* Notes durably that the interceptor is (or is not) told of it. */
    int (*mark)(struct driver *d, uint64_t generation, bool attached, driver_cb *cb, void *user, struct error *e);
    /* Copies the memory of the running container ahead of its dump for `snapshot`, while it serves. Only where `precopies`. After a failure the dump is as
     * it would be without. What was copied is a part of the dump: discard it when there is none. When the container ends meanwhile, so does this. */
    int (*precopy)(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e);
    /* Dumps the running container for `snapshot`, and lets it run on. */
    int (*dump)(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e);

    /* Makes the image of a dump, labelled with `offset`, durable, and removes the dump. An image that is there already (the
     * caller did not hear of its success) is taken as the result. */
    int (*pack)(struct driver *d, const char *snapshot, uint64_t offset, driver_cb *cb, void *user, struct error *e);
    /* Removes dump and image. */
    int (*discard)(struct driver *d, const char *snapshot, driver_cb *cb, void *user, struct error *e);
    /* Is there a dump or an image of it? From memory: no I/O. */
    bool (*has)(const struct driver *d, const char *snapshot);

    /* Ends when running calls have called back; the containers go on, or with `stop` are killed and removed. Then `done`. */
    void (*close)(struct driver *d, bool stop, void (*done)(void *user), void *user);
};

#endif
