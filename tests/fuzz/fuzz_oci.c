/* The JSON of an OCI image, and what runc says. A manifest that was taken can be written and read again. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/oci_json.h"
#include "checkpoint/runc_report.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), digest[OCI_DIGEST_MAX];
    struct oci_manifest m, again;
    struct oci_blob layer = {.digest = "sha256:0", .size = 1};
    enum runc_status status;
    struct error e;
    int pid;
    FUZZ_CHECK(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (oci_read_manifest(text, size, &m, &e) == 0) {
        size_t len;
        char *written = oci_write_manifest(&m, &len);
        FUZZ_CHECK(written != NULL && oci_read_manifest(written, len, &again, &e) == 0);
        FUZZ_CHECK(strcmp(again.layer.digest, m.layer.digest) == 0 && again.layer.size == m.layer.size);
        free(written);
    }
    oci_check_config(text, size, &layer, &e);
    if (oci_read_index(text, size, digest, &e) == 0) FUZZ_CHECK(strncmp(digest, "sha256:", 7) == 0);
    runc_report_state(text, size, &status, &pid);
    runc_report_code(text);
    free(text);
    return 0;
}
