#include "interceptor/replay/digests.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum side { SIDE_NONE, SIDE_RECORDED, SIDE_SEEN };

struct digests {
    struct slot {
        uint64_t offset;
        enum side side;
        struct answer_digest answer;
    } slots[DIGESTS_SLOTS];
};

size_t digest_print(const struct answer_digest *d, char text[static DIGEST_TEXT_MAX])
{
    static const char digits[] = "0123456789abcdef";
    static const char begin[] = "{\"status\":", middle[] = ",\"sha256\":\"";
    char *at = text;
    memcpy(at, begin, sizeof begin - 1);
    at += sizeof begin - 1;
    int status = d->status > 99 && d->status < 1000 ? d->status : 999; /* it has three digits (RFC 9110, 15) */
    for (int unit = 100; unit > 0; unit /= 10) *at++ = digits[status / unit % 10];
    memcpy(at, middle, sizeof middle - 1);
    at += sizeof middle - 1;
    for (int i = 0; i < DIGEST_SIZE; i++) { /* for each request: printf was an eighth of our time */
        *at++ = digits[d->sha256[i] >> 4];
        *at++ = digits[d->sha256[i] & 15];
    }
    memcpy(at, "\"}", sizeof "\"}");
    return (size_t)(at - text) + 2;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int digest_parse(const void *data, size_t len, struct answer_digest *ret)
{
    char text[DIGEST_TEXT_MAX];
    struct answer_digest d;
    int at = 0;
    const char *line = len > 0 ? memchr(data, '\n', len) : NULL; /* the answer itself follows, sometimes */
    if (line != NULL) len = (size_t)(line - (const char *)data);
    if (len >= sizeof text) return -ERROR_CORRUPT;
    if (len > 0) memcpy(text, data, len);
    text[len] = '\0';
    if (sscanf(text, "{\"status\":%3d,\"sha256\":\"%n", &d.status, &at) != 1 || at == 0) return -ERROR_CORRUPT;
    if (len != (size_t)at + 2 * DIGEST_SIZE + 2 || strcmp(text + len - 2, "\"}") != 0) return -ERROR_CORRUPT;
    for (int i = 0; i < DIGEST_SIZE; i++) {
        int high = hex(text[at + 2 * i]), low = hex(text[at + 2 * i + 1]);
        if (high < 0 || low < 0) return -ERROR_CORRUPT;
        d.sha256[i] = (uint8_t)(high << 4 | low);
    }
    *ret = d;
    return 0;
}

struct digests *digests_new(void)
{
    return calloc(1, sizeof(struct digests)); /* untouched pages take no memory */
}

struct digests *digests_free(struct digests *d)
{
    free(d);
    return NULL;
}

void digests_clear(struct digests *d)
{
    for (size_t i = 0; i < DIGESTS_SLOTS; i++)
        if (d->slots[i].side != SIDE_NONE) d->slots[i].side = SIDE_NONE;
}

static enum digests_verdict meet(struct digests *d, enum side side, uint64_t offset, const struct answer_digest *a)
{
    struct slot *slot = &d->slots[offset % DIGESTS_SLOTS];
    if (slot->side == SIDE_NONE || slot->offset != offset || slot->side == side) {
        *slot = (struct slot){offset, side, *a};
        return DIGESTS_PENDING;
    }
    slot->side = SIDE_NONE;
    bool same = slot->answer.status == a->status && memcmp(slot->answer.sha256, a->sha256, DIGEST_SIZE) == 0;
    return same ? DIGESTS_SAME : DIGESTS_DIFFERENT;
}

enum digests_verdict digests_recorded(struct digests *d, uint64_t offset, const struct answer_digest *a)
{
    return meet(d, SIDE_RECORDED, offset, a);
}

enum digests_verdict digests_seen(struct digests *d, uint64_t offset, const struct answer_digest *a)
{
    return meet(d, SIDE_SEEN, offset, a);
}
