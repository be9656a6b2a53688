/* The units that everything counts in.  A guest's RAM is looked at in pages of 4 KiB whatever backs
 * it, and its dirtying is accounted in groups of 2 MiB. */
#pragma once

#include <stdint.h>

/* 64 bits wide, so that masks and products of it are. */
#define PAGE_BYTES UINT64_C(4096)
#define GROUP_PAGES 512u
