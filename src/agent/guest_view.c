#include "agent/guest_view.h"

#include "agent/launch.h"
#include "agent/registry.h"
#include "base/error.h"

/* With the registry's lock held. */
static json_t *view_locked(const Guest *guest)
{
    const GuestRecord *record = guest->record;
    json_t *view = json_pack("{s:s, s:s, s:s, s:I}", "name", guest->name, "state",
                             guest_get_shown_state(guest), "origin",
                             guest_origin_name(record->origin), "since", (json_int_t)record->since);

    json_object_set_new(view, "id", json_string(record->id));
    json_object_set_new(view, "term", json_integer((json_int_t)record->term));
    json_object_set_new(view, "role", json_string(guest_role_name(record->role)));
    json_object_set_new(view, "pid", record->pid > 0 ? json_integer(record->pid) : json_null());
    json_object_set_new(view, "problem",
                        guest->problem ? json_string(guest->problem) : json_null());
    json_object_set_new(view, "destination",
                        record->destination ? json_string(record->destination) : json_null());
    if (record->store)
        json_object_set_new(view, "store", json_string(record->store));
    if (record->protection)
        json_object_set(view, "protection", record->protection);
    if (guest->summary)
        json_object_update(view, guest->summary);
    return view;
}

json_t *guest_view_short(Guest *guest)
{
    json_t *view = registry_view(guest, view_locked);
    g_autoptr(Activity) activity = registry_get_activity(guest);

    json_object_set_new(view, "activity", activity ? activity_to_json(activity) : json_null());
    return view;
}

static json_t *make_summary(const VmmDescription *description)
{
    return json_pack("{s:s?, s:s?, s:s?, s:s?, s:i, s:I}", "vmm", description->kind, "vmm_version",
                     description->version, "machine", description->machine, "accelerator",
                     description->accelerator, "vcpus", (int)description->vcpus, "memory_bytes",
                     (json_int_t)description->memory_bytes);
}

static void note_run_state(Guest *guest, Vmm *vmm)
{
    VmmRunState state;

    if (vmm_get_run_state(vmm, &state, NULL) && state != VMM_RUN_STATE_GONE)
        registry_note_run_state(guest, state);
}

/* Asks the VMM itself; returns what keeps the guest from moving, or NULL. */
static char *refresh(Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    Vmm *vmm = registry_get_vmm(guest, NULL);
    g_autoptr(VmmDescription) description = NULL;
    char *obstacle;

    if (!vmm)
        return NULL;
    if (registry_is_watched(guest))
        note_run_state(guest, vmm);
    if (!registry_is_idle(guest))
        return NULL;
    obstacle = movable_find_obstacle(vmm, record, &description);
    if (description)
        registry_set_summary(guest, make_summary(description));
    return obstacle;
}

void guest_view_learn_machine(Guest *guest)
{
    Vmm *vmm = registry_is_idle(guest) ? registry_get_vmm(guest, NULL) : NULL;
    g_autoptr(VmmDescription) description = NULL;

    if (!vmm)
        return;
    description = vmm_describe(vmm, NULL);
    if (description)
        registry_set_summary(guest, make_summary(description));
}

json_t *guest_view_long(Guest *guest)
{
    g_autoptr(GuestRecord) record = NULL;
    g_autofree char *obstacle = NULL;
    json_t *view, *arguments = json_array();

    registry_await_settled(guest);
    obstacle = refresh(guest);
    view = guest_view_short(guest);
    record = registry_get_record(guest);
    for (char **argument = record->command_line; argument && *argument; argument++) {
        g_autofree char *shown = g_utf8_make_valid(*argument, -1);

        json_array_append_new(arguments, json_string(shown));
    }
    json_object_set_new(view, "command_line", arguments);
    json_object_set_new(view, "not_movable", obstacle ? json_string(obstacle) : json_null());
    json_object_set_new(view, "working_directory",
                        record->working_directory ? json_string(record->working_directory)
                                                  : json_null());
    json_object_set_new(view, "process",
                        record->process ? process_identity_to_json(record->process) : json_null());
    json_object_set_new(view, "supervisor",
                        record->supervisor ? json_string(record->supervisor) : json_null());
    json_object_set_new(view, "qmp_path",
                        record->qmp_path ? json_string(record->qmp_path) : json_null());
    json_object_set_new(view, "log_path",
                        record->log_path ? json_string(record->log_path) : json_null());
    return view;
}

/* ---- its disks ---- */

static json_t *text_or_null(const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;

    return valid ? json_string(valid) : json_null();
}

static json_t *view_files(const VmmDisk *disk)
{
    json_t *files = json_array();

    for (guint i = 0; i < disk->files->len; i++) {
        const VmmDiskFile *file = disk->files->pdata[i];

        json_array_append_new(
            files, json_pack("{s:o, s:o, s:I, s:I, s:I}", "file", text_or_null(file->file),
                             "format", text_or_null(file->format), "size_bytes",
                             (json_int_t)file->bytes, "file_bytes", (json_int_t)file->file_bytes,
                             "allocated_bytes", (json_int_t)file->allocated_bytes));
    }
    return files;
}

static json_t *view_disk(const VmmDisk *disk)
{
    return json_pack("{s:o, s:o, s:b, s:b, s:o, s:o}", "id", text_or_null(disk->id), "device",
                     text_or_null(disk->device), "read_only", disk->read_only, "firmware",
                     disk->flash, "obstacle", text_or_null(disk->obstacle), "files",
                     view_files(disk));
}

json_t *guest_view_disks(Guest *guest, GError **error)
{
    Vmm *vmm = registry_get_vmm(guest, error);
    g_autoptr(GPtrArray) disks = NULL;
    json_t *list;

    if (!vmm)
        return NULL;
    if (!registry_is_idle(guest)) {
        g_autoptr(json_t) view = guest_view_short(guest);

        error_set(error, VMFERRY_ERROR_BUSY, "guest %s is %s; its disks are shown once that ends",
                  guest->name, json_text_or(view, "state", "busy"));
        return NULL;
    }
    disks = vmm_list_disks(vmm, error);
    if (!disks)
        return NULL;
    list = json_array();
    for (guint i = 0; i < disks->len; i++)
        json_array_append_new(list, view_disk(disks->pdata[i]));
    return json_pack("{s:s, s:o}", "guest", guest->name, "disks", list);
}
