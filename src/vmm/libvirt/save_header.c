#include "vmm/libvirt/save_header.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"

#define MAGIC "LibvirtQemudSave"
#define VERSION 2u

typedef struct {
    char magic[16];
    uint32_t version;
    uint32_t text_bytes; /* with its end */
    uint32_t runs;
    uint32_t compression; /* 0: none */
    uint32_t cookie;      /* where it begins in the text; 0: there is none */
    uint32_t unused[14];
} Header;

G_STATIC_ASSERT(sizeof(Header) == LIBVIRT_SAVE_HEADER_BYTES);

GBytes *libvirt_save_header_build(const char *xml, gboolean runs, GError **error)
{
    size_t bytes = strlen(xml) + 1;
    Header header = {.version = VERSION, .text_bytes = (uint32_t)bytes, .runs = runs ? 1 : 0};
    char *whole;

    if (bytes == 1 || bytes > LIBVIRT_SAVE_MAX_XML) {
        error_set(error, VMFERRY_ERROR_INVALID, "the domain's XML has %zu bytes", bytes - 1);
        return NULL;
    }
    memcpy(header.magic, MAGIC, sizeof header.magic);
    whole = g_malloc(sizeof header + bytes);
    memcpy(whole, &header, sizeof header);
    memcpy(whole + sizeof header, xml, bytes);
    return g_bytes_new_take(whole, sizeof header + bytes);
}
