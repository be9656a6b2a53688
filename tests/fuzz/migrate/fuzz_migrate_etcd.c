/* What etcd answers to a transaction of two keys: read ("0") or written ("1"), by the first byte. */
#include <stdlib.h>

#include "migrate/etcd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const EtcdEntry *entry)
{
    if (!entry->value != (entry->revision == 0) || entry->length > ETCD_MAX_VALUE_BYTES ||
        entry->revision > G_MAXINT64)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gboolean writes = size > 0 && data[0] % 2 == 1;
    const EtcdKey keys[] = {{.key = "s", .is_compared = TRUE, .is_written = writes, .value = "v"},
                            {.key = "l", .is_compared = TRUE}};
    g_auto(EtcdAnswer) answer = {0};

    if (size == 0 || !etcd_answer_decode((const char *)data + 1, size - 1, keys, 2, &answer, NULL))
        return 0;
    if (answer.cluster == 0 || answer.revision == 0 || (answer.written && !writes))
        abort();
    for (guint i = 0; i < ETCD_MAX_KEYS; i++)
        check_entry(&answer.entries[i]);
    return 0;
}
