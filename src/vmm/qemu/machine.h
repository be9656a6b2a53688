/*
 * The live machine
 *
 * Theory of operation: a guest that lives long is not the machine of its
 * command line any more: disks, cards, memory and vCPUs were plugged and
 * unplugged, snapshots and mirrors changed the images, media were changed.
 * QEMU itself is asked what there is now, with a dozen read-only commands
 * (qemu_machine_query(), 6 to 8 ms for 25 devices), whose answers, cut to what
 * is needed, are one JSON object.  That object is what a source sends to its
 * destination, and what both sides read into a QemuMachine.  Three things are
 * done with it:
 *
 *   - the destination's command line is made from it (live_line.h);
 *   - the QEMU that was started there is asked the same, and both machines are
 *     compared (machine_compare.h), so that no table of ours has to be right
 *     about what a command line makes;
 *   - the source is asked again before and after the pause, since another program may
 *     have changed the machine meanwhile.
 *
 * The JSON comes from a process that a guest may have taken over, or from a
 * peer; everything is checked and bounded.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

#include "vmm/qemu/block_graph.h"
#include "vmm/qemu/copy_traces.h"
#include "vmm/qemu/device_tree.h"
#include "vmm/qemu/qmp.h"

#define QEMU_MACHINE_MAX_ENTRIES 4096

/* A child of a QOM container: "/objects/mem1", of type "memory-backend-ram". */
typedef struct {
    char *name, *type;
    json_t *settings; /* those that qom-set can change (qemu_object_settings()), or NULL */
} QemuObject;

typedef struct {
    char *type;
    json_t *place; /* socket-id, core-id, … as QEMU tells them */
    char *path;    /* QOM path; NULL: not plugged */
} QemuCpu;

typedef struct {
    char *id, *type; /* "net0", "tap" */
    char *detail;    /* what `info network` says behind the type */
} QemuNetwork;

typedef struct {
    char *label, *filename;
} QemuChardev;

typedef struct {
    char *id, *type, *status;
} QemuJob;

typedef struct {
    QemuBus *devices;
    BlockGraph *block;
    GPtrArray *named;     /* of QemuObject: devices that have an id */
    GPtrArray *anonymous; /* of QemuObject: devices of users without one, "device[3]" */
    GPtrArray *objects;   /* of QemuObject */
    GPtrArray *cpus;      /* of QemuCpu */
    json_t *memory;       /* query-memory-devices: an array of {type, data} */
    GPtrArray *networks;  /* of QemuNetwork: back ends, not NICs */
    GPtrArray *chardevs;  /* of QemuChardev */
    GPtrArray *jobs;      /* of QemuJob, those that have ended left out */
    GPtrArray *exports;   /* of char *: ids of block exports */
} QemuMachine;

/* Asks a live QEMU; a new object, as the machine is without these copies (of QemuCopy). */
json_t *qemu_machine_query(Qmp *qmp, const GPtrArray *copies, GError **error);

/* Asks and reads. */
QemuMachine *qemu_machine_read(Qmp *qmp, const GPtrArray *copies, GError **error);

/* Reads such an object. */
QemuMachine *qemu_machine_parse(json_t *object, GError **error);
void qemu_machine_free(QemuMachine *machine);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuMachine, qemu_machine_free)

/* The properties of objects of this type that may have changed since they were
 * made and that qom-set sets again; NULL-terminated, or NULL for none. */
const char *const *qemu_object_settings(const char *type);

/* The entry of a list of QemuObject called *name*, or NULL. */
const QemuObject *qemu_object_find(const GPtrArray *objects, const char *name);
const QemuNetwork *qemu_network_find(const QemuMachine *machine, const char *id);
const QemuChardev *qemu_chardev_find(const QemuMachine *machine, const char *label);

/* Reads the answer of `info network`: of QemuNetwork.  Free with g_ptr_array_unref(). */
GPtrArray *qemu_networks_parse(const char *text);

/* The value of *key* in its detail ("tap0" of "ifname"); NULL: none.  Free with g_free(). */
char *qemu_network_setting(const QemuNetwork *network, const char *key);

/* FALSE with the thing's name where something is going on that a move would
 * break or lose: a job, an export, a dirty bitmap that is not stored. */
gboolean qemu_machine_check_idle(const QemuMachine *machine, GError **error);
