/*
 * Bounded readers and writers of binary formats
 *
 * A ByteReader walks over bytes that somebody else made.  It never reads past
 * the end: the first short read marks it failed, and from then on it yields
 * zeroes, so a parser can read a whole record and ask byte_reader_ok() once.
 * All "le" integers are little-endian, all "be" ones big-endian (QEMU's
 * streams).  A varint is ULEB128: seven bits a byte, the lowest first, the top
 * bit set in all but the last byte.  Writers append to a GByteArray.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *at;
    size_t left;
    gboolean failed;
} ByteReader;

ByteReader byte_reader_make(const void *data, size_t length);
static inline gboolean byte_reader_ok(const ByteReader *reader)
{
    return !reader->failed;
}
uint8_t byte_read_u8(ByteReader *reader);
uint16_t byte_read_le16(ByteReader *reader);
uint32_t byte_read_le32(ByteReader *reader);
uint64_t byte_read_le64(ByteReader *reader);
uint16_t byte_read_be16(ByteReader *reader);
uint32_t byte_read_be32(ByteReader *reader);
uint64_t byte_read_be64(ByteReader *reader);

/* At most 64 bits.  There is one form of each value: a longer one (with empty
 * bytes at its end) marks the reader failed, as do more than 64 bits. */
uint64_t byte_read_varint(ByteReader *reader);

/* Borrows *length* bytes; NULL (and failed) where fewer are left. */
const uint8_t *byte_read_span(ByteReader *reader, size_t length);

void byte_write_u8(GByteArray *out, uint8_t value);
void byte_write_le16(GByteArray *out, uint16_t value);
void byte_write_le32(GByteArray *out, uint32_t value);
void byte_write_le64(GByteArray *out, uint64_t value);
void byte_write_be16(GByteArray *out, uint16_t value);
void byte_write_be32(GByteArray *out, uint32_t value);
void byte_write_be64(GByteArray *out, uint64_t value);
void byte_write_varint(GByteArray *out, uint64_t value);
void byte_write_span(GByteArray *out, const void *data, size_t length);

#define BYTE_VARINT_MAX 10u

/* Writes a varint (of at most BYTE_VARINT_MAX bytes) to *out*; returns its bytes. */
guint byte_put_varint(uint8_t *out, uint64_t value);

/* Bytes that a varint of this value takes. */
guint byte_varint_bytes(uint64_t value);
