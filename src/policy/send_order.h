/*
 * Which group of pages is sent next: probes first, then from cold to hot
 *
 * Theory of operation: a page that is written again after it was read was sent in vain, so what is
 * written often waits as long as possible.  Groups are put into heat classes, powers of two of
 * the writes to a page per ms (group_account_get_heat()), by a counting sort: that is linear, a
 * dirty sync is frequent, and a factor of two in heat is all that matters.  Within a class the
 * order is that of the addresses, so that what goes out is as good as sequential.
 *
 * Each dirty sync sorts anew and begins at the coldest group again: the caller passes over groups
 * that have nothing pending any more, which costs next to nothing, and a group that has become
 * colder than the cursor is not forgotten.
 *
 * Deferred groups (group_account_is_deferred()) are passed over, unless the guest is paused.
 * Probes, a few groups whose resend cost is to be learnt, come before all others, deferred or not.
 *
 * Pure; the caller says what is pending (transfer/work_set.c, sim/memory.c).
 */
#pragma once

#include <glib.h>

#include "policy/group_account.h"

typedef struct SendOrder SendOrder;

/* Borrows *account*; the order is that of the addresses at first. */
SendOrder *send_order_new(const GroupAccount *account, guint group_count);
void send_order_free(SendOrder *order);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SendOrder, send_order_free)

/* After a dirty sync: sorts by heat, and begins again. */
void send_order_sort(SendOrder *order);
/* Begins again at the coldest group: a round begins. */
void send_order_rewind(SendOrder *order);

/* These groups (GROUP_ACCOUNT_PROBES at most) come next; they replace probes not yet taken. */
void send_order_set_probes(SendOrder *order, const guint *groups, guint count);
/* Takes the next probe; FALSE: there is none. */
gboolean send_order_take_probe(SendOrder *order, guint *ret_group);

/* The group whose turn it is, again and again the same until send_order_pass(); FALSE: all had
 * their turn.  *paused*: with the deferred ones. */
gboolean send_order_get_next(SendOrder *order, gboolean paused, guint *ret_group);
/* That group has nothing (more) to send. */
void send_order_pass(SendOrder *order);
