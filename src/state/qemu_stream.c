#include "state/qemu_stream.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define STREAM_MAGIC 0x5145564du /* "QEVM" */
#define STREAM_VERSION 3u
#define STREAM_HEAD_BYTES 8u

#define MACHINE_NAME_MAX_BYTES 255u /* QEMU's own limit is far above any real name */

/* Types of sections (QEMU: migration/savevm.c). */
enum {
    SECTION_EOF = 0x00,
    SECTION_FULL = 0x04,
    SECTION_DESCRIPTION = 0x06,
    SECTION_CONFIGURATION = 0x07,
};

static const char empty_description[] = "{}";
#define EMPTY_DESCRIPTION_BYTES (sizeof empty_description - 1)
#define TAIL_BYTES (1 + 1 + 4 + EMPTY_DESCRIPTION_BYTES)

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
                  "no QEMU state: starts with %08x instead of \"QEVM\"", magic);
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
static gboolean machine_name_valid(const char *name, size_t length)
{
    if (length == 0 || length > MACHINE_NAME_MAX_BYTES)
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (!g_ascii_isalnum(name[i]) && !strchr(".-_", name[i]))
            return FALSE;
    return memchr(name, '\0', length) == NULL;
}

GBytes *qemu_stream_build_incoming(const void *data, size_t length, const char *machine,
                                   GError **error)
{
    size_t name_length = strlen(machine);
    g_autoptr(GByteArray) out = NULL;

    if (!machine_name_valid(machine, name_length)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.64s\" is no machine type", machine);
        return NULL;
    }
    if (!qemu_stream_check_saved(data, length, error))
        return NULL;
    out = g_byte_array_sized_new((guint)(length + name_length + 64));
    byte_write_be32(out, STREAM_MAGIC);
    byte_write_be32(out, STREAM_VERSION);
    byte_write_u8(out, SECTION_CONFIGURATION);
    byte_write_be32(out, (uint32_t)name_length);
    byte_write_span(out, machine, name_length);
    /* The sections together with their EOF. */
    byte_write_span(out, (const uint8_t *)data + STREAM_HEAD_BYTES, length - STREAM_HEAD_BYTES);
    byte_write_u8(out, SECTION_DESCRIPTION);
    byte_write_be32(out, EMPTY_DESCRIPTION_BYTES);
    byte_write_span(out, empty_description, EMPTY_DESCRIPTION_BYTES);
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}

static char *read_configuration(ByteReader *reader, GError **error)
{
    uint8_t type = byte_read_u8(reader);
    uint32_t length = byte_read_be32(reader);
    const uint8_t *name = byte_read_span(reader, length);

    if (!name || type != SECTION_CONFIGURATION || !machine_name_valid((const char *)name, length)) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU state does not name its machine type");
        return NULL;
    }
    return g_strndup((const char *)name, length);
}

static gboolean check_tail(ByteReader reader, GError **error)
{
    const uint8_t *tail;
    uint8_t wanted[TAIL_BYTES] = {SECTION_EOF, SECTION_DESCRIPTION,    0, 0,
                                  0,           EMPTY_DESCRIPTION_BYTES};

    memcpy(wanted + 6, empty_description, EMPTY_DESCRIPTION_BYTES);
    if (reader.left >= TAIL_BYTES) {
        tail = reader.at + reader.left - TAIL_BYTES;
        if (memcmp(tail, wanted, TAIL_BYTES) == 0)
            return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "QEMU state is cut: its end is missing");
    return FALSE;
}

char *qemu_stream_check_incoming(const void *data, size_t length, GError **error)
{
    ByteReader reader = byte_reader_make(data, length);
    g_autofree char *machine = NULL;

    if (!check_size(length, error) || !read_head(&reader, error))
        return NULL;
    machine = read_configuration(&reader, error);
    if (!machine || !check_first_section(reader, error) || !check_tail(reader, error))
        return NULL;
    return g_steal_pointer(&machine);
}
