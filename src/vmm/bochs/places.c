#include "vmm/bochs/places.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "memory/maps.h"
#include "vmm/bochs/live.h"

#define MAX_MAPPING_BYTES (256u << 20)
#define PIECE_BYTES (1u << 20)
#define MAX_LENGTH 256u
#define SIGNATURE_BYTES 4u
#define MAX_CANDIDATES 16u

typedef struct {
    const char *device, *path;
    guint length;
    guint signature_at;
    uint8_t signature[SIGNATURE_BYTES];
    guint free_byte; /* one that the guest may set to anything, without effect */
} Wanted;

#define CONFIG(name, b0, b1, b2, b3)                                                               \
    {                                                                                              \
        name, "pci_conf", 256, 0, {b0, b1, b2, b3}, 0xff                                           \
    }

/* Vendor and device ids; of the CMOS registers A to D as Bochs sets them. */
static const Wanted all_wanted[] = {
    CONFIG("pci_bridge", 0x86, 0x80, 0x37, 0x12),
    CONFIG("pci2isa", 0x86, 0x80, 0x00, 0x70),
    CONFIG("pci_ide", 0x86, 0x80, 0x10, 0x70),
    CONFIG("acpi", 0x86, 0x80, 0x13, 0x71),
    {"cmos", "ram", 128, 10, {0x26, 0x02, 0x00, 0x80}, 0x7f},
};

static gboolean read_memory(const BochsProcess *process, uint64_t address, void *buffer,
                            size_t length, GError **error)
{
    struct iovec local = {buffer, length}, remote = {(void *)(uintptr_t)address, length};

    if (process_vm_readv(process->pid, &local, 1, &remote, 1, 0) == (ssize_t)length)
        return TRUE;
    error_set_errno(error, errno, "read Bochs's memory");
    return FALSE;
}

/* ---- candidates ---- */

/* Adds the places of *wanted* that begin in the buffer, which is at *address*. */
static void search(const Wanted *wanted, const uint8_t *buffer, size_t length, uint64_t address,
                   GArray *candidates)
{
    const uint8_t *end = buffer + length, *at = buffer;

    while ((size_t)(end - at) >= SIGNATURE_BYTES && candidates->len < MAX_CANDIDATES) {
        uint64_t place;

        at = memmem(at, (size_t)(end - at), wanted->signature, SIGNATURE_BYTES);
        if (!at)
            break;
        place = address + (uint64_t)(at - buffer) - wanted->signature_at;
        g_array_append_val(candidates, place);
        at++;
    }
}

/* For all that is wanted; *candidates* has an array for each. */
static void search_mapping(const BochsProcess *process, const Mapping *mapping,
                           const GPtrArray *candidates)
{
    const size_t overlap = SIGNATURE_BYTES - 1;
    g_autofree uint8_t *piece = g_malloc(PIECE_BYTES + overlap);

    for (uint64_t at = mapping->start; at < mapping->end; at += PIECE_BYTES) {
        size_t length = MIN(PIECE_BYTES + overlap, mapping->end - at);

        if (!read_memory(process, at, piece, length, NULL))
            continue;
        for (guint i = 0; i < G_N_ELEMENTS(all_wanted); i++)
            search(&all_wanted[i], piece, length, at, candidates->pdata[i]);
    }
}

/* Bochs's own data: neither files nor guest RAM. */
static gboolean may_hold(const Mapping *mapping, const RamRegion *ram)
{
    gboolean holds_ram = ram->host_address >= mapping->start && ram->host_address < mapping->end;

    return mapping->readable && mapping->writable && !mapping->shared && !holds_ram &&
           mapping->end - mapping->start <= MAX_MAPPING_BYTES &&
           (!*mapping->path || strcmp(mapping->path, "[heap]") == 0);
}

static GPtrArray *find_candidates(const BochsProcess *process, const RamRegion *ram, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(process->pid, error);
    GPtrArray *candidates;

    if (!maps)
        return NULL;
    candidates = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    for (guint i = 0; i < G_N_ELEMENTS(all_wanted); i++)
        g_ptr_array_add(candidates, g_array_new(FALSE, FALSE, sizeof(uint64_t)));
    for (guint i = 0; i < maps->len; i++)
        if (may_hold(maps->pdata[i], ram))
            search_mapping(process, maps->pdata[i], candidates);
    return candidates;
}

/* ---- proofs ---- */

static gboolean set_bytes(BochsProcess *process, const Wanted *wanted, const uint8_t *bytes,
                          GError **error)
{
    g_autoptr(BochsForm) form = bochs_form_new(1);

    bochs_form_set_bytes(form, wanted->device, wanted->path, bytes, wanted->length);
    return bochs_form_restore(process, 0, form, error);
}

/* What is at each candidate; NULL where that cannot be read. */
static GPtrArray *read_all(const BochsProcess *process, const Wanted *wanted,
                           const GArray *candidates)
{
    GPtrArray *contents = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < candidates->len; i++) {
        uint8_t *content = g_malloc(wanted->length);

        if (!read_memory(process, g_array_index(candidates, uint64_t, i), content, wanted->length,
                         NULL))
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
static gboolean prove(BochsProcess *process, const Wanted *wanted, const GArray *candidates,
                      int *ret, GError **error)
{
    g_autoptr(GPtrArray) before = read_all(process, wanted, candidates);
    g_autoptr(GPtrArray) after = NULL;
    uint8_t changed[MAX_LENGTH];

    *ret = -1;
    if (before->len == 0 || !before->pdata[0])
        return TRUE;
    memcpy(changed, before->pdata[0], wanted->length);
    changed[wanted->free_byte] ^= 0x5a;
    if (!set_bytes(process, wanted, changed, error))
        return FALSE;
    after = read_all(process, wanted, candidates);
    *ret = find_content(after, changed, wanted->length);
    return *ret < 0 || !before->pdata[*ret] ||
           set_bytes(process, wanted, before->pdata[*ret], error);
}

static gboolean find_place(BochsProcess *process, const Wanted *wanted, const GArray *candidates,
                           BochsPlace *ret, GError **error)
{
    int found;

    if (!prove(process, wanted, candidates, &found, error))
        return FALSE;
    if (found < 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs's %s.%s is not found in its memory",
                  wanted->device, wanted->path);
        return FALSE;
    }
    *ret = (BochsPlace){wanted->device, wanted->path, g_array_index(candidates, uint64_t, found),
                        wanted->length};
    return TRUE;
}

GArray *bochs_places_find(BochsProcess *process, const RamRegion *ram, GError **error)
{
    g_autoptr(GPtrArray) candidates = find_candidates(process, ram, error);
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(BochsPlace));

    for (guint i = 0; candidates && i < candidates->len; i++) {
        BochsPlace place;

        if (!find_place(process, &all_wanted[i], candidates->pdata[i], &place, error))
            return NULL;
        g_array_append_val(places, place);
    }
    return candidates ? g_steal_pointer(&places) : NULL;
}

gboolean bochs_places_read(BochsProcess *process, const GArray *places, BochsForm *shown,
                           GError **error)
{
    for (guint i = 0; i < places->len; i++) {
        const BochsPlace *place = &g_array_index(places, BochsPlace, i);
        uint8_t bytes[MAX_LENGTH];

        if (!read_memory(process, place->address, bytes, place->length, error))
            return FALSE;
        bochs_form_set_bytes(shown, place->device, place->path, bytes, place->length);
    }
    return TRUE;
}
