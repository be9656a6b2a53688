#include "sim/cluster_recording.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"

#define LINE_LIMIT (64u << 20)
#define MOST_NUMBER 1e15

/* ---- writing ---- */

char *cluster_recording_header_line(const ClusterView *view)
{
    GString *line = g_string_new("{\"cluster_trace\":2,\"hosts\":[");

    for (guint h = 0; h < view->n_hosts; h++)
        g_string_append_printf(line, "%s[%.6g,%.0f,%.0f]", h > 0 ? "," : "", view->hosts[h].cpus,
                               view->hosts[h].memory_bytes, view->hosts[h].link_bytes_per_s);
    g_string_append(line, "],\"guests\":[");
    for (guint g = 0; g < view->n_guests; g++)
        g_string_append_printf(line, "%s[%u,%u,%.0f,%.6g,%.0f]", g > 0 ? "," : "",
                               view->guests[g].host, view->guests[g].vcpus,
                               view->guests[g].memory_bytes, view->guests[g].sla.cpu_wait,
                               view->guests[g].sla.network);
    g_string_append(line, "]}");
    return g_string_free(line, FALSE);
}

static void add_figures(GString *line, const char *key, const ClusterDemand *demands, guint n,
                        size_t offset, const char *format)
{
    g_string_append_printf(line, "%s\"%s\":[", line->len > 1 ? "," : "", key);
    for (guint g = 0; g < n; g++) {
        double value;
        char number[G_ASCII_DTOSTR_BUF_SIZE];

        memcpy(&value, (const char *)&demands[g] + offset, sizeof(value));
        g_string_append_printf(line, "%s%s", g > 0 ? "," : "",
                               g_ascii_formatd(number, sizeof(number), format, value));
    }
    g_string_append(line, "]");
}

char *cluster_recording_step_line(const ClusterDemand *demands, guint n)
{
    GString *line = g_string_new("{");

    add_figures(line, "cpu", demands, n, offsetof(ClusterDemand, cpu), "%.4g");
    add_figures(line, "network", demands, n, offsetof(ClusterDemand, network), "%.0f");
    add_figures(line, "memory", demands, n, offsetof(ClusterDemand, memory), "%.0f");
    g_string_append(line, "}");
    return g_string_free(line, FALSE);
}

/* ---- reading ---- */

static gboolean get_number(json_t *array, size_t i, double least, double most, double *ret,
                           GError **error)
{
    json_t *number = json_array_get(array, i);
    double value = json_is_number(number) ? json_number_value(number) : NAN;

    if (!(value >= least && value <= most)) {
        error_set(error, VMFERRY_ERROR_INVALID, "number %zu is not from %g to %g", i + 1, least,
                  most);
        return FALSE;
    }
    *ret = value;
    return TRUE;
}

static gboolean parse_host(ClusterRecording *recording, guint h, json_t *host, GError **error)
{
    return get_number(host, 0, 0.1, 1e5, &recording->hosts[h].cpus, error) &&
           get_number(host, 1, 1, MOST_NUMBER, &recording->hosts[h].memory, error) &&
           get_number(host, 2, 1, MOST_NUMBER, &recording->hosts[h].link, error);
}

static gboolean parse_guest(ClusterRecording *recording, guint g, json_t *guest, GError **error)
{
    double host, vcpus;

    if (!get_number(guest, 0, 0, recording->n_hosts - 1.0, &host, error) ||
        !get_number(guest, 1, 1, 10000, &vcpus, error) ||
        !get_number(guest, 2, 1, MOST_NUMBER, &recording->guests[g].memory, error) ||
        !get_number(guest, 3, 0, 1, &recording->guests[g].cpu_wait, error) ||
        !get_number(guest, 4, 0, MOST_NUMBER, &recording->guests[g].network, error))
        return FALSE;
    recording->guests[g].host = (guint)host;
    recording->guests[g].vcpus = (guint)vcpus;
    return TRUE;
}

static gboolean parse_header(ClusterRecording *recording, json_t *object, GError **error)
{
    json_t *hosts, *guests;
    guint64 version = json_count_or(object, "cluster_trace", 0);

    if (version != 1 && version != 2) {
        error_set(error, VMFERRY_ERROR_INVALID, "not a cluster trace of version 1 or 2");
        return FALSE;
    }
    if (!json_get_array(object, "hosts", CLUSTER_RECORDING_MOST_HOSTS, &hosts, error) ||
        !json_get_array(object, "guests", CLUSTER_RECORDING_MOST_GUESTS, &guests, error))
        return FALSE;
    recording->repeat = version == 1 ? 2 : 1;
    recording->n_hosts = (guint)json_array_size(hosts);
    recording->n_guests = (guint)json_array_size(guests);
    if (recording->n_hosts == 0 || recording->n_guests == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "no hosts, or no guests");
        return FALSE;
    }
    recording->hosts = g_malloc0_n(recording->n_hosts, sizeof(*recording->hosts));
    recording->guests = g_malloc0_n(recording->n_guests, sizeof(*recording->guests));
    for (guint h = 0; h < recording->n_hosts; h++)
        if (!parse_host(recording, h, json_array_get(hosts, h), error))
            return FALSE;
    for (guint g = 0; g < recording->n_guests; g++)
        if (!parse_guest(recording, g, json_array_get(guests, g), error))
            return FALSE;
    return TRUE;
}

static gboolean parse_step(ClusterRecording *recording, json_t *object, GError **error)
{
    json_t *cpu, *network, *memory;
    size_t most = recording->n_guests;

    if (!json_get_array(object, "cpu", most, &cpu, error) ||
        !json_get_array(object, "network", most, &network, error) ||
        !json_get_array(object, "memory", most, &memory, error))
        return FALSE;
    if (recording->readings->len + most > CLUSTER_RECORDING_MOST_READINGS) {
        error_set(error, VMFERRY_ERROR_INVALID, "too many steps for so many guests");
        return FALSE;
    }
    for (guint g = 0; g < recording->n_guests; g++) {
        ClusterDemand demand;

        if (!get_number(cpu, g, 0, 1e5, &demand.cpu, error) ||
            !get_number(network, g, 0, MOST_NUMBER, &demand.network, error) ||
            !get_number(memory, g, 0, MOST_NUMBER, &demand.memory, error))
            return FALSE;
        g_array_append_val(recording->readings, demand);
    }
    recording->steps++;
    return TRUE;
}

static gboolean parse_line(ClusterRecording *recording, const char *line, size_t length,
                           GError **error)
{
    g_autoptr(json_t) object = json_parse_object(line, length, LINE_LIMIT, error);

    if (!object)
        return FALSE;
    return recording->n_hosts == 0 ? parse_header(recording, object, error)
                                   : parse_step(recording, object, error);
}

ClusterRecording *cluster_recording_parse(const char *text, size_t length, GError **error)
{
    g_autoptr(ClusterRecording) recording = g_new0(ClusterRecording, 1);
    guint number = 0;

    recording->readings = g_array_new(FALSE, FALSE, sizeof(ClusterDemand));
    for (size_t at = 0; at < length;) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t line = end ? (size_t)(end - (text + at)) : length - at;

        number++;
        if (line > 0 && !parse_line(recording, text + at, line, error)) {
            g_prefix_error(error, "line %u: ", number);
            return NULL;
        }
        at += line + 1;
    }
    if (recording->steps == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "no step in it");
        return NULL;
    }
    return g_steal_pointer(&recording);
}

void cluster_recording_free(ClusterRecording *recording)
{
    if (!recording)
        return;
    g_free(recording->hosts);
    g_free(recording->guests);
    g_array_unref(recording->readings);
    g_free(recording);
}

ClusterDemand cluster_recording_get(const ClusterRecording *recording, guint step, guint guest)
{
    return g_array_index(recording->readings, ClusterDemand,
                         (gsize)step * recording->n_guests + guest);
}
