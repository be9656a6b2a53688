/* What the source asks about the disks' images (disk/image_view.h). */
#include "migrate/destination_move.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "disk/image_reader.h"
#include "disk/image_view.h"
#include "migrate/neutral_images.h"

/* Somebody who reads an image has it locked for a moment. */
#define LOCK_ATTEMPTS 5
#define LOCK_PAUSE_NS 200000000ULL

struct ImageAnswer {
    Session *session;
    ImagesSeenMessage seen;
    ImageReader *reader; /* NULL: no image is to be read as a whole */
    GArray *numbers;     /* of gint: each image's with the reader, -1 for none */
};

void destination_images_free(ImageAnswer *answer)
{
    if (!answer)
        return;
    /* Before anything that its thread uses. */
    image_reader_free(answer->reader);
    images_seen_message_clear(&answer->seen);
    g_array_unref(answer->numbers);
    g_free(answer);
}

/* Each question opens the image anew: that is when network file systems look
 * for what has changed. */
static void look_at(ImageAnswer *answer, const ImageQuestion *question, const VmmImage *image,
                    ImageSeen *seen)
{
    g_autoptr(ImageView) view = image->path ? image_view_open(image->path, NULL) : NULL;
    g_auto(ImageFacts) facts = {0};
    gint number = -1;

    seen->file = g_strdup(image->file);
    if (view && image_view_get_facts(view, &facts, NULL)) {
        seen->local = TRUE;
        seen->device = facts.kind == IMAGE_KIND_DEVICE;
        seen->bytes = facts.bytes;
        seen->token_s = (uint64_t)MAX(facts.token_s, 0);
        seen->token_ms = facts.token_ms;
        seen->device_id = g_strdup(facts.device_id);
        seen->sees_lock = question->lock > 0 && image_view_sees_lock(view, question->lock);
        if (question->content) {
            if (!answer->reader)
                answer->reader = image_reader_new();
            number = (gint)image_reader_add(answer->reader, image->path, question->bytes);
        } else if (question->sample_count > 0) {
            seen->digest = image_view_digest(view, question->samples, question->sample_count, NULL);
        }
    }
    g_array_append_val(answer->numbers, number);
}

/* Paths lead through the VMM's process: once that has ended nothing is seen, which
 * says nothing about the images. */
static gboolean is_any_unseen(const DestinationMove *move, const ImagesSeenMessage *seen)
{
    for (guint i = 0; i < seen->count; i++) {
        const VmmImage *image = move->images->pdata[i];

        if (image->path && !seen->images[i].local)
            return TRUE;
    }
    return FALSE;
}

static gboolean send_answer(ImageAnswer *answer, GError **error)
{
    g_autofree char *text = images_seen_message_encode(&answer->seen);

    return session_send_bytes(answer->session, FRAME_IMAGES_SEEN, text, strlen(text), error);
}

/* In the reader's thread.  Where nobody takes the answer the move has failed. */
static void answer_late(ImageReader *reader, gpointer user)
{
    ImageAnswer *answer = user;

    for (guint i = 0; i < answer->seen.count; i++) {
        gint number = g_array_index(answer->numbers, gint, i);

        if (number >= 0)
            answer->seen.images[i].digest =
                g_strdup(image_reader_get_digest(reader, (guint)number));
    }
    (void)send_answer(answer, NULL);
}

/* What QEMU would find out when it runs the guest, and the source should know
 * before it pauses it. */
static gboolean check_writable(DestinationMove *move, GError **error)
{
    for (guint i = 0; i < move->images->len; i++) {
        const VmmImage *image = move->images->pdata[i];

        if (!image->read_only && !vmm_check_writable(move->vmm, image, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean list_images(DestinationMove *move, guint wanted, GError **error)
{
    if (!move->images) {
        move->images = vmm_list_images(move->vmm, move->guest->live, error);
        if (move->guest->neutral)
            move->images = neutral_images_order(move->images, move->guest->neutral, move->host->map,
                                                move->host->user, error);
        if (!move->images || !check_writable(move, error))
            return FALSE;
    }
    if (move->images->len == wanted)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "the guest has %u images and files there and %u here",
              wanted, move->images->len);
    return FALSE;
}

static gboolean is_locked(const VmmImage *image)
{
    g_autoptr(ImageView) view =
        image->path && !image->read_only ? image_view_open(image->path, NULL) : NULL;

    return view && image_view_is_write_locked(view);
}

static gboolean check_lock(const VmmImage *image, GError **error)
{
    for (int i = 0; i < LOCK_ATTEMPTS; i++) {
        if (!is_locked(image))
            return TRUE;
        clock_sleep_ns(LOCK_PAUSE_NS);
    }
    error_set(error, VMFERRY_ERROR_BUSY,
              "%s: another process has a lock on %s that keeps the guest from writing to it",
              image->device, image->file);
    return FALSE;
}

gboolean destination_try_images(DestinationMove *move, GError **error)
{
    /* Where the source did not ask, its user has said not to. */
    for (guint i = 0; move->images && i < move->images->len; i++)
        if (!check_lock(move->images->pdata[i], error))
            return FALSE;
    return TRUE;
}

gboolean destination_show_images(DestinationMove *move, const Frame *frame, GError **error)
{
    g_auto(ImagesMessage) message = {0};
    ImageAnswer *answer;

    if (!images_message_decode((const char *)frame->payload, frame->length, &message, error) ||
        !list_images(move, message.count, error))
        return FALSE;
    /* The last one was sent: a source asks again when it has it. */
    g_clear_pointer(&move->answer, destination_images_free);
    answer = move->answer = g_new0(ImageAnswer, 1);
    answer->session = move->session;
    answer->numbers = g_array_new(FALSE, FALSE, sizeof(gint));
    answer->seen.images = g_new0(ImageSeen, message.count + 1);
    answer->seen.count = message.count;
    for (guint i = 0; i < message.count; i++)
        look_at(answer, &message.images[i], move->images->pdata[i], &answer->seen.images[i]);
    if (is_any_unseen(move, &answer->seen) && destination_vmm_has_ended(move->vmm)) {
        error_set(error, VMFERRY_ERROR_FAILED, "the images cannot be looked at");
        return FALSE;
    }
    if (!answer->reader)
        return send_answer(answer, error);
    /* Pages go on meanwhile. */
    image_reader_start(answer->reader, answer_late, answer);
    return TRUE;
}
