/* What CPUID says in a CPU model of the installed Bochs. */
#pragma once

#include "vmm/bochs/cpu_models.h"

/* The words of bochs_cpuid_places in this model, 0 for those above its highest leaf; by a Bochs with a folder in *directory*. */
gboolean bochs_cpuid_read(const char *directory, const char *model, uint32_t *ret, GError **error);
