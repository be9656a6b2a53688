/*
 * Names of what CPUID tells, for messages: those that QEMU's and Linux's users know
 */
#pragma once

#include <glib.h>

/* "avx2", or NULL.  *reg*: "EAX" to "EDX". */
const char *cpu_feature_name(guint leaf, guint subleaf, const char *reg, guint bit);

/* The same, or "bit 3 of CPUID 0x7/1 EDX"; free with g_free(). */
char *cpu_feature_tell(guint leaf, guint subleaf, const char *reg, guint bit);
