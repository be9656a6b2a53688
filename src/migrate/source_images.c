/*
 * Are the disks' images the same files over there?  (disk/image_view.h)
 *
 * The source opens its images and locks a byte of each.  As soon as the
 * destination has started its VMM it is asked what it sees; images whose lock
 * it does not see are given a token, and asked for again.  All of that happens
 * while the guest runs.  What can be told by content alone waits for the pause.
 */
#include "migrate/source_move.h"

#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "disk/image_view.h"

#define ANSWER_MS 15000

typedef enum {
    PROOF_NONE,
    PROOF_LOCK,
    PROOF_DEVICE,
    PROOF_TOKEN,
    PROOF_ADDRESS,
    PROOF_SAMPLES,
} ImageProof;

static const char *const proof_names[] = {
    [PROOF_NONE] = "none",   [PROOF_LOCK] = "lock",       [PROOF_DEVICE] = "device",
    [PROOF_TOKEN] = "token", [PROOF_ADDRESS] = "address", [PROOF_SAMPLES] = "samples",
};

typedef struct {
    const VmmImage *image;
    ImageView *view; /* NULL: not of this host */
    uint64_t lock;   /* 0: could not be set */
    gboolean has_token, asked_for_samples;
    int64_t token_s;
    uint32_t token_ms;
    uint64_t samples[IMAGE_SAMPLES_LIMIT];
    guint sample_count;
    ImageProof proof;
    char *there; /* its name there; NULL: not known yet */
} SourceImage;

struct SourceImages {
    GPtrArray *list;   /* of VmmImage */
    GPtrArray *images; /* of SourceImage */
    guint answers;     /* that came */
    gboolean awaits;   /* one is to come */
    gboolean in_pause; /* some can be told by content alone */
};

static void source_image_free(SourceImage *image)
{
    image_view_free(image->view);
    g_free(image->there);
    g_free(image);
}

void source_images_free(SourceImages *images)
{
    if (!images)
        return;
    g_ptr_array_unref(images->images);
    g_ptr_array_unref(images->list);
    g_free(images);
}

static gboolean add_image(SourceImages *images, const VmmImage *name, GError **error)
{
    SourceImage *image = g_new0(SourceImage, 1);

    g_ptr_array_add(images->images, image);
    image->image = name;
    if (!name->path)
        return TRUE;
    image->view = image_view_open(name->path, error);
    if (!image->view) {
        g_prefix_error(error, "%s: ", name->device);
        return FALSE;
    }
    image->lock = image_lock_offset();
    if (fault_point("source.image-lock", NULL) || !image_view_lock(image->view, image->lock, NULL))
        image->lock = 0;
    return TRUE;
}

gboolean source_images_open(SourceMove *move, GError **error)
{
    SourceImages *images = g_new0(SourceImages, 1);

    images->images = g_ptr_array_new_with_free_func((GDestroyNotify)source_image_free);
    images->list = vmm_list_images(move->job->vmm, move->machine, error);
    if (!images->list) {
        images->list = g_ptr_array_new();
        source_images_free(images);
        return FALSE;
    }
    move->images = images;
    for (guint i = 0; i < images->list->len; i++)
        if (!add_image(images, images->list->pdata[i], error))
            return FALSE;
    return TRUE;
}

/* ---- asking ---- */

static gboolean ask(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;
    g_autofree ImageQuestion *questions = g_new0(ImageQuestion, images->images->len + 1);
    ImagesMessage message = {questions, images->images->len};
    g_autofree char *text = NULL;

    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        questions[i].lock = image->lock;
        if (image->asked_for_samples && image->proof == PROOF_NONE) {
            questions[i].samples = image->samples;
            questions[i].sample_count = image->sample_count;
        }
    }
    text = images_message_encode(&message);
    images->awaits = TRUE;
    return channel_send_bytes(move->channel, FRAME_IMAGES, text, strlen(text), error);
}

gboolean source_images_ask(SourceMove *move, GError **error)
{
    if (!move->images || move->images->images->len == 0)
        return TRUE;
    return ask(move, error);
}

/* ---- judging ---- */

/* "nbd://10.0.0.9/disk" means the same everywhere, what names this host or a
 * socket of it does not. */
static gboolean is_address_for_all(const char *url)
{
    return strstr(url, "://") && !strstr(url, "unix") && !strstr(url, "localhost") &&
           !strstr(url, "://127.") && !strstr(url, "://[::1]") && !strstr(url, ":///");
}

static ImageProof find_proof(SourceImage *image, const ImageSeen *seen)
{
    g_auto(ImageFacts) here = {0};
    g_autofree char *digest = NULL;

    if (!image->view || !seen->local)
        return !image->view && !seen->local && is_address_for_all(image->image->file) &&
                       strcmp(image->image->file, seen->file) == 0
                   ? PROOF_ADDRESS
                   : PROOF_NONE;
    if (image->lock && seen->sees_lock)
        return PROOF_LOCK;
    if (!image_view_get_facts(image->view, &here, NULL))
        return PROOF_NONE;
    if (seen->device && *here.device_id && strcmp(here.device_id, seen->device_id) == 0)
        return PROOF_DEVICE;
    if (image->has_token && seen->token_s == (uint64_t)image->token_s &&
        seen->token_ms == image->token_ms)
        return PROOF_TOKEN;
    if (!image->asked_for_samples || !seen->digest || here.bytes != seen->bytes)
        return PROOF_NONE;
    digest = image_view_digest(image->view, image->samples, image->sample_count, NULL);
    return g_strcmp0(digest, seen->digest) == 0 ? PROOF_SAMPLES : PROOF_NONE;
}

static gboolean refuse(SourceMove *move, const SourceImage *image, const ImageSeen *seen,
                       GError **error)
{
    const char *peer = channel_get_peer_name(move->channel);
    g_auto(ImageFacts) here = {0};

    if (!image->view || !seen->local)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: nothing proves that \"%s\" here and \"%s\" on %s are the same image; "
                  "--trust-images moves the guest all the same",
                  image->image->device, image->image->file, seen->file, peer);
    else if (image_view_get_facts(image->view, &here, error))
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: %s here and %s on %s are not the same image (neither a lock nor a time set "
                  "on one shows on the other; %" G_GUINT64_FORMAT " bytes here, %" G_GUINT64_FORMAT
                  " there%s); share it between the hosts, or use --trust-images if you know better",
                  image->image->device, image->image->file, seen->file, peer, here.bytes,
                  seen->bytes, image->asked_for_samples ? ", other content" : "");
    return FALSE;
}

/* Not seen by its lock: what else can be tried while the guest runs? */
static void prepare_second_question(SourceImages *images, SourceImage *image)
{
    image->has_token = !fault_point("source.image-token", NULL) &&
                       image_view_set_token(image->view, &image->token_s, &image->token_ms);
    if (image->image->read_only) {
        image->sample_count = image_view_pick_samples(image->view, image->samples);
        image->asked_for_samples = TRUE;
    } else if (!image->has_token) {
        images->in_pause = TRUE;
    }
}

/* A copy that nobody writes to is as good; a token that does not show is proof
 * that an image is another one. */
static gboolean may_wait_for_pause(const SourceImages *images, const SourceImage *image)
{
    return !image->image->read_only && !image->has_token && images->in_pause &&
           !image->asked_for_samples;
}

static gboolean judge(SourceMove *move, SourceImage *image, const ImageSeen *seen,
                      gboolean *ret_again, GError **error)
{
    SourceImages *images = move->images;

    g_free(image->there);
    image->there = g_strdup(seen->file);
    if (image->proof == PROOF_NONE)
        image->proof = find_proof(image, seen);
    if (image->proof != PROOF_NONE)
        return TRUE;
    if (images->answers == 1 && image->view && seen->local) {
        prepare_second_question(images, image);
        *ret_again = *ret_again || image->has_token || image->asked_for_samples;
        return TRUE;
    }
    return may_wait_for_pause(images, image) || refuse(move, image, seen, error);
}

gboolean source_images_take(SourceMove *move, const Frame *frame, GError **error)
{
    SourceImages *images = move->images;
    g_auto(ImagesSeenMessage) message = {0};
    gboolean again = FALSE;

    if (!images_seen_message_decode((const char *)frame->payload, frame->length, &message, error))
        return FALSE;
    if (!images || !images->awaits || message.count != images->images->len) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "IMAGES_SEEN about %u images that were not asked "
                  "for",
                  message.count);
        return FALSE;
    }
    images->awaits = FALSE;
    images->answers++;
    for (guint i = 0; i < images->images->len; i++)
        if (!judge(move, images->images->pdata[i], &message.images[i], &again, error))
            return FALSE;
    return !again || ask(move, error);
}

/* ---- waiting ---- */

gboolean source_images_await(SourceMove *move, GError **error)
{
    while (move->images && move->images->awaits) {
        Frame frame;

        if (!source_await(move, FRAME_IMAGES_SEEN, ANSWER_MS, &frame, error) ||
            !source_images_take(move, &frame, error))
            return FALSE;
    }
    return TRUE;
}

/* The guest is paused and has written all it had. */
gboolean source_images_compare_content(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    if (!images || !images->in_pause)
        return TRUE;
    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        if (image->proof != PROOF_NONE || !image->view)
            continue;
        image->sample_count = image_view_pick_samples(image->view, image->samples);
        image->asked_for_samples = TRUE;
    }
    return ask(move, error) && source_images_await(move, error);
}

void source_images_describe(SourceMove *move)
{
    SourceImages *images = move->images;

    json_decref(move->report->disks);
    move->report->disks = json_array();
    for (guint i = 0; images && i < images->images->len; i++) {
        const SourceImage *image = images->images->pdata[i];

        json_array_append_new(move->report->disks,
                              json_pack("{s:s, s:s, s:s?, s:s}", "device", image->image->device,
                                        "source", image->image->file, "destination", image->there,
                                        "same_by", proof_names[image->proof]));
    }
}
