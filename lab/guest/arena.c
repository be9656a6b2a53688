#define _GNU_SOURCE
#include "arena.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "console.h"

static struct {
    uint64_t pages;
    uint64_t *words;
    PageState *states;
    atomic_ullong errors;
} arena;

static uint64_t *page_address(uint64_t page)
{
    return arena.words + page * PAGE_WORDS;
}

static void report_difference(uint64_t page, const uint64_t *want)
{
    const PageState *state = &arena.states[page];
    const uint64_t *got = page_address(page);
    int i = 0;

    while (i < PAGE_WORDS - 1 && got[i] == want[i])
        i++;
    if (atomic_fetch_add(&arena.errors, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD page=%lu kind=%d version=%u patches=%u offset=%d want=%016lx got=%016lx",
            page, state->kind, state->version, state->patches, i * 8, want[i], got[i]);
}

void arena_check_page(uint64_t page)
{
    uint64_t want[PAGE_WORDS];

    content_fill(want, page, &arena.states[page]);
    if (arena.states[page].patches)
        content_patch(want, page, &arena.states[page]);
    if (memcmp(want, page_address(page), PAGE_SIZE))
        report_difference(page, want);
}

uint64_t arena_digest_page(uint64_t page)
{
    const uint64_t *words = page_address(page);
    uint64_t digest = page;

    for (int i = 0; i < PAGE_WORDS; i++)
        digest = (digest ^ words[i]) * 0x100000001b3u;
    return mix(digest);
}

static void rewrite_page(uint64_t page, Kind kind)
{
    PageState *state = &arena.states[page];

    state->version++;
    state->patches = 0;
    state->kind = kind;
    content_fill(page_address(page), page, state);
}

static void patch_page(uint64_t page)
{
    arena.states[page].patches++;
    content_patch(page_address(page), page, &arena.states[page]);
}

void arena_write_page(uint64_t page, Pattern pattern, uint64_t *random)
{
    switch (pattern) {
    case PATTERN_SPARSE:
        patch_page(page);
        break;
    case PATTERN_DENSE:
    case PATTERN_INTENSIVE:
        rewrite_page(page, KIND_RANDOM);
        break;
    case PATTERN_TEXT:
        rewrite_page(page, KIND_TEXT);
        break;
    case PATTERN_ZERO:
        rewrite_page(page, arena.states[page].kind == KIND_ZERO ? KIND_RANDOM : KIND_ZERO);
        break;
    case PATTERN_MIXED:
        arena_write_page(page, 1 + next_random(random) % (PATTERN_MIXED - 1), random);
        break;
    default:
        break;
    }
}

uint64_t arena_sum_page(uint64_t page)
{
    const uint64_t *words = page_address(page);
    uint64_t sum = 0;

    for (int i = 0; i < PAGE_WORDS; i++)
        sum += words[i];
    return sum;
}

void arena_touch_page(uint64_t page)
{
    (void)*(volatile const uint64_t *)page_address(page);
}

void arena_free_page(uint64_t page)
{
    arena.states[page] = (PageState){.version = arena.states[page].version + 1, .kind = KIND_ZERO};
    if (madvise(page_address(page), PAGE_SIZE, MADV_DONTNEED))
        die("free");
}

uint64_t arena_get_pages(void)
{
    return arena.pages;
}

unsigned long long arena_get_errors(void)
{
    return arena.errors;
}

void arena_make(uint64_t pages, Kind kind)
{
    arena.pages = pages;
    arena.words = mmap(NULL, pages * PAGE_SIZE + 1, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* Has its memory before the arena has: a page of it in each few of the
     * arena's would keep the kernel from ever having a huge one free again. */
    arena.states = mmap(NULL, (pages + 1) * sizeof(*arena.states), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (arena.words == MAP_FAILED || arena.states == MAP_FAILED)
        die("arena");
    for (uint64_t page = 0; page < pages; page++)
        rewrite_page(page, kind);
}
