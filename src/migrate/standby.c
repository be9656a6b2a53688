/* How a guest comes to be protected: the half of the host that is to stand by. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/page.h"
#include "base/stages.h"
#include "migrate/destination_move.h"
#include "migrate/kept_writes.h"
#include "migrate/protect.h"
#include "migrate/takeover.h"
#include "migrate/takeover_images.h"
#include "migrate/witness_open.h"
#include "transfer/delta_store.h"

#define FRAME_TIMEOUT_MS 15000
#define PREPARE_TIMEOUT_MS 60000
#define PING_TIMEOUT_MS 3000
#define REGISTER_TIMEOUT_MS 3000
#define FORGET_TIMEOUT_MS 1000
#define DRAIN_MS 2000

typedef struct {
    DestinationMove move;
    const StandbyHost *host;
    ProtectMessage message;
    char *machine; /* GUEST, as it came */
    char *directory;
    char *address; /* by which the guest's host is reached */
    Witness *witness;
    gboolean registered;
    gboolean ready; /* READY was sent: from now on the peer may count on us … */
    gboolean told;  /* … until it says that it does not */
} Standby;

/* ---- what comes, and from where ---- */

static gboolean receive(Standby *standby, FrameType type, Frame *ret, GError **error)
{
    return session_expect(standby->move.session, type, FRAME_TIMEOUT_MS, ret, error);
}

static gboolean receive_guest(Standby *standby, GError **error)
{
    Frame frame;

    if (!receive(standby, FRAME_GUEST, &frame, error) ||
        !destination_take_guest(&standby->move, &frame, error))
        return FALSE;
    standby->machine = g_strndup((const char *)frame.payload, frame.length);
    if (standby->move.guest->checkpoint_ms == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "GUEST of one to be protected has no interval");
        return FALSE;
    }
    return receive(standby, FRAME_PROTECT, &frame, error) &&
           protect_message_decode((const char *)frame.payload, frame.length, &standby->message,
                                  error);
}

static gboolean get_channel(gpointer user, ChannelOptions *ret, GError **error)
{
    const MigrateDestinationHost *host = &((Standby *)user)->host->destination;

    return host->get_channel(ret, host->channel_user, error);
}

static gboolean is_reached_at(Standby *standby, const char *address, GError **error)
{
    ChannelOptions options;
    g_autoptr(Channel) channel = NULL;
    HelloMessage peer = {0};
    gboolean right;

    if (!get_channel(standby, &options, error))
        return FALSE;
    channel = channel_connect(address, &options, PING_TIMEOUT_MS, NULL, error);
    if (!channel || !handshake_connect(channel, "ping", &peer, NULL, error))
        return FALSE;
    right = g_strcmp0(peer.agent, session_get_peer_agent(standby->move.session)) == 0;
    hello_message_clear(&peer);
    if (!right)
        error_set(error, VMFERRY_ERROR_REFUSED, "%s leads to another agent", address);
    return right;
}

static char *join_port(const char *host, uint16_t port)
{
    return strchr(host, ':') ? g_strdup_printf("[%s]:%u", host, port)
                             : g_strdup_printf("%s:%u", host, port);
}

/* By the name of its certificate, or by the address that it came from. */
static gboolean find_way_back(Standby *standby, GError **error)
{
    Session *session = standby->move.session;
    g_autofree char *host = channel_get_peer_host(session_get_channel(session, TRAFFIC_CONTROL));
    const char *const names[] = {host, session_get_peer_name(session)};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *address = join_port(names[i], standby->message.port);

        g_clear_error(error);
        if (is_reached_at(standby, address, error)) {
            standby->address = g_steal_pointer(&address);
            return TRUE;
        }
    }
    g_prefix_error(error,
                   "the host of the guest is not reached from here, by its certificate's name or "
                   "the address it came from (port %u): ",
                   standby->message.port);
    return FALSE;
}

/* ---- its place ---- */

static PageRegions *make_regions(const GuestMessage *guest)
{
    PageRegions *regions = g_new0(PageRegions, 1);

    regions->count = guest->region_count;
    regions->pages = g_new0(uint64_t, guest->region_count + 1);
    regions->names = g_new0(char *, guest->region_count + 1);
    for (guint i = 0; i < guest->region_count; i++) {
        regions->pages[i] = guest->regions[i].bytes / PAGE_BYTES;
        regions->names[i] = guest->regions[i].name;
    }
    return regions;
}

static void free_regions(PageRegions *regions)
{
    g_free(regions->pages);
    g_free(regions->names);
    g_free(regions);
}

static gboolean make_store(const Standby *standby, GError **error)
{
    const GuestMessage *guest = standby->move.guest;
    g_autofree char *path = g_build_filename(standby->directory, SOURCE_DELTAS, NULL);
    PageRegions *regions = make_regions(guest);
    g_autoptr(DeltaStore) store = delta_store_create(path, guest->transaction, regions, error);

    free_regions(regions);
    return store != NULL;
}

static gboolean make_journal(const Standby *standby, GError **error)
{
    const ProtectMessage *message = &standby->message;
    g_autofree char *path = g_build_filename(standby->directory, SOURCE_WRITES, NULL);
    g_autofree uint64_t *bytes = g_new0(uint64_t, message->image_count + 1);
    g_autoptr(KeptWrites) kept = NULL;

    for (guint i = 0; i < message->image_count; i++)
        bytes[i] = message->images[i].bytes;
    kept = kept_writes_create_for(bytes, message->image_count, path,
                                  standby->move.guest->transaction, error);
    return kept != NULL;
}

/* By our rules; relative to the guest's folder, by our rules, too. */
static char *resolve(const Standby *standby, const char *path)
{
    const MigrateDestinationHost *host = &standby->host->destination;
    const char *folder = standby->move.guest->working_directory;
    g_autofree char *mapped = host->map(path, host->user);
    g_autofree char *mapped_folder = host->map(folder ? folder : "/", host->user);

    return g_path_is_absolute(mapped) ? g_steal_pointer(&mapped)
                                      : g_build_filename(mapped_folder, mapped, NULL);
}

static gboolean note_images(const Standby *standby, GError **error)
{
    const ProtectMessage *message = &standby->message;
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autofree TakeoverImage *images = g_new0(TakeoverImage, message->image_count + 1);

    for (guint i = 0; i < message->image_count; i++) {
        g_ptr_array_add(paths, resolve(standby, message->images[i].path));
        images[i] =
            (TakeoverImage){paths->pdata[i], message->images[i].format, message->images[i].bytes};
    }
    return takeover_images_write(standby->directory, images, message->image_count, error);
}

static gboolean note_machine(const Standby *standby, GError **error)
{
    const GuestMessage *guest = standby->move.guest;
    g_autofree char *path = g_build_filename(standby->directory, SOURCE_MACHINE, NULL);
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < guest->region_count; i++)
        g_ptr_array_add(regions,
                        ram_region_new(guest->regions[i].name, 0, guest->regions[i].bytes));
    return file_replace(path, standby->machine, strlen(standby->machine), FALSE, error) &&
           takeover_note_machine(guest->machine, regions, standby->directory, error);
}

static gboolean accept_guest(Standby *standby, GError **error)
{
    standby->directory =
        standby->host->accept(standby->move.guest, standby->host->destination.user, error);
    return standby->directory && make_store(standby, error) && make_journal(standby, error) &&
           note_images(standby, error) && note_machine(standby, error);
}

/* The record first: the peer may try again as soon as it is told. */
static void give_up(Standby *standby)
{
    destination_undo_disks(&standby->move);
    standby->host->aborted(standby->move.failure, standby->host->destination.user);
    session_send_error(standby->move.session, standby->move.failure);
}

/* ---- its witness ---- */

static gboolean get_witness_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    return get_channel(user, ret, error);
}

static gboolean say(Standby *standby, GError **error)
{
    const GuestMessage *guest = standby->move.guest;
    Session *session = standby->move.session;
    Channel *peer = session_get_channel(session, TRAFFIC_CONTROL);
    WitnessRequest request = {
        .kind = WITNESS_REGISTER,
        .transaction = guest->transaction,
        .guest = guest->guest,
        .guest_id = guest->guest_id,
        .term = guest->term,
        .destination = (char *)session_get_peer_agent(session),
        .destination_name =
            channel_get_peer_certificate(peer) ? (char *)channel_get_peer_name(peer) : (char *)"",
        .lease_ms = guest->lease_ms,
    };

    return witness_call(standby->witness, &request, REGISTER_TIMEOUT_MS, NULL, error);
}

static gboolean register_witness(Standby *standby, GError **error)
{
    const GuestMessage *guest = standby->move.guest;
    WitnessClientOptions options = {.address = guest->store,
                                    .agent = guest->store_agent,
                                    .get_channel = get_witness_channel,
                                    .user = standby};

    if (guest->lease_ms == 0)
        return TRUE;
    standby->witness = witness_new(&options);
    standby->registered = say(standby, error);
    if (!standby->registered)
        g_prefix_error(error, "the witness %s: ", guest->store);
    return standby->registered;
}

/* A host that may have begun to count on us needs its record there, by which it goes on alone. */
static void unregister_witness(Standby *standby)
{
    if (standby->registered && (!standby->ready || standby->told))
        witness_ask(standby->witness, WITNESS_FORGET, standby->move.guest->transaction,
                    FORGET_TIMEOUT_MS, NULL, NULL);
}

/* ---- its disks ---- */

static gboolean take_disks(Standby *standby, GError **error)
{
    DestinationMove *move = &standby->move;
    Frame frame;

    if (!session_send_bytes(move->session, FRAME_ACCEPTED, NULL, 0, error) ||
        !session_receive(move->session, TRAFFIC_CONTROL, PREPARE_TIMEOUT_MS, &frame, error))
        return FALSE;
    if (frame.type == FRAME_DISKS)
        return destination_take_disks(move, &frame, error) &&
               destination_are_disks_of(move, move->guest, error) &&
               destination_await_after_disks(move, FRAME_PREPARE, &frame, error) &&
               destination_complete_disks(move, error);
    if (frame.type == FRAME_PREPARE)
        return TRUE;
    if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
        session_error_from_frame(move->session, &frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame where DISKS or PREPARE was expected",
                  frame_type_name(frame.type));
    return FALSE;
}

static gboolean check(Standby *standby, GError **error)
{
    g_autofree char *text = ready_message_encode(&(ReadyMessage){0});

    if (!standby->host->check(standby->move.guest, standby->host->destination.user, error))
        return FALSE;
    standby->ready = TRUE;
    return session_send_bytes(standby->move.session, FRAME_READY, text, strlen(text), error);
}

static gboolean await_start(Standby *standby, GError **error)
{
    StartMessage start;
    Frame frame;

    if (!session_receive(standby->move.session, TRAFFIC_CONTROL, FRAME_TIMEOUT_MS, &frame, error))
        return FALSE;
    if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT) {
        standby->told = TRUE;
        session_error_from_frame(standby->move.session, &frame, error);
        return FALSE;
    }
    if (frame.type != FRAME_START) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame where START was expected",
                  frame_type_name(frame.type));
        return FALSE;
    }
    if (!start_message_decode(frame.payload, frame.length, &start, error))
        return FALSE;
    if (start.term == standby->move.guest->term)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "START is of term %" PRIu64 ", GUEST of %" PRIu64,
              start.term, standby->move.guest->term);
    return FALSE;
}

static gboolean commit(Standby *standby, GError **error)
{
    return !fault_point("standby.before-commit", error) &&
           standby->host->commit(standby->move.guest, &standby->message, standby->address,
                                 session_get_peer_agent(standby->move.session),
                                 standby->host->destination.user, error);
}

/* ---- the sequence ---- */

static const Stage stages[] = {
    STAGE("guest", receive_guest, NULL),     STAGE("way back", find_way_back, NULL),
    STAGE("accept", accept_guest, NULL),     STAGE("witness", register_witness, unregister_witness),
    STAGE("disks", take_disks, NULL),        STAGE("check", check, NULL),
    STAGE("await START", await_start, NULL), STAGE_FINAL("commit", commit),
};

static void note_failure(gpointer user, guint stage, GError **error)
{
    Standby *standby = user;
    g_autoptr(GError) cause = NULL;

    if (!destination_check_disks(&standby->move, &cause) &&
        !error_is(cause, VMFERRY_ERROR_DISCONNECTED)) {
        g_clear_error(error);
        *error = g_steal_pointer(&cause);
    }
    standby->move.failure = g_error_copy(*error);
}

/* A close with unread bytes would take what was said last with it. */
static void drain(Session *session)
{
    uint64_t end = clock_now_ns() + (uint64_t)DRAIN_MS * 1000000;
    Frame frame;

    while (clock_now_ns() < end &&
           session_receive(session, TRAFFIC_CONTROL, DRAIN_MS / 10, &frame, NULL))
        ;
}

static void standby_clear(Standby *standby)
{
    witness_free(standby->witness);
    destination_disks_free(standby->move.disks);
    guest_message_free(standby->move.guest);
    protect_message_clear(&standby->message);
    g_clear_error(&standby->move.failure);
    g_free(standby->machine);
    g_free(standby->directory);
    g_free(standby->address);
}

gboolean standby_serve(Session *session, const StandbyHost *host, GError **error)
{
    Standby standby = {.host = host};
    gboolean done;

    standby.move.session = session;
    standby.move.host = &host->destination;
    done = stages_run(stages, G_N_ELEMENTS(stages), note_failure, &standby, error);
    if (done) {
        session_send_bytes(session, FRAME_STARTED, NULL, 0, NULL);
        destination_keep_disks(&standby.move);
    } else {
        give_up(&standby);
        drain(session);
    }
    standby_clear(&standby);
    return done;
}
