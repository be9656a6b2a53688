/* What etcd answers to a transaction over many keys, and the moves' records in it. */
#include <stdlib.h>
#include <string.h>

#include "engine/etcd_keys.h"
#include "engine/move_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was read can be written and read again. */
static void check_record(const char *text)
{
    g_autoptr(json_t) object = json_parse_object(text, strlen(text), 1u << 20, NULL);
    g_autoptr(MoveRecord) record = object ? move_record_decode(object, NULL) : NULL;
    g_autoptr(MoveRecord) back = NULL;
    g_autoptr(json_t) encoded = NULL;
    g_autoptr(json_t) shown = NULL;

    if (!record)
        return;
    encoded = move_record_encode(record);
    shown = move_record_to_json(record);
    back = encoded ? move_record_decode(encoded, NULL) : NULL;
    if (!shown || !back || back->id != record->id || back->state != record->state)
        abort();
}

static void check_list(const EtcdFoundList *list)
{
    for (guint i = 0; i < list->entries->len; i++) {
        const EtcdFound *found = list->entries->pdata[i];

        if (!found->key || !found->value || found->made <= 0 || found->written <= 0 ||
            found->lease > G_MAXINT64 || strlen(found->key) > ETCD_KEYS_MAX_KEY_BYTES ||
            strlen(found->value) > ETCD_KEYS_MAX_VALUE_BYTES)
            abort();
        check_record(found->value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(json_t) answer = json_parse_object((const char *)data, size, 1u << 20, NULL);
    g_auto(EtcdOutcome) outcome = {0};

    if (!answer)
        return 0;
    if (etcd_outcome_read(answer, &outcome, NULL)) {
        if (outcome.revision <= 0)
            abort();
        for (guint i = 0; i < outcome.reads->len; i++)
            check_list(outcome.reads->pdata[i]);
    } else if (outcome.reads) {
        abort();
    }
    return 0;
}
