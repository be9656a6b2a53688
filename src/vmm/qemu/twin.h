/*
 * What a machine's firmware is, of a QEMU that waits for its state
 *
 * Theory of operation: a QEMU that was started for an incoming migration leaves its ROMs and the tables
 * of its firmware empty, since they come with the source's memory (rom_reset() in hw/core/loader.c).  From a
 * VMM of another kind only the guest's RAM comes.  So a twin is started for a moment: the same
 * command line, without images and back ends, stopped before its first instruction.  What its
 * memory holds besides RAM is what the machine would have been started with.
 */
#pragma once

#include "vmm/vmm_driver.h"

typedef struct {
    char *name;      /* of the RAM block: "pc.bios" */
    GBytes *content; /* of all of it */
} QemuFirmware;

/* The command line of the twin.  Pure.  UNSUPPORTED where it cannot be told what a twin of it would open.
 * Free with g_strfreev(). */
char **qemu_twin_line(char *const *argv, GError **error);

/* Of an incoming launch: an array of QemuFirmware, of all blocks that the guest's RAM and its VGA's memory are not.  Takes
 * some tenths of a second.  Free with g_ptr_array_unref(). */
GPtrArray *qemu_twin_read_firmware(const VmmLaunch *launch, GError **error);
