#include "vmm/bochs/record.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/places.h"
#include "vmm/bochs/ram.h"

#define RECORD "record"
#define LOADED "loaded"
#define RAN "ran"
#define MAX_RECORD (1u << 20)
#define MAX_LOADED (64u << 20)
#define MAX_WORDS 64u
#define MAX_PLACES 64u
#define FORMAT 1

/* ---- writing ---- */

static json_t *encode_words(char *const *words)
{
    json_t *array = json_array();

    for (guint i = 0; words && words[i]; i++)
        json_array_append_new(array, json_string(words[i]));
    return array;
}

static json_t *encode_places(const GArray *places)
{
    json_t *array = json_array();

    for (guint i = 0; i < places->len; i++) {
        const BochsPlace *place = &g_array_index(places, BochsPlace, i);

        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:I, s:I}", "device", place->device, "path",
                                        place->path, "address", (json_int_t)place->address,
                                        "length", (json_int_t)place->length));
    }
    return array;
}

static json_t *encode(const BochsVmm *bochs)
{
    json_t *object = json_pack(
        "{s:i, s:s, s:I, s:b, s:b, s:o, s:o, s:o}", "format", FORMAT, "version",
        bochs->process->version, "ram_address", (json_int_t)bochs->ram->host_address, "incoming",
        bochs->incoming, "neutral", bochs->neutral, "words", encode_words(bochs->words),
        "command_line", encode_words(bochs->original), "places", encode_places(bochs->places));

    if (object && bochs->video)
        json_object_set_new(object, "video_address",
                            json_integer((json_int_t)bochs->video->host_address));
    if (object && bochs->working_directory)
        json_object_set_new(object, "working_directory", json_string(bochs->working_directory));
    if (object && bochs->machine)
        json_object_set_new(object, "machine", machine_description_to_json(bochs->machine));
    return object;
}

static gboolean write_file(const char *folder, const char *name, const void *data, size_t length,
                           GError **error)
{
    g_autofree char *path = bochs_folder_path(folder, name);

    return file_replace(path, data, length, FALSE, error);
}

gboolean bochs_record_write(BochsVmm *bochs, GError **error)
{
    g_autoptr(json_t) object = encode(bochs);
    char *text = object ? json_dumps(object, JSON_LINE) : NULL;
    gboolean done;

    if (!text) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is not of UTF-8");
        return FALSE;
    }
    /* Last: with it the machine is ready. */
    done = write_file(bochs->process->folder, RAN, "", 0, error) &&
           write_file(bochs->process->folder, RECORD, text, strlen(text), error);
    free(text);
    return done;
}

gboolean bochs_record_write_loaded(const BochsVmm *bochs, GBytes *state, GError **error)
{
    return write_file(bochs->process->folder, LOADED, g_bytes_get_data(state, NULL),
                      g_bytes_get_size(state), error);
}

gboolean bochs_record_note_run(const BochsVmm *bochs, GError **error)
{
    return bochs->has_run || write_file(bochs->process->folder, RAN, "1", 1, error);
}

/* ---- reading ---- */

static char **decode_words(json_t *object, const char *key, GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    json_t *array, *word;
    size_t index;

    if (!json_get_array(object, key, MAX_WORDS, &array, error))
        return NULL;
    json_array_foreach(array, index, word)
    {
        if (!json_is_string(word)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" does not have texts only", key);
            return NULL;
        }
        g_ptr_array_add(words, g_strdup(json_string_value(word)));
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}

static gboolean decode_place(json_t *object, BochsPlace *ret, GError **error)
{
    const char *device, *path;
    uint64_t length;

    if (!json_get_text(object, "device", &device, error) ||
        !json_get_text(object, "path", &path, error) ||
        !json_get_count(object, "address", G_MAXINT64, &ret->address, error) ||
        !json_get_count(object, "length", G_MAXUINT32, &length, error))
        return FALSE;
    ret->device = g_intern_string(device);
    ret->path = g_intern_string(path);
    ret->length = (guint)length;
    return TRUE;
}

static GArray *decode_places(json_t *object, GError **error)
{
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(BochsPlace));
    json_t *array, *entry;
    size_t index;

    if (!json_get_array(object, "places", MAX_PLACES, &array, error))
        return NULL;
    json_array_foreach(array, index, entry)
    {
        BochsPlace place = {0};

        if (!decode_place(entry, &place, error))
            return NULL;
        g_array_append_val(places, place);
    }
    return g_steal_pointer(&places);
}

static gboolean decode_machine(json_t *object, BochsVmm *bochs, GError **error)
{
    json_t *machine = json_object_get(object, "machine");

    if (!machine)
        return TRUE;
    bochs->machine = machine_description_from_json(machine, error);
    return bochs->machine != NULL;
}

static gboolean decode_video(json_t *object, BochsVmm *bochs, GError **error)
{
    uint64_t address;

    if (!bochs_machine_has_card(&bochs->line->machine, BOCHS_SLOT_VGA))
        return TRUE;
    if (!json_get_count(object, "video_address", G_MAXINT64, &address, error))
        return FALSE;
    bochs->video = ram_region_new(VMM_NEUTRAL_VIDEO, address, BOCHS_VIDEO_BYTES);
    return TRUE;
}

static gboolean decode(json_t *object, BochsVmm *bochs, char **ret_version, GError **error)
{
    const char *version;
    uint64_t format, address;

    if (!json_get_count(object, "format", FORMAT, &format, error) ||
        !json_get_text(object, "version", &version, error) ||
        !json_get_count(object, "ram_address", G_MAXINT64, &address, error))
        return FALSE;
    bochs->words = decode_words(object, "words", error);
    bochs->line = bochs->words ? bochs_command_line_parse(bochs->words, error) : NULL;
    bochs->original = bochs->line ? decode_words(object, "command_line", error) : NULL;
    bochs->places = bochs->original ? decode_places(object, error) : NULL;
    if (!bochs->places || !decode_machine(object, bochs, error))
        return FALSE;
    bochs->working_directory = g_strdup(json_text_or(object, "working_directory", NULL));
    bochs->incoming = json_flag_or(object, "incoming", FALSE);
    bochs->neutral = json_flag_or(object, "neutral", FALSE);
    bochs->ram = ram_region_new(BOCHS_RAM_NAME, address, bochs->line->machine.memory_bytes);
    *ret_version = g_strdup(version);
    return decode_video(object, bochs, error);
}

/* *ret NULL: there is none. */
static gboolean read_file(const char *folder, const char *name, size_t limit, char **ret,
                          size_t *ret_length, GError **error)
{
    g_autofree char *path = bochs_folder_path(folder, name);
    g_autoptr(GError) failure = NULL;

    *ret = file_read(path, limit, ret_length, &failure);
    if (*ret || error_is(failure, VMFERRY_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* FALSE where there is one that is none. */
static gboolean read_loaded(const char *folder, BochsVmm *bochs, GError **error)
{
    size_t length;
    g_autofree char *bytes = NULL;

    if (!read_file(folder, LOADED, MAX_LOADED, &bytes, &length, error))
        return FALSE;
    if (bytes)
        bochs->loaded = state_decode(bytes, length, error);
    return !bytes || bochs->loaded;
}

gboolean bochs_record_read_run(const char *folder, gboolean *ret, GError **error)
{
    size_t length;
    g_autofree char *text = NULL;

    *ret = FALSE;
    if (!read_file(folder, RAN, 16, &text, &length, error))
        return FALSE;
    *ret = text && *text;
    return TRUE;
}

static gboolean read_record(const char *folder, BochsVmm *bochs, char **ret_version, GError **error)
{
    size_t length;
    g_autofree char *text = NULL;
    g_autoptr(json_t) object = NULL;

    if (!read_file(folder, RECORD, MAX_RECORD, &text, &length, error))
        return FALSE;
    if (!text) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "%s has no record of a Bochs that was ready",
                  folder);
        return FALSE;
    }
    object = json_parse_object(text, length, MAX_RECORD, error);
    if (object && decode(object, bochs, ret_version, error))
        return TRUE;
    g_prefix_error(error, "%s/" RECORD ": ", folder);
    return FALSE;
}

BochsVmm *bochs_record_read(const char *folder, char **ret_version, GError **error)
{
    g_autofree char *version = NULL;
    g_autoptr(Vmm) vmm = bochs_vmm_new();
    BochsVmm *bochs = (BochsVmm *)vmm;

    if (!read_record(folder, bochs, &version, error) || !read_loaded(folder, bochs, error) ||
        !bochs_record_read_run(folder, &bochs->has_run, error))
        return NULL;
    *ret_version = g_steal_pointer(&version);
    return (BochsVmm *)g_steal_pointer(&vmm);
}
