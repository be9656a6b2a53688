#include "image/image_index.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/page.h"
#include "image/image_order.h"

/* Of one stored page of an extent, while a map is read: is it named already? */
#define BITMAP_WORDS (IMAGE_MAX_EXTENT_PAGES / 64u)

/* What a GByteArray can hold. */
#define MOST_ESTIMATED_BYTES (UINT64_C(3) << 30)

G_STATIC_ASSERT(IMAGE_MAX_EXTENT_PAGES % 64 == 0);
G_STATIC_ASSERT(IMAGE_MAX_EXTENT_BYTES == IMAGE_MAX_EXTENT_PAGES * PAGE_BYTES);
G_STATIC_ASSERT(IMAGE_ALIGNMENT == PAGE_BYTES);

/* ---- the structure ---- */

static ImageIndex *new_empty(void)
{
    ImageIndex *index = g_new0(ImageIndex, 1);

    index->extents = g_array_new(FALSE, FALSE, sizeof(ImageExtent));
    index->maps = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    index->order = g_array_new(FALSE, FALSE, sizeof(ImageRun));
    return index;
}

static void add_maps(ImageIndex *index)
{
    for (guint i = 0; i < index->regions.count; i++)
        g_ptr_array_add(index->maps, g_array_new(FALSE, FALSE, sizeof(ImageMapRun)));
}

ImageIndex *image_index_new(const PageRegions *regions)
{
    ImageIndex *index = new_empty();

    index->regions.count = regions->count;
    index->regions.pages = g_memdup2(regions->pages, regions->count * sizeof(uint64_t));
    index->regions.names = g_new0(char *, regions->count + 1);
    for (guint i = 0; i < regions->count; i++)
        index->regions.names[i] = g_strdup(regions->names[i]);
    add_maps(index);
    return index;
}

void image_index_free(ImageIndex *index)
{
    if (!index)
        return;
    g_free(index->regions.pages);
    g_strfreev(index->regions.names);
    g_array_unref(index->extents);
    g_ptr_array_unref(index->maps);
    g_free(index->machine);
    g_clear_pointer(&index->state, g_bytes_unref);
    g_free(index->note);
    g_array_unref(index->order);
    g_free(index->base_name);
    g_free(index);
}

/* ---- limits ---- */

/* Fit for messages. */
static gboolean is_plain(const char *name)
{
    for (const char *at = name; *at; at++)
        if (g_ascii_iscntrl(*at))
            return FALSE;
    return *name && strlen(name) <= IMAGE_MAX_NAME_BYTES && g_utf8_validate(name, -1, NULL);
}

static gboolean check_region(const char *name, uint64_t pages, uint64_t total, GError **error)
{
    if (!is_plain(name)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a RAM block has no valid name");
        return FALSE;
    }
    if (pages == 0 || pages > IMAGE_MAX_PAGES - total) {
        error_set(error, VMFERRY_ERROR_INVALID, "RAM block %s of %" PRIu64 " pages", name, pages);
        return FALSE;
    }
    return TRUE;
}

gboolean image_regions_check(const PageRegions *regions, GError **error)
{
    uint64_t total = 0;

    if (regions->count == 0 || regions->count > IMAGE_MAX_REGIONS) {
        error_set(error, VMFERRY_ERROR_INVALID, "%u RAM blocks; there must be 1 to %u",
                  regions->count, IMAGE_MAX_REGIONS);
        return FALSE;
    }
    for (guint i = 0; i < regions->count; i++) {
        if (!check_region(regions->names[i], regions->pages[i], total, error))
            return FALSE;
        total += regions->pages[i];
    }
    return TRUE;
}

gboolean image_base_name_check(const char *name, GError **error)
{
    if (is_plain(name) && !strchr(name, '/') && !g_str_equal(name, ".") && !g_str_equal(name, ".."))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the recorded name of the base is not one of a file");
    return FALSE;
}

gboolean image_text_check(const char *what, const char *text, size_t length, size_t limit,
                          GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, limit, error);

    if (!object)
        g_prefix_error(error, "%s: ", what);
    return object != NULL;
}

/* ---- writing ---- */

static guint digest_bytes(ImageDigestKind kind)
{
    return kind == IMAGE_DIGEST_XXH3 ? 16 : 32;
}

static void write_regions(GByteArray *out, const ImageIndex *index)
{
    byte_write_varint(out, index->regions.count);
    for (guint i = 0; i < index->regions.count; i++) {
        const char *name = index->regions.names[i];

        byte_write_varint(out, index->regions.pages[i]);
        byte_write_varint(out, strlen(name));
        byte_write_span(out, name, strlen(name));
    }
}

static uint64_t end_of(const ImageExtent *extent)
{
    uint64_t end = extent->place + extent->stored_bytes;

    return (end + IMAGE_ALIGNMENT - 1) / IMAGE_ALIGNMENT * IMAGE_ALIGNMENT;
}

static void write_extents(GByteArray *out, const ImageIndex *index, ImageDigestKind kind)
{
    uint64_t from = IMAGE_HEADER_BYTES;

    byte_write_varint(out, index->extents->len);
    for (guint i = 0; i < index->extents->len; i++) {
        const ImageExtent *extent = &g_array_index(index->extents, ImageExtent, i);

        byte_write_varint(out, (extent->place - from) / IMAGE_ALIGNMENT);
        byte_write_varint(out, extent->stored_bytes);
        byte_write_varint(out, extent->pages);
        byte_write_u8(out, extent->method);
        byte_write_span(out, extent->digest, digest_bytes(kind));
        from = end_of(extent);
    }
}

static void write_map(GByteArray *out, const GArray *map)
{
    uint64_t from = 0;

    byte_write_varint(out, map->len);
    for (guint i = 0; i < map->len; i++) {
        const ImageMapRun *run = &g_array_index(map, ImageMapRun, i);

        byte_write_varint(out, run->first - from);
        byte_write_varint(out, run->count);
        if (run->extent == IMAGE_EXTENT_ZERO) {
            byte_write_varint(out, 0);
        } else {
            byte_write_varint(out, (uint64_t)run->extent + 1);
            byte_write_varint(out, run->offset);
        }
        from = run->first + run->count;
    }
}

static void write_text(GByteArray *out, const char *text)
{
    byte_write_span(out, text, strlen(text));
}

static gboolean has_section(const ImageIndex *index, ImageSection type)
{
    switch (type) {
    case IMAGE_SECTION_NOTE:
        return index->note != NULL;
    case IMAGE_SECTION_ORDER:
        return index->order->len > 0;
    case IMAGE_SECTION_BASE_NAME:
        return index->base_name != NULL;
    default:
        return TRUE;
    }
}

static void write_content(GByteArray *out, const ImageIndex *index, ImageSection type,
                          ImageDigestKind kind)
{
    switch (type) {
    case IMAGE_SECTION_REGIONS:
        write_regions(out, index);
        break;
    case IMAGE_SECTION_EXTENTS:
        write_extents(out, index, kind);
        break;
    case IMAGE_SECTION_MAP:
        for (guint i = 0; i < index->maps->len; i++)
            write_map(out, index->maps->pdata[i]);
        break;
    case IMAGE_SECTION_MACHINE:
        write_text(out, index->machine);
        break;
    case IMAGE_SECTION_STATE:
        byte_write_span(out, g_bytes_get_data(index->state, NULL), g_bytes_get_size(index->state));
        break;
    case IMAGE_SECTION_NOTE:
        write_text(out, index->note);
        break;
    case IMAGE_SECTION_ORDER:
        image_order_encode(out, index->order);
        break;
    case IMAGE_SECTION_BASE_NAME:
        write_text(out, index->base_name);
        break;
    }
}

static void write_section(GByteArray *out, const ImageIndex *index, ImageSection type,
                          ImageDigestKind kind)
{
    g_autoptr(GByteArray) content = g_byte_array_new();
    uint8_t digest[IMAGE_DIGEST_BYTES];

    write_content(content, index, type, kind);
    image_digest_compute(kind, content->data, content->len, digest);
    byte_write_le32(out, type);
    byte_write_le32(out, type <= IMAGE_SECTION_STATE ? IMAGE_SECTION_CRITICAL : 0);
    byte_write_le64(out, content->len);
    byte_write_span(out, digest, sizeof digest);
    byte_write_span(out, content->data, content->len);
    while (out->len % IMAGE_SECTION_ALIGNMENT != 0)
        byte_write_u8(out, 0);
}

/* More than it takes. */
static uint64_t estimate_bytes(const ImageIndex *index)
{
    uint64_t bytes = IMAGE_MAX_MACHINE_BYTES + IMAGE_MAX_NOTE_BYTES +
                     g_bytes_get_size(index->state) + index->regions.count * UINT64_C(300) + 4096;

    bytes += index->extents->len * (uint64_t)(11 + IMAGE_DIGEST_BYTES);
    bytes += index->order->len * (uint64_t)12;
    for (guint i = 0; i < index->maps->len; i++)
        bytes += ((GArray *)index->maps->pdata[i])->len * (uint64_t)17;
    return bytes;
}

GByteArray *image_index_encode(const ImageIndex *index, ImageDigestKind kind, GError **error)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint64_t most = estimate_bytes(index);

    if (most <= MOST_ESTIMATED_BYTES)
        for (guint type = IMAGE_SECTION_REGIONS; type <= IMAGE_SECTION_BASE_NAME; type++)
            if (has_section(index, (ImageSection)type))
                write_section(out, index, (ImageSection)type, kind);
    if (most <= MOST_ESTIMATED_BYTES && out->len <= IMAGE_MAX_INDEX_BYTES)
        return g_steal_pointer(&out);
    error_set(error, VMFERRY_ERROR_INVALID,
              "the pages are in more pieces than an index has room for (%u extents)",
              index->extents->len);
    return NULL;
}

/* ---- sections ---- */

static const char *section_name(uint32_t type)
{
    static const char *const names[] = {
        [IMAGE_SECTION_REGIONS] = "regions", [IMAGE_SECTION_EXTENTS] = "extents",
        [IMAGE_SECTION_MAP] = "map",         [IMAGE_SECTION_MACHINE] = "machine",
        [IMAGE_SECTION_STATE] = "state",     [IMAGE_SECTION_NOTE] = "note",
        [IMAGE_SECTION_ORDER] = "order",     [IMAGE_SECTION_BASE_NAME] = "base name",
    };

    return type > 0 && type < G_N_ELEMENTS(names) ? names[type] : "unknown";
}

typedef struct {
    uint32_t type, flags;
    const uint8_t *bytes, *digest;
    size_t length;
} Section;

/* The next section; FALSE at the end, or (with *reader* failed) where what comes is none. */
static gboolean next_section(ByteReader *reader, Section *ret)
{
    uint64_t length;

    if (reader->left == 0)
        return FALSE;
    ret->type = byte_read_le32(reader);
    ret->flags = byte_read_le32(reader);
    length = byte_read_le64(reader);
    ret->digest = byte_read_span(reader, IMAGE_DIGEST_BYTES);
    if (length > reader->left)
        reader->failed = TRUE;
    if (!byte_reader_ok(reader))
        return FALSE;
    ret->length = (size_t)length;
    ret->bytes = byte_read_span(reader, ret->length);
    for (size_t i = ret->length; i % IMAGE_SECTION_ALIGNMENT != 0; i++)
        if (byte_read_u8(reader) != 0)
            reader->failed = TRUE;
    return byte_reader_ok(reader);
}

const char *image_index_find_damage(const uint8_t *bytes, size_t length, ImageDigestKind kind,
                                    size_t *ret_place)
{
    ByteReader reader = byte_reader_make(bytes, length);
    Section section;

    *ret_place = 0;
    while (next_section(&reader, &section)) {
        uint8_t digest[IMAGE_DIGEST_BYTES];

        image_digest_compute(kind, section.bytes, section.length, digest);
        if (!image_digest_is_equal(digest, section.digest))
            return section_name(section.type);
        *ret_place = length - reader.left;
    }
    return byte_reader_ok(&reader) ? NULL : "unknown";
}

/* ---- reading ---- */

/* What has been read, and what it is checked against. */
typedef struct {
    ImageIndex *index;
    ImageDigestKind kind;
    uint64_t place;
    gboolean has_base;
    uint32_t last_type;
} Decoding;

static gboolean malformed(GError **error, const char *what)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s", what);
    return FALSE;
}

static gboolean read_region(ByteReader *reader, PageRegions *regions, uint64_t *total,
                            GError **error)
{
    uint64_t pages = byte_read_varint(reader);
    uint64_t length = byte_read_varint(reader);
    const uint8_t *name = byte_read_span(reader, MIN(length, IMAGE_MAX_NAME_BYTES + 1));

    if (!name || memchr(name, 0, MIN(length, IMAGE_MAX_NAME_BYTES + 1)))
        return malformed(error, "a RAM block is cut off");
    regions->names[regions->count] = g_strndup((const char *)name, length);
    regions->pages[regions->count] = pages;
    if (!check_region(regions->names[regions->count++], pages, *total, error))
        return FALSE;
    *total += pages;
    return TRUE;
}

static gboolean read_regions(Decoding *decoding, ByteReader *reader, GError **error)
{
    PageRegions *regions = &decoding->index->regions;
    uint64_t count = byte_read_varint(reader), total = 0;

    if (!byte_reader_ok(reader) || count == 0 || count > IMAGE_MAX_REGIONS)
        return malformed(error, "a wrong number of RAM blocks");
    regions->pages = g_new0(uint64_t, count);
    regions->names = g_new0(char *, count + 1);
    for (uint64_t i = 0; i < count; i++)
        if (!read_region(reader, regions, &total, error))
            return FALSE;
    add_maps(decoding->index);
    return TRUE;
}

static gboolean is_packed_right(const ImageExtent *extent)
{
    uint64_t bytes = extent->pages * PAGE_BYTES;

    switch ((PackMethod)extent->method) {
    case PACK_NONE:
        return extent->stored_bytes == bytes;
    case PACK_LZ4:
    case PACK_ZSTD:
        return extent->stored_bytes > 0 && extent->stored_bytes <= bytes;
    }
    return FALSE;
}

/* *from*: where the extent before it ends. */
static gboolean read_extent(const Decoding *decoding, ByteReader *reader, uint64_t from,
                            ImageExtent *ret, GError **error)
{
    uint64_t gap = byte_read_varint(reader);
    uint64_t stored_bytes = byte_read_varint(reader);
    uint64_t pages = byte_read_varint(reader);
    const uint8_t *digest;

    memset(ret, 0, sizeof *ret);
    ret->method = byte_read_u8(reader);
    digest = byte_read_span(reader, digest_bytes(decoding->kind));
    if (!digest)
        return malformed(error, "an extent is cut off");
    memcpy(ret->digest, digest, digest_bytes(decoding->kind));
    if (pages == 0 || pages > IMAGE_MAX_EXTENT_PAGES || stored_bytes > IMAGE_MAX_EXTENT_BYTES)
        return malformed(error, "an extent is empty or too long");
    ret->pages = (uint16_t)pages;
    ret->stored_bytes = (uint32_t)stored_bytes;
    if (!is_packed_right(ret))
        return malformed(error, "an extent of this length cannot have its pages");
    /* Divided, so that no sum can overflow. */
    if (gap > (decoding->place - from) / IMAGE_ALIGNMENT)
        return malformed(error, "an extent begins behind the index");
    ret->place = from + gap * IMAGE_ALIGNMENT;
    if (end_of(ret) > decoding->place)
        return malformed(error, "an extent reaches into the index");
    return TRUE;
}

static gboolean read_extents(Decoding *decoding, ByteReader *reader, GError **error)
{
    uint64_t count = byte_read_varint(reader);
    uint64_t from = IMAGE_HEADER_BYTES;

    if (!byte_reader_ok(reader) || count > IMAGE_MAX_EXTENTS)
        return malformed(error, "a wrong number of extents");
    for (uint64_t i = 0; i < count; i++) {
        ImageExtent extent;

        if (!read_extent(decoding, reader, from, &extent, error))
            return FALSE;
        g_array_append_val(decoding->index->extents, extent);
        from = end_of(&extent);
    }
    return TRUE;
}

/* What a map says of an extent, while it is read. */
typedef struct {
    uint32_t region_and_one; /* 0: no page of it has been named */
    uint64_t named[BITMAP_WORDS];
} ExtentUse;

static gboolean take_stored(ExtentUse *use, guint region, const ImageMapRun *run)
{
    if (use->region_and_one != 0 && use->region_and_one != region + 1)
        return FALSE;
    use->region_and_one = region + 1;
    for (uint64_t page = run->offset; page < run->offset + run->count; page++) {
        uint64_t bit = UINT64_C(1) << page % 64;

        if (use->named[page / 64] & bit)
            return FALSE;
        use->named[page / 64] |= bit;
    }
    return TRUE;
}

static gboolean read_place(const Decoding *decoding, ByteReader *reader, guint region,
                           ExtentUse *uses, ImageMapRun *run, GError **error)
{
    uint64_t extent = byte_read_varint(reader);
    uint64_t offset;
    uint64_t pages;

    run->extent = IMAGE_EXTENT_ZERO;
    run->offset = 0;
    if (extent == 0)
        return TRUE;
    offset = byte_read_varint(reader);
    if (extent > decoding->index->extents->len)
        return malformed(error, "a run is in no extent");
    pages = g_array_index(decoding->index->extents, ImageExtent, extent - 1).pages;
    if (offset >= pages || run->count > pages - offset)
        return malformed(error, "a run is not in its extent");
    run->extent = (uint32_t)extent - 1;
    run->offset = (uint32_t)offset;
    if (!take_stored(&uses[run->extent], region, run))
        return malformed(error, "a stored page is named twice, or an extent by two RAM blocks");
    return TRUE;
}

static gboolean read_map(const Decoding *decoding, ByteReader *reader, guint region,
                         ExtentUse *uses, GError **error)
{
    GArray *map = decoding->index->maps->pdata[region];
    uint64_t pages = decoding->index->regions.pages[region];
    uint64_t runs = byte_read_varint(reader), from = 0;

    for (uint64_t i = 0; i < runs; i++) {
        ImageMapRun run;

        run.first = byte_read_varint(reader);
        run.count = byte_read_varint(reader);
        if (!byte_reader_ok(reader))
            return malformed(error, "a run is cut off");
        if (run.first > pages - from || run.count == 0 || run.count > pages - from - run.first)
            return malformed(error, "a run is not in its RAM block");
        run.first += from;
        if (!read_place(decoding, reader, region, uses, &run, error))
            return FALSE;
        from = run.first + run.count;
        g_array_append_val(map, run);
    }
    return TRUE;
}

static gboolean read_maps(Decoding *decoding, ByteReader *reader, GError **error)
{
    ImageIndex *index = decoding->index;
    g_autofree ExtentUse *uses = g_new0(ExtentUse, index->extents->len + 1);

    for (guint i = 0; i < index->regions.count; i++)
        if (!read_map(decoding, reader, i, uses, error))
            return FALSE;
    return TRUE;
}

/* All that is left. */
static char *take_text(ByteReader *reader)
{
    size_t length = reader->left;

    return g_strndup((const char *)byte_read_span(reader, length), length);
}

static gboolean read_json(ByteReader *reader, const char *what, size_t limit, char **ret,
                          GError **error)
{
    if (!image_text_check(what, (const char *)reader->at, reader->left, limit, error))
        return FALSE;
    *ret = take_text(reader);
    return TRUE;
}

static gboolean read_state(Decoding *decoding, ByteReader *reader, GError **error)
{
    size_t length = reader->left;

    if (length > IMAGE_MAX_STATE_BYTES)
        return malformed(error, "it is too long");
    decoding->index->state = g_bytes_new(byte_read_span(reader, length), length);
    return TRUE;
}

static gboolean read_base_name(Decoding *decoding, ByteReader *reader, GError **error)
{
    if (!decoding->has_base || reader->left > IMAGE_MAX_NAME_BYTES ||
        memchr(reader->at, 0, reader->left))
        return malformed(error, "it is not the name of a file");
    decoding->index->base_name = take_text(reader);
    return image_base_name_check(decoding->index->base_name, error);
}

static gboolean read_content(Decoding *decoding, ImageSection type, ByteReader *reader,
                             GError **error)
{
    switch (type) {
    case IMAGE_SECTION_REGIONS:
        return read_regions(decoding, reader, error);
    case IMAGE_SECTION_EXTENTS:
        return read_extents(decoding, reader, error);
    case IMAGE_SECTION_MAP:
        return read_maps(decoding, reader, error);
    case IMAGE_SECTION_MACHINE:
        return read_json(reader, "machine", IMAGE_MAX_MACHINE_BYTES, &decoding->index->machine,
                         error);
    case IMAGE_SECTION_STATE:
        return read_state(decoding, reader, error);
    case IMAGE_SECTION_NOTE:
        return read_json(reader, "note", IMAGE_MAX_NOTE_BYTES, &decoding->index->note, error);
    case IMAGE_SECTION_ORDER:
        return image_order_decode(reader, &decoding->index->regions, decoding->index->order, error);
    case IMAGE_SECTION_BASE_NAME:
        return read_base_name(decoding, reader, error);
    }
    g_assert_not_reached();
}

static gboolean read_section(Decoding *decoding, const Section *section, GError **error)
{
    ByteReader reader = byte_reader_make(section->bytes, section->length);

    if (section->type <= decoding->last_type)
        return malformed(error, "sections are not in their order");
    /* All that must be there comes first, so nothing is read before what it is checked against. */
    if (section->type > decoding->last_type + 1 && decoding->last_type < IMAGE_SECTION_STATE)
        return malformed(error, "a section is missing");
    decoding->last_type = section->type;
    if (section->type > IMAGE_SECTION_BASE_NAME) {
        if (!(section->flags & IMAGE_SECTION_CRITICAL))
            return TRUE;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "needs section %u, which this vmferry does not know", section->type);
        return FALSE;
    }
    if (!read_content(decoding, (ImageSection)section->type, &reader, error))
        return FALSE;
    if (!byte_reader_ok(&reader) || reader.left > 0)
        return malformed(error, "its length is wrong");
    return TRUE;
}

static gboolean read_sections(Decoding *decoding, const uint8_t *bytes, size_t length,
                              GError **error)
{
    ByteReader reader = byte_reader_make(bytes, length);
    Section section;

    while (next_section(&reader, &section))
        if (!read_section(decoding, &section, error)) {
            g_prefix_error(error, "section %s: ", section_name(section.type));
            return FALSE;
        }
    if (!byte_reader_ok(&reader))
        return malformed(error, "a section is cut off");
    if (decoding->last_type < IMAGE_SECTION_STATE)
        return malformed(error, "a section is missing");
    return TRUE;
}

ImageIndex *image_index_decode(const uint8_t *bytes, size_t length, ImageDigestKind kind,
                               uint64_t place, gboolean has_base, GError **error)
{
    g_autoptr(ImageIndex) index = new_empty();
    Decoding decoding = {index, kind, place, has_base, 0};

    if (!read_sections(&decoding, bytes, length, error)) {
        g_prefix_error(error, "its index: ");
        return NULL;
    }
    return g_steal_pointer(&index);
}
