/* What the journal's files share (write_journal.c: the log; write_journal_disks.c: the rest). */
#pragma once

#include "disk/sector_map.h"
#include "disk/write_batch.h"
#include "disk/write_journal.h"

/* A piece in the log. */
typedef struct {
    uint64_t epoch, offset, length;
} LoggedPiece;

typedef struct {
    int data;
    SectorMap *map;
} DiskFiles;

struct WriteJournal {
    char *directory;
    int log;
    guint count;
    uint64_t *bytes;
    DiskFiles *disks; /* the generation that is folded into … */
    DiskFiles *full;  /* … and the one before it; *data* -1: there is none */
    uint64_t limit;
    uint64_t folded, committed, sealed; /* epochs, ascending */
    uint64_t staging;                   /* 0: none */
    uint64_t log_end;
    uint64_t sealed_end;    /* of the log, behind the last sealed epoch */
    uint64_t committed_end; /* the same, committed */
    GArray *pieces;         /* of LoggedPiece, beyond *folded* */
    GError *failure;        /* of folding: nothing more can be staged */
};

gboolean journal_write_at(int fd, const void *data, size_t length, uint64_t offset, GError **error);
/* FALSE without an error where the file ends before. */
gboolean journal_read_at(int fd, void *data, size_t length, uint64_t offset, GError **error);
int journal_open_file(const char *directory, const char *name, int flags, GError **error);

/* Opens those of both generations, and finishes what a crash has interrupted; *fresh*: makes them. */
gboolean journal_open_disks(WriteJournal *journal, gboolean fresh, GError **error);
void journal_close_disks(WriteJournal *journal);

/* Calls *take* for all writes that are committed and not folded; FALSE where that or a record fails. */
typedef gboolean (*TakeRecord)(const WriteJournal *journal, const WriteRecord *record,
                               gpointer user, GError **error);
gboolean journal_walk_log(const WriteJournal *journal, TakeRecord take, gpointer user,
                          GError **error);
