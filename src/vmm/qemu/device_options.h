/* A device's settings as options that make it again. */
#pragma once

#include <jansson.h>

/* Turns settings as a QemuSettingsReader (live_line.h) tells them into such options: the bus by its name instead of its
 * path, a PCI address as users write it.  Returns the bus's name, NULL where it has none; free with g_free(). */
char *qemu_settings_to_options(json_t *settings);
