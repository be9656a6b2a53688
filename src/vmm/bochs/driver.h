/* What the files of the Bochs driver share. */
#pragma once

#include "state/tree.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/process.h"

typedef struct {
    Vmm base;
    GMutex lock; /* serialises the operations */
    BochsProcess *process;
    RamRegion *ram;
    RamRegion *video;       /* NULL: it has no VGA card */
    char **words;           /* what it was started by, paths as they are here … */
    BochsCommandLine *line; /* … and what they mean */
    char **original;        /* as VmmLaunch has them; NULL: not known */
    char *working_directory;
    MachineDescription *machine; /* NULL: not known */
    gboolean incoming;           /* it was started to be loaded */
    gboolean neutral;            /* by a description */
    char **cgroups;              /* as VmmIdentity has them */
    gboolean has_run;            /* since it was started */
    GArray *places;              /* of BochsPlace */
    StateNode *loaded;           /* NULL: nothing was */
    GBytes *saved;               /* its state when it … */
    guint64 saved_at;            /* … stood at this prompt; NULL: was not saved */
    BochsForm *fresh;            /* what it showed when it was opened for a state; NULL before */
} BochsVmm;

/* What describe() says of its machine. */
#define BOCHS_MACHINE "pc-i440fx"

/* Empty: the caller fills it. */
Vmm *bochs_vmm_new(void);

/* Waits for a state. */
gboolean bochs_awaits_state(const BochsVmm *bochs);

/* "DIRECTORY/NAME.bochs".  Free with g_free(). */
char *bochs_launch_folder(const char *directory, const char *name);

/* Entries of the driver's table (vmm_driver.h). */
Vmm *bochs_reattach(const VmmIdentity *identity, GError **error);

/* Operations that need no lock. */
gboolean bochs_check_movable(Vmm *vmm, GError **error);
json_t *bochs_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error);
gboolean bochs_check_unchanged(Vmm *vmm, json_t *before, GError **error);
gboolean bochs_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error);
gboolean bochs_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error);
gboolean bochs_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error);
gboolean bochs_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error);
gboolean bochs_announce(Vmm *vmm, GError **error);
ProcessIdentity *bochs_get_process(Vmm *vmm, GError **error);
MachineDescription *bochs_describe_neutral(Vmm *vmm, json_t *machine, GError **error);

/* Its network namespace is its driver's affair. */
void bochs_identity_drop_network(ProcessIdentity *identity);

/* The locks on its images (image_locks.h), under the lock.  Taking them again changes nothing. */
gboolean bochs_take_images(BochsVmm *bochs, GError **error);
gboolean bochs_release_images(BochsVmm *bochs, GError **error);

extern const VmmBlockOps bochs_block_ops;

/* The operations of the table on the device state, each without the lock. */
GBytes *bochs_save_device_state(BochsVmm *bochs, VmmSavePurpose purpose, GError **error);
/* As it stands at its prompt, and nothing else is done. */
GBytes *bochs_read_state(BochsVmm *bochs, GError **error);
GBytes *bochs_look(BochsVmm *bochs, double *ret_paused_ms, GError **error);
gboolean bochs_open_incoming(BochsVmm *bochs, const char *machine, const GPtrArray *regions,
                             GError **error);
gboolean bochs_load_device_state(BochsVmm *bochs, GBytes *bytes, GError **error);
