/* The engine's metrics for Prometheus; see engine.h.
 *
 * All names begin with vmferry_engine_: an agent has figures of its own host and guests (vmferry_host_…,
 * vmferry_guest_…), and a sum over both would count everything twice.
 */
#include "base/error.h"
#include "base/lock_guard.h"
#include "engine/engine_private.h"
#include "vmferry-config.h"

#define PREFIX "vmferry_engine_"

static void begin(GString *text, const char *name, const char *help)
{
    g_string_append_printf(text, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s gauge\n", name, help,
                           name);
}

static void write_number(GString *text, double value)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append_printf(text, " %s\n", g_ascii_formatd(number, sizeof number, "%.15g", value));
}

static void write_plain(GString *text, const char *name, const char *help, double value)
{
    begin(text, name, help);
    g_string_append(text, PREFIX);
    g_string_append(text, name);
    write_number(text, value);
}

/* Prometheus escapes these three, and nothing else. */
static void write_label(GString *text, const char *label, const char *value)
{
    g_string_append_printf(text, "%s=\"", label);
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"')
            g_string_append_c(text, '\\');
        if (*c == '\n')
            g_string_append(text, "\\n");
        else
            g_string_append_c(text, *c);
    }
    g_string_append_c(text, '"');
}

/* What is not known (CLUSTER_UNKNOWN) has no sample. */
static void write_labelled(GString *text, const char *name, const char *label, const char *labelled,
                           double value)
{
    if (value < 0)
        return;
    g_string_append_printf(text, PREFIX "%s{", name);
    write_label(text, label, labelled);
    g_string_append_c(text, '}');
    write_number(text, value);
}

/* ---- hosts ---- */

typedef double (*HostFigure)(const Engine *engine, guint host);

static const ModelHost *host_at(const Engine *engine, guint host)
{
    return engine->model->hosts->pdata[host];
}

static double is_usable(const Engine *engine, guint host)
{
    return host_at(engine, host)->problem == NULL;
}

static double is_hot(const Engine *engine, guint host)
{
    return json_array_size(json_array_get(engine->hot, host)) > 0;
}

static double is_drained(const Engine *engine, guint host)
{
    return host_at(engine, host)->drained;
}

static double guests_on(const Engine *engine, guint host)
{
    guint count = 0;

    for (guint i = 0; i < engine->model->guests->len; i++)
        count += ((ModelGuest *)engine->model->guests->pdata[i])->host == host;
    return count;
}

static double age_of(const Engine *engine, guint host)
{
    double seen_ms = host_at(engine, host)->seen_ms;

    return seen_ms < 0 ? CLUSTER_UNKNOWN : MAX(engine_now_ms() - seen_ms, 0) / 1e3;
}

/* Figures that cannot be used are none; vmferry_engine_host_usable says so. */
static const Load *load_of(const Engine *engine, guint host)
{
    return host_at(engine, host)->problem ? NULL : host_at(engine, host)->load;
}

#define LOAD_FIGURE(name, field)                                                                   \
    static double name(const Engine *engine, guint host)                                           \
    {                                                                                              \
        const Load *load = load_of(engine, host);                                                  \
                                                                                                   \
        return load ? (double)load->field : CLUSTER_UNKNOWN;                                       \
    }

LOAD_FIGURE(cpus_of, cpus)
LOAD_FIGURE(cpu_used_of, cpu_used)
LOAD_FIGURE(cpu_pressure_of, cpu_pressure)
LOAD_FIGURE(memory_pressure_of, memory_pressure)
LOAD_FIGURE(memory_of, memory_bytes)
LOAD_FIGURE(available_of, memory_available_bytes)
LOAD_FIGURE(network_of, network)
LOAD_FIGURE(link_of, link_speed)

static const struct {
    const char *name, *help;
    HostFigure figure;
} host_figures[] = {
    {"host_usable", "Whether the host's figures can be used.", is_usable},
    {"host_hot", "Whether something on the host suffers.", is_hot},
    {"host_drained", "Whether the host is to be empty.", is_drained},
    {"host_guests", "Guests on the host.", guests_on},
    {"host_figures_age_seconds", "How old the host's figures are.", age_of},
    {"host_cpus", "CPUs that the host has.", cpus_of},
    {"host_cpus_used", "CPUs in use on the host.", cpu_used_of},
    {"host_cpu_pressure_ratio", "Share of time in which something waited for a CPU.",
     cpu_pressure_of},
    {"host_memory_pressure_ratio", "Share of time in which something waited for memory.",
     memory_pressure_of},
    {"host_memory_bytes", "Memory of the host.", memory_of},
    {"host_memory_available_bytes", "Memory of the host that is available.", available_of},
    {"host_network_bytes_per_second", "What goes over the host's busiest link.", network_of},
    {"host_link_bytes_per_second", "What the slowest link of known speed can carry.", link_of},
};

static void write_hosts(GString *text, const Engine *engine)
{
    for (guint i = 0; i < G_N_ELEMENTS(host_figures); i++) {
        begin(text, host_figures[i].name, host_figures[i].help);
        for (guint host = 0; host < engine->model->hosts->len; host++)
            write_labelled(text, host_figures[i].name, "host", host_at(engine, host)->name,
                           host_figures[i].figure(engine, host));
    }
}

/* ---- guests ---- */

/* Only of guests that were promised something, and of which it is known. */
static void write_guests(GString *text, Engine *engine)
{
    g_autoptr(EngineView) view = engine_make_view(engine, 0, FALSE);
    guint frozen = 0;

    begin(text, "guest_sla_met", "Whether the guest has what it was promised.");
    for (guint i = 0; i < view->cluster.n_guests; i++) {
        const ClusterGuest *guest = &view->cluster.guests[i];
        g_autoptr(json_t) met = planner_sla_met(guest);

        frozen += view->guests[i]->frozen != NULL;
        if (!host_at(engine, guest->host)->problem && json_is_boolean(met))
            write_labelled(text, "guest_sla_met", "guest", guest->name, json_is_true(met));
    }
    write_plain(text, "guests", "Guests that are known.", view->cluster.n_guests);
    write_plain(text, "guests_frozen", "Guests that the engine leaves where they are.", frozen);
}

/* ---- moves ---- */

static void write_moves(GString *text, const GPtrArray *recent)
{
    begin(text, "moves_last_day", "Moves that ended in the last 24 hours, by their outcome.");
    for (guint state = MOVE_COMPLETED; state <= MOVE_ABANDONED; state++) {
        guint count = 0;

        for (guint i = 0; i < recent->len; i++)
            count += ((MoveRecord *)recent->pdata[i])->state == (MoveState)state;
        write_labelled(text, "moves_last_day", "state", move_state_name((MoveState)state), count);
    }
}

static void write_info(GString *text, const Engine *engine)
{
    begin(text, "info", "The engine and its version.");
    g_string_append(text, PREFIX "info{");
    write_label(text, "engine", engine->settings->name);
    g_string_append(text, ",version=\"" VMFERRY_VERSION "\"}");
    write_number(text, 1);
}

char *engine_show_metrics(Engine *engine)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GPtrArray) open = NULL;
    guint hits = 0, all = 0;

    engine_store_count_hits(engine->store, &hits, &all, NULL);
    lock_guard(&engine->lock);
    engine_apply_wishes(engine);
    open = engine_list_open(engine);
    write_info(text, engine);
    write_plain(text, "leader", "Whether this engine leads.", engine->leader);
    write_plain(text, "automatic", "Whether it moves guests by itself.",
                engine->settings->automatic);
    write_plain(text, "frozen", "Whether the engine may begin nothing.",
                engine_find_hold(engine) != NULL);
    write_plain(text, "store_failed", "Whether its store cannot be written to.",
                engine->broken != NULL);
    write_plain(text, "moves_under_way", "Moves under way.", open->len);
    write_plain(text, "planned_moves", "Moves in the newest plan.",
                (double)json_array_size(json_object_get(engine->plan_json, "moves")));
    write_plain(text, "plan_duration_seconds", "Time that the newest plan took.",
                engine->thought_ms / 1e3);
    write_plain(text, "forecasts", "Moves whose forecast was looked at later.", all);
    write_plain(text, "forecasts_true", "Of these, that came true.", hits);
    write_hosts(text, engine);
    write_guests(text, engine);
    write_moves(text, engine->recent);
    return g_strdup(text->str);
}
