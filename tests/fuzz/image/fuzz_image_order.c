/* The order of an enemy's pages; the digest is made right, since a mutated one would get no further. */
#include <stdlib.h>
#include <string.h>

#include "image/image_order.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t pages[] = {1000, 1};
    static const PageRegions regions = {2, pages, NULL};
    const ImageId id = {{0}};
    uint8_t digest[IMAGE_DIGEST_BYTES];
    g_autoptr(GByteArray) file = g_byte_array_new(), again = NULL;
    g_autoptr(GArray) runs = NULL, back = NULL;

    byte_write_span(file, data, size);
    image_digest_compute(IMAGE_DIGEST_XXH3, data, size, digest);
    byte_write_span(file, digest, 16);
    runs = image_order_file_decode(file->data, file->len, &id, &regions, NULL);
    if (!runs)
        return 0;
    again = image_order_file_encode(&id, runs);
    if (again->len != file->len || memcmp(again->data, file->data, file->len) != 0)
        abort();
    return 0;
}
