#define _GNU_SOURCE
#include "writers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "console.h"
#include "content.h"
#include "touch.h"

enum {
    TICK_MS = 5,
    BATCH = 64, /* pages between two looks at the clock or the settings */
};

typedef struct {
    unsigned number;
    uint64_t random;
    uint64_t write_cursor, check_cursor;
    uint64_t touch_cursor, touch_passes;
    uint64_t digest;
    volatile uint64_t sum; /* of all that was read: nobody wants it, but so it is read */
    double write_debt, check_debt;
} Writer;

static struct {
    unsigned threads;
    Writer each[MAX_WRITERS];

    pthread_mutex_t lock; /* protects the six below */
    pthread_cond_t changed;
    Settings settings;
    unsigned generation; /* of all of these */
    unsigned checks_wanted, frees_wanted;
    uint64_t free_from; /* the first page to free */

    atomic_uint checks_done, frees_done; /* count threads */
    int wake_fd;                         /* a check or free has ended */

    atomic_ullong passes, written, read;
} writers;

static void wake(void)
{
    uint64_t one = 1;

    if (write(writers.wake_fd, &one, sizeof(one)) < 0)
        die("eventfd");
}

static uint64_t take_due(double *debt, uint64_t per_second, double elapsed_ms)
{
    double due = *debt + (double)per_second / writers.threads * elapsed_ms / 1e3;
    uint64_t whole = due;

    *debt = due - whole;
    return whole;
}

/* How many of the first *limit* pages this writer owns. */
static uint64_t own_pages(const Writer *writer, uint64_t limit)
{
    return (limit + writers.threads - 1 - writer->number) / writers.threads;
}

static uint64_t own_page(const Writer *writer, uint64_t index)
{
    return index * writers.threads + writer->number;
}

/* The page to write or read next, of the *own* first ones. */
static uint64_t next_page(Writer *writer, const Settings *settings, uint64_t own)
{
    if (!settings->sequential)
        return own_page(writer, next_random(&writer->random) % own);
    if (writer->write_cursor >= own)
        writer->write_cursor = 0;
    return own_page(writer, writer->write_cursor++);
}

static void read_some(Writer *writer, const Settings *settings, uint64_t count)
{
    uint64_t own = own_pages(writer, settings->span);

    for (uint64_t i = 0; i < count && own; i++)
        writer->sum += arena_sum_page(next_page(writer, settings, own));
    writers.read += own ? count : 0;
}

/* The next page of a pass over the *own* first ones. */
static uint64_t next_touched(Writer *writer, bool sequential, uint64_t own)
{
    uint64_t index;

    if (writer->touch_cursor >= own) {
        writer->touch_cursor = 0;
        writer->touch_passes++;
    }
    index = writer->touch_cursor++;
    return own_page(writer, sequential ? index : touch_permute(index, own, writer->touch_passes));
}

static void touch_some(Writer *writer, const Settings *settings, uint64_t count)
{
    uint64_t own = own_pages(writer, settings->span);

    for (uint64_t i = 0; i < count && own; i++)
        touch_page(next_touched(writer, settings->sequential, own));
    writers.read += own ? count : 0;
}

static void write_some(Writer *writer, const Settings *settings, uint64_t count)
{
    uint64_t own = own_pages(writer, settings->span);

    if (!own)
        return;
    for (uint64_t i = 0; i < count; i++)
        arena_write_page(next_page(writer, settings, own), settings->pattern, &writer->random);
    writers.written += count;
}

/* What the pattern asks for, for *elapsed_ms* or, without a limit, a batch. */
static void work_some(Writer *writer, const Settings *settings, double elapsed_ms)
{
    uint64_t count =
        settings->pps ? take_due(&writer->write_debt, settings->pps, elapsed_ms) : BATCH;

    if (settings->pattern == PATTERN_READ)
        read_some(writer, settings, count);
    else if (settings->pattern == PATTERN_TOUCH)
        touch_some(writer, settings, count);
    else if (settings->pattern != PATTERN_IDLE)
        write_some(writer, settings, count);
}

static void check_some(Writer *writer, uint64_t count)
{
    uint64_t own = own_pages(writer, arena_get_pages());

    for (uint64_t i = 0; i < count && own; i++) {
        arena_check_page(own_page(writer, writer->check_cursor));
        if (++writer->check_cursor == own) {
            writer->check_cursor = 0;
            if (writer->number == 0)
                writers.passes++;
        }
    }
}

static void check_all(Writer *writer)
{
    uint64_t own = own_pages(writer, arena_get_pages());

    writer->digest = 0;
    for (uint64_t i = 0; i < own; i++) {
        arena_check_page(own_page(writer, i));
        writer->digest += arena_digest_page(own_page(writer, i));
    }
    writers.checks_done++;
    wake();
}

/* Page by page: neighbours may be another writer's. */
static void free_own(const Writer *writer, uint64_t from)
{
    uint64_t own = own_pages(writer, arena_get_pages());

    for (uint64_t i = own_pages(writer, from); i < own; i++)
        arena_free_page(own_page(writer, i));
    writers.frees_done++;
    wake();
}

/* Waits a tick, or for a new generation where there is nothing to do. */
static void wait_for_work(const Settings *seen, unsigned generation)
{
    bool idle = seen->pattern == PATTERN_IDLE && !seen->check;
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&writers.lock);
    while (idle && generation == writers.generation)
        pthread_cond_wait(&writers.changed, &writers.lock);
    if (!idle && generation == writers.generation)
        pthread_cond_timedwait(&writers.changed, &writers.lock, &until);
    pthread_mutex_unlock(&writers.lock);
}

static void *writer_main(void *data)
{
    Writer *writer = data;
    unsigned checks_seen = 0, frees_seen = 0;
    double last = now_ms();

    for (;;) {
        Settings settings;
        unsigned checks_wanted, frees_wanted, generation;
        uint64_t free_from;
        double now = now_ms(), elapsed = now - last < 100 ? now - last : 100;
        bool flat_out;

        last = now;
        pthread_mutex_lock(&writers.lock);
        settings = writers.settings;
        checks_wanted = writers.checks_wanted;
        frees_wanted = writers.frees_wanted;
        free_from = writers.free_from;
        generation = writers.generation;
        pthread_mutex_unlock(&writers.lock);

        flat_out = settings.pattern != PATTERN_IDLE && !settings.pps;
        work_some(writer, &settings, elapsed);
        check_some(writer, take_due(&writer->check_debt, settings.check, elapsed));
        if (frees_seen != frees_wanted) {
            frees_seen = frees_wanted;
            free_own(writer, free_from);
            last = now_ms();
        } else if (checks_seen != checks_wanted) {
            checks_seen = checks_wanted;
            check_all(writer);
            last = now_ms();
        } else if (!flat_out) {
            wait_for_work(&settings, generation);
        }
    }
    return NULL;
}

void writers_publish(const Settings *settings)
{
    pthread_mutex_lock(&writers.lock);
    writers.settings = *settings;
    writers.generation++;
    pthread_cond_broadcast(&writers.changed);
    pthread_mutex_unlock(&writers.lock);
}

void writers_order_check(void)
{
    pthread_mutex_lock(&writers.lock);
    writers.checks_wanted++;
    writers.checks_done = 0;
    writers.generation++;
    pthread_cond_broadcast(&writers.changed);
    pthread_mutex_unlock(&writers.lock);
}

void writers_order_free(uint64_t first_page)
{
    pthread_mutex_lock(&writers.lock);
    writers.frees_wanted++;
    writers.frees_done = 0;
    writers.free_from = first_page;
    writers.generation++;
    pthread_cond_broadcast(&writers.changed);
    pthread_mutex_unlock(&writers.lock);
}

bool writers_have_checked(uint64_t *ret_digest)
{
    if (writers.checks_done != writers.threads)
        return false;
    *ret_digest = 0;
    for (unsigned i = 0; i < writers.threads; i++)
        *ret_digest += writers.each[i].digest;
    return true;
}

bool writers_have_freed(uint64_t *ret_pages)
{
    *ret_pages = arena_get_pages() - writers.free_from;
    return writers.frees_done == writers.threads;
}

WritersStatus writers_get_status(void)
{
    return (WritersStatus){writers.threads, writers.passes, writers.written, writers.read};
}

void writers_start(unsigned threads, const Settings *settings, int wake_fd)
{
    pthread_condattr_t attributes;

    writers.threads = threads;
    writers.settings = *settings;
    writers.wake_fd = wake_fd;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&writers.changed, &attributes);
    pthread_mutex_init(&writers.lock, NULL);
    for (unsigned i = 0; i < threads; i++) {
        pthread_t thread;

        writers.each[i] = (Writer){.number = i, .random = hash3(i, 3, 3) | 1};
        if (pthread_create(&thread, NULL, writer_main, &writers.each[i]))
            die("writer thread");
    }
}
