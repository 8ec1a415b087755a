#include "common/crc32c.h"

#include <isa-l.h>
#include <stdbool.h>
#include <string.h>

#ifdef __x86_64__
enum { SHORT = 256 };

/* Most of what we sum up is a frame's or record's header: for so little isa-l's wide registers take longer to set up than the
 * processor's own instruction needs for all of it. */
__attribute__((target("sse4.2"))) static uint32_t few(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t sum = crc, word;
    for (; len >= sizeof word; p += sizeof word, len -= sizeof word) {
        memcpy(&word, p, sizeof word);
        sum = __builtin_ia32_crc32di(sum, word);
    }
    for (; len > 0; p++, len--) sum = __builtin_ia32_crc32qi((uint32_t)sum, *p);
    return (uint32_t)sum;
}

static bool is_short(size_t len)
{
    return len <= SHORT && __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t few(uint32_t crc, const uint8_t *p, size_t len)
{
    return crc32_iscsi((unsigned char *)(uintptr_t)p, (int)len, crc);
}

static bool is_short(size_t len)
{
    return len == 0;
}
#endif

/* isa-l takes and gives the raw register; the standard inverts it before and after. It takes an int length and a
 * pointer to non-const, though it only reads. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    enum { STEP = 1 << 30 };
    const uint8_t *p = data;
    crc = ~crc;
    if (is_short(len)) return ~few(crc, p, len);
    while (len > 0) {
        int part = len > STEP ? STEP : (int)len;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, part, crc);
        p += part;
        len -= (size_t)part;
    }
    return ~crc;
}
