/*
 * How fast pages are compared, fingerprinted and noted
 *
 *   ninja -C build bench/encoder && build/bench/encoder [MIB]
 *
 * Content is read from memory, not from a cache: it is MIB (512) mebibytes
 * large.  memcpy() of the same pages is the peer.  The best of some passes
 * counts; the rate is of guest memory looked at by one core, in CPU time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "page/difference.h"
#include "page/fingerprint.h"
#include "page/sent_store.h"
#include "page/zero.h"

#define BYTES 4096u
#define PASSES 5

typedef struct {
    uint64_t pages;
    uint8_t *content, *copy;
    uint64_t sink; /* what is computed is used */
} Bench;

static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

typedef void (*Pass)(Bench *bench, gconstpointer data);

static void report(const Bench *bench, const char *name, double seconds)
{
    printf("%-34s %8.2f GB/s %8.0f ns a page\n", name, (double)bench->pages * BYTES / seconds / 1e9,
           seconds * 1e9 / (double)bench->pages);
}

static void measure(Bench *bench, const char *name, Pass pass, gconstpointer data)
{
    double best = 1e9;

    for (int i = 0; i < PASSES; i++) {
        double start = cpu_seconds();

        pass(bench, data);
        best = MIN(best, cpu_seconds() - start);
    }
    report(bench, name, best);
}

static void pass_copy(Bench *bench, gconstpointer data)
{
    for (uint64_t i = 0; i < bench->pages; i++)
        memcpy(bench->copy + i * BYTES, bench->content + i * BYTES, BYTES);
}

/* Into one buffer: what reading alone costs. */
static void pass_read(Bench *bench, gconstpointer data)
{
    uint8_t buffer[BYTES];

    for (uint64_t i = 0; i < bench->pages; i++) {
        memcpy(buffer, bench->content + i * BYTES, BYTES);
        bench->sink += buffer[i % BYTES];
    }
}

static void pass_zero(Bench *bench, gconstpointer data)
{
    const ZeroWay *way = data;

    for (uint64_t i = 0; i < bench->pages; i++)
        bench->sink += (uint64_t)way->is_zero(bench->copy + i * BYTES);
}

static void pass_difference(Bench *bench, gconstpointer data)
{
    const DifferenceWay *way = data;
    uint64_t bits[DIFFERENCE_WORDS];

    for (uint64_t i = 0; i < bench->pages; i++)
        bench->sink +=
            (uint64_t)way->compare(bench->copy + i * BYTES, bench->content + i * BYTES, bits);
}

static void pass_fingerprint(Bench *bench, gconstpointer data)
{
    uint64_t values[FINGERPRINT_PAGE_MAX];

    for (uint64_t i = 0; i < bench->pages; i++) {
        fingerprint_page(data, bench->content + i * BYTES, 128, values);
        bench->sink += values[0];
    }
}

static void measure_ways(Bench *bench)
{
    const DifferenceWay *difference;
    const FingerprintWay *fingerprint;
    const ZeroWay *zero;
    uint64_t words[FINGERPRINT_KEY_WORDS];
    char name[64];

    for (guint i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15);
    for (guint i = 0; (fingerprint = fingerprint_way(i)); i++) {
        g_autoptr(FingerprintKey) key = fingerprint_key_new_known(words, fingerprint);

        g_snprintf(name, sizeof name, "fingerprint of 128, %s", fingerprint->name);
        if (fingerprint->is_available())
            measure(bench, name, pass_fingerprint, key);
    }
    for (guint i = 0; (difference = difference_way(i)); i++) {
        g_snprintf(name, sizeof name, "difference, %s", difference->name);
        if (difference->is_available())
            measure(bench, name, pass_difference, difference);
    }
    memset(bench->copy, 0, bench->pages * BYTES);
    for (guint i = 0; (zero = zero_way(i)); i++) {
        g_snprintf(name, sizeof name, "zero, %s", zero->name);
        if (zero->is_available())
            measure(bench, name, pass_zero, zero);
    }
}

/* One pass of notes; what changed before does not count. */
static void note_all(Bench *bench, SentStore *store, const char *name, double *wire_bytes)
{
    double start = cpu_seconds();
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < bench->pages; i++) {
        SegmentList list;
        PageVerdict verdict = sent_store_note(store, 0, i, bench->content + i * BYTES, &list);

        if (verdict == PAGE_SEGMENTS)
            bytes += segments_encoded_bytes(&list);
        else if (verdict == PAGE_WHOLE)
            bytes += BYTES;
    }
    report(bench, name, cpu_seconds() - start);
    *wire_bytes = (double)bytes / (double)bench->pages;
}

/* New words at so many places of each page; 512: in all. */
static void change(Bench *bench, guint places)
{
    static uint64_t state = 1;

    for (uint64_t i = 0; i < bench->pages; i++) {
        for (guint place = 0; place < places; place++) {
            uint64_t word;

            state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
            word = places < 512 ? state >> 55 : place;
            memcpy(bench->content + i * BYTES + word * 8, &state, 8);
        }
    }
}

static void measure_store(Bench *bench, uint64_t budget, SentStoreMode mode)
{
    g_autoptr(SentStore) store = sent_store_new(&bench->pages, 1, bench->pages, budget, mode);
    static const struct {
        const char *name;
        guint places;
    } passes[] = {{"first", 0},
                  {"unchanged", 0},
                  {"8 bytes changed", 1},
                  {"8 bytes changed, again", 1},
                  {"32 bytes changed", 4},
                  {"all changed", 512},
                  {"all changed, again", 512},
                  {"unchanged, again", 0}};
    SentStoreCounts counts;

    printf("store, %s, %u MiB (%.1f %%):\n", sent_store_mode_name(mode), (guint)(budget >> 20),
           100.0 * (double)budget / (double)(bench->pages * BYTES));
    for (guint i = 0; i < G_N_ELEMENTS(passes); i++) {
        g_autofree char *name = g_strdup_printf("  %s", passes[i].name);
        double wire_bytes;

        change(bench, passes[i].places);
        note_all(bench, store, name, &wire_bytes);
        printf("%-34s %8.1f bytes a page\n", "", wire_bytes);
    }
    sent_store_get_counts(store, &counts);
    printf("  blocks of %u, %.1f MiB used, by shadow %.0f %%\n", sent_store_get_block_bytes(store),
           (double)sent_store_get_bytes(store) / (1 << 20),
           100.0 * (double)counts.by_shadow /
               (double)MAX(1, counts.by_shadow + counts.by_fingerprint));
}

static uint8_t *map(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                    -1, 0);

    if (at == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    return at;
}

int main(int argc, char **argv)
{
    uint64_t bytes = (argc > 1 ? g_ascii_strtoull(argv[1], NULL, 10) : 512) << 20;
    Bench bench = {bytes / BYTES, map(bytes), map(bytes), 0};

    change(&bench, 512);
    measure(&bench, "memcpy to another place", pass_copy, NULL);
    measure(&bench, "memcpy into a buffer", pass_read, NULL);
    measure_ways(&bench);
    munmap(bench.copy, bytes);
    measure_store(&bench, bytes / 16, SENT_STORE_AUTO);
    measure_store(&bench, bytes / 4, SENT_STORE_AUTO);
    measure_store(&bench, bytes / 16, SENT_STORE_FINGERPRINT);
    measure_store(&bench, bytes / 8 * 9, SENT_STORE_SHADOW);
    printf("(%u)\n", (guint)(bench.sink & 1));
    munmap(bench.content, bytes);
    return EXIT_SUCCESS;
}
