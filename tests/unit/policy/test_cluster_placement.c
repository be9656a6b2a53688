/* Who goes where, and why nobody does. */
#include "cluster_fixture.h"

#include <math.h>

/* h0 is hot with four guests of 4 CPUs; others are idle. */
static Fixture *hot_fixture(guint hosts)
{
    Fixture *f = fixture_new(hosts);

    for (guint i = 0; i < 4; i++)
        add_guest(f, 0, 3.9, 4);
    return f;
}

static void test_relieves_a_hot_host(void **state)
{
    g_autofree Fixture *f = hot_fixture(3);
    g_autoptr(GArray) hotspots = hotspots_of(f);
    g_autoptr(ClusterPlan) plan = plan_of(f);
    g_autofree char *text = cluster_move_explain(&f->view, &f->thresholds, hotspots, plan, 0);
    const ClusterMove *move = move_of(plan, 0);

    assert_int_equal(plan->moves->len, 1);
    assert_int_equal(move->from, 0);
    assert_string_equal(f->guests[move->guest].name, "g000");
    assert_string_equal(f->hosts[move->to].name, "h1");
    assert_true(move->from_after.cpu < 0.75 && move->to_after.cpu > 0.2);
    assert_true(move->gain - move->cost >= f->limits.least_profit);
    assert_int_equal(move->n_runners_up, CLUSTER_RUNNERS_UP);
    assert_int_equal(move->runners_up[0].why, CLUSTER_WHY_OUTBIDDEN);
    assert_non_null(strstr(text, "because host h0 uses 97.5 % of its CPUs"));
    assert_non_null(strstr(text, "to h1: CPUs 0 % -> 24 %"));
    assert_non_null(strstr(text, "rules: none"));
    assert_non_null(strstr(text, "not g001 to h1: another move gains more"));
    assert_false(cluster_plan_has_expired(plan, f->view.now_ms));
    assert_true(cluster_plan_has_expired(plan, f->view.now_ms + f->limits.plan_ms));
    assert_int_equal(cluster_move_check(&f->view, &f->limits, move->guest, move->to, NULL),
                     CLUSTER_WHY_NOTHING);
}

/* However uneven. */
static void test_does_nothing_where_all_is_idle(void **state)
{
    g_autofree Fixture *f = fixture_new(8);
    g_autoptr(ClusterPlan) plan = NULL;
    guint g = add_guest(f, 0, 0.6, 4);

    add_guest(f, 0, 0.6, 4);

    /* Waits for something, and not for a CPU of this host. */
    f->guests[g].sla.cpu_wait = 0.05;
    fill(&f->guests[g].cpu_wait, 0.1);
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
    assert_int_equal(plan->answers->len, 1);
    assert_int_equal(answer_of(plan, 0)->why, CLUSTER_WHY_NO_GAIN);
}

static void test_counts_the_load_after_the_move(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);
    g_autoptr(ClusterPlan) plan = NULL;
    g_autofree char *text = NULL;

    add_guest(f, 1, 9.5, 4); /* would be at 84 % */
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
    assert_int_equal(answer_of(plan, 0)->why, CLUSTER_WHY_CPU);
    text = cluster_answer_explain(&f->view, answer_of(plan, 0));
    assert_non_null(strstr(text, "CPUs would be too busy"));
}

/* What it waits for is load there, too. */
static void test_counts_what_a_guest_waits_for(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);
    g_autoptr(ClusterPlan) plan = NULL;

    add_guest(f, 1, 8, 4);
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 1);
    for (guint g = 0; g < 4; g++) {
        f->guests[g].vcpus = 8;
        fill(&f->guests[g].cpu_wait, 0.3);
    }
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
}

static void test_expects_what_was_the_day_before(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);
    g_autoptr(ClusterPlan) plan = NULL;
    ClusterHistory history = {0};
    guint g = add_guest(f, 1, 2, 4);

    for (guint hour = 0; hour < 24; hour++)
        for (guint i = 0; i < 360; i++)
            cluster_history_add(&history, (hour * 360 + i) * 10000.0, hour == 2 ? 10 : 2);
    f->guests[g].vcpus = 12;
    f->view.now_ms = 24 * 3600000.0 + 8 * 3600000.0;
    f->guests[g].cpu_history = &history;
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 1);
    f->view.now_ms = 24 * 3600000.0 + 1.5 * 3600000.0;
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
}

static void expect_stopped(Fixture *f, ClusterWhy why)
{
    g_autoptr(ClusterPlan) plan = plan_of(f);

    assert_int_equal(plan->moves->len, 0);
    assert_string_equal(cluster_why_name(answer_of(plan, 0)->why), cluster_why_name(why));
    assert_int_equal(cluster_move_check(&f->view, &f->limits, 0, 1, NULL), why);
}

static void test_hard_limits(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);

    f->limits.frozen = TRUE;
    expect_stopped(f, CLUSTER_WHY_FROZEN);
    f->limits.frozen = FALSE;
    f->limits.quiet = TRUE;
    expect_stopped(f, CLUSTER_WHY_QUIET_HOURS);
    f->limits.quiet = FALSE;
    f->hosts[0].moves = 1;
    expect_stopped(f, CLUSTER_WHY_SOURCE_MOVES);
    f->hosts[0].moves = 0;
    f->hosts[1].moves = 1;
    expect_stopped(f, CLUSTER_WHY_DESTINATION_MOVES);
    f->hosts[1].moves = 0;
    f->hosts[0].moves_lately = 20;
    expect_stopped(f, CLUSTER_WHY_SOURCE_HOUR);
    f->hosts[0].moves_lately = 0;
    f->hosts[1].moves_lately = 20;
    expect_stopped(f, CLUSTER_WHY_DESTINATION_HOUR);
    f->hosts[1].moves_lately = 0;
    f->hosts[1].drained = TRUE;
    expect_stopped(f, CLUSTER_WHY_DRAINED);
    f->hosts[1].drained = FALSE;
    f->hosts[1].accepts = FALSE;
    expect_stopped(f, CLUSTER_WHY_NOT_ACCEPTING);
    f->hosts[1].accepts = TRUE;
    f->hosts[1].usable = FALSE;
    expect_stopped(f, CLUSTER_WHY_DESTINATION_UNUSABLE);
}

static void test_guests_that_stay(void **state)
{
    static const struct {
        ClusterMobility mobility;
        ClusterWhy why;
    } rows[] = {{CLUSTER_PINNED, CLUSTER_WHY_PINNED},
                {CLUSTER_NOT_MOVABLE, CLUSTER_WHY_NOT_MOVABLE},
                {CLUSTER_IN_MOTION, CLUSTER_WHY_IN_MOTION}};

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree Fixture *f = hot_fixture(2);

        for (guint g = 0; g < 4; g++)
            f->guests[g].mobility = rows[i].mobility;
        expect_stopped(f, rows[i].why);
    }
}

static void test_memory_is_never_promised_twice(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);

    f->hosts[1].memory_bytes = 5 * GIB; /* 2 of them are reserve */
    fill(&f->hosts[1].memory_available, 5 * GIB);
    expect_stopped(f, CLUSTER_WHY_MEMORY);
    /* It says that it has more than it can have, with guests there. */
    f->hosts[1].memory_bytes = 64 * GIB;
    add_guest(f, 1, 0.1, 60);
    fill(&f->hosts[1].memory_available, 1000 * GIB);
    expect_stopped(f, CLUSTER_WHY_MEMORY);
}

static void test_destinations_are_kept(void **state)
{
    static const guint only[] = {2};
    g_autofree Fixture *f = hot_fixture(3);
    g_autoptr(ClusterPlan) plan = NULL;

    for (guint g = 0; g < 4; g++) {
        f->guests[g].destinations = only;
        f->guests[g].n_destinations = 1;
    }
    plan = plan_of(f);
    assert_int_equal(move_of(plan, 0)->to, 2);
    assert_int_equal(cluster_move_check(&f->view, &f->limits, 0, 1, NULL),
                     CLUSTER_WHY_NOT_A_DESTINATION);
}

/* Twice as long each time that it came back. */
static void test_cool_down_and_back_off(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);
    ClusterGuest *guest = &f->guests[0];

    for (guint g = 0; g < 4; g++)
        f->guests[g].moved_at_ms = f->view.now_ms - 60000;
    expect_stopped(f, CLUSTER_WHY_COOL_DOWN);
    guest->returns = 0;
    assert_true(cluster_cool_down_ends_ms(guest, &f->limits) ==
                guest->moved_at_ms + f->limits.cool_down_ms);
    guest->returns = 2;
    assert_true(cluster_cool_down_ends_ms(guest, &f->limits) ==
                guest->moved_at_ms + 4 * f->limits.cool_down_ms);
    guest->returns = 1000;
    assert_true(cluster_cool_down_ends_ms(guest, &f->limits) ==
                guest->moved_at_ms + 24 * 3600000.0);
}

/* A move that is under way already relieves the host, and fills the other one. */
static void test_guests_in_motion_count_at_both(void **state)
{
    g_autofree Fixture *f = hot_fixture(3);
    g_autoptr(ClusterPlan) plan = NULL;

    f->limits.moves_per_host = 4;
    f->guests[1].to = 1;
    f->guests[1].mobility = CLUSTER_IN_MOTION;
    f->hosts[0].moves = f->hosts[1].moves = 1;
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
    assert_true(answer_of(plan, 0)->under_way);
    add_guest(f, 0, 5, 4);
    f->hosts[2].accepts = FALSE;
    f->guests[0].memory_bytes = 60 * GIB; /* with the one that comes: too much */
    for (guint g = 2; g < 5; g++)
        f->guests[g].mobility = CLUSTER_PINNED;
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
    assert_int_equal(answer_of(plan, 0)->stopped[CLUSTER_WHY_MEMORY], 1);
}

/* ---- rules ---- */

static void set_rule(Fixture *f, ClusterRuleKind kind, gboolean strict, const guint *guests,
                     guint n_guests, const guint *hosts, guint n_hosts)
{
    f->rules[f->view.n_rules++] =
        (ClusterRule){"rule", kind, strict, guests, n_guests, hosts, n_hosts};
}

static void test_apart(void **state)
{
    static const guint pair[] = {0, 4};

    for (gboolean strict = FALSE; strict <= TRUE; strict++) {
        g_autofree Fixture *f = hot_fixture(2);
        g_autoptr(ClusterPlan) plan = NULL;
        guint rule = CLUSTER_NONE;

        add_guest(f, 1, 1, 4);
        for (guint g = 1; g < 4; g++)
            f->guests[g].mobility = CLUSTER_PINNED;
        set_rule(f, CLUSTER_RULE_APART, strict, pair, 2, NULL, 0);
        plan = plan_of(f);
        assert_int_equal(plan->moves->len, strict ? 0 : 1);
        if (strict) {
            assert_int_equal(cluster_move_check(&f->view, &f->limits, 0, 1, &rule),
                             CLUSTER_WHY_RULE);
            assert_int_equal(rule, 0);
        } else {
            assert_int_equal(move_of(plan, 0)->n_rules, 1);
        }
    }
}

static void test_together_moves_together(void **state)
{
    static const guint pair[] = {0, 1};
    g_autofree Fixture *f = hot_fixture(3);
    g_autoptr(ClusterPlan) plan = NULL;

    f->guests[2].mobility = f->guests[3].mobility = CLUSTER_PINNED;
    set_rule(f, CLUSTER_RULE_TOGETHER, TRUE, pair, 2, NULL, 0);
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 2);
    assert_int_equal(move_of(plan, 0)->to, move_of(plan, 1)->to);
    assert_int_equal(move_of(plan, 1)->after, 0);
    assert_int_equal(move_of(plan, 1)->group, 0);
    /* One of them cannot: then neither does. */
    f->guests[1].mobility = CLUSTER_PINNED;
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
}

static void test_follows_the_one_that_it_has_to_be_with(void **state)
{
    static const guint pair[] = {0, 4};
    g_autofree Fixture *f = hot_fixture(4);

    add_guest(f, 3, 1, 4);
    set_rule(f, CLUSTER_RULE_TOGETHER, TRUE, pair, 2, NULL, 0);
    assert_int_equal(cluster_move_check(&f->view, &f->limits, 0, 1, NULL), CLUSTER_WHY_RULE);
    assert_int_equal(cluster_move_check(&f->view, &f->limits, 0, 3, NULL), CLUSTER_WHY_NOTHING);
}

static void test_hosts(void **state)
{
    static const guint all[] = {0, 1, 2, 3}, two[] = {0, 2};
    g_autofree Fixture *f = hot_fixture(3);
    g_autoptr(ClusterPlan) plan = NULL;

    set_rule(f, CLUSTER_RULE_HOSTS, TRUE, all, 4, two, 2);
    plan = plan_of(f);
    assert_int_equal(move_of(plan, 0)->to, 2);
    f->rules[0].strict = FALSE;
    f->hosts[2].accepts = FALSE;
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(move_of(plan, 0)->to, 1);
}

/* ---- cost ---- */

static void test_memory_intensive_guests_are_dear(void **state)
{
    g_autofree Fixture *f = hot_fixture(2);
    g_autoptr(ClusterPlan) plan = NULL;

    f->guests[0].move_ms = 600000;
    f->guests[0].move_pause_ms = 4000;
    plan = plan_of(f);
    assert_int_equal(move_of(plan, 0)->guest, 1);
    for (guint g = 0; g < 4; g++) {
        f->guests[g].move_ms = 6000000;
        f->guests[g].move_pause_ms = 40000;
    }
    cluster_plan_free(g_steal_pointer(&plan));
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 0);
    assert_int_equal(answer_of(plan, 0)->why, CLUSTER_WHY_NO_GAIN);
}

/* Nobody has room for one more, and two hosts have for each other's. */
static void test_swap(void **state)
{
    g_autofree Fixture *f = fixture_new(2);
    g_autoptr(ClusterPlan) plan = NULL;

    add_guest(f, 0, 7.5, 20);
    add_guest(f, 0, 7.5, 20);
    for (guint i = 0; i < 3; i++)
        add_guest(f, 1, 2.5, 10);
    f->guests[0].vcpus = f->guests[1].vcpus = 8;
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, 2);
    assert_true(move_of(plan, 0)->swap && move_of(plan, 1)->swap);
    assert_int_equal(move_of(plan, 1)->after, 0);
    assert_int_equal(move_of(plan, 0)->from, move_of(plan, 1)->to);
    assert_true(move_of(plan, 0)->gain - move_of(plan, 0)->cost >= f->limits.least_profit);
}

/* What was planned as a swap can be begun, and its second half can follow; neither could go alone. */
static void test_swap_check(void **state)
{
    g_autofree Fixture *f = fixture_new(2);
    const ClusterThresholds thresholds = cluster_thresholds_default();
    guint big = add_guest(f, 0, 7.5, 20), small;

    add_guest(f, 0, 7.5, 20);
    small = add_guest(f, 1, 2.5, 10);
    add_guest(f, 1, 2.5, 10);
    add_guest(f, 1, 2.5, 10);
    f->guests[0].vcpus = f->guests[1].vcpus = 8;
    assert_int_equal(cluster_move_check(&f->view, &f->limits, big, 1, NULL), CLUSTER_WHY_CPU);
    assert_int_equal(cluster_swap_check(&f->view, &f->limits, &thresholds, big, 1, small, NULL),
                     CLUSTER_WHY_NOTHING);
    assert_int_equal(
        cluster_swap_check(&f->view, &f->limits, &thresholds, big, 1, CLUSTER_NONE, NULL),
        CLUSTER_WHY_CPU);
    assert_int_equal(cluster_swap_check(&f->view, &f->limits, &thresholds, small, 0, big, NULL),
                     CLUSTER_WHY_NOTHING);
    f->limits.frozen = TRUE;
    assert_int_equal(cluster_swap_check(&f->view, &f->limits, &thresholds, big, 1, small, NULL),
                     CLUSTER_WHY_FROZEN);
}

/* ---- storms ---- */

static void test_no_storm(void **state)
{
    g_autofree Fixture *f = fixture_new(60);
    g_autoptr(ClusterPlan) plan = NULL;

    for (guint h = 0; h < 30; h++)
        for (guint i = 0; i < 4; i++)
            add_guest(f, h, 3.9, 4);
    plan = plan_of(f);
    assert_int_equal(plan->moves->len, f->limits.moves);
    assert_int_equal(plan->answers->len, 30);
    assert_int_equal(answer_of(plan, 29)->why, CLUSTER_WHY_CLUSTER_MOVES);
}

/* ---- properties ---- */

static void random_fixture(Fixture *f, GRand *rand)
{
    guint guests = (guint)g_rand_int_range(rand, 20, 120);

    for (guint i = 0; i < guests; i++) {
        guint host = (guint)g_rand_int_range(rand, 0, (gint32)(f->view.n_hosts / 2 + 1));
        guint g = add_guest(f, host, g_rand_double_range(rand, 0.1, 4),
                            (double)g_rand_int_range(rand, 1, 9));

        f->guests[g].mobility = g_rand_double(rand) < 0.1 ? CLUSTER_PINNED : CLUSTER_CAN_MOVE;
        fill(&f->guests[g].cpu_wait, g_rand_double_range(rand, 0, 0.1));
        f->guests[g].sla.cpu_wait = 0.05;
    }
    for (guint h = 0; h < f->view.n_hosts; h++)
        f->hosts[h].accepts = g_rand_double(rand) < 0.8;
    f->limits.moves = 30;
    f->limits.moves_per_host = (guint)g_rand_int_range(rand, 1, 4);
}

static void add_random_rules(Fixture *f, GRand *rand, guint guests[4][3], guint hosts[4][3])
{
    for (guint r = 0; r < 4; r++) {
        for (guint i = 0; i < 3; i++) {
            guests[r][i] = (guint)(r * 5 + i); /* each guest in one rule: nothing contradicts */
            hosts[r][i] = (guint)g_rand_int_range(rand, 0, (gint32)f->view.n_hosts);
        }
        set_rule(f, (ClusterRuleKind)(r % 3), TRUE, guests[r], 3, hosts[r], 3);
    }
}

/* What must hold of each move, by the plain words of the rules. */
static void check_move(const Fixture *f, const ClusterPlan *plan, guint index)
{
    const ClusterMove *move = move_of(plan, index);
    const ClusterHost *to = &f->hosts[move->to];
    double memory = 0;

    assert_true(to->accepts && to->usable && !to->drained);
    assert_int_equal(f->guests[move->guest].mobility, CLUSTER_CAN_MOVE);
    for (guint g = 0; g < f->view.n_guests; g++)
        memory += f->guests[g].host == move->to ? f->guests[g].memory_bytes : 0;
    for (guint i = 0; i <= index; i++)
        memory +=
            move_of(plan, i)->to == move->to ? f->guests[move_of(plan, i)->guest].memory_bytes : 0;
    if (!move->swap)
        assert_true(memory <= to->memory_bytes - to->memory_reserve_bytes);
    assert_true(move->to_after.cpu <= f->limits.destination_cpu);
}

static guint place_after(const Fixture *f, const ClusterPlan *plan, guint guest)
{
    for (guint i = 0; i < plan->moves->len; i++)
        if (move_of(plan, i)->guest == guest)
            return move_of(plan, i)->to;
    return f->guests[guest].host;
}

/* A rule that was kept is kept afterwards. */
static void check_rules(const Fixture *f, const ClusterPlan *plan)
{
    for (guint r = 0; r < f->view.n_rules; r++) {
        const ClusterRule *rule = &f->rules[r];

        for (guint i = 0; i < rule->n_guests; i++) {
            guint a = rule->guests[i], place = place_after(f, plan, a);
            gboolean moved = place != f->guests[a].host, allowed = FALSE;

            for (guint h = 0; h < rule->n_hosts; h++)
                allowed = allowed || rule->hosts[h] == place;
            if (rule->kind == CLUSTER_RULE_HOSTS && moved)
                assert_true(allowed);
            for (guint j = 0; j < rule->n_guests; j++) {
                guint b = rule->guests[j];

                if (b == a || !moved)
                    continue;
                if (rule->kind == CLUSTER_RULE_APART) {
                    assert_true(place_after(f, plan, b) != place);
                    assert_true(f->guests[b].host != place);
                } else if (rule->kind == CLUSTER_RULE_TOGETHER &&
                           f->guests[a].host == f->guests[b].host) {
                    assert_int_equal(place_after(f, plan, b), place);
                }
            }
        }
    }
}

static void test_properties(void **state)
{
    guint moves = 0;

    for (guint seed = 1; seed <= 150; seed++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        g_autofree Fixture *f = fixture_new(20);
        g_autoptr(ClusterPlan) plan = NULL;
        guint guests[4][3], hosts[4][3];

        random_fixture(f, rand);
        add_random_rules(f, rand, guests, hosts);
        plan = plan_of(f);
        for (guint i = 0; i < plan->moves->len; i++)
            check_move(f, plan, i);
        check_rules(f, plan);
        moves += plan->moves->len;
    }
    assert_true(moves > 300);
}

static char *plan_text(const Fixture *f)
{
    g_autoptr(ClusterPlan) plan = plan_of(f);
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < plan->moves->len; i++) {
        const ClusterMove *move = move_of(plan, i);

        g_string_append_printf(text, "%s %s->%s %.17g %.17g\n", f->guests[move->guest].name,
                               f->hosts[move->from].name, f->hosts[move->to].name, move->gain,
                               move->cost);
    }
    for (guint i = 0; i < plan->answers->len; i++)
        g_string_append_printf(text, "%s %s\n", f->hosts[answer_of(plan, i)->host].name,
                               cluster_why_name(answer_of(plan, i)->why));
    return g_string_free(text, FALSE);
}

/* The same cluster, its hosts and guests in another order. */
static Fixture *shuffled(const Fixture *f, GRand *rand)
{
    Fixture *other = g_memdup2(f, sizeof(*f));
    guint places[MOST_HOSTS];

    other->view.hosts = other->hosts;
    other->view.guests = other->guests;
    other->view.rules = other->rules;
    for (guint h = 0; h < f->view.n_hosts; h++)
        places[h] = h;
    for (guint h = f->view.n_hosts - 1; h > 0; h--) {
        guint at = (guint)g_rand_int_range(rand, 0, (gint32)h + 1), kept = places[h];

        places[h] = places[at];
        places[at] = kept;
    }
    for (guint h = 0; h < f->view.n_hosts; h++)
        other->hosts[places[h]] = f->hosts[h];
    for (guint g = 0; g < f->view.n_guests; g++)
        other->guests[g].host = places[f->guests[g].host];
    for (guint g = f->view.n_guests - 1; g > 0; g--) {
        guint at = (guint)g_rand_int_range(rand, 0, (gint32)g + 1);
        ClusterGuest kept = other->guests[g];

        other->guests[g] = other->guests[at];
        other->guests[at] = kept;
    }
    return other;
}

/* Figures that differ from reading to reading, so that their sums are rounded, and by order differently. */
static void make_uneven(Fixture *f, GRand *rand)
{
    for (guint g = 0; g < f->view.n_guests; g++) {
        ClusterGuest *guest = &f->guests[g];

        for (guint i = 0; i < CLUSTER_SAMPLES; i++) {
            float factor = (float)g_rand_double_range(rand, 0.7, 1.3);

            guest->cpu.values[i] *= factor;
            guest->network.values[i] = (float)exp(g_rand_double_range(rand, 0, 18));
        }
        guest->resident_bytes *= g_rand_double_range(rand, 0.3, 1);
        guest->memory_bytes *= g_rand_double_range(rand, 0.5, 1);
        guest->move_ms *= g_rand_double(rand);
    }
}

static void test_order_does_not_matter(void **state)
{
    for (guint seed = 1; seed <= 60; seed++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        g_autofree Fixture *f = fixture_new(20);
        g_autofree Fixture *other = NULL;
        g_autofree char *first = NULL, *again = NULL, *elsewhere = NULL;

        random_fixture(f, rand);
        make_uneven(f, rand);
        other = shuffled(f, rand);
        first = plan_text(f);
        again = plan_text(f);
        elsewhere = plan_text(other);
        assert_string_equal(first, again);
        assert_string_equal(first, elsewhere);
    }
}

static void test_empty_limits(void **state)
{
    ClusterLimits limits = cluster_limits_default();
    g_autoptr(GError) error = NULL;

    assert_true(cluster_limits_check(&limits, NULL));
    limits.destination_cpu = NAN;
    assert_false(cluster_limits_check(&limits, &error));
    assert_non_null(strstr(error->message, "destination-cpu"));
    limits = (ClusterLimits){0};
    assert_false(cluster_limits_check(&limits, NULL));
}

static void test_quiet_hours(void **state)
{
    static const ClusterQuietHours hours[] = {{22 * 60, 6 * 60}, {12 * 60, 13 * 60}};

    assert_true(cluster_is_quiet(hours, 2, 23 * 60));
    assert_true(cluster_is_quiet(hours, 2, 0));
    assert_false(cluster_is_quiet(hours, 2, 6 * 60));
    assert_true(cluster_is_quiet(hours, 2, 12 * 60 + 59));
    assert_false(cluster_is_quiet(hours, 2, 13 * 60));
    assert_false(cluster_is_quiet(hours, 0, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relieves_a_hot_host),
        cmocka_unit_test(test_does_nothing_where_all_is_idle),
        cmocka_unit_test(test_counts_the_load_after_the_move),
        cmocka_unit_test(test_counts_what_a_guest_waits_for),
        cmocka_unit_test(test_expects_what_was_the_day_before),
        cmocka_unit_test(test_hard_limits),
        cmocka_unit_test(test_guests_that_stay),
        cmocka_unit_test(test_memory_is_never_promised_twice),
        cmocka_unit_test(test_destinations_are_kept),
        cmocka_unit_test(test_cool_down_and_back_off),
        cmocka_unit_test(test_guests_in_motion_count_at_both),
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_together_moves_together),
        cmocka_unit_test(test_follows_the_one_that_it_has_to_be_with),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_memory_intensive_guests_are_dear),
        cmocka_unit_test(test_swap),
        cmocka_unit_test(test_swap_check),
        cmocka_unit_test(test_no_storm),
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_order_does_not_matter),
        cmocka_unit_test(test_empty_limits),
        cmocka_unit_test(test_quiet_hours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
