/*
 * The kinds of things that confine a process
 *
 * Each has a name, which errors begin with and which agent.conf's
 * allow-unconfined takes.
 */
#pragma once

#include <glib.h>

typedef enum {
    CONFINEMENT_USER = 1 << 0,         /* user, group, supplementary groups */
    CONFINEMENT_CAPABILITIES = 1 << 1, /* capability sets, no_new_privs */
    CONFINEMENT_SECCOMP = 1 << 2,      /* a system call filter from outside */
    CONFINEMENT_APPARMOR = 1 << 3,     /* AppArmor profile */
    CONFINEMENT_SELINUX = 1 << 4,      /* SELinux context */
    CONFINEMENT_NETNS = 1 << 5,        /* network namespace */
    CONFINEMENT_NAMESPACES = 1 << 6,   /* the other namespaces */
    CONFINEMENT_CGROUP = 1 << 7,       /* control groups */
    CONFINEMENT_LIMITS = 1 << 8,       /* resource limits, OOM score, nice */
} Confinement;

/* "user", "capabilities", …; of one kind. */
const char *confinement_name(Confinement kind);

/* Reads a list of names, separated by commas or blanks, into a set of kinds;
 * an unknown name or an empty list is an error. */
gboolean confinement_parse_list(const char *text, guint *ret_set, GError **error);
