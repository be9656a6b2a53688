/*
 * A neutral state, as a peer may have sent it, onto a QEMU's own
 *
 * It is refused with a reason, or becomes a stream that is read again.
 */
#include <stdint.h>
#include <stdlib.h>

#include "../../unit/state/golden_state.h"
#include "fuzz_state_changes.h"
#include "state/state_qemu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static GBytes *stream;
static StateNode *root;
static Changes changes;

static void prepare(void)
{
    stream = golden_stream("pc-start-10.0");
    root = state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), NULL);
    if (!root)
        abort();
    changes.leaves = g_ptr_array_new();
    collect_leaves(root, changes.leaves);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) written = NULL;
    g_autoptr(StateNode) again = NULL;

    if (!root)
        prepare();
    apply_changes(&changes, data, size);
    (void)state_check(root, NULL);
    written = state_to_qemu(root, g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &error);
    if (!written && !error)
        abort();
    if (written)
        again = state_from_qemu(g_bytes_get_data(written, NULL), g_bytes_get_size(written), NULL);
    if (written && !again)
        abort();
    undo_changes(&changes);
    return 0;
}
