/*
 * Files that QEMU loads when it starts
 *
 * Kernel, initrd, device tree, fw_cfg files, ACPI and SMBIOS tables are read once
 * and kept in QEMU's own memory, which does not move: a destination's QEMU has
 * those that it found there, and the guest meets them at its next reboot.  What
 * is in a RAM block moves with the guest and is not listed (-bios, flash, option
 * ROMs).
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef struct {
    char *option; /* "-kernel" */
    char *path;   /* as it was written */
} QemuBootFile;

void qemu_boot_file_free(QemuBootFile *file);

/* Of a command line, in its order; of QemuBootFile.  Pure. */
GPtrArray *qemu_command_line_find_boot_files(char *const *argv);

/* Adds (VmmImage) those of a live QEMU to *images*.  REFUSED where a file was
 * changed or replaced since it started, as its times tell. */
gboolean qemu_list_boot_files(pid_t pid, GPtrArray *images, GError **error);
