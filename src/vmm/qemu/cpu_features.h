/*
 * What a guest's CPU can do, and what the one at its destination lacks
 *
 * Theory of operation: `-cpu host` and `-cpu max` give a guest what its host
 * has, and other models lose what the host lacks, with a warning in a log.
 * A guest that moves goes on using what it found when it booted, and crashes at
 * the first instruction that is missing.  So the source tells the features of
 * its first vCPU as QEMU counts them (the property "feature-words": CPUID
 * leaf, register, 32 bits), the destination compares them with those of the
 * QEMU that it started, before it accepts the guest.  More features than the
 * source has do no harm.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

#include "vmm/qemu/qmp.h"

/* {"type": "max-x86_64-cpu", "words": […]} of the first vCPU; free with
 * json_decref().  JSON null where QEMU does not tell (other architectures);
 * NULL on error. */
json_t *qemu_query_cpu_features(Qmp *qmp, GError **error);

/* The names of what *source* has and *here* lacks, sorted by their places; NULL
 * with *error* where one cannot be read.  What is not told lacks nothing.  Free
 * with g_ptr_array_unref(). */
GPtrArray *qemu_list_missing_features(json_t *source, json_t *here, GError **error);
