/*
 * What a guest needed at this time of the day, for the store
 *
 * Theory of operation: pure.  The policy's histories (policy/cluster.h) of one guest become a JSON object and come
 * back from one; what comes back is a stranger's word, each figure is checked, and an hour that makes no sense is one
 * of which nothing is known.
 *
 *     {"cpu": {"hour": 497222, "hours": [null, [360, 0.41, 0.9], …]}, "network": {…}}
 *
 * An hour is [readings, mean, high], the first one of 24 is that from 0:00 UTC on, so that it does not matter which clock
 * was running: the model's (model.h) tells the time since 1970.
 */
#pragma once

#include "base/json.h"
#include "policy/cluster.h"

typedef struct {
    ClusterHistory cpu, network; /* of what it would use, and of its network */
} Daily;

/* Free with json_decref(). */
json_t *daily_to_json(const Daily *daily);

/* FALSE: nothing in it can be used; *ret* is empty then. */
gboolean daily_from_json(json_t *object, Daily *ret);
