#include "agent/supervisor.h"

#include <string.h>
#include <unistd.h>

#include "agent/shell_text.h"
#include "agent/systemd_unit.h"
#include "base/fd.h"
#include "base/process.h"
#include "identity/identity_parse.h"

#define TEXT_LIMIT (1u << 20)
#define MOST_PARENTS 64
#define SHOWN_BYTES 120

/* ---- command lines ---- */

static const char *const supervising[] = {
    "runsv", "s6-supervise",     "supervise", "supervisord", "monit", "circusd",
    "pm2",   "supervise-daemon", "conmon",    "dockerd",     "dinit", NULL,
};

static const char *const passing[] = {
    "sudo",    "su",      "doas",    "runuser", "setpriv", "setsid",  "nohup",     "env",
    "timeout", "nice",    "ionice",  "taskset", "chrt",    "numactl", "strace",    "ltrace",
    "ip",      "unshare", "nsenter", "chroot",  "stdbuf",  "time",    "catchsegv", NULL,
};

/* Users sit behind these. */
static const char *const attended[] = {
    "sshd", "login", "tmux", "screen", "script", "gdb", "mosh-server", "xterm", "konsole", NULL,
};

static const char *const shells[] = {
    "sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "yash", NULL,
};

static const char *const interpreters[] = {"python", "perl", "ruby", "node", NULL};

/* "-bash" is a login shell; "tmux: server" is a title that a program gave itself. */
static char *program_name(const char *word)
{
    g_autofree char *title = g_strndup(word, strcspn(word, ": "));
    g_autofree char *name = g_path_get_basename(title);

    return g_strdup(name[0] == '-' ? name + 1 : name);
}

static gboolean is_interpreter(const char *name)
{
    for (const char *const *interpreter = interpreters; *interpreter; interpreter++)
        if (g_str_has_prefix(name, *interpreter))
            return TRUE;
    return FALSE;
}

/* The script of "python3 -u /usr/bin/supervisord"; NULL where there is none. */
static const char *find_script(char *const *argv)
{
    for (guint i = 1; argv[i]; i++)
        if (argv[i][0] != '-')
            return argv[i];
    return NULL;
}

static ParentKind judge_name(const char *name)
{
    if (g_strv_contains(supervising, name) || g_str_has_prefix(name, "containerd-shim"))
        return PARENT_SUPERVISES;
    if (g_strv_contains(passing, name))
        return PARENT_PASSES;
    if (g_strv_contains(attended, name) || g_str_has_prefix(name, "sshd-"))
        return PARENT_FINE;
    return g_strv_contains(shells, name) ? PARENT_SHELL : PARENT_UNKNOWN;
}

ParentKind supervisor_judge_parent(char *const *argv)
{
    g_autofree char *name = program_name(argv[0]);
    const char *script = is_interpreter(name) ? find_script(argv) : NULL;
    g_autofree char *script_name = script ? program_name(script) : NULL;

    /* pm2's daemon calls itself "PM2 v5.3.0: God Daemon (…)". */
    if (g_str_has_prefix(argv[0], "PM2 "))
        return PARENT_SUPERVISES;
    if (strcmp(name, "busybox") == 0 && argv[1])
        return supervisor_judge_parent(argv + 1);
    return judge_name(script_name ? script_name : name);
}

/* ---- living processes ---- */

static char *describe(pid_t pid, char *const *argv, const char *what)
{
    g_autofree char *line = g_strjoinv(" ", (char **)argv);
    g_autofree char *valid = g_utf8_make_valid(line, -1);

    if (strlen(valid) > SHOWN_BYTES) {
        char *end = g_utf8_find_prev_char(valid, valid + SHOWN_BYTES);

        memcpy(end, "…", sizeof "…");
    }
    for (char *c = valid; *c; c++)
        if (g_ascii_iscntrl(*c))
            *c = ' ';
    return g_strdup_printf("process %d (%s), %s", (int)pid, valid, what);
}

static gboolean has_terminal(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/0", (int)pid);
    g_autofree char *target = g_file_read_link(path, NULL);

    return target &&
           (g_str_has_prefix(target, "/dev/pts/") || g_str_has_prefix(target, "/dev/tty"));
}

/* The text of a script as the shell sees its path; NULL where it cannot be read. */
static char *read_script(pid_t pid, const char *script)
{
    g_autofree char *path = g_path_is_absolute(script)
                                ? g_strdup_printf("/proc/%d/root%s", (int)pid, script)
                                : g_strdup_printf("/proc/%d/cwd/%s", (int)pid, script);

    if (!g_file_test(path, G_FILE_TEST_IS_REGULAR))
        return NULL;
    return file_read(path, TEXT_LIMIT, NULL, NULL);
}

/* What a shell does; NULL: nothing that starts a process again.  *ret_over: nor
 * does who started it. */
static char *judge_shell(pid_t pid, char *const *argv, gboolean *ret_over)
{
    g_autofree char *name = program_name(argv[0]);
    g_autofree char *script = NULL, *own_name = NULL, *finding = NULL;
    const char *what, *how;
    ShellKind kind = shell_kind(strcmp(name, "busybox") == 0 ? argv + 1 : argv, &what);

    *ret_over = kind == SHELL_INTERACTIVE || (kind == SHELL_INPUT && has_terminal(pid));
    if (*ret_over)
        return NULL;
    if (kind == SHELL_INPUT)
        return describe(pid, argv, "a shell whose orders cannot be read, may start it again");
    if (kind == SHELL_SCRIPT) {
        script = read_script(pid, what);
        if (!script)
            return describe(pid, argv, "a script that cannot be read, may start it again");
    }
    if (kind == SHELL_TEXT && !what)
        return NULL;
    own_name = script ? g_path_get_basename(what) : NULL;
    how = shell_text_find_repeat(script ? script : what, own_name);
    if (!how)
        return NULL;
    finding = g_strdup_printf("a shell that %s, may start it again", how);
    return describe(pid, argv, finding);
}

/* One parent: a finding, or NULL; *ret_over: no need to look further up. */
static char *judge(pid_t pid, gboolean *ret_over)
{
    g_auto(GStrv) argv = process_get_command_line(pid, NULL);

    *ret_over = TRUE;
    if (!argv || !argv[0]) /* it has ended, or is the kernel's */
        return NULL;
    switch (supervisor_judge_parent(argv)) {
    case PARENT_FINE:
        return NULL;
    case PARENT_PASSES:
        *ret_over = FALSE;
        return NULL;
    case PARENT_SUPERVISES:
        return describe(pid, argv, "a supervisor, starts it again");
    case PARENT_SHELL:
        return judge_shell(pid, argv, ret_over);
    case PARENT_UNKNOWN:
        break;
    }
    return describe(pid, argv, "a program that waits for it, may start it again");
}

static pid_t parent_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);
    g_auto(ProcessStatus) status = {0};

    return text && process_status_parse(text, &status, NULL) ? (pid_t)status.parent : 0;
}

/* A user's systemd is asked for its unit, as init is. */
static gboolean is_systemd(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid);
    g_autofree char *text = file_read(path, TEXT_LIMIT, NULL, NULL);

    return text && strcmp(g_strchomp(text), "systemd") == 0;
}

gboolean supervisor_init_restarts(const char *name)
{
    /* They run one program, and end with it. */
    static const char *const once[] = {
        "systemd", "tini", "docker-init", "dumb-init", "catatonit", "pause", "vmferry", NULL,
    };

    return !g_strv_contains(once, name);
}

/* A child of init's: one that it started leads a session of its own; an orphan of
 * a shell (nohup, &) or a daemon that forked twice (-daemonize) does not. */
static char *judge_child_of_init(pid_t child)
{
    g_autofree char *text = file_read("/proc/1/comm", TEXT_LIMIT, NULL, NULL);
    const char *name = text ? g_strchomp(text) : "init";

    if (!supervisor_init_restarts(name) || getsid(child) != child)
        return NULL;
    return g_strdup_printf("process 1 (%s), whose child process %d leads a session as if init had "
                           "started it, may start it again",
                           name, (int)child);
}

static char *find_parent(pid_t pid)
{
    pid_t child = pid, parent = parent_of(pid);

    for (guint i = 0; i < MOST_PARENTS && parent > 1 && !is_systemd(parent); i++) {
        gboolean over;
        char *finding = judge(parent, &over);

        if (finding || over)
            return finding;
        child = parent;
        parent = parent_of(parent);
    }
    return parent == 1 ? judge_child_of_init(child) : NULL;
}

char *supervisor_find(pid_t pid)
{
    char *finding = find_parent(pid);

    return finding ? finding : systemd_unit_find(pid);
}
