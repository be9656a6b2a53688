/* Answers of agents, for tests. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

#include "engine/model.h"

typedef struct {
    const char *name;
    double cpu, wait;
    int memory_mb;
    int term;
} TestGuest;

/* What an agent would answer to GET /v1/load; *guests* end with one without a name.  Change it, then load_parse(). */
json_t *test_load(const char *host, double time_ms, double cpus, double cpu_used,
                  const TestGuest *guests);

/* The same, taken by the model. */
void test_look(Model *model, guint host, double time_ms, double cpus, double cpu_used,
               const TestGuest *guests);

/* The error is set, and its text holds *words*; frees it. */
void expect_error(GError *error, const char *words);

/* A view of nothing but the model. */
EngineView *test_view(Model *model, const GPtrArray *rules, double now_ms);
