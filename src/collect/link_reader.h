/* Reads the network interfaces of this process's network namespace (link_messages.h), and how fast they are. */
#pragma once

#include "collect/link_messages.h"

typedef struct LinkReader LinkReader;

LinkReader *link_reader_new(void);
void link_reader_free(LinkReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LinkReader, link_reader_free)

/* All of them, of Link; NULL with *error*.  Free with g_array_unref(). */
GArray *link_reader_read(LinkReader *reader, GError **error);
