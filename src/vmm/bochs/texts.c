#include "vmm/bochs/texts.h"

#include <string.h>

#include "base/page.h"

#define MAX_LINE 300u

static const char end_heading[] = "Bochs is exiting with the following message:\n";

gboolean bochs_text_find_vector(const char *log, uint64_t *ret)
{
    static const char mark[] = " after alignment, vector=0x";
    const char *at = strstr(log, mark);
    char *end;

    if (!at)
        return FALSE;
    at += strlen(mark);
    *ret = g_ascii_strtoull(at, &end, 16);
    return end > at && end - at <= 16 && (*end == '\n' || *end == '\0') && *ret != 0 &&
           *ret % PAGE_BYTES == 0;
}

/* Printable, without blanks around it. */
static char *clean_line(const char *line, size_t length)
{
    g_autofree char *cut = g_strndup(line, MIN(length, MAX_LINE));
    char *clean = g_utf8_make_valid(cut, -1);

    for (char *at = clean; *at; at++)
        if (g_ascii_iscntrl(*at))
            *at = ' ';
    return g_strstrip(clean);
}

char *bochs_text_pick_end(const char *text)
{
    const char *heading = NULL;

    for (const char *at = text; (at = strstr(at, end_heading)); at += strlen(end_heading))
        heading = at;
    if (!heading)
        return NULL;
    heading += strlen(end_heading);
    return clean_line(heading, strcspn(heading, "\n"));
}

char *bochs_text_pick_version(const char *banner)
{
    static const char mark[] = "Bochs x86 Emulator ";
    const char *at = banner ? strstr(banner, mark) : NULL;

    if (!at)
        return g_strdup("unknown");
    at += strlen(mark);
    return g_strndup(at, MIN(strspn(at, "0123456789."), 16));
}
