/*
 * A machine in the neutral form: what has to be there before its state can be loaded
 *
 * Theory of operation: the neutral state (tree.h) says in what condition a machine is; this says what the
 * machine is made of, so that another virtual machine monitor can be started with one like it before
 * the guest is paused.  A VMM's driver makes it of a live machine (vmm_describe_neutral()), a
 * driver at the destination makes its own command line of it (VmmDriver.plan), or says by name what it
 * cannot make.  Devices have the types and places of the neutral state ("bochs,vbe" at "pci:00:02.0");
 * one without a neutral form has a type that begins with the VMM's name ("qemu,virtio-blk-pci"),
 * which no other VMM knows.
 *
 * It travels as JSON (docs/protocol.md, GUEST) and is kept in records.  Bytes of a peer: everything is
 * checked and limited.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

#define MACHINE_MAX_DEVICES 256u
#define MACHINE_MAX_DISKS 64u
#define MACHINE_MAX_MEMORY 64u
#define MACHINE_MAX_CPUID_WORDS 256u
#define MACHINE_MAX_ARGUMENTS 4096u

/* 32 bits of what CPUID tells: what the guest may use. */
typedef struct {
    uint32_t leaf, subleaf;
    char reg[4]; /* "EAX" to "EDX" */
    uint32_t bits;
} MachineCpuid;

/* A part of main memory in the guest's address space. */
typedef struct {
    uint64_t base, bytes;
} MachineMemory;

typedef struct {
    char *type; /* "intel,82540em" */
    char *at;   /* "pci:00:03.0" */
    char *name; /* for messages: "e1000 at 00:03.0" */
    gboolean has_mac;
    uint8_t mac[6];
    char *file; /* of a serial line: what the guest sends is written there; NULL: it is not */
} MachineDevice;

typedef struct {
    char *at;     /* as in the neutral state: "pci:00:01.1/0/0", channel and unit */
    char *path;   /* as the source's VMM names it; NULL: a drive without a medium */
    char *format; /* "raw", "qcow2" */
    uint64_t bytes;
    gboolean cdrom;
    gboolean read_only;
} MachineDisk;

/* As the guest sees its processors; all 0: not known. */
typedef struct {
    guint sockets;
    guint cores;   /* of a socket, its dies together */
    guint threads; /* of a core */
} MachineTopology;

typedef struct {
    char *architecture; /* "x86-64" */
    char *chipset;      /* "intel,440fx"; "none" */
    uint64_t ram_bytes;
    GArray *memory;       /* of MachineMemory, ascending: where that is; empty: not known */
    uint64_t video_bytes; /* of the VGA's memory; 0: it has no VGA */
    guint vcpus;
    guint vcpus_max; /* with those that can be plugged in; 0: as *vcpus* */
    MachineTopology topology;
    uint64_t tsc_hz;    /* rate of the guest's TSC; 0: not known */
    GArray *cpuid;      /* of MachineCpuid; empty: not known */
    GPtrArray *devices; /* of MachineDevice: those that not every machine of this chipset has */
    GPtrArray *disks;   /* of MachineDisk */
    /* How a VMM of this kind made it, for one of that kind; NULL: not known. */
    char *origin_kind;    /* "qemu" */
    char *origin_machine; /* versioned machine type: "pc-i440fx-7.2" */
    char **origin_line;   /* program first */
} MachineDescription;

/* Empty, all its arrays are there. */
MachineDescription *machine_description_new(void);
void machine_description_free(MachineDescription *machine);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MachineDescription, machine_description_free)

MachineDescription *machine_description_copy(const MachineDescription *machine);

/* Takes *type*, *at*, *name*; *mac* may be NULL.  What was added, for more. */
MachineDevice *machine_description_add_device(MachineDescription *machine, char *type, char *at,
                                              char *name, const uint8_t *mac);
/* Takes *disk* (from g_new0()). */
void machine_description_add_disk(MachineDescription *machine, MachineDisk *disk);

/* The device of that type, or NULL. */
const MachineDevice *machine_description_find(const MachineDescription *machine, const char *type);

/* A new JSON object. */
json_t *machine_description_to_json(const MachineDescription *machine);

/* Checks all of it; NULL with INVALID and the path of what is wrong. */
MachineDescription *machine_description_from_json(json_t *object, GError **error);
