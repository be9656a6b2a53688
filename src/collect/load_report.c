#include "collect/load_report.h"

#include <math.h>

void load_guest_facts_clear(LoadGuestFacts *facts)
{
    g_free(facts->name);
    g_free(facts->id);
    g_free(facts->role);
    g_free(facts->state);
}

static void load_guest_free(gpointer data)
{
    LoadGuest *guest = data;

    load_guest_facts_clear(&guest->facts);
    guest_reading_clear(&guest->reading);
    g_free(guest);
}

LoadReport *load_report_new(void)
{
    LoadReport *report = g_new0(LoadReport, 1);

    g_atomic_ref_count_init(&report->references);
    report->host = host_reading_empty();
    report->problems = g_ptr_array_new_with_free_func(g_free);
    report->guests = g_ptr_array_new_with_free_func(load_guest_free);
    return report;
}

LoadReport *load_report_ref(LoadReport *report)
{
    g_atomic_ref_count_inc(&report->references);
    return report;
}

void load_report_unref(LoadReport *report)
{
    if (!report || !g_atomic_ref_count_dec(&report->references))
        return;
    host_reading_clear(&report->host);
    host_figures_clear(&report->figures);
    g_ptr_array_unref(report->problems);
    g_ptr_array_unref(report->guests);
    g_free(report);
}

LoadGuest *load_report_add_guest(LoadReport *report)
{
    LoadGuest *guest = g_new0(LoadGuest, 1);

    guest->reading = guest_reading_empty();
    guest_figures_find(NULL, &guest->reading, 0, &guest->figures);
    g_ptr_array_add(report->guests, guest);
    return guest;
}

/* ---- JSON ---- */

static json_t *figure(double value)
{
    return value >= 0 && value < 1e12 ? json_real(round(value * 1e6) / 1e6) : json_null();
}

/* Of a rate whose fractions say nothing. */
static json_t *whole(double value)
{
    return value >= 0 && value < 9e18 ? json_integer((json_int_t)llround(value)) : json_null();
}

static json_t *amount(uint64_t value)
{
    return value <= G_MAXINT64 ? json_integer((json_int_t)value) : json_null();
}

static json_t *known(uint64_t value)
{
    return value > 0 ? amount(value) : json_null();
}

static json_t *pressure_to_json(const HostFigures *figures)
{
    return json_pack("{s:{s:o}, s:{s:o, s:o}, s:{s:o, s:o}}", "cpu", "some",
                     figure(figures->pressure.cpu_some), "memory", "some",
                     figure(figures->pressure.memory_some), "full",
                     figure(figures->pressure.memory_full), "io", "some",
                     figure(figures->pressure.io_some), "full", figure(figures->pressure.io_full));
}

static json_t *link_to_json(const LinkFigures *link)
{
    g_autofree char *name = g_utf8_make_valid(link->name, -1);

    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", name, "speed_bytes_per_s",
                     whole(link->speed), "received_bytes_per_s", whole(link->received),
                     "sent_bytes_per_s", whole(link->sent), "drops_per_s", figure(link->drops));
}

static json_t *links_to_json(const HostReading *reading, const HostFigures *figures)
{
    json_t *list;

    if (!reading->links)
        return json_null();
    list = json_array();
    for (guint i = 0; figures->links && i < figures->links->len; i++)
        json_array_append_new(list, link_to_json(&g_array_index(figures->links, LinkFigures, i)));
    return list;
}

static json_t *guest_to_json(const LoadGuest *guest)
{
    const LoadGuestFacts *facts = &guest->facts;
    const GuestFigures *figures = &guest->figures;
    json_t *network = json_pack(
        "{s:o, s:o, s:o, s:o}", "received_bytes_per_s", whole(figures->network.received),
        "sent_bytes_per_s", whole(figures->network.sent), "backlog_bytes",
        amount(figures->network.backlog_bytes), "drops_per_s", figure(figures->network.drops));
    json_t *disk = json_pack("{s:o, s:o, s:o}", "read_bytes_per_s", whole(figures->disk.read),
                             "written_bytes_per_s", whole(figures->disk.written), "flushes_per_s",
                             figure(figures->disk.flushes));

    return json_pack(
        "{s:s?, s:s?, s:o, s:s?, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
        facts->name, "id", facts->id, "term", amount(facts->term), "role", facts->role, "state",
        facts->state, "vcpus", known(facts->vcpus), "memory_bytes", known(facts->memory_bytes),
        "cpu_used", figure(figures->cpu_used), "vcpu_used", figure(figures->vcpu_used), "cpu_wait",
        figure(figures->cpu_wait), "resident_bytes", amount(guest->reading.resident_bytes),
        "swapped_bytes", amount(guest->reading.swapped_bytes), "major_faults_per_s",
        figure(figures->major_faults), "network", network, "disk", disk);
}

static json_t *problems_to_json(const GPtrArray *problems)
{
    json_t *list = json_array();

    for (guint i = 0; i < problems->len; i++)
        json_array_append_new(list, json_string(problems->pdata[i]));
    return list;
}

static json_t *guests_to_json(const GPtrArray *guests)
{
    json_t *list = json_array();

    for (guint i = 0; i < guests->len; i++)
        json_array_append_new(list, guest_to_json(guests->pdata[i]));
    return list;
}

json_t *load_report_to_json(const LoadReport *report)
{
    const HostReading *host = &report->host;
    const HostFigures *figures = &report->figures;
    json_t *moves =
        json_pack("{s:o, s:o, s:o}", "received_bytes_per_s", whole(figures->moves.received),
                  "sent_bytes_per_s", whole(figures->moves.sent), "cpu_used",
                  figure(figures->moves.cpu_used));
    json_t *object =
        json_pack("{s:I, s:f, s:o, s:o, s:o, s:o}", "time_ms",
                  (json_int_t)(host->time.boot_ns / 1000000), "wall", report->wall, "interval_ms",
                  whole(figures->interval_ms), "cpus", figure(host->cpus), "cpu_used",
                  figure(figures->cpu_used), "run_queue", amount(host->run_queue));

    json_object_set_new(object, "pressure", pressure_to_json(figures));
    json_object_set_new(object, "memory_bytes", amount(host->memory_bytes));
    json_object_set_new(object, "memory_available_bytes", amount(host->memory_available_bytes));
    json_object_set_new(object, "swap_bytes", amount(host->swap_bytes));
    json_object_set_new(object, "swap_free_bytes", amount(host->swap_free_bytes));
    json_object_set_new(object, "swap_in_bytes_per_s", whole(figures->swap_in));
    json_object_set_new(object, "swap_out_bytes_per_s", whole(figures->swap_out));
    json_object_set_new(object, "links", links_to_json(host, figures));
    json_object_set_new(object, "moves", moves);
    json_object_set_new(object, "problems", problems_to_json(report->problems));
    json_object_set_new(object, "guests", guests_to_json(report->guests));
    return object;
}
