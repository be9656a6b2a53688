/*
 * The CPU models of Bochs 2.7
 *
 * Theory of operation: cpu_models.c has what CPUID says in each of them, as far as QEMU counts it as features; it was
 * recorded by a guest that executes CPUID there (tests/unit/vmm/bochs_cpuid_tool.c makes the table again).  A machine goes
 * on with the model that has all that its guest may use, and least besides.  What a guest does not miss
 * is not looked for (cpu_choice.c says what, and why).
 *
 * CPUID's vendor is not among the features: a guest that asks again finds the model's.
 */
#pragma once

#include "state/machine_description.h"

typedef struct {
    uint32_t leaf, subleaf;
    char reg[4];
} BochsCpuidPlace;

#define BOCHS_CPUID_WORDS 16u

typedef struct {
    const char *name; /* "corei7_haswell_4770" */
    uint32_t words[BOCHS_CPUID_WORDS];
} BochsCpuModel;

extern const BochsCpuidPlace bochs_cpuid_places[BOCHS_CPUID_WORDS];
extern const BochsCpuModel bochs_cpu_models[]; /* up to one without a name */

/* NULL: there is none of that name. */
const BochsCpuModel *bochs_cpu_find(const char *name);

/* What the model has, as words of a description: appended to *cpuid*. */
void bochs_cpu_describe(const BochsCpuModel *model, GArray *cpuid);

/* The model for a guest with these words (of MachineCpuid).  NULL: none has them all; *ret_closest is then the one that lacks
 * least, and *ret_missing what that is (names; free with g_ptr_array_unref()). */
const BochsCpuModel *bochs_cpu_choose(const GArray *cpuid, const BochsCpuModel **ret_closest,
                                      GPtrArray **ret_missing);
