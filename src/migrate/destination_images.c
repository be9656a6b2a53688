/* What the source asks about the disks' images (disk/image_view.h). */
#include "migrate/destination_move.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "disk/image_view.h"

/* Somebody who looks at an image holds its lock for a moment. */
#define LOCK_ATTEMPTS 5
#define LOCK_PAUSE_NS 200000000ULL

/* Each question opens the image anew: that is when network file systems look
 * for what has changed. */
static void look_at(const ImageQuestion *question, const VmmImage *image, ImageSeen *seen)
{
    g_autoptr(ImageView) view = image->path ? image_view_open(image->path, NULL) : NULL;
    g_auto(ImageFacts) facts = {0};

    seen->file = g_strdup(image->file);
    if (!view || !image_view_get_facts(view, &facts, NULL))
        return;
    seen->local = TRUE;
    seen->device = facts.kind == IMAGE_KIND_DEVICE;
    seen->bytes = facts.bytes;
    seen->token_s = (uint64_t)MAX(facts.token_s, 0);
    seen->token_ms = facts.token_ms;
    seen->device_id = g_strdup(facts.device_id);
    seen->sees_lock = question->lock > 0 && image_view_sees_lock(view, question->lock);
    if (question->sample_count > 0)
        seen->digest = image_view_digest(view, question->samples, question->sample_count, NULL);
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
    g_auto(ImagesSeenMessage) answer = {0};
    g_autofree char *text = NULL;

    if (!images_message_decode((const char *)frame->payload, frame->length, &message, error))
        return FALSE;
    if (!move->images) {
        move->images = vmm_list_images(move->vmm, move->guest->live, error);
        if (!move->images || !check_writable(move, error))
            return FALSE;
    }
    if (move->images->len != message.count) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest has %u disk images there and %u here",
                  message.count, move->images->len);
        return FALSE;
    }
    answer.images = g_new0(ImageSeen, message.count + 1);
    answer.count = message.count;
    for (guint i = 0; i < message.count; i++)
        look_at(&message.images[i], move->images->pdata[i], &answer.images[i]);
    text = images_seen_message_encode(&answer);
    return channel_send_bytes(move->channel, FRAME_IMAGES_SEEN, text, strlen(text), error);
}
