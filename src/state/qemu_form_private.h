/* What reading, writing and looking up share. */
#pragma once

#include "base/bytes.h"
#include "state/qemu_form.h"

/* How a section is framed (qemu_stream.h). */
enum {
    QEMU_SECTION_EOF = 0x00,
    QEMU_SECTION_FULL = 0x04,
    QEMU_SUBSECTION = 0x05,
    QEMU_SECTION_FOOTER = 0x7e,
};

/* NULL-safe. */
void qemu_record_free(QemuRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuRecord, qemu_record_free)

typedef struct {
    ByteReader reader;
    guint fits; /* tried for QEMU_COUNT_FITS */
    gboolean has_fits;
    guint nesting;
} QemuReading;

/* Reads fields and subsections.  NULL where the bytes do not follow the layout.  *around*: the
 * record that this one is in, or NULL. */
QemuRecord *qemu_record_read(QemuReading *reading, const QemuLayout *layout, uint32_t version,
                             const QemuRecord *around);

/* All of it zero, without subsections; NULL where what it has follows from something else. */
QemuRecord *qemu_record_new_zero(const QemuLayout *layout, uint32_t version);

void qemu_record_write(GByteArray *out, const QemuRecord *record);

/* The field of a record by its name, and its place; NULL: none. */
const QemuField *qemu_record_field(const QemuRecord *record, const char *name, size_t length,
                                   guint *ret_place);

/* How many elements a value has. */
guint qemu_value_elements(const QemuField *field, const QemuValue *value);
