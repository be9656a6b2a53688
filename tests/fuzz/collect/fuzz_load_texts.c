/* Texts of /proc and control groups, and answers of rtnetlink: whatever they hold, figures are sane or unknown. */
#include <stdlib.h>
#include <string.h>

#include "collect/guest_figures.h"
#include "collect/host_figures.h"
#include "collect/link_messages.h"
#include "collect/proc_texts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_host(const char *text)
{
    StatText stat;
    MeminfoText memory;
    PressureText pressure;
    double cpus = cpu_max_text_parse(text);

    (void)stat_text_parse(text, &stat);
    (void)meminfo_text_parse(text, &memory);
    (void)pressure_text_parse(text, &pressure);
    (void)keyed_text_get(text, "usage_usec");
    (void)limit_text_parse(text);
    if (cpus <= 0 && cpus != FIGURE_UNKNOWN)
        abort();
    if (cpu_list_text_count(text) > 1 << 16)
        abort();
}

static void read_process(const char *text)
{
    ProcessStatText stat;
    ProcessMemoryText memory;
    SchedstatText times;
    NetDevText counters;
    char name[IFNAMSIZ];

    (void)process_stat_text_parse(text, &stat);
    (void)process_memory_text_parse(text, &memory);
    if (schedstat_text_parse(text, &times) &&
        (times.ran_ns == COUNTER_UNKNOWN || times.waited_ns == COUNTER_UNKNOWN))
        abort();
    if (tun_fdinfo_text_parse(text, name) && (!*name || strlen(name) >= sizeof name))
        abort();
    (void)net_dev_text_find(text, "tap0", &counters);
}

static void check_figures(GArray *links)
{
    HostReading before = host_reading_empty(), now = host_reading_empty();
    HostFigures figures;

    before.time = (LookTime){UINT64_C(1000000000), UINT64_C(1000000000)};
    now.time = (LookTime){UINT64_C(3000000000), UINT64_C(3000000000)};
    before.links = links;
    now.links = links;
    host_figures_find(&before, &now, &figures);
    for (guint i = 0; i < figures.links->len; i++) {
        const LinkFigures *link = &g_array_index(figures.links, LinkFigures, i);

        if (!*link->name || !memchr(link->name, '\0', sizeof link->name))
            abort();
        if ((link->sent < 0 && link->sent != FIGURE_UNKNOWN) || link->sent > FIGURE_MOST_BYTES)
            abort();
    }
    host_figures_clear(&figures);
}

static void read_links(const uint8_t *data, size_t size)
{
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));
    gboolean done;

    (void)link_messages_parse(data, size, links, &done);
    check_figures(links);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);

    read_host(text);
    read_process(text);
    read_links(data, size);
    return 0;
}
