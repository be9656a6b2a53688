/* The stream as sections. */
#include "state/qemu_form.h"

#include <string.h>

#include "base/error.h"
#include "state/qemu_form_private.h"
#include "state/qemu_stream.h"

#define STREAM_MAGIC 0x5145564du
#define STREAM_VERSION 3u
#define HEAD_BYTES 8u
#define FOOTER_BYTES 5u

/* What is looked at in search of ends, in all: bytes, and places where the rest is read. */
#define SEARCH_MAX_BYTES ((size_t)1 << 28)
#define SEARCH_MAX_PLACES 4096u
/* A byte that is read as a field is as dear as so many that are looked at. */
#define FIELD_COST 256u

static void free_section(gpointer data)
{
    QemuSection *section = data;

    g_free(section->name);
    qemu_record_free(section->record);
    g_clear_pointer(&section->opaque, g_bytes_unref);
    g_free(section);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuSection, free_section)

void qemu_form_free(QemuForm *form)
{
    if (!form)
        return;
    g_ptr_array_unref(form->sections);
    g_free(form);
}

/* ---- reading ----
 *
 * From a place on, the rest can be read in no way, in one, or in several.  What is known of a place
 * is kept, so that none is looked at twice. */

typedef struct {
    gboolean known;
    guint ways;           /* 0, 1, 2: more than one */
    QemuSection *section; /* NULL: the stream's end */
    size_t next;
} Rest;

typedef struct {
    const uint8_t *data;
    size_t length;
    GHashTable *rests; /* place → Rest */
    size_t searched;
    guint places, depth;
    char *problem; /* the section that stopped the way that got furthest */
    size_t furthest;
} Search;

static void free_rest(gpointer data)
{
    Rest *rest = data;

    if (rest->section)
        free_section(rest->section);
    g_free(rest);
}

static const Rest *read_rest(Search *search, size_t at);

static gboolean name_is_printable(const uint8_t *name, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!g_ascii_isprint((char)name[i]))
            return FALSE;
    return length > 0;
}

/* Takes the header of a FULL section; NULL where there is none. */
static QemuSection *read_header(ByteReader *reader)
{
    g_autoptr(QemuSection) section = g_new0(QemuSection, 1);
    uint8_t type = byte_read_u8(reader), length;
    const uint8_t *name;

    section->id = byte_read_be32(reader);
    length = byte_read_u8(reader);
    name = byte_read_span(reader, length);
    section->instance = byte_read_be32(reader);
    section->version = byte_read_be32(reader);
    if (!byte_reader_ok(reader) || type != QEMU_SECTION_FULL || !name_is_printable(name, length))
        return NULL;
    section->name = g_strndup((const char *)name, length);
    return g_steal_pointer(&section);
}

static gboolean take_footer(ByteReader *reader, uint32_t id)
{
    uint8_t type = byte_read_u8(reader);
    uint32_t found = byte_read_be32(reader);

    return byte_reader_ok(reader) && type == QEMU_SECTION_FOOTER && found == id;
}

/* Counts a way to read a section that ends at *next*; the first one is kept. */
static void add_way(Search *search, Rest *rest, size_t next, QemuRecord *record)
{
    g_autoptr(QemuRecord) owned = record;
    const Rest *behind = read_rest(search, next);

    if (behind->ways > 0 && rest->ways == 0) {
        rest->section->record = g_steal_pointer(&owned);
        rest->next = next;
    }
    rest->ways = MIN(rest->ways + behind->ways, 2);
}

/* The next footer of that section, or NULL.  Most of a state is zero: memchr() is fast there. */
static const uint8_t *find_footer(Search *search, const uint8_t *from, uint32_t id)
{
    const uint8_t wanted[FOOTER_BYTES] = {QEMU_SECTION_FOOTER, (uint8_t)(id >> 24),
                                          (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};
    const uint8_t *end = search->data + search->length, *found = from;

    while ((found = memchr(found, QEMU_SECTION_FOOTER, (size_t)(end - found))) &&
           (size_t)(end - found) >= FOOTER_BYTES && memcmp(found, wanted, FOOTER_BYTES) != 0)
        found++;
    if (found && (size_t)(end - found) < FOOTER_BYTES)
        found = NULL;
    search->searched += (size_t)((found ? found : end) - from);
    return search->searched <= SEARCH_MAX_BYTES ? found : NULL;
}

/* Reads a section with that number of entries.  Returns the bytes that its fields have; 0 where they
 * do not follow the layout. */
static size_t read_entries(Search *search, ByteReader content, Rest *rest, const QemuLayout *layout,
                           guint fits, gboolean *ret_has_fits)
{
    QemuReading reading = {.reader = content, .fits = fits};
    g_autoptr(QemuRecord) record = qemu_record_read(&reading, layout, rest->section->version, NULL);
    size_t bytes = (size_t)(reading.reader.at - content.at);

    search->searched += FIELD_COST * bytes;
    *ret_has_fits = reading.has_fits;
    if (!record)
        return 0;
    if (take_footer(&reading.reader, rest->section->id))
        add_way(search, rest, (size_t)(reading.reader.at - search->data), g_steal_pointer(&record));
    return bytes;
}

/* By a layout.  Where it has an array whose number of entries is not in the stream, that is the last
 * thing in the section: how long one is, is seen with one of them, and how many, by the footers. */
static void read_by_layout(Search *search, ByteReader content, Rest *rest, const QemuLayout *layout)
{
    gboolean has_fits;
    size_t none = read_entries(search, content, rest, layout, 0, &has_fits), one;
    const uint8_t *footer = content.at + none;

    if (none == 0 || !has_fits)
        return;
    one = read_entries(search, content, rest, layout, 1, &has_fits);
    while (one > none && (footer = find_footer(search, footer, rest->section->id))) {
        size_t bytes = (size_t)(footer - content.at) - none, each = one - none;

        if (bytes % each == 0 && bytes / each > 1 && bytes / each <= QEMU_MAX_FITS)
            (void)read_entries(search, content, rest, layout, (guint)(bytes / each), &has_fits);
        footer++;
    }
}

static void read_known(Search *search, ByteReader content, Rest *rest)
{
    const QemuLayout *const *layouts = qemu_layouts_of_section(rest->section->name);

    for (; layouts && *layouts && rest->ways == 0; layouts++)
        if ((*layouts)->version == rest->section->version)
            read_by_layout(search, content, rest, *layouts);
}

/* Tries all footers of that section. */
static void read_opaque(Search *search, const uint8_t *content, Rest *rest)
{
    const uint8_t *footer = content;

    while (rest->ways < 2 && (footer = find_footer(search, footer, rest->section->id))) {
        gboolean first = rest->ways == 0;

        add_way(search, rest, (size_t)(footer - search->data) + FOOTER_BYTES, NULL);
        if (first && rest->ways > 0)
            rest->section->opaque = g_bytes_new(content, (gsize)(footer - content));
        footer++;
    }
}

static void note_problem(Search *search, const Rest *rest, size_t at)
{
    if (rest->ways == 1 || !rest->section || (search->problem && at < search->furthest))
        return;
    g_free(search->problem);
    search->problem = g_strdup(rest->section->name);
    search->furthest = at;
}

static void read_section(Search *search, size_t at, Rest *rest)
{
    ByteReader reader = byte_reader_make(search->data + at, search->length - at);

    if (reader.left == 1 && *reader.at == QEMU_SECTION_EOF) {
        rest->ways = 1;
        return;
    }
    rest->section = read_header(&reader);
    if (!rest->section)
        return;
    read_known(search, reader, rest);
    if (rest->ways == 0)
        read_opaque(search, reader.at, rest);
    note_problem(search, rest, at);
}

static const Rest *read_rest(Search *search, size_t at)
{
    Rest *rest = g_hash_table_lookup(search->rests, GSIZE_TO_POINTER(at));

    if (rest)
        return rest;
    rest = g_new0(Rest, 1);
    g_hash_table_insert(search->rests, GSIZE_TO_POINTER(at), rest);
    if (search->depth >= QEMU_MAX_SECTIONS || search->places++ >= SEARCH_MAX_PLACES)
        return rest;
    search->depth++;
    read_section(search, at, rest);
    search->depth--;
    return rest;
}

static QemuForm *collect(Search *search)
{
    QemuForm *form = g_new0(QemuForm, 1);
    size_t at = HEAD_BYTES;

    form->sections = g_ptr_array_new_with_free_func(free_section);
    for (;;) {
        Rest *rest = g_hash_table_lookup(search->rests, GSIZE_TO_POINTER(at));

        if (!rest->section)
            return form;
        g_ptr_array_add(form->sections, g_steal_pointer(&rest->section));
        at = rest->next;
    }
}

QemuForm *qemu_form_read(const void *data, size_t length, GError **error)
{
    g_autoptr(GHashTable) rests = g_hash_table_new_full(NULL, NULL, NULL, free_rest);
    Search search = {.data = data, .length = length, .rests = rests};
    g_autofree char *problem = NULL;
    QemuForm *form = NULL;

    if (!qemu_stream_check_saved(data, length, error))
        return NULL;
    if (read_rest(&search, HEAD_BYTES)->ways == 1)
        form = collect(&search);
    problem = search.problem;
    if (!form)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "QEMU state: section \"%s\" is not known here, and where it ends cannot be told",
                  problem ? problem : "");
    return form;
}

/* ---- writing ---- */

void qemu_section_write_content(const QemuSection *section, GByteArray *out)
{
    if (section->record)
        qemu_record_write(out, section->record);
    else
        byte_write_span(out, g_bytes_get_data(section->opaque, NULL),
                        g_bytes_get_size(section->opaque));
}

void qemu_section_set_opaque(QemuSection *section, const void *bytes, size_t length)
{
    g_clear_pointer(&section->record, qemu_record_free);
    g_clear_pointer(&section->opaque, g_bytes_unref);
    section->opaque = g_bytes_new(bytes, length);
}

static void write_section(GByteArray *out, const QemuSection *section)
{
    byte_write_u8(out, QEMU_SECTION_FULL);
    byte_write_be32(out, section->id);
    byte_write_u8(out, (uint8_t)strlen(section->name));
    byte_write_span(out, section->name, strlen(section->name));
    byte_write_be32(out, section->instance);
    byte_write_be32(out, section->version);
    qemu_section_write_content(section, out);
    byte_write_u8(out, QEMU_SECTION_FOOTER);
    byte_write_be32(out, section->id);
}

GBytes *qemu_form_write(const QemuForm *form)
{
    GByteArray *out = g_byte_array_new();

    byte_write_be32(out, STREAM_MAGIC);
    byte_write_be32(out, STREAM_VERSION);
    for (guint i = 0; i < form->sections->len; i++)
        write_section(out, form->sections->pdata[i]);
    byte_write_u8(out, QEMU_SECTION_EOF);
    return g_byte_array_free_to_bytes(out);
}

/* ---- sections ---- */

const char *qemu_section_kind(const QemuSection *section)
{
    const char *slash = strrchr(section->name, '/');

    return slash ? slash + 1 : section->name;
}

QemuSection *qemu_form_find(const QemuForm *form, const char *name, uint32_t instance)
{
    for (guint i = 0; i < form->sections->len; i++) {
        QemuSection *section = form->sections->pdata[i];

        if (section->instance == instance &&
            (strcmp(section->name, name) == 0 || strcmp(qemu_section_kind(section), name) == 0))
            return section;
    }
    return NULL;
}
