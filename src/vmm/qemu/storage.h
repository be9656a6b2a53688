/*
 * A storage process of QEMU (vmm_storage.h)
 *
 * Theory of operation: the guest's QEMU program without a machine, steered over QMP.  An image is a
 * block node, and an export of that.  The commands are waited for one by one: a lock serialises the
 * operations.  Only raw and qcow2 images can be made; any format that QEMU knows can be opened.
 *
 * Paths of images must be absolute, so that QEMU takes them for nothing but files.
 */
#pragma once

#include "vmm/vmm_storage.h"

VmmStorage *qemu_storage_open(const VmmStorageLaunch *launch, GError **error);
