#include "agent/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/name.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

/* What is appended to the name of a record that was rejected. */
#define REJECTED ".bad"

struct StateStore {
    char *directory;
    int lock_fd;
};

static const char *const folders[] = {
    [STORE_GUEST] = "guests",       [STORE_TRANSACTION] = "transactions",
    [STORE_DEPARTURE] = "departed", [STORE_MADE_FILES] = "made-files",
    [STORE_WITNESS] = "witness",
};

static gboolean check_key(StoreKind kind, const char *key, GError **error)
{
    return kind == STORE_GUEST || kind == STORE_DEPARTURE ? guest_name_check(key, error)
                                                          : transaction_id_check(key, error);
}

static char *make_path(StateStore *store, StoreKind kind, const char *key)
{
    return g_strdup_printf("%s/%s/%s.json", store->directory, folders[kind], key);
}

static gboolean make_directory(const char *path, GError **error)
{
    if (g_mkdir_with_parents(path, 0700) == 0)
        return TRUE;
    error_set_errno(error, errno, "make the directory %s", path);
    return FALSE;
}

static gboolean take_lock(StateStore *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->directory, "lock", NULL);

    store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock_fd < 0) {
        error_set_errno(error, errno, "open %s", path);
        return FALSE;
    }
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY,
              "another agent uses the state directory %s; stop it, or give this one its own "
              "with --state-dir",
              store->directory);
    return FALSE;
}

StateStore *state_store_open(const char *directory, GError **error)
{
    g_autoptr(StateStore) store = g_new0(StateStore, 1);

    store->lock_fd = -1;
    store->directory = g_strdup(directory);
    for (guint kind = 0; kind < G_N_ELEMENTS(folders); kind++) {
        g_autofree char *folder = g_build_filename(directory, folders[kind], NULL);

        if (!make_directory(folder, error))
            return NULL;
    }
    return take_lock(store, error) ? g_steal_pointer(&store) : NULL;
}

void state_store_close(StateStore *store)
{
    if (!store)
        return;
    fd_close(&store->lock_fd);
    g_free(store->directory);
    g_free(store);
}

const char *state_store_get_directory(StateStore *store)
{
    return store->directory;
}

gboolean state_store_write(StateStore *store, StoreKind kind, const char *key, json_t *record,
                           gboolean durable, GError **error)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) cause = NULL;
    char *text;
    gboolean done;

    if (!check_key(kind, key, error))
        return FALSE;
    path = make_path(store, kind, key);
    text = json_dumps(record, JSON_INDENT(2));
    if (!text || strlen(text) > STORE_RECORD_LIMIT) {
        free(text);
        error_set(error, VMFERRY_ERROR_INVALID, "a record of %s cannot be written", key);
        return FALSE;
    }
    done = file_replace(path, text, strlen(text), durable, &cause);
    free(text);
    if (done)
        return TRUE;
    if (error_is(cause, VMFERRY_ERROR_NO_SPACE))
        error_set(error, VMFERRY_ERROR_NO_SPACE,
                  "the state directory %s is full; free space there and try again (%s)",
                  store->directory, cause->message);
    else
        g_propagate_prefixed_error(error, g_steal_pointer(&cause), "state directory: ");
    return FALSE;
}

void state_store_remove(StateStore *store, StoreKind kind, const char *key)
{
    g_autofree char *path = make_path(store, kind, key);
    g_autofree char *unfinished = g_strconcat(path, ".new", NULL);

    /* Of an agent that died as it wrote. */
    (void)remove(unfinished);
    if (remove(path) < 0 && errno != ENOENT)
        log_warning("cannot remove %s: %s", path, g_strerror(errno));
}

json_t *state_store_read(StateStore *store, StoreKind kind, const char *key, GError **error)
{
    g_autofree char *path = NULL;
    g_autofree char *text = NULL;
    size_t length;

    if (!check_key(kind, key, error))
        return NULL;
    path = make_path(store, kind, key);
    text = file_read(path, STORE_RECORD_LIMIT, &length, error);
    return text ? json_parse_object(text, length, STORE_RECORD_LIMIT, error) : NULL;
}

void state_store_reject(StateStore *store, StoreKind kind, const char *key, const GError *why)
{
    g_autofree char *path = make_path(store, kind, key);
    g_autofree char *aside = g_strconcat(path, REJECTED, NULL);

    log_error("the record %s cannot be used and was moved to %s: %s", path, aside, why->message);
    if (rename(path, aside) < 0)
        log_error("rename %s: %s", path, g_strerror(errno));
}

gboolean state_store_has_rejected(StateStore *store, StoreKind kind)
{
    g_autofree char *folder = g_build_filename(store->directory, folders[kind], NULL);
    g_autoptr(GDir) list = g_dir_open(folder, 0, NULL);
    const char *file;
    gboolean found = FALSE;

    while (list && !found && (file = g_dir_read_name(list)))
        found = g_str_has_suffix(file, REJECTED);
    return found;
}

static gint compare_keys(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *state_store_list(StateStore *store, StoreKind kind, GError **error)
{
    g_autofree char *folder = g_build_filename(store->directory, folders[kind], NULL);
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) cause = NULL;
    GDir *list = g_dir_open(folder, 0, &cause);
    const char *file;

    if (!list) {
        error_set(error, VMFERRY_ERROR_FAILED, "state directory: %s", cause->message);
        return NULL;
    }
    while ((file = g_dir_read_name(list))) {
        g_autofree char *key = NULL;

        /* FILE.json.new is a record that was never finished, *.bad was rejected. */
        if (!g_str_has_suffix(file, ".json"))
            continue;
        key = g_strndup(file, strlen(file) - strlen(".json"));
        if (check_key(kind, key, NULL))
            g_ptr_array_add(found, g_steal_pointer(&key));
        else
            log_warning("%s/%s is not a record of this agent", folder, file);
    }
    g_dir_close(list);
    g_ptr_array_sort(found, compare_keys);
    return g_steal_pointer(&found);
}
