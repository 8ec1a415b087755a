/* Where the images of checkpoints come from: this node's store, the registry that they were pushed to, other agents.
 *
 * An image is named by the digest in the log, so every whole copy is the same, and a damaged one says nothing about the others: a checkpoint is given up
 * only when each place that may have it was asked, and none has a good one. Blocking; thread: any. */
#ifndef CRSC_AGENT_IMAGES_H
#define CRSC_AGENT_IMAGES_H

#include "agent/agent.h"

/* "registry/prefix/stream:id", where a checkpoint of that pod is pushed; "" : nowhere. -ERROR_INVALID: too long. */
int images_reference(const struct agent *a, const struct pod *pod, const char *id, char ret_reference[AGENT_REFERENCE_MAX], struct error *e);

/* Puts the image of a snapshot into the store, from the agents in `from` (base URLs, NULL at the end; may be NULL) or else from where it was pushed, and
 * verifies what is small of it. There already is no failure. The image is held: store_release(). */
int images_fetch(struct agent *a, const char *stream, const struct ledger_snapshot *s, const char *const *from, struct store_image *ret_image, struct error *e);

/* Finds a good copy, here, in the registry, with the agents of --peers, and unpacks it into `path`, which is replaced. -ERROR_CORRUPT: some copy is
 * damaged, and nobody has another; -ERROR_UNAVAILABLE: one who may have it does not answer; -ERROR_NOT_FOUND: nobody has it; -ERROR_CONFLICT: it was dumped from a
 * container with other rights or mounts. */
int images_prepare(struct agent *a, const struct pod *pod, const struct ledger_snapshot *s, const char *path, struct error *e);

/* Removes from its registry what was pushed as that reference; found by its tag, which is all there is after a failure or in another life. Not there is no
 * failure. */
int images_unpush(struct agent *a, const char *reference, struct error *e);

#endif
