/* Tables between QEMU's sections and the neutral tree (state_qemu.h says the rest). */
#pragma once

#include "state/qemu_form.h"
#include "state/tree.h"

/* What all conversions of a stream know. */
typedef struct {
    const QemuForm *form;
    uint64_t now;   /* ns of the virtual clock at the pause */
    gboolean moved; /* written: that is another time than the template's */
    GError **error;
} QemuMapContext;

typedef struct QemuMapRow QemuMapRow;

/* Conversions that are not one field to one leaf.  *node*: the group, *record*: the section's, or of the struct.
 * FALSE with the context's error. */
typedef gboolean (*QemuMapRead)(QemuMapContext *context, const QemuRecord *record, StateNode *node);
typedef gboolean (*QemuMapWrite)(QemuMapContext *context, QemuRecord *record,
                                 const StateNode *node);

typedef enum {
    QEMU_MAP_NUMBER,   /* the same number */
    QEMU_MAP_OPTIONAL, /* of a subsection: where it is not there, the tree has no leaf, and *value* */
    QEMU_MAP_BITS,     /* (own >> shift) & mask */
    QEMU_MAP_NONE,     /* the same, and no leaf where all its bits are set */
    QEMU_MAP_NUMBERS, /* a list and an array */
    QEMU_MAP_BYTES,
    QEMU_MAP_INTX,     /* levels of INTA# to INTD# */
    QEMU_MAP_SINCE,    /* a time: now - own */
    QEMU_MAP_UNTIL,    /* a time: own - now; no leaf where all its bits are set */
    QEMU_MAP_GROUP,    /* a group and a record */
    QEMU_MAP_GROUPS,   /* a list of groups, and an array of structs */
    QEMU_MAP_CODE,     /* read and write; *own*: fields it covers, with spaces between */
    QEMU_MAP_LEFT_OUT, /* *neutral* says why */
} QemuMapKind;

struct QemuMapRow {
    QemuMapKind kind;
    const char *neutral; /* path from the device's group on */
    const char *own;     /* path from the section's record on */
    uint64_t mask, value;
    guint shift;
    const QemuMapRow *rows; /* of groups, up to one without *own* */
    QemuMapRead read;
    QemuMapWrite write;
};

typedef struct {
    const char *section; /* its kind */
    const char *type;    /* of the device; NULL: a processor */
    const char *at[4];   /* of the first one, the second …; NULL for the first: its PCI address */
    const char *group;   /* of the device or the processor; NULL: that itself */
    const QemuMapRow *rows;
} QemuMap;

/* Up to one without a section, in the order in which the tree has the devices. */
extern const QemuMap qemu_maps_cpu[], qemu_maps_chips[], qemu_maps_devices[];

/* In *ret_count* of them. */
const QemuMap *const *qemu_map_tables(guint *ret_count);

/* Why a section of that kind is not in the tree; NULL: it is, or it is not known. */
const char *qemu_left_out(const char *kind);

gboolean qemu_map_read_rows(QemuMapContext *context, const QemuMapRow *rows,
                            const QemuRecord *record, StateNode *node);
gboolean qemu_map_write_rows(QemuMapContext *context, const QemuMapRow *rows, QemuRecord *record,
                             const StateNode *node);

/* TRUE where a row says something about the field, or about something below it.  *path*: from the
 * section's record on; indexes do not count. */
gboolean qemu_map_covers(const QemuMapRow *rows, const char *path);

/* Calls *visit* with each subsection that is there and that no row is about. */
typedef void (*QemuMapVisit)(const QemuRecord *subsection, void *context);
void qemu_map_visit_unmapped(const QemuMapRow *rows, const QemuRecord *record, QemuMapVisit visit,
                             void *context);

/* A level, of a row of INTx#. */
gboolean qemu_map_intx(const QemuRecord *record, const QemuMapRow *row, guint line);

/* For conversions by code: FALSE with the context's error, which names the place. */
gboolean qemu_map_refuse(QemuMapContext *context, const char *what, const char *place);
gboolean qemu_map_put(QemuMapContext *context, QemuRecord *record, const char *path,
                      uint64_t value);
/* 0 where it is not there. */
uint64_t qemu_map_number(const QemuRecord *record, const char *path);
/* A span as a list's entries are: bytes of numbers, little-endian. */
void qemu_map_span(const QemuRecord *record, const char *const *paths, guint bytes_each,
                   guint8 *out);
gboolean qemu_map_put_span(QemuMapContext *context, QemuRecord *record, const char *const *paths,
                           guint bytes_each, const guint8 *bytes);
