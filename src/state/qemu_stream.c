#include "state/qemu_stream.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"

#define STREAM_MAGIC 0x5145564du /* "QEVM" */
#define STREAM_VERSION 3u
#define STREAM_HEAD_BYTES 8u

#define MACHINE_NAME_MAX_BYTES 255u /* QEMU's own limit is far above any real name */

#define BLOCK_NAME_MAX_BYTES 255u
#define BLOCK_MAX_BYTES (1ull << 46)

/* Types of sections (QEMU: migration/savevm.c). */
enum {
    SECTION_EOF = 0x00,
    SECTION_START = 0x01,
    SECTION_FULL = 0x04,
    SECTION_DESCRIPTION = 0x06,
    SECTION_CONFIGURATION = 0x07,
    SECTION_FOOTER = 0x7e,
};

/* What a record of a "ram" section is, in the low bits of its first number
 * (QEMU: migration/ram.c). */
enum {
    RAM_MEM_SIZE = 0x04,
    RAM_PAGE = 0x08,
    RAM_END_OF_SECTION = 0x10,
};

#define RAM_SECTION_NAME "ram"
#define RAM_SECTION_VERSION 4u
/* Far from those that QEMU counts from 0. */
#define RAM_SECTION_ID 0x40000000u

static const char empty_description[] = "{}";
#define EMPTY_DESCRIPTION_BYTES (sizeof empty_description - 1)

static gboolean read_head(ByteReader *reader, GError **error)
{
    uint32_t magic = byte_read_be32(reader);
    uint32_t version = byte_read_be32(reader);

    if (!byte_reader_ok(reader)) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU state ends within its head");
        return FALSE;
    }
    if (magic != STREAM_MAGIC) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "not a QEMU state: starts with %08x instead of \"QEVM\"", magic);
        return FALSE;
    }
    if (version != STREAM_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU state of version %u, only %u is known",
                  version, STREAM_VERSION);
        return FALSE;
    }
    return TRUE;
}

/* A FULL section starts with its type, be32 section id, u8 length and name,
 * be32 instance, be32 version. */
static gboolean check_first_section(ByteReader reader, GError **error)
{
    uint8_t type = byte_read_u8(&reader);
    uint8_t name_length;

    if (!byte_reader_ok(&reader) || type != SECTION_FULL) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "QEMU state starts with a section of type %u instead of a device's", type);
        return FALSE;
    }
    (void)byte_read_be32(&reader);
    name_length = byte_read_u8(&reader);
    (void)byte_read_span(&reader, name_length);
    (void)byte_read_be64(&reader);
    if (!byte_reader_ok(&reader) || name_length == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU state ends within its first section");
        return FALSE;
    }
    return TRUE;
}

static gboolean check_size(size_t length, GError **error)
{
    if (length <= QEMU_STREAM_MAX_BYTES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "QEMU state of %zu bytes is over the limit of %u",
              length, QEMU_STREAM_MAX_BYTES);
    return FALSE;
}

gboolean qemu_stream_check_saved(const void *data, size_t length, GError **error)
{
    ByteReader reader = byte_reader_make(data, length);

    if (!check_size(length, error) || !read_head(&reader, error) ||
        !check_first_section(reader, error))
        return FALSE;
    if (reader.at[reader.left - 1] != SECTION_EOF) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU state is cut: its end mark is missing");
        return FALSE;
    }
    return TRUE;
}

/* Letters, digits and ".-_" only, as in every machine type there is. */
static gboolean machine_name_valid(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > MACHINE_NAME_MAX_BYTES)
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (!g_ascii_isalnum(name[i]) && !strchr(".-_", name[i]))
            return FALSE;
    return TRUE;
}

/* "pc-i440fx-2.3" and its elders: QEMU turns both off by their machine type. */
static gboolean lacks_footers(const char *machine)
{
    const char *version = strrchr(machine, '-');
    guint major, minor;
    int end = 0;

    return version && sscanf(version, "-%3u.%3u%n", &major, &minor, &end) == 2 &&
           version[end] == '\0' && (major == 1 || (major == 2 && minor <= 3));
}

static void write_name(GByteArray *out, const char *name)
{
    size_t length = strlen(name);

    byte_write_u8(out, (uint8_t)length);
    byte_write_span(out, name, length);
}

static void write_head(GByteArray *out, const char *machine)
{
    byte_write_be32(out, STREAM_MAGIC);
    byte_write_be32(out, STREAM_VERSION);
    if (lacks_footers(machine))
        return;
    byte_write_u8(out, SECTION_CONFIGURATION);
    byte_write_be32(out, (uint32_t)strlen(machine));
    byte_write_span(out, machine, strlen(machine));
}

static void write_block_list(GByteArray *out, const QemuStreamBlock *blocks, guint count)
{
    uint64_t sum = 0;

    for (guint i = 0; i < count; i++)
        sum += blocks[i].bytes;
    byte_write_be64(out, sum | RAM_MEM_SIZE);
    for (guint i = 0; i < count; i++) {
        write_name(out, blocks[i].name);
        byte_write_be64(out, blocks[i].bytes);
    }
}

static void write_ram_section(GByteArray *out, const QemuStreamBlock *blocks, guint count)
{
    byte_write_u8(out, SECTION_START);
    byte_write_be32(out, RAM_SECTION_ID);
    write_name(out, RAM_SECTION_NAME);
    byte_write_be32(out, 0);
    byte_write_be32(out, RAM_SECTION_VERSION);
    write_block_list(out, blocks, count);
    for (guint i = 0; i < count; i++) {
        byte_write_be64(out, RAM_PAGE);
        write_name(out, blocks[i].name);
        byte_write_span(out, blocks[i].first_page, PAGE_BYTES);
    }
    byte_write_be64(out, RAM_END_OF_SECTION);
}

static gboolean check_block(const QemuStreamBlock *block, GError **error)
{
    size_t length = strlen(block->name);

    if (length > 0 && length <= BLOCK_NAME_MAX_BYTES && block->bytes > 0 &&
        block->bytes <= BLOCK_MAX_BYTES && block->bytes % PAGE_BYTES == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "RAM block \"%.64s\" of %" G_GUINT64_FORMAT " bytes cannot be told to QEMU",
              block->name, block->bytes);
    return FALSE;
}

GBytes *qemu_stream_build_begin(const char *machine, const QemuStreamBlock *blocks, guint count,
                                GError **error)
{
    g_autoptr(GByteArray) out = NULL;

    if (!machine_name_valid(machine)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.64s\" is not a valid machine type", machine);
        return NULL;
    }
    if (count == 0 || count > QEMU_STREAM_MAX_BLOCKS) {
        error_set(error, VMFERRY_ERROR_INVALID, "a machine of %u RAM blocks", count);
        return NULL;
    }
    for (guint i = 0; i < count; i++)
        if (!check_block(&blocks[i], error))
            return NULL;
    out = g_byte_array_new();
    write_head(out, machine);
    write_ram_section(out, blocks, count);
    if (!lacks_footers(machine)) {
        byte_write_u8(out, SECTION_FOOTER);
        byte_write_be32(out, RAM_SECTION_ID);
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}

GBytes *qemu_stream_build_end(const void *saved, size_t length, GError **error)
{
    g_autoptr(GByteArray) out = NULL;

    if (!qemu_stream_check_saved(saved, length, error))
        return NULL;
    out = g_byte_array_sized_new((guint)(length + 64));
    /* The sections together with their EOF. */
    byte_write_span(out, (const uint8_t *)saved + STREAM_HEAD_BYTES, length - STREAM_HEAD_BYTES);
    byte_write_u8(out, SECTION_DESCRIPTION);
    byte_write_be32(out, EMPTY_DESCRIPTION_BYTES);
    byte_write_span(out, empty_description, EMPTY_DESCRIPTION_BYTES);
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}
