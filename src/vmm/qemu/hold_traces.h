/*
 * What holds of output add to a machine
 *
 * Theory of operation: a hold is four things in QEMU, by names that say to which hold they belong.
 * A hold that takes the place of one that was left has the next number:
 *
 *     vmferry-hold-NAME.0.divert   filter that hands packets to the character device
 *     vmferry-hold-NAME.0.out
 *     vmferry-hold-NAME.0.inject   filter that takes them back from the character device
 *     vmferry-hold-NAME.0.in
 *
 * So they are found again by an agent that has not begun them, and who asks for the live machine
 * (machine.h) is not told of them.  Objects and devices of other programs have other names.  Pure.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

#define QEMU_HOLD_PREFIX "vmferry-hold-"
#define QEMU_HOLD_NAME_MAX 32u
#define QEMU_HOLD_MAX_NUMBER 9999u

typedef enum { HOLD_DIVERT, HOLD_OUT, HOLD_INJECT, HOLD_IN, HOLD_PARTS } QemuHoldPart;

/* FALSE with *error* where a hold cannot be called so. */
gboolean qemu_hold_check_name(const char *name, GError **error);

/* Free with g_free(). */
char *qemu_hold_part(const char *name, guint number, QemuHoldPart part);

/* A part of a hold that is there. */
typedef struct {
    QemuHoldPart part;
    guint number;
    gboolean connected; /* of a character device: somebody has its other end */
} QemuHoldTrace;

/* Takes the answers of qom-list of /objects and of query-chardev: what is there of the hold of this
 * name; of QemuHoldTrace.  Free with g_array_unref(). */
GArray *qemu_hold_find(json_t *objects, json_t *chardevs, const char *name);

/* Takes all holds out of what qemu_machine_query() gathered. */
void qemu_holds_hide(json_t *machine);
