/*
 * The owner of an NBD server under test
 *
 * It keeps what was written in memory.  It answers at once, or (*hold*) keeps the answers for the
 * test to give; it notes how the client ended.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/nbd_server.h"

#define EXPORT_NAME "x"
#define IMAGE_BYTES ((1u << 20) + 123)
#define PATIENCE_US (20 * G_USEC_PER_SEC)

typedef struct {
    uint64_t id;
    int problem;
} Answer;

typedef struct {
    NbdServer *server;
    GMutex lock;
    GCond changed;
    uint64_t bytes;
    uint8_t *image;
    gboolean hold;  /* answers are kept in *answers* */
    gboolean block; /* the callback does not return */
    gboolean with_problems;
    guint arrived, last_fua, last_no_hole;
    GArray *answers; /* of Answer */
    gboolean ended;
    GError *why;
} Owner;

/* Which requests fail *with_problems*, by the order of their arrival. */
int owner_problem_of(guint number);

Owner *owner_new(uint64_t bytes);
void owner_free(Owner *owner);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Owner, owner_free)

NbdServerOptions owner_options(Owner *owner, pid_t client);
void owner_start(Owner *owner, pid_t client);

/* Returns the client's end. */
int owner_start_connected(Owner *owner);

void owner_wait_for_arrivals(Owner *owner, guint count);
void owner_expect_end(Owner *owner, VmferryErrorCode code);
void owner_expect_end_in_order(Owner *owner);
void owner_wait_for_end(Owner *owner);
void owner_unblock(Owner *owner);

/* The address as process *pid* knows it; -1 where it does not answer. */
int connect_to_server(const char *address, pid_t pid);
