#include "agent/systemd_unit.h"

#include <string.h>
#include <systemd/sd-daemon.h>

#include "base/fd.h"
#include "base/log.h"
#include "migrate/source.h"

#define TEXT_LIMIT 65536
#define ANSWER_US 2000000
#define SERVICE "org.freedesktop.systemd1"
#define OBJECT "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define SERVICE_INTERFACE "org.freedesktop.systemd1.Service"

/* ---- names ---- */

/* The hierarchy that systemd keeps: version 2's, or its own in version 1. */
static char *find_path(const char *cgroups)
{
    g_auto(GStrv) lines = g_strsplit(cgroups, "\n", -1);
    char *found = NULL;

    for (char **line = lines; *line; line++) {
        const char *own = strstr(*line, ":name=systemd:");
        const char *path = g_str_has_prefix(*line, "0::") ? *line + 3
                           : own                          ? own + strlen(":name=systemd:")
                                                          : NULL;

        if (!path || (found && !strstr(path, ".service")))
            continue;
        g_free(found);
        found = g_strdup(path);
    }
    return found;
}

/* "user@1000.service" runs a user's systemd, which has units of its own. */
static gboolean read_user(const char *part, uid_t *ret)
{
    g_autofree char *number = g_str_has_prefix(part, "user@") && g_str_has_suffix(part, ".service")
                                  ? g_strndup(part + 5, strlen(part) - strlen("user@.service"))
                                  : NULL;
    guint64 uid;

    if (!number || !g_ascii_string_to_unsigned(number, 10, 0, G_MAXUINT32 - 1, &uid, NULL))
        return FALSE;
    *ret = (uid_t)uid;
    return TRUE;
}

gboolean systemd_unit_parse(const char *cgroups, SystemdUnit *ret)
{
    g_autofree char *path = find_path(cgroups);
    g_auto(GStrv) parts = path ? g_strsplit(path, "/", -1) : NULL;

    *ret = (SystemdUnit){0};
    for (char **part = parts; part && *part; part++) {
        if (read_user(*part, &ret->user)) {
            ret->users = TRUE;
        } else if (g_str_has_suffix(*part, ".service")) {
            g_free(ret->name);
            ret->name = g_strdup(*part);
        }
    }
    return ret->name != NULL;
}

void systemd_unit_clear(SystemdUnit *unit)
{
    g_clear_pointer(&unit->name, g_free);
}

/* ---- asking ---- */

static char *find_object(sd_bus *bus, const char *unit)
{
    sd_bus_message *reply = NULL;
    const char *path = NULL;
    char *found = NULL;

    if (sd_bus_call_method(bus, SERVICE, OBJECT, MANAGER_INTERFACE, "GetUnit", NULL, &reply, "s",
                           unit) >= 0 &&
        sd_bus_message_read(reply, "o", &path) >= 0)
        found = g_strdup(path);
    sd_bus_message_unref(reply);
    return found;
}

static char *get_restart(sd_bus *bus, const char *object)
{
    char *text = NULL, *copy;

    if (sd_bus_get_property_string(bus, SERVICE, object, SERVICE_INTERFACE, "Restart", NULL,
                                   &text) < 0)
        return NULL;
    copy = g_strdup(text);
    free(text); /* which is sd-bus's, not GLib's */
    return copy;
}

static gboolean is_main(sd_bus *bus, const char *object, pid_t pid)
{
    guint32 main = 0;

    return sd_bus_get_property_trivial(bus, SERVICE, object, SERVICE_INTERFACE, "MainPID", NULL,
                                       'u', &main) >= 0 &&
           (pid_t)main == pid;
}

/* TRUE where RestartPreventExitStatus= holds the code that a guest's process
 * ends with once it has moved. */
static gboolean is_prevented(sd_bus *bus, const char *object)
{
    sd_bus_message *reply = NULL;
    gboolean found = FALSE;
    const void *codes;
    size_t bytes;

    if (sd_bus_get_property(bus, SERVICE, object, SERVICE_INTERFACE, "RestartPreventExitStatus",
                            NULL, &reply, "(aiai)") >= 0 &&
        sd_bus_message_enter_container(reply, 'r', "aiai") > 0 &&
        sd_bus_message_read_array(reply, 'i', &codes, &bytes) >= 0) {
        const gint32 *list = codes;

        for (size_t i = 0; i < bytes / sizeof *list; i++)
            found = found || list[i] == MIGRATE_EXIT_CODE_MOVED;
    }
    sd_bus_message_unref(reply);
    return found;
}

/* A service that goes by another program's exit code hears of none but its own. */
char *systemd_unit_ask(sd_bus *bus, const char *unit, pid_t pid)
{
    static const char *const harmless[] = {"no", "on-watchdog", "on-abort", NULL};
    g_autofree char *object = find_object(bus, unit);
    g_autofree char *restart = object ? get_restart(bus, object) : NULL;

    if (!restart || g_strv_contains(harmless, restart) ||
        (is_main(bus, object, pid) && is_prevented(bus, object)))
        return NULL;
    return g_strdup_printf("unit %s, which has Restart=%s, starts it again (unless it has "
                           "RestartPreventExitStatus=%d and is the guest's process itself)",
                           unit, restart, MIGRATE_EXIT_CODE_MOVED);
}

static sd_bus *open_bus(const SystemdUnit *unit)
{
    g_autofree char *address = g_strdup_printf("unix:path=/run/user/%u/bus", (guint)unit->user);
    sd_bus *bus = NULL;

    if (!unit->users)
        return sd_bus_open_system(&bus) >= 0 ? bus : NULL;
    if (sd_bus_new(&bus) >= 0 && sd_bus_set_address(bus, address) >= 0 &&
        sd_bus_set_bus_client(bus, TRUE) >= 0 && sd_bus_start(bus) >= 0)
        return bus;
    sd_bus_unref(bus);
    return NULL;
}

static gboolean read_unit(const char *process, SystemdUnit *ret)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/cgroup", process);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);

    *ret = (SystemdUnit){0};
    return text && systemd_unit_parse(text, ret);
}

char *systemd_unit_find(pid_t pid)
{
    g_autofree char *process = g_strdup_printf("%d", (int)pid);
    g_auto(SystemdUnit) unit = {0};
    g_auto(SystemdUnit) own = {0};
    char *finding = NULL;
    sd_bus *bus;

    /* What we started ourselves is in our own unit, which restarts us only. */
    if (sd_booted() <= 0 || !read_unit(process, &unit) ||
        (read_unit("self", &own) && strcmp(own.name, unit.name) == 0))
        return NULL;
    bus = open_bus(&unit);
    if (bus) {
        sd_bus_set_method_call_timeout(bus, ANSWER_US);
        finding = systemd_unit_ask(bus, unit.name, pid);
    } else {
        log_debug("unit %s of process %d cannot be asked for", unit.name, (int)pid);
    }
    sd_bus_flush_close_unref(bus);
    return finding;
}
