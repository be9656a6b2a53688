/*
 * Descriptions of machines from a peer
 *
 * Whatever is read is written, and read again, the same.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "state/machine_description.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_kept(const MachineDescription *machine)
{
    g_autoptr(json_t) first = machine_description_to_json(machine);
    g_autoptr(MachineDescription) again = machine_description_from_json(first, NULL);
    g_autoptr(MachineDescription) copy = again ? machine_description_copy(again) : NULL;
    g_autoptr(json_t) second = copy ? machine_description_to_json(copy) : NULL;

    if (!second || !json_equal(first, second))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) json = json_parse_object((const char *)data, size, 1u << 20, NULL);
    g_autoptr(MachineDescription) machine =
        json ? machine_description_from_json(json, &error) : NULL;

    if (machine)
        expect_kept(machine);
    else if (json && !error)
        abort();
    return 0;
}
