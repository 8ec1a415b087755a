#include "logd/server/run_check.h"

#include <string.h>

#include "common/frame.h"
#include "logd/streams/run_reader.h"

/* NULL: the disk does not give it. The caller has made room. */
static const uint8_t *gather(struct run_check *c, uint64_t at, uint32_t len)
{
    enum { PART = RAW_WINDOW / 2 };
    for (uint32_t done = 0, part; done < len; done += part) {
        part = len - done < PART ? len - done : PART;
        const uint8_t *bytes = raw_file_read(&c->file, at + done, part);
        if (bytes == NULL) return NULL;
        memcpy(c->frame.data + done, bytes, part);
    }
    return c->frame.data;
}

int run_check(struct run_check *c, const struct streams_run *run)
{
    struct frame f;
    uint64_t at = run->where.position;
    const uint8_t *frame = NULL;
    if (run->frame_len == 0 || run->frame_len > FRAME_HEADER + FRAME_HEAD_MAX + FRAME_BODY_MAX) return -ERROR_CORRUPT;
    if (run->frame_len <= RAW_WINDOW / 2) frame = raw_file_read(&c->file, at, run->frame_len);
    else if (buf_reserve(&c->frame, run->frame_len) != 0) return -ERROR_NOMEM;
    else frame = gather(c, at, run->frame_len);
    if (frame == NULL) return -ERROR_CORRUPT;
    if (frame_decode(frame, run->frame_len, &f, NULL) != (int64_t)run->frame_len) return -ERROR_CORRUPT;
    int rv = run_match(run, &f, NULL);
    return rv == -ERROR_CORRUPT ? -ERROR_NOT_FOUND : rv;
}

void run_check_fini(struct run_check *c)
{
    raw_file_fini(&c->file);
    buf_fini(&c->frame);
}
