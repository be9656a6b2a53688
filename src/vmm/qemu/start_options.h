/* What a command line says about the process itself.  Pure. */
#pragma once

#include <glib.h>

typedef struct {
    gboolean changes_user; /* -runas, -run-with user=: starts as root, drops its rights itself */
    gboolean filters;      /* -sandbox on */
    char *root;            /* of -chroot, -run-with chroot=; NULL: none */
    char *pidfile;
} QemuStartOptions;

void qemu_start_options_read(char *const *argv, QemuStartOptions *ret);
void qemu_start_options_clear(QemuStartOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QemuStartOptions, qemu_start_options_clear)
