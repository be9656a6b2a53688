/*
 * The destination's half of a move
 */
#pragma once

#include "migrate/postcopy_destination.h"
#include "vmm/vmm.h"
#include "vmm/vmm_storage.h"
#include "wire/session.h"

typedef struct {
    /* The guest of this name begins to arrive: nothing of an earlier attempt is here any more when this
     * returns TRUE. */
    gboolean (*begin)(const char *guest, gpointer user, GError **error);
    /* Checks that the guest may come here and launches its VMM as incoming;
     * journals the transaction as pending before it returns.  Takes no
     * ownership of *guest*. */
    Vmm *(*launch)(const GuestMessage *guest, gpointer user, GError **error);
    /* The commit point: must have "committed" on record when it returns TRUE, and
     * with it whether the guest is to run here.  *start* is what START said. */
    gboolean (*commit)(const char *transaction, const StartMessage *start, gpointer user,
                       GError **error);
    /* The machine has certainly not run and never will here: must have "aborted"
     * on record, in place of "committed", when it returns TRUE.  Nobody is to be
     * told before aborted() is called. */
    gboolean (*take_back)(const char *transaction, gpointer user, GError **error);
    /* Where the guest runs before its memory is all there: the path of a file for what is
     * outstanding, to be freed with g_free(); puts on record, before commit(), that it is there;
     * lets its source find *split* (NULL: not any more), once that is committed, and gives it its
     * host; after started(): waits until the guest has all of its memory, has ended, or this agent
     * is to stop. */
    char *(*name_outstanding)(gpointer user);
    /* The directory for overlays of disks (epoch_writes.h); free with g_free(). */
    char *(*name_overlays)(gpointer user, GError **error);
    gboolean (*note_split)(const char *path, gpointer user, GError **error);
    void (*publish)(PostcopyDestination *split, gpointer user);
    void (*keep_split)(PostcopyDestination *split, gpointer user);
    /* The guest is here now; takes *vmm*.  It also lets the guest's balloon
     * go where GUEST says so; until it returns, our death does.  *settled* is
     * FALSE where it is not known to be as START said: it is to be made so, and
     * the source is to be told only then. */
    void (*started)(Vmm *vmm, gboolean settled, gpointer user);
    /* Not moved; takes *vmm* (may be NULL), whose process has been ended;
     * journals the transaction as aborted. */
    void (*aborted)(Vmm *vmm, const GError *cause, gpointer user);

    /* The text with what is called otherwise on this host; free with g_free(). */
    char *(*map)(const char *text, gpointer user);
    /* A storage process for these disks, in a directory of its own; ends it. */
    VmmStorage *(*open_storage)(const DisksMessage *disks, gpointer user, GError **error);
    void (*close_storage)(VmmStorage *storage, gpointer user);
    /* Writes down the files that are about to be made for a transaction, an array of {path,
     * set_aside}: unless that is committed, a restarted agent removes them and puts back what was
     * set aside.  NULL: it need not any more. */
    gboolean (*note_files)(const char *transaction, json_t *files, gpointer user, GError **error);
    /* To the witness of a split guest; *channel_user* outlives that. */
    gboolean (*get_channel)(ChannelOptions *ret, gpointer channel_user, GError **error);
    gpointer channel_user;
    gpointer user;
} MigrateDestinationHost;

/* Serves one incoming move in a session whose HELLO said "migrate"; blocks to
 * the end.  On failure the VMM it launched is gone and the peer was told. */
gboolean migrate_destination_serve(Session *session, const MigrateDestinationHost *host,
                                   GError **error);
