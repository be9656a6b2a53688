/*
 * What a Bochs shows, and states for it
 *
 * An input with an even first byte changes what a Bochs shows, one with an odd one the state that it is to have.  Whatever that
 * is, it is refused with a reason, or translated; and what is translated for a Bochs is told as possible beforehand.
 */
#include <stdint.h>
#include <stdlib.h>

#include "../state/fuzz_state_changes.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/parameters.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IPS 50000000u

static BochsForm *shown;
static GPtrArray *parameters; /* of BochsNode: numbers */
static StateNode *state;
static Changes changes;

static char *read_recorded(const char *name)
{
    g_autofree char *path = g_build_filename(RECORDED, name, NULL);
    char *text = file_read(path, 1u << 20, NULL, NULL);

    if (!text)
        abort();
    return text;
}

static void collect_parameters(BochsNode *node)
{
    for (guint i = 0; node->children && i < node->children->len; i++)
        collect_parameters(node->children->pdata[i]);
    if (node->kind != BOCHS_NODE_LIST)
        g_ptr_array_add(parameters, node);
}

static void prepare_shown(void)
{
    shown = bochs_form_new(IPS);
    parameters = g_ptr_array_new();
    for (const char *const *name = bochs_form_devices(); *name; name++) {
        g_autofree char *text = read_recorded(*name);
        BochsNode *device = bochs_show_parse(text, *name, NULL);

        if (!device)
            abort();
        bochs_form_add(shown, device);
        collect_parameters(device);
    }
}

/* What is not shown, as the state has it. */
static void prepare_bytes(void)
{
    const uint64_t reference[2] = {0, 0};
    g_autoptr(BochsForm) wanted = bochs_form_from_state(state, shown, NULL);

    if (!wanted)
        abort();
    for (guint i = 0; i < wanted->bytes->len; i++) {
        const BochsBytes *bytes = wanted->bytes->pdata[i];
        g_auto(GStrv) names = g_strsplit(bytes->name, ".", 2);

        bochs_form_add_bytes(shown, names[0], names[1], g_bytes_get_data(bytes->bytes, NULL),
                             g_bytes_get_size(bytes->bytes));
    }
    bochs_form_add_bytes(shown, "hpet", "reference", reference, sizeof reference);
}

static void prepare(void)
{
    g_autofree char *text = read_recorded("state.json");
    json_t *json = json_loads(text, 0, NULL);

    prepare_shown();
    state = state_from_json(json, NULL);
    json_decref(json);
    if (!state)
        abort();
    state_set_number(state, "clock.tsc_hz", IPS);
    prepare_bytes();
    changes.leaves = g_ptr_array_new();
    collect_leaves(state, changes.leaves);
}

static void try_state(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsForm) wanted = NULL;

    apply_changes(&changes, data, size);
    if (state_check(state, NULL)) {
        wanted = bochs_form_from_state(state, shown, &error);
        if (!wanted && !error)
            abort();
        if (wanted && !bochs_check_state(state, NULL))
            abort();
    }
    undo_changes(&changes);
}

static void try_shown(const uint8_t *data, size_t size)
{
    ByteReader reader = byte_reader_make(data, size);
    g_autoptr(GError) error = NULL;
    g_autoptr(StateNode) told = NULL;
    struct {
        BochsNode *node;
        uint64_t number;
    } before[CHANGES_MAX];
    guint count = 0;

    while (reader.left >= 11 && count < CHANGES_MAX) {
        guint which = byte_read_le16(&reader);
        uint8_t how = byte_read_u8(&reader);
        uint64_t value = byte_read_le64(&reader);
        BochsNode *node = parameters->pdata[which % parameters->len];

        before[count].node = node;
        before[count++].number = node->number;
        node->number = how & 2 ? value : node->number ^ (uint64_t)1 << (value & 63);
    }
    told = bochs_form_to_state(shown, state, &error);
    if (!told && !error)
        abort();
    while (count-- > 0)
        before[count].node->number = before[count].number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!state)
        prepare();
    if (size > 0 && data[0] % 2 == 0)
        try_shown(data + 1, size - 1);
    else if (size > 0)
        try_state(data + 1, size - 1);
    return 0;
}
