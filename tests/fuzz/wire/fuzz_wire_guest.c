/* GUEST messages: what is accepted is accepted again after encoding it. */
#include <stdlib.h>
#include <string.h>

#include "wire/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static gboolean same_process(const ProcessIdentity *a, const ProcessIdentity *b)
{
    g_autoptr(json_t) first = process_identity_to_json(a);
    g_autoptr(json_t) second = process_identity_to_json(b);
    g_autoptr(ProcessIdentity) copy = process_identity_copy(a);
    g_autoptr(json_t) third = process_identity_to_json(copy);

    return json_equal(first, second) && json_equal(first, third);
}

/* A command line, or a machine in the neutral form. */
static gboolean same_machine(const GuestMessage *a, const GuestMessage *b)
{
    g_autoptr(json_t) first = NULL, second = NULL;

    if (!a->neutral || !b->neutral)
        return a->neutral == b->neutral && g_strv_equal((const gchar *const *)a->command_line,
                                                        (const gchar *const *)b->command_line);
    first = machine_description_to_json(a->neutral);
    second = machine_description_to_json(b->neutral);
    return json_equal(first, second);
}

static gboolean is_same(const GuestMessage *a, const GuestMessage *b)
{
    return strcmp(a->transaction, b->transaction) == 0 && strcmp(a->guest, b->guest) == 0 &&
           strcmp(a->guest_id, b->guest_id) == 0 && a->term == b->term && same_machine(a, b) &&
           same_process(a->process, b->process) && a->memory_bytes == b->memory_bytes &&
           a->balloon_bytes == b->balloon_bytes && a->postcopy == b->postcopy &&
           a->region_count == b->region_count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GuestMessage) message = guest_message_decode((const char *)data, size, NULL);
    g_autoptr(GuestMessage) back = NULL;
    g_autofree char *text = NULL;

    if (!message)
        return 0;
    text = guest_message_encode(message);
    back = guest_message_decode(text, strlen(text), NULL);
    if (!back || !is_same(message, back))
        abort();
    return 0;
}
