/* Frames of packets: whole ones come out, in pieces of any size, and what is none is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "net/packet_stream.h"

static void put_be32(uint8_t *at, uint32_t value)
{
    for (guint i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void make_header(uint8_t header[PACKET_FRAME_HEADER_BYTES], uint32_t length, uint32_t vnet)
{
    put_be32(header, length);
    put_be32(header + 4, vnet);
}

static void expect_refused(uint32_t length, uint32_t vnet)
{
    uint8_t header[PACKET_FRAME_HEADER_BYTES];
    GError *error = NULL;
    size_t bytes;

    make_header(header, length, vnet);
    assert_false(packet_frame_measure(header, sizeof header, &bytes, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, "stream of packets is broken"));
    g_error_free(error);
}

static void test_limits(void **state G_GNUC_UNUSED)
{
    uint8_t header[PACKET_FRAME_HEADER_BYTES];
    size_t bytes;

    expect_refused(0, 0);
    expect_refused(PACKET_MAX_BYTES + 1, 0);
    expect_refused(UINT32_MAX, 0);
    expect_refused(11, 12);
    expect_refused(1000, PACKET_MAX_VNET_BYTES + 1);
    expect_refused(1000, UINT32_MAX);
    make_header(header, PACKET_MAX_BYTES, PACKET_MAX_VNET_BYTES);
    for (size_t available = 0; available <= sizeof header; available++) {
        assert_true(packet_frame_measure(header, available, &bytes, NULL));
        assert_int_equal(bytes, 0);
    }
}

static void make_announcement(uint8_t frame[68], uint32_t length, uint32_t vnet, uint8_t type)
{
    memset(frame, 0, 68);
    make_header(frame, length, vnet);
    memset(frame + 8, 0xff, 6);
    frame[20] = 0x80;
    frame[21] = type;
}

static void test_announcement(void **state G_GNUC_UNUSED)
{
    uint8_t frame[68];

    make_announcement(frame, 60, 12, 0x35);
    assert_int_equal(packet_frame_lacks(frame, sizeof frame), 12);
    make_announcement(frame, 60, 0, 0x35);
    assert_int_equal(packet_frame_lacks(frame, sizeof frame), 0);
    make_announcement(frame, 60, 12, 0x36);
    assert_int_equal(packet_frame_lacks(frame, sizeof frame), 0);
    make_announcement(frame, 59, 12, 0x35);
    assert_int_equal(packet_frame_lacks(frame, 67), 0);
    make_announcement(frame, 60, 12, 0x35);
    frame[8] = 0;
    assert_int_equal(packet_frame_lacks(frame, sizeof frame), 0);
    make_header(frame, 1, 1);
    assert_int_equal(packet_frame_lacks(frame, 9), 0);
}

/* Frames of these lengths, one after the other; every byte of a frame is its number. */
static const uint32_t lengths[] = {1, 60, PACKET_MAX_BYTES, 12, 1514, 65535, PACKET_MAX_BYTES};

static GByteArray *make_stream(void)
{
    GByteArray *stream = g_byte_array_new();

    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
        uint8_t header[PACKET_FRAME_HEADER_BYTES];
        g_autofree uint8_t *body = g_malloc(lengths[i]);

        memset(body, (int)i, lengths[i]);
        make_header(header, lengths[i], i == 0 ? 0 : 12);
        g_byte_array_append(stream, header, sizeof header);
        g_byte_array_append(stream, body, lengths[i]);
    }
    return stream;
}

static guint take_frames(PacketReader *reader, guint next)
{
    const uint8_t *frame;
    size_t length;

    while (packet_reader_next(reader, &frame, &length, NULL) && frame) {
        assert_int_equal(length, PACKET_FRAME_HEADER_BYTES + lengths[next]);
        assert_int_equal(frame[PACKET_FRAME_HEADER_BYTES], next);
        assert_int_equal(frame[length - 1], next);
        next++;
    }
    return next;
}

static void test_pieces(void **state G_GNUC_UNUSED)
{
    static const size_t sizes[] = {1, 7, 1000, 4096, 1u << 20};
    g_autoptr(GByteArray) stream = make_stream();

    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        PacketReader *reader = packet_reader_new();
        guint next = 0;

        for (size_t at = 0; at < stream->len;) {
            size_t room, bytes;
            uint8_t *to = packet_reader_get_room(reader, &room);

            assert_true(room > 0);
            bytes = MIN(MIN(room, sizes[i]), stream->len - at);
            memcpy(to, stream->data + at, bytes);
            packet_reader_add(reader, bytes);
            at += bytes;
            next = take_frames(reader, next);
        }
        assert_int_equal(next, G_N_ELEMENTS(lengths));
        packet_reader_free(reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_announcement),
        cmocka_unit_test(test_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
