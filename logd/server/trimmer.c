#include "logd/server/trimmer.h"

#include "common/loop.h"
#include "logd/server/batcher.h"
#include "logd/server/due.h"
#include "logd/server/node.h"
#include "logd/server/reads.h"
#include "logd/server/rpc_codec.h"

enum { LOOKED_AT_ONCE = 8192, WITH_POLICY_AT_ONCE = 256 };

static int propose(struct node *node, const struct streams_info *info, uint64_t offset, struct error *e)
{
    struct buf head = BUF_INIT, bytes = BUF_INIT;
    struct frame f;
    int rv = rpc_encode_retain(info->name, offset, &info->policy, &head);
    if (rv == 0) rv = frame_encode(&bytes, &(struct frame){.type = FRAME_RETAIN, .head = head.data, .head_len = head.len});
    if (rv == 0 && frame_decode(bytes.data, bytes.len, &f, NULL) <= 0) rv = -ERROR_INTERNAL;
    if (rv != 0) error_set(e, (enum error_code)-rv, "the trim cannot be encoded");
    else rv = batcher_add(node->batcher, &f, NULL, loop_monotonic_us(), loop_wall_us(), e);
    buf_fini(&head);
    buf_fini(&bytes);
    return rv;
}

static int find_run(void *user, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    const struct node *node = user;
    return reads_find(node->reads, stream_id, offset, ret_run, e);
}

static void look_at(struct trimmer *t, struct node *node, const struct streams_info *info)
{
    uint64_t bound, offset = 0;
    struct error e;
    if (!streams_policy_bound(node->streams, info->id, &bound) || bound < info->first_offset) return;
    int rv = due_offset(info, bound, loop_wall_us(), find_run, node, &offset, &e);
    if (rv == 0 && offset == 0) return;
    if (rv == 0) rv = propose(node, info, offset, &e);
    if (rv == 0) t->proposed++;
    else log_warn("a stream could not be trimmed by its retention policy; it is tried again", "stream=%s reason=%s", info->name, e.text);
}

bool trimmer_tick(struct trimmer *t, struct node *node)
{
    uint64_t now = node_now_ms(), count = streams_count(node->streams);
    if (consensus_role(node->consensus) != CONSENSUS_LEADER || node->stopping) {
        t->next_id = t->next_round_ms = 0;
        return false;
    }
    if (t->next_id == 0) {
        if (now < t->next_round_ms) return false;
        t->next_round_ms = now + node->settings->retention_interval_ms;
        t->next_id = 1;
    }
    for (unsigned looked = 0, with_policy = 0; looked < LOOKED_AT_ONCE && with_policy < WITH_POLICY_AT_ONCE && t->next_id <= count; looked++) {
        struct streams_info info;
        const struct streams_policy *p = streams_policy(node->streams, t->next_id);
        if (p != NULL && streams_info(node->streams, t->next_id, &info) == 0) {
            look_at(t, node, &info);
            with_policy++;
        }
        t->next_id++;
    }
    if (t->next_id > count) t->next_id = 0;
    return t->next_id != 0;
}
