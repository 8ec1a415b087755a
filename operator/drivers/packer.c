#include "operator/drivers/packer.h"

#include <stdio.h>
#include <string.h>

#include "common/loop.h"

static int begin(struct packer *p, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    if (p->task.active) return error_set(e, ERROR_BUSY, "another image is being worked on");
    if (!shelf_id_valid(snapshot)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no name of a snapshot", snapshot);
    snprintf(p->snapshot, sizeof p->snapshot, "%s", snapshot);
    shelf_dump_path(p->shelf, snapshot, p->dump);
    shelf_image_path(p->shelf, snapshot, p->image);
    p->cb = cb;
    p->cb_user = user;
    p->begun_us = loop_monotonic_us();
    return 0;
}

static void end(struct packer *p, struct driver_outcome *out, int status, const struct error *e)
{
    out->status = status;
    if (status != 0) out->error = *e;
    out->detail = "";
    out->elapsed_us = loop_monotonic_us() - p->begun_us;
    p->cb(p->cb_user, out);
    p->on_idle(p->user);
}

static int run_pack(void *owner, struct error *e)
{
    struct packer *p = owner;
    return shelf_pack(p->dump, p->image, &p->labels, &p->packed, &p->dump_left, e);
}

static void on_packed(void *owner, int status, const struct error *e)
{
    struct packer *p = owner;
    struct driver_outcome out = {.image = p->image, .size = p->packed.size};
    if (status == 0) {
        snprintf(out.digest, sizeof out.digest, "%s", p->packed.digest);
        shelf_packed(p->shelf, p->snapshot);
        if (!p->dump_left) shelf_dump_gone(p->shelf, p->snapshot);
    }
    end(p, &out, status, e);
}

int packer_pack(struct packer *p, const char *container, const char *stream, const char *snapshot, uint64_t offset, driver_cb *cb,
                void *user, struct error *e)
{
    int rc = begin(p, snapshot, cb, user, e);
    if (rc != 0) return rc;
    const char *spec = shelf_dump_spec(p->shelf, snapshot);
    if (spec == NULL && !shelf_has_image(p->shelf, snapshot))
        return error_set(e, ERROR_NOT_FOUND, "there is no complete dump of %s", snapshot);
    p->labels = (struct oci_image_labels){.offset = offset};
    p->packed = (struct oci_image){0};
    snprintf(p->labels.container, sizeof p->labels.container, "%s", container);
    snprintf(p->labels.stream, sizeof p->labels.stream, "%s", stream);
    snprintf(p->labels.spec, sizeof p->labels.spec, "%s", spec != NULL ? spec : "");
    task_start(p->loop, &p->task, p, run_pack, on_packed);
    return 0;
}

static int run_discard(void *owner, struct error *e)
{
    struct packer *p = owner;
    return shelf_remove(p->dump, p->image, e);
}

static void on_discarded(void *owner, int status, const struct error *e)
{
    struct packer *p = owner;
    struct driver_outcome out = {0};
    if (status == 0) shelf_discarded(p->shelf, p->snapshot);
    end(p, &out, status, e);
}

int packer_discard(struct packer *p, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    int rc = begin(p, snapshot, cb, user, e);
    if (rc == 0) task_start(p->loop, &p->task, p, run_discard, on_discarded);
    return rc;
}
