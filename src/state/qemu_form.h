/*
 * QEMU's own form of a machine's state: its device-state stream, read into sections and fields
 *
 * Theory of operation: what `xen-save-devices-state` wrote (qemu_stream.h says how it is framed) becomes
 * a list of sections; a section whose layout is known (qemu_layout.h) becomes records of fields, which
 * can be read, changed and written again.  Written unchanged, it is the same bytes.
 *
 * A section does not carry its length.  Where a layout is not known, or the section does not follow
 * it, its end is looked for: a footer with its id, behind which the whole rest can be read.  Exactly
 * one such place must be there; then the section is carried as bytes (*opaque*).  As the right place
 * is always among them, a guest that puts footers into its devices' state can only make the stream
 * refused.
 *
 * Values are named by paths: fields by their names, elements of arrays by [n], what is in a struct or a subsection behind "|"
 * ("env.segs[1]|selector", "e1000/mit_state|mit_irq_level").
 *
 * Limits: machine types with footers (2.4 and newer).  Sections, fields and the work of looking for
 * ends are bounded.
 */
#pragma once

#include "state/qemu_layout.h"

#define QEMU_MAX_SECTIONS 1024u

typedef struct QemuRecord QemuRecord;

typedef struct {
    guint8 *bytes; /* as in the stream; NULL: structs, or not there */
    size_t length;
    GPtrArray *records; /* QemuRecord, of structs; NULL: not one */
    gboolean present;
} QemuValue;

struct QemuRecord {
    const QemuLayout *layout;
    uint32_t version;       /* of a section or a subsection, as the stream has it */
    QemuValue *values;      /* one for each field of the layout */
    GPtrArray *subsections; /* QemuRecord */
    guint *recent;          /* place of the field that was found last: the next one is near it */
};

typedef struct {
    uint32_t id, instance, version;
    char *name;
    QemuRecord *record; /* NULL: opaque */
    GBytes *opaque;     /* what is between header and footer */
} QemuSection;

typedef struct {
    GPtrArray *sections; /* QemuSection, in the stream's order */
} QemuForm;

/* Reads a whole stream.  INVALID where it is not one; UNSUPPORTED, with the section's name, where the
 * end of one that is not known cannot be told. */
QemuForm *qemu_form_read(const void *data, size_t length, GError **error);

/* NULL-safe. */
void qemu_form_free(QemuForm *form);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuForm, qemu_form_free)

GBytes *qemu_form_write(const QemuForm *form);

/* The section of that name ("apic"), or whose name ends with "/" and that; NULL: there is none. */
QemuSection *qemu_form_find(const QemuForm *form, const char *name, uint32_t instance);

/* The part of a section's name that says what it is: "ide" of "0000:00:01.1/ide". */
const char *qemu_section_kind(const QemuSection *section);

/* What stands between header and footer. */
void qemu_section_write_content(const QemuSection *section, GByteArray *out);

/* The section becomes opaque, with that content. */
void qemu_section_set_opaque(QemuSection *section, const void *bytes, size_t length);

/* ---- fields ---- */

/* A number of any width, zero-extended (INT32: as its 32 bits).  FALSE where it is not there, or not a number. */
gboolean qemu_get_number(const QemuRecord *record, const char *path, uint64_t *ret);

/* FALSE where there is no such field, or the number does not fit.  A subsection on the way that is
 * not there is added, all of it zero, unless the number is 0. */
gboolean qemu_set_number(QemuRecord *record, const char *path, uint64_t value);

/* An element of an array, or the number itself; the same otherwise. */
gboolean qemu_get_element(const QemuRecord *record, const char *path, guint index, uint64_t *ret);
gboolean qemu_set_element(QemuRecord *record, const char *path, guint index, uint64_t value);

/* The bytes of a buffer, or all of an array; borrowed.  NULL: not there. */
const guint8 *qemu_get_bytes(const QemuRecord *record, const char *path, size_t *ret_length);
/* The same, to be written to in place. */
guint8 *qemu_edit_bytes(QemuRecord *record, const char *path, size_t *ret_length);

/* As many as there are; FALSE otherwise. */
gboolean qemu_set_bytes(QemuRecord *record, const char *path, const void *bytes, size_t length);

/* The same of a buffer that is there by a condition, which is the caller's to set: NULL takes it away. */
gboolean qemu_set_conditional_bytes(QemuRecord *record, const char *name, const void *bytes,
                                    size_t length);

/* The record behind a path ("env.segs[1]", "e1000/mit_state"), or NULL. */
QemuRecord *qemu_get_record(const QemuRecord *record, const char *path);

/* Elements of an array, 1 of what is not one, 0 where it is not there. */
guint qemu_count(const QemuRecord *record, const char *path);
