/*
 * A saved image of an enemy.  What begins with an image's magic is one as it comes.  Anything else is
 * an index, behind a byte that says how many pages of zeroes are in front of it: header, footer and
 * all digests but those of extents are made right for it, since a mutated one would get no further.
 *
 * What is opened is within its limits, all of its pages can be read or are refused, and its index is
 * written again as it was understood.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/page.h"
#include "image/image_index.h"
#include "image/saved_image.h"

/* Of larger machines only some pages are read. */
#define MOST_PAGES 600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- its pages ---- */

static void read_page(SavedImage *image, guint region, uint64_t page)
{
    static ImageNeighbours found;
    uint8_t bytes[PAGE_BYTES];
    gboolean has_page = FALSE;

    (void)page_source_read(saved_image_get_source(image), region, &(PageSpan){page, 1}, 1, bytes,
                           NULL);
    if (!saved_image_find_neighbours(image, region, page, &found, NULL))
        return;
    for (guint i = 0; i < found.count; i++) {
        if (found.spans[i].count == 0 || found.spans[i].first + found.spans[i].count >
                                             saved_image_get_regions(image)->pages[region])
            abort();
        if (page >= found.spans[i].first && page < found.spans[i].first + found.spans[i].count)
            has_page = TRUE;
    }
    if (!has_page || found.count > IMAGE_MAX_EXTENT_PAGES)
        abort();
}

static void read_all(SavedImage *image)
{
    const PageRegions *regions = saved_image_get_regions(image);
    g_autofree uint8_t *stored = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    g_autofree uint8_t *unpacked = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    SavedImageTotals totals;

    saved_image_get_totals(image, &totals);
    if (totals.total_pages > IMAGE_MAX_PAGES || regions->count > IMAGE_MAX_REGIONS)
        abort();
    for (guint i = 0; i < regions->count; i++) {
        for (uint64_t page = 0; page < MIN(regions->pages[i], MOST_PAGES); page++)
            read_page(image, i, page);
        read_page(image, i, regions->pages[i] - 1);
        read_page(image, i, regions->pages[i]);
    }
    for (guint i = 0; i < totals.extents; i++) {
        PageSpan spans[IMAGE_MAX_EXTENT_PAGES];

        (void)saved_image_list_extent(image, i, spans);
        (void)saved_image_read_extent(image, i, stored, unpacked, NULL);
    }
}

static void try_file(const GByteArray *bytes)
{
    const SavedImageOptions alone = {.alone = TRUE};
    autofd int fd = memfd_create("image", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autoptr(SavedImage) image = NULL;

    if (fd < 0 || !fd_write_all(fd, bytes->data, bytes->len, NULL))
        return;
    image = saved_image_open(path, &alone, NULL);
    if (image)
        read_all(image);
}

/* ---- its index ---- */

static void try_index(const uint8_t *index, size_t length, uint64_t place)
{
    g_autoptr(ImageIndex) decoded =
        image_index_decode(index, length, IMAGE_DIGEST_XXH3, place, TRUE, NULL);
    g_autoptr(GByteArray) encoded = NULL, once_more = NULL;
    g_autoptr(ImageIndex) again = NULL;

    if (!decoded)
        return;
    encoded = image_index_encode(decoded, IMAGE_DIGEST_XXH3, NULL);
    if (!encoded)
        abort();
    again = image_index_decode(encoded->data, encoded->len, IMAGE_DIGEST_XXH3, place, TRUE, NULL);
    once_more = again ? image_index_encode(again, IMAGE_DIGEST_XXH3, NULL) : NULL;
    if (!once_more || once_more->len != encoded->len ||
        memcmp(once_more->data, encoded->data, encoded->len) != 0)
        abort();
}

static void try_sealed(const uint8_t *index, size_t length, uint8_t blocks)
{
    const ImageHeader header = {.id = {{1}}, .digest = IMAGE_DIGEST_XXH3};
    g_autoptr(ImageDigester) digester = image_digester_new(IMAGE_DIGEST_XXH3, NULL, NULL);
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    ImageFooter footer = {.index_bytes = length, .id = header.id};
    uint8_t end[IMAGE_FOOTER_BYTES];

    footer.index_place = IMAGE_HEADER_BYTES + blocks * IMAGE_ALIGNMENT;
    footer.place = footer.index_place + length;
    try_index(index, length, footer.index_place);
    g_byte_array_set_size(bytes, (guint)footer.index_place);
    memset(bytes->data, 0, bytes->len);
    image_header_encode(&header, bytes->data);
    if (!image_digester_seal(digester, bytes->data, index, length, footer.digest, NULL))
        abort();
    image_footer_encode(&footer, end);
    g_byte_array_append(bytes, index, (guint)length);
    g_byte_array_append(bytes, end, sizeof end);
    try_file(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    if (size >= IMAGE_MAGIC_BYTES && memcmp(data, IMAGE_MAGIC, IMAGE_MAGIC_BYTES) == 0) {
        g_byte_array_append(bytes, data, (guint)size);
        try_file(bytes);
    } else if (size > 0) {
        try_sealed(data + 1, size - 1, data[0] % 8);
    }
    return 0;
}
