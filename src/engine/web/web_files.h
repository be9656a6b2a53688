/* The engine's page, compiled in (embed.py makes the table from page/, and from uPlot where it was fetched). */
#pragma once

#include <stddef.h>

typedef struct {
    const char *path; /* of the URL */
    const char *type; /* Content-Type */
    const char *etag; /* of the content, with its quotes */
    size_t length;
    const char *data;
} WebFile;

extern const WebFile web_files[];
extern const size_t web_n_files;
