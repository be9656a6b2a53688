/* What the files of the Bochs driver share. */
#pragma once

#include "vmm/bochs/bochs.h"
#include "state/tree.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/process.h"

typedef struct {
    Vmm base;
    GMutex lock; /* serialises the operations */
    BochsProcess *process;
    RamRegion *ram;
    guint vcpus;
    uint32_t ips;
    gboolean has_run;  /* since it was started */
    GArray *places;    /* of BochsPlace */
    StateNode *loaded; /* NULL: nothing was */
    BochsForm *fresh;  /* what it showed when it was opened for a state; NULL before */
} BochsVmm;

/* Operations that no Bochs has (unsupported.c). */
gboolean bochs_check_movable(Vmm *vmm, GError **error);
json_t *bochs_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error);
gboolean bochs_check_unchanged(Vmm *vmm, json_t *before, GError **error);
gboolean bochs_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error);
gboolean bochs_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error);
gboolean bochs_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error);
gboolean bochs_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error);
gboolean bochs_announce(Vmm *vmm, GError **error);
ProcessIdentity *bochs_get_process(Vmm *vmm, GError **error);

/* The operations of the table on the device state, each without the lock. */
GBytes *bochs_save_device_state(BochsVmm *bochs, VmmSavePurpose purpose, GError **error);
gboolean bochs_open_incoming(BochsVmm *bochs, const char *machine, const GPtrArray *regions,
                             GError **error);
gboolean bochs_load_device_state(BochsVmm *bochs, GBytes *bytes, GError **error);
