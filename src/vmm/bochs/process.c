#include "vmm/bochs/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/net_namespace.h"
#include "base/process.h"
#include "identity/spawn.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/texts.h"

#define START_MS 60000
#define INTERRUPT_MS 10000
#define REPEAT_MS 20 /* between two signals */
#define QUIT_MS 5000
#define TERM_MS 2000
#define KILL_MS 5000
#define MAX_ERRORS (256u << 10)
#define OUTPUT_BYTES (1 << 20) /* of the FIFO */
#define MAX_SYSCALL 1024
#define ATTACH_MS 20000
#define SETTLE_MS 1000 /* for a command that is under way when its agent dies */
#define LOOK_US 2000

#define RUNS_FILE "runs"
#define LOOKED_AT "look"
#define MAX_RUNS 64u

static const char program_name[] = "bochs-bin";

/* ---- starting ---- */

typedef struct {
    const Spawn *spawn;
    pid_t pid;
    gboolean done;
    GError *error;
} Job;

/* In a thread that is in the new network namespace, which the process inherits. */
static void run_spawn(gpointer user)
{
    Job *job = user;

    job->done = spawn_detached(job->spawn, &job->pid, &job->error);
}

static gboolean spawn_in_namespace(const Spawn *spawn, pid_t *ret_pid, GError **error)
{
    Job job = {.spawn = spawn};

    if (!net_namespace_run(NET_NAMESPACE_FRESH, run_spawn, &job, error))
        return FALSE;
    *ret_pid = job.pid;
    if (!job.done)
        g_propagate_error(error, job.error);
    return job.done;
}

static char *find_program(const BochsStart *start, GError **error)
{
    const char *name = start->program ? start->program : program_name;
    char *program = g_find_program_in_path(name);

    if (!program)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no program %s (Debian: package bochs)",
                  name);
    return program;
}

/* The streams are Bochs's own, both ways of each FIFO. */
static gboolean run(const BochsStart *start, pid_t *ret_pid, GError **error)
{
    g_autofree char *program = find_program(start, error);
    /* Nobody's readline settings, and a line wide enough for any command: it is repeated as a whole. */
    char *environment[] = {(char *)"PATH=/usr/bin:/bin", (char *)"LC_ALL=C",
                           (char *)"TERM=dumb",          (char *)"INPUTRC=/dev/null",
                           (char *)"COLUMNS=1000",       NULL};
    char *argv[] = {(char *)program_name, (char *)"-q", (char *)"-f", (char *)"bochsrc", NULL};
    g_autoptr(SpawnPlan) plain = start->plan ? NULL : spawn_plan_new(NULL, 0, FALSE, error);
    const SpawnPlan *plan = start->plan ? start->plan : plain;
    autofd int input = bochs_folder_open(start->folder, "input", O_RDWR, error);
    autofd int output = input < 0 ? -1 : bochs_folder_open(start->folder, "output", O_RDWR, error);
    autofd int errors = output < 0
                            ? -1
                            : bochs_folder_open(start->folder, "errors",
                                                O_WRONLY | O_CREAT | O_EXCL | O_APPEND, error);
    Spawn spawn = {
        .plan = plan,
        .program = program,
        .argv = argv,
        .environment = environment,
        .working_directory = start->folder,
        .input = input,
        .output = output,
        .errors = errors,
        .begun = start->begun,
        .user = start->user,
    };

    if (!program || !plan || errors < 0)
        return FALSE;
    return spawn_in_namespace(&spawn, ret_pid, error);
}

/* Our ends.  That of its input stays readable, too: a write to a Bochs that has ended raises no signal. */
static BochsConsole *open_console(const char *folder, gboolean again, GError **error)
{
    autofd int input = bochs_folder_open(folder, "input", O_RDWR | O_NONBLOCK, error);
    int output = input < 0 ? -1 : bochs_folder_open(folder, "output", O_RDONLY | O_NONBLOCK, error);

    if (output < 0)
        return NULL;
    /* Bochs must not wait for an agent that has died, but come back to its prompt. */
    (void)fcntl(output, F_SETPIPE_SZ, OUTPUT_BYTES);
    return again ? bochs_console_new_again(fd_steal(&input), output)
                 : bochs_console_new(fd_steal(&input), output);
}

static BochsProcess *process_new(const char *folder, BochsConsole *console)
{
    BochsProcess *process = g_new0(BochsProcess, 1);

    process->folder = g_strdup(folder);
    process->state_folder = bochs_folder_path(folder, "state");
    process->console = console;
    return process;
}

void bochs_process_free(BochsProcess *process)
{
    if (!process)
        return;
    bochs_console_free(process->console);
    g_free(process->folder);
    g_free(process->state_folder);
    g_free(process->version);
    g_free(process);
}

static gboolean signal_and_wait(BochsProcess *process, int signal_number, int timeout_ms)
{
    (void)process_kill(process->pid, process->start_time, signal_number, NULL);
    return process_wait_gone(process->pid, process->start_time, timeout_ms);
}

static void set_start_error(const BochsProcess *process, GError **error)
{
    g_autofree char *said = bochs_process_read_end(process);

    g_clear_error(error);
    error_set(error, VMFERRY_ERROR_FAILED, "Bochs did not start: %s",
              said ? said : "it ended without a message");
}

/* Files by which one Bochs keeps another from an image that it writes to, not a QEMU.  Locks on the images do (image_locks.h), and go with
 * the process however it ends. */
static void drop_lock_files(const BochsMachine *machine)
{
    for (guint i = 0; i < machine->disk_count; i++) {
        const BochsDisk *disk = &machine->disks[i];
        g_autofree char *path = g_strconcat(disk->path, ".lock", NULL);

        if (disk->path && !disk->cdrom && !disk->journal)
            unlink(path);
    }
}

static gboolean await_start(BochsProcess *process, GError **error)
{
    g_autofree char *banner = NULL;

    if (!process_get_start_time(process->pid, &process->start_time, NULL)) {
        set_start_error(process, error);
        return FALSE;
    }
    if (bochs_console_await_prompt(process->console, START_MS, &banner, error)) {
        process->version = bochs_text_pick_version(banner);
        return TRUE;
    }
    if (error && error_is(*error, VMFERRY_ERROR_DISCONNECTED))
        set_start_error(process, error);
    (void)signal_and_wait(process, SIGKILL, KILL_MS);
    return FALSE;
}

/* One that was not allowed to begin ends by itself, and has the FIFOs open until then. */
static void await_not_begun(BochsProcess *process)
{
    if (process->pid > 0 && process_get_start_time(process->pid, &process->start_time, NULL))
        (void)process_wait_gone(process->pid, process->start_time, KILL_MS);
}

static gboolean make_folder(const BochsStart *start, GError **error)
{
    uid_t uid;
    gid_t gid;

    if (!bochs_folder_make(start->folder, start->machine, error))
        return FALSE;
    if (!start->plan)
        return TRUE;
    spawn_plan_get_start_owner(start->plan, &uid, &gid);
    return bochs_folder_share(start->folder, uid, gid, error);
}

BochsProcess *bochs_process_start(const BochsStart *start, GError **error)
{
    g_autoptr(BochsProcess) process = NULL;
    BochsConsole *console;

    if (!bochs_machine_check(start->machine, error) || !make_folder(start, error))
        return NULL;
    /* Nothing is lost of what Bochs writes at once; its own ends keep ours from waiting. */
    autofd int writer = bochs_folder_open(start->folder, "output", O_RDWR, error);
    console = writer < 0 ? NULL : open_console(start->folder, FALSE, error);
    if (!console)
        return NULL;
    process = process_new(start->folder, console);
    if (!run(start, &process->pid, error)) {
        await_not_begun(process);
        return NULL;
    }
    fd_close(&writer);
    if (!await_start(process, error))
        return NULL;
    drop_lock_files(start->machine);
    return g_steal_pointer(&process);
}

/* ---- one that was there before ---- */

/* At its prompt its main thread waits for standard input, and nowhere else. */
static gboolean waits_for_input(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/syscall", (int)pid);
    g_autofree char *text = file_read(path, MAX_SYSCALL, NULL, NULL);
    unsigned long long first;
    long number;

    if (!text || sscanf(text, "%ld 0x%llx", &number, &first) != 2)
        return FALSE;
    return (number == SYS_read && first == STDIN_FILENO) ||
           ((number == SYS_pselect6 || number == SYS_select) && first == STDIN_FILENO + 1);
}

/* What is written to it is read before it waits again. */
static gboolean stands_at_prompt(const BochsProcess *process)
{
    return !bochs_console_has_unread(process->console) && waits_for_input(process->pid);
}

/* A command of the agent before may be under way, which is let end, or its interrupt, which may have been lost. */
static gboolean bring_prompt(BochsProcess *process, GError **error)
{
    gint64 start = g_get_monotonic_time(), next = start + SETTLE_MS * 1000, now;

    bochs_console_drop_input(process->console);
    while (!stands_at_prompt(process)) {
        now = g_get_monotonic_time();
        if (now - start > ATTACH_MS * 1000) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "Bochs (pid %d) does not come to its prompt",
                      (int)process->pid);
            return FALSE;
        }
        if (now > next && !process_kill(process->pid, process->start_time, SIGINT, error))
            return FALSE;
        if (now > next)
            next = now + REPEAT_MS * 1000;
        g_usleep(LOOK_US);
        (void)bochs_console_drop_output(process->console);
    }
    return TRUE;
}

/* Its line editor may drop the first line after a signal. */
static gboolean catch_up(BochsProcess *process, GError **error)
{
    return bochs_console_catch_up(process->console, SETTLE_MS, NULL) ||
           bochs_console_catch_up(process->console, BOCHS_COMMAND_MS, error);
}

/* TRUE with *ret_runs: a `c` is under way that nobody has interrupted; *ret_looked_at: for a look only. */
static gboolean read_run(const BochsProcess *process, gboolean *ret_runs, gboolean *ret_looked_at,
                         GError **error)
{
    g_autofree char *path = bochs_folder_path(process->folder, RUNS_FILE);
    g_autoptr(GError) failure = NULL;
    g_autofree char *text = file_read(path, MAX_RUNS, NULL, &failure);

    *ret_looked_at = g_strcmp0(text, LOOKED_AT) == 0;
    *ret_runs = text && !*ret_looked_at;
    if (text || error_is(failure, VMFERRY_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean find_state(BochsProcess *process, GError **error)
{
    gboolean runs;

    if (!read_run(process, &runs, &process->looked_at, error))
        return FALSE;
    if (!runs || stands_at_prompt(process))
        return bring_prompt(process, error) && catch_up(process, error);
    bochs_console_set_runs_machine(process->console);
    return TRUE;
}

BochsProcess *bochs_process_attach(pid_t pid, uint64_t start_time, const char *folder,
                                   char *version, GError **error)
{
    BochsConsole *console = open_console(folder, TRUE, error);
    g_autoptr(BochsProcess) process = console ? process_new(folder, console) : NULL;

    if (!process) {
        g_free(version);
        return NULL;
    }
    process->pid = pid;
    process->start_time = start_time;
    process->version = version;
    return find_state(process, error) ? g_steal_pointer(&process) : NULL;
}

/* ---- running ---- */

gboolean bochs_process_is_alive(const BochsProcess *process)
{
    return process_is_same(process->pid, process->start_time);
}

gboolean bochs_process_runs(const BochsProcess *process)
{
    return !bochs_console_await_prompt(process->console, 0, NULL, NULL) &&
           bochs_console_runs_machine(process->console);
}

static gboolean write_run(const BochsProcess *process, const char *text, GError **error)
{
    g_autofree char *path = bochs_folder_path(process->folder, RUNS_FILE);

    return file_replace(path, text, strlen(text), FALSE, error);
}

gboolean bochs_process_note_run(const BochsProcess *process, gboolean runs, GError **error)
{
    g_autofree char *path = bochs_folder_path(process->folder, RUNS_FILE);

    if (runs)
        return write_run(process, "", error);
    if (unlink(path) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", path);
    return FALSE;
}

gboolean bochs_process_continue(BochsProcess *process, GError **error)
{
    return bochs_console_send(process->console, "c", error);
}

/* Its line editor drops a line that a signal finds there still, and waits for another without a new prompt. */
static gboolean has_dropped_line(BochsProcess *process)
{
    g_autoptr(GError) failure = NULL;

    return waits_for_input(process->pid) &&
           !bochs_console_await_prompt(process->console, 0, NULL, &failure) &&
           error_is(failure, VMFERRY_ERROR_TIMEOUT);
}

/* A command that is not `c` has its prompt soon, as a rule. */
static void await_command(BochsProcess *process)
{
    if (!bochs_console_runs_machine(process->console))
        (void)bochs_console_await_prompt(process->console, BOCHS_COMMAND_MS, NULL, NULL);
}

static gboolean interrupt_machine(BochsProcess *process, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)INTERRUPT_MS * 1000;
    int echo_ms = bochs_console_runs_machine(process->console) ? INTERRUPT_MS : 0;

    if (!bochs_console_await_echo(process->console, echo_ms, error))
        return FALSE;
    while (bochs_console_is_running(process->console)) {
        g_autoptr(GError) failure = NULL;

        if (!process_kill(process->pid, process->start_time, SIGINT, error))
            return FALSE;
        if (bochs_console_await_prompt(process->console, REPEAT_MS, NULL, &failure))
            return TRUE;
        if (error_is(failure, VMFERRY_ERROR_INVALID))
            continue;
        if (has_dropped_line(process))
            return bochs_console_catch_up(process->console, BOCHS_COMMAND_MS, error);
        if (!error_is(failure, VMFERRY_ERROR_TIMEOUT) || g_get_monotonic_time() > deadline) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
    }
    return TRUE;
}

gboolean bochs_process_break(BochsProcess *process, GError **error)
{
    return interrupt_machine(process, error);
}

gboolean bochs_process_interrupt(BochsProcess *process, GError **error)
{
    await_command(process);
    process->interrupted |= bochs_console_runs_machine(process->console);
    if (!bochs_process_note_run(process, FALSE, error))
        return FALSE;
    process->looked_at = FALSE;
    if (!interrupt_machine(process, error))
        return FALSE;
    process->interrupted = FALSE;
    return TRUE;
}

/* ---- looking at it ---- */

gboolean bochs_process_begin_look(BochsProcess *process, GError **error)
{
    if (!write_run(process, LOOKED_AT, error))
        return FALSE;
    process->looked_at = TRUE;
    return interrupt_machine(process, error);
}

/* The note goes last: of an agent that dies before, the next one does all of this again, and a machine that runs by then is none
 * the worse for it. */
gboolean bochs_process_end_look(BochsProcess *process, GError **error)
{
    if (!process->looked_at)
        return TRUE;
    await_command(process);
    if (!interrupt_machine(process, error) || !bochs_process_continue(process, error) ||
        !bochs_process_note_run(process, TRUE, error))
        return FALSE;
    process->interrupted = process->looked_at = FALSE;
    return TRUE;
}

/* ---- its end ---- */

gboolean bochs_process_quit(BochsProcess *process, GError **error)
{
    if (!bochs_process_is_alive(process))
        return TRUE;
    if (bochs_process_interrupt(process, NULL) && bochs_console_send(process->console, "q", NULL) &&
        process_wait_gone(process->pid, process->start_time, QUIT_MS))
        return TRUE;
    if (!bochs_process_is_alive(process))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "Bochs (pid %d) does not end by `q`",
              (int)process->pid);
    return FALSE;
}

gboolean bochs_process_end(BochsProcess *process, GError **error)
{
    if (bochs_process_quit(process, NULL))
        return TRUE;
    if (signal_and_wait(process, SIGTERM, TERM_MS) || signal_and_wait(process, SIGKILL, KILL_MS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "Bochs (pid %d) does not end, not even by SIGKILL",
              (int)process->pid);
    return FALSE;
}

char *bochs_process_read_end(const BochsProcess *process)
{
    g_autofree char *path = bochs_folder_path(process->folder, "errors");
    g_autofree char *text = file_read(path, MAX_ERRORS, NULL, NULL);

    return text ? bochs_text_pick_end(text) : NULL;
}

char *bochs_process_log_path(const BochsProcess *process)
{
    return bochs_folder_path(process->folder, "log");
}
