/*
 * QEMU's device-state streams
 *
 * What is read is the same when it is written again.  What of it becomes a neutral state can be
 * written over the stream, and is then read as it was.
 */
#include <stdint.h>
#include <stdlib.h>

#include "state/qemu_form.h"
#include "state/state_qemu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_same_bytes(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) given = g_bytes_new_static(data, size), written = NULL;
    g_autoptr(QemuForm) form = qemu_form_read(data, size, NULL);

    if (!form)
        return;
    written = qemu_form_write(form);
    if (!g_bytes_equal(given, written))
        abort();
}

static void expect_same_state(const uint8_t *data, size_t size)
{
    g_autoptr(StateNode) root = state_from_qemu(data, size, NULL), again = NULL;
    g_autoptr(GBytes) written = root ? state_to_qemu(root, data, size, NULL) : NULL;
    g_autoptr(GPtrArray) found = NULL;

    if (!written)
        return;
    again = state_from_qemu(g_bytes_get_data(written, NULL), g_bytes_get_size(written), NULL);
    if (!again)
        abort();
    found = state_compare(root, again);
    if (found->len > 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    expect_same_bytes(data, size);
    expect_same_state(data, size);
    return 0;
}
