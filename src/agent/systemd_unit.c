#include "agent/systemd_unit.h"

#include <signal.h>
#include <string.h>

#include "base/fd.h"
#include "migrate/source.h"

#define TEXT_LIMIT 65536
#define ANSWER_US 2000000
#define SERVICE "org.freedesktop.systemd1"
#define OBJECT "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define SERVICE_INTERFACE "org.freedesktop.systemd1.Service"

/* How the old process of a guest that has moved may end: as it should, where it
 * could not be traced, where it did not answer. */
enum { END_MOVED = 1, END_SUCCESS = 2, END_KILLED = 4 };

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

static gboolean read_list(sd_bus_message *reply, GArray *ret)
{
    const void *numbers;
    size_t bytes;

    if (sd_bus_message_read_array(reply, 'i', &numbers, &bytes) < 0)
        return FALSE;
    if (bytes > 0)
        g_array_append_vals(ret, numbers, (guint)(bytes / sizeof(gint32)));
    return TRUE;
}

static gboolean holds(const GArray *list, gint32 number)
{
    for (guint i = 0; i < list->len; i++)
        if (g_array_index(list, gint32, i) == number)
            return TRUE;
    return FALSE;
}

/* What of these ends RestartPreventExitStatus= holds: exit codes and signals. */
static guint get_prevented(sd_bus *bus, const char *object)
{
    g_autoptr(GArray) codes = g_array_new(FALSE, FALSE, sizeof(gint32));
    g_autoptr(GArray) signals = g_array_new(FALSE, FALSE, sizeof(gint32));
    sd_bus_message *reply = NULL;
    guint prevented = 0;

    if (sd_bus_get_property(bus, SERVICE, object, SERVICE_INTERFACE, "RestartPreventExitStatus",
                            NULL, &reply, "(aiai)") >= 0 &&
        sd_bus_message_enter_container(reply, 'r', "aiai") > 0 && read_list(reply, codes) &&
        read_list(reply, signals))
        prevented = (holds(codes, MIGRATE_EXIT_CODE_MOVED) ? END_MOVED : 0) |
                    (holds(codes, 0) ? END_SUCCESS : 0) |
                    (holds(signals, SIGKILL) ? END_KILLED : 0);
    sd_bus_message_unref(reply);
    return prevented;
}

/* Which of these ends a service is started again after, by its Restart=.  That a
 * code counts as success may have been configured (SuccessExitStatus=). */
static guint get_triggers(const char *restart)
{
    static const struct {
        const char *name;
        guint ends;
    } known[] = {
        {"no", 0},
        {"on-watchdog", 0},
        {"on-success", END_MOVED | END_SUCCESS},
        {"on-failure", END_MOVED | END_KILLED},
        {"on-abnormal", END_KILLED},
        {"on-abort", END_KILLED},
    };

    for (guint i = 0; i < G_N_ELEMENTS(known); i++)
        if (strcmp(restart, known[i].name) == 0)
            return known[i].ends;
    return END_MOVED | END_SUCCESS | END_KILLED;
}

/* A service that goes by another program's exit code hears of none but its own. */
char *systemd_unit_ask(sd_bus *bus, const char *unit, pid_t pid)
{
    g_autofree char *object = find_object(bus, unit);
    g_autofree char *restart = object ? get_restart(bus, object) : NULL;
    guint triggers;

    if (!restart)
        return g_strdup_printf(
            "unit %s, whose Restart= systemd does not report, may start it again", unit);
    triggers = get_triggers(restart);
    if (is_main(bus, object, pid))
        triggers &= ~get_prevented(bus, object);
    if (triggers == 0)
        return NULL;
    return g_strdup_printf("unit %s, which has Restart=%s, starts it again (unless it has "
                           "RestartPreventExitStatus=%d 0 SIGKILL and is the guest's process "
                           "itself)",
                           unit, restart, MIGRATE_EXIT_CODE_MOVED);
}

static sd_bus *open_address(const char *address, gboolean has_broker)
{
    sd_bus *bus = NULL;

    if (sd_bus_new(&bus) >= 0 && sd_bus_set_address(bus, address) >= 0 &&
        sd_bus_set_bus_client(bus, has_broker) >= 0 && sd_bus_start(bus) >= 0 &&
        sd_bus_is_ready(bus) >= 0)
        return bus;
    sd_bus_unref(bus);
    return NULL;
}

/* systemd itself listens to root, also where no D-Bus daemon runs. */
static sd_bus *open_bus(const SystemdUnit *unit)
{
    g_autofree char *folder =
        unit->users ? g_strdup_printf("/run/user/%u", (guint)unit->user) : g_strdup("/run");
    g_autofree char *peer = g_strdup_printf("unix:path=%s/systemd/private", folder);
    g_autofree char *address = g_strdup_printf("unix:path=%s/bus", folder);
    sd_bus *bus = open_address(peer, FALSE);

    if (bus || unit->users)
        return bus ? bus : open_address(address, TRUE);
    return sd_bus_open_system(&bus) >= 0 ? bus : NULL;
}

static gboolean read_unit(const char *process, SystemdUnit *ret)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/cgroup", process);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);

    *ret = (SystemdUnit){0};
    return text && systemd_unit_parse(text, ret);
}

static gboolean is_same(const SystemdUnit *a, const SystemdUnit *b)
{
    return strcmp(a->name, b->name) == 0 && a->users == b->users && a->user == b->user;
}

char *systemd_unit_find(pid_t pid)
{
    g_autofree char *process = g_strdup_printf("%d", (int)pid);
    g_auto(SystemdUnit) unit = {0};
    g_auto(SystemdUnit) own = {0};
    char *finding;
    sd_bus *bus;

    /* What we started ourselves is in our own unit, which restarts us only. */
    if (!read_unit(process, &unit) || (read_unit("self", &own) && is_same(&own, &unit)))
        return NULL;
    bus = open_bus(&unit);
    if (!bus)
        return g_strdup_printf(
            "unit %s, and its systemd, which cannot be asked, may start it again", unit.name);
    sd_bus_set_method_call_timeout(bus, ANSWER_US);
    finding = systemd_unit_ask(bus, unit.name, pid);
    sd_bus_flush_close_unref(bus);
    return finding;
}
