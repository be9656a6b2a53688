/*
 * The command line of the live machine
 *
 * Theory of operation: a destination starts its QEMU from a command line, so
 * what was changed in a guest since its own QEMU was started has to become part
 * of that.  The arguments that QEMU was started with are taken option by option:
 * those whose thing is gone are dropped, those whose thing has changed are
 * rewritten, what was added is appended (as JSON, so that it comes last), and
 * where devices came or went all others get the place that they have now, since
 * QEMU would give free places to them in another order.  What did not change
 * keeps its arguments.
 *
 * Nothing here has to be complete for safety: whatever the new line makes is
 * compared with the live machine before any of it runs (machine_compare.h).
 * What is known to have no option is refused by name here, which is earlier and
 * says more.
 *
 * A guest that came from elsewhere was started from rewritten arguments (map
 * rules).  The arguments as they came are edited along, option by option, and are
 * what the next host gets: its own rules are for those.
 *
 * Pure, but for the settings of added devices and objects, which the caller
 * asks for.
 */
#pragma once

#include "vmm/qemu/machine.h"

/* The settings of a device or object that differ from what its type starts
 * with, as option names and values; of a device also "parent_bus", the QOM path
 * of its bus.  A new JSON object, NULL with *error*. */
typedef json_t *(*QemuSettingsReader)(const char *qom_path, const char *type, gpointer user,
                                      GError **error);

typedef struct {
    char *const *arguments; /* that QEMU was started with, cleaned (command_line.h) */
    char *const *original;  /* the same before map rules; NULL: the same */
    const QemuMachine *machine;
    const char *machine_type; /* "pc-q35-7.2" */
    GHashTable *configured;   /* ids of devices that files of -readconfig make; may be NULL */
    QemuSettingsReader read_settings;
    gpointer user;
} QemuLiveLine;

/* The arguments to start it with, program first.  Free with g_strfreev(). */
char **qemu_live_line(const QemuLiveLine *job, GError **error);
