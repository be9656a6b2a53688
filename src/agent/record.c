#include "agent/record.h"

#include <string.h>

#include "base/name.h"
#include "base/error.h"
#include "vmm/libvirt/address.h"
#include "wire/messages.h"
#include "wire/witness_message.h"

#define RECORD_FORMAT 1
#define RECORD_MAX_PID (1u << 22)
#define RECORD_MAX_ARGUMENTS 1024
#define RECORD_MAX_TEXT 65536
#define RECORD_MAX_BALLOON_BYTES ((uint64_t)1 << 46)

static const char *const role_names[] = {
    [GUEST_STARTING] = "starting",
    [GUEST_OURS] = "ours",
    [GUEST_SWITCHING_OVER] = "switching-over",
    [GUEST_IN_DOUBT] = "in-doubt",
    [GUEST_LEAVING] = "leaving",
    [GUEST_INCOMING] = "incoming",
    [GUEST_POSTCOPY] = "postcopy",
    [GUEST_POSTCOPY_SOURCE] = "postcopy-source",
    [GUEST_TAKEOVER] = "takeover",
    [GUEST_RESTORING] = "restoring",
};
G_STATIC_ASSERT(G_N_ELEMENTS(role_names) == GUEST_RESTORING + 1);

static const char *const origin_names[] = {
    [GUEST_ORIGIN_RUN] = "run",
    [GUEST_ORIGIN_ADOPT] = "adopt",
    [GUEST_ORIGIN_MOVE] = "move",
    [GUEST_ORIGIN_IMAGE] = "image",
};
G_STATIC_ASSERT(G_N_ELEMENTS(origin_names) == GUEST_ORIGIN_IMAGE + 1);

const char *guest_role_name(GuestRole role)
{
    return role_names[role];
}

const char *guest_origin_name(GuestOrigin origin)
{
    return origin_names[origin];
}

GuestRecord *guest_record_copy(const GuestRecord *record)
{
    GuestRecord *copy = g_memdup2(record, sizeof *record);

    copy->name = g_strdup(record->name);
    copy->id = g_strdup(record->id);
    copy->boot_id = g_strdup(record->boot_id);
    copy->directory = g_strdup(record->directory);
    copy->vmm_kind = g_strdup(record->vmm_kind);
    copy->qmp_path = g_strdup(record->qmp_path);
    copy->log_path = g_strdup(record->log_path);
    copy->command_line = g_strdupv(record->command_line);
    copy->working_directory = g_strdup(record->working_directory);
    copy->process = record->process ? process_identity_copy(record->process) : NULL;
    copy->cgroups = g_strdupv(record->cgroups);
    copy->supervisor = g_strdup(record->supervisor);
    copy->transaction = g_strdup(record->transaction);
    copy->destination = g_strdup(record->destination);
    copy->destination_agent = g_strdup(record->destination_agent);
    copy->outstanding = g_strdup(record->outstanding);
    copy->source_agent = g_strdup(record->source_agent);
    copy->deltas = g_strdup(record->deltas);
    copy->image = g_strdup(record->image);
    copy->other_directory = g_strdup(record->other_directory);
    copy->store = g_strdup(record->store);
    copy->store_agent = g_strdup(record->store_agent);
    copy->stale_destination = g_strdup(record->stale_destination);
    copy->stale_agent = g_strdup(record->stale_agent);
    copy->stale_transaction = g_strdup(record->stale_transaction);
    copy->moved_images = g_strdupv(record->moved_images);
    copy->protection = json_incref(record->protection);
    copy->renewal = json_incref(record->renewal);
    return copy;
}

void guest_record_free(GuestRecord *record)
{
    if (!record)
        return;
    json_decref(record->protection);
    json_decref(record->renewal);
    g_free(record->name);
    g_free(record->id);
    g_free(record->boot_id);
    g_free(record->directory);
    g_free(record->vmm_kind);
    g_free(record->qmp_path);
    g_free(record->log_path);
    g_strfreev(record->command_line);
    g_free(record->working_directory);
    process_identity_free(record->process);
    g_strfreev(record->cgroups);
    g_free(record->supervisor);
    g_free(record->transaction);
    g_free(record->destination);
    g_free(record->destination_agent);
    g_free(record->outstanding);
    g_free(record->source_agent);
    g_free(record->deltas);
    g_free(record->image);
    g_free(record->other_directory);
    g_free(record->store);
    g_free(record->store_agent);
    g_free(record->stale_destination);
    g_free(record->stale_agent);
    g_free(record->stale_transaction);
    g_strfreev(record->moved_images);
    g_free(record);
}

static void set_text(json_t *object, const char *key, const char *text)
{
    /* What is not UTF-8 (a path may be anything) cannot be in a JSON text. */
    if (text)
        json_object_set_new(object, key, json_string(text));
}

static json_t *make_list(char **texts)
{
    json_t *list = json_array();

    for (char **text = texts; text && *text; text++)
        json_array_append_new(list, json_string(*text));
    return list;
}

gboolean guest_record_check_leaving(const GuestRecord *record, GError **error)
{
    if (!libvirt_address_is(record->qmp_path))
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_UNSUPPORTED,
        "libvirt runs this guest, and would not know it at another host: guests of libvirt's are "
        "saved, but not yet moved or protected");
    return FALSE;
}

json_t *guest_record_to_json(const GuestRecord *record)
{
    json_t *object = json_object();

    json_object_set_new(object, "format", json_integer(RECORD_FORMAT));
    set_text(object, "name", record->name);
    set_text(object, "id", record->id);
    json_object_set_new(object, "term", json_integer((json_int_t)record->term));
    set_text(object, "role", guest_role_name(record->role));
    set_text(object, "origin", guest_origin_name(record->origin));
    set_text(object, "boot_id", record->boot_id);
    set_text(object, "directory", record->directory);
    json_object_set_new(object, "pid", json_integer(record->pid));
    json_object_set_new(object, "start_time", json_integer((json_int_t)record->start_time));
    set_text(object, "vmm_kind", record->vmm_kind);
    set_text(object, "qmp_path", record->qmp_path);
    set_text(object, "log_path", record->log_path);
    json_object_set_new(object, "command_line", make_list(record->command_line));
    set_text(object, "working_directory", record->working_directory);
    if (record->process)
        json_object_set_new(object, "process", process_identity_to_json(record->process));
    if (record->cgroups)
        json_object_set_new(object, "cgroups", make_list(record->cgroups));
    set_text(object, "supervisor", record->supervisor);
    set_text(object, "transaction", record->transaction);
    set_text(object, "destination", record->destination);
    set_text(object, "destination_agent", record->destination_agent);
    if (record->split)
        json_object_set_new(object, "split", json_true());
    set_text(object, "outstanding", record->outstanding);
    set_text(object, "source_agent", record->source_agent);
    set_text(object, "deltas", record->deltas);
    set_text(object, "image", record->image);
    if (record->untold)
        json_object_set_new(object, "untold", json_true());
    if (record->taking_over)
        json_object_set_new(object, "taking_over", json_true());
    if (record->standby)
        json_object_set_new(object, "standby", json_true());
    if (record->other_pid > 0) {
        json_object_set_new(object, "other_pid", json_integer(record->other_pid));
        json_object_set_new(object, "other_start", json_integer((json_int_t)record->other_start));
    }
    set_text(object, "other_directory", record->other_directory);
    if (record->checkpoint_ms > 0)
        json_object_set_new(object, "checkpoint_ms", json_integer(record->checkpoint_ms));
    set_text(object, "store", record->store);
    set_text(object, "store_agent", record->store_agent);
    if (record->lease_ms > 0)
        json_object_set_new(object, "lease_ms", json_integer(record->lease_ms));
    set_text(object, "stale_destination", record->stale_destination);
    set_text(object, "stale_agent", record->stale_agent);
    set_text(object, "stale_transaction", record->stale_transaction);
    if (record->protection)
        json_object_set(object, "protection", record->protection);
    if (record->renewal)
        json_object_set(object, "renewal", record->renewal);
    json_object_set_new(object, "resume", json_boolean(record->resume));
    if (record->balloon_bytes > 0)
        json_object_set_new(object, "balloon_bytes",
                            json_integer((json_int_t)record->balloon_bytes));
    if (record->moved_images) {
        json_object_set_new(object, "moved_images", make_list(record->moved_images));
        json_object_set_new(object, "removes_images", json_boolean(record->removes_images));
    }
    json_object_set_new(object, "since", json_integer(record->since));
    return object;
}

static gboolean find_name(const char *name, const char *const *names, guint count, guint *ret)
{
    for (guint i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = i;
            return TRUE;
        }
    }
    return FALSE;
}

static gboolean read_kinds(json_t *object, GuestRecord *record, GError **error)
{
    const char *role, *origin;
    guint number;

    if (!json_get_text(object, "role", &role, error) ||
        !json_get_text(object, "origin", &origin, error))
        return FALSE;
    if (!find_name(role, role_names, G_N_ELEMENTS(role_names), &number)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid role of a guest", role);
        return FALSE;
    }
    record->role = (GuestRole)number;
    if (!find_name(origin, origin_names, G_N_ELEMENTS(origin_names), &number)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid origin of a guest",
                  origin);
        return FALSE;
    }
    record->origin = (GuestOrigin)number;
    return TRUE;
}

static gboolean read_owner(json_t *object, GuestRecord *record, GError **error)
{
    const char *id;

    if (!json_get_text(object, "id", &id, error) ||
        !json_get_count(object, "term", MESSAGE_MAX_TERM, &record->term, error))
        return FALSE;
    if (!random_id_is_valid(id) || record->term == 0) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"id\" is not of 32 hexadecimal digits, or \"term\" is 0");
        return FALSE;
    }
    record->id = g_strdup(id);
    return TRUE;
}

static gboolean read_numbers(json_t *object, GuestRecord *record, GError **error)
{
    uint64_t format, pid, since;

    if (!json_get_count(object, "format", RECORD_FORMAT, &format, error) ||
        !json_get_count(object, "pid", RECORD_MAX_PID, &pid, error) ||
        !json_get_count(object, "start_time", G_MAXINT64, &record->start_time, error) ||
        !json_get_count(object, "since", G_MAXINT64, &since, error) ||
        (json_object_get(object, "balloon_bytes") &&
         !json_get_count(object, "balloon_bytes", RECORD_MAX_BALLOON_BYTES, &record->balloon_bytes,
                         error)))
        return FALSE;
    if (format != RECORD_FORMAT) {
        error_set(error, VMFERRY_ERROR_INVALID, "record format 0");
        return FALSE;
    }
    if (!json_is_boolean(json_object_get(object, "resume"))) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"resume\" is missing or neither true nor false");
        return FALSE;
    }
    record->resume = json_is_true(json_object_get(object, "resume"));
    record->pid = (pid_t)pid;
    record->since = (int64_t)since;
    return TRUE;
}

static gboolean read_list(json_t *object, const char *key, char ***ret, GError **error)
{
    json_t *texts;
    size_t count;

    if (!json_get_array(object, key, RECORD_MAX_ARGUMENTS, &texts, error))
        return FALSE;
    count = json_array_size(texts);
    *ret = g_new0(char *, count + 1);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(texts, i));

        if (!text || strlen(text) > RECORD_MAX_TEXT) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" does not hold text at %zu", key, i);
            return FALSE;
        }
        (*ret)[i] = g_strdup(text);
    }
    if (count == 0)
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is empty", key);
    return count > 0;
}

/* What was not known, or is not needed, when the record was written. */
static gboolean read_start(json_t *object, GuestRecord *record, GError **error)
{
    json_t *process = json_object_get(object, "process");

    record->supervisor = g_strdup(json_text_or(object, "supervisor", NULL));
    if (process) {
        record->process = process_identity_from_json(process, error);
        if (!record->process)
            return FALSE;
    }
    record->removes_images = json_flag_or(object, "removes_images", FALSE);
    return (!json_object_get(object, "cgroups") ||
            read_list(object, "cgroups", &record->cgroups, error)) &&
           (!json_object_get(object, "moved_images") ||
            read_list(object, "moved_images", &record->moved_images, error));
}

static gboolean read_path(json_t *object, const char *key, char **ret, GError **error)
{
    const char *path = json_text_or(object, key, NULL);

    if (path && (!g_path_is_absolute(path) || strlen(path) > RECORD_MAX_TEXT)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path", key);
        return FALSE;
    }
    *ret = g_strdup(path);
    return TRUE;
}

/* A socket, or a domain of libvirt's. */
static gboolean read_control(json_t *object, char **ret, GError **error)
{
    const char *text = json_text_or(object, "qmp_path", NULL);
    g_autofree char *uuid = NULL, *uri = NULL;

    if (!libvirt_address_is(text))
        return read_path(object, "qmp_path", ret, error);
    if (!libvirt_address_parse(text, &uuid, &uri, error))
        return FALSE;
    *ret = g_strdup(text);
    return TRUE;
}

static gboolean read_checkpoints(json_t *object, GuestRecord *record, GError **error)
{
    uint64_t ms = 0;

    if (json_object_get(object, "checkpoint_ms") &&
        !json_get_count(object, "checkpoint_ms", G_MAXINT32, &ms, error))
        return FALSE;
    record->checkpoint_ms = (guint)ms;
    return TRUE;
}

static gboolean read_lease(json_t *object, GuestRecord *record, GError **error)
{
    uint64_t ms = 0;

    if (json_object_get(object, "lease_ms") &&
        !json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &ms, error))
        return FALSE;
    record->lease_ms = (guint)ms;
    if (ms == 0 || (ms >= WITNESS_MIN_LEASE_MS && record->store))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"lease_ms\" without a witness");
    return FALSE;
}

/* All of it or nothing. */
static gboolean read_stale(json_t *object, GuestRecord *record, GError **error)
{
    record->stale_destination = g_strdup(json_text_or(object, "stale_destination", NULL));
    record->stale_agent = g_strdup(json_text_or(object, "stale_agent", NULL));
    record->stale_transaction = g_strdup(json_text_or(object, "stale_transaction", NULL));
    if (!record->stale_destination || (record->stale_agent && record->stale_transaction))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"stale_destination\" without its transaction");
    return FALSE;
}

static gboolean read_takeover(json_t *object, GuestRecord *record, GError **error)
{
    uint64_t pid = 0;

    record->taking_over = json_flag_or(object, "taking_over", FALSE);
    if (json_object_get(object, "other_pid") &&
        (!json_get_count(object, "other_pid", G_MAXINT32, &pid, error) ||
         !json_get_count(object, "other_start", G_MAXINT64, &record->other_start, error)))
        return FALSE;
    record->other_pid = (pid_t)pid;
    if (!read_path(object, "other_directory", &record->other_directory, error))
        return FALSE;
    if ((!record->taking_over && record->role != GUEST_TAKEOVER) || record->deltas)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "a takeover without \"deltas\"");
    return FALSE;
}

static gboolean read_move(json_t *object, GuestRecord *record, GError **error)
{
    gboolean left = record->role == GUEST_SWITCHING_OVER || record->role == GUEST_IN_DOUBT ||
                    record->role == GUEST_POSTCOPY_SOURCE;
    gboolean came = record->role == GUEST_INCOMING || record->role == GUEST_POSTCOPY;

    record->transaction = g_strdup(json_text_or(object, "transaction", NULL));
    record->destination = g_strdup(json_text_or(object, "destination", NULL));
    record->destination_agent = g_strdup(json_text_or(object, "destination_agent", NULL));
    if (record->transaction && !transaction_id_check(record->transaction, error))
        return FALSE;
    record->standby = json_flag_or(object, "standby", FALSE);
    if ((left && (!record->transaction || (!record->destination && !record->standby))) ||
        (came && !record->transaction)) {
        error_set(error, VMFERRY_ERROR_INVALID, "role \"%s\" without a transaction",
                  guest_role_name(record->role));
        return FALSE;
    }
    record->split = json_flag_or(object, "split", FALSE);
    if (json_is_object(json_object_get(object, "protection")))
        record->protection = json_incref(json_object_get(object, "protection"));
    if (json_is_object(json_object_get(object, "renewal")))
        record->renewal = json_incref(json_object_get(object, "renewal"));
    record->source_agent = g_strdup(json_text_or(object, "source_agent", NULL));
    record->untold = json_flag_or(object, "untold", FALSE);
    record->store = g_strdup(json_text_or(object, "store", NULL));
    record->store_agent = g_strdup(json_text_or(object, "store_agent", NULL));
    if (record->store && !record->store_agent) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"store\" without \"store_agent\"");
        return FALSE;
    }
    if (!read_path(object, "outstanding", &record->outstanding, error) ||
        !read_path(object, "deltas", &record->deltas, error) ||
        !read_path(object, "image", &record->image, error) ||
        !read_checkpoints(object, record, error) || !read_takeover(object, record, error) ||
        !read_lease(object, record, error) || !read_stale(object, record, error))
        return FALSE;
    if (record->role == GUEST_RESTORING && !record->deltas) {
        error_set(error, VMFERRY_ERROR_INVALID, "role \"restoring\" without \"deltas\"");
        return FALSE;
    }
    if (record->role == GUEST_POSTCOPY && !record->outstanding) {
        error_set(error, VMFERRY_ERROR_INVALID, "role \"postcopy\" without \"outstanding\"");
        return FALSE;
    }
    return TRUE;
}

GuestRecord *guest_record_from_json(json_t *object, GError **error)
{
    g_autoptr(GuestRecord) record = g_new0(GuestRecord, 1);
    const char *name, *boot_id;

    if (!json_get_text(object, "name", &name, error) || !guest_name_check(name, error) ||
        !json_get_text(object, "boot_id", &boot_id, error))
        return NULL;
    record->name = g_strdup(name);
    record->boot_id = g_strdup(boot_id);
    record->vmm_kind = g_strdup(json_text_or(object, "vmm_kind", NULL));
    if (!read_numbers(object, record, error) || !read_owner(object, record, error) ||
        !read_kinds(object, record, error) ||
        !read_path(object, "directory", &record->directory, error) ||
        !read_control(object, &record->qmp_path, error) ||
        !read_path(object, "log_path", &record->log_path, error) ||
        !read_path(object, "working_directory", &record->working_directory, error) ||
        !read_list(object, "command_line", &record->command_line, error) ||
        !read_start(object, record, error) || !read_move(object, record, error))
        return NULL;
    if (record->pid > 0 && !record->qmp_path) {
        error_set(error, VMFERRY_ERROR_INVALID, "a pid without \"qmp_path\"");
        return NULL;
    }
    if (record->standby && record->role == GUEST_POSTCOPY_SOURCE && !record->deltas) {
        error_set(error, VMFERRY_ERROR_INVALID, "a standby without \"deltas\"");
        return NULL;
    }
    if (record->pid == 0 && record->role != GUEST_STARTING && record->role != GUEST_INCOMING &&
        !record->standby) {
        error_set(error, VMFERRY_ERROR_INVALID, "role \"%s\" without a pid",
                  guest_role_name(record->role));
        return NULL;
    }
    return g_steal_pointer(&record);
}
