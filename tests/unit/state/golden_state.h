/* Captured streams, for tests: golden/NAME.gz, unpacked. */
#pragma once

#include <gio/gio.h>

static const char *const golden_names[] = {"pc-linux-7.2",  "pc-linux-10.0",    "pc-firmware-7.2",
                                           "pc-start-10.0", "pc-start-smp-7.2", "microvm-7.2",
                                           "microvm-10.0"};

/* All of QEMU's -M pc. */
#define GOLDEN_PCS 5u

static inline GBytes *golden_stream(const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s.gz", GOLDEN_STATES, name);
    g_autoptr(GFile) file = g_file_new_for_path(path);
    g_autoptr(GError) error = NULL;
    g_autoptr(GFileInputStream) packed = g_file_read(file, NULL, &error);
    g_autoptr(GConverter) unpack =
        G_CONVERTER(g_zlib_decompressor_new(G_ZLIB_COMPRESSOR_FORMAT_GZIP));
    g_autoptr(GInputStream) stream = NULL;
    g_autoptr(GOutputStream) memory = g_memory_output_stream_new_resizable();

    g_assert_no_error(error);
    stream = g_converter_input_stream_new(G_INPUT_STREAM(packed), unpack);
    (void)g_output_stream_splice(memory, stream, G_OUTPUT_STREAM_SPLICE_CLOSE_TARGET, NULL, &error);
    g_assert_no_error(error);
    return g_memory_output_stream_steal_as_bytes(G_MEMORY_OUTPUT_STREAM(memory));
}
