/*
 * GUEST: what is to be moved
 *
 * A destination starts a program by this message, so every field is checked
 * here; whether this guest may come is decided where it is launched.
 */
#include <string.h>

#include "base/error.h"
#include "state/tree.h"
#include "wire/json_fields.h"
#include "wire/messages.h"
#include "wire/witness_message.h"

#define MAX_BYTES (4u << 20)
#define MAX_GUEST_BYTES 128
#define MAX_WORD_BYTES 128
#define MAX_PATH_BYTES 4095
#define MAX_VCPUS 4096

void guest_message_free(GuestMessage *message)
{
    if (!message)
        return;
    wire_regions_free(message->regions, message->region_count);
    g_free(message->transaction);
    g_free(message->guest);
    g_free(message->guest_id);
    g_free(message->vmm_kind);
    g_free(message->vmm_version);
    g_free(message->machine);
    g_free(message->accelerator);
    g_strfreev(message->command_line);
    g_free(message->working_directory);
    g_free(message->store);
    g_free(message->store_agent);
    json_decref(message->live);
    machine_description_free(message->neutral);
    process_identity_free(message->process);
    g_free(message);
}

/* ---- encoding ---- */

static json_t *encode_neutral(const MachineDescription *machine)
{
    return json_pack("{s:s, s:i, s:o}", "form", STATE_FORMAT, "version", STATE_VERSION, "machine",
                     machine_description_to_json(machine));
}

char *guest_message_encode(const GuestMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(message->transaction));
    json_object_set_new(object, "guest", json_field_make_text(message->guest));
    json_object_set_new(object, "guest_id", json_field_make_text(message->guest_id));
    json_object_set_new(object, "term", json_integer((json_int_t)message->term));
    json_object_set_new(object, "vmm_kind", json_field_make_text(message->vmm_kind));
    json_object_set_new(object, "vmm_version", json_field_make_text(message->vmm_version));
    json_object_set_new(object, "machine", json_field_make_text(message->machine));
    json_object_set_new(object, "accelerator", json_field_make_text(message->accelerator));
    if (message->neutral)
        json_object_set_new(object, "neutral", encode_neutral(message->neutral));
    else
        json_object_set_new(object, "command_line", json_field_make_texts(message->command_line));
    if (message->working_directory)
        json_object_set_new(object, "working_directory",
                            json_field_make_text(message->working_directory));
    if (message->process)
        json_object_set_new(object, "process", process_identity_to_json(message->process));
    if (message->live)
        json_object_set(object, "live", message->live);
    json_object_set_new(object, "vcpus", json_integer(message->vcpus));
    json_object_set_new(object, "memory_bytes", json_integer((json_int_t)message->memory_bytes));
    json_object_set_new(object, "verify", json_boolean(message->verify));
    if (message->postcopy)
        json_object_set_new(object, "postcopy", json_true());
    if (message->checkpoint_ms > 0)
        json_object_set_new(object, "checkpoint_ms", json_integer(message->checkpoint_ms));
    if (message->balloon_bytes > 0)
        json_object_set_new(object, "balloon_bytes",
                            json_integer((json_int_t)message->balloon_bytes));
    if (message->store) {
        json_object_set_new(object, "store", json_field_make_text(message->store));
        json_object_set_new(object, "store_agent", json_field_make_text(message->store_agent));
    }
    if (message->lease_ms > 0)
        json_object_set_new(object, "lease_ms", json_integer(message->lease_ms));
    if (message->retry_for_ms > 0)
        json_object_set_new(object, "retry_for_ms", json_integer(message->retry_for_ms));
    json_object_set_new(object, "regions",
                        wire_regions_encode(message->regions, message->region_count));
    return json_field_finish(object);
}

/* ---- decoding ---- */

static gboolean check_guest_name(const char *name, GError **error)
{
    /* It becomes part of file names. */
    if (name[0] != '.' && name[0] != '-' && !strchr(name, '/'))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"guest\" is \"%s\", which is not a valid guest name",
              name);
    return FALSE;
}

static gboolean decode_owner(json_t *object, GuestMessage *message, GError **error)
{
    return json_field_id(object, "guest_id", &message->guest_id, error) &&
           json_field_term(object, &message->term, error);
}

static gboolean decode_texts(json_t *object, GuestMessage *message, GError **error)
{
    return json_field_id(object, "transaction", &message->transaction, error) &&
           json_field_text(object, "guest", MAX_GUEST_BYTES, TRUE, &message->guest, error) &&
           check_guest_name(message->guest, error) &&
           json_field_text(object, "vmm_kind", MAX_WORD_BYTES, TRUE, &message->vmm_kind, error) &&
           json_field_text(object, "vmm_version", MAX_WORD_BYTES, FALSE, &message->vmm_version,
                           error) &&
           json_field_text(object, "machine", MAX_WORD_BYTES, FALSE, &message->machine, error) &&
           json_field_text(object, "accelerator", MAX_WORD_BYTES, FALSE, &message->accelerator,
                           error);
}

static gboolean decode_command_line(json_t *object, GuestMessage *message, GError **error)
{
    if (!json_field_texts(object, "command_line", MESSAGE_MAX_ARGUMENTS, MESSAGE_MAX_ARGUMENT_BYTES,
                          &message->command_line, error))
        return FALSE;
    if (message->command_line[0] && *message->command_line[0])
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"command_line\" names no program");
    return FALSE;
}

static gboolean decode_working_directory(json_t *object, GuestMessage *message, GError **error)
{
    if (!json_object_get(object, "working_directory"))
        return TRUE;
    if (!json_field_text(object, "working_directory", MAX_PATH_BYTES, FALSE,
                         &message->working_directory, error))
        return FALSE;
    if (g_path_is_absolute(message->working_directory))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"working_directory\" is not an absolute path");
    return FALSE;
}

/* What is in it is for the VMM's driver to read. */
static gboolean decode_live(json_t *object, GuestMessage *message, GError **error)
{
    json_t *live = json_object_get(object, "live");

    if (json_is_object(live)) {
        message->live = json_incref(live);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"live\" is missing or not an object");
    return FALSE;
}

static gboolean decode_own_form(json_t *object, GuestMessage *message, GError **error)
{
    return decode_command_line(object, message, error) && decode_live(object, message, error);
}

/* A guest in another form, or of a later version, is refused before anything of it is looked at. */
static gboolean decode_neutral(json_t *object, GuestMessage *message, GError **error)
{
    json_t *neutral = json_object_get(object, "neutral");
    const char *form = json_text_or(neutral, "form", "");
    uint64_t version;

    if (!json_get_count(neutral, "version", G_MAXUINT32, &version, error))
        return FALSE;
    if (strcmp(form, STATE_FORMAT) != 0 || version != STATE_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest's state comes as \"%.64s\", version %" G_GUINT64_FORMAT
                  "; known here is \"%s\", version %u",
                  form, version, STATE_FORMAT, STATE_VERSION);
        return FALSE;
    }
    message->neutral = machine_description_from_json(json_object_get(neutral, "machine"), error);
    return message->neutral != NULL;
}

static gboolean decode_form(json_t *object, GuestMessage *message, GError **error)
{
    return (json_object_get(object, "neutral") ? decode_neutral : decode_own_form)(object, message,
                                                                                   error);
}

static gboolean decode_process(json_t *object, GuestMessage *message, GError **error)
{
    message->process = process_identity_from_json(json_object_get(object, "process"), error);
    return message->process != NULL;
}

static gboolean decode_numbers(json_t *object, GuestMessage *message, GError **error)
{
    uint64_t vcpus;

    if (!json_get_count(object, "vcpus", MAX_VCPUS, &vcpus, error) ||
        !json_get_count(object, "memory_bytes", MESSAGE_MAX_MEMORY_BYTES, &message->memory_bytes,
                        error))
        return FALSE;
    if (vcpus == 0 || message->memory_bytes == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "a guest without CPU or memory");
        return FALSE;
    }
    message->vcpus = (guint)vcpus;
    if (!json_is_boolean(json_object_get(object, "verify"))) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"verify\" is missing or neither true nor false");
        return FALSE;
    }
    message->verify = json_is_true(json_object_get(object, "verify"));
    return TRUE;
}

/* 0 where it is missing. */
static gboolean decode_checkpoint(json_t *object, GuestMessage *message, GError **error)
{
    uint64_t ms = 0;

    if (!json_object_get(object, "checkpoint_ms"))
        return TRUE;
    if (!json_get_count(object, "checkpoint_ms", GUEST_MESSAGE_MAX_CHECKPOINT_MS, &ms, error))
        return FALSE;
    message->checkpoint_ms = (guint)ms;
    return TRUE;
}

/* Older agents do not name it. */
static gboolean decode_postcopy(json_t *object, GuestMessage *message, GError **error)
{
    json_t *postcopy = json_object_get(object, "postcopy");

    if (postcopy && !json_is_boolean(postcopy)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"postcopy\" is neither true nor false");
        return FALSE;
    }
    message->postcopy = json_is_true(postcopy);
    if (message->postcopy && message->neutral) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"postcopy\" of a guest in the neutral form");
        return FALSE;
    }
    return decode_checkpoint(object, message, error);
}

static gboolean decode_balloon(json_t *object, GuestMessage *message, GError **error)
{
    if (!json_object_get(object, "balloon_bytes"))
        return TRUE;
    if (!json_get_count(object, "balloon_bytes", MESSAGE_MAX_MEMORY_BYTES, &message->balloon_bytes,
                        error))
        return FALSE;
    if (message->balloon_bytes > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"balloon_bytes\" leaves the guest nothing");
    return FALSE;
}

/* Both, or none: the pages of a guest that may be split are kept elsewhere, too. */
static gboolean decode_store(json_t *object, GuestMessage *message, GError **error)
{
    if (!json_object_get(object, "store"))
        return TRUE;
    return json_field_text(object, "store", MESSAGE_MAX_ADDRESS_BYTES, TRUE, &message->store,
                           error) &&
           json_field_id(object, "store_agent", &message->store_agent, error);
}

/* The store is a witness, too: only for a guest whose epochs come back. */
static gboolean decode_lease(json_t *object, GuestMessage *message, GError **error)
{
    uint64_t ms = 0;

    if (!json_object_get(object, "lease_ms"))
        return TRUE;
    if (!json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &ms, error))
        return FALSE;
    message->lease_ms = (guint)ms;
    if (ms >= WITNESS_MIN_LEASE_MS && message->store && message->checkpoint_ms > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"lease_ms\" of a guest without a witness");
    return FALSE;
}

GuestMessage *guest_message_decode(const char *text, size_t length, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_autoptr(GuestMessage) message = g_new0(GuestMessage, 1);

    if (object && decode_texts(object, message, error) && decode_owner(object, message, error) &&
        decode_form(object, message, error) && decode_working_directory(object, message, error) &&
        decode_process(object, message, error) && decode_numbers(object, message, error) &&
        decode_postcopy(object, message, error) && decode_balloon(object, message, error) &&
        decode_store(object, message, error) && decode_lease(object, message, error) &&
        json_field_retry(object, &message->retry_for_ms, error) &&
        wire_regions_decode(object, &message->regions, &message->region_count, error))
        return g_steal_pointer(&message);
    g_prefix_error(error, "GUEST: ");
    return NULL;
}

gboolean guest_message_check_own_form(const GuestMessage *message, GError **error)
{
    if (!message->neutral)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "GUEST: a guest in the neutral form is only moved");
    return FALSE;
}
