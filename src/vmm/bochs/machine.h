/*
 * A machine as Bochs can make it, and the configuration file for it
 *
 * Theory of operation: Bochs 2.7 makes one kind of machine, the one of QEMU's `-M pc`: i440FX with
 * PIIX3, its IDE, PIIX4 power management, HPET, IOAPIC, floppy controller, i8042, one or more 16550
 * UARTs, and up to five PCI cards in devices 2 to 6.  What varies is told here in plain terms and comes
 * out as a bochsrc.  (Its USB controller at 00:01.2 and the HPET cannot be left out.)
 *
 * The file is for a Bochs that an agent runs: standard output is the debugger's console, the log has
 * what the memory module says and panics, and no more, so that a guest cannot fill a disk with
 * it; a panic does not end Bochs; sounds go nowhere.  Bochs needs a display: it serves VNC (rfb), and listens
 * on all interfaces, so it is started in a network namespace of its own (process.h).  For the same
 * reason a serial line cannot be a TCP socket.
 *
 * Paths come from whoever describes the machine: those that would say something else to the parser of
 * bochsrc (quotes, commas, '$', line breaks) are refused.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define BOCHS_MAX_VCPUS 8u
#define BOCHS_MAX_MEMORY_MIB 2048u
#define BOCHS_MAX_SLOTS 5u
#define BOCHS_FIRST_SLOT 2u           /* PCI device of slot 1 */
#define BOCHS_VIDEO_BYTES (16u << 20) /* of its VGA */

/* Where Debian's packages bochsbios and vgabios have them. */
#define BOCHS_BIOS "/usr/share/bochs/BIOS-bochs-latest"
#define BOCHS_VGA_BIOS "/usr/share/bochs/VGABIOS-lgpl-latest"

typedef enum { BOCHS_SLOT_EMPTY, BOCHS_SLOT_VGA, BOCHS_SLOT_E1000 } BochsSlot;

typedef struct {
    guint channel;    /* 0 or 1 */
    guint unit;       /* 0: master, 1: slave */
    const char *path; /* a raw image; NULL: a CD-ROM drive without a medium */
    gboolean cdrom;
    /* Of a disk: what is written goes to a file of this name and a suffix, which ends with the process; the
     * image is only read.  NULL: into the image. */
    const char *journal;
} BochsDisk;

/* Borrows all that it points to. */
typedef struct {
    uint64_t memory_bytes; /* whole MiB */
    guint vcpus;
    guint cores, threads;  /* of a socket, of a core, as the guest sees them; 0: 1 */
    const char *cpu_model; /* one of `bochs --help cpu`: "corei7_haswell_4770" */
    uint32_t ips;          /* instructions that make a second, from 1,000,000 on */
    uint64_t start_time;   /* of the clock in CMOS: seconds since 1970; from 2 on */
    const BochsDisk *disks;
    guint disk_count;
    BochsSlot slots[BOCHS_MAX_SLOTS]; /* slot 1, at 00:02.0, first */
    guint8 mac[6];                    /* of the e1000, of which there is one */
    const char *serial_file; /* what the guest sends through COM1 is written there; NULL: nowhere */
    const char *bios, *vga_bios; /* NULL: Debian's */
} BochsMachine;

/* FALSE with what Bochs cannot make of it (UNSUPPORTED), or what is wrong with it (INVALID). */
gboolean bochs_machine_check(const BochsMachine *machine, GError **error);

gboolean bochs_machine_has_card(const BochsMachine *machine, BochsSlot wanted);

/* The bochsrc of a machine that was checked; *log* is where Bochs writes its log.  Free with
 * g_free(). */
char *bochs_machine_format(const BochsMachine *machine, const char *log);

/* What "count" of its processors is: "2", or "1:2:1" (sockets, cores, threads).  Free with g_free(). */
char *bochs_machine_format_count(const BochsMachine *machine);

/* TRUE where a path can be told in a bochsrc. */
gboolean bochs_path_is_valid(const char *path);
