/* The counters and amounts of a look in the text format of Prometheus
 * (https://prometheus.io/docs/practices/naming/: base units, _total for what only grows). */
#include "collect/load_report.h"

#define NS 1e-9
#define US 1e-6

typedef struct {
    GString *text;
    const char *name;
} Metric;

static Metric begin(GString *text, const char *name, const char *type, const char *help)
{
    g_string_append_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    return (Metric){text, name};
}

/* *labels* with their braces, or "". */
static void add_real(const Metric *metric, const char *labels, double value)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    if (value < 0)
        return;
    g_string_append_printf(metric->text, "%s%s %s\n", metric->name, labels,
                           g_ascii_dtostr(number, sizeof number, value));
}

static void add_count(const Metric *metric, const char *labels, uint64_t value)
{
    if (value != COUNTER_UNKNOWN)
        g_string_append_printf(metric->text, "%s%s %" G_GUINT64_FORMAT "\n", metric->name, labels,
                               (guint64)value);
}

static void add_time(const Metric *metric, const char *labels, uint64_t value, double unit)
{
    if (value != COUNTER_UNKNOWN)
        add_real(metric, labels, (double)value * unit);
}

/* {name="value"}, with what must not stand in there escaped; free with g_free(). */
static char *make_label(const char *name, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);
    g_autoptr(GString) text = g_string_new(NULL);

    for (const char *at = valid; *at; at++) {
        if (*at == '\\' || *at == '"')
            g_string_append_c(text, '\\');
        if (*at == '\n')
            g_string_append(text, "\\n");
        else
            g_string_append_c(text, *at);
    }
    return g_strdup_printf("{%s=\"%s\"}", name, text->str);
}

/* ---- the host ---- */

static void write_count(GString *text, const char *name, const char *type, const char *help,
                        uint64_t value)
{
    Metric metric;

    if (value == COUNTER_UNKNOWN)
        return;
    metric = begin(text, name, type, help);
    add_count(&metric, "", value);
}

static void write_pressure(GString *text, const HostReading *host)
{
    Metric metric;

    if (host->pressure.cpu_some_us == COUNTER_UNKNOWN)
        return;
    metric = begin(text, "vmferry_host_pressure_seconds_total", "counter",
                   "Time for which some or all tasks waited for the resource (PSI).");
    add_time(&metric, "{resource=\"cpu\",tasks=\"some\"}", host->pressure.cpu_some_us, US);
    add_time(&metric, "{resource=\"memory\",tasks=\"some\"}", host->pressure.memory_some_us, US);
    add_time(&metric, "{resource=\"memory\",tasks=\"all\"}", host->pressure.memory_full_us, US);
    add_time(&metric, "{resource=\"io\",tasks=\"some\"}", host->pressure.io_some_us, US);
    add_time(&metric, "{resource=\"io\",tasks=\"all\"}", host->pressure.io_full_us, US);
}

static void write_cpu(GString *text, const HostReading *host)
{
    Metric metric;

    if (host->cpus > 0) {
        metric = begin(text, "vmferry_host_cpus", "gauge", "CPUs that the host has.");
        add_real(&metric, "", host->cpus);
    }
    if (host->cpu_ns != COUNTER_UNKNOWN) {
        metric = begin(text, "vmferry_host_cpu_seconds_total", "counter",
                       "CPU time used on the host, by all.");
        add_time(&metric, "", host->cpu_ns, NS);
    }
    if (host->moves.cpu_ns != COUNTER_UNKNOWN) {
        metric = begin(text, "vmferry_host_moves_cpu_seconds_total", "counter",
                       "CPU time used by the agent for moves and protection.");
        add_time(&metric, "", host->moves.cpu_ns, NS);
    }
}

static void write_amounts(GString *text, const HostReading *host)
{
    write_count(text, "vmferry_host_run_queue_tasks", "gauge", "Tasks that run or want to.",
                host->run_queue);
    write_count(text, "vmferry_host_memory_bytes", "gauge", "Memory of the host.",
                host->memory_bytes);
    write_count(text, "vmferry_host_memory_available_bytes", "gauge",
                "Memory that can be had without swapping.", host->memory_available_bytes);
    write_count(text, "vmferry_host_swap_bytes", "gauge", "Swap space.", host->swap_bytes);
    write_count(text, "vmferry_host_swap_free_bytes", "gauge", "Swap space that is free.",
                host->swap_free_bytes);
    write_count(text, "vmferry_host_swap_in_bytes_total", "counter", "Read from swap.",
                host->swap_in_bytes);
    write_count(text, "vmferry_host_swap_out_bytes_total", "counter", "Written to swap.",
                host->swap_out_bytes);
    write_count(text, "vmferry_host_moves_received_bytes_total", "counter",
                "Received from other agents: moves and protection.", host->moves.received_bytes);
    write_count(text, "vmferry_host_moves_sent_bytes_total", "counter",
                "Sent to other agents: moves and protection.", host->moves.sent_bytes);
}

static void write_speeds(GString *text, const GPtrArray *links)
{
    Metric metric = {text, NULL};

    for (guint i = 0; i < links->len; i++) {
        const Link *link = links->pdata[i];
        g_autofree char *label = make_label("link", link->name);

        if (link->speed <= 0)
            continue;
        if (!metric.name)
            metric = begin(text, "vmferry_host_link_speed_bytes_per_second", "gauge",
                           "What a link can carry.");
        add_real(&metric, label, link->speed);
    }
}

static const struct {
    const char *name, *help;
    size_t offset;
} link_counters[] = {
    {"vmferry_host_link_received_bytes_total", "Received through a link.",
     G_STRUCT_OFFSET(Link, received_bytes)},
    {"vmferry_host_link_sent_bytes_total", "Sent through a link.",
     G_STRUCT_OFFSET(Link, sent_bytes)},
    {"vmferry_host_link_drops_total", "Packets that a link or its queue dropped.",
     G_STRUCT_OFFSET(Link, dropped)},
};

static void write_links(GString *text, const HostReading *host)
{
    g_autoptr(GPtrArray) links = links_list_outer(host->links);

    write_speeds(text, links);
    for (guint c = 0; links->len > 0 && c < G_N_ELEMENTS(link_counters); c++) {
        Metric metric = begin(text, link_counters[c].name, "counter", link_counters[c].help);

        for (guint i = 0; i < links->len; i++) {
            const Link *link = links->pdata[i];
            g_autofree char *label = make_label("link", link->name);

            add_count(&metric, label, G_STRUCT_MEMBER(uint64_t, link, link_counters[c].offset));
        }
    }
}

/* ---- guests ---- */

static uint64_t sum_vcpus(const GuestReading *reading, size_t offset)
{
    uint64_t sum = 0;

    if (!reading->vcpus || reading->vcpus->len == 0)
        return COUNTER_UNKNOWN;
    for (guint i = 0; i < reading->vcpus->len; i++)
        sum = counter_add(
            sum, G_STRUCT_MEMBER(uint64_t, &g_array_index(reading->vcpus, VcpuReading, i), offset));
    return sum;
}

static uint64_t sum_taps(const GuestReading *reading, size_t offset)
{
    uint64_t sum = 0;

    if (!reading->taps || reading->taps->len == 0)
        return COUNTER_UNKNOWN;
    for (guint i = 0; i < reading->taps->len; i++)
        sum = counter_add(
            sum, G_STRUCT_MEMBER(uint64_t, &g_array_index(reading->taps, TapReading, i), offset));
    return sum;
}

static uint64_t get_cpu(const GuestReading *reading)
{
    return reading->cpu_ns;
}

static uint64_t get_vcpu(const GuestReading *reading)
{
    return sum_vcpus(reading, G_STRUCT_OFFSET(VcpuReading, ran_ns));
}

static uint64_t get_vcpu_wait(const GuestReading *reading)
{
    return sum_vcpus(reading, G_STRUCT_OFFSET(VcpuReading, waited_ns));
}

static uint64_t get_resident(const GuestReading *reading)
{
    return reading->resident_bytes;
}

static uint64_t get_swapped(const GuestReading *reading)
{
    return reading->swapped_bytes;
}

static uint64_t get_faults(const GuestReading *reading)
{
    return reading->major_faults;
}

/* What its tap devices receive is what it sends. */
static uint64_t get_received(const GuestReading *reading)
{
    return sum_taps(reading, G_STRUCT_OFFSET(TapReading, sent_bytes));
}

static uint64_t get_sent(const GuestReading *reading)
{
    return sum_taps(reading, G_STRUCT_OFFSET(TapReading, received_bytes));
}

static uint64_t get_dropped(const GuestReading *reading)
{
    return sum_taps(reading, G_STRUCT_OFFSET(TapReading, dropped));
}

static uint64_t get_backlog(const GuestReading *reading)
{
    return sum_taps(reading, G_STRUCT_OFFSET(TapReading, backlog_bytes));
}

static uint64_t get_read(const GuestReading *reading)
{
    return reading->disk.read_bytes;
}

static uint64_t get_written(const GuestReading *reading)
{
    return reading->disk.written_bytes;
}

static uint64_t get_flushes(const GuestReading *reading)
{
    return reading->disk.flushes;
}

static const struct {
    const char *name, *type, *help;
    uint64_t (*get)(const GuestReading *reading);
    double unit; /* 1: as it is */
} guest_metrics[] = {
    {"vmferry_guest_cpu_seconds_total", "counter", "CPU time of the guest's process.", get_cpu, NS},
    {"vmferry_guest_vcpu_seconds_total", "counter", "CPU time of the threads of its vCPUs.",
     get_vcpu, NS},
    {"vmferry_guest_vcpu_wait_seconds_total", "counter",
     "Time for which the threads of its vCPUs waited for a CPU.", get_vcpu_wait, NS},
    {"vmferry_guest_resident_bytes", "gauge", "Memory of the guest's process that is in RAM.",
     get_resident, 1},
    {"vmferry_guest_swapped_bytes", "gauge", "Memory of the guest's process that is swapped out.",
     get_swapped, 1},
    {"vmferry_guest_major_faults_total", "counter", "Page faults that had to wait for a disk.",
     get_faults, 1},
    {"vmferry_guest_network_received_bytes_total", "counter", "Received by the guest.",
     get_received, 1},
    {"vmferry_guest_network_sent_bytes_total", "counter", "Sent by the guest.", get_sent, 1},
    {"vmferry_guest_network_drops_total", "counter", "Packets from or to the guest that were lost.",
     get_dropped, 1},
    {"vmferry_guest_network_backlog_bytes", "gauge", "Bytes that wait to be given to the guest.",
     get_backlog, 1},
    {"vmferry_guest_disk_read_bytes_total", "counter", "Read from its disks.", get_read, 1},
    {"vmferry_guest_disk_written_bytes_total", "counter", "Written to its disks.", get_written, 1},
    {"vmferry_guest_disk_flushes_total", "counter", "Flushes of its disks.", get_flushes, 1},
};

static void write_guest_metric(GString *text, const GPtrArray *guests, guint which)
{
    Metric metric = {text, NULL};

    for (guint i = 0; i < guests->len; i++) {
        const LoadGuest *guest = guests->pdata[i];
        uint64_t value = guest_metrics[which].get(&guest->reading);
        g_autofree char *label = NULL;

        if (value == COUNTER_UNKNOWN)
            continue;
        if (!metric.name)
            metric = begin(text, guest_metrics[which].name, guest_metrics[which].type,
                           guest_metrics[which].help);
        label = make_label("guest", guest->facts.name);
        if (guest_metrics[which].unit == 1)
            add_count(&metric, label, value);
        else
            add_time(&metric, label, value, guest_metrics[which].unit);
    }
}

/* A figure of its own: the worst vCPU cannot be found from the sum. */
static void write_waits(GString *text, const GPtrArray *guests)
{
    Metric metric = {text, NULL};

    for (guint i = 0; i < guests->len; i++) {
        const LoadGuest *guest = guests->pdata[i];
        g_autofree char *label = NULL;

        if (guest->figures.cpu_wait < 0)
            continue;
        if (!metric.name)
            metric = begin(text, "vmferry_guest_cpu_wait_ratio", "gauge",
                           "Share of the last seconds that its worst vCPU waited for a CPU.");
        label = make_label("guest", guest->facts.name);
        add_real(&metric, label, guest->figures.cpu_wait);
    }
}

void load_report_write_metrics(const LoadReport *report, GString *text)
{
    write_cpu(text, &report->host);
    write_pressure(text, &report->host);
    write_amounts(text, &report->host);
    write_links(text, &report->host);
    for (guint i = 0; i < G_N_ELEMENTS(guest_metrics); i++)
        write_guest_metric(text, report->guests, i);
    write_waits(text, report->guests);
}
