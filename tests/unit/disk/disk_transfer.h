/*
 * A DiskSender and a DiskReceiver at both ends of a session, and a model of what arrives
 *
 * Targets are plain files.  Opening one waits at a gate, so that a test can stall the receiver.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "disk/disk_receiver.h"
#include "disk/disk_sender.h"
#include "session_pair.h"

#define TRANSFER_FILES 4u
#define TRANSFER_MOST_ANSWERS 1000u /* of a file */
#define TRANSFER_PATIENCE_US (30 * G_USEC_PER_SEC)

typedef struct {
    int fd;
    uint64_t bytes;
    gboolean covers;
    uint8_t *model;
    uint64_t asked; /* id of the last answer */
    gboolean answered[TRANSFER_MOST_ANSWERS + 1];
} TransferFile;

typedef struct {
    SessionPair pair;
    DiskSender *sender;
    DiskReceiver *receiver;
    TransferFile files[TRANSFER_FILES];

    GMutex lock; /* protects all below, and *answered* */
    GCond changed;
    gboolean gate_closed; /* nothing is opened */
    gboolean slow_answers;
    gboolean answering, silent; /* silent: no call back may come */
    guint answers, ticks, failures, opened;
    gboolean late; /* a call back came after the last one */
    GError *why;
} Transfer;

typedef struct {
    uint64_t bytes[TRANSFER_FILES]; /* 0: no content comes */
    gboolean covers;                /* the second one */
    gboolean pack;
} TransferPlan;

void transfer_open(Transfer *transfer, const TransferPlan *plan);
void transfer_close(Transfer *transfer);
void transfer_close_receiver(Transfer *transfer);

/* Both, also to the model; the answer is asked for.  FALSE where it is refused. */
gboolean transfer_write(Transfer *transfer, guint file, uint64_t offset, const uint8_t *data,
                        size_t length);
gboolean transfer_zero(Transfer *transfer, guint file, uint64_t offset, uint64_t length);

void transfer_set_gate(Transfer *transfer, gboolean closed);

/* Sends the last flush and waits for it; the receiver is complete, all is answered, and equal. */
void transfer_finish(Transfer *transfer);

void transfer_await_answers(Transfer *transfer, guint count);
void transfer_await_failure(Transfer *transfer);

guint transfer_count_ticks(Transfer *transfer);

/* Until no more come for a while; how many came. */
guint transfer_settle_answers(Transfer *transfer);
