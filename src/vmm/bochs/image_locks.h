/*
 * Locks on the images that a Bochs writes to
 *
 * Theory of operation: Bochs knows nothing of the locks by which QEMU keeps other processes from an image: shared locks of
 * an open file description on bytes 100 to 103 (what its owner does: read, write, …, resize) and 200 to 203 (what it lets
 * nobody else do).  We fetch Bochs's own descriptor of each image (pidfd_getfd(2)) and set them on that: the
 * description is Bochs's, so the locks live as long as it has the image open, whether or not we do, and can be seen
 * and taken back by whoever comes after us.
 *
 * A machine whose guest runs elsewhere, before its start here or after its pause, holds none.
 */
#pragma once

#include "vmm/bochs/machine.h"
#include "vmm/bochs/process.h"

/* All or none.  BUSY where another process has one of the images.  What the host has cached of them is read anew. */
gboolean bochs_image_locks_take(const BochsProcess *process, const BochsMachine *machine,
                                GError **error);

/* What was written to them is on their storage.  Where that fails they are kept. */
gboolean bochs_image_locks_release(const BochsProcess *process, const BochsMachine *machine,
                                   GError **error);

/* The same without releasing them. */
gboolean bochs_images_flush(const BochsProcess *process, const BochsMachine *machine,
                            GError **error);
