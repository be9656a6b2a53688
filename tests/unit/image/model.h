/* A machine's memory as it should be, written to images by frames of all kinds. */
#pragma once

#include <glib.h>

#include "base/error.h"
#include "image/image_increment.h"
#include "image/image_writer.h"
#include "image/saved_image.h"

#define MODEL_REGIONS 2u
#define MODEL_MACHINE "{\"name\":\"web1\"}"
#define MODEL_NOTE "{\"saved\":1}"
#define MODEL_STATE "the state of devices"

typedef struct {
    char *folder;
    PageRegions regions;
    uint8_t *content[MODEL_REGIONS];
    GRand *random;
    PackContext *codec;
    ImageIncrement *increment; /* takes the frames in the writer's place; NULL: the writer does */
} Model;

int model_setup(void **state);
/* Removes the folder with all files in it. */
int model_teardown(void **state);

/* Free with g_free(). */
char *model_path(const Model *model, const char *name);
guint model_count_files(const Model *model);

uint8_t *model_page(const Model *model, guint region, uint64_t page);

/* With an id of its own, above *base* (NULL: none), which is recorded as *base_name*. */
ImageWriter *model_create(const Model *model, const char *name, const ImageId *base,
                          const char *base_name, GBytes *key);
/* Of the model's regions, and with a new id. */
ImageHead model_head(const Model *model);

/* *count* frames of any pages, which change in the model, too. */
void model_write(Model *model, ImageWriter *writer, guint count);
/* One of the content that the model has. */
void model_write_span(Model *model, ImageWriter *writer, guint region, PageSpan span,
                      PackMethod method);
/* These runs, as they are in the model, or zero. */
void model_write_runs(Model *model, ImageWriter *writer, guint region, const PageRun *runs,
                      guint count, PackMethod method);
void model_commit(ImageWriter *writer);
/* A whole image, of *frames* frames. */
void model_save(Model *model, const char *name, const ImageId *base, const char *base_name,
                guint frames);

SavedImage *model_open(const Model *model, const char *name);
/* Opening fails, with this code and these words. */
void model_assert_refused(const Model *model, const char *name, const SavedImageOptions *options,
                          VmferryErrorCode code, const char *words);
/* All pages are as in the model, read page by page, in long spans and extent by extent. */
void model_assert_content(const Model *model, SavedImage *image);
