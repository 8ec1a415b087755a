/* A container's config.json, as the agent reads it: what was taken is within its bounds, has a digest, and is the same when it is read again. */
#include <string.h>

#include "agent/pod.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct pod pod, again;
    struct error e = {0};
    memset(&pod, 0, sizeof pod);
    memset(&again, 0, sizeof again);
    if (pod_read((const char *)data, size, &pod, &e) != 0) {
        FUZZ_CHECK(e.text[0] != '\0');
        return 0;
    }
    FUZZ_CHECK(!pod.is_protected || (pod.stream[0] != '\0' && pod.container[0] != '\0'));
    FUZZ_CHECK(!pod.is_protected || strncmp(pod.spec, "sha256:", 7) == 0);
    FUZZ_CHECK(!pod.is_protected || pod_snapshot_id_valid(pod.restore)); /* "auto" and "fresh" look like ids */
    FUZZ_CHECK(pod_read((const char *)data, size, &again, &e) == 0 && memcmp(&pod, &again, sizeof pod) == 0);
    return 0;
}
