/* What is accepted as saved builds an incoming stream that is accepted too. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "state/qemu_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *direct = qemu_stream_check_incoming(data, size, NULL);
    g_autofree char *machine = NULL;
    g_autoptr(GBytes) built = qemu_stream_build_incoming(data, size, "pc-q35-7.2", NULL);
    gconstpointer bytes;
    gsize length;

    if (direct && !*direct)
        abort();
    if ((built != NULL) != qemu_stream_check_saved(data, size, NULL))
        abort();
    if (!built)
        return 0;
    bytes = g_bytes_get_data(built, &length);
    machine = qemu_stream_check_incoming(bytes, length, NULL);
    if (!machine || strcmp(machine, "pc-q35-7.2") != 0)
        abort();
    return 0;
}
