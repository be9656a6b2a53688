#include "scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

char *scratch_new(void)
{
    char *folder = g_dir_make_tmp("vmferry-agent-XXXXXX", NULL);

    assert_non_null(folder);
    return folder;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    return remove(path);
}

void scratch_remove(char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    g_free(folder);
}

void scratch_write(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *parent = g_path_get_dirname(path);

    assert_int_equal(g_mkdir_with_parents(parent, 0700), 0);
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

gboolean scratch_exists(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    return access(path, F_OK) == 0;
}

void assert_error_says(GError *error, int code, const char *words)
{
    assert_non_null(error);
    if (!strstr(error->message, words))
        fail_msg("\"%s\" does not say \"%s\"", error->message, words);
    assert_int_equal(error->code, code);
    g_error_free(error);
}
