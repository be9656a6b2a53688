#include "vmm/qemu/qmp_line.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"

struct QmpLines {
    size_t max_line;
    GString *bytes;  /* not yet taken */
    size_t searched; /* this many of them hold no newline */
};

QmpLines *qmp_lines_new(size_t max_line)
{
    QmpLines *lines = g_new0(QmpLines, 1);

    lines->max_line = max_line;
    lines->bytes = g_string_new(NULL);
    return lines;
}

void qmp_lines_free(QmpLines *lines)
{
    if (!lines)
        return;
    g_string_free(lines->bytes, TRUE);
    g_free(lines);
}

gboolean qmp_lines_add(QmpLines *lines, const char *data, size_t length, GError **error)
{
    const char *last = memrchr(data, '\n', length);
    size_t open_line = last ? (size_t)(data + length - last - 1) : lines->bytes->len + length;

    if (open_line > lines->max_line) {
        error_set(error, VMFERRY_ERROR_INVALID, "QMP: line of more than %zu bytes",
                  lines->max_line);
        return FALSE;
    }
    g_string_append_len(lines->bytes, data, (gssize)length);
    return TRUE;
}

/* The end of a number that starts at *from*; *ret_too_big*: an integer that does
 * not fit in 63 bits. */
static size_t scan_number(const char *text, size_t from, size_t length, gboolean *ret_too_big)
{
    static const char largest[] = "9223372036854775807";
    size_t at = from;

    while (at < length && g_ascii_isdigit(text[at]))
        at++;
    *ret_too_big =
        at - from > strlen(largest) ||
        (at - from == strlen(largest) && strncmp(text + from, largest, strlen(largest)) > 0);
    if (at < length && strchr(".eE", text[at]))
        *ret_too_big = FALSE;
    while (at < length && (g_ascii_isalnum(text[at]) || strchr(".+-", text[at])))
        at++;
    return at;
}

/* QEMU tells unsigned numbers of 64 bits ("default-value": 18446744073709551615);
 * jansson has signed ones and takes larger ones for nonsense.  They become
 * reals, which are equal where the numbers are. */
static char *tame_numbers(const char *text, size_t length, size_t *ret_length)
{
    GString *tame = g_string_sized_new(length + 64);
    gboolean in_string = FALSE;

    for (size_t at = 0; at < length;) {
        if (!in_string && g_ascii_isdigit(text[at])) {
            gboolean too_big;
            size_t end = scan_number(text, at, length, &too_big);

            g_string_append_len(tame, text + at, (gssize)(end - at));
            if (too_big)
                g_string_append(tame, "e0");
            at = end;
            continue;
        }
        if (text[at] == '"')
            in_string = !in_string;
        else if (in_string && text[at] == '\\' && at + 1 < length)
            g_string_append_c(tame, text[at++]);
        g_string_append_c(tame, text[at++]);
    }
    *ret_length = tame->len;
    return g_string_free(tame, FALSE);
}

static json_t *parse_line(const char *text, size_t length, size_t limit, GError **error)
{
    g_autoptr(GError) problem = NULL;
    json_t *message = json_parse_object(text, length, limit, &problem);
    g_autofree char *tame = NULL;

    if (message)
        return message;
    if (strstr(problem->message, "too big integer"))
        tame = tame_numbers(text, length, &length);
    if (tame)
        return json_parse_object(tame, length, limit + length, error);
    g_propagate_error(error, g_steal_pointer(&problem));
    return NULL;
}

gboolean qmp_lines_next(QmpLines *lines, json_t **ret_message, GError **error)
{
    GString *bytes = lines->bytes;

    *ret_message = NULL;
    for (;;) {
        char *end = memchr(bytes->str + lines->searched, '\n', bytes->len - lines->searched);
        size_t length;

        if (!end) {
            lines->searched = bytes->len;
            return TRUE;
        }
        length = (size_t)(end - bytes->str);
        if (length > 0 && !(length == 1 && bytes->str[0] == '\r'))
            *ret_message = parse_line(bytes->str, length, lines->max_line, error);
        else
            length = 0;
        lines->searched = 0;
        g_string_erase(bytes, 0, end - bytes->str + 1);
        if (*ret_message)
            return TRUE;
        if (length > 0) {
            g_prefix_error(error, "QMP: ");
            return FALSE;
        }
    }
}

void qmp_set_reply_error(json_t *reply, GError **error)
{
    json_t *details = json_object_get(reply, "error");
    const char *class = json_text_or(details, "class", "GenericError");
    const char *text = json_text_or(details, "desc", "failed without a reason");
    VmferryErrorCode code = VMFERRY_ERROR_FAILED;

    if (strcmp(class, "CommandNotFound") == 0)
        code = VMFERRY_ERROR_UNSUPPORTED;
    else if (strcmp(class, "DeviceNotFound") == 0 || strcmp(class, "DeviceNotActive") == 0)
        code = VMFERRY_ERROR_NOT_FOUND;
    error_set(error, code, "QEMU says: %s", text);
}
