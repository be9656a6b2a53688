#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <lz4.h>
#include <string.h>

#include "content.h"

enum { PAGES = 256, BYTES = PAGES * PAGE_SIZE };

static uint64_t pages[PAGES * PAGE_WORDS];

static void fill(Kind kind, uint32_t version)
{
    PageState state = {.version = version, .kind = kind};

    for (uint64_t page = 0; page < PAGES; page++)
        content_fill(pages + page * PAGE_WORDS, page, &state);
}

/* How many times smaller LZ4 makes all pages, in blocks of *block* bytes. */
static double lz4_ratio(int block)
{
    static char packed[LZ4_COMPRESSBOUND(BYTES)];
    double sum = 0;

    for (int at = 0; at < BYTES; at += block)
        sum += LZ4_compress_default((const char *)pages + at, packed, block, (int)sizeof(packed));
    return BYTES / sum;
}

static void test_random_does_not_compress(void **state)
{
    fill(KIND_RANDOM, 1);
    assert_true(lz4_ratio(BYTES) < 1.0);
    assert_true(lz4_ratio(PAGE_SIZE) < 1.0);
}

static void test_text_compresses_as_text_does(void **state)
{
    fill(KIND_TEXT, 1);
    for (int block = PAGE_SIZE; block <= BYTES; block *= 4) {
        assert_true(lz4_ratio(block) > 2.5);
        assert_true(lz4_ratio(block) < 4.0);
    }
}

static void test_zero(void **state)
{
    fill(KIND_RANDOM, 1);
    fill(KIND_ZERO, 2);
    for (int i = 0; i < PAGES * PAGE_WORDS; i++)
        assert_true(pages[i] == 0);
}

/* Rewritten pages differ all over: no part of an old one is worth keeping. */
static void test_versions_differ(void **state)
{
    uint64_t old[PAGE_WORDS], new[PAGE_WORDS];

    for (Kind kind = KIND_RANDOM; kind < KIND_COUNT; kind++) {
        int same = 0;

        content_fill(old, 7, &(PageState){.version = 1, .kind = kind});
        content_fill(new, 7, &(PageState){.version = 2, .kind = kind});
        for (int i = 0; i < PAGE_WORDS; i++)
            same += old[i] == new[i];
        assert_in_range(same, 0, kind == KIND_RANDOM ? 0 : PAGE_WORDS / 10);
    }
}

static void test_content_is_repeatable(void **state)
{
    uint64_t again[PAGE_WORDS];

    for (Kind kind = 0; kind < KIND_COUNT; kind++) {
        fill(kind, 3);
        content_fill(again, 5, &(PageState){.version = 3, .kind = kind});
        assert_memory_equal(again, pages + 5 * PAGE_WORDS, PAGE_SIZE);
    }
}

/* A later patch takes the place of an earlier one, and nothing else changes. */
static void test_patch_is_eight_bytes(void **state)
{
    uint64_t base[PAGE_WORDS], patched[PAGE_WORDS];
    PageState page = {.version = 4, .kind = KIND_RANDOM};
    int changed = 0;

    content_fill(base, 9, &page);
    memcpy(patched, base, PAGE_SIZE);
    for (page.patches = 1; page.patches <= 3; page.patches++)
        content_patch(patched, 9, &page);
    for (int i = 0; i < PAGE_WORDS; i++)
        changed += base[i] != patched[i];
    assert_int_equal(changed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_does_not_compress),
        cmocka_unit_test(test_text_compresses_as_text_does),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_versions_differ),
        cmocka_unit_test(test_content_is_repeatable),
        cmocka_unit_test(test_patch_is_eight_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
