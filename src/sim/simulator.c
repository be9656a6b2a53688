#include "sim/simulator.h"

#include <math.h>

#include "base/page.h"
#include "sim/memory.h"
#include "sim/simulator_private.h"

#define SPAN_PAGES 256u
#define DEFAULT_LIMIT_MS 300000.0
/* Of a look's path in the mean. */
#define PATH_WEIGHT 0.2
/* Beyond what a page takes, a round takes so long to be confirmed. */
#define ROUND_MS 1.0

/* The guest runs, for so long; its faults make up for a part of that. */
static void run_guest(Simulation *sim, double ms)
{
    double lost = MIN(sim->owed_ms, ms);
    uint64_t before = sim->memory->faults;

    sim->owed_ms -= lost;
    sim->result.lost_ms += lost;
    sim_workload_run(sim->workload, ms - lost, sim_memory_write, sim->memory);
    sim->owed_ms += (double)(sim->memory->faults - before) * sim->options->fault_ms;
    sim->result.faults = sim->memory->faults;
}

void sim_step(Simulation *sim)
{
    double run_share = sim->decision.run_share;

    sim->now_ms += SIM_STEP_MS;
    if (fmod(sim->now_ms, SIM_SYNC_MS) < SIM_STEP_MS)
        sim->bytes_per_ms = sim->options->bytes_per_ms *
                            (1 + sim->options->jitter * g_rand_double_range(sim->rand, -1, 1));
    sim->credit_bytes += sim->bytes_per_ms * SIM_STEP_MS;
    if (run_share < 1) {
        sim->result.throttled_ms += SIM_STEP_MS;
        sim->result.least_run_share = MIN(sim->result.least_run_share, run_share);
    }
    run_guest(sim, SIM_STEP_MS * run_share);
}

void sim_finish(Simulation *sim, const char *reason)
{
    SimResult *result = &sim->result;

    sim_memory_sync(sim->memory, sim->now_ms);
    result->done = TRUE;
    result->reason = reason;
    result->sent_bytes += sim->memory->pending_bytes;
    result->downtime_ms =
        sim->memory->pending_bytes / sim->options->bytes_per_ms + sim->options->device_ms;
    result->total_ms = sim->now_ms + result->downtime_ms;
}

void sim_note_page(Simulation *sim, guint page, double bytes)
{
    sim->result.sent_bytes += bytes;
    sim->window_bytes += bytes;
    sim->sync_bytes += bytes;
    sim->round_bytes += bytes;
    sim->round_pages++;
    sim->credit_bytes -= bytes;
    if (sim_workload_is_hot(sim->workload, page) && !sim->probing)
        sim->result.hot_pages_sent++;
}

static ConvergenceFacts make_facts(Simulation *sim, gboolean at_round_end)
{
    ConvergenceFacts facts = {
        .rounds = (const ConvergenceRound *)sim->rounds->data,
        .round_count = sim->rounds->len,
        .at_round_end = at_round_end,
        .bytes_per_ms = sim->measured_bytes_per_ms,
        .device_ms = sim->options->device_ms,
        .elapsed_ms = sim->now_ms,
        .promise = sim->options->promise,
    };

    group_account_fill_facts(sim->memory->account, &facts);
    return facts;
}

static void emit(Simulation *sim, char *line)
{
    sim->options->trace(line, sim->options->user);
    g_free(line);
}

static void trace_sync(Simulation *sim)
{
    g_autoptr(GArray) dirty = g_array_new(FALSE, FALSE, sizeof(TraceDirty));

    group_account_take_dirty(sim->memory->account, dirty);
    emit(sim, trace_sync_line(sim->now_ms, (const TraceDirty *)dirty->data, dirty->len));
}

static void note_link(Simulation *sim, double bytes_per_ms)
{
    if (sim->measured_bytes_per_ms <= 0)
        sim->measured_bytes_per_ms = bytes_per_ms;
    sim->measured_bytes_per_ms += PATH_WEIGHT * (bytes_per_ms - sim->measured_bytes_per_ms);
}

static void note_faults(Simulation *sim, double ms)
{
    double share =
        ms > 0 ? (double)(sim->memory->faults - sim->synced_faults) * sim->options->fault_ms / ms
               : 0;

    sim->synced_faults = sim->memory->faults;
    group_account_set_fault_share(sim->memory->account, sim->now_ms, share);
    watch_plan_adjust(&sim->memory->plan, share);
}

static void look(Simulation *sim)
{
    double ms = sim->now_ms - sim->synced_ms;

    sim_memory_peek(sim->memory, sim->now_ms);
    note_faults(sim, ms);
    if (sim->options->trace)
        trace_sync(sim);
    /* A link without anything to carry tells nothing of its speed. */
    if (!sim->idled && ms > SIM_SYNC_MS / 2)
        note_link(sim, sim->sync_bytes / ms);
    sim->idled = FALSE;
    sim->sync_bytes = 0;
    sim->synced_ms = sim->now_ms;
    if (sim->now_ms - sim->window_ms >= CONVERGENCE_WINDOW_MS) {
        group_account_end_window(sim->memory->account, sim->now_ms, sim->window_bytes);
        sim->window_bytes = 0;
        sim->window_ms = sim->now_ms;
    }
}

/* What was read is sent, while the guest goes on. */
static void drain_queue(Simulation *sim)
{
    double end = sim->now_ms + sim->options->queue_ms;

    while (sim->now_ms < end)
        sim_step(sim);
    sim->credit_bytes = 0;
    look(sim);
}

static void decide(Simulation *sim, gboolean at_round_end)
{
    ConvergenceFacts facts = make_facts(sim, at_round_end);
    ConvergenceDecision *decision = &sim->decision;

    *decision = convergence_decide(&facts);
    group_account_apply(sim->memory->account, decision);
    group_account_set_run_share(sim->memory->account, sim->now_ms, decision->run_share);
    sim->result.memory_intensive |= decision->memory_intensive;
    sim->result.probed |= decision->probe;
    if (sim->now_ms <= SIM_FORECAST_MS) {
        sim->result.predicted_downtime_ms = decision->expected_downtime_ms;
        sim->result.predicted_total_ms = decision->expected_total_ms;
    }
    if (sim->options->decided)
        sim->options->decided(sim->now_ms, decision, sim->options->user);
}

static gboolean take_decision(Simulation *sim, gboolean at_round_end)
{
    const ConvergenceDecision *decision = &sim->decision;

    decide(sim, at_round_end);
    if (decision->verdict == CONVERGENCE_STOP && !at_round_end && sim->options->queue_ms > 0) {
        drain_queue(sim);
        decide(sim, TRUE);
    }
    if (decision->verdict == CONVERGENCE_STOP)
        sim_finish(sim, decision->reason);
    if (decision->verdict == CONVERGENCE_GIVE_UP)
        sim->result.reason = decision->reason;
    return decision->verdict == CONVERGENCE_CONTINUE;
}

static int compare_heat(gconstpointer first, gconstpointer second, gpointer user)
{
    double a = group_account_get_heat(user, *(const guint *)first);
    double b = group_account_get_heat(user, *(const guint *)second);

    return (a > b) - (a < b);
}

static void begin_round(Simulation *sim)
{
    g_array_set_size(sim->order, 0);
    for (guint i = 0; i < sim->memory->groups; i++)
        g_array_append_val(sim->order, i);
    g_array_sort_with_data(sim->order, compare_heat, sim->memory->account);
    sim->turn = 0;
    sim->page = sim->span_end = 0;
    sim->round_bytes = 0;
    sim->round_pages = 0;
    sim->round_ms = sim->now_ms;
}

static void end_round(Simulation *sim)
{
    ConvergenceFacts facts;
    ConvergenceRound round = {sim->round_bytes, 0, sim->now_ms - sim->round_ms + ROUND_MS};

    if (sim->round_pages == 0)
        return;
    facts = make_facts(sim, TRUE);
    for (guint i = 0; i < facts.group_count; i++)
        round.left_bytes += work_set_group_bytes(&facts.groups[i]);
    g_array_append_val(sim->rounds, round);
    sim->result.rounds++;
    if (sim->options->trace)
        emit(sim, trace_round_line(
                      &(TraceRound){sim->now_ms, sim->rounds->len - 1, round.sent_bytes,
                                    round.sent_bytes / sim->round_pages, round.left_bytes}));
}

/* The next span of a group with pending pages, collected; FALSE: round's end. */
static gboolean next_span(Simulation *sim)
{
    while (sim->turn < sim->order->len) {
        guint group = g_array_index(sim->order, guint, sim->turn);
        guint end = MIN((group + 1) * GROUP_PAGES, sim->memory->pages);
        guint from = MAX(sim->span_end, group * GROUP_PAGES);

        if (!group_account_is_deferred(sim->memory->account, group))
            from = sim_memory_next_pending(sim->memory, MIN(from, end), end);
        else
            from = end;
        if (from < end) {
            sim->page = from;
            sim->span_end = MIN(from + SPAN_PAGES, end);
            sim_memory_collect(sim->memory, sim->now_ms, from, sim->span_end - from);
            return TRUE;
        }
        sim->turn++;
        sim->span_end = 0;
    }
    return FALSE;
}

/* Before all others. */
static void send_probes(Simulation *sim)
{
    guint probes[GROUP_ACCOUNT_PROBES];
    guint count = group_account_get_probes(sim->memory->account, probes);

    sim->probing = TRUE;
    for (guint i = 0; i < count; i++) {
        guint page = probes[i] * GROUP_PAGES;
        guint end = MIN(page + GROUP_PAGES, sim->memory->pages);

        sim_memory_collect(sim->memory, sim->now_ms, page, end - page);
        for (guint sent = 0; sent < GROUP_ACCOUNT_PROBE_PAGES; sent++) {
            page = sim_memory_next_pending(sim->memory, page, end);
            if (page == end)
                break;
            sim_note_page(sim, page, sim_memory_send(sim->memory, page));
        }
    }
    sim->probing = FALSE;
}

/* Sends what this step's credit allows.  FALSE: the round is over. */
static gboolean send_pages(Simulation *sim)
{
    while (sim->credit_bytes > 0) {
        sim->page = sim_memory_next_pending(sim->memory, sim->page, sim->span_end);
        if (sim->page < sim->span_end)
            sim_note_page(sim, sim->page, sim_memory_send(sim->memory, sim->page));
        else if (!next_span(sim))
            return FALSE;
    }
    return TRUE;
}

static gboolean time_is_up(Simulation *sim)
{
    double limit = sim->options->limit_ms > 0 ? sim->options->limit_ms : DEFAULT_LIMIT_MS;

    if (sim->now_ms < limit)
        return FALSE;
    sim->result.reason = "time-limit";
    return TRUE;
}

/* FALSE: decided. */
static gboolean finish_round(Simulation *sim)
{
    if (sim->round_pages > 0)
        look(sim);
    end_round(sim);
    return take_decision(sim, TRUE);
}

static void run_work_set(Simulation *sim)
{
    sim_memory_peek(sim->memory, sim->now_ms);
    begin_round(sim);
    while (!time_is_up(sim)) {
        gboolean waiting = sim->decision.wait && sim->round_pages == 0;
        gboolean sending;

        sim_step(sim);
        sending = !waiting && send_pages(sim);
        if (!sending && !waiting) {
            if (!finish_round(sim))
                return;
            begin_round(sim);
        }
        if (!sending) {
            sim->idled = TRUE;
            sim->credit_bytes = MIN(sim->credit_bytes, 0);
        }
        if (sim->now_ms - sim->synced_ms >= SIM_SYNC_MS) {
            look(sim);
            if (!take_decision(sim, waiting))
                return;
            sim->decision.wait = FALSE;
            send_probes(sim);
        }
    }
}

static void begin_trace(Simulation *sim)
{
    g_autofree guint16 *pages = g_new0(guint16, MAX(sim->memory->groups, 1));
    ConvergenceFacts facts = make_facts(sim, FALSE);

    for (guint i = 0; i < facts.group_count; i++)
        pages[i] = (guint16)facts.groups[i].pages;
    emit(sim, trace_header_line(pages, facts.group_count, sim->options->bytes_per_ms,
                                sim_workload_name(sim->options->workload.kind)));
}

SimResult sim_run(const SimOptions *options)
{
    g_autoptr(SimWorkload) workload = sim_workload_new(&options->workload);
    g_autoptr(SimMemory) memory = sim_memory_new(workload);
    g_autoptr(GArray) rounds = g_array_new(FALSE, FALSE, sizeof(ConvergenceRound));
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)options->workload.seed);
    g_autoptr(GArray) order = g_array_new(FALSE, FALSE, sizeof(guint));
    Simulation sim = {
        .options = options,
        .workload = workload,
        .memory = memory,
        .rounds = rounds,
        .order = order,
        .rand = rand,
        .bytes_per_ms = options->bytes_per_ms,
        .decision = {.run_share = 1, .defer_rate = INFINITY},
        .result = {.least_run_share = 1, .populated_bytes = memory->pending_bytes},
    };

    if (options->trace)
        begin_trace(&sim);
    if (options->policy == SIM_PAGES)
        sim_run_pages(&sim);
    else
        run_work_set(&sim);
    if (!sim.result.done)
        sim.result.total_ms = sim.now_ms;
    if (options->trace)
        emit(&sim, trace_end_line(sim.result.total_ms, sim.result.downtime_ms, sim.result.reason));
    return sim.result;
}
