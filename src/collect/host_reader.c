#include "collect/host_reader.h"

#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "collect/link_reader.h"
#include "collect/proc_texts.h"

#define TEXT_LIMIT (1u << 20)
#define NS_PER_S 1000000000u

struct HostReader {
    char *root; /* NULL: the machine */
    LinkReader *links;
};

HostReader *host_reader_new(const char *root)
{
    HostReader *reader = g_new0(HostReader, 1);

    reader->root = g_strdup(root);
    reader->links = link_reader_new();
    return reader;
}

void host_reader_free(HostReader *reader)
{
    if (!reader)
        return;
    g_free(reader->root);
    link_reader_free(reader->links);
    g_free(reader);
}

/* Takes *text*; each is told once. */
static void add_problem(GPtrArray *problems, char *text)
{
    if (g_ptr_array_find_with_equal_func(problems, text, g_str_equal, NULL))
        g_free(text);
    else
        g_ptr_array_add(problems, g_utf8_make_valid(text, -1)), g_free(text);
}

/* The file's text; NULL, and a problem, where it cannot be read. */
static char *read_text(const char *folder, const char *name, GPtrArray *problems)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GError) error = NULL;
    char *text = file_read(path, TEXT_LIMIT, NULL, &error);

    if (!text)
        add_problem(problems, g_strdup(error->message));
    return text;
}

static void note_strange(const char *folder, const char *name, GPtrArray *problems)
{
    add_problem(problems,
                g_strdup_printf("%s/%s holds something else than expected", folder, name));
}

/* ---- the machine ---- */

static void read_cpus(GPtrArray *problems, HostReading *ret)
{
    g_autofree char *text = read_text("/proc", "stat", problems);
    StatText stat;

    if (!text)
        return;
    if (!stat_text_parse(text, &stat)) {
        note_strange("/proc", "stat", problems);
        return;
    }
    ret->machine_cpus = stat.cpus;
    ret->cpus = stat.cpus > 0 ? stat.cpus : FIGURE_UNKNOWN;
    ret->cpu_ns = counter_scale(stat.busy_ticks, NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
    ret->run_queue = stat.running;
}

static void read_memory(GPtrArray *problems, HostReading *ret)
{
    g_autofree char *text = read_text("/proc", "meminfo", problems);
    MeminfoText memory;

    if (!text)
        return;
    if (!meminfo_text_parse(text, &memory)) {
        note_strange("/proc", "meminfo", problems);
        return;
    }
    ret->memory_bytes = memory.total;
    ret->memory_available_bytes = memory.available;
    ret->swap_bytes = memory.swap_total;
    ret->swap_free_bytes = memory.swap_free;
}

static void take_swap(const char *text, HostReading *ret)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    ret->swap_in_bytes = counter_scale(keyed_text_get(text, "pswpin"), page);
    ret->swap_out_bytes = counter_scale(keyed_text_get(text, "pswpout"), page);
}

static void read_swap(GPtrArray *problems, HostReading *ret)
{
    g_autofree char *text = read_text("/proc", "vmstat", problems);

    if (text)
        take_swap(text, ret);
}

static PressureText read_pressure(const char *folder, const char *name, GPtrArray *problems)
{
    static const char missing[] = "this kernel tells no pressure (PSI): it needs CONFIG_PSI, and "
                                  "no psi=0 on its command line";
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);
    PressureText pressure;

    if (text && pressure_text_parse(text, &pressure))
        return pressure;
    add_problem(problems, g_strdup(missing));
    return (PressureText){COUNTER_UNKNOWN, COUNTER_UNKNOWN};
}

static void read_pressures(const char *folder, const char *suffix, GPtrArray *problems,
                           HostReading *ret)
{
    g_autofree char *cpu_name = g_strconcat("cpu", suffix, NULL);
    g_autofree char *memory_name = g_strconcat("memory", suffix, NULL);
    g_autofree char *io_name = g_strconcat("io", suffix, NULL);
    PressureText cpu = read_pressure(folder, cpu_name, problems);
    PressureText memory = read_pressure(folder, memory_name, problems);
    PressureText io = read_pressure(folder, io_name, problems);

    ret->pressure.cpu_some_us = cpu.some_us;
    ret->pressure.memory_some_us = memory.some_us;
    ret->pressure.memory_full_us = memory.full_us;
    ret->pressure.io_some_us = io.some_us;
    ret->pressure.io_full_us = io.full_us;
}

/* ---- a control group in its place ---- */

/* A file that is not there sets no limit; *otherwise* for that. */
static uint64_t read_limit(const char *folder, const char *name, uint64_t otherwise)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);

    return text ? limit_text_parse(text) : otherwise;
}

static void read_group_cpus(const char *root, GPtrArray *problems, HostReading *ret)
{
    g_autofree char *stat = read_text(root, "cpu.stat", problems);
    g_autofree char *max_path = g_build_filename(root, "cpu.max", NULL);
    g_autofree char *set_path = g_build_filename(root, "cpuset.cpus.effective", NULL);
    g_autofree char *max = file_read(max_path, TEXT_LIMIT, NULL, NULL);
    g_autofree char *set = file_read(set_path, TEXT_LIMIT, NULL, NULL);
    double limit = max ? cpu_max_text_parse(max) : FIGURE_UNKNOWN;
    guint allowed = set ? cpu_list_text_count(set) : 0;

    ret->run_queue = COUNTER_UNKNOWN;
    ret->cpu_ns = stat ? counter_scale(keyed_text_get(stat, "usage_usec"), 1000) : COUNTER_UNKNOWN;
    if (allowed > 0 && allowed < ret->cpus)
        ret->cpus = allowed;
    if (limit > 0 && limit < ret->cpus)
        ret->cpus = limit;
}

/* What of it the kernel gives back when it is asked for: files, as MemAvailable counts them. */
static uint64_t get_reclaimable(const char *stat)
{
    uint64_t sum = 0;

    for (guint i = 0; i < 3; i++) {
        static const char *const keys[] = {"active_file", "inactive_file", "slab_reclaimable"};
        uint64_t bytes = keyed_text_get(stat, keys[i]);

        sum = bytes == COUNTER_UNKNOWN ? sum : counter_add(sum, bytes);
    }
    return sum == COUNTER_UNKNOWN ? 0 : sum;
}

static uint64_t subtract(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* COUNTER_UNKNOWN is the largest number, so that the smaller one is the one that is known. */
static void read_group_memory(const char *root, GPtrArray *problems, HostReading *ret)
{
    uint64_t limit = read_limit(root, "memory.max", COUNTER_UNKNOWN);
    uint64_t current = read_limit(root, "memory.current", COUNTER_UNKNOWN);
    g_autofree char *stat = NULL;
    uint64_t used;

    ret->swap_in_bytes = ret->swap_out_bytes = COUNTER_UNKNOWN;
    if (current == COUNTER_UNKNOWN) {
        add_problem(problems, g_strdup_printf("%s has no memory controller: memory is told of the "
                                              "whole machine, and no swapping",
                                              root));
        return;
    }
    stat = read_text(root, "memory.stat", problems);
    if (stat)
        take_swap(stat, ret);
    used = subtract(current, stat ? get_reclaimable(stat) : 0);
    ret->memory_bytes = MIN(ret->memory_bytes, limit);
    ret->memory_available_bytes =
        MIN(ret->memory_available_bytes, subtract(ret->memory_bytes, used));
}

static void read_group_swap(const char *root, HostReading *ret)
{
    uint64_t limit = read_limit(root, "memory.swap.max", COUNTER_UNKNOWN);
    uint64_t current = read_limit(root, "memory.swap.current", COUNTER_UNKNOWN);

    if (limit == COUNTER_UNKNOWN || current == COUNTER_UNKNOWN)
        return;
    ret->swap_bytes = MIN(ret->swap_bytes, limit);
    ret->swap_free_bytes = MIN(ret->swap_free_bytes, subtract(ret->swap_bytes, current));
}

static void read_group(const char *root, GPtrArray *problems, HostReading *ret)
{
    read_group_cpus(root, problems, ret);
    read_group_memory(root, problems, ret);
    read_group_swap(root, ret);
    read_pressures(root, ".pressure", problems, ret);
}

/* ---- all ---- */

static void read_links(HostReader *reader, GPtrArray *problems, HostReading *ret)
{
    g_autoptr(GError) error = NULL;

    ret->links = link_reader_read(reader->links, &error);
    if (!ret->links)
        add_problem(problems, g_strdup(error->message));
}

void host_reader_read(HostReader *reader, GPtrArray *problems, HostReading *ret)
{
    *ret = host_reading_empty();
    ret->time = look_time_now();
    read_cpus(problems, ret);
    read_memory(problems, ret);
    if (reader->root) {
        read_group(reader->root, problems, ret);
    } else {
        read_swap(problems, ret);
        read_pressures("/proc/pressure", "", problems, ret);
    }
    read_links(reader, problems, ret);
}
