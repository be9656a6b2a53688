/*
 * In which order a machine uses its pages: a section of an image, and a file beside it
 *
 * The section is what was known when the machine was saved.  The file (the image's name with ".order" behind it) is what
 * a restore saw: the pages that the machine waited for, in that order.  Both are hints: who restores the machine brings
 * these pages first.  docs/image-format.md, sections 6 and 9.
 */
#pragma once

#include "base/bytes.h"
#include "image/image_format.h"
#include "image/image_index.h"

#define IMAGE_ORDER_MAGIC "VMFORDER"
#define IMAGE_ORDER_VERSION 1u
#define IMAGE_ORDER_HEAD_BYTES 32u
/* What a file may have; a section may have more. */
#define IMAGE_ORDER_MAX_FILE_BYTES (4u << 20)

/* *runs*: of ImageRun. */
void image_order_encode(GByteArray *out, const GArray *runs);
/* Adds to *runs* what is there; INVALID where a run is not in its region. */
gboolean image_order_decode(ByteReader *reader, const PageRegions *regions, GArray *runs,
                            GError **error);

/* A whole file of the image with this id.  For tests and fuzzing. */
GByteArray *image_order_file_encode(const ImageId *id, const GArray *runs);
GArray *image_order_file_decode(const uint8_t *bytes, size_t length, const ImageId *id,
                                const PageRegions *regions, GError **error);

/* Beside the image at *path*. */
gboolean image_order_write(const char *path, const ImageId *id, const GArray *runs, GError **error);
/* NOT_FOUND where there is none; REFUSED where it is of another image. */
GArray *image_order_read(const char *path, const ImageId *id, const PageRegions *regions,
                         GError **error);
