/*
 * What a user may ask of a move
 *
 * Theory of operation: MigrateOptions holds the values.  One table, in options.c, has a row for
 * each field: how the option is called on the command line, in the API and in agent.conf, what kind
 * of value it takes, its limits, its default, its help text.  Whatever reads or writes an option
 * walks that table: `vmferry migrate` makes its command-line options and its request from it, the
 * agent reads the request and its configuration file by it.  So a value is checked in one place, by
 * the same rules, and an error names the option as its user has written it.
 *
 * Defaults: the table's (migrate_options_init()), over them the agent's configuration, over that
 * the request.  A request holds only what its user gave; MigrateOptionSet keeps apart what was
 * given and what is a default.
 *
 * A new option is a field here and a row in options.c.  A test (tests/unit/migrate) then asks for
 * the option in the man pages, the completion, docs/api.md and docs/agent.conf.example.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/json.h"
#include "memory/tracker.h"
#include "page/sent_store.h"
#include "policy/packing.h"
#include "throttle/throttle.h"

/* How a guest is moved.  Post-copy never happens unasked: while a guest's memory is split between
 * two hosts, the end of either VMM is the end of the guest, unless it is protected against that. */
typedef enum {
    MIGRATE_MODE_AUTO,    /* as PRECOPY; where it is protected (MIGRATE_SAFETY_FULL), what costs the
                              guest least */
    MIGRATE_MODE_PRECOPY, /* all memory is there when the guest runs there */
    MIGRATE_MODE_POSTCOPY, /* switchover at once, all memory follows */
    MIGRATE_MODE_HYBRID,   /* pre-copy, and post-copy of what it cannot bring */
} MigrateMode;

/* "auto", "precopy", "postcopy", "hybrid" */
const char *migrate_mode_name(MigrateMode mode);

/* What a guest survives while its memory is split between two hosts. */
typedef enum {
    MIGRATE_SAFETY_NONE,    /* nothing is promised */
    MIGRATE_SAFETY_NETWORK, /* breaks of the link, and the death of an agent */
    MIGRATE_SAFETY_FULL,    /* the death of the destination's VMM, too: epochs go back */
} MigrateSafety;

/* "none", "network", "full" */
const char *migrate_safety_name(MigrateSafety safety);

/* What becomes of a guest's disks. */
typedef enum {
    DISK_MODE_AUTO,   /* copied where their image is not there */
    DISK_MODE_SHARED, /* both hosts have the same image */
    DISK_MODE_COPY,   /* copied, with the backing files that are not there */
    DISK_MODE_TOP,    /* copied; the backing files are there */
} DiskMode;

/* "auto", "shared", "copy", "top" */
const char *disk_mode_name(DiskMode mode);
gboolean disk_mode_from_name(const char *name, DiskMode *ret);

#define MIGRATE_STORE_BYTES 256u
#define MIGRATE_SEED_BYTES 1024u

typedef struct {
    MigrateMode mode;
    MigrateSafety safety;
    guint checkpoint_ms;                 /* of FULL: from one epoch to the next, at most */
    guint max_downtime_ms;               /* the pause to aim at */
    guint downtime_cap_ms;               /* the pause that is never exceeded knowingly; not below
                                            max_downtime_ms */
    guint deadline_ms;                   /* for the whole move; 0: none */
    guint retry_for_ms;                  /* that a broken connection is made again; 0: it is not */
    uint64_t bandwidth_bytes_per_second; /* 0: unlimited */
    uint64_t memory_budget_bytes;        /* to remember what was sent; 0: 1/16 of guest RAM */
    guint streams;                       /* 0: by the number of cores, else 1..16 */
    guint connections;                   /* 0: as many as help, else 1..8 */
    gboolean verify;
    gboolean allow_cpu_mismatch; /* of what the guest's CPU can do, with the destination's */
    gboolean trust_images;       /* do not prove that the disks' images are the same there */
    gboolean overwrite;          /* files that are there are replaced by copied disks */
    gboolean keep_source;        /* images that were copied stay as they are here */
    gboolean delete_source;      /* they are removed */
    gboolean reclaim_free;       /* take the guest's free memory by its balloon first */
    gboolean record;             /* a trace for the user: MigrateSourceHost.trace */
    gboolean detach;             /* the request is answered at once, not with the report */
    TrackerKind tracker;
    PackingMode compress;
    ThrottleMode throttle;
    DiskMode disks;
    SentStoreMode segments;
    guint vmm;                       /* the kind of VMM that it goes to: migrate_vmm_kind() */
    char store[MIGRATE_STORE_BYTES]; /* HOST[:PORT] of a store (store_host.h); "": none */
    char seed[MIGRATE_SEED_BYTES];   /* path of an image at the destination; "": none */
} MigrateOptions;

/* TRUE where the guest may run at its destination before its memory is all there. */
static inline gboolean migrate_options_may_split(const MigrateOptions *options)
{
    return options->mode == MIGRATE_MODE_POSTCOPY || options->mode == MIGRATE_MODE_HYBRID ||
           (options->mode == MIGRATE_MODE_AUTO && options->safety == MIGRATE_SAFETY_FULL);
}

/* "same", or the name of a driver (vmm_driver_kind()); NULL behind the last. */
const char *migrate_vmm_name(guint vmm);

/* The driver's name; NULL: of the same kind as here. */
const char *migrate_vmm_kind(guint vmm);

typedef enum {
    MIGRATE_OPTION_FLAG,     /* gboolean */
    MIGRATE_OPTION_FILE,     /* gboolean; on the command line a file, which stays the client's */
    MIGRATE_OPTION_DURATION, /* guint, milliseconds */
    MIGRATE_OPTION_COUNT,    /* guint */
    MIGRATE_OPTION_CHOICE,   /* an enum: one of a few names */
    MIGRATE_OPTION_SIZE,     /* uint64_t, bytes */
    MIGRATE_OPTION_RATE,     /* uint64_t, bytes per second */
    MIGRATE_OPTION_HOST,     /* char[MIGRATE_STORE_BYTES] */
    MIGRATE_OPTION_PATH,     /* char[MIGRATE_SEED_BYTES]; absolute, at the destination */
} MigrateOptionKind;

/* A row of the table.  All texts are constants. */
typedef struct {
    const char *name;     /* on the command line, behind "--" */
    const char *api_key;  /* in a migrate request */
    const char *file_key; /* in [agent] of agent.conf; NULL: no default can be set there */
    MigrateOptionKind kind;
    size_t offset;                      /* of the field in MigrateOptions */
    const char *argument;               /* "TIME"; NULL: takes none */
    uint64_t least, limit;              /* of DURATION, COUNT, SIZE and RATE */
    const char *(*choice)(guint value); /* CHOICE: the name of a value below *choices* */
    guint choices;                      /* how many */
    const char *fallback;               /* the default, as written in agent.conf; NULL: none */
    const char *automatic;              /* non-NULL: agent.conf takes "auto", which is 0 in the
                                            field and means this */
    const char *help;
} MigrateOption;

/* Where a value was written: errors name an option as it is called there.  Of MIGRATE_FROM_FILE the
 * caller puts the key in front. */
typedef enum { MIGRATE_FROM_COMMAND, MIGRATE_FROM_API, MIGRATE_FROM_FILE } MigrateOptionOrigin;

/* A bit for each row of the table. */
typedef uint32_t MigrateOptionSet;
#define MIGRATE_OPTIONS_LIMIT 32u

/* The rows in the order of help and man page; NULL behind the last. */
const MigrateOption *migrate_option_at(guint index);

/* NULL where no option has that name on the command line. */
const MigrateOption *migrate_option_find(const char *name);

MigrateOptionSet migrate_option_bit(const MigrateOption *option);

/* "auto, none, lz4 or zstd", with *last* (" or ") before the last name; g_free(). */
char *migrate_option_list_choices(const MigrateOption *option, const char *last);

/* The built-in defaults. */
void migrate_options_init(MigrateOptions *ret);

/* Sets the field of *option* to what *text* says ("true" or "false" for FLAG and FILE).  FALSE with
 * *error*, and the field is as it was, where that is not valid. */
gboolean migrate_option_set_text(const MigrateOption *option, MigrateOptionOrigin origin,
                                 const char *text, MigrateOptions *options, GError **error);

/* Sets what *request*, an object, has; other keys are ignored.  Ends with
 * migrate_options_agree(). */
gboolean migrate_options_read(json_t *request, MigrateOptions *options, GError **error);

/* Puts the options of *given* into *request*, for migrate_options_read(). */
void migrate_options_write(const MigrateOptions *options, MigrateOptionSet given, json_t *request);

/* The rules between options.  Where only one of max_downtime_ms and downtime_cap_ms was *given*,
 * the other gives way.  An error where both were given and the cap is below, where record and
 * detach come together, and where there is a store for a mode that needs none. */
gboolean migrate_options_agree(MigrateOptions *options, MigrateOptionSet given,
                               MigrateOptionOrigin origin, GError **error);

/* All keys of a request, NULL-terminated, with *others* (NULL-terminated; they are not options)
 * before them.  Free the array, not the texts, with g_free(). */
const char **migrate_options_list_keys(const char *const *others);
