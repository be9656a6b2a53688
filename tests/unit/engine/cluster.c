#include "cluster.h"

#include <string.h>

json_t *test_load(const char *host, double time_ms, double cpus, double cpu_used,
                  const TestGuest *guests)
{
    json_t *list = json_array();
    json_t *object =
        json_pack("{s:s, s:s+, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:{s:{s:f}}, s:I, s:I, s:[{s:s, "
                  "s:I, s:I, s:I}]}",
                  "host", host, "agent_id", "agent-", host, "version", "0.1.0", "boot_id", "b",
                  "time_ms", time_ms, "wall", 1000 + time_ms / 1e3, "interval_ms", 2000.0, "cpus",
                  cpus, "cpu_used", cpu_used, "pressure", "cpu", "some", 0.1, "memory_bytes",
                  (json_int_t)8 << 30, "memory_available_bytes", (json_int_t)6 << 30, "links",
                  "name", "eth0", "speed_bytes_per_s", (json_int_t)125000000,
                  "received_bytes_per_s", (json_int_t)1000, "sent_bytes_per_s", (json_int_t)2000);

    for (; guests->name; guests++) {
        g_autofree char *id = g_strdup_printf("id-%s", guests->name);

        json_array_append_new(
            list, json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:I, s:I, s:f, s:f, s:i}", "name",
                            guests->name, "id", id, "term", guests->term ? guests->term : 1, "role",
                            "ours", "state", "running", "vcpus", 2, "memory_bytes",
                            (json_int_t)guests->memory_mb << 20, "resident_bytes",
                            (json_int_t)guests->memory_mb << 20, "cpu_used", guests->cpu,
                            "cpu_wait", guests->wait, "swapped_bytes", 0));
    }
    json_object_set_new(object, "guests", list);
    return object;
}

void test_look(Model *model, guint host, double time_ms, double cpus, double cpu_used,
               const TestGuest *guests)
{
    g_autoptr(json_t) object =
        test_load(((ModelHost *)model->hosts->pdata[host])->name, time_ms, cpus, cpu_used, guests);
    g_autoptr(GError) error = NULL;
    Load *load = load_parse(object, &error);

    if (!load)
        fail_msg("%s", error->message);
    model_take_look(model, host, load, NULL, time_ms, 1000 + time_ms / 1e3);
}

void expect_error(GError *error, const char *words)
{
    assert_non_null(error);
    if (!strstr(error->message, words))
        fail_msg("\"%s\" does not say \"%s\"", error->message, words);
    g_error_free(error);
}

static void ask_guest(const ModelGuest *guest, ModelGuestFacts *ret, gpointer user)
{
}

static void ask_host(guint host, guint *ret_moves, guint *ret_lately, gpointer user)
{
}

EngineView *test_view(Model *model, const GPtrArray *rules, double now_ms)
{
    ModelContext context = {.rules = rules, .ask_guest = ask_guest, .ask_host = ask_host};

    model_check(model, now_ms);
    return model_make_view(model, &context, now_ms);
}
