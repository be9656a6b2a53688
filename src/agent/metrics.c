#include "agent/metrics.h"

typedef struct {
    const char *name;
    const char *type;
    const char *help;
    const char *object; /* of `activity.progress`; NULL: itself */
    const char *key;
    double unit; /* of the key's value, in the metric's */
} Metric;

#define MS 1e-3

static const Metric metrics[] = {
    {"vmferry_standby_connected", "gauge", "Whether the standby of a protected guest is connected.",
     NULL, "standby_connected", 1},
    {"vmferry_lease_held", "gauge",
     "Whether a guest that needs leases has one; without it stands still.", NULL, "held", 1},
    {"vmferry_outstanding_bytes", "gauge", "Memory of a guest in post-copy that has not come yet.",
     NULL, "outstanding_bytes", 1},
    {"vmferry_epochs_total", "counter", "Epochs that the standby or source has.", "checkpoints",
     "epochs", 1},
    {"vmferry_epoch_pages_total", "counter", "Pages that epochs changed.", "checkpoints", "pages",
     1},
    {"vmferry_epoch_sent_bytes_total", "counter", "Memory sent in epochs.", "checkpoints", "bytes",
     1},
    {"vmferry_epoch_disk_bytes_total", "counter", "Written to disks in epochs.", "checkpoints",
     "disk_bytes", 1},
    {"vmferry_epoch_disk_sent_bytes_total", "counter", "Sent of what was written to disks.",
     "checkpoints", "disk_sent_bytes", 1},
    {"vmferry_epoch_pause_seconds_total", "counter", "Time for which epochs stopped the guest.",
     "checkpoints", "pause_ms", MS},
    {"vmferry_epoch_pause_p50_seconds", "gauge", "Half of the epochs stopped the guest no longer.",
     "checkpoints", "pause_p50_ms", MS},
    {"vmferry_epoch_pause_p99_seconds", "gauge", "Of 100 epochs, 99 stopped the guest no longer.",
     "checkpoints", "pause_p99_ms", MS},
    {"vmferry_epoch_age_seconds", "gauge", "How far the standby or source is behind the guest.",
     "checkpoints", "age_ms", MS},
};

static const char *get_text(json_t *guest, const char *key)
{
    const char *text = json_string_value(json_object_get(guest, key));

    return text ? text : "";
}

static json_t *find_value(json_t *guest, const Metric *metric)
{
    json_t *object = json_object_get(json_object_get(guest, "activity"), "progress");

    if (metric->object)
        object = json_object_get(object, metric->object);
    return json_object_get(object, metric->key);
}

static void write_head(GString *text, const char *name, const char *type, const char *help)
{
    g_string_append_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Names of guests need no escape (base/name.h). */
static void write_sample(GString *text, const Metric *metric, json_t *guest, json_t *value)
{
    const char *name = get_text(guest, "name");
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append_printf(text, "%s{guest=\"%s\"} ", metric->name, name);
    if (json_is_integer(value) && metric->unit == 1) {
        g_string_append_printf(text, "%" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
        return;
    }
    g_ascii_dtostr(number, sizeof number,
                   (json_is_boolean(value) ? json_is_true(value) : json_number_value(value)) *
                       metric->unit);
    g_string_append_printf(text, "%s\n", number);
}

static void write_metric(GString *text, const Metric *metric, json_t *guests)
{
    gboolean has_head = FALSE;
    size_t i;
    json_t *guest;

    json_array_foreach(guests, i, guest)
    {
        json_t *value = find_value(guest, metric);

        if (!json_is_number(value) && !json_is_boolean(value))
            continue;
        if (!has_head)
            write_head(text, metric->name, metric->type, metric->help);
        has_head = TRUE;
        write_sample(text, metric, guest, value);
    }
}

char *metrics_write(json_t *guests, const LoadReport *load)
{
    GString *text = g_string_new(NULL);
    size_t i;
    json_t *guest;

    write_head(text, "vmferry_guests", "gauge", "Guests on this host.");
    g_string_append_printf(text, "vmferry_guests %zu\n", json_array_size(guests));
    write_head(text, "vmferry_guest_info", "gauge", "Each guest, with its state and role.");
    json_array_foreach(guests, i, guest) g_string_append_printf(
        text, "vmferry_guest_info{guest=\"%s\",state=\"%s\",role=\"%s\"} 1\n",
        get_text(guest, "name"), get_text(guest, "state"), get_text(guest, "role"));
    for (i = 0; i < G_N_ELEMENTS(metrics); i++)
        write_metric(text, &metrics[i], guests);
    if (load)
        load_report_write_metrics(load, text);
    return g_string_free(text, FALSE);
}
