#include "agent/page_stores.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/name.h"
#include "base/page.h"
#include "base/quantity.h"
#include "migrate/store_host.h"
#include "transfer/stored_pages.h"

#define FOLDER_NAME "store"
#define MESSAGE_NAME "store"
#define SEALED_NAME "sealed"
#define MESSAGE_LIMIT (1u << 20)
#define STORE_TIMEOUT_MS 10000
#define EXPIRE_PERIOD_S 60
/* Of available memory that is never promised: this share of all, and no more than that. */
#define RESERVE_SHARE 16
#define RESERVE_BYTES ((uint64_t)512 << 20)
#define DEFAULT_SHARE 4

/* What is kept of one transaction. */
typedef struct {
    gatomicrefcount references;
    StoreMessage *message;
    char *folder;
    StoredPages *pages;
    uint64_t bytes; /* that it may become */
    int64_t since;  /* wall clock, seconds */

    /* With the table's lock. */
    gboolean sealed;
    guint sessions;
    gint64 idle_since_us;
} Hold;

struct PageStores {
    AgentContext *context;
    char *folder;
    uint64_t limit;
    GSource *timer;
    GMutex lock;
    GHashTable *holds; /* of Hold, by transaction */
};

/* ---- folders ---- */

static void remove_folder(const char *folder)
{
    static const char *const names[] = {MESSAGE_NAME, SEALED_NAME, "pages", "covered"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(folder, names[i], NULL);
        g_autofree char *unfinished = g_strconcat(path, ".new", NULL);

        (void)unlink(path);
        (void)unlink(unfinished);
    }
    if (rmdir(folder) < 0 && errno != ENOENT)
        log_warning("remove %s: %s", folder, g_strerror(errno));
}

static gboolean make_folder(const char *path, GError **error)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return TRUE;
    error_set_errno(error, errno, "make %s", path);
    return FALSE;
}

/* ---- one of them ---- */

static Hold *hold_new(char *folder, StoreMessage *message, StoredPages *pages)
{
    Hold *hold = g_new0(Hold, 1);

    g_atomic_ref_count_init(&hold->references);
    hold->folder = folder;
    hold->message = message;
    hold->pages = pages;
    hold->since = g_get_real_time() / G_USEC_PER_SEC;
    hold->idle_since_us = g_get_monotonic_time();
    hold->bytes = message->bytes;
    stored_pages_set_limit(pages, message->bytes / PAGE_BYTES);
    return hold;
}

static Hold *hold_ref(Hold *hold)
{
    g_atomic_ref_count_inc(&hold->references);
    return hold;
}

static void hold_unref(gpointer data)
{
    Hold *hold = data;

    if (!hold || !g_atomic_ref_count_dec(&hold->references))
        return;
    stored_pages_free(hold->pages);
    store_message_free(hold->message);
    g_free(hold->folder);
    g_free(hold);
}

static StoredPages *make_pages(const char *folder, const StoreMessage *message, GError **error)
{
    g_autofree char **names = g_new0(char *, message->region_count + 1);
    g_autofree uint64_t *bytes = g_new0(uint64_t, message->region_count);

    for (guint i = 0; i < message->region_count; i++) {
        names[i] = message->regions[i].name;
        bytes[i] = message->regions[i].bytes;
    }
    return stored_pages_create(folder, message->transaction, message->region_count, names, bytes,
                               error);
}

static gboolean write_message(const char *folder, const StoreMessage *message, GError **error)
{
    g_autofree char *path = g_build_filename(folder, MESSAGE_NAME, NULL);
    g_autofree char *text = store_message_encode(message);

    return file_replace(path, text, strlen(text), FALSE, error);
}

/* Takes *message* where it succeeds. */
static Hold *make_hold(PageStores *stores, StoreMessage *message, GError **error)
{
    g_autofree char *folder = g_build_filename(stores->folder, message->transaction, NULL);
    StoredPages *pages;

    if (!make_folder(stores->folder, error))
        return NULL;
    if (mkdir(folder, 0700) < 0) {
        error_set_errno(error, errno, "make %s", folder);
        return NULL;
    }
    pages = write_message(folder, message, error) ? make_pages(folder, message, error) : NULL;
    if (pages)
        return hold_new(g_steal_pointer(&folder), message, pages);
    remove_folder(folder);
    return NULL;
}

/* ---- what an agent before this one has left ---- */

static gboolean is_of_this_boot(PageStores *stores, const char *folder)
{
    g_autofree char *path = g_build_filename(folder, SEALED_NAME, NULL);
    g_autofree char *boot = file_read(path, 256, &(size_t){0}, NULL);

    return g_strcmp0(boot, stores->context->boot_id) == 0;
}

static Hold *load(PageStores *stores, const char *transaction, GError **error)
{
    g_autofree char *folder = g_build_filename(stores->folder, transaction, NULL);
    g_autofree char *path = g_build_filename(folder, MESSAGE_NAME, NULL);
    g_autoptr(StoreMessage) message = NULL;
    g_autofree char *text = NULL;
    StoredPages *pages;
    size_t length;

    if (!is_of_this_boot(stores, folder)) {
        error_set(error, VMFERRY_ERROR_INVALID, "it was not sealed");
        return NULL;
    }
    text = file_read(path, MESSAGE_LIMIT, &length, error);
    message = text ? store_message_decode(text, length, error) : NULL;
    if (!message)
        return NULL;
    if (strcmp(message->transaction, transaction) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of transaction %s", message->transaction);
        return NULL;
    }
    pages = stored_pages_open(folder, error);
    return pages ? hold_new(g_steal_pointer(&folder), g_steal_pointer(&message), pages) : NULL;
}

static void load_or_remove(PageStores *stores, const char *transaction)
{
    g_autofree char *folder = g_build_filename(stores->folder, transaction, NULL);
    g_autoptr(GError) error = NULL;
    Hold *hold;

    if (!transaction_id_check(transaction, NULL))
        return;
    hold = load(stores, transaction, &error);
    if (hold) {
        hold->sealed = TRUE;
        g_hash_table_insert(stores->holds, g_strdup(transaction), hold);
        return;
    }
    log_info("pages of transaction %s are dropped: %s", transaction, error->message);
    remove_folder(folder);
}

/* ---- the table ---- */

static gboolean on_timer(gpointer user)
{
    page_stores_expire(user, PAGE_STORES_KEEP_S);
    return G_SOURCE_CONTINUE;
}

/* A field of /proc/meminfo in bytes; 0: not known. */
static uint64_t read_meminfo(const char *field)
{
    size_t length;
    g_autofree char *text = file_read("/proc/meminfo", 1u << 16, &length, NULL);
    const char *line = text ? strstr(text, field) : NULL;

    return line ? g_ascii_strtoull(line + strlen(field), NULL, 10) << 10 : 0;
}

PageStores *page_stores_open(AgentContext *context)
{
    PageStores *stores = g_new0(PageStores, 1);
    const AgentSettings *settings = context->settings;
    g_autoptr(GDir) list = NULL;
    const char *name;

    g_mutex_init(&stores->lock);
    stores->context = context;
    stores->folder = g_build_filename(settings->runtime_dir, FOLDER_NAME, NULL);
    stores->limit = settings->store_memory == SETTINGS_STORE_AUTO
                        ? read_meminfo("MemTotal:") / DEFAULT_SHARE
                        : settings->store_memory;
    stores->holds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, hold_unref);
    list = g_dir_open(stores->folder, 0, NULL);
    while (list && (name = g_dir_read_name(list)))
        load_or_remove(stores, name);
    stores->timer = g_timeout_source_new_seconds(EXPIRE_PERIOD_S);
    g_source_set_callback(stores->timer, on_timer, stores, NULL);
    g_source_attach(stores->timer, context->main);
    return stores;
}

void page_stores_close(PageStores *stores)
{
    if (!stores)
        return;
    g_source_destroy(stores->timer);
    g_source_unref(stores->timer);
    g_hash_table_unref(stores->holds);
    g_mutex_clear(&stores->lock);
    g_free(stores->folder);
    g_free(stores);
}

uint64_t page_stores_get_limit(PageStores *stores)
{
    return stores->limit;
}

/* With the lock held; others may still use it. */
static void drop_locked(PageStores *stores, Hold *hold, const char *why)
{
    if (g_hash_table_lookup(stores->holds, hold->message->transaction) != hold)
        return;
    log_info("guest %s, transaction %s: its pages are dropped: %s", hold->message->guest,
             hold->message->transaction, why);
    remove_folder(hold->folder);
    (void)rmdir(stores->folder); /* where it was the last one */
    g_hash_table_remove(stores->holds, hold->message->transaction);
}

guint page_stores_expire(PageStores *stores, guint seconds)
{
    gint64 before = g_get_monotonic_time() - (gint64)seconds * G_USEC_PER_SEC;
    lock_guard(&stores->lock);
    g_autoptr(GList) holds = g_hash_table_get_values(stores->holds);
    guint count = 0;

    for (GList *at = holds; at; at = at->next) {
        Hold *hold = at->data;

        if (hold->sessions > 0 || hold->idle_since_us > before)
            continue;
        count++;
        drop_locked(stores, hold, "neither its source nor its destination has come for long");
    }
    return count;
}

static json_t *hold_to_json(const Hold *hold)
{
    const StoreMessage *message = hold->message;
    json_int_t bytes = (json_int_t)stored_pages_count(hold->pages) * (json_int_t)PAGE_BYTES;

    return json_pack("{s:s, s:s, s:s?, s:s?, s:I, s:I, s:b, s:b, s:I}", "guest", message->guest,
                     "transaction", message->transaction, "source", message->source, "destination",
                     message->destination, "stored_bytes", bytes, "promised_bytes",
                     (json_int_t)hold->bytes, "sealed", (int)hold->sealed, "connected",
                     (int)(hold->sessions > 0), "since", (json_int_t)hold->since);
}

json_t *page_stores_to_json(PageStores *stores)
{
    lock_guard(&stores->lock);
    GHashTableIter iter;
    json_t *list = json_array();
    gpointer hold;

    g_hash_table_iter_init(&iter, stores->holds);
    while (g_hash_table_iter_next(&iter, NULL, &hold))
        json_array_append_new(list, hold_to_json(hold));
    return list;
}

/* ---- who may come ---- */

/* What others were promised, and have not filled yet. */
static void count_promised(PageStores *stores, uint64_t *ret_all, uint64_t *ret_to_come)
{
    GHashTableIter iter;
    gpointer value;

    *ret_all = *ret_to_come = 0;
    g_hash_table_iter_init(&iter, stores->holds);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const Hold *hold = value;
        uint64_t there = stored_pages_count(hold->pages) * PAGE_BYTES;

        *ret_all += hold->bytes;
        *ret_to_come += hold->bytes - MIN(there, hold->bytes);
    }
}

static gboolean refuse_room(PageStores *stores, uint64_t bytes, uint64_t room, const char *of,
                            GError **error)
{
    const char *host = stores->context->host_name;
    g_autofree char *wanted = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *left = g_format_size_full(room, G_FORMAT_SIZE_IEC_UNITS);

    error_set(error, VMFERRY_ERROR_NO_SPACE, "host %s cannot keep %s for it: %s is left of %s",
              host, wanted, left, of);
    return FALSE;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a - MIN(a, b);
}

static gboolean check_room(PageStores *stores, uint64_t bytes, GError **error)
{
    uint64_t all, to_come, room;
    uint64_t reserve = MIN(read_meminfo("MemTotal:") / RESERVE_SHARE, RESERVE_BYTES);
    struct statvfs files;

    count_promised(stores, &all, &to_come);
    room = less(stores->limit, all);
    if (bytes > room)
        return refuse_room(stores, bytes, room, "what it may (`store-memory` in its agent.conf)",
                           error);
    room = less(less(read_meminfo("MemAvailable:"), reserve), to_come);
    if (bytes > room)
        return refuse_room(stores, bytes, room, "its memory", error);
    if (statvfs(stores->context->settings->runtime_dir, &files) < 0)
        return TRUE; /* making the folder says why */
    room = less((uint64_t)files.f_bavail * files.f_frsize, to_come);
    return bytes <= room ||
           refuse_room(stores, bytes, room, stores->context->settings->runtime_dir, error);
}

gboolean page_stores_check_room(PageStores *stores, uint64_t bytes, GError **error)
{
    lock_guard(&stores->lock);

    return check_room(stores, bytes, error);
}

static Hold *admit_locked(PageStores *stores, StoreMessage *message, GError **error)
{
    if (strcmp(message->destination_agent, stores->context->agent_id) == 0)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "host %s is the destination itself: a store is a third host",
                  stores->context->host_name);
    else if (g_hash_table_contains(stores->holds, message->transaction))
        error_set(error, VMFERRY_ERROR_REFUSED, "transaction %s is kept already",
                  message->transaction);
    else if (check_room(stores, message->bytes, error))
        return make_hold(stores, message, error);
    return NULL;
}

/* A new reference, in use by a session. */
static Hold *admit(PageStores *stores, const Frame *frame, GError **error)
{
    g_autoptr(StoreMessage) message =
        store_message_decode((const char *)frame->payload, frame->length, error);
    Hold *hold;
    lock_guard(&stores->lock);

    hold = message ? admit_locked(stores, message, error) : NULL;
    if (!hold)
        return NULL;
    g_steal_pointer(&message);
    hold->sessions++;
    g_hash_table_insert(stores->holds, g_strdup(hold->message->transaction), hold);
    return hold_ref(hold);
}

static void leave(PageStores *stores, Hold *hold, gboolean needed, const char *why)
{
    g_mutex_lock(&stores->lock);
    hold->sessions--;
    hold->idle_since_us = g_get_monotonic_time();
    if (!needed)
        drop_locked(stores, hold, why);
    g_mutex_unlock(&stores->lock);
    hold_unref(hold);
}

/* ---- the source ---- */

typedef struct {
    PageStores *stores;
    Hold *hold;
} Filling;

/* A StoreFillHost's. */
static gboolean on_seal(gpointer user, GError **error)
{
    Filling *filling = user;
    const char *boot = filling->stores->context->boot_id;
    g_autofree char *path = g_build_filename(filling->hold->folder, SEALED_NAME, NULL);
    lock_guard(&filling->stores->lock);

    if (!file_replace(path, boot, strlen(boot), FALSE, error))
        return FALSE;
    filling->hold->sealed = TRUE;
    return TRUE;
}

static gboolean is_sealed(PageStores *stores, const Hold *hold)
{
    lock_guard(&stores->lock);

    return hold->sealed;
}

static const char *name_or(const char *name, const char *fallback)
{
    return name && *name ? name : fallback;
}

static void note_begin(AgentContext *context, const Hold *hold)
{
    const StoreMessage *message = hold->message;

    event_log_add(context->events, message->guest, "storing", NULL,
                  "its pages are kept here while it moves from %s to %s",
                  name_or(message->source, "another host"),
                  name_or(message->destination, "another one"));
}

static gboolean fill(AgentContext *context, Session *session, Hold *hold, GError **error)
{
    Filling filling = {context->stores, hold};
    StoreFillHost host = {.seal = on_seal, .user = &filling};

    note_begin(context, hold);
    return session_send_bytes(session, FRAME_ACCEPTED, NULL, 0, error) &&
           store_host_fill(session, hold->pages, &host, error);
}

gboolean page_stores_fill(AgentContext *context, Session *session, const char *agent,
                          GError **error)
{
    PageStores *stores = context->stores;
    g_autoptr(GError) problem = NULL;
    Hold *hold = NULL;
    gboolean done = FALSE;
    Frame frame;

    if (session_expect(session, FRAME_STORE, STORE_TIMEOUT_MS, &frame, &problem))
        hold = admit(stores, &frame, &problem);
    if (hold) {
        done = fill(context, session, hold, &problem);
        leave(stores, hold, !done && is_sealed(stores, hold),
              done ? "they are not needed" : "its source has gone before they were complete");
    }
    if (done)
        return TRUE;
    session_send_error(session, problem);
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* ---- the destination ---- */

static gboolean may_fetch(const Hold *hold, const ResolveMessage *question, const char *agent)
{
    return hold->sealed && g_strcmp0(hold->message->destination_agent, agent) == 0 &&
           strcmp(hold->message->guest_id, question->guest_id) == 0 &&
           hold->message->term == question->term;
}

/* A stranger learns nothing by the answer. */
static Hold *find(PageStores *stores, const Frame *frame, const char *agent, GError **error)
{
    g_auto(ResolveMessage) question = {0};
    Hold *hold;
    lock_guard(&stores->lock);

    if (!resolve_message_decode((const char *)frame->payload, frame->length, &question, error))
        return NULL;
    hold = g_hash_table_lookup(stores->holds, question.transaction);
    if (!hold || !may_fetch(hold, &question, agent)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "host %s has no pages of transaction %s for it",
                  stores->context->host_name, question.transaction);
        return NULL;
    }
    hold->sessions++;
    /* Its channel for faults may join, as soon as it has read ACCEPTED. */
    return hold_ref(hold);
}

static gboolean serve(Session *session, Hold *hold, GError **error)
{
    session_set_transaction(session, hold->message->transaction);
    return session_send_bytes(session, FRAME_ACCEPTED, NULL, 0, error) &&
           store_host_serve(session, hold->pages, error);
}

gboolean page_stores_serve(AgentContext *context, Session *session, const char *agent,
                           GError **error)
{
    PageStores *stores = context->stores;
    g_autoptr(GError) problem = NULL;
    Hold *hold = NULL;
    gboolean done = FALSE;
    Frame frame;

    if (session_expect(session, FRAME_RESUME, STORE_TIMEOUT_MS, &frame, &problem))
        hold = find(stores, &frame, agent, &problem);
    if (hold) {
        done = serve(session, hold, &problem);
        leave(stores, hold, !done, "its destination has all of them");
    }
    if (done)
        return TRUE;
    session_send_error(session, problem);
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}
