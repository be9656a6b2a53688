#define _GNU_SOURCE
#include "orders.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "arena.h"
#include "block.h"
#include "console.h"
#include "cpus.h"
#include "disk.h"
#include "files.h"
#include "noise.h"
#include "reader.h"
#include "touch.h"
#include "writers.h"

enum {
    PORT = 7000,
    MAX_CONNECTIONS = 16,
    SEND_BUFFER = 1 << 20,
    MAX_FILE_BYTES = 100,
};

typedef enum {
    WAITS_FOR_NOTHING,
    WAITS_FOR_CHECK,
    WAITS_FOR_DISK,
    WAITS_FOR_FREE,
    WAITS_FOR_BLOCK,
} Waiting;

typedef struct {
    int fd; /* -1: free */
    int timer_fd;
    Waiting waiting;
    uint64_t sequence;
    char line[MAX_LINE];
    size_t filled;
} Connection;

static Connection connections[MAX_CONNECTIONS];
static Settings settings_in_force;
static int listener;

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
    int n = format_line(line, sizeof(line), format, args);
    va_end(args);
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

static unsigned long long all_errors(void)
{
    return arena_get_errors() + disk_get_status().errors + noise_get_errors();
}

static void beat(Connection *connection)
{
    WritersStatus writers;
    uint64_t expirations;

    if (read(connection->timer_fd, &expirations, sizeof(expirations)) < 0)
        return;
    writers = writers_get_status();
    answer(connection, "beat %lu %.0f %llu %llu %llu", connection->sequence++, now_ms(),
           writers.passes, all_errors(), writers.written);
}

static void answer_status(Connection *connection)
{
    WritersStatus writers = writers_get_status();
    DiskStatus disk = disk_get_status();

    answer(connection,
           "pattern=%s pages=%lu threads=%u passes=%llu errors=%llu written=%llu read=%llu "
           "guest_ms=%.0f disk_blocks=%u disk_sequence=%llu disk_errors=%llu",
           pattern_names[settings_in_force.pattern], arena_get_pages(), writers.threads,
           writers.passes, arena_get_errors(), writers.written, writers.read, now_ms(), disk.blocks,
           disk.sequence, disk.errors);
}

static void set_from_words(Connection *connection, char *words)
{
    Settings settings = settings_in_force;

    for (char *save = NULL, *word = strtok_r(words, " ", &save); word;
         word = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(word, '=');

        if (!equals) {
            answer(connection, "error: %s is not KEY=VALUE", word);
            return;
        }
        *equals = 0;
        if (!settings_set(&settings, word, equals + 1, arena_get_pages())) {
            answer(connection, "error: cannot set %s to %s", word, equals + 1);
            return;
        }
    }
    settings_in_force = settings;
    writers_publish(&settings);
    disk_set_rate(settings.disk_rate, settings.disk_batch ? settings.disk_batch : 1,
                  settings.disk_buffered);
    reader_set_count(settings.readers);
    answer(connection, "ok");
}

static void read_file(Connection *connection, const char *words)
{
    uint8_t bytes[MAX_FILE_BYTES];
    char path[MAX_LINE], hex[2 * MAX_FILE_BYTES + 1];
    unsigned long offset, count;

    if (sscanf(words, "%255s %lu %lu", path, &offset, &count) != 3 || count > MAX_FILE_BYTES) {
        answer(connection, "error: read wants PATH OFFSET N");
        return;
    }
    if (!file_read_at(path, offset, bytes, count)) {
        answer(connection, "error: read %s: %s", path, strerror(errno));
        return;
    }
    for (size_t i = 0; i < count; i++)
        sprintf(hex + 2 * i, "%02x", bytes[i]);
    answer(connection, "%s", hex);
}

/* Bytes, -1 for anything but pairs of digits. */
static int parse_hex(const char *hex, uint8_t *bytes)
{
    int count = 0, used;

    for (; hex[0]; hex += 2, count++)
        if (count == MAX_FILE_BYTES || sscanf(hex, "%2hhx%n", &bytes[count], &used) != 1 ||
            used != 2)
            return -1;
    return count;
}

static void write_file(Connection *connection, const char *words)
{
    uint8_t bytes[MAX_FILE_BYTES];
    char path[MAX_LINE], hex[MAX_LINE];
    unsigned long offset;
    int count;

    if (sscanf(words, "%255s %lu %255s", path, &offset, hex) != 3 ||
        (count = parse_hex(hex, bytes)) < 0) {
        answer(connection, "error: write wants PATH OFFSET HEX");
        return;
    }
    if (file_write_at(path, offset, bytes, (size_t)count))
        answer(connection, "ok");
    else
        answer(connection, "error: write %s: %s", path, strerror(errno));
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
    if (what == WAITS_FOR_DISK && !disk_get_status().blocks) {
        answer(connection, "error: no disk");
        return;
    }
    connection->waiting = what;
    if (what == WAITS_FOR_DISK)
        disk_order_check();
    else
        writers_order_check();
}

static void start_free(Connection *connection, uint64_t mb)
{
    uint64_t pages = arena_get_pages();

    if (is_awaited(connection, WAITS_FOR_FREE))
        return;
    connection->waiting = WAITS_FOR_FREE;
    writers_order_free(mb << 8 < pages ? pages - (mb << 8) : 0);
}

/* "vdb 100 7", or "vdb" */
static void start_block_order(Connection *connection, const char *words, bool fill)
{
    unsigned long count = 0, seed = 0;
    char name[32];
    bool begun;

    if (sscanf(words, "%31[a-z0-9] %lu %lu", name, &count, &seed) < (fill ? 3 : 1)) {
        answer(connection, "error: cannot read %s", words);
        return;
    }
    begun = fill ? block_order_fill(name, count, seed) : block_order_digest(name);
    if (begun)
        connection->waiting = WAITS_FOR_BLOCK;
    else
        answer(connection, "error: another block device is being worked on");
}

/* The entries of a folder of /sys, separated by commas. */
static void list_folder(const char *path, char *list, size_t size)
{
    DIR *folder = opendir(path);
    struct dirent *entry;

    list[0] = '\0';
    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.' && strlen(list) + strlen(entry->d_name) + 2 < size)
            sprintf(list + strlen(list), "%s%s", list[0] ? "," : "", entry->d_name);
    if (folder)
        closedir(folder);
}

/* Those that were plugged count, too, before they are online: "0-1". */
static long count_cpus(void)
{
    unsigned first = 0, last = 0;
    FILE *file = fopen("/sys/devices/system/cpu/present", "r");

    if (!file)
        return 0;
    if (fscanf(file, "%u-%u", &first, &last) < 2)
        last = first;
    fclose(file);
    return (long)last + 1;
}

/* 0: there is none. */
static unsigned long long read_rtc(void)
{
    FILE *file = fopen("/sys/class/rtc/rtc0/since_epoch", "r");
    unsigned long long seconds = 0;

    if (file && fscanf(file, "%llu", &seconds) != 1)
        seconds = 0;
    if (file)
        fclose(file);
    return seconds;
}

static unsigned long long read_clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void answer_clocks(Connection *connection)
{
    answer(connection, "mono_ns=%llu real_ns=%llu rtc_s=%llu", read_clock_ns(CLOCK_MONOTONIC),
           read_clock_ns(CLOCK_REALTIME), read_rtc());
}

static void answer_machine(Connection *connection)
{
    char blocks[128], nets[64];

    list_folder("/sys/block", blocks, sizeof(blocks));
    list_folder("/sys/class/net", nets, sizeof(nets));
    answer(connection, "cpus=%ld mem_kb=%lu blocks=%s nets=%s", count_cpus(),
           (unsigned long)sysconf(_SC_PHYS_PAGES) * 4, blocks, nets);
}

static void answer_disk_check(Connection *connection)
{
    DiskStatus disk = disk_get_status();

    answer(connection, "checked blocks=%llu errors=%llu", disk.checked, disk.errors);
}

typedef uint64_t List(uint64_t from, uint64_t *ret_first, char *line, size_t size);

static void answer_list(Connection *connection, const char *name, List *lister, uint64_t from)
{
    char list[MAX_LINE - 64];
    uint64_t first, next = lister(from ? from : 1, &first, list, sizeof(list));

    answer(connection, "%s first=%lu next=%lu list=%s", name, first, next, list);
}

/* Answers what *connection* waits for, if that is done. */
static void finish_order(Connection *connection)
{
    Waiting waiting = connection->waiting;
    uint64_t digest, pages;
    char line[MAX_LINE];

    if (waiting == WAITS_FOR_CHECK && writers_have_checked(&digest))
        answer(connection, "checked pages=%lu errors=%llu digest=%016lx", arena_get_pages(),
               arena_get_errors(), digest);
    else if (waiting == WAITS_FOR_DISK && disk_has_checked())
        answer_disk_check(connection);
    else if (waiting == WAITS_FOR_FREE && writers_have_freed(&pages))
        answer(connection, "freed pages=%lu", pages);
    else if (waiting == WAITS_FOR_BLOCK && block_has_answer(line, sizeof(line)))
        answer(connection, "%s", line);
    else
        return;
    connection->waiting = WAITS_FOR_NOTHING;
}

static void finish_orders(int wake_fd)
{
    uint64_t count;

    if (read(wake_fd, &count, sizeof(count)) < 0)
        return;
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        if (connections[i].fd >= 0)
            finish_order(&connections[i]);
}

static void execute(Connection *connection, char *line)
{
    if (!strncmp(line, "beat ", 5))
        start_beat(connection, atol(line + 5));
    else if (!strncmp(line, "set ", 4))
        set_from_words(connection, line + 4);
    else if (!strncmp(line, "read ", 5))
        read_file(connection, line + 5);
    else if (!strncmp(line, "write ", 6))
        write_file(connection, line + 6);
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
    else if (!strncmp(line, "disk-commits ", 13))
        answer_list(connection, "commits", disk_list_commits, strtoull(line + 13, NULL, 10));
    else if (!strncmp(line, "touches ", 8))
        answer_list(connection, "touches", touch_list_long, strtoull(line + 8, NULL, 10));
    else if (!strncmp(line, "block-fill ", 11))
        start_block_order(connection, line + 11, true);
    else if (!strncmp(line, "block-digest ", 13))
        start_block_order(connection, line + 13, false);
    else if (!strcmp(line, "machine"))
        answer_machine(connection);
    else if (!strcmp(line, "clocks"))
        answer_clocks(connection);
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

static void accept_connection(void)
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

/* Once a second, on the console. */
static void tell(int second_fd)
{
    WritersStatus writers = writers_get_status();
    uint64_t expirations;

    if (read(second_fd, &expirations, sizeof(expirations)) > 0) {
        say("lab: beat guest_ms=%.0f passes=%llu errors=%llu written=%llu disk=%llu", now_ms(),
            writers.passes, all_errors(), writers.written,
            (unsigned long long)disk_get_status().sequence);
        cpus_tell();
    }
}

static void serve_connection(Connection *connection, const struct pollfd fds[2])
{
    if (fds[1].revents && connection->timer_fd == fds[1].fd)
        beat(connection);
    if (fds[0].revents && connection->fd == fds[0].fd)
        receive(connection);
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

static int tick_each_second(void)
{
    struct itimerspec second = {.it_interval = {1, 0}, .it_value = {1, 0}};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    timerfd_settime(fd, 0, &second, NULL);
    return fd;
}

void orders_open(void)
{
    listener = listen_on_port();
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = connections[i].timer_fd = -1;
}

void orders_serve(const Settings *settings, int wake_fd)
{
    struct pollfd fds[3 + 2 * MAX_CONNECTIONS];
    int second_fd = tick_each_second();

    settings_in_force = *settings;
    for (;;) {
        fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = second_fd, .events = POLLIN};
        fds[2] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
        for (int i = 0; i < MAX_CONNECTIONS; i++) {
            fds[3 + 2 * i] = (struct pollfd){.fd = connections[i].fd, .events = POLLIN};
            fds[4 + 2 * i] = (struct pollfd){.fd = connections[i].timer_fd, .events = POLLIN};
        }
        if (poll(fds, sizeof(fds) / sizeof(*fds), -1) < 0)
            continue;

        if (fds[0].revents)
            accept_connection();
        if (fds[1].revents)
            tell(second_fd);
        if (fds[2].revents)
            finish_orders(wake_fd);
        for (int i = 0; i < MAX_CONNECTIONS; i++)
            serve_connection(&connections[i], &fds[3 + 2 * i]);
    }
}
