/*
 * The devices of a live machine, as `info qtree` tells them
 *
 * Theory of operation: one command of the human monitor prints every bus and
 * every device with the values of all its qdev properties.  It is the cheapest
 * complete view of a machine (1.5 ms for 25 devices on QEMU 7.2 and 10.0), and
 * nearly nothing in it changes while a guest runs: a booted guest and a QEMU
 * started from the same command line differ in three values of board devices
 * and in what is said of bus numbers, BARs and USB addresses, which is not
 * read here.
 *
 * Everything is bounded and comes from a process that a guest may have taken
 * over.  Pure.
 */
#pragma once

#include <glib.h>

#define DEVICE_TREE_MAX_DEVICES 4096
#define DEVICE_TREE_MAX_DEPTH 64
#define DEVICE_TREE_MAX_BYTES (8u << 20)

typedef struct QemuBus QemuBus;
typedef struct QemuDevice QemuDevice;

struct QemuBus {
    char *name;         /* "pci.0" */
    char *type;         /* "PCI" */
    QemuDevice *owner;  /* whose bus it is; NULL for the root */
    GPtrArray *devices; /* of QemuDevice, owned; the newest first, as QEMU lists them */
};

struct QemuDevice {
    char *driver;
    char *id;               /* "" where it has none */
    char *usb_port;         /* NULL but for USB devices: "1.2" */
    QemuBus *bus;           /* that it sits on */
    GHashTable *properties; /* name → value, as printed but without quotes and comments */
    GPtrArray *buses;       /* of QemuBus, owned */
};

/* Reads the text; NULL with *error* where it is not of this form or too large. */
QemuBus *device_tree_parse(const char *text, GError **error);
void device_tree_free(QemuBus *root);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuBus, device_tree_free)

/* Calls *visit* for each device, parents first. */
typedef void (*DeviceVisitor)(QemuDevice *device, gpointer user);
void device_tree_visit(const QemuBus *root, DeviceVisitor visit, gpointer user);

/* The device called *id*, NULL where there is none. */
QemuDevice *device_tree_find(const QemuBus *root, const char *id);

/* The value of a property of the device, or else of the back end that a virtio
 * proxy carries; NULL where there is none. */
const char *device_get_property(const QemuDevice *device, const char *name);

/* Where on its bus it sits, as its command-line options say it; up to
 * DEVICE_ADDRESS_KEYS pairs.  Returns their number, 0 for a bus without
 * addresses.  The texts live as long as the device. */
#define DEVICE_ADDRESS_KEYS 3
typedef struct {
    const char *key, *value;
} DeviceAddress;
guint device_get_address(const QemuDevice *device, DeviceAddress ret[DEVICE_ADDRESS_KEYS]);

/* For messages: "net1 (virtio-net-pci)", "virtio-net-pci at pci.0 05.0".  Free
 * with g_free(). */
char *device_describe(const QemuDevice *device);
