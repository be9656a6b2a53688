#include "migrate/debug_copy.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "migrate/saved_disks.h"
#include "vmm/vmm_driver.h"
#include "wire/messages.h"

#define MAX_NOTE_BYTES (16u << 20)
/* Below this a machine that was just made may have content of its own. */
#define FIRST_PAGES ((1u << 20) / PAGE_BYTES)

typedef struct {
    const DebugCopyJob *job;
    SavedImage *image;
    GuestMessage *guest;
    json_t *note;
    const VmmDriver *driver;
    VmmSavedMachine saved;
    MachineDescription *machine;
    StateNode *state;
} Copy;

static void copy_clear(Copy *copy)
{
    saved_image_free(copy->image);
    guest_message_free(copy->guest);
    json_decref(copy->note);
    machine_description_free(copy->machine);
    state_free(copy->state);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Copy, copy_clear)

/* ---- the image ---- */

static gboolean read_texts(Copy *copy, GError **error)
{
    const char *machine = saved_image_get_machine(copy->image);
    const char *note = saved_image_get_note(copy->image);

    copy->guest = guest_message_decode(machine, strlen(machine), error);
    if (copy->guest && note)
        copy->note = json_parse_object(note, strlen(note), MAX_NOTE_BYTES, error);
    return copy->guest && (copy->note || !note);
}

/* One whose images can be read. */
static const VmmDriver *find_driver(const char *kind, gboolean is_told, GError **error)
{
    const VmmDriver *driver = vmm_driver_find(kind, error);

    if (!driver || (driver->describe_saved && is_told))
        return driver;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "the machine of an image of a guest of %s cannot be told", kind);
    return NULL;
}

static gboolean read_machine(Copy *copy, GError **error)
{
    const GuestMessage *guest = copy->guest;

    copy->driver = find_driver(guest->vmm_kind, guest->live != NULL, error);
    if (!copy->driver)
        return FALSE;
    copy->saved = (VmmSavedMachine){
        .machine = guest->live,
        .machine_type = guest->machine,
        .accelerator = guest->accelerator,
        .directory = guest->working_directory ? guest->working_directory : "/",
        .vcpus = guest->vcpus,
        .memory_bytes = guest->memory_bytes,
    };
    copy->machine = copy->driver->describe_saved(&copy->saved, error);
    return copy->machine != NULL;
}

/* The state may know better what its TSC counts. */
static void note_tsc(MachineDescription *machine, const StateNode *state)
{
    uint64_t hz = state_number_or(state, "cpus[0].tsc_hz", 0);

    if (hz > 0)
        machine->tsc_hz = hz;
}

static gboolean read_state(Copy *copy, GError **error)
{
    copy->state = vmm_read_state(copy->guest->vmm_kind, saved_image_get_state(copy->image), error);
    if (copy->state)
        note_tsc(copy->machine, copy->state);
    return copy->state != NULL;
}

/* ---- its disks ---- */

static MachineDisk *find_disk(const Copy *copy, const char *file)
{
    g_autofree char *path = g_build_filename(copy->saved.directory, file, NULL);

    for (guint i = 0; i < copy->machine->disks->len; i++) {
        MachineDisk *disk = copy->machine->disks->pdata[i];

        if (g_strcmp0(disk->path, file) == 0 || g_strcmp0(disk->path, path) == 0)
            return disk;
    }
    return NULL;
}

static char *same_name(const char *text, gpointer user)
{
    return g_strdup(text);
}

/* A copy beside the image, or the guest's own, which may have changed. */
static void place_disk(const Copy *copy, const SavedDisk *disk)
{
    MachineDisk *to = find_disk(copy, saved_disk_get_file(disk));
    g_autofree char *folder = g_path_get_dirname(copy->job->path);
    g_autoptr(GError) changed = NULL;

    if (to && disk->saved) {
        g_free(to->path);
        g_free(to->format);
        to->path = g_build_filename(folder, disk->saved, NULL);
        to->format = g_strdup(disk->saved_format);
    } else if (to && copy->job->warn &&
               !saved_disk_check_unchanged(disk, same_name, NULL, &changed)) {
        copy->job->warn(changed->message);
    }
}

static gboolean place_disks(const Copy *copy, GError **error)
{
    g_autoptr(GArray) disks = copy->note ? saved_disks_read(copy->note, error) : NULL;

    if (copy->note && !disks)
        return FALSE;
    for (guint i = 0; disks && i < disks->len; i++)
        place_disk(copy, &g_array_index(disks, SavedDisk, i));
    return TRUE;
}

/* ---- its memory ---- */

static gboolean write_runs(PageSource *source, guint from, GuestMemory *memory, guint to,
                           const PageSet *set, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc((gsize)IMAGE_MAX_EXTENT_PAGES * PAGE_BYTES);
    PageSpan span;

    for (uint64_t at = 0;
         page_set_next_run(set, at, IMAGE_MAX_EXTENT_PAGES, &span.first, &span.count);
         at = span.first + span.count)
        if (!page_source_read(source, from, &span, 1, buffer, error) ||
            !guest_memory_write(memory, to, &span, 1, buffer, error))
            return FALSE;
    return TRUE;
}

static gboolean copy_region(const Copy *copy, guint from, GuestMemory *memory, guint to,
                            GError **error)
{
    PageSource *source = saved_image_get_source(copy->image);
    uint64_t pages = saved_image_get_regions(copy->image)->pages[from];
    g_autoptr(PageSet) set = page_set_new(pages);

    if (guest_memory_get_region(memory, to)->pages != pages) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "its memory \"%s\" is of another size there",
                  saved_image_get_regions(copy->image)->names[from]);
        return FALSE;
    }
    if (!page_source_add_populated(source, from, set, error))
        return FALSE;
    page_set_add(set, 0, FIRST_PAGES);
    return write_runs(source, from, memory, to, set, error);
}

/* The region of the image that is *name* in the neutral form; -1: none is. */
static int find_region(const Copy *copy, const char *name)
{
    const PageRegions *regions = saved_image_get_regions(copy->image);

    for (guint i = 0; i < regions->count; i++)
        if (g_strcmp0(copy->driver->find_neutral_region(&copy->saved, regions->names[i],
                                                        regions->pages[i] * PAGE_BYTES),
                      name) == 0)
            return (int)i;
    return -1;
}

static gboolean load_memory(const Copy *copy, Vmm *vmm, const GPtrArray *regions, GError **error)
{
    g_autoptr(GuestMemory) memory = guest_memory_open(vmm_get_pid(vmm), regions, error);

    for (guint i = 0; memory && i < regions->len; i++) {
        const RamRegion *region = regions->pdata[i];
        int from = find_region(copy, region->name);

        if (from < 0) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the image has no memory \"%s\"",
                      region->name);
            return FALSE;
        }
        if (!copy_region(copy, (guint)from, memory, i, error))
            return FALSE;
    }
    return memory != NULL;
}

static gboolean load(const Copy *copy, Vmm *vmm, GError **error)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, error);
    g_autoptr(GBytes) state = state_encode(copy->state);

    return description &&
           vmm_open_incoming(vmm, description->machine, description->ram_regions, error) &&
           load_memory(copy, vmm, description->ram_regions, error) &&
           vmm_load_device_state(vmm, state, error);
}

VmmDebugger *debug_copy_open(const DebugCopyJob *job, GError **error)
{
    const SavedImageOptions options = {.key = job->key};
    g_auto(Copy) copy = {.job = job};
    g_autoptr(VmmDebugger) debugger = NULL;

    copy.image = saved_image_open(job->path, &options, error);
    if (!copy.image || !read_texts(&copy, error) || !read_machine(&copy, error) ||
        !read_state(&copy, error) || !place_disks(&copy, error))
        return NULL;
    debugger = vmm_debugger_open(copy.machine, job->directory, error);
    if (debugger && load(&copy, vmm_debugger_get_vmm(debugger), error))
        return g_steal_pointer(&debugger);
    return NULL;
}

/* ---- before there is an image ---- */

gboolean debug_copy_check(json_t *told, GError **error)
{
    json_t *object = json_object_get(told, "machine");
    g_autoptr(MachineDescription) machine = NULL;
    g_autoptr(StateNode) state = NULL;
    const char *kind;

    if (!json_get_text(told, "vmm_kind", &kind, error) || !find_driver(kind, TRUE, error))
        return FALSE;
    if (!object)
        return TRUE;
    machine = machine_description_from_json(object, error);
    state = machine ? state_from_json(json_object_get(told, "state"), error) : NULL;
    if (!state)
        return FALSE;
    note_tsc(machine, state);
    return vmm_debugger_check(machine, state, error);
}
