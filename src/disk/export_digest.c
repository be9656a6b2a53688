/* The digest of an export's content. */
#include "disk/content_digest.h"
#include "disk/disk_target.h"
#include "disk/export_reader.h"

static gboolean add_piece(uint64_t offset, const uint8_t *data, size_t length, gpointer user,
                          GError **error)
{
    content_digest_add(user, offset, data, length);
    return TRUE;
}

char *disk_digest_export(const char *socket_path, const char *name, const gint *cancelled,
                         GError **error)
{
    g_autoptr(ContentDigest) digest = content_digest_new();

    return export_read(socket_path, name, cancelled, add_piece, digest, NULL, error)
               ? content_digest_finish(digest)
               : NULL;
}
