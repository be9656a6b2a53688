/* Options in, options out; what happens in between is in the live_*.c beside. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/live_line_private.h"

/* The options that are edited, and the key of a value that starts without one. */
static const struct {
    const char *name, *implied;
} edited_options[] = {
    {"device", "driver"},   {"drive", NULL},    {"blockdev", "driver"},
    {"object", "qom-type"}, {"netdev", "type"}, {"chardev", "backend"},
};

static QemuParameters *read_parameters(const QemuOption *option)
{
    for (guint i = 0; i < G_N_ELEMENTS(edited_options); i++)
        if (g_strcmp0(option->name, edited_options[i].name) == 0 && option->value)
            return qemu_parameters_parse(option->value, edited_options[i].implied);
    return NULL;
}

static void line_option_clear(gpointer data)
{
    qemu_parameters_free(((LineOption *)data)->parameters);
    g_free(((LineOption *)data)->drive_name);
}

static void read_options(LivePlan *plan)
{
    QemuOption option = {0};

    while (qemu_option_next(plan->job->arguments, &option)) {
        g_autoptr(QemuParameters) expanded = live_expand_short_form(&option);
        LineOption line = {.option = option,
                           .parameters = expanded ? NULL : read_parameters(&option),
                           .new_name = expanded ? "drive" : NULL};

        if (expanded)
            line.parameters = g_steal_pointer(&expanded);
        g_array_append_val(plan->options, line);
    }
}

LineOption *live_plan_find(const LivePlan *plan, const char *name, const char *key,
                           const char *value)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (!line->dropped && line->parameters && line_option_is(line, name) &&
            g_strcmp0(qemu_parameters_get(line->parameters, key), value) == 0)
            return line;
    }
    return NULL;
}

void live_plan_add(LivePlan *plan, const char *name, char *value)
{
    g_ptr_array_add(plan->added, g_strconcat("-", name, NULL));
    g_ptr_array_add(plan->added, value);
}

void live_plan_add_json(LivePlan *plan, const char *name, json_t *object)
{
    char *dump = json_dumps(object, JSON_COMPACT);

    live_plan_add(plan, name, g_strdup(dump));
    free(dump);
    json_decref(object);
}

/* Arguments that the map rules of this host have rewritten count as what came; an
 * option that is edited now is in this host's terms. */
static char *const *choose_arguments(const QemuLiveLine *job)
{
    gboolean paired = job->original && g_strv_length((char **)job->original) ==
                                           g_strv_length((char **)job->arguments);

    return paired ? job->original : job->arguments;
}

static void write_option(const LivePlan *plan, const LineOption *line, char *const *arguments,
                         GPtrArray *out)
{
    const QemuOption *option = &line->option;

    if (line->dropped)
        return;
    if (line->edited) {
        const char *name = line->new_name ? line->new_name : option->name;

        g_ptr_array_add(out, g_strconcat("-", name, NULL));
        g_ptr_array_add(out, qemu_parameters_to_text(line->parameters));
        return;
    }
    for (guint i = 0; i < option->words; i++)
        g_ptr_array_add(out, g_strdup(arguments[option->first + i]));
}

static char **write_line(const LivePlan *plan)
{
    g_autoptr(GPtrArray) out = g_ptr_array_new_with_free_func(g_free);
    char *const *arguments = choose_arguments(plan->job);

    if (arguments[0])
        g_ptr_array_add(out, g_strdup(arguments[0]));
    for (guint i = 0; i < plan->options->len; i++)
        write_option(plan, live_plan_option(plan, i), arguments, out);
    for (guint i = 0; i < plan->added->len; i++)
        g_ptr_array_add(out, g_strdup(plan->added->pdata[i]));
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&out), FALSE);
}

char **qemu_live_line(const QemuLiveLine *job, GError **error)
{
    g_autoptr(GArray) options = g_array_new(FALSE, FALSE, sizeof(LineOption));
    g_autoptr(GPtrArray) added = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GPtrArray) devices = g_ptr_array_new_with_free_func(g_free);
    LivePlan plan = {.job = job,
                     .machine = job->machine,
                     .options = options,
                     .added = added,
                     .node_names = names,
                     .added_devices = devices};

    g_array_set_clear_func(options, line_option_clear);
    read_options(&plan);
    live_name_drives(&plan);
    if (live_match_devices(&plan, error) && live_drives(&plan, error) && live_nodes(&plan, error) &&
        live_backends(&plan, error) && live_write_devices(&plan, error))
        return write_line(&plan);
    return NULL;
}
