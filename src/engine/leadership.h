/*
 * Which of several engines acts: what is known of it
 *
 * Theory of operation: there is one key in etcd, made by the engine that leads and bound to a lease of its own.  While the
 * engine keeps the lease alive the key stays; when it does not, etcd removes both, and whoever makes the key anew leads
 * from then on.  Two things follow from it, and they are kept apart:
 *
 *   - the *term*: the revision at which the key was made.  No two are equal, later ones are larger, and a write that is
 *     bound to "the key was made at that revision" is done while that engine leads or not at all, however slow it is
 *     and whatever its clock says.  So the journal has one writer at a time: that is what is safe.
 *   - *until when*: an engine that is not sure to lead still begins nothing.  It believes in its lease for the length that
 *     etcd has granted, counted from before it had asked, and less than that by as much as two clocks' rates may
 *     differ and its last instructions take (policy/lease.h).  That is what makes it wait at once where etcd is away.
 *
 * etcd may keep a lease for longer than it has said (it counts anew when its own leader changes), never for less.  So
 * an engine that has lost etcd for a while may find that it still leads, in the same term.
 *
 * Pure: times are the caller's clock_boot_ns().
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    uint64_t lease;    /* etcd's number of ours, 0: none */
    guint length_ms;   /* as it was granted */
    uint64_t until_ns; /* it certainly lasts until then */
    gint64 term;       /* of ours; 0: we do not lead */
} Leadership;

/* etcd has granted one that was asked for at *sent_ns*. */
void leadership_note_granted(Leadership *leadership, uint64_t lease, guint length_ms,
                             uint64_t sent_ns);

/* etcd has kept ours alive for *left_ms* more; 0: it knows of no such lease (any more), and so we do not lead. */
void leadership_note_kept(Leadership *leadership, guint left_ms, uint64_t sent_ns);

/* The key that is there was made at *made* (0: there is none), bound to *lease*. */
void leadership_note_key(Leadership *leadership, gint64 made, uint64_t lease);

/* We lead, and are sure to. */
gboolean leadership_is_held(const Leadership *leadership, uint64_t now_ns);

/* For how long still, in ms; 0: we are not. */
guint leadership_left_ms(const Leadership *leadership, uint64_t now_ns);

/* How long from one look at etcd to the next: several fit into a lease, so that some may be lost. */
guint leadership_interval_ms(guint length_ms);
