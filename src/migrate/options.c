#include "migrate/options.h"

#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/names.h"
#include "base/quantity.h"
#include "base/rate.h"
#include "migrate/witness_open.h"
#include "policy/connection_count.h"
#include "vmm/vmm_driver.h"

#define SECOND_MS 1000u
#define HOUR_MS (3600 * SECOND_MS)
#define MIB ((uint64_t)1 << 20)
#define TIB ((uint64_t)1 << 40)

#define FIELD(name) .offset = offsetof(MigrateOptions, name)

/* ---- the table ---- */

#define CHOICE(prefix, Type)                                                                       \
    static const char *prefix##_choice(guint value)                                                \
    {                                                                                              \
        return prefix##_name((Type)value);                                                         \
    }

static const char *const disk_mode_names[] = {
    [DISK_MODE_AUTO] = "auto",
    [DISK_MODE_SHARED] = "shared",
    [DISK_MODE_COPY] = "copy",
    [DISK_MODE_TOP] = "top",
};
NAMES_DEFINE(disk_mode, DiskMode, disk_mode_names)

const char *migrate_vmm_kind(guint vmm)
{
    return vmm > 0 ? vmm_driver_kind(vmm - 1) : NULL;
}

const char *migrate_vmm_name(guint vmm)
{
    return vmm > 0 ? migrate_vmm_kind(vmm) : "same";
}

CHOICE(disk_mode, DiskMode)
CHOICE(tracker_kind, TrackerKind)
CHOICE(packing_mode, PackingMode)
CHOICE(throttle_mode, ThrottleMode)
CHOICE(sent_store_mode, SentStoreMode)

static const char *const mode_names[] = {
    [MIGRATE_MODE_AUTO] = "auto",
    [MIGRATE_MODE_PRECOPY] = "precopy",
    [MIGRATE_MODE_POSTCOPY] = "postcopy",
    [MIGRATE_MODE_HYBRID] = "hybrid",
};

const char *migrate_mode_name(MigrateMode mode)
{
    return mode_names[mode];
}

CHOICE(migrate_mode, MigrateMode)

static const char *const safety_names[] = {
    [MIGRATE_SAFETY_NONE] = "none",
    [MIGRATE_SAFETY_NETWORK] = "network",
    [MIGRATE_SAFETY_FULL] = "full",
};

const char *migrate_safety_name(MigrateSafety safety)
{
    return safety_names[safety];
}

CHOICE(migrate_safety, MigrateSafety)

static const MigrateOption table[] = {
    {
        .name = "mode",
        .api_key = "mode",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(mode),
        .argument = "MODE",
        .choice = migrate_mode_choice,
        .choices = MIGRATE_MODE_HYBRID + 1,
        .fallback = "auto",
        .help = "How the guest is moved",
    },
    {
        .name = "safety",
        .api_key = "safety",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(safety),
        .argument = "LEVEL",
        .choice = migrate_safety_choice,
        .choices = MIGRATE_SAFETY_FULL + 1,
        .fallback = "network",
        .help = "What post-copy survives: none, network, or full",
    },
    {
        .name = "vmm",
        .api_key = "vmm",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(vmm),
        .argument = "KIND",
        .choice = migrate_vmm_name,
        .choices = VMM_DRIVER_KINDS + 1,
        .fallback = "same",
        .help = "The virtual machine monitor that it goes on in",
    },
    {
        .name = "checkpoint-interval",
        .api_key = "checkpoint_ms",
        .file_key = "checkpoint-interval",
        .kind = MIGRATE_OPTION_DURATION,
        FIELD(checkpoint_ms),
        .argument = "TIME",
        .least = 10,
        .limit = 5 * SECOND_MS,
        .fallback = "50",
        .help = "With --safety full: from one epoch to the next",
    },
    {
        .name = "max-downtime",
        .api_key = "max_downtime_ms",
        .file_key = "max-downtime",
        .kind = MIGRATE_OPTION_DURATION,
        FIELD(max_downtime_ms),
        .argument = "TIME",
        .least = 1,
        .limit = HOUR_MS,
        .fallback = "300",
        .help = "Longest pause to aim at",
    },
    {
        .name = "downtime-cap",
        .api_key = "downtime_cap_ms",
        .file_key = "downtime-cap",
        .kind = MIGRATE_OPTION_DURATION,
        FIELD(downtime_cap_ms),
        .argument = "TIME",
        .least = 1,
        .limit = HOUR_MS,
        .fallback = "2s",
        .help = "Longest pause to accept for a guest that needs it",
    },
    {
        .name = "deadline",
        .api_key = "deadline_ms",
        .kind = MIGRATE_OPTION_DURATION,
        FIELD(deadline_ms),
        .argument = "TIME",
        .least = 1,
        .limit = 24 * HOUR_MS,
        .help = "The whole move is to be over by then",
    },
    {
        .name = "retry-for",
        .api_key = "retry_for_ms",
        .file_key = "retry-for",
        .kind = MIGRATE_OPTION_DURATION,
        FIELD(retry_for_ms),
        .argument = "TIME",
        .limit = HOUR_MS,
        .fallback = "1m",
        .help = "Connect again for that long where the connection breaks; 0: give up",
    },
    {
        .name = "store",
        .api_key = "store",
        .kind = MIGRATE_OPTION_HOST,
        FIELD(store),
        .argument = "HOST",
        .help = "A third agent that keeps a copy of what follows a post-copy's switchover",
    },
    {
        .name = "seed",
        .api_key = "seed",
        .kind = MIGRATE_OPTION_PATH,
        FIELD(seed),
        .argument = "IMAGE",
        .help = "A saved image at the destination: pages that it has are not sent",
    },
    {
        .name = "throttle",
        .api_key = "throttle",
        .file_key = "throttle",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(throttle),
        .argument = "HOW",
        .choice = throttle_mode_choice,
        .choices = THROTTLE_OFF + 1,
        .fallback = "auto",
        .help = "How the guest may be slowed where nothing else helps",
    },
    {
        .name = "bandwidth",
        .api_key = "bandwidth",
        .file_key = "bandwidth",
        .kind = MIGRATE_OPTION_RATE,
        FIELD(bandwidth_bytes_per_second),
        .argument = "RATE",
        .limit = RATE_LIMIT,
        .fallback = "unlimited",
        .help = "Send no faster than this",
    },
    {
        .name = "streams",
        .api_key = "streams",
        .file_key = "streams",
        .kind = MIGRATE_OPTION_COUNT,
        FIELD(streams),
        .argument = "N",
        .least = 1,
        .limit = 16,
        .fallback = "auto",
        .automatic = "as many as cores, at most 4",
        .help = "Threads that read and pack pages",
    },
    {
        .name = "connections",
        .api_key = "connections",
        .file_key = "connections",
        .kind = MIGRATE_OPTION_COUNT,
        FIELD(connections),
        .argument = "N",
        .least = 1,
        .limit = CONNECTION_COUNT_MOST,
        .fallback = "auto",
        .automatic = "as many as help, at most 8",
        .help = "Connections that pages go over",
    },
    {
        .name = "compress",
        .api_key = "compress",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(compress),
        .argument = "HOW",
        .choice = packing_mode_choice,
        .choices = PACKING_ZSTD + 1,
        .fallback = "auto",
        .help = "How pages are compressed",
    },
    {
        .name = "segments",
        .api_key = "segments",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(segments),
        .argument = "HOW",
        .choice = sent_store_mode_choice,
        .choices = SENT_STORE_OFF + 1,
        .fallback = "auto",
        .help = "How changes inside a page are found",
    },
    {
        .name = "memory-budget",
        .api_key = "memory_budget_bytes",
        .file_key = "memory-budget",
        .kind = MIGRATE_OPTION_SIZE,
        FIELD(memory_budget_bytes),
        .argument = "BYTES",
        .least = MIB,
        .limit = TIB,
        .fallback = "auto",
        .automatic = "1/16 of the guest's",
        .help = "Memory for that on this host",
    },
    {
        .name = "verify",
        .api_key = "verify",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(verify),
        .help = "Compare memory and copied disks before the guest starts there (longer downtime)",
    },
    {
        .name = "disks",
        .api_key = "disks",
        .file_key = "disks",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(disks),
        .argument = "HOW",
        .choice = disk_mode_choice,
        .choices = DISK_MODE_TOP + 1,
        .fallback = "auto",
        .help = "Whether disks are shared with the destination, or copied to it",
    },
    {
        .name = "overwrite",
        .api_key = "overwrite",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(overwrite),
        .help = "Replace files that are in the place of a disk that is copied",
    },
    {
        .name = "keep",
        .api_key = "keep_source",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(keep_source),
        .help = "Leave the images of copied disks as they are here",
    },
    {
        .name = "delete-source",
        .api_key = "delete_source",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(delete_source),
        .help = "Remove the images of copied disks here once the guest has moved",
    },
    {
        .name = "reclaim-free",
        .api_key = "reclaim_free",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(reclaim_free),
        .help = "Take the guest's free memory by its balloon first: it is not sent then",
    },
    {
        .name = "trust-images",
        .api_key = "trust_images",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(trust_images),
        .help = "Do not prove that the disks' images there are the same as here",
    },
    {
        .name = "allow-cpu-mismatch",
        .api_key = "allow_cpu_mismatch",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(allow_cpu_mismatch),
        .help = "Move it although the CPU there lacks features of the guest's",
    },
    {
        .name = "tracker",
        .api_key = "tracker",
        .file_key = "tracker",
        .kind = MIGRATE_OPTION_CHOICE,
        FIELD(tracker),
        .argument = "KIND",
        .choice = tracker_kind_choice,
        .choices = TRACKER_UFFD_SYNC + 1,
        .fallback = "auto",
        .help = "How writes are followed",
    },
    {
        .name = "record",
        .api_key = "record",
        .kind = MIGRATE_OPTION_FILE,
        FIELD(record),
        .argument = "FILE",
        .help = "Write a trace of the move to FILE, for vmferry-sim",
    },
    {
        .name = "detach",
        .api_key = "detach",
        .kind = MIGRATE_OPTION_FLAG,
        FIELD(detach),
        .help = "Begin the move and return",
    },
};

G_STATIC_ASSERT(G_N_ELEMENTS(table) <= MIGRATE_OPTIONS_LIMIT);

const MigrateOption *migrate_option_at(guint index)
{
    return index < G_N_ELEMENTS(table) ? &table[index] : NULL;
}

const MigrateOption *migrate_option_find(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(table); i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

MigrateOptionSet migrate_option_bit(const MigrateOption *option)
{
    return (MigrateOptionSet)1 << (option - table);
}

static const MigrateOption *find_field(size_t offset)
{
    const MigrateOption *option = table;

    while (option->offset != offset)
        option++;
    return option;
}

char *migrate_option_list_choices(const MigrateOption *option, const char *last)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < option->choices; i++) {
        if (i > 0)
            g_string_append(text, i + 1 < option->choices ? ", " : last);
        g_string_append(text, option->choice(i));
    }
    return g_string_free(text, FALSE);
}

/* ---- the fields ---- */

static gboolean is_flag(const MigrateOption *option)
{
    return option->kind == MIGRATE_OPTION_FLAG || option->kind == MIGRATE_OPTION_FILE;
}

static gboolean is_wide(const MigrateOption *option)
{
    return option->kind == MIGRATE_OPTION_SIZE || option->kind == MIGRATE_OPTION_RATE;
}

static gboolean is_text(const MigrateOption *option)
{
    return option->kind == MIGRATE_OPTION_HOST || option->kind == MIGRATE_OPTION_PATH;
}

/* Long enough for a name and a port; what is not an address is found where it is connected to. */
static gboolean set_host(const MigrateOption *option, const char *text, MigrateOptions *options,
                         GError **error)
{
    if (witness_address_is_foreign(text)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%.64s\" keeps no pages: a store is an agent, HOST or HOST:PORT", text);
        return FALSE;
    }
    if (!*text || strlen(text) >= MIGRATE_STORE_BYTES || !g_str_is_ascii(text) ||
        strpbrk(text, " \t\r\n")) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%.64s\" is not a valid address: write "
                  "HOST or HOST:PORT",
                  text);
        return FALSE;
    }
    g_strlcpy((char *)options + option->offset, text, MIGRATE_STORE_BYTES);
    return TRUE;
}

static gboolean set_path(const MigrateOption *option, const char *text, MigrateOptions *options,
                         GError **error)
{
    if (!g_path_is_absolute(text) || strlen(text) >= MIGRATE_SEED_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%.64s\" is not an absolute path of at most %u bytes", text,
                  MIGRATE_SEED_BYTES - 1);
        return FALSE;
    }
    g_strlcpy((char *)options + option->offset, text, MIGRATE_SEED_BYTES);
    return TRUE;
}

static gboolean set_any_text(const MigrateOption *option, const char *text, MigrateOptions *options,
                             GError **error)
{
    return (option->kind == MIGRATE_OPTION_PATH ? set_path : set_host)(option, text, options,
                                                                       error);
}

G_STATIC_ASSERT(sizeof(gboolean) == sizeof(guint) && sizeof(MigrateMode) == sizeof(guint));

/* All fields but texts are of one of two sizes. */
static uint64_t get_value(const MigrateOption *option, const MigrateOptions *options)
{
    const char *field = (const char *)options + option->offset;
    uint64_t wide;
    guint narrow;

    if (is_wide(option)) {
        memcpy(&wide, field, sizeof wide);
        return wide;
    }
    memcpy(&narrow, field, sizeof narrow);
    return narrow;
}

static void set_value(const MigrateOption *option, uint64_t value, MigrateOptions *options)
{
    char *field = (char *)options + option->offset;
    guint narrow = (guint)value;

    if (is_wide(option))
        memcpy(field, &value, sizeof value);
    else
        memcpy(field, &narrow, sizeof narrow);
}

/* ---- errors ---- */

static char *spell(const MigrateOption *option, MigrateOptionOrigin origin)
{
    switch (origin) {
    case MIGRATE_FROM_COMMAND:
        return g_strconcat("--", option->name, NULL);
    case MIGRATE_FROM_API:
        return g_strdup(option->api_key);
    case MIGRATE_FROM_FILE:
        break;
    }
    return g_strdup(option->file_key);
}

/* Puts the option's name before an error about its text. */
static gboolean name_in_error(const MigrateOption *option, MigrateOptionOrigin origin,
                              GError **error)
{
    g_autofree char *name = spell(option, origin);

    if (origin != MIGRATE_FROM_FILE)
        g_prefix_error(error, "%s: ", name);
    return FALSE;
}

static char *format_limit(const MigrateOption *option, uint64_t value)
{
    if (option->kind == MIGRATE_OPTION_DURATION)
        return time_format((guint)value);
    if (option->kind == MIGRATE_OPTION_SIZE)
        return size_format(value);
    return g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)value);
}

static gboolean check_limits(const MigrateOption *option, MigrateOptionOrigin origin,
                             uint64_t value, GError **error)
{
    g_autofree char *name = NULL, *least = NULL, *limit = NULL;

    if (value >= option->least && value <= option->limit)
        return TRUE;
    name = spell(option, origin);
    least = format_limit(option, option->least);
    limit = format_limit(option, option->limit);
    error_set(error, VMFERRY_ERROR_INVALID, "%s must be %sfrom %s to %s%s",
              origin == MIGRATE_FROM_FILE ? "the value" : name,
              origin == MIGRATE_FROM_FILE && option->automatic ? "auto, or " : "", least, limit,
              is_wide(option) ? " bytes" : "");
    return FALSE;
}

/* ---- values as texts ---- */

static gboolean parse_choice(const MigrateOption *option, const char *text, uint64_t *ret,
                             GError **error)
{
    g_autofree char *choices = NULL;

    for (guint i = 0; i < option->choices; i++) {
        if (strcmp(option->choice(i), text) == 0) {
            *ret = i;
            return TRUE;
        }
    }
    choices = migrate_option_list_choices(option, " or ");
    error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid choice; use %s", text,
              choices);
    return FALSE;
}

static gboolean parse_flag(const char *text, uint64_t *ret, GError **error)
{
    *ret = strcmp(text, "true") == 0;
    if (*ret || strcmp(text, "false") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is neither true nor false", text);
    return FALSE;
}

static gboolean parse_count(const char *text, uint64_t *ret, GError **error)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &value, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid number", text);
        return FALSE;
    }
    *ret = value;
    return TRUE;
}

static gboolean parse_value(const MigrateOption *option, const char *text, uint64_t *ret,
                            GError **error)
{
    double amount = 0;

    switch (option->kind) {
    case MIGRATE_OPTION_FLAG:
    case MIGRATE_OPTION_FILE:
        return parse_flag(text, ret, error);
    case MIGRATE_OPTION_CHOICE:
        return parse_choice(option, text, ret, error);
    case MIGRATE_OPTION_COUNT:
        return parse_count(text, ret, error);
    case MIGRATE_OPTION_RATE:
        return rate_parse(text, ret, error);
    case MIGRATE_OPTION_HOST:
    case MIGRATE_OPTION_PATH:
        break; /* no number */
    case MIGRATE_OPTION_DURATION:
        if (!time_parse(text, &amount, error))
            return FALSE;
        break;
    case MIGRATE_OPTION_SIZE:
        if (!size_parse(text, &amount, error))
            return FALSE;
        break;
    }
    /* Compared before it becomes an integer, which not every amount fits. */
    *ret = amount > (double)option->limit ? option->limit + 1 : (uint64_t)amount;
    return TRUE;
}

static gboolean has_limits(const MigrateOption *option)
{
    return !is_flag(option) && !is_text(option) && option->kind != MIGRATE_OPTION_CHOICE;
}

gboolean migrate_option_set_text(const MigrateOption *option, MigrateOptionOrigin origin,
                                 const char *text, MigrateOptions *options, GError **error)
{
    uint64_t value;

    if (origin == MIGRATE_FROM_FILE && option->automatic && strcmp(text, "auto") == 0) {
        set_value(option, 0, options);
        return TRUE;
    }
    if (is_text(option))
        return set_any_text(option, text, options, error) || name_in_error(option, origin, error);
    if (!parse_value(option, text, &value, error))
        return name_in_error(option, origin, error);
    if (has_limits(option) && !check_limits(option, origin, value, error))
        return FALSE;
    set_value(option, value, options);
    return TRUE;
}

void migrate_options_init(MigrateOptions *ret)
{
    *ret = (MigrateOptions){0};
    for (guint i = 0; i < G_N_ELEMENTS(table); i++)
        if (table[i].fallback)
            migrate_option_set_text(&table[i], MIGRATE_FROM_FILE, table[i].fallback, ret, NULL);
}

/* ---- values as JSON ---- */

static gboolean read_value(const MigrateOption *option, json_t *request, uint64_t *ret,
                           GError **error)
{
    json_t *value = json_object_get(request, option->api_key);
    const char *text;

    if (is_flag(option)) {
        *ret = json_is_true(value);
        if (json_is_boolean(value))
            return TRUE;
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither true nor false",
                  option->api_key);
        return FALSE;
    }
    if (option->kind != MIGRATE_OPTION_CHOICE)
        return json_get_count(request, option->api_key, G_MAXINT64, ret, error) &&
               check_limits(option, MIGRATE_FROM_API, *ret, error);
    if (!json_get_text(request, option->api_key, &text, error))
        return FALSE;
    return parse_choice(option, text, ret, error) || name_in_error(option, MIGRATE_FROM_API, error);
}

static gboolean read_field(const MigrateOption *option, json_t *request, MigrateOptions *options,
                           GError **error)
{
    const char *text;
    uint64_t value;

    if (is_text(option))
        return json_get_text(request, option->api_key, &text, error) &&
               (set_any_text(option, text, options, error) ||
                name_in_error(option, MIGRATE_FROM_API, error));
    if (!read_value(option, request, &value, error))
        return FALSE;
    set_value(option, value, options);
    return TRUE;
}

gboolean migrate_options_read(json_t *request, MigrateOptions *options, GError **error)
{
    MigrateOptionSet given = 0;

    for (guint i = 0; i < G_N_ELEMENTS(table); i++) {
        if (!json_object_get(request, table[i].api_key))
            continue;
        if (!read_field(&table[i], request, options, error))
            return FALSE;
        given |= migrate_option_bit(&table[i]);
    }
    return migrate_options_agree(options, given, MIGRATE_FROM_API, error);
}

static json_t *make_json(const MigrateOption *option, const MigrateOptions *options)
{
    uint64_t value;

    if (is_text(option))
        return json_string((const char *)options + option->offset);
    value = get_value(option, options);
    if (is_flag(option))
        return json_boolean(value);
    if (option->kind == MIGRATE_OPTION_CHOICE)
        return json_string(option->choice((guint)value));
    return json_integer((json_int_t)value);
}

void migrate_options_write(const MigrateOptions *options, MigrateOptionSet given, json_t *request)
{
    for (guint i = 0; i < G_N_ELEMENTS(table); i++)
        if (given & migrate_option_bit(&table[i]))
            json_object_set_new(request, table[i].api_key, make_json(&table[i], options));
}

const char **migrate_options_list_keys(const char *const *others)
{
    guint count = g_strv_length((char **)others);
    const char **keys = g_new0(const char *, count + G_N_ELEMENTS(table) + 1);

    for (guint i = 0; i < count; i++)
        keys[i] = others[i];
    for (guint i = 0; i < G_N_ELEMENTS(table); i++)
        keys[count + i] = table[i].api_key;
    return keys;
}

/* ---- rules between options ---- */

/* Digests are compared before the guest runs there. */
static gboolean check_verify(const MigrateOptions *options, MigrateOptionOrigin origin,
                             GError **error)
{
    g_autofree char *mode = NULL, *verify = NULL;

    if (!options->verify || !migrate_options_may_split(options))
        return TRUE;
    mode = spell(find_field(offsetof(MigrateOptions, mode)), origin);
    verify = spell(find_field(offsetof(MigrateOptions, verify)), origin);
    error_set(
        error, VMFERRY_ERROR_INVALID,
        "%s compares all memory before the guest runs there, which %s \"%s\" does not wait for",
        verify, mode, migrate_mode_name(options->mode));
    return FALSE;
}

static gboolean match_downtimes(MigrateOptions *options, MigrateOptionSet given,
                                MigrateOptionOrigin origin, GError **error)
{
    const MigrateOption *target = find_field(offsetof(MigrateOptions, max_downtime_ms));
    const MigrateOption *cap = find_field(offsetof(MigrateOptions, downtime_cap_ms));
    g_autofree char *target_name = NULL, *cap_name = NULL;

    if (options->downtime_cap_ms >= options->max_downtime_ms)
        return TRUE;
    if (!(given & migrate_option_bit(cap))) {
        options->downtime_cap_ms = options->max_downtime_ms;
        return TRUE;
    }
    if (!(given & migrate_option_bit(target))) {
        options->max_downtime_ms = options->downtime_cap_ms;
        return TRUE;
    }
    target_name = spell(target, origin);
    cap_name = spell(cap, origin);
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s of %u ms is below %s of %u ms: it must be at least %u ms here", cap_name,
              options->downtime_cap_ms, target_name, options->max_downtime_ms,
              options->max_downtime_ms);
    return FALSE;
}

static gboolean check_source_images(const MigrateOptions *options, MigrateOptionOrigin origin,
                                    GError **error)
{
    g_autofree char *keep = NULL, *remove = NULL;

    if (!options->keep_source || !options->delete_source)
        return TRUE;
    keep = spell(find_field(offsetof(MigrateOptions, keep_source)), origin);
    remove = spell(find_field(offsetof(MigrateOptions, delete_source)), origin);
    error_set(error, VMFERRY_ERROR_INVALID, "%s and %s contradict each other", keep, remove);
    return FALSE;
}

/* Where all memory is there before the guest runs there, nothing is to be kept elsewhere. */
static gboolean check_store(const MigrateOptions *options, MigrateOptionOrigin origin,
                            GError **error)
{
    g_autofree char *mode = NULL, *store = NULL;

    if (!*options->store || migrate_options_may_split(options))
        return TRUE;
    mode = spell(find_field(offsetof(MigrateOptions, mode)), origin);
    store = spell(find_field(offsetof(MigrateOptions, store)), origin);
    error_set(error, VMFERRY_ERROR_INVALID, "%s is for %s \"postcopy\" or \"hybrid\"", store, mode);
    return FALSE;
}

static gboolean check_reader(const MigrateOptions *options, MigrateOptionOrigin origin,
                             GError **error)
{
    g_autofree char *record = NULL, *detach = NULL;

    if (!options->record || !options->detach)
        return TRUE;
    record = spell(find_field(offsetof(MigrateOptions, record)), origin);
    detach = spell(find_field(offsetof(MigrateOptions, detach)), origin);
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s needs a reader until the move has ended: not with %s", record, detach);
    return FALSE;
}

static gboolean check_safety(const MigrateOptions *options, MigrateOptionOrigin origin,
                             GError **error)
{
    const MigrateOption *safety = find_field(offsetof(MigrateOptions, safety));
    g_autofree char *safety_name = NULL, *mode_name = NULL;

    if (options->safety != MIGRATE_SAFETY_FULL || migrate_options_may_split(options))
        return TRUE;
    safety_name = spell(safety, origin);
    mode_name = spell(find_field(offsetof(MigrateOptions, mode)), origin);
    error_set(error, VMFERRY_ERROR_INVALID, "%s full is about post-copy: not with %s precopy",
              safety_name, mode_name);
    return FALSE;
}

/* There nearly all of it is sent when the guest runs there. */
static gboolean check_seed(const MigrateOptions *options, MigrateOptionOrigin origin,
                           GError **error)
{
    g_autofree char *mode = NULL, *seed = NULL;

    if (!*options->seed || options->mode != MIGRATE_MODE_POSTCOPY)
        return TRUE;
    mode = spell(find_field(offsetof(MigrateOptions, mode)), origin);
    seed = spell(find_field(offsetof(MigrateOptions, seed)), origin);
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s is of use before the switchover: not with %s \"postcopy\" (\"hybrid\" goes)",
              seed, mode);
    return FALSE;
}

gboolean migrate_options_agree(MigrateOptions *options, MigrateOptionSet given,
                               MigrateOptionOrigin origin, GError **error)
{
    return match_downtimes(options, given, origin, error) && check_reader(options, origin, error) &&
           check_source_images(options, origin, error) && check_store(options, origin, error) &&
           check_verify(options, origin, error) && check_safety(options, origin, error) &&
           check_seed(options, origin, error);
}
