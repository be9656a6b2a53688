/*
 * The command line of a Bochs guest
 *
 * Theory of operation: a stock Bochs takes lines of its configuration file as words of its command
 * line.  A guest's command line, as it is in records and map rules apply to it, is the program and such
 * words, of which those that say what a BochsMachine is made of (machine.h) are taken, one to one:
 *
 *     bochs
 *     "memory: guest=128, host=128"             MiB, both the same
 *     "cpu: model=corei7_haswell_4770, count=1, ips=2096000000"
 *     "clock: sync=none, time0=1000"            may be missing: the time of its start
 *     "pci: enabled=1, chipset=i440fx, slot1=pcivga, slot2=e1000"
 *     "e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=null"
 *     "ata0-master: type=disk, mode=flat, path=/images/a.raw"
 *     "ata1-master: type=cdrom, path=/images/b.iso, status=inserted"   or status=ejected, and no path
 *     "com1: enabled=1, mode=file, dev=/run/serial"   may be missing, as mode=null
 *     "romimage: file=/usr/share/bochs/BIOS-bochs-latest"       may be missing
 *     "vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest"  may be missing
 *
 * Blanks are where Bochs takes them; a value with blanks is in double quotes.  Of a disk `mode` is "flat" or
 * "volatile": what is written is kept apart, in a file "JOURNAL.XXXXXX" ("journal=PATH") that is gone when Bochs ends.  All
 * that is not of this form is refused by name.
 */
#pragma once

#include "vmm/bochs/machine.h"

#define BOCHS_MAX_DISKS 4u

/* A machine that owns what it points to. */
typedef struct {
    BochsMachine machine;
    BochsDisk disks[BOCHS_MAX_DISKS];
    char *program;
    GPtrArray *texts;
} BochsCommandLine;

void bochs_command_line_free(BochsCommandLine *line);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BochsCommandLine, bochs_command_line_free)

/* INVALID or UNSUPPORTED with the argument that is not of this form, or what bochs_machine_check() says. */
BochsCommandLine *bochs_command_line_parse(char *const *words, GError **error);

/* The words for a machine that was checked, program first; free with g_strfreev().  A start time of 0 is not told. */
char **bochs_command_line_format(const char *program, const BochsMachine *machine);

/* TRUE where a program of this name or path is a Bochs: "bochs", "bochs-bin". */
gboolean bochs_is_program(const char *program);
