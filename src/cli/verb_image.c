#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/page.h"
#include "cli/cli.h"
#include "cli/image_disks.h"
#include "cli/output.h"
#include "image/image_merge.h"
#include "image/saved_image.h"

static const char description[] =
    "Shows, checks and merges saved images: files that hold a whole machine.\n\n"
    "  info FILE         what is in it, and which bases it needs\n"
    "  verify FILE       reads all of it and of its bases: is it as it was written?\n"
    "  list [FOLDER]     the saved images of a folder (default: this one)\n"
    "  merge FILE OUT    writes one image, which needs no base, to OUT\n\n"
    "A base is looked for beside the file that needs it, and among --base.  Copies of disks are\n"
    "beside the image; merging leaves them as they are, and needed.";

/* Of a damaged image so many places are told. */
#define MOST_TOLD 10

typedef struct {
    char **bases;
    char *key_file;
    gboolean overwrite;
    GBytes *key;
    CommonOptions common;
} Options;

static void options_clear(Options *options)
{
    g_strfreev(options->bases);
    g_free(options->key_file);
    g_clear_pointer(&options->key, g_bytes_unref);
    common_options_clear(&options->common);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

/* ---- opening ---- */

static gboolean read_key(Options *o, GError **error)
{
    size_t length;
    char *bytes;

    if (!o->key_file)
        return TRUE;
    bytes = file_read(o->key_file, IMAGE_MAX_KEY_BYTES, &length, error);
    if (bytes)
        o->key = g_bytes_new_take(bytes, length);
    else
        g_prefix_error(error, "the key: ");
    return bytes != NULL;
}

static SavedImage *open_image(const Options *o, const char *path, gboolean alone, GError **error)
{
    const SavedImageOptions options = {
        .bases = (const char *const *)o->bases, .key = o->key, .alone = alone};

    return saved_image_open(path, &options, error);
}

static SavedImage *open_whole(const Options *o, const char *path, GError **error)
{
    SavedImage *image = open_image(o, path, FALSE, error);

    if (!image)
        cli_add_hint(error, VMFERRY_ERROR_NOT_FOUND, "a base in another folder: name it by --base");
    return image;
}

static int fail(const Options *o, GError **error)
{
    cli_add_hint(error, VMFERRY_ERROR_REFUSED, "see --key-file");
    return cli_fail(&o->common, *error);
}

static char *format_size(uint64_t bytes)
{
    return g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
}

/* ---- info ---- */

static json_t *describe_regions(const PageRegions *regions)
{
    json_t *list = json_array();

    for (guint i = 0; i < regions->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I}", "name", regions->names[i], "pages",
                                              (json_int_t)regions->pages[i]));
    return list;
}

static json_t *text_or_null(const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;

    return valid ? json_string(valid) : json_null();
}

/* The files that it needs, itself first. */
static json_t *describe_chain(const SavedImage *chain)
{
    json_t *list = json_array();

    for (guint i = 0; chain && i < saved_image_get_depth(chain); i++) {
        g_autofree char *id = image_id_format(saved_image_get_chain_id(chain, i));

        json_array_append_new(list, json_pack("{s:o, s:s}", "file",
                                              text_or_null(saved_image_get_chain_path(chain, i)),
                                              "id", id));
    }
    return list;
}

static json_t *object_or_null(const char *text)
{
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;

    return object ? object : json_null();
}

static void set_count(json_t *object, const char *key, uint64_t count)
{
    json_object_set_new(object, key, json_integer((json_int_t)count));
}

static json_t *describe(const SavedImage *image)
{
    g_autofree char *id = image_id_format(saved_image_get_id(image));
    g_autofree char *base = image_id_format(saved_image_get_base(image));
    gboolean is_full = image_id_is_none(saved_image_get_base(image));
    g_autofree char *features = NULL;
    SavedImageTotals t;
    json_t *object;

    saved_image_get_totals(image, &t);
    features = g_strdup_printf("0x%" PRIx64, t.optional_features);
    object = json_pack("{s:o, s:s, s:i, s:s, s:s, s:o, s:o, s:o, s:o}", "file",
                       text_or_null(saved_image_get_path(image)), "id", id, "version",
                       IMAGE_VERSION, "digest", image_digest_kind_name(t.digest),
                       "optional_features", features, "base", text_or_null(is_full ? NULL : base),
                       "base_name", text_or_null(saved_image_get_base_name(image)), "machine",
                       object_or_null(saved_image_get_machine(image)), "note",
                       object_or_null(saved_image_get_note(image)));
    set_count(object, "memory_bytes", t.total_pages * PAGE_BYTES);
    set_count(object, "file_bytes", t.file_bytes);
    set_count(object, "allocated_bytes", t.allocated_bytes);
    set_count(object, "stored_bytes", t.stored_bytes);
    set_count(object, "extents", t.extents);
    set_count(object, "pages", t.pages);
    set_count(object, "state_bytes", g_bytes_get_size(saved_image_get_state(image)));
    set_count(object, "order_runs", saved_image_get_order(image)->len);
    json_object_set_new(object, "regions", describe_regions(saved_image_get_regions(image)));
    json_object_set_new(object, "disk_files", image_disks_describe(image));
    return object;
}

static void add_bytes(Table *table, const char *title, uint64_t bytes, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static void add_bytes(Table *table, const char *title, uint64_t bytes, const char *format, ...)
{
    g_autofree char *size = format_size(bytes);
    g_autofree char *more = NULL;
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    more = g_strdup_vprintf(format, args);
    va_end(args);
    text = g_strconcat(size, more, NULL);
    table_add(table, title, text, NULL);
}

static void add_chain(Table *table, json_t *info)
{
    json_t *chain = json_object_get(info, "chain"), *file;
    const char *failure = json_text_or(info, "chain_error", NULL);
    size_t i;

    json_array_foreach(chain, i, file) if (i > 0)
        table_add(table, i == 1 ? "needs" : "and", json_text_or(file, "file", "?"), NULL);
    if (failure)
        table_add(table, "cannot be used", failure, NULL);
}

static void add_disk_files(Table *table, json_t *info)
{
    json_t *file;
    size_t i;

    json_array_foreach(json_object_get(info, "disk_files"), i, file)
    {
        g_autofree char *text =
            g_strconcat(json_text_or(file, "file", "?"),
                        json_flag_or(file, "there", FALSE) ? "" : " (is not there)", NULL);

        table_add(table, i == 0 ? "disk files" : "and", text, NULL);
    }
}

static void print_info(json_t *info)
{
    static const char *const columns[] = {"", "", NULL};
    g_autoptr(Table) table = table_new(columns);
    uint64_t pages = json_count_or(info, "pages", 0);

    table_add(table, "file", json_text_or(info, "file", "?"), NULL);
    table_add(table, "machine",
              json_text_or(json_object_get(info, "machine"), "guest", "(without a name)"), NULL);
    table_add(table, "id", json_text_or(info, "id", "?"), NULL);
    table_add(table, "base", json_text_or(info, "base", "none: a full image"), NULL);
    add_chain(table, info);
    add_disk_files(table, info);
    table_add(table, "digests", json_text_or(info, "digest", "?"), NULL);
    add_bytes(table, "memory", json_count_or(info, "memory_bytes", 0), " in %zu RAM blocks",
              json_array_size(json_object_get(info, "regions")));
    add_bytes(table, "stored", pages * PAGE_BYTES, " of it, extents: %" PRIu64,
              json_count_or(info, "extents", 0));
    add_bytes(table, "devices", json_count_or(info, "state_bytes", 0), "%s", "");
    add_bytes(table, "file's length", json_count_or(info, "file_bytes", 0), "%s", "");
    add_bytes(table, "on the disk", json_count_or(info, "allocated_bytes", 0), "%s", "");
    table_print(table);
}

static int info(const Options *o, const char *path)
{
    g_autoptr(GError) error = NULL, chain_error = NULL;
    g_autoptr(SavedImage) image = open_image(o, path, TRUE, &error);
    g_autoptr(SavedImage) chain = image ? open_whole(o, path, &chain_error) : NULL;
    g_autoptr(json_t) object = NULL;

    if (!image)
        return fail(o, &error);
    object = describe(image);
    json_object_set_new(object, "chain", describe_chain(chain));
    json_object_set_new(object, "chain_error",
                        text_or_null(chain_error ? chain_error->message : NULL));
    if (o->common.json)
        cli_print_json(object);
    else
        print_info(object);
    return EXIT_DONE;
}

/* ---- verify ---- */

/* Each extent is read and unpacked; what is wrong goes into *damages*.  Returns how many are. */
static uint64_t check_extents(SavedImage *image, uint64_t count, json_t *damages)
{
    g_autofree uint8_t *stored = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    g_autofree uint8_t *unpacked = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    uint64_t bad = 0;

    for (guint i = 0; i < count; i++) {
        g_autoptr(GError) error = NULL;

        if (saved_image_read_extent(image, i, stored, unpacked, &error))
            continue;
        if (bad++ < MOST_TOLD)
            json_array_append_new(damages, text_or_null(error->message));
    }
    return bad;
}

static void print_damages(const char *path, json_t *damages, uint64_t bad, uint64_t all)
{
    json_t *damage;
    size_t i;

    json_array_foreach(damages, i, damage)
        fprintf(stderr, "%s: %s\n", g_get_prgname(), json_string_value(damage));
    fprintf(stderr, "%s: %s: %" PRIu64 " of %" PRIu64 " extents are damaged\n", g_get_prgname(),
            path, bad, all);
}

static void print_missing(const char *path, json_t *files)
{
    json_t *file;
    size_t i;

    json_array_foreach(files, i, file) if (!json_flag_or(file, "there", FALSE))
        fprintf(stderr, "%s: %s: disk file %s is not there\n", g_get_prgname(), path,
                json_text_or(file, "file", "?"));
}

static int verify(const Options *o, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = open_whole(o, path, &error);
    g_autoptr(json_t) damages = json_array();
    g_autoptr(json_t) files = NULL;
    SavedImageTotals totals;
    uint64_t bad;
    guint missing;

    if (!image)
        return fail(o, &error);
    files = image_disks_describe(image);
    missing = image_disks_count_missing(files);
    saved_image_get_totals(image, &totals);
    bad = check_extents(image, totals.extents, damages);
    if (bad > 0)
        print_damages(path, damages, bad, totals.extents);
    print_missing(path, files);
    if (o->common.json) {
        g_autoptr(json_t) object = json_pack("{s:s, s:i, s:I, s:I, s:O, s:O}", "status",
                                             bad       ? "damaged"
                                             : missing ? "incomplete"
                                                       : "whole",
                                             "files", (int)saved_image_get_depth(image), "extents",
                                             (json_int_t)totals.extents, "damaged", (json_int_t)bad,
                                             "damages", damages, "disk_files", files);

        cli_print_json(object);
    } else if (bad == 0 && missing == 0) {
        g_autofree char *size = format_size(totals.pages * PAGE_BYTES);

        printf("%s is whole: %" PRIu64 " extents in %u %s, %s of memory.\n", path, totals.extents,
               saved_image_get_depth(image), saved_image_get_depth(image) == 1 ? "file" : "files",
               size);
    }
    return bad || missing ? EXIT_FAILED : EXIT_DONE;
}

/* ---- list ---- */

static gboolean has_magic(const char *path)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    char magic[IMAGE_MAGIC_BYTES];

    return fd >= 0 && read(fd, magic, sizeof magic) == (ssize_t)sizeof magic &&
           memcmp(magic, IMAGE_MAGIC, sizeof magic) == 0;
}

static json_t *describe_file(const Options *o, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = open_image(o, path, TRUE, &error);
    json_t *entry = image ? describe(image) : json_object();

    json_object_set_new(entry, "error", text_or_null(error ? error->message : NULL));
    if (image) {
        json_t *name = json_object_get(json_object_get(entry, "machine"), "guest");

        json_object_set(entry, "name", json_is_string(name) ? name : json_null());
        json_object_del(entry, "machine");
    } else {
        json_object_set_new(entry, "file", text_or_null(path));
    }
    return entry;
}

static int compare_names(gconstpointer one, gconstpointer other)
{
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

static GPtrArray *find_files(const char *folder, GError **error)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, error);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path =
            g_str_equal(folder, ".") ? g_strdup(name) : g_build_filename(folder, name, NULL);

        if (has_magic(path))
            g_ptr_array_add(paths, g_steal_pointer(&path));
    }
    g_ptr_array_sort(paths, compare_names);
    return entries ? g_steal_pointer(&paths) : NULL;
}

/* The file of the list that has this id, or NULL. */
static const char *find_id(json_t *images, const char *id)
{
    json_t *entry;
    size_t i;

    json_array_foreach(images, i, entry) if (g_strcmp0(json_text_or(entry, "id", NULL), id) ==
                                             0) return json_text_or(entry, "file", NULL);
    return NULL;
}

static void add_row(Table *table, json_t *images, json_t *entry)
{
    const char *base = json_text_or(entry, "base", NULL);
    const char *base_file = base ? find_id(images, base) : NULL;
    const char *failure = json_text_or(entry, "error", NULL);
    g_autofree char *missing = base ? g_strdup_printf("not here: %s", base) : NULL;
    g_autofree char *memory = format_size(json_count_or(entry, "memory_bytes", 0));
    g_autofree char *size = format_size(json_count_or(entry, "allocated_bytes", 0));

    if (failure)
        table_add(table, json_text_or(entry, "file", "?"), NULL, NULL, NULL, NULL, failure, NULL);
    else
        table_add(table, json_text_or(entry, "file", "?"), json_text_or(entry, "name", NULL),
                  memory, size, json_text_or(entry, "id", "?"),
                  !base       ? "full"
                  : base_file ? base_file
                              : missing,
                  NULL);
}

static void print_list(json_t *images, const char *folder)
{
    static const char *const titles[] = {"FILE", "MACHINE", "MEMORY", "ON DISK",
                                         "ID",   "BASE",    NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *entry;
    size_t i;

    if (json_array_size(images) == 0) {
        printf("There are no saved images in %s.\n", folder);
        return;
    }
    json_array_foreach(images, i, entry) add_row(table, images, entry);
    table_print(table);
}

static int list(const Options *o, const char *folder)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) paths = find_files(folder, &error);
    g_autoptr(json_t) object = NULL;
    json_t *images;

    if (!paths)
        return cli_fail(&o->common, error);
    object = json_pack("{s:[]}", "images");
    images = json_object_get(object, "images");
    for (guint i = 0; i < paths->len; i++)
        json_array_append_new(images, describe_file(o, paths->pdata[i]));
    if (o->common.json)
        cli_print_json(object);
    else
        print_list(images, folder);
    return EXIT_DONE;
}

/* ---- merge ---- */

static void print_needed(json_t *files)
{
    json_t *file;
    size_t i;

    json_array_foreach(files, i, file)
        printf(i == 0 ? "It needs these copies of disks beside it, as before: %s" : ", %s",
               json_text_or(file, "file", "?"));
    if (json_array_size(files) > 0)
        printf(".\n");
}

static int show_merged(const Options *o, const SavedImage *image, const char *out,
                       const ImageId *id)
{
    g_autofree char *text = image_id_format(id);
    guint files = saved_image_get_depth(image);
    g_autoptr(json_t) disks = image_disks_describe(image);

    if (o->common.json) {
        g_autoptr(json_t) object = json_pack("{s:o, s:s, s:i, s:O}", "file", text_or_null(out),
                                             "id", text, "merged", (int)files, "disk_files", disks);

        cli_print_json(object);
    } else {
        printf("%s is a full image, made of %u %s.\n", out, files, files == 1 ? "file" : "files");
        print_needed(disks);
    }
    return EXIT_DONE;
}

static int merge(const Options *o, const char *path, const char *out)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = open_whole(o, path, &error);
    ImageId id;

    if (image && image_merge(image, out, o->key, o->overwrite, &id, &error))
        return show_merged(o, image, out, &id);
    cli_add_hint(&error, VMFERRY_ERROR_EXISTS, "--overwrite replaces it");
    return fail(o, &error);
}

/* ---- the verb ---- */

static int dispatch(const Options *o, int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (o->overwrite && !g_str_equal(what, "merge"))
        return cli_usage_error("--overwrite is for merge only");
    if (g_str_equal(what, "info") && argc == 3)
        return info(o, argv[2]);
    if (g_str_equal(what, "verify") && argc == 3)
        return verify(o, argv[2]);
    if (g_str_equal(what, "list") && argc <= 3)
        return list(o, argc == 3 ? argv[2] : ".");
    if (g_str_equal(what, "merge") && argc == 4)
        return merge(o, argv[2], argv[3]);
    return cli_usage_error(
        "wanted `info FILE`, `verify FILE`, `list [FOLDER]` or `merge FILE OUT`");
}

int verb_image(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"base", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o.bases,
         "A base that is in another folder; may be given several times", "FILE"},
        {"key-file", 0, 0, G_OPTION_ARG_FILENAME, &o.key_file,
         "The key that the images were written with", "FILE"},
        {"overwrite", 0, 0, G_OPTION_ARG_NONE, &o.overwrite, "merge: replace OUT", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "info FILE | verify FILE | list [FOLDER] | merge FILE OUT",
                    .description = description,
                    .entries = entries,
                    .common = &o.common};
    g_autoptr(GError) error = NULL;

    if (!cli_parse(&spec, &argc, &argv))
        return EXIT_USAGE;
    if (!read_key(&o, &error))
        return cli_fail(&o.common, error);
    return dispatch(&o, argc, argv);
}
