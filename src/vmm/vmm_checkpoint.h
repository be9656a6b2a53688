/*
 * Checkpoints: the device state of a machine that runs on
 *
 * Theory of operation: a checkpoint is a moment at which the machine stands: all vCPUs stopped, I/O
 * drained, what disks have tapped flushed.  In between the two calls the caller takes what belongs to
 * that moment (dirty pages, packets, writes); then the machine runs on, and its device state of that
 * moment is returned.  The pause is the VMM's own, and ends with us:
 *
 *     vmm_checkpoint_stop()        the machine stands
 *       ... dirty sync, copies ...
 *     vmm_checkpoint_resume()      it runs again; the state as bytes
 *     we die, at any moment        it runs (on)
 *
 * A machine that its user has paused stays paused.
 *
 * For QEMU that is `xen-save-devices-state` of the running machine into a pipe: QEMU stops it,
 * writes, and waits with its main loop for as long as nobody reads; where the reader has gone the
 * command fails, and QEMU resumes the machine (1.5 to 2.5 ms: one command instead of
 * three).  Meanwhile it answers no other command.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct VmmCheckpoint VmmCheckpoint;

/* What the driver's table has. */
typedef struct {
    void (*free)(VmmCheckpoint *checkpoint);
    gboolean (*stop)(VmmCheckpoint *checkpoint, GError **error);
    GBytes *(*resume)(VmmCheckpoint *checkpoint, GError **error);
    uint64_t (*get_stopped_ns)(VmmCheckpoint *checkpoint);
} VmmCheckpointOps;

/* Drivers embed this as their first member. */
struct VmmCheckpoint {
    const VmmCheckpointOps *ops;
};

/* Returns when the machine stands.  FALSE: it runs as before. */
static inline gboolean vmm_checkpoint_stop(VmmCheckpoint *checkpoint, GError **error)
{
    return checkpoint->ops->stop(checkpoint, error);
}

/* Lets the machine run on, in any case; its device state as of the stop, NULL with *error* where
 * that is not known. */
static inline GBytes *vmm_checkpoint_resume(VmmCheckpoint *checkpoint, GError **error)
{
    return checkpoint->ops->resume(checkpoint, error);
}

/* Since when the machine has stood, or stood last (clock_now_ns()): the VMM takes its time to be told. */
static inline uint64_t vmm_checkpoint_get_stopped_ns(VmmCheckpoint *checkpoint)
{
    return checkpoint->ops->get_stopped_ns(checkpoint);
}

/* Not between the two.  NULL-safe. */
static inline void vmm_checkpoint_free(VmmCheckpoint *checkpoint)
{
    if (checkpoint)
        checkpoint->ops->free(checkpoint);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmCheckpoint, vmm_checkpoint_free)
