/* For tests on a real Bochs. */
#pragma once

#include <glib.h>
#include <stdio.h>
#include <unistd.h>

#define SKIP_ALL 77 /* exit code, as Meson has it */

/* FALSE where there is none, or where it cannot be put into a network namespace. */
static inline gboolean real_bochs_is_there(void)
{
    g_autofree char *program = g_find_program_in_path("bochs-bin");

    if (program && geteuid() == 0)
        return TRUE;
    fprintf(stderr, "skipped: %s\n", program ? "needs root" : "there is no bochs-bin");
    return FALSE;
}
