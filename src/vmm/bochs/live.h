/* Reading and setting the state of a Bochs that stands at its prompt, as a whole (form.h). */
#pragma once

#include "vmm/bochs/form.h"
#include "vmm/bochs/process.h"

/* All that a state is made of. */
BochsForm *bochs_form_show(BochsProcess *process, const BochsMachine *machine, GError **error);

/* Sets all of *wanted*, in its order.  *ram* is the address of guest RAM in Bochs's process (hpet_start.h).
 * After a failure the machine must not run. */
gboolean bochs_form_restore(BochsProcess *process, uint64_t ram, const BochsForm *wanted,
                            GError **error);
