/*
 * Are two machines the same?
 *
 * Theory of operation: both were told by a QEMU (machine.h).  Either the second
 * one is the incoming QEMU at a destination, which was started from a command
 * line made from the first, or it is the first one asked again.  Devices are
 * compared by where they sit, user-made ones with all their properties; each
 * device's drive by the nodes below it, its flags, size and limits; vCPUs,
 * memory devices and objects one by one.
 *
 * What a destination names in its own way does not count: node names that QEMU
 * made up, file names (that the files are the same is proven apart), network
 * back ends' interfaces, monitors.  Values that a map rule rewrites are
 * compared as rewritten.  Pure.
 */
#pragma once

#include "vmm/qemu/machine.h"

typedef enum {
    MACHINE_COMPARE_DESTINATION, /* source, incoming QEMU */
    MACHINE_COMPARE_RESTORED,    /* saved, incoming QEMU: its images may have other backing files */
    MACHINE_COMPARE_LATER,       /* before, after: names and files count as well */
} MachineComparison;

/* The first differences, as texts that name the thing; of char *, empty where
 * both are the same.  *rules* (of VmmMapRule) may be NULL. */
GPtrArray *qemu_machine_compare(const QemuMachine *first, const QemuMachine *second,
                                MachineComparison kind, const GPtrArray *rules);

/* Calls *visit* for each device with a drive that both machines have. */
typedef void (*DrivePairVisitor)(const QemuDevice *device, const BlockDrive *first,
                                 const BlockDrive *second, gpointer user);
void qemu_machine_visit_drives(const QemuMachine *first, const QemuMachine *second,
                               DrivePairVisitor visit, gpointer user);

/* TRUE where both have the same I/O limits. */
gboolean block_drive_same_throttle(const BlockDrive *first, const BlockDrive *second);

/* Differences as one text ("a; b"); free with g_free(). */
char *qemu_machine_join(const GPtrArray *differences);
