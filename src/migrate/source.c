#include "migrate/source_move.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/stages.h"
#include "page/pack_window.h"
#include "policy/lease.h"
#include "transfer/guest_pages.h"

#define CONNECT_TIMEOUT_MS 5000
#define RESOLVE_TIMEOUT_MS 3000
/* Default memory budget: guest RAM by this. */
#define BUDGET_SHARE 16
/* Of it, what may be spent on finding equal pages in the first round. */
#define COPIES_SHARE 8
/* What is packed with reference to earlier pages has these in memory: guest RAM by this. */
#define WINDOW_SHARE 16
/* Without --streams: beyond that, other guests need the cores more. */
#define MOST_WORKERS 4u

gboolean source_journal(SourceMove *move, SourceJournalState state, GError **error)
{
    const MigrateSourceHost *host = &move->job->host;

    return host->journal(state, move->transaction, move->peer.agent, host->user, error);
}

/* --- stages before the pause ------------------------------------------- */

/* What the guest is now, and the command line and images that make it. */
static gboolean read_machine(SourceMove *move, GError **error)
{
    move->machine =
        vmm_read_machine(move->job->vmm, move->job->command_line, &move->command_line, error);
    if (move->machine && move->job->options.allow_cpu_mismatch)
        json_object_del(move->machine, VMM_MACHINE_CPU);
    return move->machine != NULL;
}

gboolean source_describe(SourceMove *move, GError **error)
{
    if (!vmm_check_movable(move->job->vmm, error) || !read_machine(move, error))
        return FALSE;
    move->process = vmm_get_process(move->job->vmm, error);
    move->description = move->process ? vmm_describe(move->job->vmm, error) : NULL;
    if (!move->description || !source_describe_neutral(move, error) ||
        (!move->job->options.trust_images && !source_images_open(move, error)))
        return FALSE;
    for (guint i = 0; i < move->description->ram_regions->len; i++) {
        const RamRegion *region = g_ptr_array_index(move->description->ram_regions, i);

        move->report->ram_bytes += region->bytes;
    }
    move->memory =
        guest_memory_open(vmm_get_pid(move->job->vmm), move->description->ram_regions, error);
    move->pages = move->memory ? guest_source_new(move->memory) : NULL;
    source_choose_throttle(move);
    /* What is to be reclaimed is not to be sent: the limits are checked then. */
    return move->memory && vmm_check_process(move->job->vmm, error) &&
           (move->job->options.reclaim_free || source_check_limits(move, error));
}

uint64_t source_get_rate(const SourceMove *move)
{
    const MigrateSourceJob *job = move->job;

    return job->rate ? move_rate_get(job->rate) : job->options.bandwidth_bytes_per_second;
}

gboolean source_connect(SourceMove *move, const char *purpose, GError **error)
{
    guint version;

    move->session = session_connect(move->job->destination, &move->job->channel, CONNECT_TIMEOUT_MS,
                                    move->cancellable, error);
    if (!move->session)
        return FALSE;
    if (move->job->rate)
        move_rate_attach(move->job->rate, move->session);
    else
        session_set_rate(move->session, move->job->options.bandwidth_bytes_per_second);
    if (!session_greet(move->session, purpose, &move->peer, &version, error))
        return FALSE;
    session_set_transaction(move->session, move->transaction);
    if (*move->peer.agent)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "%s does not say which agent it is, and could not be believed later",
              session_get_peer_name(move->session));
    return FALSE;
}

static gboolean connect_peer(SourceMove *move, GError **error)
{
    return source_connect(move, "migrate", error) && source_check_neutral_peer(move, error);
}

void source_make_transaction_id(char out[33])
{
    uint8_t random[16];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        for (guint i = 0; i < sizeof random; i += 4)
            memcpy(random + i, &(guint32){g_random_int()}, 4);
    for (guint i = 0; i < sizeof random; i++)
        snprintf(out + 2 * i, 3, "%02x", random[i]);
}

static guint get_lease_ms(const SourceMove *move)
{
    if (!source_is_witnessed(move))
        return 0;
    return move->lease_ms ? move->lease_ms : LEASE_DEFAULT_MS;
}

char *source_encode_guest(SourceMove *move)
{
    const VmmDescription *description = move->description;
    g_autofree WireRegion *regions = g_new0(WireRegion, description->ram_regions->len);
    GuestMessage message = {
        .transaction = move->transaction,
        .guest = (char *)move->job->guest,
        .guest_id = (char *)move->job->guest_id,
        .term = move->job->term + 1,
        .retry_for_ms = move->retry_for_ms,
        .vmm_kind = move->neutral ? (char *)move->neutral_driver->kind : description->kind,
        .vmm_version = description->version,
        .machine = description->machine,
        .accelerator = description->accelerator,
        .command_line = move->command_line,
        .working_directory = (char *)move->job->working_directory,
        .process = move->process,
        .live = move->machine,
        .neutral = move->neutral,
        .vcpus = description->vcpus,
        .memory_bytes = description->memory_bytes,
        .verify = move->job->options.verify,
        .postcopy = migrate_options_may_split(&move->job->options),
        .checkpoint_ms = source_is_protected(move) ? move->job->options.checkpoint_ms : 0,
        .balloon_bytes = move->balloon_bytes,
        .store = move->store || move->witness_agent ? (char *)move->job->options.store : NULL,
        .store_agent = move->store ? (char *)source_store_get_agent(move) : move->witness_agent,
        .lease_ms = get_lease_ms(move),
        .regions = regions,
        .region_count = description->ram_regions->len,
    };

    for (guint i = 0; i < message.region_count; i++) {
        const RamRegion *region = g_ptr_array_index(description->ram_regions, i);

        regions[i] = (WireRegion){region->name, region->bytes};
    }
    return guest_message_encode(&message);
}

/* Pages follow at once; the answer is taken when it comes. */
gboolean source_offer(SourceMove *move, GError **error)
{
    g_autofree char *text = NULL;

    if (!source_journal(move, SOURCE_JOURNAL_MOVING, error)) {
        g_prefix_error(error, "the move cannot be written down: ");
        return FALSE;
    }
    /* The other side does so by GUEST, and confirms nothing before. */
    source_allow_breaks(move);
    text = source_encode_guest(move);
    move->offered = TRUE;
    return session_send_bytes(move->session, FRAME_GUEST, text, strlen(text), error);
}

/* Where that fails the guard puts limits back, and the agent's recovery resumes
 * a guest that is paused. */
static void end_throttle(SourceMove *move)
{
    if (source_end_throttle(move))
        return;
    move->guard_has_work = TRUE;
    move->report->unresumed = TRUE;
}

/* By a connection that is broken nothing is heard; nor by one that is given up. */
static void note_untold(SourceMove *move)
{
    if (move->retry_for_ms == 0 || session_is_connected(move->session))
        return;
    move->report->untold = g_strdup(move->transaction);
    move->report->untold_agent = g_strdup(move->peer.agent);
    move->report->untold_for_ms = move->retry_for_ms;
}

/* Once it is on record that nothing is to be resumed, nothing may pause it. */
void source_withdraw(SourceMove *move)
{
    g_autoptr(GError) reason = NULL;

    if (!move->offered)
        return;
    error_set(&reason, VMFERRY_ERROR_CANCELLED, "the source gave up: %s",
              move->report->error ? move->report->error : "cancelled");
    note_untold(move);
    if (!move->start_sent)
        session_send_abort(move->session, reason);
    end_throttle(move);
    /* A guest that may still be paused is not on record as it was before. */
    source_journal(move, move->report->unresumed ? SOURCE_JOURNAL_PAUSING : SOURCE_JOURNAL_RETURNED,
                   NULL);
}

uint64_t source_get_budget(SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    uint64_t budget = options->memory_budget_bytes ? options->memory_budget_bytes
                                                   : move->report->ram_bytes / BUDGET_SHARE;

    if (options->segments != SENT_STORE_OFF)
        move->report->memory_budget_bytes = budget;
    return budget;
}

static PageCopies *make_copies(SourceMove *move, uint64_t budget)
{
    if (!peer_has_feature(&move->peer, FEATURE_COPIES) ||
        move->job->options.segments == SENT_STORE_OFF)
        return NULL;
    return page_copies_new(move->pages->regions, move->populated_pages, budget / COPIES_SHARE);
}

static gboolean sends_segments(SourceMove *move)
{
    return peer_has_feature(&move->peer, FEATURE_SEGMENTS) &&
           move->job->options.segments != SENT_STORE_OFF;
}

static SentStore *make_store(SourceMove *move, uint64_t budget)
{
    const MigrateOptions *options = &move->job->options;
    const PageRegions *regions = move->pages->regions;
    SentStoreMode mode = options->segments;

    if (!sends_segments(move)) {
        /* What is read again is compared all the same. */
        if (!move->recheck)
            return NULL;
        mode = SENT_STORE_FINGERPRINT;
    }
    if (sends_segments(move))
        move->report->segments = mode;
    return sent_store_new(regions->pages, regions->count, move->populated_pages, budget, mode);
}

/* As many as there are cores for: they wait where the link is what limits. */
/* What is packed together is unpacked for one of its pages, when a guest is restored and waits. */
#define IMAGE_BATCH_PAGES 64u

static guint choose_workers(const MigrateOptions *options)
{
    return options->streams ? options->streams : CLAMP(g_get_num_processors(), 1, MOST_WORKERS);
}

/* A save's file takes what one connection brings, in its order. */
static gboolean make_bulk(SourceMove *move, GError **error)
{
    const MigrateSourceJob *job = move->job;
    BulkSenderOptions options = {.connections = job->options.connections, .channel = &job->channel};

    if (move->image || job->channel.dial || job->options.connections == 1 ||
        !peer_has_feature(&move->peer, FEATURE_BULK_CHANNELS))
        return TRUE;
    move->bulk = bulk_sender_new(move->session, &options, error);
    return move->bulk != NULL;
}

/* Longer ones pack better; a small guest's is no longer than its share. */
static guint choose_window_log(const SourceMove *move)
{
    guint log = PACK_WINDOW_LEAST_LOG;

    while (log < PACK_WINDOW_MOST_LOG && 2ULL << log <= move->report->ram_bytes / WINDOW_SHARE)
        log++;
    return log;
}

static PageSender *make_sender(SourceMove *move)
{
    PageSenderOptions options = {.workers = choose_workers(&move->job->options),
                                 .batch_pages = move->image ? IMAGE_BATCH_PAGES : 0};
    uint64_t budget = source_get_budget(move), taken;
    PageSender *sender;

    options.copies = make_copies(move, budget);
    taken =
        source_seed_get_bytes(move) + (options.copies ? page_copies_get_bytes(options.copies) : 0);
    options.store = make_store(move, budget - MIN(taken, budget));
    options.whole_pages = !sends_segments(move);
    sender =
        page_sender_new(move->pages, session_get_channel(move->session, TRAFFIC_BULK), &options);
    page_sender_set_tally(sender, source_tally, move);
    page_sender_set_link(sender, &move->control.link);
    page_sender_set_bulk(sender, move->bulk);
    page_sender_set_packing(sender, move->job->options.compress,
                            peer_has_feature(&move->peer, FEATURE_PAGES_LZ4),
                            peer_has_feature(&move->peer, FEATURE_PAGES_ZSTD));
    if (peer_has_feature(&move->peer, FEATURE_PAGES_WINDOW) && !move->image)
        page_sender_allow_windows(sender, choose_window_log(move));
    move->report->streams = options.workers;
    return sender;
}

gboolean source_post_guard(SourceMove *move, GError **error)
{
    if (!vmm_get_resume_action(move->job->vmm, &move->resume_action, error))
        return FALSE;
    move->guard = guard_start(vmm_get_pid(move->job->vmm), NULL, error);
    if (move->guard && !vmm_check_process(move->job->vmm, error))
        g_clear_pointer(&move->guard, guard_free);
    return move->guard != NULL;
}

/* All that the guard can do while we live is to restore limits: QEMU's QMP serves
 * one client, and that is we. */
void source_dismiss_guard(SourceMove *move)
{
    (move->guard_has_work ? guard_restore_limits : guard_free)(g_steal_pointer(&move->guard));
}

static gboolean watch_cost(SourceMove *move, GError **error)
{
    GArray *threads = vmm_get_vcpu_threads(move->job->vmm, error);

    if (!threads)
        return FALSE;
    guest_cost_start(&move->cost, vmm_get_pid(move->job->vmm), threads, source_now_ms(move));
    return TRUE;
}

gboolean source_watch(SourceMove *move, GError **error)
{
    move->tracker = tracker_start(move->memory, move->job->options.tracker, error);
    if (!move->tracker)
        return FALSE;
    move->report->tracker = g_strdup(tracker_kind_name(tracker_get_kind(move->tracker)));
    if (!source_recheck_begin(move, error))
        return FALSE;
    move->work = work_set_new(move->memory, move->tracker);
    source_begin_control(move);
    if (!watch_cost(move, error) || !make_bulk(move, error))
        return FALSE;
    move->sender = make_sender(move);
    move->epochs =
        epoch_sender_make(session_get_channel(move->session, TRAFFIC_BULK), move->sender);
    return TRUE;
}

void source_unwatch(SourceMove *move)
{
    end_throttle(move);
    source_describe_sender(move);
    g_clear_pointer(&move->sender, page_sender_free);
    g_clear_pointer(&move->bulk, bulk_sender_free);
    guest_cost_clear(&move->cost);
    g_clear_pointer(&move->work, work_set_free);
    source_recheck_end(move);
    g_clear_pointer(&move->tracker, tracker_free);
}

/* --- the sequence ------------------------------------------------------ */

static const Stage stages[] = {
    STAGE("check", source_describe, NULL),
    STAGE("connect", connect_peer, NULL),
    STAGE("seed", source_seed_ask, NULL),
    STAGE("store", source_store_connect, source_store_withdraw),
    STAGE("guard", source_post_guard, source_dismiss_guard),
    STAGE("disks", source_disks_prepare, source_disks_abort),
    STAGE("reclaim", source_reclaim, source_release_balloon),
    STAGE("track", source_watch, source_unwatch),
    STAGE("offer", source_offer, source_withdraw),
    STAGE("seed's digests", source_seed_await, NULL),
    STAGE("copy disks", source_disks_mirror, NULL),
    STAGE("pre-copy", source_precopy, NULL),
    STAGE("images", source_settle_images, NULL),
    STAGE("verify disks", source_disks_prepare_verify, NULL),
    STAGE("fill store", source_store_fill, NULL),
    STAGE("post-copy", source_prepare_split, source_abandon_split),
    STAGE("pause", source_pause, source_resume),
    STAGE("last round", source_last_round, source_undo_split),
    STAGE("prepare", source_await_ready, NULL),
    /* After START only the destination's answer decides (source_settle). */
    STAGE_FINAL("switchover", source_send_start),
};

static void set_error(SourceMove *move, const char *stage, const GError *error)
{
    g_free(move->report->error);
    move->report->error =
        g_strdup_printf("guest %s: %s: %s", move->job->guest, stage, error->message);
    if (!move->report->reason)
        move->report->reason = g_strdup(vmferry_error_code_name((VmferryErrorCode)error->code));
}

/* A guest that powers off, panics or is killed while it moves makes some stage
 * fail; the stage's own error says nothing of that.  The first stage's does,
 * of a guest that had ended before the move. */
static void note_end(SourceMove *move, guint stage)
{
    VmmRunState state;
    g_autofree char *end = NULL;

    if (!vmm_get_run_state(move->job->vmm, &state, NULL) ||
        (state != VMM_RUN_STATE_GONE && (state != VMM_RUN_STATE_ENDED || stage == 0)))
        return;
    end = vmm_describe_end(move->job->vmm);
    move->report->status = MIGRATE_ENDED;
    g_free(move->report->error);
    move->report->error =
        g_strdup_printf("guest %s: it has ended during the move (%s)", move->job->guest, end);
    g_free(move->report->reason);
    move->report->reason = g_strdup("guest-ended");
}

/* Before the stages are undone: the destination is told why. */
static void note_failure(gpointer user, guint stage, GError **error)
{
    SourceMove *move = user;

    source_deadline_replace_error(move, error);
    move->report->status =
        error_is(*error, VMFERRY_ERROR_CANCELLED) ? MIGRATE_CANCELLED : MIGRATE_FAILED;
    set_error(move, stages[stage].name, *error);
    note_end(move, stage);
}

/* A StageAgain. */
static gboolean go_back(gpointer user, guint stage, const GError *problem, guint *ret_first)
{
    for (guint i = 0; i < stage; i++)
        if (stages[i].run == (StageRun)source_precopy)
            *ret_first = i;
    return source_begin_retracting(user, problem);
}

static void complete(SourceMove *move)
{
    g_autoptr(GError) error = NULL;

    move->report->status = MIGRATE_COMPLETED;
    move->report->start_ms = source_lap_ms(move);
    move->report->downtime_ms = clock_ns_to_ms(clock_now_ns() - move->paused_ns);
    move->report->total_ms = clock_ns_to_ms(clock_now_ns() - move->started_ns);
    source_journal(move, SOURCE_JOURNAL_GONE, NULL);
    source_unwatch(move);
    source_dismiss_guard(move);
    if (!source_end_process(move, &error)) {
        g_prefix_error(&error, "the guest runs at the destination, but its old process remains: ");
        set_error(move, "end", error);
        g_clear_pointer(&move->report->reason, g_free);
        move->report->reason = g_strdup("old-process-remains");
    }
    source_set_phase(move, MIGRATE_PHASE_DONE);
}

static void stay_in_doubt(SourceMove *move, TransactionOutcome outcome, GError *why)
{
    g_autoptr(GError) error = NULL;

    move->report->status = MIGRATE_IN_DOUBT;
    error_set(&error, VMFERRY_ERROR_IN_DOUBT,
              "the destination was told to start it and did not answer (%s); the guest stays "
              "paused here until the "
              "destination can be asked, or you decide with `vmferry resolve`",
              outcome == OUTCOME_LOST ? "the destination host was restarted meanwhile"
              : why                   ? why->message
                                      : "it is still deciding");
    set_error(move, "switchover", error);
    source_unwatch(move);
    /* A paused guest gets its memory back when it runs again here. */
    source_release_balloon(move);
    source_dismiss_guard(move);
}

/* The guest's downtime ends with STARTED; its move with the last page. */
static void complete_split(SourceMove *move, gboolean connected)
{
    g_autoptr(GError) error = NULL;
    double downtime_ms = clock_ns_to_ms(clock_now_ns() - move->paused_ns);
    double start_ms = source_lap_ms(move);
    gboolean whole = source_serve_split(move, connected, &error);

    if (whole)
        complete(move);
    move->report->start_ms = start_ms;
    move->report->downtime_ms = downtime_ms;
    if (whole)
        return;
    move->report->status = MIGRATE_SPLIT;
    set_error(move, "post-copy", error);
    source_unwatch(move);
    source_dismiss_guard(move);
}

static void settle(SourceMove *move)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GError) error = NULL;
    gboolean connected;
    TransactionOutcome outcome = source_settle(move, &connected, &why);

    switch (outcome) {
    case OUTCOME_COMMITTED:
        if (move->switches)
            complete_split(move, connected);
        else
            complete(move);
        break;
    case OUTCOME_ABORTED:
        error_set(&error, VMFERRY_ERROR_FAILED, "the destination gave up at the switchover%s%s",
                  why ? ": " : "", why ? why->message : "");
        set_error(move, "switchover", error);
        stages_undo(stages, G_N_ELEMENTS(stages), move);
        break;
    default:
        stay_in_doubt(move, outcome, why);
        break;
    }
}

void source_clear(SourceMove *move)
{
    source_images_free(move->images);
    source_disks_free(move->disks);
    source_seed_free(move->seed);
    json_decref(move->machine);
    machine_description_free(move->neutral);
    g_strfreev(move->command_line);
    if (move->session) {
        move->report->wire_bytes = session_get_sent_bytes(move->session);
        move->report->breaks = session_count_breaks(move->session);
    }
    if (move->job->rate)
        move_rate_attach(move->job->rate, NULL);
    session_unref(move->session);
    hello_message_clear(&move->peer);
    page_source_free(move->pages);
    guest_memory_free(move->memory);
    vmm_description_free(move->description);
    process_identity_free(move->process);
}

MigrateReport *migrate_source_run(const MigrateSourceJob *job, GCancellable *cancellable)
{
    SourceMove move = {.job = job, .cancellable = cancellable, .started_ns = clock_now_ns()};
    MigrateReport *report = move.report = migrate_report_new();

    report->mode = job->options.mode;
    report->source = g_strdup(job->source_name);
    report->destination = g_strdup(job->destination);
    source_make_transaction_id(move.transaction);
    source_set_phase(&move, MIGRATE_PHASE_CONNECT);
    if (stages_run_again(stages, G_N_ELEMENTS(stages), go_back, note_failure, &move, NULL))
        settle(&move);
    if (report->total_ms <= 0)
        report->total_ms = clock_ns_to_ms(clock_now_ns() - move.started_ns);
    precopy_control_trace_end(&move.control, report->total_ms, report->downtime_ms, report->reason);
    source_images_describe(&move);
    source_disks_describe(&move);
    source_undo_split(&move);
    source_leave_witness(&move);
    delta_store_free(move.deltas);
    kept_writes_free(move.writes);
    source_store_end(&move, report->status != MIGRATE_COMPLETED);
    g_free(move.heat);
    g_free(move.retracted);
    g_clear_pointer(&move.announced, g_ptr_array_unref);
    g_clear_pointer(&move.outstanding, g_ptr_array_unref);
    precopy_control_clear(&move.control);
    source_clear(&move);
    return report;
}

/* A name may lead elsewhere by now, or a host have lost what it knew. */
static gboolean check_agent(Channel *channel, const HelloMessage *peer, const char *agent,
                            GError **error)
{
    if (agent && *agent && strcmp(peer->agent, agent) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s is another agent than the one that the guest was sent to (the name leads to "
              "another host, or that host has lost its state)",
              channel_get_peer_name(channel));
    return FALSE;
}

gboolean migrate_source_resolve(const char *destination, const ChannelOptions *options,
                                const ResolveMessage *question, const char *agent,
                                OutcomeMessage *ret, GError **error)
{
    g_autoptr(Channel) channel =
        channel_connect(destination, options, RESOLVE_TIMEOUT_MS, NULL, error);
    g_autofree char *text = resolve_message_encode(question);
    HelloMessage peer = {0};
    gboolean right;
    guint version;
    Frame frame;

    if (!channel || !handshake_connect(channel, "resolve", &peer, &version, error))
        return FALSE;
    right = check_agent(channel, &peer, agent, error);
    hello_message_clear(&peer);
    return right && channel_send_bytes(channel, FRAME_RESOLVE, text, strlen(text), error) &&
           channel_expect(channel, FRAME_OUTCOME, RESOLVE_TIMEOUT_MS, &frame, error) &&
           outcome_message_decode((const char *)frame.payload, frame.length, question->transaction,
                                  ret, error);
}
