/*
 * The command line of a Bochs guest, from a peer or a user
 *
 * Input: a word a line.  Whatever is taken is written, and taken again, the same; and each line of the
 * configuration file that is made of it is what it seems.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/bochs/command_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_kept(const BochsCommandLine *line)
{
    g_auto(GStrv) words = bochs_command_line_format(line->program, &line->machine);
    g_autoptr(BochsCommandLine) again = bochs_command_line_parse(words, NULL);
    g_auto(GStrv) same = again ? bochs_command_line_format(again->program, &again->machine) : NULL;
    g_autofree char *file = bochs_machine_format(&line->machine, "log");

    if (!same || !g_strv_equal((const char *const *)words, (const char *const *)same))
        abort();
    if (strstr(file, "\ndisplay_library: rfb, options=\"timeout=0\"\n") !=
        strstr(file, "\ndisplay_library"))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) words = g_strsplit(text, "\n", 100);
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsCommandLine) line = bochs_command_line_parse(words, &error);

    if (line)
        expect_kept(line);
    else if (!error)
        abort();
    return 0;
}
