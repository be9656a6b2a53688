#include "disk_transfer.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"

#define POLL_US 2000
#define SETTLED_US 300000
#define SLOW_ANSWER_US 200000

/* ---- call backs ---- */

static void note_call(Transfer *transfer)
{
    transfer->late |= transfer->silent;
}

static void on_answer(guint number, uint64_t id, gpointer user)
{
    Transfer *transfer = user;
    TransferFile *file = &transfer->files[number];
    gboolean slow;

    g_mutex_lock(&transfer->lock);
    note_call(transfer);
    assert_false(file->answered[id]);
    file->answered[id] = TRUE;
    transfer->answers++;
    slow = transfer->slow_answers;
    transfer->answering = TRUE;
    g_cond_broadcast(&transfer->changed);
    g_mutex_unlock(&transfer->lock);
    if (slow)
        g_usleep(SLOW_ANSWER_US);
    g_mutex_lock(&transfer->lock);
    note_call(transfer);
    transfer->answering = FALSE;
    g_mutex_unlock(&transfer->lock);
}

static void on_tick(DiskSender *sender, gpointer user)
{
    Transfer *transfer = user;
    lock_guard(&transfer->lock);

    note_call(transfer);
    transfer->ticks++;
}

static void on_failed(const GError *why, gpointer user)
{
    Transfer *transfer = user;
    lock_guard(&transfer->lock);

    note_call(transfer);
    if (transfer->failures++ == 0)
        transfer->why = g_error_copy(why);
    transfer->silent = TRUE;
    g_cond_broadcast(&transfer->changed);
}

static DiskTarget *on_open(guint number, gpointer user, GError **error)
{
    Transfer *transfer = user;

    g_mutex_lock(&transfer->lock);
    while (transfer->gate_closed)
        g_cond_wait(&transfer->changed, &transfer->lock);
    transfer->opened++;
    g_mutex_unlock(&transfer->lock);
    if (transfer->files[number].fd >= 0)
        return disk_target_open_file(transfer->files[number].fd, transfer->files[number].bytes,
                                     error);
    error_set(error, VMFERRY_ERROR_REFUSED, "no file %u", number);
    return NULL;
}

/* ---- both ends ---- */

/* What a backing file shows where nothing is written. */
static void cover(TransferFile *file)
{
    memset(file->model, 0xa5, file->bytes);
    assert_int_equal(pwrite(file->fd, file->model, file->bytes, 0), file->bytes);
}

static void open_files(Transfer *transfer, const TransferPlan *plan)
{
    for (guint i = 0; i < TRANSFER_FILES; i++) {
        TransferFile *file = &transfer->files[i];

        *file = (TransferFile){-1, plan->bytes[i], plan->covers && i == 1, NULL, 0, {FALSE}};
        if (file->bytes == 0)
            continue;
        file->fd = memfd_create("target", MFD_CLOEXEC);
        file->model = g_malloc0(file->bytes);
        assert_true(file->fd >= 0 && ftruncate(file->fd, (off_t)file->bytes) == 0);
        if (file->covers)
            cover(file);
    }
}

void transfer_open(Transfer *transfer, const TransferPlan *plan)
{
    DiskSenderOptions sending = {TRANSFER_FILES, plan->pack, on_answer,
                                 on_tick,        on_failed,  transfer};
    DiskReceiverOptions receiving = {TRANSFER_FILES, on_open, NULL, transfer};

    *transfer = (Transfer){0};
    g_mutex_init(&transfer->lock);
    g_cond_init(&transfer->changed);
    open_files(transfer, plan);
    session_pair_open(&transfer->pair, TRAFFIC_DISK);
    transfer->receiver = disk_receiver_start(transfer->pair.server, &receiving, NULL);
    transfer->sender = disk_sender_start(transfer->pair.client, &sending, NULL);
    assert_true(transfer->receiver && transfer->sender);
    for (guint i = 0; i < TRANSFER_FILES; i++)
        if (transfer->files[i].bytes > 0)
            disk_sender_begin_file(transfer->sender, i, transfer->files[i].bytes,
                                   transfer->files[i].covers);
}

void transfer_close_receiver(Transfer *transfer)
{
    transfer_set_gate(transfer, FALSE);
    g_clear_pointer(&transfer->receiver, disk_receiver_free);
}

void transfer_close(Transfer *transfer)
{
    transfer_close_receiver(transfer);
    g_clear_pointer(&transfer->sender, disk_sender_free);
    session_pair_close(&transfer->pair);
    for (guint i = 0; i < TRANSFER_FILES; i++) {
        fd_close(&transfer->files[i].fd);
        g_free(transfer->files[i].model);
    }
    assert_false(transfer->late);
    g_clear_error(&transfer->why);
    g_mutex_clear(&transfer->lock);
    g_cond_clear(&transfer->changed);
}

/* ---- content ---- */

static void ask(Transfer *transfer, guint number)
{
    uint64_t id = ++transfer->files[number].asked;

    assert_true(id <= TRANSFER_MOST_ANSWERS);
    disk_sender_answer(transfer->sender, number, id);
}

gboolean transfer_write(Transfer *transfer, guint number, uint64_t offset, const uint8_t *data,
                        size_t length)
{
    if (!disk_sender_write(transfer->sender, number, offset, data, length, NULL))
        return FALSE;
    memcpy(transfer->files[number].model + offset, data, length);
    ask(transfer, number);
    return TRUE;
}

gboolean transfer_zero(Transfer *transfer, guint number, uint64_t offset, uint64_t length)
{
    if (!disk_sender_zero(transfer->sender, number, offset, length, NULL))
        return FALSE;
    memset(transfer->files[number].model + offset, 0, length);
    ask(transfer, number);
    return TRUE;
}

void transfer_set_gate(Transfer *transfer, gboolean closed)
{
    lock_guard(&transfer->lock);

    transfer->gate_closed = closed;
    g_cond_broadcast(&transfer->changed);
}

/* ---- waiting ---- */

void transfer_await_answers(Transfer *transfer, guint count)
{
    gint64 end = g_get_monotonic_time() + TRANSFER_PATIENCE_US;
    lock_guard(&transfer->lock);

    while (transfer->answers < count)
        assert_true(g_cond_wait_until(&transfer->changed, &transfer->lock, end));
    assert_int_equal(transfer->answers, count);
}

void transfer_await_failure(Transfer *transfer)
{
    gint64 end = g_get_monotonic_time() + TRANSFER_PATIENCE_US;
    lock_guard(&transfer->lock);

    while (transfer->failures == 0)
        assert_true(g_cond_wait_until(&transfer->changed, &transfer->lock, end));
}

guint transfer_count_ticks(Transfer *transfer)
{
    lock_guard(&transfer->lock);

    return transfer->ticks;
}

guint transfer_settle_answers(Transfer *transfer)
{
    guint before, now = 0;

    do {
        before = now;
        g_usleep(SETTLED_US);
        g_mutex_lock(&transfer->lock);
        now = transfer->answers;
        g_mutex_unlock(&transfer->lock);
    } while (now != before);
    return now;
}

static void compare(const TransferFile *file)
{
    g_autofree uint8_t *there = NULL;

    if (file->bytes == 0)
        return;
    there = g_malloc(file->bytes);
    assert_int_equal(pread(file->fd, there, file->bytes, 0), file->bytes);
    assert_memory_equal(there, file->model, file->bytes);
}

void transfer_finish(Transfer *transfer)
{
    gint64 end = g_get_monotonic_time() + TRANSFER_PATIENCE_US;
    GError *error = NULL;
    uint64_t number;
    guint asked = 0;

    assert_true(disk_sender_flush(transfer->sender, TRUE, &number, NULL));
    while (!disk_sender_is_flushed(transfer->sender, number)) {
        assert_true(g_get_monotonic_time() < end);
        g_usleep(POLL_US);
    }
    if (!disk_receiver_finish(transfer->receiver, &error))
        fail_msg("%s", error->message);
    for (guint i = 0; i < TRANSFER_FILES; i++) {
        asked += (guint)transfer->files[i].asked;
        compare(&transfer->files[i]);
    }
    transfer_await_answers(transfer, asked);
    assert_true(disk_sender_get_stall_ns(transfer->sender) == 0);
    assert_int_equal(transfer->failures, 0);
}
