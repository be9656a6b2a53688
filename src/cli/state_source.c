#include "cli/state_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "base/name.h"
#include "image/saved_image.h"
#include "state/state_qemu.h"
#include "vmm/vmm_driver.h"

/* A whole JSON form takes about twice what the binary form does. */
#define FILE_MAX_BYTES STATE_MAX_BYTES

static gboolean begins_with(const char *data, size_t length, const char *magic)
{
    return length >= strlen(magic) && memcmp(data, magic, strlen(magic)) == 0;
}

/* The first bytes of a file say what it is. */
static gboolean read_magic(const char *path, char magic[8], GError **error)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        error_set_errno(error, errno, "open %s", path);
        return FALSE;
    }
    if (fd_read_all(fd, magic, 8, error))
        return TRUE;
    g_prefix_error(error, "%s: ", path);
    return FALSE;
}

static GBytes *read_key(const char *key_file, GError **error)
{
    size_t length;
    char *bytes = file_read(key_file, IMAGE_MAX_KEY_BYTES, &length, error);

    if (!bytes)
        g_prefix_error(error, "the key: ");
    return bytes ? g_bytes_new_take(bytes, length) : NULL;
}

/* Device state is in the image itself: its bases are not needed. */
static StateNode *read_image(const char *path, const char *key_file, GError **error)
{
    g_autoptr(GBytes) key = key_file ? read_key(key_file, error) : NULL;
    const SavedImageOptions options = {.key = key, .alone = TRUE};
    g_autoptr(SavedImage) image = NULL;
    g_autoptr(json_t) machine = NULL;
    const char *text;

    if (key_file && !key)
        return NULL;
    image = saved_image_open(path, &options, error);
    if (!image)
        return NULL;
    text = saved_image_get_machine(image);
    machine = json_parse_object(text, strlen(text), strlen(text), error);
    if (!machine)
        return NULL;
    return vmm_read_state(json_text_or(machine, "vmm_kind", NULL), saved_image_get_state(image),
                          error);
}

static StateNode *parse(const char *data, size_t length, GError **error)
{
    g_autoptr(json_t) json = NULL;

    if (begins_with(data, length, "QEVM"))
        return state_from_qemu(data, length, error);
    if (begins_with(data, length, "VMFSTATE"))
        return state_decode(data, length, error);
    json = json_parse_object(data, length, FILE_MAX_BYTES, error);
    return json ? state_from_json(json, error) : NULL;
}

static StateNode *read_file(const char *path, const char *key_file, GError **error)
{
    g_autofree char *data = NULL;
    char magic[8];
    StateNode *root = NULL;
    size_t length;

    if (!read_magic(path, magic, error))
        return NULL;
    if (begins_with(magic, sizeof magic, "VMFIMAGE"))
        return read_image(path, key_file, error);
    data = file_read(path, FILE_MAX_BYTES, &length, error);
    root = data ? parse(data, length, error) : NULL;
    if (!root)
        g_prefix_error(error, "%s: ", path);
    return root;
}

static StateNode *read_guest(const CommonOptions *common, const char *name, GError **error)
{
    g_autofree char *path = NULL;
    g_autoptr(json_t) answer = NULL;
    json_t *state;

    if (!guest_name_check(name, error))
        return NULL;
    path = g_strdup_printf("/v1/guests/%s/state", name);
    answer = cli_call(common, "GET", path, NULL, error);
    if (!answer)
        return NULL;
    state = json_object_get(answer, "state");
    return state_from_json(state ? state : answer, error);
}

StateNode *state_source_read(const CommonOptions *common, const char *name, const char *key_file,
                             GError **error)
{
    if (strchr(name, '/') || g_file_test(name, G_FILE_TEST_EXISTS))
        return read_file(name, key_file, error);
    return read_guest(common, name, error);
}
