/*
 * A real QEMU for tests of its disks
 *
 * Its guest does nothing; what it "writes" is written by the monitor command qemu-io, through the
 * device's own back end.  VMFERRY_TEST_QEMU names the QEMU to use ("PROGRAM [OPTION…]"); without it,
 * qemu-system-x86_64.  Images are in a folder of the test.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"

#define DISK_BYTES (16u << 20)
#define WAIT_MS 20000

typedef struct {
    Vmm *vmm;
    Qmp *qmp; /* another connection than the driver's */
    VmmIdentity *identity;
} Guest;

/* FALSE where there is no QEMU, or no qemu-nbd, here. */
gboolean qemu_guest_is_there(void);

/* Makes the folder; removes it, and ends what a test that failed has left. */
void qemu_guest_begin(void);
int qemu_guest_clean_up(void);

/* *error* by its address: arguments are evaluated in any order. */
void must(gboolean ok, GError **error);

/* Frees *error*. */
void expect_text(GError *error, VmferryErrorCode code, const char *text);

/* In the folder; free with g_free(). */
char *path_of(const char *name);

/* Runs a command line; "@" before a name in it stands for the folder. */
int run(const char *line);

void make_image(const char *name, const char *format, const char *options);

void fill_image(const char *name, const char *format);

void expect_equal(const char *name, const char *format, const char *other,
                  const char *other_format);

/* *options* of QEMU, with "@" as above. */
Guest start(const char *options);

/* One that waits for its state. */
Guest start_incoming(const char *options);

void end(Guest *guest);

/* *drive*: a name of a back end, or "-d QOM-PATH". */
void guest_writes(Guest *guest, const char *drive, guint pattern, const char *where);

/* All of nodes and jobs that does not change by itself, or by writes of the guest. */
json_t *query_graph(Guest *guest);

void expect_graph(Guest *guest, json_t *before);

VmmDisk *find_disk(GPtrArray *disks, const char *id);

json_t *read_machine(Guest *guest, char ***ret_line);

/* The machine is the same as ever, and makes the same command line. */
void expect_unchanged(Guest *guest, json_t *machine, char **line);
