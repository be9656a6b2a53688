#include "vmm/vmm_driver.h"

char *vmm_map_text(const char *text, const GPtrArray *rules)
{
    GString *mapped = g_string_new(text);

    for (guint i = 0; rules && i < rules->len; i++) {
        const VmmMapRule *rule = rules->pdata[i];

        if (rule->from[0])
            g_string_replace(mapped, rule->from, rule->to, 0);
    }
    return g_string_free(mapped, FALSE);
}
