#include "vmm/qemu/stderr_tail.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define TAIL_BYTES 16384
#define MAX_LINES 6
#define MAX_LINE_BYTES 500

/* QEMU's messages start with its program's name. */
static gboolean is_message(const char *line)
{
    const char *colon = strchr(line, ':');
    const char *name = strstr(line, "qemu");

    return colon && name && name < colon && !memchr(line, ' ', (size_t)(colon - line));
}

static char *clean_line(const char *line)
{
    g_autofree char *cut = g_strndup(line, MAX_LINE_BYTES);
    char *clean = g_utf8_make_valid(cut, -1);

    for (char *c = clean; *c; c++)
        if (g_ascii_iscntrl(*c))
            *c = ' ';
    return g_strstrip(clean);
}

/* The last *max* of the lines, only messages where so wanted. */
static char *join_last(char **lines, gboolean messages_only)
{
    g_autoptr(GPtrArray) picked = g_ptr_array_new_with_free_func(g_free);
    GString *joined = g_string_new(NULL);

    for (guint i = g_strv_length(lines); i > 0 && picked->len < MAX_LINES; i--) {
        char *line = clean_line(lines[i - 1]);

        if (*line && (!messages_only || is_message(line)))
            g_ptr_array_add(picked, line);
        else
            g_free(line);
    }
    for (guint i = picked->len; i > 0; i--)
        g_string_append_printf(joined, "%s%s", joined->len ? "; " : "",
                               (const char *)picked->pdata[i - 1]);
    return g_string_free(joined, joined->len == 0);
}

char *stderr_tail_pick(const char *tail, size_t length)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_auto(GStrv) lines = NULL;
    char *picked;

    /* NUL bytes would hide what follows. */
    for (size_t i = 0; i < length; i++)
        g_string_append_c(text, tail[i] ? tail[i] : ' ');
    lines = g_strsplit(text->str, "\n", -1);
    picked = join_last(lines, TRUE);
    return picked ? picked : join_last(lines, FALSE);
}

char *stderr_tail_read(const char *path)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    g_autofree char *tail = g_malloc(TAIL_BYTES);
    struct stat info;
    off_t from;
    ssize_t got;

    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
        return NULL;
    from = info.st_size > TAIL_BYTES ? info.st_size - TAIL_BYTES : 0;
    got = pread(fd, tail, TAIL_BYTES, from);
    return got > 0 ? stderr_tail_pick(tail, (size_t)got) : NULL;
}
