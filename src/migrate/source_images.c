/*
 * Are the disks' images, and other files, the same ones over there?
 *
 * The source opens its images and locks a byte of each (disk/image_view.h).  As
 * soon as the destination has started its VMM it is asked what it sees, up to
 * four times, each question about what the last one has left open:
 *
 *   lock     of all images, with what else they tell of themselves
 *   token    of those whose lock was not seen; samples, of those that are only
 *            read
 *   content  of those that are only read: every block, while rounds go on
 *   pause    the content of small images that are written
 *
 * What no question can prove is refused when that is known.
 */
#include "migrate/source_move.h"

#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "disk/image_address.h"
#include "disk/image_reader.h"
#include "disk/image_view.h"
#include "migrate/neutral_images.h"

#define ANSWER_MS 15000
/* What is read within a pause, of all images together. */
#define PAUSE_BYTES IMAGE_FAST_BYTES

typedef enum {
    PROOF_NONE,
    PROOF_LOCK,
    PROOF_DEVICE,
    PROOF_TOKEN,
    PROOF_ADDRESS,
    PROOF_CONTENT,
    PROOF_COPIED,
} ImageProof;

static const char *const proof_names[] = {
    [PROOF_NONE] = "none",     [PROOF_LOCK] = "lock",       [PROOF_DEVICE] = "device",
    [PROOF_TOKEN] = "token",   [PROOF_ADDRESS] = "address", [PROOF_CONTENT] = "content",
    [PROOF_COPIED] = "copied",
};

typedef enum { ASKED_LOCK, ASKED_TOKEN, ASKED_CONTENT, ASKED_IN_PAUSE } ImageStage;

typedef struct {
    const VmmImage *image;
    ImageView *view; /* NULL: not of this host */
    uint64_t bytes;  /* when it was opened, or last asked for */
    uint64_t lock;   /* 0: could not be set */
    gboolean has_token;
    int64_t token_s;
    uint32_t token_ms;
    uint64_t samples[IMAGE_SAMPLES_LIMIT];
    guint sample_count;
    ImageStage content_in; /* where its content is to be compared; ASKED_LOCK: nowhere */
    guint number;          /* with the reader */
    ImageProof proof;
    char *there;    /* its name there; NULL: not known yet */
    ImageSeen seen; /* the last answer's; texts not kept, but for the digest */
} SourceImage;

struct SourceImages {
    GPtrArray *list;   /* of VmmImage */
    GPtrArray *images; /* of SourceImage */
    ImageStage stage;  /* of the last question */
    gboolean awaits;   /* an answer to it is to come */
    uint64_t pause_bytes;
    ImageReader *reader; /* reads what is asked for in ASKED_CONTENT */
};

static void source_image_free(SourceImage *image)
{
    image_view_free(image->view);
    g_free(image->there);
    g_free(image->seen.digest);
    g_free(image);
}

void source_images_free(SourceImages *images)
{
    if (!images)
        return;
    image_reader_free(images->reader);
    g_ptr_array_unref(images->images);
    g_ptr_array_unref(images->list);
    g_free(images);
}

static gboolean note_size(SourceImage *image, GError **error)
{
    g_auto(ImageFacts) facts = {0};

    if (!image_view_get_facts(image->view, &facts, error))
        return FALSE;
    image->bytes = facts.bytes;
    return TRUE;
}

static gboolean add_image(SourceImages *images, const VmmImage *name, GError **error)
{
    SourceImage *image = g_new0(SourceImage, 1);

    g_ptr_array_add(images->images, image);
    image->image = name;
    if (!name->path)
        return TRUE;
    image->view = image_view_open(name->path, error);
    if (!image->view || !note_size(image, error)) {
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
    if (move->neutral)
        images->list = neutral_images_order(images->list, move->neutral, NULL, NULL, error);
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

static gboolean is_asked_content(const SourceImages *images, const SourceImage *image)
{
    return image->proof == PROOF_NONE && image->content_in == images->stage &&
           images->stage >= ASKED_CONTENT;
}

static gboolean ask(SourceMove *move, ImageStage stage, GError **error)
{
    SourceImages *images = move->images;
    g_autofree ImageQuestion *questions = g_new0(ImageQuestion, images->images->len + 1);
    ImagesMessage message = {questions, images->images->len};
    g_autofree char *text = NULL;

    images->stage = stage;
    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        questions[i].lock = image->lock;
        if (stage == ASKED_TOKEN && image->proof == PROOF_NONE) {
            questions[i].samples = image->samples;
            questions[i].sample_count = image->sample_count;
        }
        questions[i].content = is_asked_content(images, image);
        questions[i].bytes = questions[i].content ? image->bytes : 0;
    }
    text = images_message_encode(&message);
    images->awaits = TRUE;
    return session_send_bytes(move->session, FRAME_IMAGES, text, strlen(text), error);
}

gboolean source_images_ask(SourceMove *move, GError **error)
{
    if (!move->images || move->images->images->len == 0)
        return TRUE;
    for (guint i = 0; i < move->images->images->len; i++) {
        SourceImage *image = move->images->images->pdata[i];

        if (source_disks_makes(move, image->image->path))
            image->proof = PROOF_COPIED;
    }
    return ask(move, ASKED_LOCK, error);
}

/* Our side of it, while the destination does the same. */
static gboolean ask_content(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    images->reader = image_reader_new();
    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        if (image->proof == PROOF_NONE && image->content_in == ASKED_CONTENT)
            image->number = image_reader_add(images->reader, image->image->path, image->bytes);
    }
    if (!ask(move, ASKED_CONTENT, error))
        return FALSE;
    image_reader_start(images->reader, NULL, NULL);
    return TRUE;
}

/* ---- refusing ---- */

static const char *get_advice(const SourceImage *image)
{
    return image->image->loaded ? "make them equal, or use --trust-images if you know better"
                                : "share it between the hosts, or use --trust-images if you know "
                                  "better";
}

static gboolean refuse(SourceMove *move, const SourceImage *image, GError **error)
{
    const char *peer = session_get_peer_name(move->session);
    const ImageSeen *seen = &image->seen;

    if (!image->view || !seen->local)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: nothing proves that \"%s\" here and \"%s\" on %s are the same image; "
                  "--trust-images moves the guest all the same",
                  image->image->device, image->image->file, image->there, peer);
    else
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: %s here and %s on %s are not the same %s (%s%" G_GUINT64_FORMAT
                  " bytes here, %" G_GUINT64_FORMAT " there%s); %s",
                  image->image->device, image->image->file, image->there, peer,
                  image->image->loaded ? "file" : "image",
                  image->has_token ? "neither a lock nor a time set on one shows on the other; "
                                   : "",
                  image->bytes, seen->bytes,
                  image->content_in && image->bytes == seen->bytes ? ", other content" : "",
                  get_advice(image));
    return FALSE;
}

/* Its content would prove it, but takes too long to read in a pause. */
static gboolean refuse_large(SourceMove *move, const SourceImage *image, GError **error)
{
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s: nothing proves that %s here and %s on %s are the same image: it has no name "
              "that is unique in the world, its storage carries neither locks nor times between "
              "the hosts, and its content (%" G_GUINT64_FORMAT " bytes) is more than can be "
              "compared while the guest is paused (%" G_GUINT64_FORMAT " MiB in all); use "
              "--trust-images if you know that it is the same",
              image->image->device, image->image->file, image->there,
              session_get_peer_name(move->session), image->bytes, PAUSE_BYTES >> 20);
    return FALSE;
}

/* ---- judging ---- */

static ImageProof find_proof(const SourceImage *image)
{
    const ImageSeen *seen = &image->seen;
    g_auto(ImageFacts) here = {0};

    if (!image->view || !seen->local)
        return !image->view && !seen->local && image_address_is_for_all(image->image->file) &&
                       strcmp(image->image->file, image->there) == 0
                   ? PROOF_ADDRESS
                   : PROOF_NONE;
    if (image->lock && seen->sees_lock)
        return PROOF_LOCK;
    if (!image_view_get_facts(image->view, &here, NULL))
        return PROOF_NONE;
    if (seen->device && *here.device_id && strcmp(here.device_id, seen->device_id) == 0 &&
        here.bytes == seen->bytes)
        return PROOF_DEVICE;
    if (image->has_token && seen->token_s == (uint64_t)image->token_s &&
        seen->token_ms == image->token_ms)
        return PROOF_TOKEN;
    return PROOF_NONE;
}

/* Not seen by its lock: what else can be tried? */
static gboolean plan(SourceMove *move, SourceImage *image, GError **error)
{
    SourceImages *images = move->images;

    /* A time that is set would make a file that was loaded look like a new one. */
    image->has_token = !image->image->loaded && !fault_point("source.image-token", NULL) &&
                       image_view_set_token(image->view, &image->token_s, &image->token_ms);
    if (image->image->read_only) {
        image->content_in = ASKED_CONTENT;
        image->sample_count = image_view_pick_samples(image->view, image->samples);
        return image->bytes == image->seen.bytes || image->has_token || refuse(move, image, error);
    }
    if (image->has_token)
        return TRUE;
    if (image->bytes > PAUSE_BYTES - images->pause_bytes)
        return refuse_large(move, image, error);
    image->content_in = ASKED_IN_PAUSE;
    images->pause_bytes += image->bytes;
    return TRUE;
}

/* A copy that nobody writes to is as good.  A token that does not show is proof
 * that an image that is written is another one. */
static gboolean judge_samples(SourceMove *move, const SourceImage *image, GError **error)
{
    g_autofree char *digest = NULL;

    if (image->content_in == ASKED_IN_PAUSE)
        return TRUE;
    if (image->content_in != ASKED_CONTENT || image->bytes != image->seen.bytes)
        return refuse(move, image, error);
    digest = image_view_digest(image->view, image->samples, image->sample_count, error);
    if (!digest)
        return FALSE;
    return g_strcmp0(digest, image->seen.digest) == 0 || refuse(move, image, error);
}

/* Takes one image's part of an answer. */
static gboolean judge(SourceMove *move, SourceImage *image, GError **error)
{
    const SourceImages *images = move->images;

    if (image->proof == PROOF_NONE)
        image->proof = find_proof(image);
    if (image->proof != PROOF_NONE)
        return TRUE;
    if (!image->view || !image->seen.local)
        return refuse(move, image, error);
    if (images->stage == ASKED_LOCK)
        return plan(move, image, error);
    return images->stage != ASKED_TOKEN || judge_samples(move, image, error);
}

static void keep(SourceImage *image, ImageSeen *seen)
{
    g_free(image->there);
    image->there = g_strdup(seen->file);
    g_free(image->seen.digest);
    image->seen = *seen;
    image->seen.digest = g_steal_pointer(&seen->digest);
}

static gboolean is_open(const SourceImages *images, ImageStage content_in)
{
    for (guint i = 0; i < images->images->len; i++) {
        const SourceImage *image = images->images->pdata[i];

        if (image->proof == PROOF_NONE && image->content_in == content_in)
            return TRUE;
    }
    return FALSE;
}

/* What follows from an answer with which nothing is wrong. */
static gboolean go_on(SourceMove *move, GError **error)
{
    const SourceImages *images = move->images;
    gboolean content = is_open(images, ASKED_CONTENT);

    if (images->stage == ASKED_LOCK && (content || is_open(images, ASKED_LOCK)))
        return ask(move, ASKED_TOKEN, error);
    return images->stage != ASKED_TOKEN || !content || ask_content(move, error);
}

gboolean source_images_take(SourceMove *move, const Frame *frame, GError **error)
{
    SourceImages *images = move->images;
    g_auto(ImagesSeenMessage) message = {0};

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
    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        keep(image, &message.images[i]);
        if (!judge(move, image, error))
            return FALSE;
        /* Of this answer's texts only what was kept lives on. */
        image->seen.file = image->seen.device_id = NULL;
    }
    return go_on(move, error);
}

/* ---- waiting ---- */

gboolean source_images_are_read(const SourceMove *move)
{
    const SourceImages *images = move->images;

    return images && images->reader && (images->awaits || !image_reader_is_done(images->reader));
}

gboolean source_images_await(SourceMove *move, GError **error)
{
    while (move->images && move->images->awaits && move->images->stage != ASKED_CONTENT) {
        Frame frame;

        if (!source_await(move, FRAME_IMAGES_SEEN, ANSWER_MS, &frame, error) ||
            !source_images_take(move, &frame, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- content ---- */

static gboolean judge_content(SourceMove *move, SourceImage *image, const char *digest,
                              GError **error)
{
    if (image->bytes != image->seen.bytes)
        return refuse(move, image, error);
    if (!digest || !image->seen.digest) {
        error_set(error, VMFERRY_ERROR_FAILED,
                  "%s: the content of %s could not be read %s%s, or changed meanwhile; "
                  "--trust-images moves the guest without",
                  image->image->device, digest ? image->there : image->image->file,
                  digest ? "on " : "here", digest ? session_get_peer_name(move->session) : "");
        return FALSE;
    }
    if (strcmp(digest, image->seen.digest) != 0)
        return refuse(move, image, error);
    image->proof = PROOF_CONTENT;
    return TRUE;
}

gboolean source_images_judge_read(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    for (guint i = 0; images && images->reader && i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        if (image->proof == PROOF_NONE && image->content_in == ASKED_CONTENT &&
            !judge_content(move, image, image_reader_get_digest(images->reader, image->number),
                           error))
            return FALSE;
    }
    return TRUE;
}

static gboolean compare_in_pause(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    for (guint i = 0; i < images->images->len; i++)
        if (((SourceImage *)images->images->pdata[i])->content_in == ASKED_IN_PAUSE &&
            !note_size(images->images->pdata[i], error))
            return FALSE;
    if (!ask(move, ASKED_IN_PAUSE, error))
        return FALSE;
    for (guint i = 0; i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];
        g_autofree char *digest = NULL;

        if (!is_asked_content(images, image))
            continue;
        digest = image->bytes <= PAUSE_BYTES
                     ? image_view_digest_content(image->view, image->bytes, NULL, NULL)
                     : NULL;
        if (!source_images_await(move, error) || !judge_content(move, image, digest, error))
            return FALSE;
    }
    return TRUE;
}

/* The guest is paused and has written all it had. */
gboolean source_images_finish(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    if (!images)
        return TRUE;
    if (is_open(images, ASKED_IN_PAUSE) && !compare_in_pause(move, error))
        return FALSE;
    for (guint i = 0; i < images->images->len; i++) {
        const SourceImage *image = images->images->pdata[i];

        if (image->proof == PROOF_NONE) {
            error_set(error, VMFERRY_ERROR_REFUSED,
                      "%s: nothing proves that %s is the same image on %s; --trust-images moves "
                      "the guest all the same",
                      image->image->device, image->image->file,
                      session_get_peer_name(move->session));
            return FALSE;
        }
    }
    return TRUE;
}

gboolean source_images_retract(SourceMove *move, GError **error)
{
    SourceImages *images = move->images;

    if (!source_images_await(move, error))
        return FALSE;
    for (guint i = 0; images && i < images->images->len; i++) {
        SourceImage *image = images->images->pdata[i];

        if (image->content_in == ASKED_IN_PAUSE && image->proof == PROOF_CONTENT)
            image->proof = PROOF_NONE;
    }
    return TRUE;
}

/* ---- report ---- */

static json_t *describe(const SourceImages *images, gboolean loaded)
{
    json_t *array = json_array();

    for (guint i = 0; images && i < images->images->len; i++) {
        const SourceImage *image = images->images->pdata[i];

        if (!image->image->loaded == !loaded)
            json_array_append_new(
                array, json_pack("{s:s, s:s, s:s?, s:s}", loaded ? "option" : "device",
                                 image->image->device, "source", image->image->file, "destination",
                                 image->there, "same_by", proof_names[image->proof]));
    }
    return array;
}

void source_images_describe(SourceMove *move)
{
    json_decref(move->report->disks);
    json_decref(move->report->files);
    move->report->disks = describe(move->images, FALSE);
    move->report->files = describe(move->images, TRUE);
}
