#include "collect/guest_reader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "collect/link_messages.h"
#include "collect/proc_texts.h"

#define TEXT_LIMIT (256u << 10)
#define NS_PER_S 1000000000u
#define TUN_DEVICE "/dev/net/tun"
/* Looks from one search for tap devices to the next. */
#define SEARCH_LOOKS 15u
#define DESCRIPTORS_LIMIT 65536u
#define TAPS_LIMIT 256u

struct GuestReader {
    pid_t pid;
    uint64_t start_time;
    GArray *threads;      /* of pid_t; NULL: not known */
    GArray *taps;         /* of char[IFNAMSIZ] */
    gboolean own_network; /* it is in our network namespace */
    guint looks;          /* until taps are searched for */
};

GuestReader *guest_reader_new(pid_t pid, uint64_t start_time)
{
    GuestReader *reader = g_new0(GuestReader, 1);

    reader->pid = pid;
    reader->start_time = start_time;
    reader->taps = g_array_new(FALSE, FALSE, IFNAMSIZ);
    return reader;
}

void guest_reader_free(GuestReader *reader)
{
    if (!reader)
        return;
    g_clear_pointer(&reader->threads, g_array_unref);
    g_array_unref(reader->taps);
    g_free(reader);
}

gboolean guest_reader_is_of(const GuestReader *reader, pid_t pid, uint64_t start_time)
{
    return reader->pid == pid && reader->start_time == start_time;
}

void guest_reader_set_threads(GuestReader *reader, const GArray *threads)
{
    g_clear_pointer(&reader->threads, g_array_unref);
    if (threads->len == 0)
        return;
    reader->threads = g_array_sized_new(FALSE, FALSE, sizeof(pid_t), threads->len);
    g_array_append_vals(reader->threads, threads->data, threads->len);
}

gboolean guest_reader_has_threads(const GuestReader *reader)
{
    return reader->threads != NULL;
}

static char *read_text(const GuestReader *reader, const char *name)
{
    char path[64];

    g_snprintf(path, sizeof path, "/proc/%d/%s", (int)reader->pid, name);
    return file_read(path, TEXT_LIMIT, NULL, NULL);
}

/* ---- the process and its vCPUs ---- */

static gboolean read_process(const GuestReader *reader, GuestReading *ret)
{
    g_autofree char *stat = read_text(reader, "stat");
    g_autofree char *status = read_text(reader, "status");
    ProcessStatText process;
    ProcessMemoryText memory;

    if (!stat || !process_stat_text_parse(stat, &process) ||
        process.start_time != reader->start_time)
        return FALSE;
    ret->pid = reader->pid;
    ret->start_time = reader->start_time;
    ret->cpu_ns = counter_scale(process.cpu_ticks, NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
    ret->major_faults = process.major_faults;
    if (status && process_memory_text_parse(status, &memory)) {
        ret->resident_bytes = memory.resident;
        ret->swapped_bytes = memory.swapped;
    }
    return TRUE;
}

/* One that has ended is asked for anew: vCPUs come and go. */
static void read_vcpus(GuestReader *reader, GuestReading *ret)
{
    if (!reader->threads)
        return;
    ret->vcpus = g_array_new(FALSE, FALSE, sizeof(VcpuReading));
    for (guint i = 0; i < reader->threads->len; i++) {
        VcpuReading vcpu = {g_array_index(reader->threads, pid_t, i), COUNTER_UNKNOWN,
                            COUNTER_UNKNOWN};
        char name[48];
        g_autofree char *text = NULL;
        SchedstatText times;

        g_snprintf(name, sizeof name, "task/%d/schedstat", (int)vcpu.thread);
        text = read_text(reader, name);
        if (text && schedstat_text_parse(text, &times)) {
            vcpu.ran_ns = times.ran_ns;
            vcpu.waited_ns = times.waited_ns;
        }
        g_array_append_val(ret->vcpus, vcpu);
        if (!text) {
            g_clear_pointer(&reader->threads, g_array_unref);
            return;
        }
    }
}

/* ---- tap devices ---- */

static void add_tap(GuestReader *reader, const char *name)
{
    char tap[IFNAMSIZ] = {0};

    for (guint i = 0; i < reader->taps->len; i++)
        if (strcmp(reader->taps->data + (size_t)i * IFNAMSIZ, name) == 0)
            return; /* one with several queues has several descriptors */
    if (reader->taps->len >= TAPS_LIMIT)
        return;
    g_strlcpy(tap, name, sizeof tap);
    g_array_append_val(reader->taps, tap);
}

static void look_at_descriptor(GuestReader *reader, const char *number)
{
    char path[64], target[sizeof TUN_DEVICE], name[IFNAMSIZ];
    g_autofree char *text = NULL;
    ssize_t length;

    g_snprintf(path, sizeof path, "/proc/%d/fd/%.16s", (int)reader->pid, number);
    length = readlink(path, target, sizeof target);
    if (length != (ssize_t)strlen(TUN_DEVICE) || memcmp(target, TUN_DEVICE, (size_t)length) != 0)
        return;
    g_snprintf(path, sizeof path, "fdinfo/%.16s", number);
    text = read_text(reader, path);
    if (text && tun_fdinfo_text_parse(text, name))
        add_tap(reader, name);
}

static gboolean is_in_our_network(const GuestReader *reader)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/net", (int)reader->pid);
    struct stat theirs, ours;

    return stat(path, &theirs) < 0 || stat("/proc/self/ns/net", &ours) < 0 ||
           (theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev);
}

static void search_taps(GuestReader *reader)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)reader->pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    g_array_set_size(reader->taps, 0);
    for (guint i = 0; dir && i < DESCRIPTORS_LIMIT && (name = g_dir_read_name(dir)); i++)
        look_at_descriptor(reader, name);
    reader->own_network = is_in_our_network(reader);
}

static gboolean take_from_links(const GArray *links, TapReading *tap)
{
    const Link *link = links_find(links, tap->name);

    if (!link)
        return FALSE;
    tap->index = link->index;
    tap->received_bytes = link->received_bytes;
    tap->sent_bytes = link->sent_bytes;
    tap->dropped = link->dropped;
    tap->backlog_bytes = link->backlog_bytes;
    return TRUE;
}

static gboolean take_from_text(const char *text, TapReading *tap)
{
    NetDevText counters;

    if (!text || !net_dev_text_find(text, tap->name, &counters))
        return FALSE;
    tap->received_bytes = counters.received_bytes;
    tap->sent_bytes = counters.sent_bytes;
    tap->dropped = counter_add(counters.received_dropped, counters.sent_dropped);
    tap->backlog_bytes = COUNTER_UNKNOWN;
    return TRUE;
}

static void read_taps(GuestReader *reader, const GArray *links, GuestReading *ret)
{
    g_autofree char *text = NULL;

    if (reader->looks-- == 0) {
        search_taps(reader);
        reader->looks = SEARCH_LOOKS;
    }
    if (reader->taps->len == 0)
        return;
    if (!reader->own_network)
        text = read_text(reader, "net/dev");
    ret->taps = g_array_new(FALSE, FALSE, sizeof(TapReading));
    for (guint i = 0; i < reader->taps->len; i++) {
        TapReading tap = {0};

        g_strlcpy(tap.name, reader->taps->data + (size_t)i * IFNAMSIZ, sizeof tap.name);
        if (reader->own_network ? take_from_links(links, &tap) : take_from_text(text, &tap)) {
            g_array_append_val(ret->taps, tap);
            continue;
        }
        /* It is gone, or has another name: nothing is known of its network now. */
        g_clear_pointer(&ret->taps, g_array_unref);
        reader->looks = 0;
        return;
    }
}

gboolean guest_reader_read(GuestReader *reader, const GArray *links, GuestReading *ret)
{
    *ret = guest_reading_empty();
    ret->time = look_time_now();
    if (!read_process(reader, ret))
        return FALSE;
    read_vcpus(reader, ret);
    read_taps(reader, links, ret);
    return TRUE;
}
