/*
 * The JSON form of neutral states
 *
 * Whatever is read is kept by both forms.
 */
#include <stdint.h>

#include "fuzz_state_neutral.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(json_t) json = json_parse_object((const char *)data, size, STATE_MAX_BYTES, NULL);
    g_autoptr(StateNode) root = json ? state_from_json(json, NULL) : NULL;

    if (root)
        expect_kept(root);
    return 0;
}
