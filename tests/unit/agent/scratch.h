/* A folder for one test, and small helpers that stop the test on failure. */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

char *scratch_new(void);
void scratch_remove(char *folder);

/* Writes a file in the folder, making the folders on the way. */
void scratch_write(const char *folder, const char *name, const char *text);
gboolean scratch_exists(const char *folder, const char *name);

/* The error is set, its text holds *words*; frees it. */
void assert_error_says(GError *error, int code, const char *words);
