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
            *ret_message = json_parse_object(bytes->str, length, lines->max_line, error);
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
