#include "policy/group_account.h"

#include <math.h>

#include "policy/work_set_model.h"

/* A page that is seen dirty in nearly every interval is written often; how
 * often can't be seen. */
#define MOST_SEEN_SHARE 0.98
/* Faults can slow a guest to a tenth, but a guess is not to make it ten times faster
 * than that. */
#define MOST_FAULT_SHARE 0.9
/* Active pages tell of a group's rate as long as this share of them is still protected. */
#define LEFT_SHARE 0.8
/* In a window groups differ from their mean by as much as those that were asked about, by this
 * factor at most. */
#define MOST_ACTIVITY 4.0
/* A group's own cost counts half once this many of its pages were sent. */
#define COST_PAGES 32.0
/* This many pages of the probes tell the resend cost; or else this share of all dirtying, where it
 * is in groups with a cost of their own. */
#define PROBED_PAGES 24u
#define KNOWN_SHARE 0.5
#define COST_MEMORY_PAGES 1024.0
/* Windows weigh in the history for some ten seconds; a group is hot there
 * from this share of the typical one on. */
#define HISTORY_DECAY 0.98
#define HISTORY_HOT_SHARE 0.125

/* Falling sums: bytes / pages is the mean. */
typedef struct {
    double bytes, pages;
} Cost;

typedef struct {
    double asked_at; /* guest ms; mean over the protected pages */
    guint watched;   /* protected pages */
    guint written;   /* pages seen dirty and not protected again since */
    float rate_sum, rate_weight;
    float marked_sum, recaught_sum;    /* Schnabel's sums */
    guint seen;                        /* pages ever seen dirty */
    float window_writes, window_asked; /* active pages that were asked about, times ms */
    float rate_before;                 /* a page's, 1/ms, at the window's beginning */
    float in_window;                   /* estimate of the pages dirtied in this window */
    float to_take, new_to_take;        /* since group_account_take_dirty() */
    float history;
    Cost first_send, resend;
} GroupNotes;

struct GroupAccount {
    guint count;
    ConvergenceGroup *groups;
    GroupNotes *notes;
    GArray *windows; /* of ConvergenceWindow */
    Cost first_send;
    guint probed_pages; /* of the probes, sent again */
    gboolean cost_known;
    gboolean probing; /* as was decided */
    guint probes[GROUP_ACCOUNT_PROBES];
    guint probe_count;
    double guess;
    double run_share, fault_share; /* see the clock */
    double share_since_ms, share_since_guest_ms;
    double window_ms, window_guest_ms; /* its beginning */
};

GroupAccount *group_account_new(guint group_count, double wire_per_page)
{
    GroupAccount *account = g_new0(GroupAccount, 1);

    account->count = group_count;
    account->groups = g_new0(ConvergenceGroup, MAX(group_count, 1));
    account->notes = g_new0(GroupNotes, MAX(group_count, 1));
    account->windows = g_array_new(FALSE, FALSE, sizeof(ConvergenceWindow));
    account->guess = wire_per_page;
    account->run_share = 1;
    return account;
}

void group_account_free(GroupAccount *account)
{
    if (!account)
        return;
    g_free(account->groups);
    g_free(account->notes);
    g_array_unref(account->windows);
    g_free(account);
}

/* The guest's clock. */
static double guest_ms(const GroupAccount *account, double now_ms)
{
    return account->share_since_guest_ms + MAX(now_ms - account->share_since_ms, 0) *
                                               account->run_share * (1 - account->fault_share);
}

static void set_clock(GroupAccount *account, double now_ms, double run_share, double fault_share)
{
    double guest_now = guest_ms(account, now_ms);

    account->share_since_guest_ms = guest_now;
    account->share_since_ms = now_ms;
    account->run_share = run_share;
    account->fault_share = fault_share;
}

void group_account_set_run_share(GroupAccount *account, double now_ms, double run_share)
{
    set_clock(account, now_ms, CLAMP(run_share, CONVERGENCE_LEAST_RUN_SHARE, 1),
              account->fault_share);
}

void group_account_set_fault_share(GroupAccount *account, double now_ms, double fault_share)
{
    set_clock(account, now_ms, account->run_share, CLAMP(fault_share, 0, MOST_FAULT_SHARE));
}

void group_account_set_pages(GroupAccount *account, guint group, guint pages)
{
    g_return_if_fail(group < account->count);
    account->groups[group].pages = pages;
}

void group_account_set_pending(GroupAccount *account, guint group, guint pending, guint unsent)
{
    g_return_if_fail(group < account->count);
    account->groups[group].pending = pending;
    account->groups[group].unsent = MIN(unsent, pending);
}

void group_account_note_watched(GroupAccount *account, guint number, double now_ms, guint pages)
{
    GroupNotes *notes;

    g_return_if_fail(number < account->count);
    notes = &account->notes[number];
    if (pages == 0)
        return;
    notes->asked_at +=
        (guest_ms(account, now_ms) - notes->asked_at) * pages / (double)(notes->watched + pages);
    notes->watched += pages;
    notes->written -= MIN(notes->written, pages);
}

void group_account_note_released(GroupAccount *account, guint group)
{
    g_return_if_fail(group < account->count);
    account->notes[group].watched = account->notes[group].written = 0;
}

/*
 * How many pages of the group are active?  Schnabel's estimate (capture and recapture, Chapman's
 * +1): with n_i pages caught in sample i (found dirty), of which r_i bear a mark (had been found
 * dirty at an earlier time), and m_i marked pages that could be caught,
 *
 *     active = sum(n_i m_i) / (sum(r_i) + 1)
 *
 * since among active pages that are written alike a catch holds marked ones in their proportion,
 * r / n = m / active.  Counting distinct dirty pages instead takes as long as the guest takes to
 * write all of them: seconds, where the decision is due after some hundred ms.
 *
 * What differs from fish:
 * - Only protected pages can be caught, often a sample of the group.  m of the sample (pages_marked
 *   of pages_asked) is scaled up to all pages that may still be protected.
 * - A page that was caught is not protected any more (*written*), and cannot be caught again until
 *   it is sent.  So the quotient above tells of the others only, and *written* is added to it: as
 *   r_i * written under the sum, so that it weighs as its sample does.
 * - Active pages change: the sums fall off exponentially, by the guest's time (*weight*).
 * The estimate is at least what was seen dirty, and at most what is populated.
 */
static void estimate_active(GroupNotes *notes, ConvergenceGroup *group, const GroupSync *sync,
                            double weight)
{
    double seen_before = sync->pages_dirty - MIN(sync->pages_new, sync->pages_dirty);
    double scale = (double)(group->pages - MIN(notes->written, group->pages)) / sync->pages_asked;
    double estimate;

    notes->marked_sum = (float)((1 - weight) * notes->marked_sum +
                                (double)sync->pages_dirty * sync->pages_marked * MAX(scale, 1) +
                                seen_before * notes->written);
    notes->recaught_sum = (float)((1 - weight) * notes->recaught_sum + seen_before);
    notes->seen = MIN(notes->seen + sync->pages_new, group->pages);
    /* Nothing marked yet: as far as is known, all of it is active. */
    estimate = notes->marked_sum > 0 ? notes->marked_sum / (notes->recaught_sum + 1) : group->pages;
    if (notes->seen == 0)
        estimate = 0;
    group->active = (uint32_t)CLAMP(estimate, notes->seen, group->pages);
}

/* Of the pages asked about, how many are active?  Not those that were seen dirty and are not
 * protected since; the others are as likely to be protected as any. */
static double count_active_asked(const GroupNotes *notes, const ConvergenceGroup *group,
                                 const GroupSync *sync)
{
    double others = MAX((double)group->pages - notes->written, sync->pages_asked);
    double left = MAX((double)group->active - notes->written, 0);

    return MAX(MAX(left * sync->pages_asked / others, sync->pages_dirty), 1e-3);
}

/*
 * A page that is written twice between two syncs is found dirty once.  Of t active pages, written
 * at random, w writes leave each clean with the probability exp(-w / t); so n dirty ones are the
 * mark of
 *
 *     w = -t ln(1 - n / t)
 *
 * writes (the classical occupancy problem, inverted).  t are the active pages that were asked
 * about; *times* scales from these to the group.  The rate is the mean of w per ms of the guest's
 * time, falling exponentially with a time constant of GROUP_ACCOUNT_MEMORY_MS; an interval weighs
 * by its length and by the share of the active pages that it asked about.
 */
static void note_rate(GroupNotes *notes, ConvergenceGroup *group, const GroupSync *sync,
                      double elapsed)
{
    double asked = count_active_asked(notes, group, sync);
    double left = (double)group->active - notes->written;
    double writes = -asked * log1p(-MIN(sync->pages_dirty / asked, MOST_SEEN_SHARE));
    double times = MAX(group->active / asked, 1);
    double weight = -expm1(-elapsed / times / GROUP_ACCOUNT_MEMORY_MS);

    /* What is left of a nearly exhausted group is a small difference of two estimates, and its
     * error would be taken for a rate. */
    if (left < LEFT_SHARE * group->active)
        return;
    notes->window_writes += (float)writes;
    notes->window_asked += (float)(asked * elapsed);
    notes->to_take += (float)(sync->pages_dirty * times);
    notes->new_to_take += (float)(MIN(sync->pages_new, sync->pages_dirty) * times);
    notes->rate_sum = (float)((1 - weight) * notes->rate_sum + weight * writes * times / elapsed);
    notes->rate_weight = (float)((1 - weight) * notes->rate_weight + weight);
    if (notes->rate_weight > 0)
        group->dirty_per_ms = notes->rate_sum / notes->rate_weight;
}

/* What a dirty sync tells of rates. */
static void learn(GroupAccount *account, guint number, const GroupSync *sync)
{
    GroupNotes *notes = &account->notes[number];
    ConvergenceGroup *group = &account->groups[number];
    double elapsed = guest_ms(account, sync->now_ms) - notes->asked_at;
    double weight;

    if (group->pages == 0 || elapsed <= 0)
        return;
    weight = -expm1(-elapsed * MIN((double)sync->pages_asked / group->pages, 1) /
                    GROUP_ACCOUNT_MEMORY_MS);
    estimate_active(notes, group, sync, weight);
    note_rate(notes, group, sync, elapsed);
    notes->asked_at += elapsed * MIN((double)sync->pages_asked / MAX(notes->watched, 1), 1);
}

void group_account_note_dirty(GroupAccount *account, guint number, const GroupSync *sync)
{
    GroupNotes *notes;

    g_return_if_fail(number < account->count);
    if (sync->pages_asked == 0)
        return;
    learn(account, number, sync);
    notes = &account->notes[number];
    notes->watched -= MIN(sync->pages_dirty, notes->watched);
    notes->written = MIN(notes->written + sync->pages_dirty, account->groups[number].pages);
}

void group_account_take_dirty(GroupAccount *account, GArray *ret)
{
    for (guint i = 0; i < account->count; i++) {
        GroupNotes *notes = &account->notes[i];
        guint pages = MIN((guint)lrintf(notes->to_take), account->groups[i].pages);
        TraceDirty dirty = {i, (guint16)pages,
                            (guint16)MIN((guint)lrintf(notes->new_to_take), pages)};

        if (pages > 0)
            g_array_append_val(ret, dirty);
        notes->to_take = notes->new_to_take = 0;
    }
}

static void cost_add(Cost *cost, double pages, double bytes)
{
    double keep = exp(-pages / COST_MEMORY_PAGES);

    cost->bytes = keep * cost->bytes + bytes;
    cost->pages = keep * cost->pages + pages;
}

/* A mean of what is known and *otherwise*. */
static double cost_per_page(const Cost *cost, double otherwise)
{
    return (cost->bytes + COST_PAGES * otherwise) / (cost->pages + COST_PAGES);
}

static double mean_cost(const Cost *cost, double otherwise)
{
    return cost->pages > 0 ? cost->bytes / cost->pages : otherwise;
}

static gboolean is_probe(const GroupAccount *account, guint group)
{
    for (guint i = 0; i < account->probe_count; i++)
        if (account->probes[i] == group)
            return TRUE;
    return FALSE;
}

void group_account_note_sent(GroupAccount *account, guint group, guint pages, double wire_bytes,
                             gboolean resent)
{
    g_return_if_fail(group < account->count);
    if (pages == 0)
        return;
    if (!resent)
        cost_add(&account->first_send, pages, wire_bytes);
    cost_add(resent ? &account->notes[group].resend : &account->notes[group].first_send, pages,
             wire_bytes);
    if (resent && account->probed_pages < PROBED_PAGES && is_probe(account, group))
        account->probed_pages += pages;
}

/* Probes are drawn by how much is dirtied, so each counts as much as any other: not by its
 * pages, or those that are written all the time, cheap ones mostly, would speak for all. */
static double mean_of_probes(const GroupAccount *account)
{
    double sum = 0;
    guint count = 0;

    for (guint i = 0; i < account->probe_count; i++) {
        const Cost *resend = &account->notes[account->probes[i]].resend;

        if (resend->pages > 0) {
            sum += resend->bytes / resend->pages;
            count++;
        }
    }
    return sum / MAX(count, 1);
}

/* What sending a page again costs where a group's own cost is not known: that of the dirtying
 * whose cost is.  Negative: too little is. */
static double find_resend_cost(const GroupAccount *account)
{
    double rate = 0, known_rate = 0, known = 0;

    for (guint i = 0; i < account->count; i++) {
        const Cost *resend = &account->notes[i].resend;
        double group_rate = account->groups[i].dirty_per_ms;

        rate += group_rate;
        if (resend->pages > 0) {
            known_rate += group_rate;
            known += group_rate * resend->bytes / resend->pages;
        }
    }
    if (known_rate > KNOWN_SHARE * rate)
        return known / known_rate;
    return account->probed_pages >= PROBED_PAGES ? mean_of_probes(account) : -1;
}

static void refresh_costs(GroupAccount *account)
{
    double first_send = mean_cost(&account->first_send, account->guess);
    double resend = find_resend_cost(account);

    account->cost_known = resend >= 0;
    for (guint i = 0; i < account->count; i++) {
        const GroupNotes *notes = &account->notes[i];
        ConvergenceGroup *group = &account->groups[i];

        group->first_send_per_page = (float)cost_per_page(&notes->first_send, first_send);
        group->resend_per_page =
            (float)cost_per_page(&notes->resend, account->cost_known ? resend : first_send);
    }
}

/* Similarity: the share of this window's pages that lie in groups hot in the history.  Hot is what
 * has HISTORY_HOT_SHARE of the typical weight, the mean weighed by itself (contraharmonic mean), so
 * that many cold groups do not lower the threshold. */
static double similarity(const GroupAccount *account)
{
    double pages = 0, history = 0, history_squared = 0, in_hot = 0, hot;

    for (guint i = 0; i < account->count; i++) {
        double before = account->notes[i].history;

        pages += account->notes[i].in_window;
        history += before;
        history_squared += before * before;
    }
    if (pages == 0 || history == 0)
        return 0;
    hot = HISTORY_HOT_SHARE * history_squared / history;
    for (guint i = 0; i < account->count; i++)
        if (account->notes[i].history >= hot)
            in_hot += account->notes[i].in_window;
    return in_hot / pages;
}

/* A page's rate of late, 1/ms. */
static double page_rate(const GroupAccount *account, guint i)
{
    return account->groups[i].dirty_per_ms / MAX(account->groups[i].active, 1);
}

/* How much more was written in this window than usual, where it could be seen. */
static double find_activity(const GroupAccount *account)
{
    double writes = 0, usual = 0;

    for (guint i = 0; i < account->count; i++) {
        const GroupNotes *notes = &account->notes[i];

        writes += notes->rate_before > 0 ? notes->window_writes : 0;
        usual += notes->rate_before * notes->window_asked;
    }
    return usual > 0 ? MIN(writes / usual, MOST_ACTIVITY) : 1;
}

/* Estimates the pages that this window of *ms* has dirtied in each group: by what was seen
 * there, or else by what is usual there. */
static void estimate_window(GroupAccount *account, double ms)
{
    double activity = find_activity(account);

    for (guint i = 0; i < account->count; i++) {
        GroupNotes *notes = &account->notes[i];
        double active = account->groups[i].active;
        double rate = notes->window_asked > 0 ? notes->window_writes / notes->window_asked
                                              : page_rate(account, i) * activity;

        notes->in_window = (float)(active * -expm1(-rate * ms));
        notes->window_writes = notes->window_asked = 0;
        notes->rate_before = (float)page_rate(account, i);
    }
}

void group_account_end_window(GroupAccount *account, double now_ms, double carried_bytes)
{
    double guest_now = guest_ms(account, now_ms);
    ConvergenceWindow window = {
        .ms = now_ms - account->window_ms,
        .carried_bytes = carried_bytes,
    };

    if (window.ms <= 0)
        return;
    estimate_window(account, guest_now - account->window_guest_ms);
    window.similarity = similarity(account);
    refresh_costs(account);
    window.cost_known = account->cost_known;
    /* The free guest would have written so much more. */
    window.run_share = (guest_now - account->window_guest_ms) / window.ms;
    for (guint i = 0; i < account->count; i++) {
        GroupNotes *notes = &account->notes[i];
        const ConvergenceGroup *group = &account->groups[i];

        /* The same pages, seen in several syncs, would have to be sent once. */
        window.dirtied_bytes += notes->in_window * group->resend_per_page;
        notes->history = (float)(HISTORY_DECAY * notes->history + notes->in_window);
        notes->in_window = 0;
    }
    g_array_append_val(account->windows, window);
    account->window_ms = now_ms;
    account->window_guest_ms = guest_now;
}

void group_account_fill_facts(GroupAccount *account, ConvergenceFacts *facts)
{
    refresh_costs(account);
    facts->groups = account->groups;
    facts->group_count = account->count;
    facts->windows = (const ConvergenceWindow *)account->windows->data;
    facts->window_count = account->windows->len;
    facts->cost_known = account->cost_known;
    facts->run_share = account->run_share;
}

/* Draws groups by their dirtying: where its running sum passes an eighth, three
 * eighths, and so on. */
static void draw_probes(GroupAccount *account)
{
    double all = 0, sum = 0;

    for (guint i = 0; i < account->count; i++)
        all += account->groups[i].dirty_per_ms;
    for (guint i = 0; i < account->count && account->probe_count < GROUP_ACCOUNT_PROBES; i++) {
        sum += account->groups[i].dirty_per_ms;
        if (sum > all * (account->probe_count + 0.5) / GROUP_ACCOUNT_PROBES)
            account->probes[account->probe_count++] = i;
    }
}

double group_account_apply(GroupAccount *account, const ConvergenceDecision *decision)
{
    account->probing = decision->probe;
    if (account->probing && account->probe_count == 0)
        draw_probes(account);
    return convergence_apply_deferral(account->groups, account->count, decision->defer_rate);
}

guint group_account_get_probes(const GroupAccount *account, guint ret[GROUP_ACCOUNT_PROBES])
{
    for (guint i = 0; account->probing && i < account->probe_count; i++)
        ret[i] = account->probes[i];
    return account->probing ? account->probe_count : 0;
}

double group_account_get_use(const GroupAccount *account, guint group)
{
    g_return_val_if_fail(group < account->count, 0);
    return (double)account->groups[group].active / MAX(account->groups[group].pages, 1);
}

gboolean group_account_is_deferred(const GroupAccount *account, guint group)
{
    g_return_val_if_fail(group < account->count, FALSE);
    return account->groups[group].deferred;
}

gboolean group_account_is_all_deferred(const GroupAccount *account)
{
    for (guint i = 0; i < account->count; i++)
        if (account->groups[i].pending > 0 && !account->groups[i].deferred)
            return FALSE;
    return TRUE;
}

double group_account_count_bytes(GroupAccount *account)
{
    double bytes = 0;

    refresh_costs(account);
    for (guint i = 0; i < account->count; i++)
        bytes += work_set_group_bytes(&account->groups[i]);
    return bytes;
}

double group_account_get_heat(const GroupAccount *account, guint group)
{
    g_return_val_if_fail(group < account->count, 0);
    return (double)account->groups[group].dirty_per_ms / MAX(account->groups[group].pages, 1);
}
