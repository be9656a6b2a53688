/*
 * Makes the table of src/vmm/bochs/cpu_models.c anew (as root, with a Bochs):
 *
 *     bochs-bin --help cpu 2>&1 | grep '^[a-z0-9_]*$' | xargs build/tests/unit/vmm/bochs_cpuid_tool FOLDER
 */
#include <stdio.h>

#include "bochs_cpuid.h"

int main(int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        uint32_t words[BOCHS_CPUID_WORDS];
        g_autoptr(GError) error = NULL;

        if (!bochs_cpuid_read(argv[1], argv[i], words, &error)) {
            fprintf(stderr, "%s: %s\n", argv[i], error->message);
            return 1;
        }
        printf("    {\"%s\",\n     {", argv[i]);
        for (guint j = 0; j < BOCHS_CPUID_WORDS; j++)
            printf("%s0x%08x",
                   j == 0                       ? ""
                   : j == BOCHS_CPUID_WORDS / 2 ? ",\n      "
                                                : ", ",
                   words[j]);
        printf("}},\n");
    }
    return 0;
}
