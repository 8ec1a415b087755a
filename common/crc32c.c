#include "common/crc32c.h"

#include <isa-l.h>

/* isa-l takes and gives the raw register; the standard inverts it before and after. It takes an int length and a
 * pointer to non-const, though it only reads. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    enum { STEP = 1 << 30 };
    const uint8_t *p = data;
    crc = ~crc;
    while (len > 0) {
        int part = len > STEP ? STEP : (int)len;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, part, crc);
        p += part;
        len -= (size_t)part;
    }
    return ~crc;
}
