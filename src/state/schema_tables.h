/* How the tables of the schema are written. */
#pragma once

#include "state/schema.h"

#define STATE_NUMBER_FIELD(field, width, text)                                                     \
    {                                                                                              \
        .name = (field), .kind = STATE_NUMBER, .bits = (width), .what = (text)                     \
    }
#define STATE_OPTIONAL_NUMBER(field, width, text)                                                  \
    {                                                                                              \
        .name = (field), .kind = STATE_NUMBER, .bits = (width), .optional = TRUE, .what = (text)   \
    }
#define STATE_NUMBERS(field, width, count, text)                                                   \
    {                                                                                              \
        .name = (field), .kind = STATE_NUMBER, .is_list = TRUE, .bits = (width),                   \
        .entries = (count), .what = (text)                                                         \
    }
#define STATE_OPTIONAL_NUMBERS(field, width, count, text)                                          \
    {                                                                                              \
        .name = (field), .kind = STATE_NUMBER, .is_list = TRUE, .bits = (width),                   \
        .entries = (count), .optional = TRUE, .what = (text)                                       \
    }
#define STATE_TIME_FIELD(field, text)                                                              \
    {                                                                                              \
        .name = (field), .kind = STATE_TIME, .what = (text)                                        \
    }
#define STATE_OPTIONAL_TIME(field, text)                                                           \
    {                                                                                              \
        .name = (field), .kind = STATE_TIME, .optional = TRUE, .what = (text)                      \
    }
#define STATE_BYTES_FIELD(field, length, text)                                                     \
    {                                                                                              \
        .name = (field), .kind = STATE_BYTES, .bytes = (length), .what = (text)                    \
    }
#define STATE_OPTIONAL_BYTES(field, length, text)                                                  \
    {                                                                                              \
        .name = (field), .kind = STATE_BYTES, .bytes = (length), .optional = TRUE, .what = (text)  \
    }
#define STATE_BYTES_LIST(field, length, count, text)                                               \
    {                                                                                              \
        .name = (field), .kind = STATE_BYTES, .is_list = TRUE, .bytes = (length),                  \
        .entries = (count), .what = (text)                                                         \
    }
#define STATE_OPTIONAL_BYTES_LIST(field, length, count, text)                                      \
    {                                                                                              \
        .name = (field), .kind = STATE_BYTES, .is_list = TRUE, .bytes = (length),                  \
        .entries = (count), .optional = TRUE, .what = (text)                                       \
    }
#define STATE_TEXT_FIELD(field, text)                                                              \
    {                                                                                              \
        .name = (field), .kind = STATE_TEXT, .what = (text)                                        \
    }
#define STATE_OPTIONAL_TEXT(field, text)                                                           \
    {                                                                                              \
        .name = (field), .kind = STATE_TEXT, .optional = TRUE, .what = (text)                      \
    }
#define STATE_GROUP_FIELD(field, of, text)                                                         \
    {                                                                                              \
        .name = (field), .kind = STATE_GROUP, .group = (of), .what = (text)                        \
    }
#define STATE_OPTIONAL_GROUP(field, of, text)                                                      \
    {                                                                                              \
        .name = (field), .kind = STATE_GROUP, .group = (of), .optional = TRUE, .what = (text)      \
    }
#define STATE_GROUPS(field, of, count, text)                                                       \
    {                                                                                              \
        .name = (field), .kind = STATE_GROUP, .is_list = TRUE, .group = (of), .entries = (count),  \
        .what = (text)                                                                             \
    }
#define STATE_OPTIONAL_GROUPS(field, of, count, text)                                              \
    {                                                                                              \
        .name = (field), .kind = STATE_GROUP, .is_list = TRUE, .group = (of), .entries = (count),  \
        .optional = TRUE, .what = (text)                                                           \
    }

extern const StateGroup state_cpu_group;
extern const StateGroup state_segment_group; /* cpu */

extern const StateGroup state_8259a_group, state_82093aa_group, state_8254_group,
    state_mc146818_group, state_hpet_group, state_8237a_group;
extern const StateGroup state_440fx_group, state_piix3_group, state_piix3_ide_group,
    state_piix4_pm_group;
extern const StateGroup state_16550a_group, state_8042_group, state_port92_group,
    state_speaker_group;
extern const StateGroup state_vga_group, state_82540em_group;
