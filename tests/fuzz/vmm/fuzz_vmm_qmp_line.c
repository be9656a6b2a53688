/* QMP's bytes, in pieces: the same messages come out however they are cut. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/qemu/qmp_line.h"

#define MAX_LINE 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes what is whole; FALSE at the first line that is no message. */
static gboolean take_all(QmpLines *lines, guint *count)
{
    for (;;) {
        json_t *message;

        if (!qmp_lines_next(lines, &message, NULL))
            return FALSE;
        if (!message)
            return TRUE;
        if (json_object_get(message, "error")) {
            g_autoptr(GError) error = NULL;

            qmp_set_reply_error(message, &error);
            if (!error)
                abort();
        }
        (*count)++;
        json_decref(message);
    }
}

/* Counts the messages before the first error. */
static guint count_messages(const char *text, size_t length, size_t piece)
{
    g_autoptr(QmpLines) lines = qmp_lines_new(MAX_LINE);
    guint count = 0;

    for (size_t done = 0; done < length; done += piece)
        if (!qmp_lines_add(lines, text + done, MIN(piece, length - done), NULL) ||
            !take_all(lines, &count))
            break;
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;

    if (size > MAX_LINE)
        return 0;
    if (count_messages(text, size, 1) != count_messages(text, size, size ? size : 1))
        abort();
    return 0;
}
