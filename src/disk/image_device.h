/*
 * Which block device is it?
 *
 * A name that is equal on two hosts proves that they mean the same device only
 * where no two devices of the world have it: what an authority gives out (NAA,
 * EUI-64, NGUID) or is random (UUID), of the device itself or of the multipath
 * map above it; a logical volume by its UUID together with such names of all
 * the devices below it, a partition by its disk, number and place.  Serial
 * numbers ("t10.ATA QEMU HARDDISK QM00001" is in every virtual machine) and
 * UUIDs that are written on the disk (LVM, cloned with it) are no proof.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* TRUE where no two devices have this WWID or device mapper UUID.  Pure. */
gboolean image_device_id_is_unique(const char *id);

/* From sysfs; "" where there is no such name.  Free with g_free(). */
char *image_device_find_id(dev_t number);

/* The same of a folder like /sys/dev/block/8:0. */
char *image_device_find_id_in(const char *folder);
