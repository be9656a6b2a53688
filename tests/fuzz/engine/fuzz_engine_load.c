/* Answers of an agent, one a line: its figures, then what its guests do; and a rule.  All of it goes into a model. */
#include <string.h>

#include "engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask_guest(const ModelGuest *guest, ModelGuestFacts *ret, gpointer user)
{
}

static void ask_host(guint host, guint *ret_moves, guint *ret_lately, gpointer user)
{
}

static void take_line(Model *model, GPtrArray *rules, guint number, json_t *object)
{
    Load *load = load_parse(object, NULL);
    Rule *rule = rule_from_json(object, NULL);
    ClusterSla sla;

    sla_from_json(object, &sla, NULL);
    if (rule)
        g_ptr_array_add(rules, rule);
    if (load)
        model_take_look(model, number % 2, load, json_object_get(object, "guests"), number * 1000.0,
                        1e9);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) lines = g_strsplit(text, "\n", 16);
    g_autoptr(Model) model = model_new("0.1.0");
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);
    ModelContext context = {.rules = rules, .ask_guest = ask_guest, .ask_host = ask_host};
    g_autoptr(EngineView) view = NULL;

    model_add_host(model, "hosta", "hosta", NULL);
    model_add_host(model, "hostb", "hostb", "10.0.0.2:4747");
    for (guint i = 0; lines[i]; i++) {
        g_autoptr(json_t) object = json_parse_object(lines[i], strlen(lines[i]), 1u << 20, NULL);

        if (object)
            take_line(model, rules, i, object);
        model_check(model, i * 1000.0);
    }
    view = model_make_view(model, &context, 16000);
    return 0;
}
