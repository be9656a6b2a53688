/*
 * Reading whole images in the background
 *
 * One thread reads some images one after another and makes a digest of each
 * (image_view_digest_content()), while its owner does something else.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct ImageReader ImageReader;

/* Called in the reader's thread when all are read, or it was cancelled. */
typedef void (*ImageReaderDone)(ImageReader *reader, gpointer user);

ImageReader *image_reader_new(void);

/* Before the start: another image, expected to be of *bytes* bytes.  Returns its
 * number, from 0 on. */
guint image_reader_add(ImageReader *reader, const char *path, uint64_t bytes);

/* *done* may be NULL. */
void image_reader_start(ImageReader *reader, ImageReaderDone done, gpointer user);

gboolean image_reader_is_done(const ImageReader *reader);

/* Once it is done, and in *done*: borrowed; NULL where the image could not be
 * read, or is of another size. */
const char *image_reader_get_digest(const ImageReader *reader, guint number);

/* Ends the thread, however far it is; *done* was called when this returns.
 * NULL-safe. */
void image_reader_free(ImageReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageReader, image_reader_free)
