#include "vmm/bochs/places.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/hpet_place.h"
#include "vmm/bochs/live.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/search.h"

#define MAX_WINDOW 256u    /* of what is compared */
#define SIGNATURE_BYTES 8u /* at most */
#define RANDOM_BYTES 16u
#define FILE_NAME "bytes"

/* How `restore` takes an array. */
typedef enum { BY_TEXT, BY_FILE } Form;

/* Begins with bytes that are known. */
typedef struct {
    const char *device, *path;
    guint length;
    guint signature_at;
    guint signature_bytes;
    uint8_t signature[SIGNATURE_BYTES];
    guint free_byte; /* one that may be anything, without effect */
    Form form;
    gboolean optional; /* of a device that not every machine has */
} Known;

#define CONFIG(name, b0, b1, b2, b3)                                                               \
    {                                                                                              \
        name, "pci_conf", 256, 0, 4, {b0, b1, b2, b3}, 0xff, BY_TEXT, FALSE                        \
    }
/* Ids are in the card's ROM as well: with command and status. */
#define CARD_CONFIG(name, path, b0, b1, b2, b3, command, status)                                   \
    {                                                                                              \
        name, path, 256, 0, 8, {b0, b1, b2, b3, command, 0, 0, status}, 0xff, BY_TEXT, TRUE        \
    }

/* Vendor and device ids; of the CMOS registers A to D as Bochs sets them; CTRL of the network card. */
static const Known known[] = {
    CONFIG("pci_bridge", 0x86, 0x80, 0x37, 0x12),
    CONFIG("pci2isa", 0x86, 0x80, 0x00, 0x70),
    CONFIG("pci_ide", 0x86, 0x80, 0x10, 0x70),
    CONFIG("acpi", 0x86, 0x80, 0x13, 0x71),
    {"cmos", "ram", 128, 10, 4, {0x26, 0x02, 0x00, 0x80}, 0x7f, BY_TEXT, FALSE},
    CARD_CONFIG("vga", "pci_conf", 0x34, 0x12, 0x11, 0x11, 3, 2),
    CARD_CONFIG("e1000", "0.pci_conf", 0x86, 0x80, 0x0e, 0x10, 3, 0),
    {"e1000", "0.mac_reg", 0x20000, 0, 8, {0x40, 0x02, 0x14, 0x00}, 0x0c, BY_FILE, TRUE},
};

/* Is empty. */
typedef struct {
    const char *device, *path;
    guint length;
    Form form;
    gboolean optional;
    guint marks; /* so many bytes before it are MARK while it is looked for; 0: nothing is known */
} Empty;

#define MARK 0x5au

static const Empty empty[] = {
    {"vga", "vgacore.CRTC.reg", 25, BY_TEXT, TRUE, 0},
    {"vga", "vgacore.attribute_ctrl.palette_reg", 16, BY_TEXT, TRUE, 0},
    {"vga", "vgacore.pel_data", 768, BY_FILE, TRUE, 3},
    {"e1000", "0.tx.header", 256, BY_TEXT, TRUE, 0},
    {"e1000", "0.tx_vlan_data", 65540, BY_FILE, TRUE, 0},
};

/* Before the palette, one after the other; the second and the fourth of five bytes count to 2. */
static const char *const palette_marks[] = {
    "vgacore.pel.write_data_register", "vgacore.pel.read_data_register", "vgacore.pel.dac_state"};

/* ---- both ---- */

/* TRUE where the machine has an array of that name; *ret_has FALSE: not. */
static gboolean ask_has(BochsProcess *process, const char *device, const char *path,
                        gboolean *ret_has, GError **error)
{
    g_autofree char *name = g_strconcat(device, ".", path, NULL);
    g_autoptr(GError) failure = NULL;
    g_autoptr(BochsNode) node = bochs_show(process->console, name, &failure);

    *ret_has = node != NULL;
    if (node || error_is(failure, VMFERRY_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Adds the array to what is to be set; one that is read from a file, as far as *length* goes. */
static gboolean add_bytes(const BochsProcess *process, BochsForm *form, const char *device,
                          const char *path, Form how, const uint8_t *bytes, size_t length,
                          GError **error)
{
    g_autofree char *name = g_strconcat(FILE_NAME "-", path, NULL);
    g_autofree char *file = g_build_filename(process->state_folder, name, NULL);

    if (how == BY_TEXT) {
        bochs_form_set_bytes(form, device, path, bytes, length);
        return TRUE;
    }
    bochs_tree_set_text(bochs_form_get(form, device), path, name);
    return file_replace(file, bytes, length, FALSE, error);
}

static gboolean not_found(const char *device, const char *path, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs's %s.%s is not found in its memory", device,
              path);
    return FALSE;
}

static void add_place(GArray *places, const char *device, const char *path, guint length,
                      uint64_t address)
{
    const BochsPlace place = {device, path, address, length};

    g_array_append_val(places, place);
}

/* ---- arrays with known bytes ---- */

static guint window_of(const Known *wanted)
{
    return wanted->form == BY_FILE ? wanted->free_byte + 1 : wanted->length;
}

static gboolean set_known(BochsProcess *process, const Known *wanted, const uint8_t *bytes,
                          GError **error)
{
    g_autoptr(BochsForm) form = bochs_form_new(1);

    return add_bytes(process, form, wanted->device, wanted->path, wanted->form, bytes,
                     window_of(wanted), error) &&
           bochs_form_restore(process, 0, form, error);
}

/* What is at each candidate; NULL where that cannot be read. */
static GPtrArray *read_all(const BochsProcess *process, const Known *wanted,
                           const GArray *candidates)
{
    GPtrArray *contents = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < candidates->len; i++) {
        uint64_t at = g_array_index(candidates, uint64_t, i) - wanted->signature_at;
        uint8_t *content = g_malloc(window_of(wanted));

        if (!bochs_memory_read(process, at, content, window_of(wanted), NULL))
            g_clear_pointer(&content, g_free);
        g_ptr_array_add(contents, content);
    }
    return contents;
}

/* The first candidate that has these bytes, or -1. */
static int find_content(const GPtrArray *contents, const uint8_t *bytes, guint length)
{
    for (guint i = 0; i < contents->len; i++)
        if (contents->pdata[i] && memcmp(contents->pdata[i], bytes, length) == 0)
            return (int)i;
    return -1;
}

/* Which of them has what is set now; -1 where it is none.  What was there before is put back. */
static gboolean prove(BochsProcess *process, const Known *wanted, const GArray *candidates,
                      int *ret, GError **error)
{
    g_autoptr(GPtrArray) before = read_all(process, wanted, candidates);
    g_autoptr(GPtrArray) after = NULL;
    uint8_t changed[MAX_WINDOW];

    *ret = -1;
    if (before->len == 0 || !before->pdata[0])
        return TRUE;
    memcpy(changed, before->pdata[0], window_of(wanted));
    changed[wanted->free_byte] ^= 0x5a;
    if (!set_known(process, wanted, changed, error))
        return FALSE;
    after = read_all(process, wanted, candidates);
    *ret = find_content(after, changed, window_of(wanted));
    return *ret < 0 || !before->pdata[*ret] ||
           set_known(process, wanted, before->pdata[*ret], error);
}

static gboolean find_one_known(BochsProcess *process, const Known *wanted, const GArray *candidates,
                               GArray *places, GError **error)
{
    gboolean has = TRUE;
    int found;

    if (wanted->optional && !ask_has(process, wanted->device, wanted->path, &has, error))
        return FALSE;
    if (!has)
        return TRUE;
    if (!prove(process, wanted, candidates, &found, error))
        return FALSE;
    if (found < 0)
        return not_found(wanted->device, wanted->path, error);
    add_place(places, wanted->device, wanted->path, wanted->length,
              g_array_index(candidates, uint64_t, found) - wanted->signature_at);
    return TRUE;
}

static gboolean find_known(BochsProcess *process, const RamRegion *ram, GArray *places,
                           GError **error)
{
    BochsPattern patterns[G_N_ELEMENTS(known)];
    g_autoptr(GPtrArray) candidates = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(known); i++)
        patterns[i] = (BochsPattern){known[i].signature, known[i].signature_bytes};
    candidates = bochs_search(process, ram, patterns, G_N_ELEMENTS(known), error);
    for (guint i = 0; candidates && i < G_N_ELEMENTS(known); i++)
        if (!find_one_known(process, &known[i], candidates->pdata[i], places, error))
            return FALSE;
    return candidates != NULL;
}

/* ---- empty arrays ---- */

/* Sets or takes away what is looked for, of all empty arrays that the machine has. */
static gboolean set_empty(BochsProcess *process, const gboolean *has,
                          uint8_t random[][RANDOM_BYTES], gboolean mark, GError **error)
{
    g_autoptr(BochsForm) form = bochs_form_new(1);

    for (guint i = 0; i < G_N_ELEMENTS(empty); i++) {
        guint length = empty[i].form == BY_FILE ? RANDOM_BYTES : empty[i].length;
        g_autofree uint8_t *bytes = g_malloc0(length);

        if (!has[i])
            continue;
        if (mark)
            memcpy(bytes, random[i], RANDOM_BYTES);
        if (!add_bytes(process, form, empty[i].device, empty[i].path, empty[i].form, bytes, length,
                       error))
            return FALSE;
        for (guint j = 0; j < MIN(empty[i].marks, G_N_ELEMENTS(palette_marks)); j++)
            bochs_tree_set(bochs_form_get(form, empty[i].device), palette_marks[j],
                           j == 2 ? BOCHS_NODE_DECIMAL : BOCHS_NODE_HEX, mark ? MARK : j == 2);
    }
    return bochs_form_restore(process, 0, form, error);
}

/* Bochs's buffers of files have the same bytes, for a while. */
static gboolean has_marks(const BochsProcess *process, const Empty *wanted, uint64_t address)
{
    static const guint marked[] = {0, 2, 4};
    uint8_t before[5];

    if (wanted->marks == 0)
        return TRUE;
    if (!bochs_memory_read(process, address - sizeof before, before, sizeof before, NULL))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(marked); i++)
        if (before[marked[i]] != MARK)
            return FALSE;
    return TRUE;
}

static gboolean find_one_empty(const BochsProcess *process, const Empty *wanted,
                               const GArray *candidates, GArray *places, GError **error)
{
    uint64_t address = 0;
    guint count = 0;

    for (guint i = 0; i < candidates->len; i++)
        if (has_marks(process, wanted, g_array_index(candidates, uint64_t, i))) {
            address = g_array_index(candidates, uint64_t, i);
            count++;
        }
    if (count != 1)
        return not_found(wanted->device, wanted->path, error);
    add_place(places, wanted->device, wanted->path, wanted->length, address);
    return TRUE;
}

static gboolean find_empty(BochsProcess *process, const RamRegion *ram, GArray *places,
                           GError **error)
{
    uint8_t random[G_N_ELEMENTS(empty)][RANDOM_BYTES] = {{0}};
    BochsPattern patterns[G_N_ELEMENTS(empty)];
    gboolean has[G_N_ELEMENTS(empty)];
    g_autoptr(GPtrArray) candidates = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(empty); i++) {
        for (guint j = 0; j < RANDOM_BYTES; j++)
            random[i][j] = (uint8_t)g_random_int();
        patterns[i] = (BochsPattern){random[i], RANDOM_BYTES};
        if (!ask_has(process, empty[i].device, empty[i].path, &has[i], error))
            return FALSE;
    }
    if (!set_empty(process, has, random, TRUE, error))
        return FALSE;
    candidates = bochs_search(process, ram, patterns, G_N_ELEMENTS(empty), error);
    for (guint i = 0; candidates && i < G_N_ELEMENTS(empty); i++)
        if (has[i] && !find_one_empty(process, &empty[i], candidates->pdata[i], places, error))
            return FALSE;
    return candidates && set_empty(process, has, random, FALSE, error);
}

/* ---- all ---- */

static gboolean find_hpet(BochsProcess *process, const RamRegion *ram, GArray *places,
                          GError **error)
{
    uint64_t address;

    if (!bochs_hpet_find(process, ram, &address, error))
        return FALSE;
    add_place(places, "hpet", BOCHS_HPET_REFERENCE, BOCHS_HPET_REFERENCE_BYTES, address);
    return TRUE;
}

GArray *bochs_places_find(BochsProcess *process, const RamRegion *ram, GError **error)
{
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(BochsPlace));

    if (!find_known(process, ram, places, error) || !find_empty(process, ram, places, error) ||
        !find_hpet(process, ram, places, error))
        return NULL;
    return g_steal_pointer(&places);
}

gboolean bochs_places_read(BochsProcess *process, const GArray *places, BochsForm *shown,
                           GError **error)
{
    for (guint i = 0; i < places->len; i++) {
        const BochsPlace *place = &g_array_index(places, BochsPlace, i);
        g_autofree uint8_t *bytes = g_malloc(place->length);

        if (!bochs_memory_read(process, place->address, bytes, place->length, error))
            return FALSE;
        bochs_form_add_bytes(shown, place->device, place->path, bytes, place->length);
    }
    return TRUE;
}

gboolean bochs_places_write(BochsProcess *process, const GArray *places, const BochsForm *wanted,
                            GError **error)
{
    for (guint i = 0; i < places->len; i++) {
        const BochsPlace *place = &g_array_index(places, BochsPlace, i);
        const uint8_t *bytes =
            bochs_form_get_bytes(wanted, place->device, place->path, place->length);

        if (bytes && !bochs_memory_write(process, place->address, bytes, place->length, error))
            return FALSE;
    }
    return TRUE;
}
