/*
 * The beginning of a file that libvirt restores a domain from
 *
 * Pure.  A header of 92 bytes in the host's byte order (a magic, a version, how long the text is, whether the
 * domain ran, that the rest is not compressed), then the domain's XML; QEMU's stream follows.
 */
#pragma once

#include <glib.h>

#define LIBVIRT_SAVE_HEADER_BYTES 92u
#define LIBVIRT_SAVE_MAX_XML (1u << 20)

/* INVALID where the XML is empty or too long.  *runs*: the domain is to run once it is restored. */
GBytes *libvirt_save_header_build(const char *xml, gboolean runs, GError **error);
