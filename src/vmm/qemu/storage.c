#include "vmm/qemu/storage.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/lock_guard.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "vmm/qemu/image_options.h"
#include "vmm/qemu/start.h"
#include "vmm/qemu/stderr_tail.h"

/* Opening, making and closing an image wait for the host's storage. */
#define IMAGE_MS 120000
#define QUIT_MS 10000
#define KILL_MS 5000
#define DYING_MS 500
#define LOOK_US 5000

/* Its images come from elsewhere, and it needs next to nothing of the host. */
#define SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

#define MAX_EXPORT_NAME 1024

typedef struct {
    char *node;   /* names in QEMU */
    char *export; /* NULL: deleted, or not made yet */
} OpenImage;

typedef struct {
    VmmStorage base;
    GMutex lock; /* serialises the operations */
    SpawnPlan *plan;
    pid_t pid;
    uint64_t start_time;
    Qmp *qmp;
    char *qmp_path, *nbd_path, *log_path;
    gboolean serving;   /* the NBD server runs */
    GHashTable *images; /* name of an export → OpenImage */
    guint next_number;  /* for names in QEMU */
} QemuStorage;

static QemuStorage *from_storage(VmmStorage *storage)
{
    return (QemuStorage *)storage;
}

static void open_image_free(OpenImage *image)
{
    g_free(image->node);
    g_free(image->export);
    g_free(image);
}

/* ---- commands ---- */

static gboolean run(QemuStorage *storage, const char *command, json_t *arguments, GError **error)
{
    return qmp_run(storage->qmp, command, arguments, IMAGE_MS, error);
}

/* A name that QEMU has not seen yet; free with g_free(). */
static char *make_name(QemuStorage *storage, const char *kind)
{
    return g_strdup_printf("%s%u", kind, storage->next_number++);
}

/* What QEMU says in words only. */
static VmferryErrorCode code_of_text(const char *text)
{
    if (strstr(text, "No space left on device") || strstr(text, "Disk quota exceeded"))
        return VMFERRY_ERROR_NO_SPACE;
    if (strstr(text, "Failed to get") && strstr(text, "lock"))
        return VMFERRY_ERROR_BUSY;
    return VMFERRY_ERROR_FAILED;
}

/* To be called where an operation has failed: says what it was about, what code it has, and whether
 * QEMU has ended. */
static void explain(QemuStorage *storage, const char *what, GError **error)
{
    g_autofree char *tail = NULL;

    if (!error || !*error)
        return;
    if (error_is(*error, VMFERRY_ERROR_FAILED))
        (*error)->code = (int)code_of_text((*error)->message);
    if (error_is(*error, VMFERRY_ERROR_DISCONNECTED) &&
        process_wait_gone(storage->pid, storage->start_time, DYING_MS)) {
        tail = stderr_tail_read(storage->log_path);
        g_clear_error(error);
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the QEMU that serves images has ended%s%s",
                  tail ? ": " : "", tail ? tail : "");
    }
    g_prefix_error(error, "image %s: ", what);
}

static gboolean check_path(const char *path, GError **error)
{
    if (g_path_is_absolute(path))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the path is not absolute");
    return FALSE;
}

/* The node that reads and writes the file itself, in the form of blockdev-add. */
static json_t *describe_file(const char *path)
{
    struct stat info;
    gboolean device = stat(path, &info) == 0 && S_ISBLK(info.st_mode);

    return json_pack("{s:s,s:s,s:s,s:s}", "driver", device ? "host_device" : "file", "filename",
                     path, "discard", "unmap", "locking", "auto");
}

/* ---- making images ---- */

/* NULL: not concluded yet.  Else a new reference, also with *error* set. */
static json_t *find_concluded(QemuStorage *storage, const char *job, GError **error)
{
    g_autoptr(json_t) jobs = qmp_execute(storage->qmp, "query-jobs", NULL, QMP_COMMAND_MS, error);
    json_t *entry;
    size_t i;

    json_array_foreach(jobs, i, entry)
    {
        if (g_str_equal(json_text_or(entry, "id", ""), job) &&
            g_str_equal(json_text_or(entry, "status", ""), "concluded"))
            return json_incref(entry);
    }
    return NULL;
}

/* Its end, as query-jobs tells it; NULL with *error*. */
static json_t *await_job(QemuStorage *storage, const char *job, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)IMAGE_MS * 1000;

    while (g_get_monotonic_time() < deadline) {
        g_autoptr(GError) failure = NULL;
        json_t *entry = find_concluded(storage, job, &failure);

        if (entry)
            return entry;
        if (failure) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
        g_usleep(LOOK_US);
    }
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU does not get ready with it");
    return NULL;
}

static gboolean finish_job(QemuStorage *storage, const char *job, GError **error)
{
    g_autoptr(json_t) entry = await_job(storage, job, error);
    const char *problem;

    if (!entry || !run(storage, "job-dismiss", json_pack("{s:s}", "id", job), error))
        return FALSE;
    problem = json_text_or(entry, "error", NULL);
    if (problem)
        error_set(error, VMFERRY_ERROR_FAILED, "%s", problem);
    return problem == NULL;
}

/* Within the file that is this node. */
static json_t *describe_qcow2(const VmmImageRequest *request, const char *node)
{
    json_t *options = json_pack("{s:s,s:s,s:I}", "driver", "qcow2", "file", node, "size",
                                (json_int_t)request->bytes);

    if (request->options)
        json_object_update(options, request->options);
    if (request->backing) {
        json_object_set_new(options, "backing-file", json_string(request->backing));
        json_object_set_new(options, "backing-fmt", json_string(request->backing_format));
    }
    return options;
}

static gboolean make_qcow2(QemuStorage *storage, const VmmImageRequest *request, const char *node,
                           GError **error)
{
    g_autofree char *job = make_name(storage, "create");
    json_t *arguments =
        json_pack("{s:s,s:o}", "job-id", job, "options", describe_qcow2(request, node));

    if (run(storage, "blockdev-create", arguments, error))
        return finish_job(storage, job, error);
    /* Our words are right, so this QEMU does not know one of them. */
    if (error && error_is(*error, VMFERRY_ERROR_FAILED))
        (*error)->code = VMFERRY_ERROR_UNSUPPORTED;
    return FALSE;
}

static gboolean make_raw(QemuStorage *storage, const VmmImageRequest *request, const char *node,
                         GError **error)
{
    json_t *arguments =
        json_pack("{s:s,s:I}", "node-name", node, "size", (json_int_t)request->bytes);

    return run(storage, "block_resize", arguments, error);
}

static gboolean make_in_file(QemuStorage *storage, const VmmImageRequest *request, GError **error)
{
    g_autofree char *node = make_name(storage, "file");
    json_t *file = describe_file(request->path);
    gboolean made;

    json_object_set_new(file, "node-name", json_string(node));
    if (!run(storage, "blockdev-add", file, error))
        return FALSE;
    made = g_str_equal(request->format, "raw") ? make_raw(storage, request, node, error)
                                               : make_qcow2(storage, request, node, error);
    /* What has failed already is said by the first error. */
    return run(storage, "blockdev-del", json_pack("{s:s}", "node-name", node),
               made ? error : NULL) &&
           made;
}

static gboolean check_backing(const VmmImageRequest *request, GError **error)
{
    if (!request->backing)
        return TRUE;
    if (g_str_equal(request->format, "raw")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a raw image has no backing file");
        return FALSE;
    }
    /* QEMU would guess it by the content, which is the guest's. */
    if (!request->backing_format) {
        error_set(error, VMFERRY_ERROR_INVALID, "the format of its backing file is missing");
        return FALSE;
    }
    return TRUE;
}

static gboolean check_request(const VmmImageRequest *request, GError **error)
{
    if (request->bytes > (uint64_t)G_MAXINT64) {
        error_set(error, VMFERRY_ERROR_INVALID, "a size of %" G_GUINT64_FORMAT " bytes is too much",
                  (guint64)request->bytes);
        return FALSE;
    }
    return check_path(request->path, error) &&
           qemu_image_options_check(request->format, request->options, error) &&
           check_backing(request, error);
}

static gboolean create(VmmStorage *base, const VmmImageRequest *request, GError **error)
{
    QemuStorage *storage = from_storage(base);
    g_autoptr(GError) failure = NULL;

    lock_guard(&storage->lock);
    if (check_request(request, &failure) && make_in_file(storage, request, &failure))
        return TRUE;
    explain(storage, request->path, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* ---- opening and closing images ---- */

/* "max-connections" 0: any number; the folder keeps others out. */
static gboolean serve(QemuStorage *storage, GError **error)
{
    json_t *arguments = json_pack("{s:{s:s,s:{s:s}},s:i}", "addr", "type", "unix", "data", "path",
                                  storage->nbd_path, "max-connections", 0);

    if (storage->serving) {
        json_decref(arguments);
        return TRUE;
    }
    storage->serving = run(storage, "nbd-server-start", arguments, error);
    return storage->serving;
}

static gboolean add_node(QemuStorage *storage, const char *node, const char *path,
                         const char *format, gboolean writable, GError **error)
{
    json_t *image = json_pack("{s:s,s:s,s:b,s:o}", "driver", format, "node-name", node, "read-only",
                              !writable, "file", describe_file(path));

    if (writable) {
        json_object_set_new(image, "discard", json_string("unmap"));
        json_object_set_new(image, "detect-zeroes", json_string("unmap"));
    } else {
        json_object_set_new(image, "force-share", json_true());
    }
    return run(storage, "blockdev-add", image, error);
}

static gboolean del_node(QemuStorage *storage, const char *node, GError **error)
{
    return run(storage, "blockdev-del", json_pack("{s:s}", "node-name", node), error);
}

static gboolean add_export(QemuStorage *storage, const char *id, const char *node, const char *name,
                           gboolean writable, GError **error)
{
    json_t *arguments = json_pack("{s:s,s:s,s:s,s:s,s:b}", "type", "nbd", "id", id, "node-name",
                                  node, "name", name, "writable", writable);

    return run(storage, "block-export-add", arguments, error);
}

static gboolean check_name(QemuStorage *storage, const char *name, GError **error)
{
    if (strlen(name) > MAX_EXPORT_NAME) {
        error_set(error, VMFERRY_ERROR_INVALID, "the name of its export is too long");
        return FALSE;
    }
    if (g_hash_table_contains(storage->images, name)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "an export \"%s\" is open already", name);
        return FALSE;
    }
    return TRUE;
}

static gboolean open_and_export(QemuStorage *storage, const char *name, const char *path,
                                const char *format, gboolean writable, GError **error)
{
    g_autofree char *node = make_name(storage, "image");
    g_autofree char *export = make_name(storage, "export");
    OpenImage *image;

    if (!serve(storage, error) || !add_node(storage, node, path, format, writable, error))
        return FALSE;
    if (!add_export(storage, export, node, name, writable, error)) {
        (void)del_node(storage, node, NULL);
        return FALSE;
    }
    image = g_new0(OpenImage, 1);
    image->node = g_steal_pointer(&node);
    image->export = g_steal_pointer(&export);
    g_hash_table_insert(storage->images, g_strdup(name), image);
    return TRUE;
}

static gboolean open_image(VmmStorage *base, const char *name, const char *path, const char *format,
                           gboolean writable, GError **error)
{
    QemuStorage *storage = from_storage(base);
    g_autoptr(GError) failure = NULL;

    lock_guard(&storage->lock);
    if (check_name(storage, name, &failure) && check_path(path, &failure) &&
        open_and_export(storage, name, path, format, writable, &failure))
        return TRUE;
    explain(storage, path, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* FALSE without *error*: it is still there. */
static gboolean is_export_gone(QemuStorage *storage, const char *id, GError **error)
{
    g_autoptr(json_t) exports =
        qmp_execute(storage->qmp, "query-block-exports", NULL, QMP_COMMAND_MS, error);
    json_t *entry;
    size_t i;

    json_array_foreach(exports, i, entry)
    {
        if (g_str_equal(json_text_or(entry, "id", ""), id))
            return FALSE;
    }
    return exports != NULL;
}

static gboolean await_export_gone(QemuStorage *storage, const char *id, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)IMAGE_MS * 1000;

    while (g_get_monotonic_time() < deadline) {
        g_autoptr(GError) failure = NULL;

        if (is_export_gone(storage, id, &failure))
            return TRUE;
        if (failure) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        g_usleep(LOOK_US);
    }
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU does not end its export");
    return FALSE;
}

static gboolean end_export(QemuStorage *storage, OpenImage *image, GError **error)
{
    json_t *arguments;

    if (!image->export)
        return TRUE;
    arguments = json_pack("{s:s,s:s}", "id", image->export, "mode", "hard");
    if (!run(storage, "block-export-del", arguments, error) ||
        !await_export_gone(storage, image->export, error))
        return FALSE;
    g_clear_pointer(&image->export, g_free);
    return TRUE;
}

static OpenImage *find_image(QemuStorage *storage, const char *name, GError **error)
{
    OpenImage *image = g_hash_table_lookup(storage->images, name);

    if (!image)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no export of this name");
    return image;
}

static gboolean close_image(VmmStorage *base, const char *name, GError **error)
{
    QemuStorage *storage = from_storage(base);
    g_autoptr(GError) failure = NULL;
    OpenImage *image;

    lock_guard(&storage->lock);
    image = find_image(storage, name, &failure);
    if (image && end_export(storage, image, &failure) && del_node(storage, image->node, &failure)) {
        g_hash_table_remove(storage->images, name);
        return TRUE;
    }
    explain(storage, name, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* ---- the process ---- */

static pid_t get_pid(VmmStorage *base)
{
    return from_storage(base)->pid;
}

static void kill_process(VmmStorage *base)
{
    const QemuStorage *storage = from_storage(base);

    (void)process_kill(storage->pid, storage->start_time, SIGKILL, NULL);
}

static gboolean answers(VmmStorage *base, guint timeout_ms, GError **error)
{
    return qmp_run(from_storage(base)->qmp, "query-status", NULL, (int)timeout_ms, error);
}

static char *get_socket(VmmStorage *base)
{
    return g_strdup(from_storage(base)->nbd_path);
}

/* `quit` writes all out and closes it; the connection may end before the answer. */
static gboolean quit(QemuStorage *storage)
{
    g_autoptr(GError) failure = NULL;

    if (!qmp_run(storage->qmp, "quit", NULL, QUIT_MS, &failure) &&
        !error_is(failure, VMFERRY_ERROR_DISCONNECTED))
        return FALSE;
    return process_wait_gone(storage->pid, storage->start_time, QUIT_MS);
}

static void end_process(QemuStorage *storage)
{
    if (quit(storage))
        return;
    (void)process_kill(storage->pid, storage->start_time, SIGKILL, NULL);
    (void)process_wait_gone(storage->pid, storage->start_time, KILL_MS);
}

static void storage_free(VmmStorage *base)
{
    QemuStorage *storage = from_storage(base);

    if (storage->qmp) {
        end_process(storage);
        unlink(storage->qmp_path);
        unlink(storage->nbd_path);
    }
    qmp_free(storage->qmp);
    /* Removes control groups that were made for it. */
    spawn_plan_free(storage->plan);
    g_hash_table_unref(storage->images);
    g_mutex_clear(&storage->lock);
    g_free(storage->qmp_path);
    g_free(storage->nbd_path);
    g_free(storage->log_path);
    g_free(storage);
}

static const VmmStorageOps storage_ops = {
    .free = storage_free,
    .get_pid = get_pid,
    .kill = kill_process,
    .answers = answers,
    .create = create,
    .open = open_image,
    .get_socket = get_socket,
    .close = close_image,
};

/* A comma in an option's value is told by two; free with g_free(). */
static char *escape_commas(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    return g_strjoinv(",,", parts);
}

static char **make_argv(const char *program, const char *qmp_path, gboolean sandbox)
{
    g_autoptr(GStrvBuilder) argv = g_strv_builder_new();
    g_autofree char *path = escape_commas(qmp_path);
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off", path);

    g_strv_builder_add_many(argv, program, "-machine", "none", "-nodefaults", "-no-user-config",
                            "-display", "none", "-S", "-qmp", qmp, NULL);
    if (sandbox)
        g_strv_builder_add_many(argv, "-sandbox", SANDBOX, NULL);
    return g_strv_builder_end(argv);
}

static gboolean start_process(QemuStorage *storage, const VmmStorageLaunch *launch,
                              const char *program, gboolean sandbox, GError **error)
{
    g_auto(GStrv) argv = make_argv(program, storage->qmp_path, sandbox);
    QemuStart start = {
        .plan = storage->plan,
        .program = program,
        .argv = argv,
        .working_directory = "/",
        .directory = launch->directory,
        .qmp_path = storage->qmp_path,
        .log_path = storage->log_path,
        .begun = launch->begun,
        .user = launch->user,
    };

    if (!qemu_start_make_folder(&start, error))
        return FALSE;
    unlink(storage->nbd_path);
    storage->qmp = qemu_start_run(&start, &storage->pid, &storage->start_time, error);
    return storage->qmp != NULL;
}

/* Not every QEMU was built with a sandbox. */
static gboolean start_confined(QemuStorage *storage, const VmmStorageLaunch *launch,
                               const char *program, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (start_process(storage, launch, program, TRUE, &failure))
        return TRUE;
    if (strstr(failure->message, "-sandbox"))
        return start_process(storage, launch, program, FALSE, error);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean check_unused(QemuStorage *storage, GError **error)
{
    if (!unix_socket_in_use(storage->qmp_path))
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "a process that serves images runs already: see %s",
              storage->qmp_path);
    return FALSE;
}

static QemuStorage *storage_new(const char *directory)
{
    QemuStorage *storage = g_new0(QemuStorage, 1);

    storage->base.ops = &storage_ops;
    g_mutex_init(&storage->lock);
    storage->images =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)open_image_free);
    storage->qmp_path = qemu_start_socket_path(directory, "storage.qmp");
    storage->nbd_path = qemu_start_socket_path(directory, "storage.nbd");
    storage->log_path = g_build_filename(directory, "storage.log", NULL);
    return storage;
}

VmmStorage *qemu_storage_open(const VmmStorageLaunch *launch, GError **error)
{
    const char *folder = launch->working_directory ? launch->working_directory : "/";
    g_autofree char *program = qemu_start_find_program(launch->program, folder, TRUE, error);
    QemuStorage *storage;

    if (!program)
        return NULL;
    storage = storage_new(launch->directory);
    if (check_unused(storage, error)) {
        storage->plan = spawn_plan_new(launch->process, launch->allow_unconfined, FALSE, error);
        if (storage->plan && start_confined(storage, launch, program, error))
            return &storage->base;
    }
    storage_free(&storage->base);
    return NULL;
}
