/* A record ("0") and a lease ("1") as they are read from etcd: what is understood is written the same. */
#include <stdlib.h>
#include <string.h>

#include "migrate/witness_record.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_record(const char *text, size_t length)
{
    g_auto(WitnessRecord) record = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!witness_record_decode(text, length, TRANSACTION, &record, NULL))
        return;
    again = witness_record_encode(&record, TRANSACTION, record.state);
    if (!again || !witness_record_decode(again, strlen(again), TRANSACTION, &back, NULL) ||
        back.state != record.state || back.term != record.term ||
        back.lease_ms != record.lease_ms || back.lease_ms > WITNESS_MAX_LEASE_MS ||
        strcmp(back.parties[WITNESS_ROLE_SOURCE], record.parties[WITNESS_ROLE_SOURCE]) != 0 ||
        strcmp(back.destination_name, record.destination_name) != 0)
        abort();
}

static void try_lease(const char *text, size_t length)
{
    guint ms = 0;

    if (witness_lease_decode(text, length, &ms, NULL) && (ms == 0 || ms > WITNESS_MAX_LEASE_MS))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] % 2 == 0)
        try_record((const char *)data + 1, size - 1);
    else if (size > 0)
        try_lease((const char *)data + 1, size - 1);
    return 0;
}
