#include "settings.h"

#include <stdlib.h>
#include <string.h>

#include "disk.h"

#define MAX_DISK_RATE 10000u
#define MAX_WAKEUPS 100000u
#define MAX_CALLS 16u

const char *const pattern_names[] = {"idle", "sparse", "dense", "intensive", "text",
                                     "zero", "mixed",  "read",  "touch"};
_Static_assert(sizeof(pattern_names) / sizeof(*pattern_names) == PATTERN_COUNT, "names");

bool settings_set(Settings *settings, const char *key, const char *value, uint64_t pages)
{
    if (!strcmp(key, "pattern")) {
        for (int i = 0; i < PATTERN_COUNT; i++) {
            if (!strcmp(value, pattern_names[i])) {
                settings->pattern = i;
                return true;
            }
        }
        return false;
    }
    uint64_t number = strtoull(value, NULL, 10);

    if (!strcmp(key, "order")) {
        settings->sequential = !strcmp(value, "sequential");
        return settings->sequential || !strcmp(value, "random");
    }
    if (!strcmp(key, "pps"))
        settings->pps = number;
    else if (!strcmp(key, "span"))
        settings->span = number && number << 8 < pages ? number << 8 : pages;
    else if (!strcmp(key, "check"))
        settings->check = number;
    else if (!strcmp(key, "disk-rate"))
        settings->disk_rate = number > MAX_DISK_RATE ? MAX_DISK_RATE : number;
    else if (!strcmp(key, "disk-batch"))
        settings->disk_batch = number > DISK_MAX_BATCH ? DISK_MAX_BATCH : number;
    else if (!strcmp(key, "disk-buffered"))
        settings->disk_buffered = number != 0;
    else if (!strcmp(key, "readers"))
        settings->readers = number;
    else if (!strcmp(key, "cpus"))
        settings->cpus = number != 0;
    else if (!strcmp(key, "wakeups"))
        settings->wakeups = number > MAX_WAKEUPS ? MAX_WAKEUPS : number;
    else if (!strcmp(key, "calls"))
        settings->calls = number > MAX_CALLS ? MAX_CALLS : number;
    else if (!strcmp(key, "disk") && strlen(value) < sizeof(settings->disk))
        strcpy(settings->disk, value);
    else
        return false;
    return true;
}
