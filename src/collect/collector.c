#include "collect/collector.h"

#include "base/clock.h"
#include "base/lock_guard.h"
#include "collect/guest_reader.h"
#include "collect/host_reader.h"

/* A VMM that is well answers within a few ms. */
#define ANSWER_MS 200u
/* Looks for which one that did not is left alone. */
#define SILENT_LOOKS 30u
/* Looks from one time that a VMM is asked for its vCPUs to the next: some may have been plugged. */
#define THREADS_LOOKS 15u

/* What is kept of a guest from look to look. */
typedef struct {
    GuestReader *reader;
    guint silent;  /* looks for which its VMM is not asked */
    guint threads; /* looks until it is asked for its vCPUs anew */
    gboolean seen; /* at this look */
} Tracked;

struct Collector {
    CollectorSources sources;
    HostReader *host;
    GHashTable *tracked; /* guest's id → Tracked */
    GMutex lock;
    GCond looked;
    LoadReport *report; /* under the lock; replaced by the thread that looks only */
};

void collector_guest_free(CollectorGuest *guest)
{
    if (guest->release)
        guest->release(guest->owner);
    load_guest_facts_clear(&guest->facts);
    g_free(guest);
}

static void tracked_free(gpointer data)
{
    Tracked *tracked = data;

    guest_reader_free(tracked->reader);
    g_free(tracked);
}

Collector *collector_new(const CollectorSources *sources)
{
    Collector *collector = g_new0(Collector, 1);

    collector->sources = *sources;
    collector->host = host_reader_new(sources->root);
    collector->tracked = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, tracked_free);
    g_mutex_init(&collector->lock);
    g_cond_init(&collector->looked);
    return collector;
}

void collector_free(Collector *collector)
{
    if (!collector)
        return;
    host_reader_free(collector->host);
    g_hash_table_unref(collector->tracked);
    load_report_unref(collector->report);
    g_mutex_clear(&collector->lock);
    g_cond_clear(&collector->looked);
    g_free(collector);
}

/* ---- guests ---- */

/* A guest of the same id in another process (a takeover, one that came back) is read anew. */
static Tracked *track(Collector *collector, const CollectorGuest *guest)
{
    Tracked *tracked = g_hash_table_lookup(collector->tracked, guest->facts.id);

    if (!tracked || !guest_reader_is_of(tracked->reader, guest->pid, guest->start_time)) {
        tracked = g_new0(Tracked, 1);
        tracked->reader = guest_reader_new(guest->pid, guest->start_time);
        g_hash_table_replace(collector->tracked, g_strdup(guest->facts.id), tracked);
    }
    tracked->seen = TRUE;
    return tracked;
}

static gboolean is_gone(gpointer key, gpointer value, gpointer user)
{
    Tracked *tracked = value;
    gboolean gone = !tracked->seen;

    tracked->seen = FALSE;
    return gone;
}

/* Moves the guests' facts, and adds what /proc tells of their processes. */
static void read_guests(Collector *collector, GPtrArray *guests, LoadReport *report)
{
    for (guint i = 0; i < guests->len; i++) {
        CollectorGuest *guest = guests->pdata[i];
        LoadGuest *entry = load_report_add_guest(report);

        if (guest->pid > 0)
            (void)guest_reader_read(track(collector, guest)->reader, report->host.links,
                                    &entry->reading);
        entry->facts = guest->facts;
        guest->facts = (LoadGuestFacts){0};
    }
}

/* ---- their VMMs ---- */

static void ask_threads(Tracked *tracked, Vmm *vmm)
{
    g_autoptr(GArray) threads = NULL;

    if (guest_reader_has_threads(tracked->reader) && tracked->threads-- > 0)
        return;
    threads = vmm_get_vcpu_threads(vmm, NULL);
    if (threads)
        guest_reader_set_threads(tracked->reader, threads);
    tracked->threads = THREADS_LOOKS;
}

static void ask_guest(Tracked *tracked, const CollectorGuest *guest, DiskReading *ret)
{
    VmmDiskCounters counters;

    if (tracked->silent > 0) {
        tracked->silent--;
        return;
    }
    if (!vmm_ask_disk_counters(guest->vmm, ANSWER_MS, &counters, NULL)) {
        tracked->silent = SILENT_LOOKS;
        return;
    }
    *ret = (DiskReading){.time = look_time_now(),
                         .read_bytes = counters.read_bytes,
                         .written_bytes = counters.written_bytes,
                         .flushes = counters.flushes};
    /* It answers just now: it is well enough for questions with longer time-outs. */
    ask_threads(tracked, guest->vmm);
    if (guest->learn)
        guest->learn(guest->owner);
}

static void ask_guests(Collector *collector, const GPtrArray *guests, LoadReport *report)
{
    uint64_t until = clock_now_ns() + COLLECTOR_ASK_MS * (uint64_t)1000000;

    for (guint i = 0; i < guests->len && clock_now_ns() < until; i++) {
        const CollectorGuest *guest = guests->pdata[i];
        LoadGuest *entry = report->guests->pdata[i];

        if (guest->vmm && entry->reading.pid > 0)
            ask_guest(g_hash_table_lookup(collector->tracked, entry->facts.id), guest,
                      &entry->reading.disk);
    }
}

/* ---- figures ---- */

static const GuestReading *find_before(const LoadReport *before, const char *id)
{
    for (guint i = 0; before && i < before->guests->len; i++) {
        const LoadGuest *guest = before->guests->pdata[i];

        if (g_strcmp0(guest->facts.id, id) == 0)
            return &guest->reading;
    }
    return NULL;
}

static void find_figures(const LoadReport *before, LoadReport *report)
{
    double most_cpus = host_most_cpus(&report->host);

    host_figures_find(before ? &before->host : NULL, &report->host, &report->figures);
    for (guint i = 0; i < report->guests->len; i++) {
        LoadGuest *guest = report->guests->pdata[i];

        guest_figures_find(find_before(before, guest->facts.id), &guest->reading, most_cpus,
                           &guest->figures);
    }
}

static void publish(Collector *collector, LoadReport *report)
{
    LoadReport *before;

    g_mutex_lock(&collector->lock);
    before = collector->report;
    collector->report = report;
    g_cond_broadcast(&collector->looked);
    g_mutex_unlock(&collector->lock);
    load_report_unref(before);
}

void collector_look(Collector *collector)
{
    const CollectorSources *sources = &collector->sources;
    g_autoptr(GPtrArray) guests = sources->list(sources->user);
    LoadReport *report = load_report_new();

    report->wall = (double)g_get_real_time() / G_USEC_PER_SEC;
    host_reader_read(collector->host, report->problems, &report->host);
    sources->read_moves(sources->user, &report->host.moves);
    read_guests(collector, guests, report);
    ask_guests(collector, guests, report);
    g_hash_table_foreach_remove(collector->tracked, is_gone, NULL);
    find_figures(collector->report, report);
    publish(collector, report);
}

LoadReport *collector_get_report(Collector *collector, guint timeout_ms)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    lock_guard(&collector->lock);

    while (!collector->report)
        if (!g_cond_wait_until(&collector->looked, &collector->lock, until))
            return NULL;
    return load_report_ref(collector->report);
}
