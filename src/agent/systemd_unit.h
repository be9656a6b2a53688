/*
 * Whether systemd would start a process again
 *
 * By the unit of its control group, asked of systemd itself or over D-Bus.  What
 * is in no service's control group is not systemd's to start again; of a service
 * that cannot be asked for, the worst is said.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

typedef struct {
    char *name;     /* "qemu@web1.service" */
    uid_t user;     /* of whose systemd; 0: the system's */
    gboolean users; /* TRUE: of a user's */
} SystemdUnit;

/* Out of the text of /proc/PID/cgroup; FALSE where it names no service. */
gboolean systemd_unit_parse(const char *cgroups, SystemdUnit *ret);
void systemd_unit_clear(SystemdUnit *unit);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SystemdUnit, systemd_unit_clear)

/* A sentence's part, or NULL: it does not start *pid* again.
 * Free with g_free(). */
char *systemd_unit_ask(sd_bus *bus, const char *unit, pid_t pid);
char *systemd_unit_find(pid_t pid);
