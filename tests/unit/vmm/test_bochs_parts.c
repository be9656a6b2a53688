/* A real Bochs has the CPU models of our table, and makes the drives of a command line. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bochs_cpuid.h"
#include "real_bochs.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/parameters.h"

#define IMAGE_BYTES (4u << 20)

static char *directory;

static void expect_recorded(const char *name)
{
    const BochsCpuModel *model = bochs_cpu_find(name);
    uint32_t words[BOCHS_CPUID_WORDS];
    g_autoptr(GError) error = NULL;

    assert_non_null(model);
    if (!bochs_cpuid_read(directory, name, words, &error))
        fail_msg("%s: %s", name, error->message);
    assert_memory_equal(words, model->words, sizeof words);
}

static void test_cpu_models(void **unused)
{
    expect_recorded("turion64_tyler");
    expect_recorded("corei7_haswell_4770");
    expect_recorded("corei7_icelake_u");
}

static char *make_image(const char *name)
{
    char *path = g_build_filename(directory, name, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, IMAGE_BYTES), 0);
    close(fd);
    return path;
}

static Vmm *launch_line(char *const *words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsCommandLine) line = bochs_command_line_parse(words, &error);
    BochsLaunch launch = {.name = "parts", .directory = directory};
    Vmm *vmm;

    if (!line)
        fail_msg("%s", error->message);
    launch.machine = &line->machine;
    vmm = bochs_launch(&launch, &error);
    if (!vmm)
        fail_msg("%s", error->message);
    return vmm;
}

static void expect_drive(Vmm *vmm, const char *path, gboolean there)
{
    const BochsProcess *process = ((BochsVmm *)vmm)->process;
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsNode) drives = bochs_show(process->console, "hard_drive", &error);

    if (!drives)
        fail_msg("%s", error->message);
    assert_int_equal(bochs_tree_find(drives, path) != NULL, there);
}

static void test_drives(void **unused)
{
    g_autofree char *disk = make_image("disk"), *medium = make_image("a cd");
    g_autofree char *lock = g_strconcat(disk, ".lock", NULL);
    char *words[] = {
        g_strdup("bochs"),
        g_strdup("memory: guest=16"),
        g_strdup("cpu: model=p4_willamette, ips=50000000"),
        g_strdup_printf("ata0-master: type=disk, mode=volatile, path=%s, "
                        "journal=%s/journal",
                        disk, directory),
        g_strdup_printf("ata0-slave: type=cdrom, path=\"%s\", status=inserted", medium),
        g_strdup("ata1-master: type=cdrom, status=ejected"),
        NULL};
    Vmm *vmm = launch_line(words);
    g_autoptr(GError) error = NULL;

    expect_drive(vmm, "0.drive0", TRUE);
    expect_drive(vmm, "0.drive1", TRUE);
    expect_drive(vmm, "1.drive0", TRUE);
    expect_drive(vmm, "1.drive1", FALSE);
    /* Only read: another may use the image. */
    assert_false(g_file_test(lock, G_FILE_TEST_EXISTS));
    if (!vmm_quit(vmm, &error))
        fail_msg("%s", error->message);
    vmm_free(vmm);
    for (guint i = 0; words[i]; i++)
        g_free(words[i]);
    assert_int_equal(g_unlink(disk), 0);
    assert_int_equal(g_unlink(medium), 0);
}

static int make_directory(void **unused)
{
    directory = g_dir_make_tmp("bochs-parts-XXXXXX", NULL);
    return directory ? 0 : -1;
}

static int remove_directory(void **unused)
{
    static const char *const folders[] = {"cpuid.bochs", "parts.bochs"};
    int left;

    for (guint i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autofree char *folder = g_build_filename(directory, folders[i], NULL);

        bochs_folder_remove(folder);
    }
    left = g_rmdir(directory);
    g_free(directory);
    return left;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cpu_models),
                                       cmocka_unit_test(test_drives)};

    return real_bochs_is_there() ? cmocka_run_group_tests(tests, make_directory, remove_directory)
                                 : SKIP_ALL;
}
