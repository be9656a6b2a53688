/*
 * The state of a Bochs's machine as a whole
 *
 * Theory of operation: a BochsForm is what `show` tells of all devices, or what `restore` is to set.
 * bochs_form_to_state() makes the neutral state of the first, bochs_form_from_state() the second of a
 * neutral state; both are pure.  The tables are in state_cpu.c and state_chips.c; what they are made of
 * was found with Bochs 2.7.
 *
 * Bochs has one clock: it counts instructions (ticks), of which `ips` make a second, and everything
 * derives from it.  So the machine must have been started with the guest's TSC frequency for its ips.
 * state_clock.c chooses what the clock is set to.  Timers fire when the clock is equal to their time, so none is
 * set to what has passed.
 *
 * What has no counterpart is refused by name.
 */
#pragma once

#include "state/tree.h"
#include "vmm/bochs/tree.h"

/* Bytes of a parameter that `show` does not tell. */
typedef struct {
    char *name; /* "pci2isa.pci_conf" */
    GBytes *bytes;
} BochsBytes;

typedef struct {
    GPtrArray *devices; /* of BochsNode, in the order in which they are to be set */
    GPtrArray *bytes;   /* of BochsBytes */
    uint32_t ips;
    uint32_t
        hpet_start; /* to be written to the HPET when its parameters are set; 0: it stands still */
} BochsForm;

BochsForm *bochs_form_new(uint32_t ips);
void bochs_form_free(BochsForm *form);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BochsForm, bochs_form_free)

/* NULL where it has none of that name. */
BochsNode *bochs_form_find(const BochsForm *form, const char *name);

/* The device's tree, made at the end where it is missing. */
BochsNode *bochs_form_get(BochsForm *form, const char *name);

/* Takes *device*. */
void bochs_form_add(BochsForm *form, BochsNode *device);

/* Bytes of a parameter of a device ("pci_conf" of "pci2isa"): to be set by `restore`, or where they are (places.h); NULL
 * where they are not known. */
void bochs_form_add_bytes(BochsForm *form, const char *device, const char *path, const void *bytes,
                          size_t length);
void bochs_form_set_bytes(BochsForm *form, const char *device, const char *path, const void *bytes,
                          size_t length);
const uint8_t *bochs_form_get_bytes(const BochsForm *form, const char *device, const char *path,
                                    size_t length);

/* The devices that a state is made of, up to NULL; "cpu0" stands for all processors. */
const char *const *bochs_form_devices(void);

/* "cpu0" and on; *number* below BOCHS_MAX_VCPUS (machine.h). */
const char *bochs_form_cpu(guint number);

/* How many processors a Bochs that shows this has. */
guint bochs_form_count_cpus(const BochsForm *shown);

/* One that not every machine has. */
gboolean bochs_form_is_card(const char *name);

/* What to set in a Bochs that shows *shown*, with as many processors as the state and not run yet.  UNSUPPORTED with the path
 * of what it cannot be. */
BochsForm *bochs_form_from_state(const StateNode *state, const BochsForm *shown, GError **error);

/* The state of the machine that is shown.  *loaded* is what was loaded into it: its devices are told, and what
 * Bochs has not (machine check banks, identification of drives) stays as it was there.  NULL: processors,
 * interrupt controllers and interval timer only.  UNSUPPORTED or BUSY with what cannot be told. */
StateNode *bochs_form_to_state(const BochsForm *shown, const StateNode *loaded, GError **error);
