/* What Bochs's debugger shows: whatever was taken is written so that it reads the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsNode) root = bochs_tree_parse((const char *)data, size, &error);

    if (!root) {
        if (!error)
            abort();
        return 0;
    }
    (void)bochs_tree_find(root, "counter.0.count");
    check_round_trip(root);
    return 0;
}
