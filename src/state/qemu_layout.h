/*
 * Layouts of QEMU's device-state sections: constant tables
 *
 * Theory of operation: a section of QEMU's stream says what device it is of and which version of its
 * layout it has, but not what is in it.  These tables do, for the devices of the machines "pc" and
 * "microvm": fields in their order, and *subsections*, which follow the fields and are there only
 * when their content is not the default (they begin with a byte 0x05 and their name).  Layouts are
 * facts, taken from the description that QEMU itself writes at the end of its `migrate` stream
 * ("vmdescription"), and for subsections that no machine of ours has, from the tables within Debian's
 * QEMU programs; tests/system/test_state_qemu.py compares these here with the description of each QEMU,
 * field by field.  They are true for QEMU 7.2 to 10.0.  All numbers are big-endian.
 *
 * Where a field has several names (in QEMU's versions, or one of ours that says which of two it is), they have "," between.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* As QEMU's description calls them; the same width is not the same type. */
typedef enum {
    QEMU_UINT8,
    QEMU_UINT8_EQUAL,
    QEMU_UINT16,
    QEMU_UINT32,
    QEMU_UINT64,
    QEMU_INT8,
    QEMU_INT32,
    QEMU_INT32_EQUAL,
    QEMU_INT32_LE,
    QEMU_INT64,
    QEMU_BOOL,
    QEMU_TIMER, /* ns of the virtual clock, or all bits set: not armed */
    QEMU_BUFFER,
    QEMU_UNUSED,
    QEMU_PCI_CONFIG,
    QEMU_PCI_IRQ, /* four be32: levels of INTA# to INTD# */
    QEMU_STRUCT,
    QEMU_TEMPORARY, /* a group of fields that QEMU builds for the stream only */
} QemuFieldType;

typedef struct QemuLayout QemuLayout;

typedef struct {
    const char *name;
    QemuFieldType type;
    uint32_t count; /* of an array; 0: one. Of QEMU_BUFFER and QEMU_UNUSED: bytes */
    const char
        *count_from;      /* the field that says how many (of bytes, or entries), in this record or
                               one around it; *count* is the most there can be */
    uint32_t count_bytes; /* of a buffer with count_from: bytes for each; 0: one */
    uint32_t count_less;  /* with count_from: so many fewer */
    const char *when;     /* there only where the field of that name … */
    uint64_t when_mask;   /* … has one of these bits */
    const QemuLayout *layout; /* of QEMU_STRUCT and QEMU_TEMPORARY */
} QemuField;

struct QemuLayout {
    const char *name;                     /* QEMU's name of it */
    uint32_t version;                     /* the one that the table is of */
    const QemuField *fields;              /* up to one without a name; NULL: none */
    const QemuLayout *const *subsections; /* up to NULL; NULL: none */
};

/* A *count* for arrays whose number of entries is nowhere in the stream: the one with which the
 * section ends where its footer is.  At most one array of a section, the last of its fields. */
#define QEMU_COUNT_FITS 0xffffffffu
#define QEMU_MAX_FITS 1024u
#define QEMU_MAX_NESTING 8u

/* Bytes of one element; 0 for structs. */
size_t qemu_type_bytes(QemuFieldType type);

/* QEMU's name of a type in its description. */
const char *qemu_type_name(QemuFieldType type);

/* "a,b" is "a" as well as "b". */
gboolean qemu_field_has_name(const QemuField *field, const char *name, size_t length);

/* The layouts that a section of this name ("0000:00:01.1/ide", "cpu") can have, to be tried in their
 * order, up to NULL; NULL where it is not known. */
const QemuLayout *const *qemu_layouts_of_section(const char *name);

/* Calls *visit* with each kind of section and each of its layouts. */
typedef void (*QemuLayoutVisit)(const char *kind, const QemuLayout *layout, void *context);
void qemu_layouts_foreach(QemuLayoutVisit visit, void *context);
