#include "disk_guest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/process.h"

#define MACHINE " -nodefaults -display none -M pc -m 32"

static char *qemu; /* program and options */
static char *folder;
static GPtrArray *started; /* of VmmIdentity, by this test */

gboolean qemu_guest_is_there(void)
{
    const char *wanted = g_getenv("VMFERRY_TEST_QEMU");
    g_autofree char *server = g_find_program_in_path("qemu-nbd");

    qemu = wanted ? g_strdup(wanted) : g_find_program_in_path("qemu-system-x86_64");
    if (!qemu || !server)
        printf("skipped: no qemu-system-x86_64 or qemu-nbd here\n");
    return qemu && server;
}

void qemu_guest_begin(void)
{
    started = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_identity_free);
    folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
}

int qemu_guest_clean_up(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", folder);

    for (guint i = 0; i < started->len; i++) {
        const VmmIdentity *identity = started->pdata[i];

        (void)process_kill(identity->pid, identity->start_time, SIGKILL, NULL);
        (void)process_wait_gone(identity->pid, identity->start_time, 10000);
    }
    g_ptr_array_unref(started);
    g_clear_pointer(&folder, g_free);
    return system(command);
}

void must(gboolean ok, GError **error)
{
    if (!ok)
        fail_msg("%s", *error ? (*error)->message : "failed without an error");
}

void expect_text(GError *error, VmferryErrorCode code, const char *text)
{
    assert_non_null(error);
    if (!strstr(error->message, text) || !error_is(error, code))
        fail_msg("\"%s\" (%s) does not hold \"%s\"", error->message,
                 vmferry_error_code_name(error->code), text);
    g_error_free(error);
}

/* ---- files ---- */

char *path_of(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

int run(const char *line)
{
    GString *text = g_string_new(line);
    g_autofree char *command = NULL, *with_slash = g_strdup_printf("%s/", folder);

    g_string_replace(text, "@", with_slash, 0);
    g_string_append(text, " >/dev/null");
    command = g_string_free(text, FALSE);
    return system(command);
}

void make_image(const char *name, const char *format, const char *options)
{
    g_autofree char *line =
        g_strdup_printf("qemu-img create -q -f %s %s @%s 16M", format, options, name);

    assert_int_equal(run(line), 0);
}

void fill_image(const char *name, const char *format)
{
    g_autofree char *line = g_strdup_printf(
        "qemu-io -f %s -c 'write -P 0x11 0 3M' -c 'write -P 0x22 9M 1M' @%s", format, name);

    assert_int_equal(run(line), 0);
}

void expect_equal(const char *name, const char *format, const char *other, const char *other_format)
{
    g_autofree char *line =
        g_strdup_printf("qemu-img compare -f %s -F %s @%s @%s", format, other_format, name, other);

    assert_int_equal(run(line), 0);
}

/* ---- guests ---- */

/* "hlt" where the CPU begins: a real one would change the disks' settings as it finds them. */
static char *make_firmware(void)
{
    char *path = path_of("firmware");
    g_autofree char *data = g_malloc0(65536);

    memcpy(data + 0xfff0, "\xf4\xeb\xfd", 3);
    assert_true(file_replace(path, data, 65536, FALSE, NULL));
    return path;
}

static Guest launch(const char *options, gboolean incoming)
{
    g_autofree char *socket_path = path_of("own.sock");
    GString *text = g_string_new(options);
    g_autofree char *with_slash = g_strdup_printf("%s/", folder), *line = NULL;
    g_autofree char *firmware = NULL;
    GError *error = NULL;
    Guest guest = {0};
    char **argv;

    g_string_replace(text, "@", with_slash, 0);
    firmware = make_firmware();
    line = g_strdup_printf("%s%s%s%s%s -qmp unix:%s,server=on,wait=off", qemu, MACHINE,
                           strstr(options, "pflash") ? "" : " -bios ",
                           strstr(options, "pflash") ? "" : firmware, text->str, socket_path);
    g_string_free(text, TRUE);
    argv = g_strsplit(line, " ", -1);
    guest.vmm = qemu_launch(
        &(VmmLaunch){.name = "a", .command_line = argv, .directory = folder, .incoming = incoming},
        &error);
    g_strfreev(argv);
    must(guest.vmm != NULL, &error);
    guest.identity = vmm_get_identity(guest.vmm);
    g_ptr_array_add(started, vmm_get_identity(guest.vmm));
    guest.qmp = qmp_connect(socket_path, WAIT_MS, &error);
    must(guest.qmp != NULL, &error);
    return guest;
}

Guest start(const char *options)
{
    return launch(options, FALSE);
}

Guest start_incoming(const char *options)
{
    return launch(options, TRUE);
}

void end(Guest *guest)
{
    qmp_free(guest->qmp);
    assert_true(vmm_quit(guest->vmm, NULL));
    vmm_free(guest->vmm);
    vmm_identity_free(guest->identity);
}

void guest_writes(Guest *guest, const char *drive, guint pattern, const char *where)
{
    g_autofree char *line = g_strdup_printf("qemu-io %s \"write -P %u %s\"", drive, pattern, where);
    GError *error = NULL;
    g_autofree char *answer = qmp_execute_human(guest->qmp, line, WAIT_MS, &error);

    must(answer != NULL, &error);
    if (strstr(answer, "failed") || strstr(answer, "rror"))
        fail_msg("%s: %s", line, answer);
}

/* What changes by itself, or by the guest's writes. */
static void drop_volatile(json_t *value)
{
    const char *key;
    json_t *below;
    size_t i;

    json_object_del(value, "actual-size");
    json_object_del(value, "virtual-size"); /* of the file of a qcow2 image */
    json_object_del(value, "io-status");
    json_object_foreach(value, key, below) drop_volatile(below);
    json_array_foreach(value, i, below) drop_volatile(below);
}

json_t *query_graph(Guest *guest)
{
    static const char *const commands[] = {"query-named-block-nodes", "query-block", "query-jobs",
                                           "query-block-jobs", "x-debug-query-block-graph"};
    json_t *graph = json_object();

    for (guint k = 0; k < G_N_ELEMENTS(commands); k++)
        json_object_set_new(graph, commands[k],
                            qmp_execute(guest->qmp, commands[k], NULL, WAIT_MS, NULL));
    drop_volatile(graph);
    return graph;
}

void expect_graph(Guest *guest, json_t *before)
{
    g_autoptr(json_t) now = query_graph(guest);

    if (json_equal(before, now))
        return;
    fail_msg("before:\n%s\nnow:\n%s", json_dumps(before, JSON_INDENT(1)),
             json_dumps(now, JSON_INDENT(1)));
}

VmmDisk *find_disk(GPtrArray *disks, const char *id)
{
    for (guint i = 0; i < disks->len; i++) {
        VmmDisk *disk = disks->pdata[i];

        if (strcmp(disk->id, id) == 0)
            return disk;
    }
    for (guint i = 0; i < disks->len; i++)
        print_message("disk %s\n", ((VmmDisk *)disks->pdata[i])->id);
    fail_msg("no disk %s", id);
    return NULL;
}

json_t *read_machine(Guest *guest, char ***ret_line)
{
    GError *error = NULL;
    json_t *machine = vmm_read_machine(guest->vmm, guest->identity->command_line, ret_line, &error);

    must(machine != NULL, &error);
    return machine;
}

void expect_unchanged(Guest *guest, json_t *machine, char **line)
{
    g_auto(GStrv) now = NULL;
    g_autoptr(json_t) again = read_machine(guest, &now);
    g_autofree char *before = g_strjoinv("\n", line), *after = g_strjoinv("\n", now);
    GError *error = NULL;

    must(vmm_check_unchanged(guest->vmm, machine, &error), &error);
    assert_string_equal(before, after);
    assert_int_equal(json_array_size(json_object_get(machine, "nodes")),
                     json_array_size(json_object_get(again, "nodes")));
    assert_int_equal(json_array_size(json_object_get(machine, "jobs")),
                     json_array_size(json_object_get(again, "jobs")));
}
