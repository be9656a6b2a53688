/*
 * What a guest sends through a tap interface, held by the kernel
 *
 * Theory of operation: for network cards whose packets do not go through their VMM (vhost), or not in
 * one row (several queues).  What the guest sends is what the host *receives* by the tap interface.
 * All of it is redirected to an interface of the kind ifb, whose queueing discipline is a plug; what
 * that lets go comes back as received by the tap interface, and goes on to a bridge or wherever it
 * would have gone.  So Remus holds the output of Xen's guests (Cully et al., NSDI 2008; the kernel's
 * net/sched/sch_plug.c):
 *
 *     guest ──► vhost ──► tap ─ ingress: matchall, mirred ─► ifb ─ plug: epoch 8 │ 7 ─┐
 *                         tap ◄───────────────────────────────────────────────────────┘
 *                          └──► bridge, routes
 *
 * A VMM that has paused its guest has stopped vhost, which gives the kernel all that it has taken from
 * the guest before it stops; and the kernel puts each packet into the plug as it takes it.  So what
 * tap_plug_cut() finds there are all packets of the epoch.  One that came later would be held for longer than it had
 * to be, which is safe.
 *
 * The plug counts the packets of one cut that was not released, no more.  A cut while the one before is
 * not released yet is none therefore: what came since the one before waits for the next.  That is so
 * where the standby's answer was lost with its session, and costs an epoch's time.
 *
 * Nothing but tap_plug_release(), _pass() and _end() lets a packet go.  When its owner dies packets are
 * kept up to the limit, and then dropped, as by a switch whose queue is full; a new owner begins in the
 * same place, and the kernel drops what is there.  Where the ifb interface is removed by others packets
 * are dropped ("mirred: device gone").
 *
 * What is there says to whom it belongs: the ifb interface is called after the tap interface's number,
 * and has the VMM's process in its alias.  So what is left when the VMM has ended is found, and taken
 * out (tap_plug_sweep()).  It lives in the tap interface's network namespace, which may be another one than
 * ours.
 *
 * Limits: what others do with what the tap interface receives (an ingress or clsact queueing discipline:
 * rate limits, BPF programs of containers' networks) and this exclude each other: REFUSED.  An XDP program
 * that redirects what it receives is not seen.  A cut takes the lock of the kernel's network configuration
 * (RTNL): while others hold it the guest stands.  An administrator who sets the ifb interface down makes the
 * plug miscount: whoever may do that may let packets pass in simpler ways.
 *
 * A TapPlug is used by one thread at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct TapPlug TapPlug;

/* Whether this kernel has what it takes, tried in a network namespace of its own.  UNSUPPORTED with the name
 * of the module that is missing ("needs sch_plug, which this kernel does not have"). */
gboolean tap_plug_probe(GError **error);

/* Whether the output of a tap device, by a descriptor of it, can be held.  Nothing is changed, but what
 * VMMs that have ended left is taken out. */
gboolean tap_plug_check(int tap_fd, GError **error);

/* Holds it from now on; *vmm* is the process to which the tap device belongs.  Where one was left by an
 * owner that died the new one takes its place: what is held is lost, and nothing passes in between. */
TapPlug *tap_plug_begin(int tap_fd, pid_t vmm, uint32_t limit_bytes, GError **error);

/* The guest is paused: what it has sent belongs to this epoch, or to earlier ones. */
gboolean tap_plug_cut(TapPlug *plug, uint64_t epoch, GError **error);

/* Lets all epochs up to this one go.  What was not cut when it should have been (above) stays. */
gboolean tap_plug_release(TapPlug *plug, uint64_t epoch, GError **error);

/* From now on everything goes at once, what is held first. */
gboolean tap_plug_pass(TapPlug *plug, GError **error);

/* A descriptor that becomes readable when the guest has sent something.  (What is released is not seen there:
 * the kernel does not show a packet twice that comes back from an ifb interface.)  It lives as long as
 * *plug*. */
int tap_plug_get_fd(const TapPlug *plug);
/* Forgets what made it readable; FALSE: nothing has. */
gboolean tap_plug_drain(TapPlug *plug);

/* Takes it out, once what passes is through (TAP_PLUG_END_MS at most; the rest is lost). */
gboolean tap_plug_end(TapPlug *plug, GError **error);
#define TAP_PLUG_END_MS 2000

/* Leaves it as it is, and takes it out where the VMM has ended.  NULL-safe. */
void tap_plug_free(TapPlug *plug);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapPlug, tap_plug_free)

/* Takes out what an owner that died has left at this tap device; what is held is lost. */
gboolean tap_plug_remove(int tap_fd, GError **error);

/* Takes out what VMMs that have ended left in our network namespace. */
void tap_plug_sweep(void);
