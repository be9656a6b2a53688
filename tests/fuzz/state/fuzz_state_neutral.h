/* What targets of both neutral forms share. */
#pragma once

#include <stdlib.h>

#include "base/json.h"
#include "state/tree.h"

/* Both forms keep each value. */
static inline void expect_kept(const StateNode *root)
{
    g_autoptr(GBytes) encoded = state_encode(root);
    g_autoptr(StateNode) decoded =
        state_decode(g_bytes_get_data(encoded, NULL), g_bytes_get_size(encoded), NULL);
    g_autoptr(json_t) json = state_to_json(root);
    g_autoptr(StateNode) parsed = state_from_json(json, NULL);
    g_autoptr(GPtrArray) found = NULL, found_in_json = NULL;

    if (!decoded || !parsed)
        abort();
    found = state_compare(root, decoded);
    found_in_json = state_compare(root, parsed);
    if (found->len > 0 || found_in_json->len > 0)
        abort();
    (void)state_check(root, NULL);
}
