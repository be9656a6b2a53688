#include "agent/movable.h"

#include "memory/guest_memory.h"

/* The command line must be one that makes this machine elsewhere, and the disks'
 * images must be found. */
static gboolean try_machine(Vmm *vmm, char *const *command_line, GError **error)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = vmm_read_machine(vmm, command_line, &line, error);
    g_autoptr(GPtrArray) images = machine ? vmm_list_images(vmm, machine, error) : NULL;

    return images != NULL;
}

/* Who runs it must be something that can be told. */
static gboolean try_process(Vmm *vmm, GError **error)
{
    g_autoptr(ProcessIdentity) process = vmm_get_process(vmm, error);

    return process != NULL;
}

/* Its RAM must be of a kind that can be followed. */
static gboolean try_memory(Vmm *vmm, const VmmDescription *description, GError **error)
{
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, error);

    guest_memory_free(memory);
    return memory != NULL;
}

/* In the order in which a move looks. */
char *movable_find_obstacle(Vmm *vmm, char *const *command_line, VmmDescription **ret_description)
{
    g_autoptr(GError) error = NULL;
    gboolean movable = vmm_check_movable(vmm, &error) && try_machine(vmm, command_line, &error) &&
                       try_process(vmm, &error);

    *ret_description = vmm_describe(vmm, movable ? &error : NULL);
    if (movable && *ret_description && try_memory(vmm, *ret_description, &error))
        return NULL;
    return g_utf8_make_valid(error->message, -1);
}
