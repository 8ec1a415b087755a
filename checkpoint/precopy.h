/* Pre-copy: most of a container's memory is dumped while it runs, in rounds, so that the dump, for which it stands still, has only what was written since.
 *
 *   IMAGE_DIR/pre-1/           the first round: all memory
 *   IMAGE_DIR/pre-2/parent     -> ../pre-1; what was written since
 *   IMAGE_DIR/parent           -> pre-2; runc_checkpoint() with parent "pre-2" makes it
 *
 * The links are CRIU's, which finds by them what an image leaves out. oci_image.h carries exactly these folders and links, and no others.
 *
 * Another round is worth while as long as each has much less to write than the one before (precopy_another()). A round that fails has perhaps forgotten
 * what was written since the one before, so that nothing of the chain can be built upon: then all of it is removed, and the dump is a plain one; so it is when the
 * rounds turn out not to pay (precopy_pays()). Pre-copy never makes a checkpoint fail which would succeed without it. CRIU's --auto-dedup is not used: it would punch holes into the rounds while the container stands
 * still for the dump, and the holes would be zeros in the image.
 *
 * Where the kernel does not track written pages (runc_tracks()) there are no rounds. Thread: the loop's, where nothing else is said. */
#ifndef CRSC_CHECKPOINT_PRECOPY_H
#define CRSC_CHECKPOINT_PRECOPY_H

#include "checkpoint/runc.h"

enum {
    PRECOPY_ROUNDS_MAX = 8,      /* that can be asked for; their folders are pre-1 to pre-8 */
    PRECOPY_ROUNDS = 2,          /* that are made when nobody says otherwise */
    PRECOPY_WORTH = 32 << 20,    /* bytes of memory: less is dumped in about the time for which a round lets the container stand still */
    PRECOPY_ENOUGH = 4 << 20,    /* bytes of a round: the dump has hardly more */
    PRECOPY_REST = 15,           /* so many dumps after rounds that failed or were futile are plain; after a dump upon rounds that failed, one is */
    PRECOPY_PARENT_MAX = 16,     /* bytes of "pre-N", with the terminating zero */
};

/* Is there room for the rounds? With them a dump is up to three times as large as without, and so is the image that is made of it: on a disk that has `room` bytes
 * left, a plain dump of `resident` bytes of memory must not fail for them. Pure. Thread: any. */
bool precopy_fits(uint64_t resident, uint64_t room);

/* Shall there be another round? `most` of them may be; `resident` bytes of memory the container had; `n` rounds wrote `bytes` each. Pure. Thread: any. */
bool precopy_another(unsigned most, uint64_t resident, const uint64_t *bytes, unsigned n);

/* Bytes of memory that a process and its descendants have and that a dump would contain: what is not of files. Zeros: it has ended. Thread: any.
 *
 * CRIU tracks what each has for itself alone; shared memory it writes whole in each round, while all stand still. So with PRECOPY_WORTH of that there are no rounds. */
struct precopy_memory {
    uint64_t own, shared;
};
struct precopy_memory precopy_resident(int32_t pid);

/* Is a symbolic link of that name, relative to the dump's folder, with that target one of those above? Each round's leads to an earlier one: whoever follows
 * them comes to an end. Pure. Thread: any. */
bool precopy_is_link(const char *name, const char *target);

/* Is a dump better off with these rounds? When as much is written as is copied, it would have most of the memory once more, for a slightly shorter pause. Pure.
 * Thread: any. */
bool precopy_pays(const uint64_t *bytes, unsigned n);

struct precopy_result {
    unsigned rounds;                    /* that the dump can build upon */
    uint64_t bytes[PRECOPY_ROUNDS_MAX]; /* of pages, of each */
    bool futile;                        /* there were some, and they did not pay: they are removed. So will the next ones be: PRECOPY_REST */
    bool cramped;                       /* there would be some if the disk had more room */
    char parent[PRECOPY_PARENT_MAX];    /* "pre-N", for runc_checkpoint(); "" : none */
    int status;                         /* of a round that failed, or of what removes it; 0: none did */
    struct error error;
    const char *detail;                 /* more lines for a log; until the callback returns */
    bool ended;                         /* the container's first process did, meanwhile: no wonder that a round failed. What there is of
                                           them is left, to be removed with the dump that will not be */
    bool harmed;                        /* CRIU was cut in the midst of that round: treat the container as after a dump that was */
    uint64_t elapsed_us;
};

/* Were there rounds for nothing, so that the next PRECOPY_REST dumps should do without? Pure. Thread: any. */
bool precopy_in_vain(const struct precopy_result *r);

typedef void precopy_cb(void *user, const struct precopy_result *result);

struct precopy;

/* Makes the rounds, at most `most`; 0, or no tracking: none, which is no failure. Calls back once, later, from the loop. `image_dir` as for runc_checkpoint(),
 * and not there. It is one command of the container after the other: nobody else may work on it meanwhile. When the container's first process ends, so does a
 * round that is under way. */
int precopy_start(uv_loop_t *loop, struct runc *r, const char *id, const char *image_dir, unsigned most, precopy_cb *cb, void *user,
                  struct precopy **ret_precopy, struct error *e);

/* No round is begun any more. The callback comes when the present one has ended, and has those that were made. */
void precopy_stop(struct precopy *p);

#endif
