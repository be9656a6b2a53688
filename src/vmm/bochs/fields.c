#include "vmm/bochs/fields.h"

static uint64_t mask_of(const BochsField *field)
{
    return field->bits ? (((uint64_t)1 << field->bits) - 1) : G_MAXUINT64 >> field->shift;
}

char *bochs_path(const char *under, const char *name)
{
    return *under ? g_strconcat(under, ".", name, NULL) : g_strdup(name);
}

void bochs_fields_write(const BochsField *table, const StateNode *group, BochsNode *wanted,
                        const char *under)
{
    for (const BochsField *field = table; field->neutral; field++) {
        g_autofree char *path = bochs_path(under, field->bochs);
        uint64_t number = state_number_or(group, field->neutral, 0);

        bochs_tree_set(wanted, path, field->kind, number >> field->shift & mask_of(field));
    }
}

/* The bits of all rows of one number come together; the first row begins it. */
static gboolean read_field(const BochsField *table, const BochsField *field, const BochsNode *shown,
                           const char *under, StateNode *group, GError **error)
{
    g_autofree char *path = bochs_path(under, field->bochs);
    uint64_t value, number = 0;

    if (!bochs_tree_get(shown, path, &value, error))
        return FALSE;
    for (const BochsField *before = table; before < field; before++)
        if (!before->derived && g_str_equal(before->neutral, field->neutral))
            number = state_number_or(group, field->neutral, 0);
    if (field->optional && value == 0 && !state_find(group, field->neutral))
        return TRUE;
    state_set_number(group, field->neutral, number | (value & mask_of(field)) << field->shift);
    return TRUE;
}

gboolean bochs_fields_read(const BochsField *table, const BochsNode *shown, const char *under,
                           StateNode *group, GError **error)
{
    for (const BochsField *field = table; field->neutral; field++)
        if (!field->derived && !read_field(table, field, shown, under, group, error))
            return FALSE;
    return TRUE;
}
