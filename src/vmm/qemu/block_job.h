/*
 * Block jobs of ours, and the nodes that they write to
 *
 * Theory of operation: copies of disks (disk_copy.c), taps (disk_tap.c) and overlays
 * (disk_overlay.c) are jobs of QEMU with names of ours.  Here is what they share: looking at a job,
 * waiting for its end, removing it and its node without a trace.  A job is made without
 * auto-dismiss, so that it tells how it ended until it is dismissed.
 *
 * A mirror job that ends early, since it failed or was cancelled by force, frees what writes of the
 * guest use that began before and have not ended: QEMU's heap is damaged then (mirror_run() in
 * block/mirror.c; 7.2 and 10.0 crash within some ten such ends as the guest writes).  So a job that the
 * guest's writes wait for must not fail by itself (on-target-error and on-source-error are `stop`), and
 * is cancelled in order, or by force while the guest stands.
 */
#pragma once

#include "vmm/qemu/driver.h"

#define BLOCK_JOB_START_MS 30000 /* connecting, and starting a job */
#define BLOCK_JOB_END_MS 30000
#define BLOCK_JOB_RETRY_US 5000
/* What may be in flight: all of it has to arrive before a `stop` returns. */
#define BLOCK_JOB_BUFFER_BYTES (512 << 10)

/* The entry of query-block-jobs, a new reference; *ret is NULL where there is none. */
gboolean block_job_query(Qmp *qmp, const char *name, json_t **ret, GError **error);

/* Of an entry, or NULL. */
gboolean block_job_is_over(json_t *job);

/* It had an error, and stands still until it is resumed or cancelled.  (`cont` makes QEMU forget the
 * io-status, but not that.  One that is "paused" and busy is about to complete.) */
gboolean block_job_is_broken(json_t *job);

/* Returns when a job's state changes that had changed so often (QemuVmm.job_changes) before, or
 * after some time. */
void block_job_wait_for_change(QemuVmm *qemu, gint changes);

/* FALSE where the job, which has not ended, is not worth waiting for. */
typedef gboolean (*BlockJobCheck)(json_t *job, const char *name, GError **error);

/* Returns when the job has ended; its last entry in *ret (NULL: it is not known any more).  *check* may
 * be NULL. */
gboolean block_job_await_end(QemuVmm *qemu, const char *name, int timeout_ms, BlockJobCheck check,
                             json_t **ret, GError **error);

gboolean block_job_dismiss(Qmp *qmp, const char *name, GError **error);

/* Ends the job, whatever it does, and removes the node of the same name. */
gboolean block_job_remove_all(QemuVmm *qemu, const char *name, GError **error);

/* The entry of query-named-block-nodes, a new reference; *ret is NULL where there is none. */
gboolean block_node_query(Qmp *qmp, const char *name, json_t **ret, GError **error);

/* One that a job has just let go of, too. */
gboolean block_node_remove(Qmp *qmp, const char *name, GError **error);

/* Adds a node that writes to an NBD server: without discards, and without waiting for a server that
 * is gone. */
gboolean block_node_add_nbd(Qmp *qmp, const char *name, const char *address,
                            const char *export_name, GError **error);

/* *what* the node shows has this size; QEMU would write to a larger one, too. */
gboolean block_node_check_size(Qmp *qmp, const char *name, const char *what, uint64_t bytes,
                               GError **error);

/* Notes the filter node of the copy's job. */
gboolean block_job_read_filter(Qmp *qmp, QemuCopy *copy, GError **error);

/* FALSE where a copy or a tap of this name or of this disk is under way. */
gboolean block_job_check_free(QemuVmm *qemu, const char *name, const char *node, GError **error);

/* FALSE where another program's job works on this node. */
gboolean block_job_check_no_other(QemuVmm *qemu, const char *node, GError **error);

/* FALSE with "*what* while the guest is paused" where it runs. */
gboolean block_job_check_paused(Qmp *qmp, const char *what, GError **error);
