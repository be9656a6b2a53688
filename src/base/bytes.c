#include "base/bytes.h"

#include <string.h>

ByteReader byte_reader_make(const void *data, size_t length)
{
    return (ByteReader){.at = data, .left = length};
}

const uint8_t *byte_read_span(ByteReader *reader, size_t length)
{
    const uint8_t *span = reader->at;

    if (reader->failed || length > reader->left) {
        reader->failed = TRUE;
        return NULL;
    }
    reader->at += length;
    reader->left -= length;
    return span;
}

static uint64_t read_little(ByteReader *reader, size_t width)
{
    const uint8_t *span = byte_read_span(reader, width);
    uint64_t value = 0;

    for (size_t i = width; span && i > 0; i--)
        value = value << 8 | span[i - 1];
    return value;
}

static uint64_t read_big(ByteReader *reader, size_t width)
{
    const uint8_t *span = byte_read_span(reader, width);
    uint64_t value = 0;

    for (size_t i = 0; span && i < width; i++)
        value = value << 8 | span[i];
    return value;
}

uint8_t byte_read_u8(ByteReader *reader)
{
    return (uint8_t)read_little(reader, 1);
}

uint16_t byte_read_le16(ByteReader *reader)
{
    return (uint16_t)read_little(reader, 2);
}

uint32_t byte_read_le32(ByteReader *reader)
{
    return (uint32_t)read_little(reader, 4);
}

uint64_t byte_read_le64(ByteReader *reader)
{
    return read_little(reader, 8);
}

uint16_t byte_read_be16(ByteReader *reader)
{
    return (uint16_t)read_big(reader, 2);
}

uint32_t byte_read_be32(ByteReader *reader)
{
    return (uint32_t)read_big(reader, 4);
}

uint64_t byte_read_be64(ByteReader *reader)
{
    return read_big(reader, 8);
}

uint64_t byte_read_varint(ByteReader *reader)
{
    uint64_t value = 0;

    for (guint shift = 0; shift < 64; shift += 7) {
        uint8_t byte = byte_read_u8(reader);
        uint64_t bits = byte & 0x7f;

        /* The tenth byte has room for one bit only; an empty last byte adds nothing. */
        if (reader->failed || (shift == 63 && byte > 1) || (shift > 0 && byte == 0))
            break;
        value |= bits << shift;
        if (!(byte & 0x80))
            return value;
    }
    reader->failed = TRUE;
    return 0;
}

static void write_little(GByteArray *out, uint64_t value, size_t width)
{
    uint8_t raw[8];

    for (size_t i = 0; i < width; i++)
        raw[i] = (uint8_t)(value >> (8 * i));
    g_byte_array_append(out, raw, (guint)width);
}

static void write_big(GByteArray *out, uint64_t value, size_t width)
{
    uint8_t raw[8];

    for (size_t i = 0; i < width; i++)
        raw[i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    g_byte_array_append(out, raw, (guint)width);
}

void byte_write_u8(GByteArray *out, uint8_t value)
{
    write_little(out, value, 1);
}

void byte_write_le16(GByteArray *out, uint16_t value)
{
    write_little(out, value, 2);
}

void byte_write_le32(GByteArray *out, uint32_t value)
{
    write_little(out, value, 4);
}

void byte_write_le64(GByteArray *out, uint64_t value)
{
    write_little(out, value, 8);
}

void byte_write_be16(GByteArray *out, uint16_t value)
{
    write_big(out, value, 2);
}

void byte_write_be32(GByteArray *out, uint32_t value)
{
    write_big(out, value, 4);
}

void byte_write_be64(GByteArray *out, uint64_t value)
{
    write_big(out, value, 8);
}

guint byte_put_varint(uint8_t *out, uint64_t value)
{
    guint length = 0;

    for (; value >= 0x80; value >>= 7)
        out[length++] = (uint8_t)(value | 0x80);
    out[length++] = (uint8_t)value;
    return length;
}

guint byte_varint_bytes(uint64_t value)
{
    guint length = 1;

    while (value >>= 7)
        length++;
    return length;
}

void byte_write_varint(GByteArray *out, uint64_t value)
{
    uint8_t raw[BYTE_VARINT_MAX];

    g_byte_array_append(out, raw, byte_put_varint(raw, value));
}

void byte_write_span(GByteArray *out, const void *data, size_t length)
{
    if (length > 0)
        g_byte_array_append(out, data, (guint)length);
}
