/* The units that everything counts in.  A guest's RAM is looked at in pages of 4 KiB whatever backs
 * it, and its dirtying is accounted in groups of 2 MiB. */
#pragma once

#define PAGE_BYTES 4096u
#define GROUP_PAGES 512u
