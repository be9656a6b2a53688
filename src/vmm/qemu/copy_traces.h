/*
 * What a copy of a disk adds to a machine while it is under way
 *
 * Theory of operation: QEMU copies a disk by a job that reads the disk's root node, a filter node
 * that the job puts above that one (implicit: `query-block` looks through it), and a node that
 * writes to an NBD server.  All of them go when the copy ends.  Who asks for the live machine
 * (machine.h) wants to know of none of it: what our own copies added is taken out of QEMU's
 * answers, by the names that we gave or read.  What another program added has other names.  A tap
 * (disk_tap.c) is such a job, too, and leaves the same traces.  Pure.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

/* All names of copies and taps begin so: what a killed agent left is known by it. */
#define QEMU_COPY_PREFIX "vmferry-copy-"
#define QEMU_TAP_PREFIX "vmferry-tap-"

typedef struct {
    char *name;   /* of the job, and of the node that writes to the NBD server */
    char *node;   /* the disk's root node */
    char *filter; /* the job's node above it; NULL: the job had ended before it could be read */
    gboolean tap; /* not a copy: only what the guest writes */
    gboolean blocking; /* writes of the guest wait until the copy has them */
} QemuCopy;

void qemu_copy_free(QemuCopy *copy);

/* The copy of this name in a list of QemuCopy, or NULL. */
QemuCopy *qemu_copy_find(const GPtrArray *copies, const char *name);

/* Takes the answer of x-debug-query-block-graph: the name of the filter node of this copy's job.
 * NULL where there is none (any more); free with g_free(). */
char *qemu_copy_find_filter(json_t *graph, const char *name);

/* The name of a job that works on this node, or NULL; free with g_free(). */
char *qemu_copy_find_job(json_t *graph, const char *node);

/* TRUE where another node, a device or a job uses this node. */
gboolean qemu_copy_is_used(json_t *graph, const char *node);

/* Takes the copies (of QemuCopy; NULL: none) out of what qemu_machine_query() gathered. */
void qemu_copies_hide(json_t *machine, const GPtrArray *copies);
