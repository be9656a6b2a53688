/* Scripts and command lines of shells, and what names a unit; words end with a newline. */
#include <stdlib.h>
#include <string.h>

#include "agent/shell_text.h"
#include "agent/systemd_unit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) argv = g_strsplit(text, "\n", 200);
    g_auto(SystemdUnit) unit = {0};
    const char *what;
    ShellKind kind = shell_kind(argv, &what);

    if (kind == SHELL_SCRIPT && !what)
        abort();
    if (systemd_unit_parse(text, &unit) && !g_str_has_suffix(unit.name, ".service"))
        abort();
    (void)shell_text_find_repeat(text, "run");
    return 0;
}
