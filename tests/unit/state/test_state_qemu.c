#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "golden_state.h"
#include "state/qemu_map.h"
#include "state/schema.h"
#include "state/state_qemu.h"
#include "state/tree_private.h"

static StateNode *read_state(GBytes *stream)
{
    g_autoptr(GError) error = NULL;
    StateNode *root =
        state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &error);

    if (!root)
        fail_msg("%s", error->message);
    return root;
}

static GBytes *write_state(const StateNode *root, GBytes *template_stream)
{
    g_autoptr(GError) error = NULL;
    GBytes *stream = state_to_qemu(root, g_bytes_get_data(template_stream, NULL),
                                   g_bytes_get_size(template_stream), &error);

    if (!stream)
        fail_msg("%s", error->message);
    return stream;
}

static void expect_equal(const StateNode *left, const StateNode *right)
{
    g_autoptr(GPtrArray) found = state_compare(left, right);
    const StateDifference *first = found->len ? found->pdata[0] : NULL;

    if (first)
        fail_msg("%s: %s, %s", first->path, first->left, first->right);
}

/* Whoever uses a table has a state that the schema knows, and loses nothing on the way back. */
static void test_there_and_back_each_bit_is_the_same(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(golden_names); i++) {
        g_autoptr(GBytes) stream = golden_stream(golden_names[i]);
        g_autoptr(StateNode) root = read_state(stream);
        g_autoptr(GBytes) again = write_state(root, stream);
        g_autoptr(GError) error = NULL;

        assert_true(g_bytes_equal(stream, again));
        if (i < GOLDEN_PCS && !state_check(root, &error))
            fail_msg("%s: %s", golden_names[i], error->message);
    }
}

static void test_what_no_other_vmm_has_is_refused_by_name(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("microvm-10.0");
    g_autoptr(StateNode) root = read_state(stream);
    g_autoptr(GError) error = NULL;

    assert_non_null(state_find_device(root, "qemu,virtio-blk", NULL));
    assert_false(state_check(root, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "\"qemu,acpi-ged\""));
}

/* Figures of a guest that is known: Linux 6.1, idle, two processors. */
static void test_a_known_guest(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2");
    g_autoptr(StateNode) root = read_state(stream);
    const StateNode *com1 = state_find_device(root, "ns,16550a", "io:3f8");
    const StateNode *card = state_find_device(root, "intel,82540em", "pci:00:03.0");
    int64_t until = 0, since = 0;
    size_t length;

    assert_int_equal(state_length(state_find(root, "cpus")), 2);
    assert_int_equal(state_number_or(root, "cpus[0].activity", 9), 1);
    assert_int_equal(state_number_or(root, "cpus[1].cs.access", 0), 0xa09b);
    assert_int_equal(state_number_or(root, "cpus[0].local_apic.dfr", 0), 0xffffffff);
    assert_true(state_get_time(root, "cpus[0].local_apic.until_fire", &until) && until > 0);
    assert_true(state_get_time(root, "clock.since_start", &since) && since > 20000000000);
    assert_int_equal(state_number_or(root, "clock.tsc", 0),
                     state_number_or(root, "cpus[1].ia32_tsc", 1));
    assert_int_equal(state_number_or(com1, "divisor", 0), 12);
    /* Its station address, 52:54:00:12:34:56, as the driver wrote it: RAL0 (8254x manual, 13.4.56). */
    assert_memory_equal(state_get_bytes(card, "registers", &length) + 0x5400,
                        "\x52\x54\x00\x12\x34\x56", 6);
}

static uint64_t count_of(GBytes *stream, guint input)
{
    g_autoptr(QemuForm) form =
        qemu_form_read(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), NULL);
    QemuSection *bus = qemu_form_find(form, "PCIBUS", 0);
    g_autofree char *path = g_strdup_printf("irq_count[%u]", input);
    uint64_t count = 9;

    assert_true(qemu_get_number(bus->record, path, &count));
    return count;
}

/* QEMU counts what its devices assert; the third slot's first line is the chipset's third input. */
static void test_asserted_interrupts_are_counted(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2");
    g_autoptr(StateNode) root = read_state(stream);
    StateNode *card = (StateNode *)state_find_device(root, "intel,82540em", "pci:00:03.0");
    g_autoptr(GBytes) asserted = NULL;
    g_autoptr(GBytes) again = NULL;

    state_set_number(card, "intx[0]", 1);
    asserted = write_state(root, stream);
    for (guint i = 0; i < 4; i++)
        assert_int_equal(count_of(asserted, i), count_of(stream, i) + (i == 2));
    state_set_number(card, "intx[0]", 0);
    again = write_state(root, asserted);
    assert_true(g_bytes_equal(again, stream));
}

/* ---- states that are drawn ---- */

/* Of each machine. */
#define DRAWN 200u

/* What a stream cannot have at all: it follows from something else. */
static gboolean follows(const char *name)
{
    static const char *const names[] = {"pm_timer", "ia32_tsc", "tsc",          "activity", "type",
                                        "at",       "tsc_hz",   "architecture", "chipset",  "a20"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(names[i], name) == 0)
            return TRUE;
    return FALSE;
}

/* What has fewer bits in QEMU than in the manual. */
static uint64_t kept_bits(const char *name, uint64_t value)
{
    if (strcmp(name, "ldr") == 0)
        return value & 0xff000000;
    if (strcmp(name, "dfr") == 0)
        return value | 0x0fffffff;
    if (strcmp(name, "access") == 0)
        return value & 0xf0ff;
    if (strcmp(name, "ia32_apic_base") == 0)
        return value & G_MAXUINT32;
    if (strcmp(name, "id") == 0)
        return value & 0xff;
    return value;
}

static void draw_children(StateNode *node, const StateField *field, const StateGroup *group,
                          GRand *draw);

static void draw_node(StateNode *node, const StateField *field, const char *name, GRand *draw)
{
    uint64_t value = (guint64)g_rand_int(draw) << 32 | g_rand_int(draw);

    if (!field || follows(name))
        return;
    if (node->kind == STATE_GROUP) {
        draw_children(node, NULL, state_schema_group(field, node), draw);
    } else if (node->kind == STATE_LIST) {
        draw_children(node, field, NULL, draw);
    } else if (node->kind == STATE_NUMBER) {
        node->number = kept_bits(name, value >> (64 - field->bits));
    } else if (node->kind == STATE_TIME) {
        node->number = value >> 2;
    } else if (node->kind == STATE_BYTES) {
        gsize length = g_bytes_get_size(node->bytes);
        g_autofree guint8 *bytes = g_malloc0(length + 1);

        for (gsize i = 0; i < length; i++)
            bytes[i] = (guint8)(value >> (i % 57));
        g_bytes_unref(node->bytes);
        node->bytes = g_bytes_new(bytes, length);
    }
}

static void draw_children(StateNode *node, const StateField *field, const StateGroup *group,
                          GRand *draw)
{
    for (guint i = 0; i < node->children->len; i++) {
        StateNode *child = node->children->pdata[i];

        if (child->name)
            field = state_schema_field(group, child->name);
        draw_node(child, field, state_name(child), draw);
    }
}

/* Each state that a machine can have, written over another one of that machine, is read again as it was; and that one,
 * written again, is the same stream bit by bit. */
static void check_drawn(const StateNode *machine, GBytes *stream, guint seed)
{
    g_autoptr(GRand) draw = g_rand_new_with_seed(seed);
    g_autoptr(StateNode) root = state_copy(machine), again = NULL;
    g_autoptr(GBytes) written = NULL, twice = NULL;

    draw_children(root, NULL, state_schema_root(), draw);
    written = write_state(root, stream);
    again = read_state(written);
    /* Which the clock decides. */
    state_set_number(
        (StateNode *)state_find_device(root, "intel,piix4-pm", NULL), "pm_timer",
        state_number_or(state_find_device(again, "intel,piix4-pm", NULL), "pm_timer", 0));
    expect_equal(root, again);
    twice = write_state(again, written);
    assert_true(g_bytes_equal(written, twice));
}

static void test_drawn_states_are_kept(void **unused)
{
    for (guint i = 0; i < GOLDEN_PCS; i++) {
        g_autoptr(GBytes) stream = golden_stream(golden_names[i]);
        g_autoptr(StateNode) machine = read_state(stream);

        for (guint seed = 0; seed < DRAWN; seed++)
            check_drawn(machine, stream, DRAWN * i + seed);
    }
}

/* Out of the one QEMU into the other, and back: both have all of it. */
static void test_drawn_states_go_round(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2"),
                      other = golden_stream("pc-linux-10.0");
    g_autoptr(StateNode) machine = read_state(stream);

    for (guint seed = 0; seed < DRAWN; seed++) {
        g_autoptr(GRand) draw = g_rand_new_with_seed(seed);
        g_autoptr(StateNode) root = state_copy(machine), there = NULL, again = NULL;
        g_autoptr(GBytes) drawn = NULL, written = NULL, back = NULL;

        draw_children(root, NULL, state_schema_root(), draw);
        drawn = write_state(root, stream);
        again = read_state(drawn);
        written = write_state(again, other);
        there = read_state(written);
        back = write_state(there, stream);
        assert_true(g_bytes_equal(drawn, back));
    }
}

/* The same guest's state in the stream of a machine that has only just started. */
static void test_another_qemu_takes_it(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2"),
                      other = golden_stream("pc-linux-10.0");
    g_autoptr(GBytes) written = NULL;
    g_autoptr(StateNode) root = read_state(stream), again = NULL;

    written = write_state(root, other);
    again = read_state(written);
    /* Of these, the one is in the other's stream, with what it is without. */
    state_remove(again, "cpus[0].ia32_smi_count");
    state_remove(root, "cpus[0].ia32_smi_count");
    expect_equal(root, again);
}

/* A processor that runs, in a machine whose second one has not been started yet. */
static void test_processors_are_started(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2"), fresh = NULL, written = NULL;
    g_autoptr(StateNode) root = read_state(stream), of_fresh = NULL, again = NULL;

    fresh = golden_stream("pc-start-smp-7.2");
    of_fresh = read_state(fresh);
    assert_int_equal(state_number_or(of_fresh, "cpus[0].activity", 9), 0);
    assert_int_equal(state_number_or(of_fresh, "cpus[1].activity", 9), 3);
    state_set_number(root, "cpus[0].activity", 0);
    written = write_state(root, fresh);
    again = read_state(written);
    assert_int_equal(state_number_or(again, "cpus[0].activity", 9), 0);
    assert_int_equal(state_number_or(again, "cpus[1].activity", 9), 1);
}

/* What the stream is once the second processor has these. */
static GBytes *with_numbers(GBytes *stream, uint64_t tsc, uint64_t mp, uint64_t halted)
{
    g_autoptr(QemuForm) form =
        qemu_form_read(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), NULL);
    QemuRecord *cpu = qemu_form_find(form, "cpu", 1)->record;

    assert_true(qemu_set_number(cpu, "env.tsc", tsc));
    assert_true(qemu_set_number(cpu, "env.mp_state", mp));
    assert_true(qemu_set_number(qemu_form_find(form, "cpu_common", 1)->record, "halted", halted));
    return qemu_form_write(form);
}

static void expect_activity(GBytes *stream, guint activity)
{
    g_autoptr(StateNode) root = read_state(stream);

    assert_int_equal(state_number_or(root, "cpus[1].activity", 9), activity);
}

/* TCG keeps an mp_state of before, KVM what an APIC was at the reset: neither is what the processor does now. */
static void test_activity_is_what_it_does_now(void **unused)
{
    static const struct {
        uint64_t tsc, mp, halted;
        guint activity;
    } cases[] = {
        {0, 0, 1, 3}, {0, 0, 0, 0}, {0, 3, 0, 0}, {0, 1, 0, 0},
        {7, 0, 0, 0}, {7, 3, 0, 1}, {7, 3, 1, 1}, {7, 1, 0, 3},
    };
    g_autoptr(GBytes) fresh = golden_stream("pc-start-smp-7.2");
    g_autoptr(GBytes) linux_stream = golden_stream("pc-linux-7.2");
    g_autoptr(StateNode) root = read_state(linux_stream);
    g_autoptr(GBytes) arrived = NULL, woken = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GBytes) stream = with_numbers(fresh, cases[i].tsc, cases[i].mp, cases[i].halted);

        expect_activity(stream, cases[i].activity);
    }
    /* One that arrived halted, and woke up. */
    assert_int_equal(state_number_or(root, "cpus[1].activity", 9), 1);
    arrived = write_state(root, fresh);
    expect_activity(arrived, 1);
    {
        g_autoptr(QemuForm) form =
            qemu_form_read(g_bytes_get_data(arrived, NULL), g_bytes_get_size(arrived), NULL);

        assert_true(qemu_set_number(qemu_form_find(form, "cpu_common", 1)->record, "halted", 0));
        woken = qemu_form_write(form);
    }
    expect_activity(woken, 0);
}

static uint64_t requests_of(GBytes *stream, guint processor)
{
    g_autoptr(QemuForm) form =
        qemu_form_read(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), NULL);
    uint64_t requests = 0;

    assert_true(qemu_get_number(qemu_form_find(form, "cpu_common", processor)->record,
                                "interrupt_request", &requests));
    return requests;
}

/* NMIs, INITs and start-up IPIs that a processor of TCG has not taken yet; the next state does not inherit them. */
static void test_processors_are_being_started(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2"), written = NULL, cleared = NULL;
    g_autoptr(StateNode) plain = read_state(stream), root = read_state(stream), again = NULL;

    assert_null(state_find(plain, "cpus[1].pending_init"));
    state_set_number(root, "cpus[1].nmi_pending", 1);
    state_set_number(root, "cpus[1].pending_init", 1);
    state_set_number(root, "cpus[1].pending_sipi", 0x9a);
    written = write_state(root, stream);
    assert_int_equal(requests_of(written, 0) & 0xe00, 0);
    assert_int_equal(requests_of(written, 1) & 0xe00, 0xe00);
    again = read_state(written);
    expect_equal(root, again);
    cleared = write_state(plain, written);
    assert_int_equal(requests_of(cleared, 1), requests_of(stream, 1));
}

static void expect_not_written(const StateNode *root, GBytes *template_stream, const char *text)
{
    g_autoptr(GError) error = NULL;

    assert_null(state_to_qemu(root, g_bytes_get_data(template_stream, NULL),
                              g_bytes_get_size(template_stream), &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static void test_other_machines_are_refused_by_name(void **unused)
{
    g_autoptr(GBytes) linux_stream = golden_stream("pc-linux-7.2");
    g_autoptr(GBytes) start = golden_stream("pc-start-10.0");
    g_autoptr(StateNode) of_linux = read_state(linux_stream), of_start = read_state(start);

    expect_not_written(of_linux, start, "a processor is not in the QEMU machine");
    expect_not_written(of_start, linux_stream, "cpu_common is not in the state");
    assert_true(state_remove(of_linux, "cpus[1]"));
    expect_not_written(of_linux, start, "intel,hpet is not in the QEMU machine");
    (void)state_add_device(of_start, "acme,rocket", "io:1");
    expect_not_written(of_start, start, "acme,rocket is not in the QEMU machine");
}

/* ---- tables ---- */

static const QemuMap *map_of_kind(const char *kind)
{
    guint count;
    const QemuMap *const *tables = qemu_map_tables(&count);

    for (guint i = 0; i < count; i++)
        for (const QemuMap *map = tables[i]; map->section; map++)
            if (strcmp(map->section, kind) == 0)
                return map;
    return NULL;
}

static void check_layout(const char *kind, const QemuMapRow *rows, const QemuLayout *layout,
                         const char *above);

static char *path_below(const char *above, const char *name)
{
    return *above ? g_strdup_printf("%s|%s", above, name) : g_strdup(name);
}

/* By one of its names. */
static void check_field(const char *kind, const QemuMapRow *rows, const QemuField *field,
                        const char *above)
{
    g_auto(GStrv) names = g_strsplit(field->name, ",", 2);
    g_autofree char *first = path_below(above, names[0]);
    g_autofree char *last = path_below(above, names[g_strv_length(names) - 1]);
    const char *path = qemu_map_covers(rows, last) ? last : first;

    if (!qemu_map_covers(rows, path))
        fail_msg("%s: %s is in no row", kind, path);
    if (field->layout)
        check_layout(kind, rows, field->layout, path);
}

/* A subsection without a row is refused when it is there. */
static void check_layout(const char *kind, const QemuMapRow *rows, const QemuLayout *layout,
                         const char *above)
{
    for (const QemuField *field = layout->fields; field && field->name; field++)
        check_field(kind, rows, field, above);
    for (guint i = 0; layout->subsections && layout->subsections[i]; i++) {
        g_autofree char *path = path_below(above, layout->subsections[i]->name);

        if (qemu_map_covers(rows, path))
            check_layout(kind, rows, layout->subsections[i], path);
    }
}

static void check_kind(const char *kind, const QemuLayout *layout, void *unmapped)
{
    const QemuMap *map = map_of_kind(kind);

    if (map)
        check_layout(kind, map->rows, layout, "");
    else if (!qemu_left_out(kind))
        g_ptr_array_add(unmapped, (gpointer)kind);
}

static void test_each_field_has_a_row_or_a_reason(void **unused)
{
    g_autoptr(GPtrArray) unmapped = g_ptr_array_new();

    qemu_layouts_foreach(check_kind, unmapped);
    /* microvm's, which no other VMM of ours has: acpi-ged, and three of virtio. */
    assert_int_equal(unmapped->len, 5);
}

/* The digests of captured machines in the neutral form: what changes them changes the form, or what QEMU's is taken
 * to mean, and has to be told in docs/state-format.md. */
static const struct {
    const char *name, *digest;
} neutral_digests[] = {
    {"pc-linux-7.2", "a64fb64a9841a6757ee9817eb34c601dd69a92a5b9106bfe45e2f491e8c1d3e7"},
    {"pc-linux-10.0", "aa0ed114e5662aa158ed35bdf9f265663305f6d6220546d6397996626bf32c70"},
    {"pc-firmware-7.2", "c24d99d4510d2c57d51f4b016a9942fbc8a5ad981e087aa5e76647d256e2313b"},
};

static void test_the_form_has_not_changed(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(neutral_digests); i++) {
        g_autoptr(GBytes) stream = golden_stream(neutral_digests[i].name);
        g_autoptr(StateNode) root = read_state(stream);
        g_autoptr(GBytes) encoded = state_encode(root);
        g_autofree char *digest = g_compute_checksum_for_bytes(G_CHECKSUM_SHA256, encoded);

        if (strcmp(digest, neutral_digests[i].digest) != 0)
            fail_msg("%s is %s", neutral_digests[i].name, digest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back_each_bit_is_the_same),
        cmocka_unit_test(test_what_no_other_vmm_has_is_refused_by_name),
        cmocka_unit_test(test_a_known_guest),
        cmocka_unit_test(test_asserted_interrupts_are_counted),
        cmocka_unit_test(test_drawn_states_are_kept),
        cmocka_unit_test(test_drawn_states_go_round),
        cmocka_unit_test(test_another_qemu_takes_it),
        cmocka_unit_test(test_processors_are_started),
        cmocka_unit_test(test_processors_are_being_started),
        cmocka_unit_test(test_activity_is_what_it_does_now),
        cmocka_unit_test(test_other_machines_are_refused_by_name),
        cmocka_unit_test(test_each_field_has_a_row_or_a_reason),
        cmocka_unit_test(test_the_form_has_not_changed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
