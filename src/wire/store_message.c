/*
 * STORE: whose pages an agent is to keep; and RAM regions, which GUEST has, too
 */
#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES (1u << 20)
#define MAX_NAME_BYTES 255
#define MAX_GUEST_BYTES 128

/* ---- regions ---- */

void wire_regions_free(WireRegion *regions, guint count)
{
    for (guint i = 0; i < count; i++)
        g_free(regions[i].name);
    g_free(regions);
}

json_t *wire_regions_encode(const WireRegion *regions, guint count)
{
    json_t *array = json_array();

    for (guint i = 0; i < count; i++) {
        json_t *object = json_object();

        json_object_set_new(object, "name", json_field_make_text(regions[i].name));
        json_object_set_new(object, "bytes", json_integer((json_int_t)regions[i].bytes));
        json_array_append_new(array, object);
    }
    return array;
}

static gboolean decode_region(json_t *object, WireRegion *region, GError **error)
{
    if (!json_is_object(object)) {
        error_set(error, VMFERRY_ERROR_INVALID, "not an object");
        return FALSE;
    }
    if (!json_field_text(object, "name", MAX_NAME_BYTES, TRUE, &region->name, error) ||
        !json_get_count(object, "bytes", MESSAGE_MAX_MEMORY_BYTES, &region->bytes, error))
        return FALSE;
    if (region->bytes > 0 && region->bytes % PAGE_BYTES == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"bytes\" is not a number of whole pages");
    return FALSE;
}

/* The last one's name. */
static gboolean is_new_name(const WireRegion *regions, guint count, GError **error)
{
    for (guint i = 0; i + 1 < count; i++) {
        if (strcmp(regions[i].name, regions[count - 1].name) != 0)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "two regions with the name \"%s\"",
                  regions[i].name);
        return FALSE;
    }
    return TRUE;
}

gboolean wire_regions_decode(json_t *object, WireRegion **ret, guint *ret_count, GError **error)
{
    json_t *array;
    json_t *entry;
    size_t i;

    if (!json_get_array(object, "regions", MESSAGE_MAX_REGIONS, &array, error))
        return FALSE;
    *ret = g_new0(WireRegion, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        if (!decode_region(entry, &(*ret)[(*ret_count)++], error)) {
            g_prefix_error(error, "region %zu: ", i);
            return FALSE;
        }
        if (!is_new_name(*ret, *ret_count, error))
            return FALSE;
    }
    if (*ret_count > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"regions\" is empty");
    return FALSE;
}

/* ---- STORE ---- */

void store_message_free(StoreMessage *message)
{
    if (!message)
        return;
    wire_regions_free(message->regions, message->region_count);
    g_free(message->transaction);
    g_free(message->guest);
    g_free(message->guest_id);
    g_free(message->source);
    g_free(message->destination);
    g_free(message->destination_agent);
    g_free(message);
}

char *store_message_encode(const StoreMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(message->transaction));
    json_object_set_new(object, "guest", json_field_make_text(message->guest));
    json_object_set_new(object, "guest_id", json_field_make_text(message->guest_id));
    json_object_set_new(object, "term", json_integer((json_int_t)message->term));
    json_object_set_new(object, "source", json_field_make_text(message->source));
    json_object_set_new(object, "destination", json_field_make_text(message->destination));
    json_object_set_new(object, "destination_agent",
                        json_field_make_text(message->destination_agent));
    json_object_set_new(object, "bytes", json_integer((json_int_t)message->bytes));
    json_object_set_new(object, "regions",
                        wire_regions_encode(message->regions, message->region_count));
    return json_field_finish(object);
}

static gboolean decode_names(json_t *object, StoreMessage *message, GError **error)
{
    return json_field_id(object, "transaction", &message->transaction, error) &&
           json_field_text(object, "guest", MAX_GUEST_BYTES, TRUE, &message->guest, error) &&
           json_field_id(object, "guest_id", &message->guest_id, error) &&
           json_field_term(object, &message->term, error) &&
           json_field_text(object, "source", MAX_NAME_BYTES, FALSE, &message->source, error) &&
           json_field_text(object, "destination", MESSAGE_MAX_ADDRESS_BYTES, FALSE,
                           &message->destination, error) &&
           json_field_id(object, "destination_agent", &message->destination_agent, error);
}

/* So that sums of them fit; no page is kept twice. */
static gboolean check_total(const StoreMessage *message, GError **error)
{
    uint64_t total = 0;

    for (guint i = 0; i < message->region_count; i++)
        total += message->regions[i].bytes;
    if (total > MESSAGE_MAX_MEMORY_BYTES)
        error_set(error, VMFERRY_ERROR_INVALID, "more memory than any guest may have");
    else if (message->bytes > total)
        error_set(error, VMFERRY_ERROR_INVALID, "\"bytes\" is more than all regions have");
    else
        return TRUE;
    return FALSE;
}

StoreMessage *store_message_decode(const char *text, size_t length, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_autoptr(StoreMessage) message = g_new0(StoreMessage, 1);

    if (object && decode_names(object, message, error) &&
        json_get_count(object, "bytes", MESSAGE_MAX_MEMORY_BYTES, &message->bytes, error) &&
        wire_regions_decode(object, &message->regions, &message->region_count, error) &&
        check_total(message, error))
        return g_steal_pointer(&message);
    g_prefix_error(error, "STORE: ");
    return NULL;
}
