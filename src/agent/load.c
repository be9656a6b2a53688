#include "agent/load.h"

#include <stdatomic.h>
#include <time.h>

#include "agent/guest_view.h"
#include "base/clock.h"
#include "base/error.h"
#include "vmferry-config.h"

/* The first look comes as soon as the agent serves. */
#define FIRST_LOOK_MS 3000
#define NS_PER_S 1000000000u

/* ---- the guests ---- */

/* With the registry's lock held. */
static void copy_guest(const Guest *guest, gpointer user)
{
    CollectorGuest *copy = user;
    const GuestRecord *record = guest->record;

    copy->facts = (LoadGuestFacts){
        .name = g_strdup(guest->name),
        .id = g_strdup(record->id ? record->id : guest->name),
        .role = g_strdup(guest_role_name(record->role)),
        .state = g_strdup(guest_get_shown_state(guest)),
        .term = record->term,
        .vcpus = (guint)json_count_or(guest->summary, "vcpus", 0),
        .memory_bytes = json_count_or(guest->summary, "memory_bytes", 0),
    };
    copy->pid = record->pid;
    copy->start_time = record->start_time;
}

static void release_guest(gpointer owner)
{
    guest_unref(owner);
}

/* One that came by a move, or was found again, has not been asked yet. */
static void learn_machine(gpointer owner)
{
    guest_view_learn_machine(owner);
}

static CollectorGuest *make_guest(Guest *guest)
{
    CollectorGuest *copy = g_new0(CollectorGuest, 1);

    registry_look(guest, copy_guest, copy);
    copy->owner = guest_ref(guest);
    copy->release = release_guest;
    copy->learn = copy->facts.vcpus == 0 ? learn_machine : NULL;
    copy->vmm = registry_is_idle(guest) ? registry_get_vmm(guest, NULL) : NULL;
    return copy;
}

static void free_guest(gpointer data)
{
    collector_guest_free(data);
}

static GPtrArray *list_guests(gpointer user)
{
    AgentContext *context = user;
    g_autoptr(GPtrArray) guests = registry_list(context->registry);
    GPtrArray *list = g_ptr_array_new_with_free_func(free_guest);

    for (guint i = 0; i < guests->len && !agent_context_is_stopping(context); i++)
        g_ptr_array_add(list, make_guest(guests->pdata[i]));
    return list;
}

/* ---- moves ---- */

/* Of all threads of the agent, but for this one, which looks. */
static uint64_t get_cpu_ns(void)
{
    struct timespec time;
    uint64_t all, own = clock_thread_cpu_ns();

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) < 0)
        return COUNTER_UNKNOWN;
    all = (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
    return all > own ? all - own : 0;
}

static void read_moves(gpointer user, MoveCounters *ret)
{
    AgentContext *context = user;

    *ret = (MoveCounters){.received_bytes = atomic_load(&context->traffic.received_bytes),
                          .sent_bytes = atomic_load(&context->traffic.sent_bytes),
                          .cpu_ns = get_cpu_ns()};
}

/* ---- looking ---- */

static gboolean check_root(const char *root, GError **error)
{
    g_autofree char *sign = root ? g_build_filename(root, "cgroup.procs", NULL) : NULL;
    g_autofree char *file = root ? g_build_filename(root, "cpu.stat", NULL) : NULL;

    if (!root || (g_file_test(sign, G_FILE_TEST_EXISTS) && g_file_test(file, G_FILE_TEST_EXISTS)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND,
              "[metrics] root: %s is not the folder of a control group of version 2", root);
    return FALSE;
}

Collector *load_collector_new(AgentContext *context, GError **error)
{
    CollectorSources sources = {.root = context->settings->metrics_root,
                                .list = list_guests,
                                .read_moves = read_moves,
                                .user = context};

    return check_root(sources.root, error) ? collector_new(&sources) : NULL;
}

static gboolean is_stopping(gpointer user)
{
    return agent_context_is_stopping(user);
}

static gpointer look_at_load(gpointer data)
{
    AgentContext *context = data;

    while (!agent_context_is_stopping(context)) {
        collector_look(context->collector);
        registry_await(context->registry,
                       g_get_monotonic_time() + COLLECTOR_INTERVAL_MS * G_TIME_SPAN_MILLISECOND,
                       is_stopping, context);
    }
    return NULL;
}

void load_start(AgentContext *context)
{
    agent_context_spawn_surely(context, "look-at-load", look_at_load, context);
}

LoadReport *load_get_report(AgentContext *context, GError **error)
{
    LoadReport *report = collector_get_report(context->collector, FIRST_LOOK_MS);

    if (!report)
        error_set(error, VMFERRY_ERROR_BUSY,
                  "the agent has only just begun to look at its host; ask again");
    return report;
}

json_t *load_to_json(AgentContext *context, GError **error)
{
    g_autoptr(LoadReport) report = load_get_report(context, error);
    json_t *object;

    if (!report)
        return NULL;
    object = json_pack("{s:s, s:s, s:s, s:s}", "host", context->host_name, "agent_id",
                       context->agent_id, "version", VMFERRY_VERSION, "boot_id", context->boot_id);
    json_object_update_new(object, load_report_to_json(report));
    return object;
}
