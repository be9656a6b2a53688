/* Windows: round trips, what they gain, their order, and everything hostile. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/error.h"
#include "page/pack_window.h"

#define PIECE 300000u
#define GUARD 0x5a

typedef struct {
    PackWindow *pack;
    UnpackWindow *unpack;
    GRand *random;
    uint8_t in[PIECE], out[PIECE + 1];
    uint8_t *packed;
    gboolean begins;
} Fixture;

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->pack = pack_window_new(22);
    fixture->unpack = unpack_window_new();
    fixture->random = g_rand_new_with_seed(5);
    fixture->packed = g_malloc(pack_window_bound(PIECE));
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    pack_window_free(fixture->pack);
    unpack_window_free(fixture->unpack);
    g_rand_free(fixture->random);
    g_free(fixture->packed);
    g_free(fixture);
    return 0;
}

static void fill_random(Fixture *fixture)
{
    for (size_t i = 0; i < PIECE; i++)
        fixture->in[i] = (uint8_t)g_rand_int(fixture->random);
}

static size_t pack(Fixture *fixture, int level, size_t length)
{
    size_t packed = pack_window_pack(fixture->pack, level, fixture->in, length, fixture->packed,
                                     &fixture->begins);

    assert_in_range(packed, 1, pack_window_bound(length));
    return packed;
}

static void expect_unpacked(Fixture *fixture, size_t packed, size_t length)
{
    memset(fixture->out, GUARD, sizeof fixture->out);
    assert_true(unpack_window(fixture->unpack, fixture->begins, fixture->packed, packed,
                              fixture->out, length, NULL));
    assert_memory_equal(fixture->in, fixture->out, length);
    assert_int_equal(fixture->out[length], GUARD);
}

static void expect_refused(Fixture *fixture, gboolean begins, size_t packed, size_t length,
                           const char *why)
{
    g_autoptr(GError) error = NULL;

    memset(fixture->out, GUARD, sizeof fixture->out);
    assert_false(unpack_window(fixture->unpack, begins, fixture->packed, packed, fixture->out,
                               length, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, why));
    assert_int_equal(fixture->out[length], GUARD);
}

/* Pieces of all lengths at all levels, of what shrinks and what does not. */
static void test_round_trips(void **state)
{
    static const size_t lengths[] = {1, 4096, 65536, PIECE};
    static const int levels[] = {3, 9, 16, 19};
    Fixture *fixture = *state;

    for (guint i = 0; i < G_N_ELEMENTS(levels); i++)
        for (guint k = 0; k < 3 * G_N_ELEMENTS(lengths); k++) {
            if (k % 3 == 0)
                fill_random(fixture);
            else
                memset(fixture->in, (int)k, PIECE / 2);
            expect_unpacked(fixture, pack(fixture, levels[i], lengths[k % 4]), lengths[k % 4]);
            assert_int_equal(fixture->begins, k == 0);
        }
}

/* What was there before costs next to nothing, also far away. */
static void test_refers_to_earlier(void **state)
{
    Fixture *fixture = *state;
    uint8_t first[4096];

    fill_random(fixture);
    memcpy(first, fixture->in, sizeof first);
    expect_unpacked(fixture, pack(fixture, 3, PIECE), PIECE);
    for (guint i = 0; i < 8; i++) {
        fill_random(fixture);
        expect_unpacked(fixture, pack(fixture, 3, PIECE), PIECE);
    }
    memcpy(fixture->in, first, sizeof first);
    assert_in_range(pack(fixture, 3, sizeof first), 1, 256);
    /* Another level knows nothing of it. */
    memcpy(fixture->in, first, sizeof first);
    assert_true(pack(fixture, 9, sizeof first) > 4000);
    assert_true(fixture->begins);
    expect_unpacked(fixture, pack(fixture, 3, sizeof first), sizeof first);
}

/* More, less, nothing, none of it; what follows a spoilt piece is refused until a window begins. */
static void test_other_lengths(void **state)
{
    static const struct {
        size_t length;
        int packed; /* less than there is */
    } wrong[] = {{PIECE - 1, 0}, {PIECE - 4096, 0}, {0, 0}, {PIECE, 1}, {PIECE, 4}};
    Fixture *fixture = *state;

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        size_t packed;

        g_clear_pointer(&fixture->pack, pack_window_free);
        fixture->pack = pack_window_new(22);
        fill_random(fixture);
        expect_unpacked(fixture, pack(fixture, 3, PIECE), PIECE);
        packed = pack(fixture, 3, PIECE);
        expect_refused(fixture, FALSE, packed - (size_t)wrong[i].packed, wrong[i].length,
                       "do not make");
        expect_refused(fixture, FALSE, packed, PIECE, "no window");
        packed = pack(fixture, 9, PIECE);
        expect_unpacked(fixture, packed, PIECE);
    }
    /* One more than it makes. */
    memset(fixture->in, 3, PIECE);
    expect_refused(fixture, FALSE, pack(fixture, 9, 4096), 4097, "do not make");
}

/* A piece that was left out would make other content of the next ones. */
static void test_left_out(void **state)
{
    Fixture *fixture = *state;

    expect_refused(fixture, FALSE, 4, 4096, "no window");
    fill_random(fixture);
    expect_unpacked(fixture, pack(fixture, 3, 4096), 4096);
    fill_random(fixture);
    pack(fixture, 3, PIECE);
    expect_refused(fixture, FALSE, pack(fixture, 3, PIECE), PIECE, "do not make");
}

/* Frames that zstd itself would take. */
static void test_other_frames(void **state)
{
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0};
    static const uint8_t old[] = {0x27, 0xb5, 0x2f, 0xfd, 0x40, 0x00, 0x00, 0xc0};
    Fixture *fixture = *state;
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_inBuffer from = {fixture->in, PIECE, 0};
    ZSTD_outBuffer to = {fixture->packed, pack_window_bound(PIECE), 0};
    size_t packed;

    memcpy(fixture->packed, skippable, sizeof skippable);
    expect_refused(fixture, TRUE, sizeof skippable, 4096, "does not begin");
    memcpy(fixture->packed, old, sizeof old);
    expect_refused(fixture, TRUE, sizeof old, 4096, "does not begin");
    expect_refused(fixture, TRUE, 0, 4096, "does not begin");
    /* One that ends. */
    fill_random(fixture);
    packed = ZSTD_compressCCtx(context, fixture->packed, pack_window_bound(PIECE), fixture->in,
                               PIECE, 1);
    expect_refused(fixture, TRUE, packed, PIECE, "do not make");
    /* One that asks for more memory. */
    ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, PACK_WINDOW_MOST_LOG + 1);
    assert_int_equal(ZSTD_compressStream2(context, &to, &from, ZSTD_e_flush), 0);
    expect_refused(fixture, TRUE, to.pos, PIECE, "of up to 32 MiB");
    ZSTD_freeCCtx(context);
}

/* Whatever is changed: never more than there is room for. */
static void test_changed(void **state)
{
    Fixture *fixture = *state;

    memset(fixture->in, 0, PIECE);
    for (guint i = 0; i < 3000; i++) {
        size_t packed;

        for (guint k = 0; k < 200; k++)
            fixture->in[g_rand_int_range(fixture->random, 0, 8192)] =
                (uint8_t)g_rand_int(fixture->random);
        if (!fixture->begins || i % 3 == 0) {
            g_clear_pointer(&fixture->pack, pack_window_free);
            fixture->pack = pack_window_new(22);
        }
        packed = pack(fixture, 3, 8192);
        for (guint k = 0; k < 3; k++)
            fixture->packed[g_rand_int_range(fixture->random, 0, (gint32)packed)] ^=
                (uint8_t)g_rand_int(fixture->random);
        memset(fixture->out, GUARD, sizeof fixture->out);
        unpack_window(fixture->unpack, fixture->begins, fixture->packed, packed, fixture->out, 8192,
                      NULL);
        assert_int_equal(fixture->out[8192], GUARD);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trips, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refers_to_earlier, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_lengths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
