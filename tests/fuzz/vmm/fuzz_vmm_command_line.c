/*
 * Command lines; words end with a newline
 *
 * What is cleaned stays clean, and our own additions always come off again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/qemu/command_line.h"
#include "vmm/qemu/stderr_tail.h"
#include "vmm/qemu/qmp_endpoints.h"
#include "vmm/qemu/start_options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static gboolean same(char **a, char **b)
{
    return g_strv_equal((const gchar *const *)a, (const gchar *const *)b);
}

/* An option at the end that lacks its value would take the first added word
 * for it; QEMU would not start such a line at all. */
static gboolean is_cut(char **argv)
{
    guint count = g_strv_length(argv);

    return count > 1 && argv[count - 1][0] == '-';
}

static void check_cleaning(char **argv)
{
    g_auto(GStrv) clean = qemu_command_line_clean(argv);
    g_auto(GStrv) incoming = qemu_command_line_for_incoming(clean, NULL, "/run/a,b");
    g_auto(GStrv) back = qemu_command_line_clean(incoming);

    if (!is_cut(clean) && !same(clean, back))
        abort();
}

static void read_texts(const char *text, size_t size)
{
    g_autofree char *words = stderr_tail_pick(text, size);
    g_autofree char *copy = g_strndup(text, size);
    g_autofree char *writer = qemu_find_dma_writer(copy, copy);

    if (words && !g_utf8_validate(words, -1, NULL))
        abort();
    if (writer && !qemu_is_dma_writer(writer))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) argv = g_strsplit(text, "\n", 200);
    g_autoptr(GPtrArray) endpoints = qmp_endpoints_find(argv);
    g_auto(QemuStartOptions) options = {0};

    qemu_start_options_read(argv, &options);
    (void)qemu_command_line_memory(argv);
    (void)qemu_command_line_check_descriptors(argv, NULL);
    (void)qemu_command_line_check_writers(argv, NULL);
    if (endpoints->len > g_strv_length(argv))
        abort();
    if (argv[0])
        check_cleaning(argv);
    read_texts((const char *)data, size);
    return 0;
}
