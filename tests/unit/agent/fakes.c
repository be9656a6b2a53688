#include "fakes.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/process.h"
#include "migrate/image_host.h"
#include "migrate/image_restore.h"
#include "migrate/protect.h"
#include "migrate/save_source.h"
#include "vmm/qemu/qemu.h"

#define FAKE_AGENT "00112233445566778899aabbccddeeff"

Fakes fakes;
static GMutex lock;        /* protects the table */
static GHashTable *states; /* pid → VmmRunState */

typedef struct {
    Vmm vmm;
    pid_t pid;
    uint64_t start_time;
    char *qmp_path, *log_path;
    char **command_line;
} FakeVmm;

static void set_state(pid_t pid, VmmRunState state)
{
    g_mutex_lock(&lock);
    if (!states)
        states = g_hash_table_new(NULL, NULL);
    g_hash_table_insert(states, GINT_TO_POINTER(pid), GINT_TO_POINTER(state));
    g_mutex_unlock(&lock);
}

VmmRunState fake_qemu_get_state(pid_t pid)
{
    VmmRunState state;

    g_mutex_lock(&lock);
    state = (VmmRunState)GPOINTER_TO_INT(g_hash_table_lookup(states, GINT_TO_POINTER(pid)));
    g_mutex_unlock(&lock);
    return fake_qemu_is_alive(pid) ? state : VMM_RUN_STATE_GONE;
}

gboolean fake_qemu_is_alive(pid_t pid)
{
    uint64_t start_time;

    return process_get_start_time(pid, &start_time, NULL) && process_is_same(pid, start_time);
}

guint64 fake_qemu_get_start_time(pid_t pid)
{
    uint64_t start_time = 0;

    process_get_start_time(pid, &start_time, NULL);
    return start_time;
}

/* The socket's path is in its command line, as it is in a QEMU's. */
pid_t fake_qemu_start(const char *socket, VmmRunState state)
{
    int started[2];
    char nothing;
    pid_t pid;

    if (pipe2(started, O_CLOEXEC) < 0)
        abort();
    pid = fork();
    if (pid == 0) {
        execl("/bin/sleep", socket, "1000000", (char *)NULL);
        _exit(1);
    }
    close(started[1]);
    if (read(started[0], &nothing, 1) != 0) /* its end: the program runs */
        abort();
    close(started[0]);
    set_state(pid, state);
    return pid;
}

void fakes_reset(void)
{
    GHashTableIter iter;
    gpointer pid;

    g_mutex_lock(&lock);
    if (states) {
        g_hash_table_iter_init(&iter, states);
        while (g_hash_table_iter_next(&iter, &pid, NULL)) {
            kill(GPOINTER_TO_INT(pid), SIGKILL);
            waitpid(GPOINTER_TO_INT(pid), NULL, 0);
        }
        g_hash_table_remove_all(states);
    }
    g_mutex_unlock(&lock);
    memset(&fakes, 0, sizeof fakes);
}

/* ---- the driver ---- */

static void fake_free(Vmm *vmm)
{
    FakeVmm *fake = (FakeVmm *)vmm;

    g_free(fake->qmp_path);
    g_free(fake->log_path);
    g_strfreev(fake->command_line);
    g_free(fake);
}

static pid_t fake_get_pid(Vmm *vmm)
{
    return ((FakeVmm *)vmm)->pid;
}

static gboolean fake_is_same_process(Vmm *vmm)
{
    return process_is_same(((FakeVmm *)vmm)->pid, ((FakeVmm *)vmm)->start_time);
}

static gboolean fake_get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    *ret = fake_qemu_get_state(((FakeVmm *)vmm)->pid);
    return TRUE;
}

static VmmDescription *fake_describe(Vmm *vmm, GError **error)
{
    VmmDescription *description = g_new0(VmmDescription, 1);

    description->kind = g_strdup("qemu");
    description->version = g_strdup("7.2.22");
    description->machine = g_strdup("pc-i440fx-7.2");
    description->accelerator = g_strdup("tcg");
    description->vcpus = 2;
    description->memory_bytes = 1 << 30;
    description->ram_regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    return description;
}

static json_t *fake_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error)
{
    *ret_line = g_strdupv((char **)original);
    return json_object();
}

static GPtrArray *fake_list_images(Vmm *vmm, json_t *source, GError **error)
{
    return g_ptr_array_new();
}

static GPtrArray *fake_list_disks(Vmm *vmm, GError **error)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_free);
    VmmDisk *disk = g_new0(VmmDisk, 1);
    VmmDiskFile *file = g_new0(VmmDiskFile, 1);

    file->file = g_strdup("/srv/web1.raw");
    file->format = g_strdup("raw");
    file->bytes = file->file_bytes = 1 << 20;
    file->allocated_bytes = 4096;
    disk->id = g_strdup("system");
    disk->device = g_strdup("virtio-disk0");
    disk->obstacle = g_strdup(fakes.obstacle);
    disk->files = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_file_free);
    g_ptr_array_add(disk->files, file);
    g_ptr_array_add(disks, disk);
    return disks;
}

static gboolean fake_check_movable(Vmm *vmm, GError **error)
{
    if (fakes.obstacle)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s", fakes.obstacle);
    return !fakes.obstacle;
}

static ProcessIdentity *fake_get_process(Vmm *vmm, GError **error)
{
    return process_identity_read(((FakeVmm *)vmm)->pid, NULL, error);
}

static gboolean fake_resume(Vmm *vmm, GError **error)
{
    if (fakes.resume_fails) {
        error_set(error, VMFERRY_ERROR_FAILED, "the image is locked");
        return FALSE;
    }
    set_state(((FakeVmm *)vmm)->pid, VMM_RUN_STATE_RUNNING);
    return TRUE;
}

static gboolean fake_take_images(Vmm *vmm, GError **error)
{
    fakes.images_taken++;
    return TRUE;
}

static gboolean fake_announce(Vmm *vmm, GError **error)
{
    return TRUE;
}

static gboolean fake_quit(Vmm *vmm, GError **error)
{
    FakeVmm *fake = (FakeVmm *)vmm;

    kill(fake->pid, SIGKILL);
    waitpid(fake->pid, NULL, 0);
    return TRUE;
}

static char *fake_get_stderr_tail(Vmm *vmm)
{
    return g_strdup("farewell\n");
}

static gboolean fake_set_balloon(Vmm *vmm, uint64_t bytes, GError **error)
{
    if (fakes.balloon_fails) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the guest has no balloon device");
        return FALSE;
    }
    fakes.balloon_bytes = bytes;
    return TRUE;
}

static VmmIdentity *fake_get_identity(Vmm *vmm)
{
    FakeVmm *fake = (FakeVmm *)vmm;
    VmmIdentity *identity = g_new0(VmmIdentity, 1);

    identity->kind = g_strdup("qemu");
    identity->pid = fake->pid;
    identity->start_time = fake->start_time;
    identity->control_path = g_strdup(fake->qmp_path);
    identity->log_path = g_strdup(fake->log_path);
    identity->command_line = g_strdupv(fake->command_line);
    return identity;
}

static GArray *fake_get_vcpu_threads(Vmm *vmm, GError **error)
{
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));

    g_array_append_val(threads, ((FakeVmm *)vmm)->pid);
    return threads;
}

static gboolean fake_ask_disk_counters(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret,
                                       GError **error)
{
    *ret = (VmmDiskCounters){.read_bytes = 1, .written_bytes = 2, .flushes = 3};
    return TRUE;
}

static const VmmOps fake_ops = {
    .kind = "qemu",
    .free = fake_free,
    .get_pid = fake_get_pid,
    .is_same_process = fake_is_same_process,
    .get_identity = fake_get_identity,
    .get_run_state = fake_get_run_state,
    .describe = fake_describe,
    .check_movable = fake_check_movable,
    .get_vcpu_threads = fake_get_vcpu_threads,
    .read_machine = fake_read_machine,
    .get_process = fake_get_process,
    .resume = fake_resume,
    .announce = fake_announce,
    .quit = fake_quit,
    .get_stderr_tail = fake_get_stderr_tail,
};

static const VmmBlockOps fake_block_ops = {
    .list_images = fake_list_images,
    .list_disks = fake_list_disks,
    .take_images = fake_take_images,
    .ask_disk_counters = fake_ask_disk_counters,
};

static const VmmBalloonOps fake_balloon_ops = {
    .set = fake_set_balloon,
};

static Vmm *make(pid_t pid, const char *qmp_path, const char *log_path, char **command_line)
{
    FakeVmm *fake = g_new0(FakeVmm, 1);

    fake->vmm.ops = &fake_ops;
    fake->vmm.block = &fake_block_ops;
    fake->vmm.balloon = &fake_balloon_ops;
    fake->pid = pid;
    process_get_start_time(pid, &fake->start_time, NULL);
    fake->qmp_path = g_strdup(qmp_path);
    fake->log_path = g_strdup(log_path);
    fake->command_line = g_strdupv(command_line);
    return &fake->vmm;
}

static Vmm *fake_launch(const VmmLaunch *launch, GError **error)
{
    g_autofree char *socket = g_strdup_printf("%s/%s.qmp", launch->directory, launch->name);
    g_autofree char *log = g_strdup_printf("%s/%s.log", launch->directory, launch->name);

    fakes.launches++;
    if (fakes.launch_fails) {
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU did not start: no such machine");
        return NULL;
    }
    g_file_set_contents(log, "words\n", -1, NULL);
    return make(
        fake_qemu_start(socket, launch->incoming ? VMM_RUN_STATE_PAUSED : VMM_RUN_STATE_RUNNING),
        socket, log, launch->command_line);
}

static Vmm *fake_adopt(pid_t pid, const char *qmp_path, GError **error)
{
    char *words[] = {(char *)"qemu-system-x86_64", (char *)"-m", (char *)"1G", NULL};

    if (!fake_qemu_is_alive(pid)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no process with pid %d", (int)pid);
        return NULL;
    }
    return make(pid, qmp_path ? qmp_path : "/run/found.qmp", NULL, words);
}

static Vmm *fake_reattach(const VmmIdentity *identity, GError **error)
{
    if (fakes.reattach_fails) {
        error_set(error, VMFERRY_ERROR_BUSY, "the QMP socket is busy");
        return NULL;
    }
    return make(identity->pid, identity->control_path, identity->log_path, identity->command_line);
}

static gboolean fake_is_program(const char *program)
{
    return TRUE;
}

/* In place of the QEMU driver's. */
const VmmDriver qemu_driver = {
    .kind = "qemu",
    .programs = "QEMU",
    .is_program = fake_is_program,
    .launch = fake_launch,
    .adopt = fake_adopt,
    .reattach = fake_reattach,
};

/* ---- the moving ---- */

static gboolean journal(const MigrateSourceJob *job, SourceJournalState state)
{
    GError *error = NULL;
    g_autofree char *transaction = g_strdup_printf("%032x", fakes.moves);
    gboolean done = job->host.journal(state, transaction, FAKE_AGENT, job->host.user, &error);

    g_clear_error(&error);
    return done;
}

static void hold(const MigrateSourceJob *job, GCancellable *cancellable)
{
    MigrateProgress progress = {.phase = MIGRATE_PHASE_PRECOPY, .round = 1, .eta_ms = -1};

    while (g_atomic_int_get(&fakes.hold) && !g_cancellable_is_cancelled(cancellable)) {
        progress.wire_bytes += 1000;
        job->host.progress(&progress, job->host.user);
        g_atomic_int_inc(&fakes.progressed);
        clock_sleep_ns(5000000);
    }
}

MigrateReport *migrate_source_run(const MigrateSourceJob *job, GCancellable *cancellable)
{
    MigrateReport *report = migrate_report_new();

    report->destination = g_strdup(job->destination);
    report->source = g_strdup(job->source_name);
    report->status = fakes.status;
    fakes.moves++;
    if (!journal(job, SOURCE_JOURNAL_MOVING)) {
        report->status = MIGRATE_FAILED;
        report->error = g_strdup("the move cannot be written down");
        return report;
    }
    hold(job, cancellable);
    for (guint i = 0; i < fakes.trace_lines && job->host.trace; i++) {
        g_autofree char *line = g_strdup_printf("{\"ms\":%u}", i);

        job->host.trace(line, job->host.user);
    }
    fakes.options = job->options;
    fakes.rate = move_rate_get(job->rate);
    g_strlcpy(fakes.disk_mode, json_text_or(job->disk_modes, "system", ""), sizeof fakes.disk_mode);
    if (g_cancellable_is_cancelled(cancellable))
        report->status = MIGRATE_CANCELLED;
    if (report->status == MIGRATE_FAILED || report->status == MIGRATE_CANCELLED) {
        report->error = g_strdup("it did not work");
        journal(job, SOURCE_JOURNAL_RETURNED);
        return report;
    }
    journal(job, SOURCE_JOURNAL_PAUSING);
    set_state(vmm_get_pid(job->vmm), VMM_RUN_STATE_PAUSED);
    journal(job, SOURCE_JOURNAL_SWITCHING_OVER);
    if (report->status == MIGRATE_COMPLETED) {
        journal(job, SOURCE_JOURNAL_GONE);
        vmm_quit(job->vmm, NULL);
    } else {
        report->error = g_strdup("no answer");
    }
    return report;
}

gboolean migrate_source_resolve(const char *destination, const ChannelOptions *channel,
                                const ResolveMessage *question, const char *agent,
                                OutcomeMessage *ret, GError **error)
{
    gint outcome = g_atomic_int_get(&fakes.outcome);

    g_atomic_int_inc(&fakes.questions);
    if (outcome < 0) {
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "cannot reach %s", destination);
        return FALSE;
    }
    *ret = (OutcomeMessage){(TransactionOutcome)outcome,
                            question->term - (g_atomic_int_get(&fakes.old_term) ? 1 : 0)};
    return TRUE;
}

gboolean migrate_destination_serve(Session *session, const MigrateDestinationHost *host,
                                   GError **error)
{
    if (fakes.serve)
        return fakes.serve(session, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "not in this test");
    return FALSE;
}

gboolean standby_serve(Session *session, const StandbyHost *host, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "not in this test");
    return FALSE;
}

PostcopyDestination *protect_begin(const ProtectJob *job, GCancellable *cancellable, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "not in this test");
    return NULL;
}

/* ---- images: the agent's own half of them is tested with real ones (tests/system/test_save.py) ---- */

MigrateReport *save_source_run(const SaveJob *job, GCancellable *cancellable)
{
    MigrateReport *report = migrate_report_new();

    report->status = MIGRATE_FAILED;
    report->error = g_strdup("not in this test");
    return report;
}

gboolean image_host_receive(Session *session, const ImageHostOptions *options, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "not in this test");
    return FALSE;
}
