/* Prints the tables of docs/state-format.md. */
#include <stdio.h>

#include "state/schema.h"

int main(void)
{
    g_autofree char *text = state_schema_document();

    fputs(text, stdout);
    return 0;
}
