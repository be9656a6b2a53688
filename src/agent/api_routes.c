#include <string.h>
#include <unistd.h>

#include "agent/api_call.h"
#include "agent/estimate.h"
#include "agent/recovery.h"
#include "agent/guest_view.h"
#include "agent/launch.h"
#include "agent/load.h"
#include "agent/machine_state.h"
#include "agent/metrics.h"
#include "agent/move.h"
#include "agent/order_expiry.h"
#include "agent/page_stores.h"
#include "agent/path_check.h"
#include "agent/protect.h"
#include "agent/restore.h"
#include "agent/save.h"
#include "base/clock.h"
#include "base/name.h"
#include "migrate/estimate.h"
#include "migrate/path_probe.h"
#include "migrate/protect.h"
#include "migrate/saved_disks.h"
#include "migrate/witness_open.h"
#include "base/error.h"
#include "vmm/vmm_driver.h"
#include "wire/address.h"
#include "vmferry-config.h"

#define CANCEL_TIMEOUT_MS 60000
#define MAX_ARGUMENTS 1024
#define MAX_PID (1u << 22)
/* What `check` says times for by default. */
#define CHECK_MEMORY_BYTES (1024.0 * 1024 * 1024)

/* A key that is not known is an error, so that a misspelt one is not ignored. */
static gboolean check_keys(json_t *body, const char *const *known, GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach(body, key, value)
    {
        if (!g_strv_contains(known, key)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%.64s\" is not a key of this request", key);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean need_body(ApiCall *call, const char *const *known, GError **error)
{
    if (!call->body) {
        error_set(error, VMFERRY_ERROR_INVALID, "this request needs a JSON object as its body");
        return FALSE;
    }
    return check_keys(call->body, known, error);
}

static uint64_t boot_ms(void)
{
    return (uint64_t)clock_ns_to_ms(clock_boot_ns());
}

static json_t *get_status(ApiCall *call, GError **error)
{
    AgentContext *context = call->context;
    g_autoptr(GPtrArray) guests = registry_list(context->registry);

    return json_pack(
        "{s:o, s:I, s:s, s:s, s:i, s:s, s:s?, s:s?, s:b, s:b, s:s, s:s, s:s, s:i, s:I, s:I}",
        "stored", page_stores_to_json(context->stores), "store_memory",
        (json_int_t)page_stores_get_limit(context->stores), "version", VMFERRY_VERSION, "host",
        context->host_name, "pid", (int)getpid(), "boot_id", context->boot_id, "listening",
        context->listening, "api", context->api_listening, "secure", context->identity != NULL,
        "insecure", context->settings->insecure, "pki_dir", context->settings->pki_dir, "state_dir",
        context->settings->state_dir, "runtime_dir", context->settings->runtime_dir, "guests",
        (int)guests->len, "last_event", (json_int_t)event_log_get_last(context->events), "time_ms",
        (json_int_t)boot_ms());
}

static json_t *list_guests(ApiCall *call)
{
    g_autoptr(GPtrArray) guests = registry_list(call->context->registry);
    json_t *list = json_array();

    for (guint i = 0; i < guests->len; i++)
        json_array_append_new(list, guest_view_short(guests->pdata[i]));
    return list;
}

static json_t *get_guests(ApiCall *call, GError **error)
{
    return json_pack("{s:o}", "guests", list_guests(call));
}

static json_t *get_metrics(ApiCall *call, GError **error)
{
    g_autoptr(json_t) guests = list_guests(call);
    g_autoptr(LoadReport) load = load_get_report(call->context, NULL);
    g_autofree char *text = metrics_write(guests, load);

    call->text_type = METRICS_CONTENT_TYPE;
    return json_string(text);
}

static json_t *get_load(ApiCall *call, GError **error)
{
    return load_to_json(call->context, error);
}

static json_t *get_departures(ApiCall *call, GError **error)
{
    g_autoptr(GPtrArray) departures = departure_log_list(call->context->departures);
    json_t *list = json_array();

    for (guint i = 0; i < departures->len; i++)
        json_array_append_new(list, departure_to_json(departures->pdata[i]));
    return json_pack("{s:o}", "departures", list);
}

static json_t *get_guest(ApiCall *call, GError **error)
{
    g_autoptr(Guest) guest = registry_find(call->context->registry, call->guest, error);
    json_t *view = guest ? guest_view_long(guest) : NULL;

    /* It may hold passwords. */
    if (view && call->access != API_ACCESS_LOCAL)
        json_object_set_new(view, "command_line", json_null());
    return view;
}

static json_t *get_disks(ApiCall *call, GError **error)
{
    g_autoptr(Guest) guest = registry_find(call->context->registry, call->guest, error);

    return guest ? guest_view_disks(guest, error) : NULL;
}

static json_t *get_state(ApiCall *call, GError **error)
{
    return machine_state_get(call->context, call->guest, error);
}

static char **read_command_line(json_t *body, GError **error)
{
    g_auto(GStrv) arguments = NULL;
    json_t *list;
    size_t count;

    if (!json_get_array(body, "command_line", MAX_ARGUMENTS, &list, error))
        return NULL;
    count = json_array_size(list);
    arguments = g_new0(char *, count + 1);
    for (size_t i = 0; i < count; i++) {
        const char *argument = json_string_value(json_array_get(list, i));

        if (!argument || (i == 0 && !*argument)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"command_line\" does not hold text at %zu",
                      i);
            return NULL;
        }
        arguments[i] = g_strdup(argument);
    }
    if (count == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"command_line\" is empty");
        return NULL;
    }
    return g_steal_pointer(&arguments);
}

static gboolean run_guest(ApiCall *call, const char *name, GError **error)
{
    const char *directory = json_text_or(call->body, "directory", "/");
    g_auto(GStrv) arguments = read_command_line(call->body, error);

    if (arguments && !g_path_is_absolute(directory)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"directory\" is not an absolute path");
        return FALSE;
    }
    return arguments && launch_run(call->context, name, arguments, directory,
                                   json_text_or(call->body, "vmm", NULL), error);
}

static gboolean adopt_guest(ApiCall *call, const char *name, GError **error)
{
    LaunchAdoption adoption = {
        .qmp_path = json_text_or(call->body, "qmp", NULL),
        .libvirt = json_text_or(call->body, "libvirt", NULL),
        .connect = json_text_or(call->body, "connect", NULL),
        .allow_supervisor = json_flag_or(call->body, "allow_supervisor", FALSE),
    };
    uint64_t pid = 0;

    if (adoption.libvirt ? adoption.qmp_path != NULL : adoption.connect != NULL) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"connect\" goes with \"libvirt\", and \"qmp\" does not");
        return FALSE;
    }
    if (!adoption.libvirt && !json_get_count(call->body, "pid", MAX_PID, &pid, error))
        return FALSE;
    adoption.pid = (pid_t)pid;
    return launch_adopt(call->context, name, &adoption, error);
}

static json_t *post_guests(ApiCall *call, GError **error)
{
    static const char *const one_of[] = {"command_line", "pid", "libvirt"};
    static const char *const known[] = {
        "name",    "command_line", "directory",        "pid", "qmp",
        "libvirt", "connect",      "allow_supervisor", "vmm", NULL,
    };
    const char *name;
    guint ways = 0;
    gboolean run;

    if (!need_body(call, known, error) || !json_get_text(call->body, "name", &name, error) ||
        !guest_name_check(name, error))
        return NULL;
    run = json_object_get(call->body, "command_line") != NULL;
    for (guint i = 0; i < G_N_ELEMENTS(one_of); i++)
        ways += json_object_get(call->body, one_of[i]) != NULL;
    if (ways != 1) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "give either \"command_line\" (to run), or \"pid\" or \"libvirt\" (to adopt)");
        return NULL;
    }
    if (!(run ? run_guest(call, name, error) : adopt_guest(call, name, error)))
        return NULL;
    call->status = 201;
    call->guest = name;
    return get_guest(call, error);
}

static json_t *delete_guest(ApiCall *call, GError **error)
{
    if (!launch_stop(call->context, call->guest, error))
        return NULL;
    return json_pack("{s:s}", "stopped", call->guest);
}

static void on_news(gpointer user)
{
    agent_context_wake(user);
}

static gboolean read_disk_modes(json_t *body, json_t **ret, GError **error)
{
    const char *id;
    json_t *mode;
    DiskMode parsed;

    *ret = json_object_get(body, "disk_modes");
    if (*ret && !json_is_object(*ret)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"disk_modes\" is not an object");
        return FALSE;
    }
    json_object_foreach(*ret, id, mode)
    {
        if (json_is_string(mode) && disk_mode_from_name(json_string_value(mode), &parsed))
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "disk %.64s: use auto, shared, copy or top", id);
        return FALSE;
    }
    return TRUE;
}

static json_t *post_migrate(ApiCall *call, GError **error)
{
    static const char *const others[] = {"destination", "disk_modes", "expires", NULL};
    g_autofree const char **known = migrate_options_list_keys(others);
    MigrateOptions options = call->context->settings->moves;
    g_autoptr(Activity) move = NULL;
    const char *destination;
    MoveRequest request = {.options = &options};

    if (!need_body(call, known, error) ||
        !json_get_text(call->body, "destination", &destination, error) ||
        !migrate_options_read(call->body, &options, error) ||
        !read_disk_modes(call->body, &request.disk_modes, error) ||
        !order_expiry_check(call->body, call->context->boot_id, boot_ms(), error))
        return NULL;
    request.destination = destination;
    move = move_start(call->context, call->guest, &request, error);
    if (!move)
        return NULL;
    if (options.detach) {
        call->status = 202;
        return json_pack("{s:s, s:s, s:s}", "guest", call->guest, "destination", destination,
                         "activity", activity_get_id(move));
    }
    call->stream = activity_subscribe(move, on_news, call->context);
    return NULL;
}

/* *otherwise* where it is not there, or null. */
static gboolean read_word(json_t *body, const char *key, const char *otherwise, const char **ret,
                          GError **error)
{
    json_t *value = json_object_get(body, key);

    *ret = otherwise;
    return !value || json_is_null(value) || json_get_text(body, key, ret, error);
}

/* *ret*: of moves by default; what makes no sense for an image is not read. */
static gboolean read_save(ApiCall *call, MigrateOptions *ret, SaveRequest *request, GError **error)
{
    json_t *body = call->body;
    const char *disks;

    request->options = ret;
    request->replace = json_flag_or(body, "replace", FALSE);
    request->ends = json_flag_or(body, "stop", FALSE);
    request->pipes = call->access == API_ACCESS_LOCAL;
    ret->compress = PACKING_ZSTD;
    if (!json_get_text(body, "file", &request->target, error) ||
        !read_word(body, "base", NULL, &request->base, error) ||
        !read_word(body, "disks", NULL, &disks, error))
        return FALSE;
    ret->disks = saved_disks_default(request->ends);
    request->live_disks = g_strcmp0(disks, "live") == 0;
    if (disks && strcmp(disks, "copy") == 0)
        ret->disks = DISK_MODE_COPY;
    else if (disks && (strcmp(disks, "reference") == 0 || strcmp(disks, "live") == 0))
        ret->disks = DISK_MODE_SHARED;
    else if (disks) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"disks\" is copy, reference or live");
        return FALSE;
    }
    return TRUE;
}

/* Those options of a move that mean the same for a save. */
static gboolean read_save_options(json_t *body, MigrateOptions *ret, GError **error)
{
    static const char *const keys[] = {"bandwidth",   "max_downtime_ms", "downtime_cap_ms",
                                       "deadline_ms", "retry_for_ms",    "compress",
                                       "throttle"};
    g_autoptr(json_t) request = json_object();

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        json_object_set(request, keys[i], json_object_get(body, keys[i]));
    return migrate_options_read(request, ret, error);
}

static json_t *post_save(ApiCall *call, GError **error)
{
    static const char *const known[] = {
        "file",
        "base",
        "disks",
        "replace",
        "stop",
        "detach",
        "bandwidth",
        "max_downtime_ms",
        "downtime_cap_ms",
        "deadline_ms",
        "retry_for_ms",
        "compress",
        "throttle",
        NULL,
    };
    MigrateOptions options = call->context->settings->moves;
    SaveRequest request = {0};
    g_autoptr(Activity) save = NULL;

    if (!need_body(call, known, error) || !read_save(call, &options, &request, error) ||
        !read_save_options(call->body, &options, error))
        return NULL;
    save = save_start(call->context, call->guest, &request, error);
    if (!save)
        return NULL;
    if (json_flag_or(call->body, "detach", FALSE)) {
        call->status = 202;
        return json_pack("{s:s, s:s, s:s}", "guest", call->guest, "file", request.target,
                         "activity", activity_get_id(save));
    }
    call->stream = activity_subscribe(save, on_news, call->context);
    return NULL;
}

#define MAX_MAPS 64

/* "maps": [{"from", "to"}]; texts are the request's. */
static gboolean read_maps(json_t *body, GPtrArray *ret, GError **error)
{
    json_t *list = json_object_get(body, "maps"), *entry;
    size_t i;

    if (!list || json_is_null(list))
        return TRUE;
    if (!json_get_array(body, "maps", MAX_MAPS, &list, error))
        return FALSE;
    json_array_foreach(list, i, entry)
    {
        VmmMapRule *rule = g_new0(VmmMapRule, 1);
        const char *from, *to;

        g_ptr_array_add(ret, rule);
        if (!json_is_object(entry)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"maps\" does not hold an object at %zu", i);
            return FALSE;
        }
        if (!json_get_text(entry, "from", &from, error) || !json_get_text(entry, "to", &to, error))
            return FALSE;
        *rule = (VmmMapRule){(char *)from, (char *)to};
    }
    return TRUE;
}

static gboolean read_wishes(json_t *body, RestoredGuestWishes *ret, GError **error)
{
    const char *clock;

    ret->new_macs = json_flag_or(body, "new_mac", FALSE);
    if (!read_word(body, "clock", "keep", &clock, error))
        return FALSE;
    ret->sets_clock = strcmp(clock, "host") == 0;
    if (ret->sets_clock || strcmp(clock, "keep") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"clock\" is keep or host");
    return FALSE;
}

static gboolean read_restore(json_t *body, RestoreRequest *ret, GPtrArray *rules, GError **error)
{
    ret->rules = rules;
    ret->trusts_disks = json_flag_or(body, "trust_disks", FALSE);
    ret->shares = json_flag_or(body, "share_memory", FALSE);
    return json_get_text(body, "file", &ret->file, error) &&
           read_word(body, "name", NULL, &ret->name, error) &&
           read_word(body, "disks_in", NULL, &ret->disks_in, error) &&
           read_wishes(body, &ret->wishes, error) && read_maps(body, rules, error);
}

static json_t *post_restore(ApiCall *call, GError **error)
{
    static const char *const known[] = {"file",     "name",        "maps",
                                        "disks_in", "trust_disks", "share_memory",
                                        "clock",    "new_mac",     NULL};
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(Guest) guest = NULL;
    RestoreRequest request = {0};

    if (!need_body(call, known, error) || !read_restore(call->body, &request, rules, error))
        return NULL;
    guest = restore_start(call->context, &request, error);
    if (!guest)
        return NULL;
    call->status = 201;
    return guest_view_short(guest);
}

/* The rate limit is what can be changed of a move that is under way. */
static json_t *patch_migrate(ApiCall *call, GError **error)
{
    static const char *const known[] = {"bandwidth", NULL};
    MigrateOptions options;
    uint64_t before;

    migrate_options_init(&options);
    if (!need_body(call, known, error) || !migrate_options_read(call->body, &options, error))
        return NULL;
    if (!json_object_get(call->body, "bandwidth")) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"bandwidth\" is missing");
        return NULL;
    }
    if (!move_set_bandwidth(call->context, call->guest, options.bandwidth_bytes_per_second, &before,
                            error))
        return NULL;
    return json_pack("{s:s, s:I, s:I}", "guest", call->guest, "bandwidth",
                     (json_int_t)options.bandwidth_bytes_per_second, "before", (json_int_t)before);
}

/* *ret->options*: of the agent's own by default. */
static gboolean read_estimate(ApiCall *call, EstimateRequest *ret, GError **error)
{
    static const char *const known[] = {"destination", "bandwidth", "seconds", NULL};
    double seconds = ESTIMATE_DEFAULT_MS / 1000.0;
    json_t *given = json_object_get(call->body, "seconds");
    g_auto(Address) address = {0};

    if (call->body && (!check_keys(call->body, known, error) ||
                       !read_word(call->body, "destination", NULL, &ret->destination, error) ||
                       !migrate_options_read(call->body, &ret->options, error)))
        return FALSE;
    if (ret->destination &&
        !address_parse(ret->destination, CHANNEL_DEFAULT_PORT, &address, error)) {
        g_prefix_error(error, "\"destination\": ");
        return FALSE;
    }
    if (given)
        seconds = json_is_number(given) ? json_number_value(given) : -1;
    ret->look_ms = (guint)(CLAMP(seconds, 0, ESTIMATE_MOST_MS) * 1000);
    if (seconds >= ESTIMATE_LEAST_MS / 1000.0 && seconds <= ESTIMATE_MOST_MS / 1000.0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"seconds\" is not a number from %g to %g",
              ESTIMATE_LEAST_MS / 1000.0, ESTIMATE_MOST_MS / 1000.0);
    return FALSE;
}

static json_t *post_estimate(ApiCall *call, GError **error)
{
    EstimateRequest request = {.options = call->context->settings->moves};

    return read_estimate(call, &request, error)
               ? estimate_guest(call->context, call->guest, &request, error)
               : NULL;
}

/* From *least* to *most*; *ret* stays where the key is missing or null. */
static gboolean read_number(json_t *body, const char *key, double least, double most, double *ret,
                            GError **error)
{
    json_t *given = json_object_get(body, key);
    double value = given && json_is_number(given) ? json_number_value(given) : -1;

    if (!given || json_is_null(given))
        return TRUE;
    if (value >= least && value <= most) {
        *ret = value;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a number from %g to %g", key, least,
              most);
    return FALSE;
}

static json_t *post_check(ApiCall *call, GError **error)
{
    static const char *const known[] = {"destination", "seconds", "memory_bytes", NULL};
    double seconds = PATH_PROBE_DEFAULT_MS / 1000.0;
    PathCheckRequest request = {.memory_bytes = CHECK_MEMORY_BYTES};
    g_autoptr(Activity) check = NULL;

    if (!need_body(call, known, error) ||
        !json_get_text(call->body, "destination", &request.destination, error) ||
        !read_number(call->body, "seconds", PATH_PROBE_LEAST_MS / 1000.0,
                     PATH_PROBE_MOST_MS / 1000.0, &seconds, error) ||
        !read_number(call->body, "memory_bytes", 1, (double)MESSAGE_MAX_MEMORY_BYTES,
                     &request.memory_bytes, error))
        return NULL;
    request.data_ms = (guint)(seconds * 1000);
    check = path_check_start(call->context, &request, error);
    if (check)
        call->stream = activity_subscribe(check, on_news, call->context);
    return NULL;
}

static gboolean read_witness(json_t *body, MigrateOptions *ret, GError **error)
{
    const char *witness;

    if (!read_word(body, "witness", "", &witness, error))
        return FALSE;
    if (*witness && !witness_address_check(witness, error)) {
        g_prefix_error(error, "\"witness\": ");
        return FALSE;
    }
    if (g_strlcpy(ret->store, witness, sizeof ret->store) < sizeof ret->store)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"witness\" is too long");
    return FALSE;
}

/* *ret*: of the agent's own by default. */
static gboolean read_protection(ApiCall *call, MigrateOptions *ret, const char **ret_standby,
                                GError **error)
{
    const char *disks;
    uint64_t interval_ms = ret->checkpoint_ms;

    ret->overwrite = json_flag_or(call->body, "overwrite", FALSE);
    if (!json_get_text(call->body, "standby", ret_standby, error) ||
        !read_witness(call->body, ret, error) ||
        !read_word(call->body, "disks", "auto", &disks, error) ||
        (json_object_get(call->body, "interval_ms") &&
         !json_get_count(call->body, "interval_ms", GUEST_MESSAGE_MAX_CHECKPOINT_MS, &interval_ms,
                         error)))
        return FALSE;
    ret->checkpoint_ms = (guint)interval_ms;
    if (interval_ms == 0)
        error_set(error, VMFERRY_ERROR_INVALID, "\"interval_ms\" is 0");
    else if (!disk_mode_from_name(disks, &ret->disks) ||
             (ret->disks != DISK_MODE_AUTO && ret->disks != DISK_MODE_COPY))
        error_set(error, VMFERRY_ERROR_INVALID, "\"disks\" is auto or copy");
    else
        return TRUE;
    return FALSE;
}

static gboolean read_overhead(json_t *body, guint *ret, GError **error)
{
    uint64_t percent = PROTECT_OVERHEAD_PERCENT;

    if (json_object_get(body, "overhead_percent") &&
        !json_get_count(body, "overhead_percent", 50, &percent, error))
        return FALSE;
    *ret = (guint)percent;
    if (percent > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"overhead_percent\" is 0");
    return FALSE;
}

static gboolean read_disk_sync(json_t *body, gboolean *ret_copies, GError **error)
{
    const char *name;

    if (!read_word(body, "disk_sync", "replay", &name, error))
        return FALSE;
    *ret_copies = strcmp(name, "copy") == 0;
    if (*ret_copies || strcmp(name, "replay") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"disk_sync\" is replay or copy");
    return FALSE;
}

static gboolean read_sync(json_t *body, CheckpointSync *ret, GError **error)
{
    const char *name;

    if (!read_word(body, "sync", "auto", &name, error))
        return FALSE;
    if (checkpoint_sync_from_name(name, ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"sync\" is auto, output or timed");
    return FALSE;
}

static json_t *post_protect(ApiCall *call, GError **error)
{
    static const char *const known[] = {
        "standby", "witness",          "interval_ms", "disks",  "disk_sync",
        "sync",    "overhead_percent", "overwrite",   "detach", NULL,
    };
    MigrateOptions options = call->context->settings->moves;
    ProtectRequest request = {.options = &options};
    g_autoptr(Activity) activity = NULL;

    if (!need_body(call, known, error) ||
        !read_protection(call, &options, &request.standby, error) ||
        !read_disk_sync(call->body, &request.copies_writes, error) ||
        !read_sync(call->body, &request.sync, error) ||
        !read_overhead(call->body, &request.overhead_percent, error))
        return NULL;
    activity = protect_start(call->context, call->guest, &request, error);
    if (!activity)
        return NULL;
    if (json_flag_or(call->body, "detach", FALSE)) {
        call->status = 202;
        return json_pack("{s:s, s:s, s:s}", "guest", call->guest, "standby", request.standby,
                         "activity", activity_get_id(activity));
    }
    call->stream = activity_subscribe(activity, on_news, call->context);
    return NULL;
}

static json_t *post_unprotect(ApiCall *call, GError **error)
{
    static const char *const known[] = {"force", NULL};

    if (!need_body(call, known, error) ||
        !protect_end(call->context, call->guest, json_flag_or(call->body, "force", FALSE), error))
        return NULL;
    return json_pack("{s:s, s:s}", "guest", call->guest, "status", "unprotected");
}

static json_t *post_failover(ApiCall *call, GError **error)
{
    if (!protect_fail_over(call->context, call->guest, error))
        return NULL;
    return json_pack("{s:s, s:s}", "guest", call->guest, "status", "failed-over");
}

/* The report, and what it is of. */
static json_t *make_cancelled(Activity *activity)
{
    json_t *report = activity_get_report(activity);

    if (report)
        json_object_set_new(report, "kind", json_string(activity_get_kind(activity)->kind));
    return report;
}

static json_t *post_cancel(ApiCall *call, GError **error)
{
    g_autoptr(Guest) guest = registry_find(call->context->registry, call->guest, error);
    g_autoptr(Activity) activity = guest ? registry_get_activity(guest) : NULL;

    if (!guest)
        return NULL;
    if (!activity || !activity_cancel(activity)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "nothing goes on with guest %s that could be cancelled", call->guest);
        return NULL;
    }
    if (!activity_wait(activity, CANCEL_TIMEOUT_MS)) {
        error_set(error, VMFERRY_ERROR_TIMEOUT,
                  "guest %s: \"%s\" was cancelled and has not ended yet; see `vmferry status %s`",
                  call->guest, activity_get_kind(activity)->kind, call->guest);
        return NULL;
    }
    return make_cancelled(activity);
}

static json_t *post_resolve(ApiCall *call, GError **error)
{
    static const char *const known[] = {"keep", NULL};
    g_autoptr(Guest) guest = NULL;
    gboolean here;
    const char *keep;

    if (!need_body(call, known, error) || !json_get_text(call->body, "keep", &keep, error))
        return NULL;
    here = strcmp(keep, "here") == 0;
    if (!here && strcmp(keep, "there") != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"keep\" is \"here\" or \"there\"");
        return NULL;
    }
    if (!recovery_decide(call->context, call->guest,
                         here ? DECISION_KEEP_HERE : DECISION_KEEP_THERE, error))
        return NULL;
    /* Where it is now; the destination may have answered after all. */
    guest = registry_find(call->context->registry, call->guest, NULL);
    return json_pack("{s:s, s:s}", "guest", call->guest, "kept", guest ? "here" : "there");
}

/* What ends a guest for good, or decides which of two copies does, is a matter for somebody on the
 * host; so is what runs a program of the caller's choice. */
static const ApiRoute routes[] = {
    {"GET", "/v1/status", API_ACCESS_READ, get_status},
    {"GET", "/v1/guests", API_ACCESS_READ, get_guests},
    {"POST", "/v1/guests", API_ACCESS_LOCAL, post_guests},
    {"GET", "/v1/guests/NAME", API_ACCESS_READ, get_guest},
    {"DELETE", "/v1/guests/NAME", API_ACCESS_LOCAL, delete_guest},
    {"GET", "/v1/guests/NAME/disks", API_ACCESS_READ, get_disks},
    {"GET", "/v1/guests/NAME/state", API_ACCESS_LOCAL, get_state},
    {"POST", "/v1/guests/NAME/migrate", API_ACCESS_OPERATE, post_migrate},
    {"POST", "/v1/guests/NAME/estimate", API_ACCESS_OPERATE, post_estimate},
    {"PATCH", "/v1/guests/NAME/migrate", API_ACCESS_OPERATE, patch_migrate},
    {"POST", "/v1/guests/NAME/cancel", API_ACCESS_OPERATE, post_cancel},
    {"POST", "/v1/restore", API_ACCESS_LOCAL, post_restore},
    {"POST", "/v1/guests/NAME/save", API_ACCESS_OPERATE, post_save},
    {"POST", "/v1/guests/NAME/protect", API_ACCESS_OPERATE, post_protect},
    {"POST", "/v1/guests/NAME/unprotect", API_ACCESS_OPERATE, post_unprotect},
    {"POST", "/v1/guests/NAME/failover", API_ACCESS_OPERATE, post_failover},
    {"POST", "/v1/guests/NAME/resolve", API_ACCESS_LOCAL, post_resolve},
    {"POST", "/v1/check", API_ACCESS_OPERATE, post_check},
    {"GET", "/v1/departures", API_ACCESS_READ, get_departures},
    {"GET", "/v1/metrics", API_ACCESS_READ, get_metrics},
    {"GET", "/v1/load", API_ACCESS_READ, get_load},
};

static gboolean matches(const char *pattern, const char *path, char **ret_guest)
{
    g_auto(GStrv) wanted = g_strsplit(pattern, "/", -1);
    g_auto(GStrv) given = g_strsplit(path, "/", 8);
    guint count = g_strv_length(wanted);

    if (g_strv_length(given) != count)
        return FALSE;
    for (guint i = 0; i < count; i++) {
        gboolean name = strcmp(wanted[i], "NAME") == 0;

        if (name ? !guest_name_check(given[i], NULL) : strcmp(wanted[i], given[i]) != 0) {
            g_clear_pointer(ret_guest, g_free);
            return FALSE;
        }
        if (name)
            *ret_guest = g_strdup(given[i]);
    }
    return TRUE;
}

const ApiRoute *api_route_find(const char *method, const char *path, char **ret_guest,
                               gboolean *ret_known)
{
    *ret_guest = NULL;
    *ret_known = FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(routes); i++) {
        if (!matches(routes[i].path, path, ret_guest))
            continue;
        *ret_known = TRUE;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        g_clear_pointer(ret_guest, g_free);
    }
    return NULL;
}

guint api_status_from_error(const GError *error)
{
    if (error->domain != VMFERRY_ERROR)
        return 500;
    switch ((VmferryErrorCode)error->code) {
    case VMFERRY_ERROR_INVALID:
        return 400;
    case VMFERRY_ERROR_REFUSED:
    case VMFERRY_ERROR_PERMISSION:
        return 403;
    case VMFERRY_ERROR_NOT_FOUND:
        return 404;
    case VMFERRY_ERROR_EXISTS:
    case VMFERRY_ERROR_BUSY:
    case VMFERRY_ERROR_CANCELLED:
    case VMFERRY_ERROR_IN_DOUBT:
        return 409;
    case VMFERRY_ERROR_UNSUPPORTED:
        return 422;
    case VMFERRY_ERROR_DISCONNECTED:
        return 502;
    case VMFERRY_ERROR_TIMEOUT:
        return 504;
    case VMFERRY_ERROR_NO_SPACE:
        return 507;
    case VMFERRY_ERROR_FAILED:
        break;
    }
    return 500;
}

json_t *api_error_to_json(const GError *error)
{
    const char *code = error->domain == VMFERRY_ERROR
                           ? vmferry_error_code_name((VmferryErrorCode)error->code)
                           : "failed";
    g_autofree char *text = g_utf8_make_valid(error->message, -1);

    return json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", text);
}

json_t *api_refusal_to_json(const ApiCall *call, const GError *error)
{
    g_autoptr(Departure) departure = NULL;
    g_autoptr(GError) moved = NULL;
    g_autofree char *text = NULL;
    json_t *refusal;

    if (call->guest && error_is(error, VMFERRY_ERROR_NOT_FOUND))
        departure = departure_log_find(call->context->departures, call->guest);
    if (!departure)
        return api_error_to_json(error);
    text = departure_describe(departure, g_get_real_time() / G_USEC_PER_SEC);
    error_set(&moved, VMFERRY_ERROR_NOT_FOUND, "%s", text);
    refusal = api_error_to_json(moved);
    json_object_set_new(refusal, "moved", departure_to_json(departure));
    return refusal;
}
