/* What would refuse a move of a guest, told before anyone asks for one. */
#pragma once

#include <glib.h>

#include "vmm/vmm.h"

/* Why this machine could not be moved as it is now, or NULL; free with
 * g_free().  *command_line: as its record has it.  *ret_description: what it is
 * made of, or NULL where that cannot be told; free it with
 * vmm_description_free(). */
char *movable_find_obstacle(Vmm *vmm, char *const *command_line, VmmDescription **ret_description);
