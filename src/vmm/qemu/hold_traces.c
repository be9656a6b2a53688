#include "vmm/qemu/hold_traces.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"

static const char *const part_names[] = {
    [HOLD_DIVERT] = "divert", [HOLD_OUT] = "out", [HOLD_INJECT] = "inject", [HOLD_IN] = "in"};
G_STATIC_ASSERT(G_N_ELEMENTS(part_names) == HOLD_PARTS);

static gboolean is_name_character(char c)
{
    return g_ascii_isalnum(c) || c == '-' || c == '_';
}

/* A dot would end it. */
gboolean qemu_hold_check_name(const char *name, GError **error)
{
    size_t length = 0;

    while (is_name_character(name[length]))
        length++;
    if (length > 0 && length <= QEMU_HOLD_NAME_MAX && !name[length])
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "a hold of output has a name of 1 to %u letters, digits, \"-\" and \"_\", and \"%s\" "
              "is none",
              QEMU_HOLD_NAME_MAX, name);
    return FALSE;
}

char *qemu_hold_part(const char *name, guint number, QemuHoldPart part)
{
    return g_strdup_printf(QEMU_HOLD_PREFIX "%s.%u.%s", name, number, part_names[part]);
}

/* ---- finding ---- */

static gboolean read_id(const char *id, const char *name, QemuHoldTrace *ret)
{
    g_autofree char *prefix = g_strdup_printf(QEMU_HOLD_PREFIX "%s.", name);
    const char *dot = g_str_has_prefix(id, prefix) ? strchr(id + strlen(prefix), '.') : NULL;
    g_autofree char *number =
        dot ? g_strndup(id + strlen(prefix), (gsize)(dot - id) - strlen(prefix)) : NULL;
    guint64 value;

    if (!number || !g_ascii_string_to_unsigned(number, 10, 0, QEMU_HOLD_MAX_NUMBER, &value, NULL))
        return FALSE;
    for (guint i = 0; i < HOLD_PARTS; i++) {
        if (strcmp(dot + 1, part_names[i]) == 0) {
            *ret = (QemuHoldTrace){.part = (QemuHoldPart)i, .number = (guint)value};
            return TRUE;
        }
    }
    return FALSE;
}

GArray *qemu_hold_find(json_t *objects, json_t *chardevs, const char *name)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(QemuHoldTrace));
    QemuHoldTrace trace;
    json_t *entry;
    size_t i;

    json_array_foreach(objects, i, entry)
    {
        if (read_id(json_text_or(entry, "name", ""), name, &trace))
            g_array_append_val(found, trace);
    }
    json_array_foreach(chardevs, i, entry)
    {
        if (!read_id(json_text_or(entry, "label", ""), name, &trace))
            continue;
        trace.connected = !g_str_has_prefix(json_text_or(entry, "filename", ""), "disconnected:");
        g_array_append_val(found, trace);
    }
    return found;
}

/* ---- hiding ---- */

static void drop_named(json_t *list, const char *key)
{
    for (size_t i = json_array_size(list); i-- > 0;)
        if (g_str_has_prefix(json_text_or(json_array_get(list, i), key, ""), QEMU_HOLD_PREFIX))
            json_array_remove(list, i);
}

void qemu_holds_hide(json_t *machine)
{
    drop_named(json_object_get(machine, "objects"), "name");
    drop_named(json_object_get(machine, "chardevs"), "label");
}
