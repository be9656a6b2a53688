#include "migrate/image_host.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/page.h"
#include "image/image_increment.h"
#include "image/image_writer.h"
#include "migrate/destination_move.h"
#include "migrate/image_pipe.h"
#include "migrate/replaced_copies.h"
#include "migrate/save_base.h"
#include "wire/messages.h"
#include "wire/page_frame.h"

/* A session's patience ends before, where it has less. */
#define SAVED_FLUSH_MS 3600000
#define BEGIN_TIMEOUT_MS 15000
#define GUEST_TIMEOUT_MS 600000
#define RECEIVE_AHEAD_FRAMES 64
#define HEAR_SLICE_MS 500
/* Less than the source waits for ACCEPTED. */
#define READER_TIMEOUT_MS 30000
#define READER_SLICE_MS 100
/* What the guest wrote last is what it uses first: pages of the newest of so many epochs, so many of them. */
#define RECENT_EPOCHS 16u
#define RECENT_PAGES 65536u

typedef struct {
    DestinationMove move; /* session, guest and disks of it */
    MigrateDestinationHost disks;
    const ImageHostOptions *options;
    SaveMessage save;
    char *machine; /* the GUEST message, as it came */
    ImageId id;
    int pipe; /* -1: a file */
    ImageWriter *writer;
    SavedImage *base;          /* NULL: a full image */
    ImageIncrement *increment; /* above it */
    EpochReceiver *epochs;
    FrameQueue *queue;
    GQueue recent; /* of GArray of ImageRun, an epoch each, the newest first */
    uint32_t epoch;
    gboolean saved;
} Saving;

/* ---- up to ACCEPTED ---- */

static char *keep_text(const char *text, gpointer user)
{
    return g_strdup(text);
}

static gboolean begin_nothing(const char *guest, gpointer user, GError **error)
{
    return TRUE;
}

static gboolean receive_begin(Saving *saving, GError **error)
{
    Frame frame;

    return session_expect(saving->move.session, FRAME_SAVE, BEGIN_TIMEOUT_MS, &frame, error) &&
           save_message_decode((const char *)frame.payload, frame.length, &saving->save, error);
}

static gboolean check_path(const Saving *saving, GError **error)
{
    struct stat info;

    if (lstat(saving->save.path, &info) < 0 || (S_ISFIFO(info.st_mode) && saving->options->pipes))
        return TRUE;
    if (!S_ISREG(info.st_mode)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "%s exists, and is not a file", saving->save.path);
        return FALSE;
    }
    if (saving->save.replace)
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "%s exists (--replace replaces it)", saving->save.path);
    return FALSE;
}

static gboolean open_base(Saving *saving, GError **error)
{
    g_auto(SaveBaseMessage) message = {0};
    g_autofree char *text = NULL;

    if (!saving->save.base)
        return TRUE;
    saving->base = save_base_open(saving->save.base, saving->save.path, error);
    if (!saving->base || !save_base_describe(saving->base, &message, error))
        return FALSE;
    text = save_base_message_encode(&message);
    return session_send_bytes(saving->move.session, FRAME_SAVE_BASE, text, strlen(text), error);
}

/* Perhaps with disks before it. */
static gboolean receive_guest(Saving *saving, GError **error)
{
    DestinationMove *move = &saving->move;
    Frame frame;

    if (!session_receive(move->session, TRAFFIC_CONTROL, GUEST_TIMEOUT_MS, &frame, error))
        return FALSE;
    if (frame.type == FRAME_DISKS &&
        (!destination_take_disks(move, &frame, error) ||
         !destination_await_after_disks(move, FRAME_GUEST, &frame, error)))
        return FALSE;
    if (!destination_take_guest(move, &frame, error))
        return FALSE;
    saving->machine = g_strndup((const char *)frame.payload, frame.length);
    return saving->options->begin(move->guest->guest, saving->save.path, saving->options->user,
                                  error);
}

/* An ImagePipeWait.  Up to ACCEPTED the source says nothing but that it gives up. */
static gboolean wait_for_reader(gpointer user, GError **error)
{
    Session *session = ((Saving *)user)->move.session;
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (session_receive(session, TRAFFIC_CONTROL, READER_SLICE_MS, &frame, &quiet)) {
        session_error_from_frame(session, &frame, error);
        return FALSE;
    }
    if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

static ImageWriter *open_writer(Saving *saving, const ImageHead *head, GError **error)
{
    struct stat info;

    if (!saving->options->pipes || lstat(saving->save.path, &info) < 0 || !S_ISFIFO(info.st_mode))
        return image_writer_create(saving->save.path, head, error);
    saving->pipe =
        image_pipe_open(saving->save.path, READER_TIMEOUT_MS, wait_for_reader, saving, error);
    return saving->pipe < 0 ? NULL : image_writer_on_fd(saving->pipe, head, error);
}

/* Of each region; free with g_free(). */
static uint64_t *list_pages(const GuestMessage *guest)
{
    uint64_t *pages = g_new0(uint64_t, guest->region_count);

    for (guint i = 0; i < guest->region_count; i++)
        pages[i] = guest->regions[i].bytes / PAGE_BYTES;
    return pages;
}

/* The writer's image is to have this name of its base; free with g_free(). */
static char *name_base(const Saving *saving)
{
    return saving->base ? g_path_get_basename(saving->save.base) : NULL;
}

static gboolean begin_increment(Saving *saving, GError **error)
{
    if (saving->base)
        saving->increment = image_increment_new(saving->base, saving->writer, error);
    return !saving->base || saving->increment != NULL;
}

static gboolean begin_image(Saving *saving, GError **error)
{
    const GuestMessage *guest = saving->move.guest;
    g_autofree uint64_t *pages = list_pages(guest);
    g_autofree char **names = g_new0(char *, guest->region_count + 1);
    PageRegions regions = {guest->region_count, pages, names};
    g_autofree char *base_name = name_base(saving);
    ImageHead head = {.regions = &regions, .base_name = base_name};

    for (guint i = 0; i < guest->region_count; i++) {
        names[i] = guest->regions[i].name;
    }
    if (saving->base &&
        !save_base_check_guest(saving->base, guest->guest_id, guest->guest, &regions, error))
        return FALSE;
    if (!image_id_make(&saving->id, error))
        return FALSE;
    head.id = saving->id;
    if (saving->base)
        head.base = *saved_image_get_id(saving->base);
    saving->writer = open_writer(saving, &head, error);
    return saving->writer && begin_increment(saving, error);
}

static gboolean begin(Saving *saving, GError **error)
{
    return receive_begin(saving, error) && check_path(saving, error) && open_base(saving, error) &&
           receive_guest(saving, error) && begin_image(saving, error) &&
           !fault_point("image.begun", error) &&
           session_send_bytes(saving->move.session, FRAME_ACCEPTED, NULL, 0, error);
}

/* ---- pages ---- */

/* Not the first one, which has all of memory. */
static void note_recent(Saving *saving, const Frame *frame)
{
    GArray *runs = g_queue_peek_head(&saving->recent);
    g_autofree PageFrame *pages = saving->epoch > 0 && runs ? g_new(PageFrame, 1) : NULL;
    g_autofree uint64_t *region_pages = pages ? list_pages(saving->move.guest) : NULL;
    guint count = saving->move.guest->region_count;
    uint32_t raw;
    size_t packed;

    if (!pages ||
        !(frame->type == FRAME_PAGES
              ? page_frame_decode(frame->payload, frame->length, region_pages, count, pages, NULL)
              : page_frame_decode_packed(frame->payload, frame->length, region_pages, count, pages,
                                         &packed, &raw, NULL)))
        return;
    for (uint32_t i = 0; i < pages->run_count; i++) {
        ImageRun run = {pages->region, {pages->runs[i].first, pages->runs[i].count}};

        if (pages->runs[i].kind == PAGE_RUN_RAW)
            g_array_append_val(runs, run);
    }
}

static void begin_epoch(Saving *saving)
{
    g_queue_push_head(&saving->recent, g_array_new(FALSE, FALSE, sizeof(ImageRun)));
    if (g_queue_get_length(&saving->recent) > RECENT_EPOCHS)
        g_array_unref(g_queue_pop_tail(&saving->recent));
}

static gboolean set_order(Saving *saving, GError **error)
{
    g_autoptr(GArray) order = g_array_new(FALSE, FALSE, sizeof(ImageRun));
    uint64_t pages = 0;

    for (GList *at = saving->recent.head; at; at = at->next) {
        const GArray *runs = at->data;

        for (guint i = 0; i < runs->len && pages < RECENT_PAGES; i++) {
            g_array_append_vals(order, &g_array_index(runs, ImageRun, i), 1);
            pages += g_array_index(runs, ImageRun, i).span.count;
        }
    }
    return image_writer_set_order(saving->writer, (const ImageRun *)order->data, order->len, error);
}

static gboolean take_seal(Saving *saving, const Frame *frame, GError **error)
{
    saving->epoch++;
    begin_epoch(saving);
    return epoch_receiver_seal(saving->epochs, frame, error) &&
           epoch_receiver_confirm(
               saving->epochs, session_get_channel(saving->move.session, TRAFFIC_CONTROL), error);
}

static gboolean commit(Saving *saving, const ImageTail *tail, GError **error)
{
    g_autoptr(GPtrArray) replaced =
        saving->save.replace ? replaced_copies_find(saving->save.path) : NULL;

    if (!set_order(saving, error) ||
        !image_writer_commit(saving->writer, tail, saving->save.replace, error))
        return FALSE;
    if (replaced)
        replaced_copies_remove(saving->save.path, replaced);
    return TRUE;
}

/* Its disks first: as long as they are on record a restarted agent removes them. */
static gboolean complete(Saving *saving, const Frame *note, GError **error)
{
    g_autofree char *text = g_strndup((const char *)note->payload, note->length);
    g_autoptr(GBytes) state = epoch_receiver_get_state(saving->epochs, error);
    ImageTail tail = {saving->machine, text, state};

    if (!state || (saving->increment && !image_increment_finish(saving->increment, error)) ||
        !destination_complete_disks(&saving->move, error) ||
        fault_point("image.disks-complete", error))
        return FALSE;
    destination_keep_disks(&saving->move);
    return !fault_point("image.before-commit", error) && commit(saving, &tail, error) &&
           !fault_point("image.committed", error);
}

static void describe_increment(const Saving *saving, SavedMessage *ret)
{
    ImageIncrementCounts counts;

    ret->above_base = saving->increment != NULL;
    if (!saving->increment)
        return;
    image_increment_get_counts(saving->increment, &counts);
    ret->compared = counts.compared;
    ret->equal = counts.equal;
    ret->stored = counts.stored;
    ret->zeroed = counts.zeroed;
}

static gboolean answer(Saving *saving, GError **error)
{
    g_autofree char *id = image_id_format(&saving->id);
    SavedMessage message = {.id = id};
    g_autofree char *text = NULL;
    ImageWriterTotals totals;

    image_writer_get_totals(saving->writer, &totals);
    message.bytes = totals.written_bytes;
    describe_increment(saving, &message);
    text = saved_message_encode(&message);
    if (!session_send_bytes(saving->move.session, FRAME_SAVED, text, strlen(text), error))
        return FALSE;
    /* The image is there: its source is to hear of it, also where the connection breaks just now. */
    session_flush(saving->move.session, SAVED_FLUSH_MS);
    return TRUE;
}

static gboolean take_frame(Saving *saving, const Frame *frame, GError **error)
{
    switch (frame->type) {
    case FRAME_PAGES:
    case FRAME_PAGES_LZ4:
    case FRAME_PAGES_ZSTD:
        note_recent(saving, frame);
        return saving->increment ? image_increment_add_frame(saving->increment, frame, error)
                                 : image_writer_add_frame(saving->writer, frame, error);
    case FRAME_DEVICE_STATE:
        return epoch_receiver_take_state(saving->epochs, frame, error);
    case FRAME_EPOCH_SEAL:
        return take_seal(saving, frame, error);
    case FRAME_SAVE_NOTE:
        saving->saved = complete(saving, frame, error);
        return saving->saved;
    case FRAME_ERROR:
    case FRAME_ABORT:
        session_error_from_frame(saving->move.session, frame, error);
        return FALSE;
    default:
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                  frame_type_name(frame->type));
        return FALSE;
    }
}

static gboolean receive(Saving *saving, GError **error)
{
    while (!saving->saved) {
        g_autoptr(GError) quiet = NULL;
        FrameSlot *slot = frame_queue_pop(saving->queue, HEAR_SLICE_MS, &quiet);
        gboolean taken;

        if (!destination_check_disks(&saving->move, error)) {
            if (slot)
                frame_queue_release(saving->queue, slot);
            return FALSE;
        }
        if (!slot && error_is(quiet, VMFERRY_ERROR_TIMEOUT))
            continue;
        if (!slot) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        }
        taken = take_frame(saving, &slot->frame, error);
        frame_queue_release(saving->queue, slot);
        if (!taken)
            return FALSE;
    }
    return TRUE;
}

static gboolean receive_image(Saving *saving, GError **error)
{
    gboolean done;

    saving->epochs = epoch_receiver_new(NULL, NULL);
    saving->queue = frame_queue_start(session_get_channel(saving->move.session, TRAFFIC_CONTROL),
                                      RECEIVE_AHEAD_FRAMES, error);
    done = saving->queue && receive(saving, error);
    frame_queue_free(saving->queue);
    epoch_receiver_free(saving->epochs);
    return done;
}

/* ---- the whole ---- */

static void saving_clear(Saving *saving)
{
    if (!saving->saved)
        destination_undo_disks(&saving->move);
    destination_disks_free(saving->move.disks);
    image_increment_free(saving->increment);
    image_writer_free(saving->writer);
    saved_image_free(saving->base);
    fd_close(&saving->pipe);
    g_queue_clear_full(&saving->recent, (GDestroyNotify)g_array_unref);
    guest_message_free(saving->move.guest);
    save_message_clear(&saving->save);
    g_free(saving->machine);
}

gboolean image_host_receive(Session *session, const ImageHostOptions *options, GError **error)
{
    Saving saving = {.options = options, .disks = *options->disks, .pipe = -1};
    g_autoptr(GError) problem = NULL;
    gboolean done;

    /* The source has named the files by the image. */
    g_queue_init(&saving.recent);
    saving.disks.begin = begin_nothing;
    saving.disks.map = keep_text;
    saving.move.session = session;
    saving.move.host = &saving.disks;
    done =
        begin(&saving, &problem) && receive_image(&saving, &problem) && answer(&saving, &problem);
    if (!saving.saved && problem) {
        session_send_error(session, problem);
        session_shutdown(session);
    }
    saving_clear(&saving);
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    return done;
}
