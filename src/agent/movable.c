#include "agent/movable.h"

#include "memory/guest_memory.h"

/* As a move does: its RAM must be of a kind that can be followed. */
static gboolean try_memory(Vmm *vmm, const VmmDescription *description, GError **error)
{
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, error);

    guest_memory_free(memory);
    return memory != NULL;
}

char *movable_find_obstacle(Vmm *vmm, VmmDescription **ret_description)
{
    g_autoptr(GError) error = NULL;
    gboolean movable = vmm_check_movable(vmm, &error);

    *ret_description = vmm_describe(vmm, movable ? &error : NULL);
    if (movable && *ret_description && try_memory(vmm, *ret_description, &error))
        return NULL;
    return g_utf8_make_valid(error->message, -1);
}
