/* What the parts of live_line.h share (private). */
#pragma once

#include "vmm/qemu/live_line.h"
#include "vmm/qemu/options.h"

/* One option of the command line. */
typedef struct {
    QemuOption option;          /* in the arguments that QEMU was started with */
    QemuParameters *parameters; /* of options that are edited here; NULL for others */
    const char *new_name;       /* the option's long form, where it is a short one; or NULL */
    gboolean dropped, edited;
    char *drive_name;         /* of a -drive: its block backend's */
    const BlockDrive *drive;  /* … which is there; NULL: not any more */
    const QemuDevice *device; /* of a -device: what it made, where that is in the tree */
} LineOption;

typedef struct {
    const QemuLiveLine *job;
    const QemuMachine *machine;
    GArray *options;          /* of LineOption */
    GPtrArray *added;         /* of char *: arguments for the end of the line */
    GHashTable *node_names;   /* nodes that were added: live name → ours */
    GPtrArray *added_devices; /* of AddedDevice, see live_devices.c */
    gboolean rearranged;      /* devices came or went */
} LivePlan;

static inline LineOption *live_plan_option(const LivePlan *plan, guint index)
{
    return &g_array_index(plan->options, LineOption, index);
}

static inline const char *line_option_get(const LineOption *line, const char *key)
{
    return qemu_parameters_get(line->parameters, key);
}

static inline gboolean line_option_is(const LineOption *line, const char *name)
{
    return g_strcmp0(line->option.name, name) == 0;
}

/* The option called *name* that has *value* for *key*, not dropped; or NULL. */
LineOption *live_plan_find(const LivePlan *plan, const char *name, const char *key,
                           const char *value);

/* Adds "-name value" (taken) at the end. */
void live_plan_add(LivePlan *plan, const char *name, char *value);
void live_plan_add_json(LivePlan *plan, const char *name, json_t *object);

/* live_drives.c, before all else: names every drive option. */
void live_name_drives(LivePlan *plan);
/* "-cdrom x" as the -drive that it is short for; NULL for other options. */
QemuParameters *live_expand_short_form(const QemuOption *option);

/* live_devices.c: finds what became of each -device, and what was added. */
gboolean live_match_devices(LivePlan *plan, GError **error);
/* … then writes it down: places, and what was added; behind all others. */
gboolean live_write_devices(LivePlan *plan, GError **error);

/* live_backends.c: -object, -netdev, -chardev. */
gboolean live_backends(LivePlan *plan, GError **error);
/* What an added device refers to; FALSE with *error* where it cannot be made. */
gboolean live_need_object(LivePlan *plan, const char *name, GError **error);
gboolean live_need_network(LivePlan *plan, const char *id, GError **error);
gboolean live_need_chardev(LivePlan *plan, const char *label, GError **error);

/* live_drives.c: -drive and its short forms. */
gboolean live_drives(LivePlan *plan, GError **error);
/* live_nodes.c: -blockdev. */
gboolean live_nodes(LivePlan *plan, GError **error);
/* The name for a device's "drive" of what the live device holds: a drive's, or
 * a node's, made known by options of this line; "" for no medium, NULL with
 * *error*. */
const char *live_need_drive(LivePlan *plan, const char *drive, GError **error);
/* A node of the live graph as -blockdev has it, inline where it has no name. */
json_t *live_node_options(LivePlan *plan, const BlockNode *node, GError **error);
