/* CRC32C (Castagnoli, RFC 3720 appendix B.4), by isa-l. crc32c("123456789") is 0xe3069283.
 * To go on over a second run of bytes pass the first result as `crc`; start with 0. Thread: any. */
#ifndef CRSC_COMMON_CRC32C_H
#define CRSC_COMMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
