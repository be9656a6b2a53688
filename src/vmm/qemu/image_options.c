#include "vmm/qemu/image_options.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"

#define MAX_SHOWN 64

/* A stranger's word, for an error; free with g_free(). */
static char *show(const char *word)
{
    g_autofree char *plain = g_strescape(word, NULL);

    return g_strndup(plain, MAX_SHOWN);
}

/* ---- out of what QEMU tells ---- */

/* An image without a format of its own is opened by the protocol's driver. */
static gboolean is_raw(const char *format)
{
    return g_str_equal(format, "raw") || g_str_equal(format, "file") ||
           g_str_equal(format, "host_device");
}

static gboolean has_snapshots(json_t *image_info)
{
    return json_array_size(json_object_get(image_info, "snapshots")) > 0;
}

/* What a qcow2 image has beside its content and its options; NULL: nothing. */
static const char *find_qcow2_obstacle(json_t *image_info, json_t *data)
{
    if (json_flag_or(image_info, "encrypted", FALSE) || json_object_get(data, "encrypt"))
        return "encryption";
    if (json_object_get(data, "data-file"))
        return "an external data file";
    if (has_snapshots(image_info))
        return "internal snapshots";
    if (json_flag_or(data, "corrupt", FALSE))
        return "the mark of a corrupt image";
    return NULL;
}

static const char *qcow2_version(json_t *data)
{
    return g_str_equal(json_text_or(data, "compat", ""), "0.10") ? "v2" : "v3";
}

static json_t *read_qcow2(json_t *image_info, json_t *data)
{
    static const char *const same[] = {"refcount-bits", "lazy-refcounts", "extended-l2",
                                       "compression-type"};
    json_t *options = json_pack("{s:s}", "version", qcow2_version(data));
    json_t *cluster_size = json_object_get(image_info, "cluster-size");

    if (cluster_size)
        json_object_set(options, "cluster-size", cluster_size);
    for (guint i = 0; i < G_N_ELEMENTS(same); i++) {
        json_t *value = json_object_get(data, same[i]);

        if (value)
            json_object_set(options, same[i], value);
    }
    return options;
}

gboolean qemu_image_options_from_info(json_t *image_info, json_t **ret, char **ret_obstacle)
{
    const char *format = json_text_or(image_info, "format", "");
    json_t *data = json_object_get(json_object_get(image_info, "format-specific"), "data");
    g_autofree char *shown = show(format);
    const char *obstacle;

    *ret = NULL;
    *ret_obstacle = NULL;
    if (is_raw(format))
        return TRUE;
    if (!g_str_equal(format, "qcow2")) {
        *ret_obstacle =
            g_strdup_printf("format \"%s\": only raw and qcow2 images can be made", shown);
        return FALSE;
    }
    if (!json_is_object(data)) {
        *ret_obstacle = g_strdup("qcow2 of which QEMU does not tell how it was made");
        return FALSE;
    }
    obstacle = find_qcow2_obstacle(image_info, data);
    if (obstacle) {
        *ret_obstacle = g_strdup_printf("qcow2 with %s", obstacle);
        return FALSE;
    }
    *ret = read_qcow2(image_info, data);
    return TRUE;
}

/* ---- from a peer ---- */

typedef struct {
    const char *key;
    uint64_t least, most; /* of a power of two; 0: it is none */
    const char *words[3]; /* up to a NULL; no word: it is none */
} Option;

/* One without numbers and words is a flag. */
static const Option qcow2_options[] = {
    {.key = "cluster-size", .least = 512, .most = 2u << 20},
    {.key = "version", .words = {"v2", "v3"}},
    {.key = "refcount-bits", .least = 1, .most = 64},
    {.key = "lazy-refcounts"},
    {.key = "extended-l2"},
    {.key = "compression-type", .words = {"zlib", "zstd"}},
};

static gboolean check_number(const Option *option, json_t *value, GError **error)
{
    json_int_t number = json_integer_value(value);

    if (json_is_integer(value) && number >= (json_int_t)option->least &&
        number <= (json_int_t)option->most && (number & (number - 1)) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%s\" of an image is no power of two from %" G_GUINT64_FORMAT
              " to %" G_GUINT64_FORMAT,
              option->key, (guint64)option->least, (guint64)option->most);
    return FALSE;
}

static gboolean check_word(const Option *option, json_t *value, GError **error)
{
    const char *text = json_string_value(value);
    g_autofree char *shown = text ? show(text) : NULL;

    if (!text) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" of an image is no text", option->key);
        return FALSE;
    }
    if (g_strv_contains(option->words, text))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "an image with %s \"%s\" cannot be made here",
              option->key, shown);
    return FALSE;
}

static gboolean check_flag(const Option *option, json_t *value, GError **error)
{
    if (json_is_boolean(value))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" of an image is neither true nor false",
              option->key);
    return FALSE;
}

static gboolean check_value(const Option *option, json_t *value, GError **error)
{
    if (option->most)
        return check_number(option, value, error);
    if (option->words[0])
        return check_word(option, value, error);
    return check_flag(option, value, error);
}

static const Option *find_option(const char *format, const char *key)
{
    if (!g_str_equal(format, "qcow2"))
        return NULL;
    for (guint i = 0; i < G_N_ELEMENTS(qcow2_options); i++)
        if (strcmp(qcow2_options[i].key, key) == 0)
            return &qcow2_options[i];
    return NULL;
}

static gboolean check_option(const char *format, const char *key, json_t *value, GError **error)
{
    const Option *option = find_option(format, key);
    g_autofree char *shown = show(key);

    if (option)
        return check_value(option, value, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "a %s image with the option \"%s\" cannot be made here", format, shown);
    return FALSE;
}

gboolean qemu_image_options_check(const char *format, json_t *options, GError **error)
{
    g_autofree char *shown = show(format);
    const char *key;
    json_t *value;

    if (!g_str_equal(format, "raw") && !g_str_equal(format, "qcow2")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "an image of format \"%s\" cannot be made: only raw and qcow2 can", shown);
        return FALSE;
    }
    if (options && !json_is_object(options)) {
        error_set(error, VMFERRY_ERROR_INVALID, "the options of an image are no object");
        return FALSE;
    }
    json_object_foreach(options, key, value)
    {
        if (!check_option(format, key, value, error))
            return FALSE;
    }
    return TRUE;
}
