/*
 * What a page of the workload's arena holds
 *
 * Theory of operation: content is a function of the page's number and its
 * state alone, so a page can be made anew and compared at any time, and old
 * and new content of a page have nothing in common but their kind.
 *
 * Kinds: zero; random, which nobody can compress; text, lines of a web
 * server's log as the busy memory of a real service is: LZ4 makes it 2.5 to 4
 * times smaller (tests/unit/lab), zstd more.
 *
 * A patch is 8 bytes at one place of a page that its version chooses; a
 * further patch goes to the same place, so the last one is all that is known.
 */
#pragma once

#include <stdint.h>

enum { PAGE_SIZE = 4096, PAGE_WORDS = PAGE_SIZE / 8 };

typedef enum { KIND_ZERO, KIND_RANDOM, KIND_TEXT, KIND_COUNT } Kind;

extern const char *const kind_names[KIND_COUNT];

typedef struct {
    uint32_t version; /* counts rewrites */
    uint32_t patches; /* since then */
    Kind kind;
} PageState;

uint64_t mix(uint64_t x);
uint64_t hash3(uint64_t a, uint64_t b, uint64_t c);

/* The next of a sequence of random numbers; *state is not 0. */
uint64_t next_random(uint64_t *state);

/* Fills PAGE_WORDS words with what *page* holds, its patches left out. */
void content_fill(uint64_t *words, uint64_t page, const PageState *state);

/* Writes the last of the page's patches over it. */
void content_patch(uint64_t *words, uint64_t page, const PageState *state);
