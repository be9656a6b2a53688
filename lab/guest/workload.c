/*
 * The lab guest's workload: writes memory in a known pattern and proves that
 * it still holds what was written
 *
 * Theory of operation: the arena is lab.mb MiB of anonymous memory.  What a
 * page holds is a function of its entry in a table (content.h), so every page
 * can be checked at any time, also after the machine was moved.  One writer
 * thread per vCPU owns the pages whose number modulo the threads is its own;
 * it writes and checks them in turns, so neither the pages nor their table
 * entries need locks.  All randomness is seeded.
 *
 * The main thread runs at real-time priority, so that a busy guest answers in
 * time.  It serves TCP port 7000, one command a line:
 *
 *   beat MS              a line "beat SEQUENCE GUEST-MS PASSES ERRORS WRITTEN"
 *                        every MS ms; SEQUENCE counts from 0 per connection
 *   status               one line of key=value
 *   set KEY=VALUE ...    pattern, order, pps, span, check, disk-rate; answers "ok"
 *   check                checks the whole arena; "checked pages= errors= digest="
 *   free MB              gives the last MB MiB of the arena back to the kernel: they
 *                        are zero, and no memory is behind them until they are
 *                        written; "freed pages="
 *   disk-check           reads every acknowledged block; "checked blocks= errors="
 *   echo TEXT            answers the same line
 *   poweroff             ends the guest
 *
 * and reports on the console: "lab: ready", once a second "lab: beat …", and
 * "lab: BAD …" for every finding (the first hundred).
 *
 * lab.content, on the kernel command line only, says what all pages hold at
 * first: random, text or zero.
 *
 * Limits: digest means something only while the pattern is idle.  The table
 * itself is not checked other than through the pages it describes.
 */
#define _GNU_SOURCE
#include "content.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

enum {
    PORT = 7000,
    MAX_CONNECTIONS = 16,
    MAX_LINE = 256,
    MAX_FINDINGS_SHOWN = 100,
    MAX_THREADS = 16,
    TICK_MS = 5,
    BATCH = 64, /* pages between two looks at the clock or the settings */
    SEND_BUFFER = 1 << 20,
    DISK_MAX_BLOCKS = 16384,
};

typedef enum {
    PATTERN_IDLE,
    PATTERN_SPARSE,    /* 8 bytes a page */
    PATTERN_DENSE,     /* whole pages of new random bytes */
    PATTERN_INTENSIVE, /* the same; the name for rates beyond what a link carries */
    PATTERN_TEXT,      /* whole pages of other text, which compresses well */
    PATTERN_ZERO,      /* pages become zero, and later random again */
    PATTERN_MIXED,     /* one of the above at random, page by page */
    PATTERN_READ,      /* reads whole pages, writes nothing */
    PATTERN_COUNT,
} Pattern;

static const char *const pattern_names[] = {"idle", "sparse", "dense", "intensive",
                                            "text", "zero",   "mixed", "read"};
_Static_assert(sizeof(pattern_names) / sizeof(*pattern_names) == PATTERN_COUNT, "names");

typedef struct {
    Pattern pattern;
    bool sequential; /* one page after the other; else in random order */
    uint64_t pps;    /* pages written a second by all threads; 0: no limit */
    uint64_t span;   /* pages written to, from the start of the arena */
    uint64_t check;  /* pages checked a second by all threads */
} Settings;

typedef struct {
    unsigned number;
    uint64_t random;
    uint64_t write_cursor, check_cursor;
    uint64_t digest;
    volatile uint64_t sum; /* of all that was read: nobody wants it, but so it is read */
    double write_debt, check_debt;
} Writer;

static struct {
    uint64_t pages;
    unsigned threads;
    uint64_t *arena;
    PageState *states;
    Writer writers[MAX_THREADS];

    pthread_mutex_t lock; /* protects the six below */
    pthread_cond_t changed;
    Settings settings;
    unsigned generation; /* of all of these */
    unsigned checks_wanted, frees_wanted;
    uint64_t free_from; /* the first page to free */

    atomic_uint checks_done, frees_done; /* count threads */
    int wake_fd;                         /* a check, disk check or free has ended */

    atomic_ullong passes, errors, written, read;
} lab;

static struct {
    int fd;
    uint32_t blocks;
    atomic_uint rate; /* blocks a second; 0: no writes */
    uint64_t acknowledged[DISK_MAX_BLOCKS];
    atomic_ullong sequence;
    atomic_bool check_wanted, check_done;
    atomic_ullong checked, errors;
} disk = {.fd = -1};

/* ---- helpers ---- */

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[MAX_LINE];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (n > (int)sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    if (write(STDOUT_FILENO, line, n) < 0)
        return;
}

_Noreturn static void die(const char *what)
{
    say("lab: FATAL %s: %s", what, strerror(errno));
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- pages ---- */

static uint64_t *page_address(uint64_t page)
{
    return lab.arena + page * PAGE_WORDS;
}

static void report_difference(uint64_t page, const uint64_t *want)
{
    const PageState *state = &lab.states[page];
    const uint64_t *got = page_address(page);
    int i = 0;

    while (i < PAGE_WORDS - 1 && got[i] == want[i])
        i++;
    if (atomic_fetch_add(&lab.errors, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD page=%lu kind=%d version=%u patches=%u offset=%d want=%016lx got=%016lx",
            page, state->kind, state->version, state->patches, i * 8, want[i], got[i]);
}

static void check_page(uint64_t page)
{
    uint64_t want[PAGE_WORDS];

    content_fill(want, page, &lab.states[page]);
    if (lab.states[page].patches)
        content_patch(want, page, &lab.states[page]);
    if (memcmp(want, page_address(page), PAGE_SIZE))
        report_difference(page, want);
}

static uint64_t digest_page(uint64_t page)
{
    const uint64_t *words = page_address(page);
    uint64_t digest = page;

    for (int i = 0; i < PAGE_WORDS; i++)
        digest = (digest ^ words[i]) * 0x100000001b3u;
    return mix(digest);
}

static void rewrite_page(uint64_t page, Kind kind)
{
    PageState *state = &lab.states[page];

    state->version++;
    state->patches = 0;
    state->kind = kind;
    content_fill(page_address(page), page, state);
}

static void patch_page(uint64_t page)
{
    lab.states[page].patches++;
    content_patch(page_address(page), page, &lab.states[page]);
}

static void write_page(uint64_t page, Pattern pattern, uint64_t *random)
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
        rewrite_page(page, lab.states[page].kind == KIND_ZERO ? KIND_RANDOM : KIND_ZERO);
        break;
    case PATTERN_MIXED:
        write_page(page, 1 + next_random(random) % (PATTERN_MIXED - 1), random);
        break;
    default:
        break;
    }
}

/* ---- writers ---- */

static uint64_t take_due(double *debt, uint64_t per_second, double elapsed_ms)
{
    double due = *debt + (double)per_second / lab.threads * elapsed_ms / 1e3;
    uint64_t whole = due;

    *debt = due - whole;
    return whole;
}

/* How many of the first *limit* pages this writer owns. */
static uint64_t own_pages(const Writer *writer, uint64_t limit)
{
    return (limit + lab.threads - 1 - writer->number) / lab.threads;
}

static uint64_t own_page(const Writer *writer, uint64_t index)
{
    return index * lab.threads + writer->number;
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

static uint64_t sum_page(uint64_t page)
{
    const uint64_t *words = page_address(page);
    uint64_t sum = 0;

    for (int i = 0; i < PAGE_WORDS; i++)
        sum += words[i];
    return sum;
}

static void read_some(Writer *writer, const Settings *settings, uint64_t count)
{
    uint64_t own = own_pages(writer, settings->span);

    for (uint64_t i = 0; i < count && own; i++)
        writer->sum += sum_page(next_page(writer, settings, own));
    lab.read += own ? count : 0;
}

static void write_some(Writer *writer, const Settings *settings, uint64_t count)
{
    uint64_t own = own_pages(writer, settings->span);

    if (!own)
        return;
    for (uint64_t i = 0; i < count; i++)
        write_page(next_page(writer, settings, own), settings->pattern, &writer->random);
    lab.written += count;
}

/* What the pattern asks for, for *elapsed_ms* or, without a limit, a batch. */
static void work_some(Writer *writer, const Settings *settings, double elapsed_ms)
{
    uint64_t count =
        settings->pps ? take_due(&writer->write_debt, settings->pps, elapsed_ms) : BATCH;

    if (settings->pattern == PATTERN_READ)
        read_some(writer, settings, count);
    else if (settings->pattern != PATTERN_IDLE)
        write_some(writer, settings, count);
}

static void check_some(Writer *writer, uint64_t count)
{
    uint64_t own = own_pages(writer, lab.pages);

    for (uint64_t i = 0; i < count && own; i++) {
        check_page(own_page(writer, writer->check_cursor));
        if (++writer->check_cursor == own) {
            writer->check_cursor = 0;
            if (writer->number == 0)
                lab.passes++;
        }
    }
}

static void check_all(Writer *writer)
{
    uint64_t own = own_pages(writer, lab.pages), wake = 1;

    writer->digest = 0;
    for (uint64_t i = 0; i < own; i++) {
        check_page(own_page(writer, i));
        writer->digest += digest_page(own_page(writer, i));
    }
    lab.checks_done++;
    if (write(lab.wake_fd, &wake, sizeof(wake)) < 0)
        die("eventfd");
}

/* Page by page: neighbours may be another writer's. */
static void free_own(const Writer *writer, uint64_t from)
{
    uint64_t own = own_pages(writer, lab.pages), wake = 1;

    for (uint64_t i = own_pages(writer, from); i < own; i++) {
        uint64_t page = own_page(writer, i);

        lab.states[page] = (PageState){.version = lab.states[page].version + 1, .kind = KIND_ZERO};
        if (madvise(page_address(page), PAGE_SIZE, MADV_DONTNEED))
            die("free");
    }
    lab.frees_done++;
    if (write(lab.wake_fd, &wake, sizeof(wake)) < 0)
        die("eventfd");
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
    pthread_mutex_lock(&lab.lock);
    while (idle && generation == lab.generation)
        pthread_cond_wait(&lab.changed, &lab.lock);
    if (!idle && generation == lab.generation)
        pthread_cond_timedwait(&lab.changed, &lab.lock, &until);
    pthread_mutex_unlock(&lab.lock);
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
        pthread_mutex_lock(&lab.lock);
        settings = lab.settings;
        checks_wanted = lab.checks_wanted;
        frees_wanted = lab.frees_wanted;
        free_from = lab.free_from;
        generation = lab.generation;
        pthread_mutex_unlock(&lab.lock);

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

/* ---- disk ---- */

/* A block: its number, its sequence, and words that follow from both. */
static void fill_block(uint64_t *words, uint32_t block, uint64_t sequence)
{
    uint64_t x = hash3(block, sequence, 2) | 1;

    words[0] = block;
    words[1] = sequence;
    for (int i = 2; i < PAGE_WORDS; i++)
        words[i] = next_random(&x);
}

static void disk_failed(uint32_t block, const char *what)
{
    if (atomic_fetch_add(&disk.errors, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD disk block=%u sequence=%lu %s", block, disk.acknowledged[block], what);
}

static void disk_check_block(uint64_t *buffer, uint32_t block)
{
    uint64_t want[PAGE_WORDS];

    if (!disk.acknowledged[block])
        return;
    fill_block(want, block, disk.acknowledged[block]);
    if (pread(disk.fd, buffer, PAGE_SIZE, (off_t)block * PAGE_SIZE) != PAGE_SIZE)
        disk_failed(block, strerror(errno));
    else if (memcmp(want, buffer, PAGE_SIZE))
        disk_failed(block, "differs");
    disk.checked++;
}

static void disk_write_block(uint64_t *buffer, uint32_t block)
{
    uint64_t sequence = disk.sequence + 1;

    fill_block(buffer, block, sequence);
    if (pwrite(disk.fd, buffer, PAGE_SIZE, (off_t)block * PAGE_SIZE) != PAGE_SIZE ||
        fdatasync(disk.fd)) {
        disk_failed(block, strerror(errno));
        return;
    }
    disk.acknowledged[block] = sequence;
    disk.sequence = sequence;
}

static void *disk_main(void *data)
{
    uint64_t random = 7, wake = 1;
    uint64_t *buffer = aligned_alloc(PAGE_SIZE, PAGE_SIZE);

    (void)data;
    for (;;) {
        unsigned rate = disk.rate;

        if (atomic_exchange(&disk.check_wanted, false)) {
            disk.checked = 0;
            for (uint32_t block = 0; block < disk.blocks; block++)
                disk_check_block(buffer, block);
            disk.check_done = true;
            if (write(lab.wake_fd, &wake, sizeof(wake)) < 0)
                die("eventfd");
        }
        if (rate) {
            disk_write_block(buffer, next_random(&random) % disk.blocks);
            disk_check_block(buffer, next_random(&random) % disk.blocks);
        }
        usleep(rate ? 1000000 / rate : 20000);
    }
    return NULL;
}

static void disk_start(void)
{
    uint64_t bytes = 0;
    pthread_t thread;

    disk.fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk.fd < 0)
        return;
    if (ioctl(disk.fd, BLKGETSIZE64, &bytes))
        die("size of /dev/vda");
    disk.blocks = bytes / PAGE_SIZE < DISK_MAX_BLOCKS ? bytes / PAGE_SIZE : DISK_MAX_BLOCKS;
    if (disk.blocks && pthread_create(&thread, NULL, disk_main, NULL))
        die("disk thread");
}

/* ---- settings ---- */

static bool set_one(Settings *settings, const char *key, const char *value)
{
    if (!strcmp(key, "pattern")) {
        for (int i = 0; i < PATTERN_COUNT; i++) {
            if (!strcmp(value, pattern_names[i])) {
                settings->pattern = i;
                return true;
            }
        }
        return false;
    }
    uint64_t number = strtoull(value, NULL, 10);

    if (!strcmp(key, "order")) {
        settings->sequential = !strcmp(value, "sequential");
        return settings->sequential || !strcmp(value, "random");
    }
    if (!strcmp(key, "pps"))
        settings->pps = number;
    else if (!strcmp(key, "span"))
        settings->span = number && number << 8 < lab.pages ? number << 8 : lab.pages;
    else if (!strcmp(key, "check"))
        settings->check = number;
    else if (!strcmp(key, "disk-rate"))
        disk.rate = number > 10000 ? 10000 : number;
    else
        return false;
    return true;
}

static void publish_settings(const Settings *settings)
{
    pthread_mutex_lock(&lab.lock);
    lab.settings = *settings;
    lab.generation++;
    pthread_cond_broadcast(&lab.changed);
    pthread_mutex_unlock(&lab.lock);
}

static void want_check(void)
{
    pthread_mutex_lock(&lab.lock);
    lab.checks_wanted++;
    lab.checks_done = 0;
    lab.generation++;
    pthread_cond_broadcast(&lab.changed);
    pthread_mutex_unlock(&lab.lock);
}

static void want_free(uint64_t from)
{
    pthread_mutex_lock(&lab.lock);
    lab.frees_wanted++;
    lab.frees_done = 0;
    lab.free_from = from;
    lab.generation++;
    pthread_cond_broadcast(&lab.changed);
    pthread_mutex_unlock(&lab.lock);
}

/* ---- connections (main thread only) ---- */

typedef enum { WAITS_FOR_NOTHING, WAITS_FOR_CHECK, WAITS_FOR_DISK, WAITS_FOR_FREE } Waiting;

typedef struct {
    int fd; /* -1: free */
    int timer_fd;
    Waiting waiting;
    uint64_t sequence;
    char line[MAX_LINE];
    size_t filled;
} Connection;

static Connection connections[MAX_CONNECTIONS];
static Settings main_settings;

static void connection_close(Connection *connection)
{
    close(connection->fd);
    if (connection->timer_fd >= 0)
        close(connection->timer_fd);
    connection->fd = connection->timer_fd = -1;
}

/* A client that leaves SEND_BUFFER unread loses its connection. */
__attribute__((format(printf, 2, 3))) static void answer(Connection *connection, const char *format,
                                                         ...)
{
    char line[MAX_LINE + 8];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (n > (int)sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    if (send(connection->fd, line, n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
        connection_close(connection);
}

static void start_beat(Connection *connection, long ms)
{
    if (ms < 1 || ms > 10000) {
        answer(connection, "error: beat wants 1 to 10000 ms");
        return;
    }
    if (connection->timer_fd < 0)
        connection->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    struct itimerspec when = {.it_interval = {ms / 1000, ms % 1000 * 1000000},
                              .it_value = {0, 1000000}};

    timerfd_settime(connection->timer_fd, 0, &when, NULL);
}

static void beat(Connection *connection)
{
    uint64_t expirations;

    if (read(connection->timer_fd, &expirations, sizeof(expirations)) < 0)
        return;
    answer(connection, "beat %lu %.0f %llu %llu %llu", connection->sequence++, now_ms(), lab.passes,
           lab.errors + disk.errors, lab.written);
}

static void answer_status(Connection *connection)
{
    answer(connection,
           "pattern=%s pages=%lu threads=%u passes=%llu errors=%llu written=%llu read=%llu "
           "guest_ms=%.0f disk_blocks=%u disk_sequence=%llu disk_errors=%llu",
           pattern_names[main_settings.pattern], lab.pages, lab.threads, lab.passes, lab.errors,
           lab.written, lab.read, now_ms(), disk.blocks, disk.sequence, disk.errors);
}

static void set_from_words(Connection *connection, char *words)
{
    Settings settings = main_settings;

    for (char *save = NULL, *word = strtok_r(words, " ", &save); word;
         word = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(word, '=');

        if (!equals) {
            answer(connection, "error: %s is not KEY=VALUE", word);
            return;
        }
        *equals = 0;
        if (!set_one(&settings, word, equals + 1)) {
            answer(connection, "error: cannot set %s to %s", word, equals + 1);
            return;
        }
    }
    main_settings = settings;
    publish_settings(&settings);
    answer(connection, "ok");
}

static bool is_awaited(Connection *connection, Waiting what)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd >= 0 && connections[i].waiting == what) {
            answer(connection, "error: that is being done already");
            return true;
        }
    }
    return false;
}

static void start_check(Connection *connection, Waiting what)
{
    if (is_awaited(connection, what))
        return;
    if (what == WAITS_FOR_DISK && !disk.blocks) {
        answer(connection, "error: no disk");
        return;
    }
    connection->waiting = what;
    if (what == WAITS_FOR_DISK)
        disk.check_wanted = true;
    else
        want_check();
}

static void start_free(Connection *connection, uint64_t mb)
{
    if (is_awaited(connection, WAITS_FOR_FREE))
        return;
    connection->waiting = WAITS_FOR_FREE;
    want_free(mb << 8 < lab.pages ? lab.pages - (mb << 8) : 0);
}

static void finish_orders(void)
{
    uint64_t count;

    if (read(lab.wake_fd, &count, sizeof(count)) < 0)
        return;
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        Connection *connection = &connections[i];

        if (connection->fd < 0)
            continue;
        if (connection->waiting == WAITS_FOR_CHECK && lab.checks_done == lab.threads) {
            uint64_t digest = 0;

            for (unsigned t = 0; t < lab.threads; t++)
                digest += lab.writers[t].digest;
            connection->waiting = WAITS_FOR_NOTHING;
            answer(connection, "checked pages=%lu errors=%llu digest=%016lx", lab.pages, lab.errors,
                   digest);
        } else if (connection->waiting == WAITS_FOR_DISK &&
                   atomic_exchange(&disk.check_done, false)) {
            connection->waiting = WAITS_FOR_NOTHING;
            answer(connection, "checked blocks=%llu errors=%llu", disk.checked, disk.errors);
        } else if (connection->waiting == WAITS_FOR_FREE && lab.frees_done == lab.threads) {
            connection->waiting = WAITS_FOR_NOTHING;
            answer(connection, "freed pages=%lu", lab.pages - lab.free_from);
        }
    }
}

static void execute(Connection *connection, char *line)
{
    if (!strncmp(line, "beat ", 5))
        start_beat(connection, atol(line + 5));
    else if (!strncmp(line, "set ", 4))
        set_from_words(connection, line + 4);
    else if (!strncmp(line, "echo ", 5))
        answer(connection, "%s", line);
    else if (!strcmp(line, "status"))
        answer_status(connection);
    else if (!strncmp(line, "free ", 5))
        start_free(connection, strtoul(line + 5, NULL, 10));
    else if (!strcmp(line, "check"))
        start_check(connection, WAITS_FOR_CHECK);
    else if (!strcmp(line, "disk-check"))
        start_check(connection, WAITS_FOR_DISK);
    else if (!strcmp(line, "poweroff"))
        reboot(RB_POWER_OFF);
    else
        answer(connection, "error: unknown command %s", line);
}

static void receive(Connection *connection)
{
    ssize_t n = recv(connection->fd, connection->line + connection->filled,
                     MAX_LINE - connection->filled, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        connection_close(connection);
        return;
    }
    connection->filled += n;

    char *end;

    while (connection->fd >= 0 && (end = memchr(connection->line, '\n', connection->filled))) {
        size_t used = end + 1 - connection->line;

        *end = 0;
        execute(connection, connection->line);
        connection->filled -= used;
        memmove(connection->line, end + 1, connection->filled);
    }
    if (connection->fd >= 0 && connection->filled == MAX_LINE)
        connection_close(connection);
}

static void accept_connection(int listener)
{
    int one = 1, size = SEND_BUFFER, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd < 0) {
            connections[i] = (Connection){.fd = fd, .timer_fd = -1};
            return;
        }
    }
    close(fd);
}

static void serve(int listener, int second_fd)
{
    struct pollfd fds[3 + 2 * MAX_CONNECTIONS];
    uint64_t expirations;

    for (;;) {
        fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = second_fd, .events = POLLIN};
        fds[2] = (struct pollfd){.fd = lab.wake_fd, .events = POLLIN};
        for (int i = 0; i < MAX_CONNECTIONS; i++) {
            fds[3 + 2 * i] = (struct pollfd){.fd = connections[i].fd, .events = POLLIN};
            fds[4 + 2 * i] = (struct pollfd){.fd = connections[i].timer_fd, .events = POLLIN};
        }
        if (poll(fds, sizeof(fds) / sizeof(*fds), -1) < 0)
            continue;

        if (fds[0].revents)
            accept_connection(listener);
        if (fds[1].revents && read(second_fd, &expirations, sizeof(expirations)) > 0)
            say("lab: beat guest_ms=%.0f passes=%llu errors=%llu written=%llu", now_ms(),
                lab.passes, lab.errors + disk.errors, lab.written);
        if (fds[2].revents)
            finish_orders();
        for (int i = 0; i < MAX_CONNECTIONS; i++) {
            if (fds[4 + 2 * i].revents && connections[i].timer_fd == fds[4 + 2 * i].fd)
                beat(&connections[i]);
            if (fds[3 + 2 * i].revents && connections[i].fd == fds[3 + 2 * i].fd)
                receive(&connections[i]);
        }
    }
}

/* ---- start ---- */

static Kind kind_from_name(const char *name)
{
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        if (!strcmp(name, kind_names[kind]))
            return kind;
    }
    errno = EINVAL;
    die("lab.content");
}

/* Also what all pages hold at first. */
static void read_kernel_command_line(Settings *settings, Kind *content)
{
    static char text[4096];
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
        die("/proc/cmdline");
    close(fd);
    for (int round = 0; round < 2; round++) { /* lab.mb first: span is limited by it */
        char words[4096];

        memcpy(words, text, sizeof(words));
        for (char *save = NULL, *word = strtok_r(words, " \n", &save); word;
             word = strtok_r(NULL, " \n", &save)) {
            char *equals = strchr(word, '=');

            if (strncmp(word, "lab.", 4) || !equals)
                continue;
            *equals = 0;
            if (round == 0 && !strcmp(word, "lab.mb"))
                lab.pages = strtoull(equals + 1, NULL, 10) << 8;
            else if (round == 0 && !strcmp(word, "lab.content"))
                *content = kind_from_name(equals + 1);
            else if (round == 1)
                set_one(settings, word + 4, equals + 1);
        }
        if (round == 0)
            settings->span = lab.pages;
    }
}

static void start_writers(void)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lab.changed, &attributes);
    pthread_mutex_init(&lab.lock, NULL);
    for (unsigned i = 0; i < lab.threads; i++) {
        pthread_t thread;

        lab.writers[i] = (Writer){.number = i, .random = hash3(i, 3, 3) | 1};
        if (pthread_create(&thread, NULL, writer_main, &lab.writers[i]))
            die("writer thread");
    }
}

static int listen_on_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, (void *)&address, sizeof(address)) || listen(fd, 16))
        die("listen");
    return fd;
}

int main(void)
{
    struct itimerspec second = {.it_interval = {1, 0}, .it_value = {1, 0}};
    struct sched_param priority = {.sched_priority = 10};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    Kind content = KIND_RANDOM;

    lab.pages = 64 << 8;
    lab.threads = cpus < MAX_THREADS ? cpus : MAX_THREADS;
    read_kernel_command_line(&main_settings, &content);
    lab.arena = mmap(NULL, lab.pages * PAGE_SIZE + 1, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* Has its memory before the arena has: a page of it in each few of the
     * arena's would keep the kernel from ever having a huge one free again. */
    lab.states = mmap(NULL, (lab.pages + 1) * sizeof(*lab.states), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (lab.arena == MAP_FAILED || lab.states == MAP_FAILED)
        die("arena");
    for (uint64_t page = 0; page < lab.pages; page++)
        rewrite_page(page, content);

    lab.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = connections[i].timer_fd = -1;
    lab.settings = main_settings;
    start_writers();
    disk_start();

    int second_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int listener = listen_on_port();

    timerfd_settime(second_fd, 0, &second, NULL);
    if (sched_setscheduler(0, SCHED_FIFO, &priority))
        say("lab: no real-time priority: %s", strerror(errno));
    say("lab: ready pages=%lu threads=%u disk_blocks=%u", lab.pages, lab.threads, disk.blocks);
    serve(listener, second_fd);
    return 0;
}
