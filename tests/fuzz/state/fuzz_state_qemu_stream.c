/*
 * Streams of QEMU
 *
 * What is accepted as saved ends a stream.  And a machine with blocks, given as
 * lines ("MACHINE", then "BYTES NAME" for each), begins one that holds all of
 * them, or is refused.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/page.h"
#include "state/qemu_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void end_stream(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) built = qemu_stream_build_end(data, size, NULL);

    if ((built != NULL) != qemu_stream_check_saved(data, size, NULL))
        abort();
    if (built && g_bytes_get_size(built) != size - 8 + 7)
        abort();
}

static void expect_name(ByteReader *reader, const char *name)
{
    size_t length = byte_read_u8(reader);
    const uint8_t *bytes = byte_read_span(reader, length);

    if (!bytes || length != strlen(name) || memcmp(bytes, name, length) != 0)
        abort();
}

/* From the section's name on: all sizes, all pages, nothing else before its end. */
static void expect_section(ByteReader *reader, const QemuStreamBlock *blocks, guint count)
{
    uint64_t sum;

    expect_name(reader, "ram");
    if (byte_read_be32(reader) != 0 || byte_read_be32(reader) != 4)
        abort();
    sum = byte_read_be64(reader) - 4;
    for (guint i = 0; i < count; i++) {
        expect_name(reader, blocks[i].name);
        if (byte_read_be64(reader) != blocks[i].bytes)
            abort();
        sum -= blocks[i].bytes;
    }
    for (guint i = 0; i < count; i++) {
        if (byte_read_be64(reader) != 8)
            abort();
        expect_name(reader, blocks[i].name);
        (void)byte_read_span(reader, PAGE_BYTES);
    }
    if (sum != 0 || byte_read_be64(reader) != 16 || !byte_reader_ok(reader))
        abort();
}

static void expect_beginning(GBytes *built, const char *machine, const QemuStreamBlock *blocks,
                             guint count)
{
    gsize length;
    gconstpointer bytes = g_bytes_get_data(built, &length);
    ByteReader reader = byte_reader_make(bytes, length);
    uint8_t type;

    (void)byte_read_be64(&reader);
    type = byte_read_u8(&reader);
    if (type == 7) {
        if (byte_read_be32(&reader) != strlen(machine) || !byte_read_span(&reader, strlen(machine)))
            abort();
        type = byte_read_u8(&reader);
    }
    (void)byte_read_be32(&reader);
    if (type != 1)
        abort();
    expect_section(&reader, blocks, count);
    if (reader.left != 0 && reader.left != 5)
        abort();
}

static void begin_stream(char **lines)
{
    static const uint8_t page[PAGE_BYTES];
    guint count = g_strv_length(lines) - 1;
    g_autofree QemuStreamBlock *blocks = g_new0(QemuStreamBlock, count + 1);
    g_autoptr(GBytes) built = NULL;

    for (guint i = 0; i < count; i++) {
        char *end;

        blocks[i].bytes = g_ascii_strtoull(lines[i + 1], &end, 0);
        blocks[i].name = *end ? end + 1 : end;
        blocks[i].first_page = page;
    }
    built = qemu_stream_build_begin(lines[0], blocks, count, NULL);
    if (built)
        expect_beginning(built, lines[0], blocks, count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) lines = g_strsplit(text, "\n", 300);

    end_stream(data, size);
    if (lines[0])
        begin_stream(lines);
    return 0;
}
