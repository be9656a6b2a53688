#include "engine/load.h"

#include <math.h>

#include "base/error.h"
#include "base/name.h"

/* More than any host has; what is above is a counter that wrapped, or a lie. */
#define MAX_CPUS 65536.0
#define MAX_BYTES 1e18
#define MAX_MS 1e15
/* Rates are over an interval that is measured on its own: a little more than all of it is no lie. */
#define SHARE_SLACK 1.1
#define CPU_SLACK 1.5
/* What moves have sent and what their link has sent are read a moment apart. */
#define MOVES_SLACK 0.2

typedef struct {
    GError **error;
    const char *where; /* "cpu_used", or "guest web1: " */
    gboolean failed;
} Reader;

static void fail(Reader *reader, const char *key, const char *what)
{
    if (!reader->failed)
        error_set(reader->error, VMFERRY_ERROR_INVALID, "%s\"%s\" %s", reader->where, key, what);
    reader->failed = TRUE;
}

/* 0 to *max*, or CLUSTER_UNKNOWN. */
static double read_number(Reader *reader, json_t *object, const char *key, double max)
{
    json_t *value = json_object_get(object, key);
    double number;

    if (!value || json_is_null(value))
        return CLUSTER_UNKNOWN;
    if (!json_is_number(value)) {
        fail(reader, key, "is not a number");
        return CLUSTER_UNKNOWN;
    }
    number = json_number_value(value);
    if (number >= 0 && number <= max)
        return number;
    fail(reader, key,
         isnan(number) || number < 0 ? "is negative, or not a number" : "is more than can be");
    return CLUSTER_UNKNOWN;
}

static double read_share(Reader *reader, json_t *object, const char *key)
{
    return fmin(read_number(reader, object, key, SHARE_SLACK), 1.0);
}

/* One that nothing can be said without. */
static double need_number(Reader *reader, json_t *object, const char *key, double max)
{
    double number = read_number(reader, object, key, max);

    if (number < 0)
        fail(reader, key, "is missing");
    return number;
}

static char *read_text(Reader *reader, json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value))
        return NULL;
    if (json_is_string(value) && json_string_length(value) <= LOAD_MAX_TEXT)
        return g_strdup(json_string_value(value));
    fail(reader, key, "is not a text of at most 256 bytes");
    return NULL;
}

static char *need_text(Reader *reader, json_t *object, const char *key)
{
    char *text = read_text(reader, object, key);

    if (!text || !*text)
        fail(reader, key, "is missing");
    return text;
}

static json_t *read_list(Reader *reader, json_t *object, const char *key, size_t max)
{
    json_t *list = json_object_get(object, key);

    if (!list || json_is_null(list))
        return NULL;
    if (json_is_array(list) && json_array_size(list) <= max)
        return list;
    fail(reader, key, "is not a list, or too long");
    return NULL;
}

/* Of both where both are known. */
static double sum(double a, double b)
{
    return a < 0 ? b : b < 0 ? a : a + b;
}

static void load_guest_free(gpointer data)
{
    LoadGuest *guest = data;

    g_free(guest->name);
    g_free(guest->id);
    g_free(guest->role);
    g_free(guest->state);
    g_free(guest);
}

static void read_guest_figures(Reader *reader, json_t *object, LoadGuest *guest)
{
    json_t *network = json_object_get(object, "network");
    double vcpus = read_number(reader, object, "vcpus", MAX_CPUS);

    guest->vcpus = vcpus < 0 ? 0 : (guint)vcpus;
    guest->term = read_number(reader, object, "term", 1e15);
    guest->memory_bytes = read_number(reader, object, "memory_bytes", MAX_BYTES);
    guest->resident_bytes = read_number(reader, object, "resident_bytes", MAX_BYTES);
    guest->swapped_bytes = read_number(reader, object, "swapped_bytes", MAX_BYTES);
    guest->cpu_used = read_number(reader, object, "cpu_used", MAX_CPUS);
    guest->cpu_wait = read_share(reader, object, "cpu_wait");
    guest->network = sum(read_number(reader, network, "received_bytes_per_s", MAX_BYTES),
                         read_number(reader, network, "sent_bytes_per_s", MAX_BYTES));
    guest->backlog = read_number(reader, network, "backlog_bytes", MAX_BYTES);
}

static LoadGuest *read_guest(json_t *object, GError **error)
{
    LoadGuest *guest = g_new0(LoadGuest, 1);
    g_autofree char *where = NULL;
    Reader reader = {.error = error, .where = "a guest: "};

    guest->name = need_text(&reader, object, "name");
    if (!reader.failed && !guest_name_check(guest->name, NULL))
        fail(&reader, "name", "is not a valid guest's name");
    if (!reader.failed)
        reader.where = where = g_strdup_printf("guest %s: ", guest->name);
    guest->id = read_text(&reader, object, "id");
    guest->role = read_text(&reader, object, "role");
    guest->state = read_text(&reader, object, "state");
    read_guest_figures(&reader, object, guest);
    if (!reader.failed)
        return guest;
    load_guest_free(guest);
    return NULL;
}

static gboolean read_guests(json_t *object, Load *load, GError **error)
{
    Reader reader = {.error = error, .where = ""};
    json_t *list = read_list(&reader, object, "guests", LOAD_MAX_GUESTS), *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        LoadGuest *guest = read_guest(entry, error);

        if (!guest)
            return FALSE;
        g_ptr_array_add(load->guests, guest);
    }
    return !reader.failed;
}

typedef struct {
    double received, sent;
} Ways;

static Ways read_ways(Reader *reader, json_t *object)
{
    return (Ways){read_number(reader, object, "received_bytes_per_s", MAX_BYTES),
                  read_number(reader, object, "sent_bytes_per_s", MAX_BYTES)};
}

/* What is left of a link's traffic without that of moves; below 0: it does not carry them. */
static Ways subtract(const Ways *link, const Ways *moves)
{
    return (Ways){link->received - moves->received, link->sent - moves->sent};
}

/* Agents do not tell which link their moves use: it is the one of which least is left. */
static guint find_carrier(const GArray *links, const Ways *moves)
{
    guint carrier = CLUSTER_NONE;
    double least = INFINITY;

    for (guint i = 0; i < links->len; i++) {
        const Ways *link = &g_array_index(links, Ways, i);
        Ways rest = subtract(link, moves);

        if (rest.received < -MOVES_SLACK * moves->received ||
            rest.sent < -MOVES_SLACK * moves->sent ||
            fabs(rest.received) + fabs(rest.sent) >= least)
            continue;
        least = fabs(rest.received) + fabs(rest.sent);
        carrier = i;
    }
    return carrier;
}

/* The busiest link is the one that counts, and the busier way of it. */
static void read_links(Reader *reader, json_t *object, Load *load)
{
    json_t *list = read_list(reader, object, "links", LOAD_MAX_LINKS), *entry;
    Ways moves = read_ways(reader, json_object_get(object, "moves"));
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Ways));
    guint carrier;
    size_t i;

    load->link_speed = load->network = load->guests_network = CLUSTER_UNKNOWN;
    json_array_foreach(list, i, entry)
    {
        double speed = read_number(reader, entry, "speed_bytes_per_s", MAX_BYTES);
        Ways ways = read_ways(reader, entry);

        if (speed > 0 && (load->link_speed < 0 || speed < load->link_speed))
            load->link_speed = speed;
        load->network = fmax(load->network, fmax(ways.received, ways.sent));
        if (ways.received >= 0 || ways.sent >= 0)
            g_array_append_val(links, ways);
    }
    moves = (Ways){fmax(moves.received, 0), fmax(moves.sent, 0)};
    carrier = find_carrier(links, &moves);
    for (guint l = 0; l < links->len; l++) {
        Ways ways = g_array_index(links, Ways, l);

        if (l == carrier)
            ways = subtract(&ways, &moves);
        load->guests_network = fmax(load->guests_network, fmax(fmax(ways.received, ways.sent), 0));
    }
}

static void read_problems(Reader *reader, json_t *object, Load *load)
{
    json_t *list = read_list(reader, object, "problems", LOAD_MAX_PROBLEMS), *entry;
    g_autoptr(GString) text = g_string_new(NULL);
    size_t i;

    json_array_foreach(list, i, entry)
    {
        if (json_is_string(entry) && json_string_length(entry) <= LOAD_MAX_TEXT)
            g_string_append_printf(text, "%s%s", text->len ? "; " : "", json_string_value(entry));
    }
    load->problems = text->len ? g_strdup(text->str) : NULL;
}

static void read_pressure(Reader *reader, json_t *object, Load *load)
{
    json_t *pressure = json_object_get(object, "pressure");

    load->cpu_pressure = read_share(reader, json_object_get(pressure, "cpu"), "some");
    load->memory_pressure = read_share(reader, json_object_get(pressure, "memory"), "some");
    load->io_pressure = read_share(reader, json_object_get(pressure, "io"), "some");
}

static void read_host(Reader *reader, json_t *object, Load *load)
{
    load->host = need_text(reader, object, "host");
    load->version = need_text(reader, object, "version");
    load->agent_id = read_text(reader, object, "agent_id");
    load->boot_id = read_text(reader, object, "boot_id");
    load->time_ms = need_number(reader, object, "time_ms", MAX_MS);
    load->wall = read_number(reader, object, "wall", 1e12);
    load->interval_ms = read_number(reader, object, "interval_ms", MAX_MS);
    load->cpus = need_number(reader, object, "cpus", MAX_CPUS);
    load->cpu_used = read_number(reader, object, "cpu_used", load->cpus * CPU_SLACK + 1);
    load->run_queue = read_number(reader, object, "run_queue", 1e9);
    load->memory_bytes = need_number(reader, object, "memory_bytes", MAX_BYTES);
    load->memory_available_bytes = read_number(reader, object, "memory_available_bytes", MAX_BYTES);
    load->swap_out = read_number(reader, object, "swap_out_bytes_per_s", MAX_BYTES);
    load->moves_cpu = read_number(reader, json_object_get(object, "moves"), "cpu_used", MAX_CPUS);
    if (load->memory_available_bytes > load->memory_bytes)
        fail(reader, "memory_available_bytes", "is more than all of its memory");
}

Load *load_parse(json_t *object, GError **error)
{
    g_autoptr(Load) load = g_new0(Load, 1);
    Reader reader = {.error = error, .where = ""};

    load->guests = g_ptr_array_new_with_free_func(load_guest_free);
    read_host(&reader, object, load);
    read_pressure(&reader, object, load);
    read_links(&reader, object, load);
    read_problems(&reader, object, load);
    return !reader.failed && read_guests(object, load, error) ? g_steal_pointer(&load) : NULL;
}

void load_free(Load *load)
{
    if (!load)
        return;
    g_free(load->host);
    g_free(load->version);
    g_free(load->agent_id);
    g_free(load->boot_id);
    g_free(load->problems);
    g_ptr_array_unref(load->guests);
    g_free(load);
}
