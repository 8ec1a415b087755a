/* The store's lane of the local driver: makes images of dumps and removes what is not needed, on a worker thread, one call at a
 * time. It works on a shelf (shelf.h) that it borrows. Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_PACKER_H
#define CRSC_OPERATOR_DRIVERS_PACKER_H

#include "operator/driver.h"
#include "operator/drivers/shelf.h"
#include "operator/drivers/task.h"

struct packer {
    uv_loop_t *loop;
    struct shelf *shelf;
    void (*on_idle)(void *user); /* after each call's callback */
    void *user;

    struct task task;
    driver_cb *cb;
    void *cb_user;
    uint64_t begun_us;
    char snapshot[SHELF_ID_MAX];
    char dump[PATH_MAX], image[PATH_MAX];
    struct oci_image_labels labels;
    struct oci_image packed;
    bool dump_left;
};

/* As in driver.h; `container` and `stream` go into the image's labels. */
int packer_pack(struct packer *p, const char *container, const char *stream, const char *snapshot, uint64_t offset, driver_cb *cb,
                void *user, struct error *e);
int packer_discard(struct packer *p, const char *snapshot, driver_cb *cb, void *user, struct error *e);

#endif
