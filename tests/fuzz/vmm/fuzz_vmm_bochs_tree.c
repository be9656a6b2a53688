/* What Bochs writes, and what its debugger shows: whatever was taken is written so that it reads the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/bochs/texts.h"
#include "vmm/bochs/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes are not written. */
static void check_round_trip(const BochsNode *root)
{
    g_autofree char *written = bochs_tree_format(root);
    g_autoptr(BochsNode) again = NULL;
    g_autofree char *second = NULL;

    if (root->kind == BOCHS_NODE_BINARY)
        return;
    again = bochs_tree_parse(written, strlen(written), NULL);
    if (!again)
        abort();
    second = bochs_tree_format(again);
    if (strcmp(written, second) != 0)
        abort();
    /* Of two with one name the first is found, which may be of another kind. */
    (void)bochs_tree_check_known(again, root, NULL);
}

static void pick_texts(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autofree char *end = bochs_text_pick_end(text);
    g_autofree char *version = bochs_text_pick_version(text);
    uint64_t vector;

    if (bochs_text_find_vector(text, &vector) && (vector == 0 || vector % 4096 != 0))
        abort();
    if (end && !g_utf8_validate(end, -1, NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsNode) root = bochs_tree_parse((const char *)data, size, &error);

    pick_texts(data, size);
    if (!root) {
        if (!error)
            abort();
        return 0;
    }
    (void)bochs_tree_find(root, "counter.0.count");
    check_round_trip(root);
    return 0;
}
