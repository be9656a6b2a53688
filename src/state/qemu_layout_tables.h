/* How the tables of layouts are put together. */
#pragma once

#include "state/qemu_layout.h"

#define QEMU_MAX_ALTERNATIVES 3u

/* What a section of this kind can look like: which of them, follows from the machine and is not in the
 * stream. */
typedef struct {
    const char *kind;
    const QemuLayout *layouts[QEMU_MAX_ALTERNATIVES + 1];
} QemuLayoutEntry;

/* Up to one without a kind. */
extern const QemuLayoutEntry qemu_layouts_cpu[], qemu_layouts_chips[], qemu_layouts_devices[],
    qemu_layouts_virtio[];

extern const QemuLayout qemu_pci_device_layout;
