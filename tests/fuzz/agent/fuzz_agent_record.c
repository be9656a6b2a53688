/* Records of guests: what is taken must come back the same. */
#include <stdlib.h>
#include <string.h>

#include "agent/record.h"
#include "agent/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static GuestRecord *parse(const char *text, size_t length)
{
    g_autoptr(json_t) object = json_parse_object(text, length, STORE_RECORD_LIMIT, NULL);

    return object ? guest_record_from_json(object, NULL) : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GuestRecord) record = parse((const char *)data, size);
    g_autoptr(GuestRecord) copy = record ? guest_record_copy(record) : NULL;
    g_autoptr(GuestRecord) again = NULL;
    g_autoptr(json_t) object = NULL;

    if (!record)
        return 0;
    object = guest_record_to_json(copy);
    again = guest_record_from_json(object, NULL);
    if (!again || strcmp(again->name, record->name) != 0 || again->role != record->role ||
        again->pid != record->pid || again->term != record->term ||
        strcmp(again->id, record->id) != 0 ||
        g_strv_length(again->command_line) != g_strv_length(record->command_line))
        abort();
    return 0;
}
