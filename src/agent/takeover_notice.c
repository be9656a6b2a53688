#include "agent/takeover_notice.h"

#include "base/clock.h"
#include "base/log.h"
#include "migrate/postcopy_source.h"

#define FIRST_PAUSE_MS 500
#define LONGEST_PAUSE_MS 30000

typedef struct {
    AgentContext *context;
    Guest *guest;
} Notice;

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    return agent_context_get_channel_options(((Notice *)user)->context, ret, error);
}

static gboolean is_stopping(gpointer user)
{
    const Notice *notice = user;

    return agent_context_is_stopping(notice->context) || notice->guest->removed;
}

/* TRUE where there is no such copy (any more). */
static gboolean tell(Notice *notice, const GuestRecord *record)
{
    PostcopySourceJob job = {
        .destination = record->stale_destination,
        .agent = record->stale_agent,
        .transaction = {record->stale_transaction, record->id, record->term},
        .pages = postcopy_source_no_pages(),
        .get_channel = get_channel,
        .is_stopping = is_stopping,
        .user = notice,
    };
    g_autoptr(GPtrArray) left = NULL;
    g_autoptr(Session) session = NULL;
    PostcopyAnswer answer;

    session = postcopy_source_connect(&job, &left, &answer, NULL);
    return answer == POSTCOPY_ANSWER_LOST || answer == POSTCOPY_ANSWER_COMPLETE;
}

static void note_told(Notice *notice)
{
    GuestRecord *record = registry_get_record(notice->guest);
    g_autoptr(GError) error = NULL;

    event_log_add(notice->context->events, record->name, "copy-ended", NULL,
                  "%s has no copy of it any more", record->stale_destination);
    g_clear_pointer(&record->stale_destination, g_free);
    g_clear_pointer(&record->stale_agent, g_free);
    g_clear_pointer(&record->stale_transaction, g_free);
    if (!registry_journal_record(notice->guest, record, &error))
        log_warning("guest %s: %s", notice->guest->name, error->message);
}

static gpointer notice_thread(gpointer data)
{
    g_autofree Notice *notice = data;
    g_autoptr(Guest) guest = notice->guest;
    gint64 pause_ms = FIRST_PAUSE_MS;

    while (!is_stopping(notice)) {
        g_autoptr(GuestRecord) record = registry_get_record(guest);
        gint64 until;

        /* Its term is above the other one's only once it runs here. */
        if (record->stale_destination && !record->taking_over && tell(notice, record)) {
            note_told(notice);
            break;
        }
        if (!record->stale_destination)
            break;
        until = g_get_monotonic_time() + pause_ms * G_TIME_SPAN_MILLISECOND;
        registry_await(notice->context->registry, until, is_stopping, notice);
        pause_ms = MIN(pause_ms * 2, LONGEST_PAUSE_MS);
    }
    return NULL;
}

void takeover_notice_start(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    Notice *notice;

    if (!record->stale_destination)
        return;
    notice = g_new(Notice, 1);
    *notice = (Notice){context, guest_ref(guest)};
    agent_context_spawn_surely(context, "notice", notice_thread, notice);
}
