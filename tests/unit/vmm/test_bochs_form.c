/*
 * The neutral state and Bochs's parameters, without a Bochs
 *
 * bochs-2.7/ has what a fresh Bochs shows, cpu1 and pc_system-2 one of two processors, and state.json the state of a QEMU (-M pc with
 * a disk).  What `restore` does to what `show` tells is done here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/parameters.h"

#define IPS 50000000u
#define ROUNDS 600u
#define MOST_CPUS 9u /* one more than there may be */

/* Of both: the Bochs and the state. */
static guint cpus = 1;

static char *read_recorded(const char *name)
{
    g_autofree char *path = g_build_filename(RECORDED, name, NULL);
    char *text = file_read(path, 1u << 20, NULL, NULL);

    assert_non_null(text);
    return text;
}

static void add_fresh(BochsForm *form, const char *name, const char *file)
{
    g_autofree char *text = read_recorded(file);
    BochsNode *device = bochs_show_parse(text, name, NULL);

    assert_non_null(device);
    bochs_form_add(form, device);
}

static BochsForm *read_fresh(void)
{
    BochsForm *form = bochs_form_new(IPS);

    for (const char *const *name = bochs_form_devices(); *name; name++)
        add_fresh(form, *name, cpus > 1 && strcmp(*name, "pc_system") == 0 ? "pc_system-2" : *name);
    if (cpus > 1)
        add_fresh(form, "cpu1", "cpu1");
    assert_int_equal(bochs_form_count_cpus(form), cpus);
    return form;
}

/* Another processor like the first one. */
static void add_cpu(json_t *json, guint number)
{
    json_t *list = json_object_get(json, "cpus");
    json_t *cpu = json_deep_copy(json_array_get(list, 0));
    json_t *apic = json_object_get(cpu, "local_apic");

    json_object_set_new(apic, "id", json_sprintf("0x%x", number));
    json_object_set_new(apic, "ia32_apic_base", json_string("0xfee00800"));
    json_array_append_new(list, cpu);
}

static StateNode *read_recorded_state(void)
{
    g_autofree char *text = read_recorded("state.json");
    json_t *json = json_loads(text, 0, NULL);
    g_autoptr(GError) error = NULL;
    StateNode *state;

    for (guint i = 1; i < cpus; i++)
        add_cpu(json, i);
    state = state_from_json(json, &error);
    json_decref(json);
    if (!state || !state_check(state, &error))
        fail_msg("%s", error->message);
    return state;
}

static StateNode *read_state(void)
{
    static StateNode *kept[MOST_CPUS + 1];

    if (!kept[cpus])
        kept[cpus] = read_recorded_state();
    return state_copy(kept[cpus]);
}

/* ---- a Bochs ---- */

static void apply_node(const BochsNode *wanted, BochsNode *shown)
{
    for (guint i = 0; i < wanted->children->len; i++) {
        const BochsNode *child = wanted->children->pdata[i];
        BochsNode *known = bochs_tree_find(shown, child->name);

        assert_non_null(known);
        if (child->kind == BOCHS_NODE_LIST)
            apply_node(child, known);
        else if (child->kind != BOCHS_NODE_TEXT)
            known->number = child->number;
    }
}

/* Counts from what is set, from now on. */
static void start_hpet(BochsForm *form, uint64_t config)
{
    BochsNode *hpet = bochs_form_find(form, "hpet");
    uint64_t reference[2], ticks;

    bochs_tree_set(hpet, "config", BOCHS_NODE_HEX, config);
    assert_true(bochs_tree_get(hpet, "hpet_counter", &reference[0], NULL));
    assert_true(bochs_tree_get(bochs_form_find(form, "pc_system"), "ticksTotal", &ticks, NULL));
    reference[1] = ticks * (1000000000 / IPS);
    bochs_form_add_bytes(form, "hpet", "reference", reference, sizeof reference);
}

/* What a fresh Bochs shows after this was set. */
static BochsForm *apply(const BochsForm *wanted)
{
    BochsForm *form = read_fresh();

    for (guint i = 0; i < wanted->devices->len; i++) {
        const BochsNode *device = wanted->devices->pdata[i];

        apply_node(device, bochs_form_find(form, device->name));
    }
    if (wanted->hpet_start)
        start_hpet(form, wanted->hpet_start);
    for (guint i = 0; i < wanted->bytes->len; i++) {
        const BochsBytes *bytes = wanted->bytes->pdata[i];
        g_auto(GStrv) names = g_strsplit(bytes->name, ".", 2);

        bochs_form_add_bytes(form, names[0], names[1], g_bytes_get_data(bytes->bytes, NULL),
                             g_bytes_get_size(bytes->bytes));
    }
    return form;
}

/* Kept: it is only looked at. */
static const BochsForm *get_fresh(void)
{
    static BochsForm *fresh[MOST_CPUS + 1];

    if (!fresh[cpus])
        fresh[cpus] = read_fresh();
    return fresh[cpus];
}

/* To a fresh Bochs, and back. */
static StateNode *go_round(const StateNode *state)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsForm) wanted = bochs_form_from_state(state, get_fresh(), &error);
    g_autoptr(BochsForm) loaded = NULL;
    StateNode *back;

    if (!wanted)
        fail_msg("%s", error->message);
    loaded = apply(wanted);
    back = bochs_form_to_state(loaded, state, &error);
    if (!back)
        fail_msg("%s", error->message);
    return back;
}

/* ---- states ---- */

static GRand *dice;

static uint64_t draw(guint bits)
{
    uint64_t value = (uint64_t)g_rand_int(dice) << 32 | g_rand_int(dice);

    return bits < 64 ? value & (((uint64_t)1 << bits) - 1) : value;
}

static void draw_number(StateNode *node, const char *path, guint bits)
{
    assert_non_null(state_find(node, path));
    state_set_number(node, path, draw(bits));
}

static void draw_bytes(StateNode *node, const char *path, size_t length)
{
    g_autofree uint8_t *bytes = g_malloc(length);

    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)draw(8);
    state_set_bytes(node, path, bytes, length);
}

static void draw_registers(StateNode *cpu)
{
    static const char *const names[] = {
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "rsp",
        "rbp",
        "rsi",
        "rdi",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
        "rip",
        "cr2",
        "cr3",
        "dr0",
        "dr1",
        "dr2",
        "dr3",
        "ia32_sysenter_esp",
        "ia32_sysenter_eip",
        "ldtr.base",
        "tr.base",
        "ia32_star",
        "ia32_lstar",
        "ia32_cstar",
        "ia32_fmask",
        "ia32_pat",
        "gdtr.base",
        "idtr.base",
        "fs.base",
        "gs.base",
        "ia32_kernel_gs_base",
        "ia32_mtrr_fixed[0]",
        "ia32_mtrr_fixed[7]",
        "ia32_mtrr_fixed[10]",
        "ia32_mtrr_variable[0].base",
        "ia32_mtrr_variable[3].mask",
    };
    static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        draw_number(cpu, names[i], 64);
    for (guint i = 0; i < G_N_ELEMENTS(segments); i++) {
        g_autofree char *selector = g_strconcat(segments[i], ".selector", NULL);
        g_autofree char *limit = g_strconcat(segments[i], ".limit", NULL);
        g_autofree char *access = g_strconcat(segments[i], ".access", NULL);

        draw_number(cpu, selector, 16);
        draw_number(cpu, limit, 32);
        state_set_number(cpu, access, draw(16) & 0xf0ff);
    }
    state_set_number(cpu, "cpl", state_number_or(cpu, "cs.selector", 0) & 3);
    state_set_number(cpu, "rflags", (draw(18) & 0xfd5) | 2);
    state_set_number(cpu, "interrupt_shadow", draw(1));
    state_set_number(cpu, "activity", draw(1));
    state_set_number(cpu, "ia32_tsc", draw(46) + 1000000000u);
    state_set_number(cpu, "ia32_tsc_aux", draw(32));
    state_set_number(cpu, "ia32_sysenter_cs", draw(32));
    draw_number(cpu, "gdtr.limit", 16);
    draw_number(cpu, "idtr.limit", 16);
}

static void draw_fpu(StateNode *fpu)
{
    draw_number(fpu, "control", 13);
    draw_number(fpu, "status", 16);
    draw_number(fpu, "tag", 8);
    draw_number(fpu, "opcode", 11);
    draw_number(fpu, "instruction_pointer", 64);
    draw_number(fpu, "data_pointer", 64);
    draw_number(fpu, "mxcsr", 16);
    for (guint i = 0; i < 8; i++) {
        g_autofree char *path = g_strdup_printf("r[%u]", i);

        draw_bytes(fpu, path, 10);
    }
    for (guint i = 0; i < 16; i++) {
        g_autofree char *low = g_strdup_printf("xmm[%u]", i);
        g_autofree char *high = g_strdup_printf("ymm_high[%u]", i);

        draw_bytes(fpu, low, 16);
        draw_bytes(fpu, high, 16);
    }
}

static void draw_apic(StateNode *cpu)
{
    static const char *const names[] = {"lvt_timer", "lvt_lint0", "lvt_error", "initial_count",
                                        "isr[2]",    "tmr[7]",    "irr[4]"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_strconcat("local_apic.", names[i], NULL);

        state_set_number(cpu, path, draw(32) & ~(i == 0 ? 0x40000u : 0u));
    }
    state_set_number(cpu, "local_apic.svr", draw(10));
    state_set_number(cpu, "local_apic.tpr", draw(8));
    state_set_number(cpu, "local_apic.icr", draw(64));
    state_set_number(cpu, "local_apic.ldr", draw(8) << 24);
    state_set_number(cpu, "local_apic.dfr", draw(4) << 28 | 0x0fffffff);
    state_set_number(cpu, "local_apic.divide_configuration", draw(4) & 11);
    (void)state_remove(cpu, "local_apic.until_fire");
    if (draw(1))
        state_set_time(cpu, "local_apic.until_fire", (int64_t)draw(33));
}

static void draw_list(StateNode *device, const char *list, guint count, guint bits)
{
    for (guint i = 0; i < count; i++)
        state_append_number(device, list, draw(bits));
}

/* Bits that the VGA has not are 0. */
static StateNode *add_vga(StateNode *state)
{
    static const struct {
        const char *name;
        guint bits;
    } numbers[] = {
        {"latch", 32},          {"sequencer_index", 3},     {"graphics_index", 4},
        {"attribute_index", 6}, {"attribute_flip_flop", 1}, {"crt_index", 5},
        {"feature_control", 8}, {"input_status_0", 8},      {"input_status_1", 8},
        {"dac_read_index", 8},  {"dac_write_index", 8},     {"vbe_index", 4},
    };
    static const uint8_t sequencer[8] = {3, 0x21, 15, 0x3f, 14};
    static const uint8_t graphics[16] = {15, 15, 15, 0x1f, 3, 0x7b, 15, 15, 0xff};
    StateNode *vga = state_add_device(state, "bochs,vbe", "pci:00:02.0");
    uint8_t bytes[21] = {0};

    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++)
        state_set_number(vga, numbers[i].name, draw(numbers[i].bits));
    draw_bytes(vga, "config", 256);
    draw_list(vga, "intx", 4, 0);
    for (guint i = 0; i < 8; i++)
        bytes[i] = (uint8_t)draw(8) & sequencer[i];
    state_set_bytes(vga, "sequencer", bytes, 8);
    for (guint i = 0; i < 16; i++)
        bytes[i] = (uint8_t)draw(8) & graphics[i];
    state_set_bytes(vga, "graphics", bytes, 16);
    memset(bytes, 0, sizeof bytes);
    for (guint i = 0; i < 21; i++)
        bytes[i] = (uint8_t)draw(i < 16 ? 6 : 3);
    state_set_bytes(vga, "attribute", bytes, 21);
    draw_bytes(vga, "crt", 256);
    draw_bytes(vga, "palette", 768);
    draw_bytes(vga, "dac_cache", 3);
    state_set_number(vga, "miscellaneous_output", draw(8) & 0xef);
    state_set_number(vga, "dac_state", draw(1) ? 3 : 0);
    state_set_number(vga, "dac_component", draw(1));
    draw_list(vga, "vbe", 10, 10);
    state_set_number(vga, "vbe[1]", draw(10) + 8);
    state_set_number(vga, "vbe[2]", draw(9) + 1);
    state_set_number(vga, "vbe[3]", 32);
    state_set_number(vga, "vbe[4]", draw(1) ? 0x41 : 0);
    state_set_number(vga, "vbe[5]", draw(8));
    state_set_number(vga, "bank", state_number_or(vga, "vbe[5]", 0) << 16);
    return vga;
}

static void draw_context(StateNode *card, const char *group)
{
    static const char *const names[] = {"ipcss", "ipcso",  "ipcse",  "tucss", "tucso",
                                        "tucse", "paylen", "hdrlen", "mss"};
    StateNode *context = state_set_group(card, group);

    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        state_set_number(context, names[i], draw(8));
    state_set_number(context, "ip", draw(1));
    state_set_number(context, "tcp", draw(1));
}

static StateNode *add_e1000(StateNode *state)
{
    StateNode *card = state_add_device(state, "intel,82540em", "pci:00:03.0");

    draw_bytes(card, "config", 256);
    draw_list(card, "intx", 4, 1);
    draw_bytes(card, "registers", 131072);
    draw_list(card, "phy", 32, 16);
    draw_list(card, "eeprom", 64, 16);
    state_set_number(card, "eeprom_access.clock_in", draw(32));
    state_set_number(card, "eeprom_access.bits_in", draw(9));
    state_set_number(card, "eeprom_access.bits_out", draw(9));
    state_set_number(card, "eeprom_access.reading", draw(1));
    state_set_number(card, "eeprom_access.last_control", draw(16));
    draw_context(card, "checksum_offload");
    draw_context(card, "segmentation_offload");
    state_set_number(card, "segments_sent", draw(10));
    state_set_number(card, "checksums_needed", draw(2));
    draw_bytes(card, "transmit_data", draw(12));
    if (draw(1))
        draw_bytes(card, "transmit_header", 256);
    /* Else an interrupt may be held back. */
    state_set_number(card, "intx[0]", 1);
    return card;
}

/* Which of the chipset's inputs they assert: the second slot's first is the second one (290550). */
static void set_inputs(StateNode *state, const StateNode *card)
{
    StateNode *bridge = (StateNode *)state_find_device(state, "intel,piix3", NULL);
    size_t length = 0;
    g_autofree uint8_t *config = g_memdup2(state_get_bytes(bridge, "config", &length), 256);

    memcpy(config + 0x60, "\x0b\x0b\x0a\x0a", 4);
    state_set_bytes(bridge, "config", config, 256);
    for (guint i = 0; i < 4; i++) {
        g_autofree char *from = g_strdup_printf("intx[%u]", i);
        g_autofree char *to = g_strdup_printf("pirq_levels[%u]", (i + 2) % 4);

        state_set_number(bridge, to, state_number_or(card, from, 0));
    }
}

static StateNode *device_of(StateNode *state, guint number)
{
    g_autofree char *path = g_strdup_printf("devices[%u]", number);

    return state_find_mutable(state, path);
}

static void draw_dma(StateNode *device)
{
    static const struct {
        const char *name;
        guint bits;
    } numbers[] = {{"current[0]", 16}, {"current[1]", 16}, {"base[0]", 16},
                   {"base[1]", 16},    {"page", 8},        {"mode", 8}};

    for (guint i = 0; i < 4; i++)
        for (guint j = 0; j < G_N_ELEMENTS(numbers); j++) {
            g_autofree char *path = g_strdup_printf("channels[%u].%s", i, numbers[j].name);

            draw_number(device, path, numbers[j].bits);
        }
    draw_number(device, "flip_flop", 1);
}

/* What the guest has written for its next command. */
static void draw_ide(StateNode *device)
{
    static const char *const names[] = {"features", "error",        "sector_count",
                                        "sector",   "cylinder_low", "cylinder_high"};

    draw_bytes(device, "config", 256);
    draw_number(device, "channels[0].selected", 1);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_strconcat("channels[0].drives[0].", names[i], NULL);

        draw_number(device, path, 8);
    }
}

static void draw_device(StateNode *device)
{
    const char *type = state_get_text(device, "type");

    if (strcmp(type, "intel,8259a") == 0) {
        draw_number(device, "irr", 8);
        draw_number(device, "imr", 8);
        draw_number(device, "isr", 8);
        draw_number(device, "lines", 8);
        draw_number(device, "vector_base", 8);
        draw_number(device, "highest_priority", 3);
        state_set_number(device, "init_step", draw(2));
        draw_number(device, "elcr", 8);
        draw_number(device, "read_isr", 1);
        draw_number(device, "poll", 1);
        draw_number(device, "special_mask", 1);
        draw_number(device, "auto_eoi", 1);
        draw_number(device, "rotate_on_auto_eoi", 1);
    } else if (strcmp(type, "intel,82093aa") == 0) {
        for (guint i = 0; i < 24; i++) {
            g_autofree char *path = g_strdup_printf("redirection[%u]", i);

            draw_number(device, path, 64);
        }
        draw_number(device, "register_select", 8);
    } else if (strcmp(type, "motorola,mc146818") == 0) {
        draw_bytes(device, "cmos", 128);
        draw_number(device, "index", 7);
    } else if (strcmp(type, "intel,8237a") == 0) {
        draw_dma(device);
    } else if (strcmp(type, "intel,piix3-ide") == 0) {
        draw_ide(device);
    } else if (strcmp(type, "intel,hpet") == 0) {
        draw_number(device, "config", 2);
        draw_number(device, "counter", 62);
        draw_number(device, "timers[1].comparator", 62);
        draw_number(device, "timers[2].config", 15);
    } else if (state_find(device, "config") && g_str_has_prefix(type, "intel,piix")) {
        draw_bytes(device, "config", 256);
    }
}

static void draw_pit(StateNode *pit)
{
    for (guint i = 0; i < 3; i++) {
        static const guint modes[] = {0, 2, 3, 4};
        g_autofree char *mode = g_strdup_printf("channels[%u].mode", i);
        g_autofree char *count = g_strdup_printf("channels[%u].count", i);
        g_autofree char *since = g_strdup_printf("channels[%u].since_load", i);

        state_set_number(pit, mode, modes[draw(2)]);
        state_set_number(pit, count, draw(16) + 2 > 0x10000 ? 0x10000 : draw(15) + 2);
        state_set_time(pit, since, (int64_t)draw(36));
    }
}

static void draw_cpu(StateNode *state, guint number)
{
    g_autofree char *path = g_strdup_printf("cpus[%u]", number);
    StateNode *cpu = state_find_mutable(state, path);

    draw_registers(cpu);
    draw_fpu(state_find_mutable(cpu, "fpu"));
    draw_apic(cpu);
    if (number == 0)
        return;
    state_set_number(cpu, "activity", "\0\1\3"[draw(8) % 3]);
    if (state_number_or(cpu, "activity", 0) != 3 && draw(1))
        state_set_number(cpu, "pending_init", 1);
    state_set_number(cpu, "ia32_tsc", state_number_or(state, "cpus[0].ia32_tsc", 0));
}

static void draw_state(StateNode *state)
{
    const StateNode *cpu;

    for (guint i = 0; i < cpus; i++)
        draw_cpu(state, i);
    cpu = state_find(state, "cpus[0]");
    for (guint i = 0; device_of(state, i); i++) {
        draw_device(device_of(state, i));
        if (strcmp(state_get_text(device_of(state, i), "type"), "intel,8254") == 0)
            draw_pit(device_of(state, i));
    }
    state_set_number(state, "clock.tsc", state_number_or(cpu, "ia32_tsc", 0));
    state_set_number(state, "clock.tsc_hz", IPS);
}

/* ---- tests ---- */

/* Times come back within a period, and in whole ticks; what is derived may be said another way. */
static gboolean is_free(const char *path)
{
    static const char *const names[] = {"since_load",       "since_start",      "until_fire",
                                        "until_transition", "timer_hz",         "pm_timer",
                                        "tsc_hz",           "interrupt_request"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        if (g_str_has_suffix(path, names[i]))
            return TRUE;
    return FALSE;
}

static void expect_equal(const StateNode *left, const StateNode *right)
{
    g_autoptr(GPtrArray) differences = state_compare(left, right);

    for (guint i = 0; i < differences->len; i++) {
        const StateDifference *difference = differences->pdata[i];

        if (!is_free(difference->path))
            fail_msg("%s: %s, %s", difference->path, difference->left, difference->right);
    }
}

static int64_t get_time(const StateNode *state, const char *path)
{
    int64_t time = -1;

    assert_true(state_get_time(state, path, &time));
    return time;
}

/* All that can be represented comes back as it was, and what came back stays as it is for ever. */
static void test_round_trip(void **unused)
{
    dice = g_rand_new_with_seed(18);
    for (guint i = 0; i < ROUNDS; i++) {
        g_autoptr(StateNode) state = read_state();
        g_autoptr(StateNode) back = NULL;
        g_autoptr(StateNode) again = NULL;

        draw_state(state);
        back = go_round(state);
        expect_equal(state, back);
        again = go_round(back);
        expect_equal(back, again);
    }
    g_rand_free(dice);
}

/* ---- two processors ---- */

static int with_two(void **unused)
{
    cpus = 2;
    return 0;
}

static int with_one(void **unused)
{
    cpus = 1;
    return 0;
}

/* The timers of their APICs are two: each fires at its own time. */
static void test_two_timers(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = NULL;
    g_autoptr(StateNode) back = NULL;
    const BochsNode *system;
    uint64_t first = 0, second = 0, now = 0;

    state_set_time(state, "cpus[0].local_apic.until_fire", 1000000);
    state_set_time(state, "cpus[1].local_apic.until_fire", 7000000);
    wanted = bochs_form_from_state(state, fresh, NULL);
    assert_non_null(wanted);
    system = bochs_form_find(wanted, "pc_system");
    assert_true(bochs_tree_get(system, "ticksTotal", &now, NULL));
    assert_true(bochs_tree_get(system, "timer.1.timeToFire", &first, NULL));
    assert_true(bochs_tree_get(system, "timer.4.timeToFire", &second, NULL));
    assert_int_equal(first - now, IPS / 1000);
    assert_int_equal(second - now, 7 * IPS / 1000);
    back = go_round(state);
    assert_int_equal(get_time(back, "cpus[1].local_apic.until_fire"), 7000000);
}

/* One TSC for both, the latest: KVM tells each processor's a little later than the one's before. */
static void test_one_tsc(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(StateNode) back = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t first = state_number_or(state, "cpus[0].ia32_tsc", 0);

    state_set_number(state, "cpus[1].ia32_tsc", first + 12345);
    back = go_round(state);
    for (guint i = 0; i < 2; i++) {
        g_autofree char *path = g_strdup_printf("cpus[%u].ia32_tsc", i);

        assert_int_equal(state_number_or(back, path, 0), first + 12345);
    }
    state_set_number(state, "cpus[1].ia32_tsc", first - IPS);
    assert_null(bochs_form_from_state(state, fresh, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "cpus: their ia32_tsc differ by 50000000"));
}

/* It is that of their numbers, whatever the state has. */
static void test_x2apic(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = NULL;
    uint64_t ldr = 0, mode = 0;

    state_set_number(state, "cpus[1].local_apic.ia32_apic_base", 0xfee00c00);
    state_set_number(state, "cpus[1].local_apic.ldr", 0);
    wanted = bochs_form_from_state(state, fresh, NULL);
    assert_non_null(wanted);
    assert_true(bochs_tree_get(bochs_form_find(wanted, "cpu1"), "local_apic.ldr", &ldr, NULL));
    assert_true(bochs_tree_get(bochs_form_find(wanted, "cpu1"), "local_apic.mode", &mode, NULL));
    assert_int_equal(mode, 3);
    assert_int_equal(ldr, 2);
}

/* The 8259A interrupts the first one only, and one that waits for its start-up IPI takes nothing else. */
static void test_events(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = NULL;
    StateNode *pic = (StateNode *)state_find_device(state, "intel,8259a", "io:20");
    g_autoptr(GError) error = NULL;
    uint64_t value = 0;

    state_set_number(pic, "irr", 1);
    state_set_number(pic, "imr", 0);
    state_set_number(pic, "isr", 0);
    state_set_number(state, "cpus[1].activity", 3);
    state_set_number(state, "cpus[1].nmi_blocked", 0);
    wanted = bochs_form_from_state(state, fresh, &error);
    if (!wanted)
        fail_msg("%s", error->message);
    assert_true(bochs_tree_get(bochs_form_find(wanted, "cpu0"), "pending_event", &value, NULL));
    assert_int_equal(value & 0x400, 0x400);
    assert_true(bochs_tree_get(bochs_form_find(wanted, "cpu1"), "pending_event", &value, NULL));
    assert_int_equal(value & 0x400, 0);
    assert_true(bochs_tree_get(bochs_form_find(wanted, "cpu1"), "event_mask", &value, NULL));
    assert_int_equal(value & 7, 7);
}

/* The cards of a default machine, with their interrupts. */
static void test_cards_round_trip(void **unused)
{
    dice = g_rand_new_with_seed(82540);
    for (guint i = 0; i < ROUNDS / 3; i++) {
        g_autoptr(StateNode) state = read_state();
        g_autoptr(StateNode) back = NULL;

        (void)add_vga(state);
        set_inputs(state, add_e1000(state));
        back = go_round(state);
        expect_equal(state, back);
    }
    g_rand_free(dice);
}

/* What Bochs keeps of the VGA's registers a second time. */
static void test_vga_derived(void **unused)
{
    static const struct {
        const char *path;
        uint64_t value;
    } expected[] = {
        {"vgacore.line_offset", 160},          {"vgacore.line_compare", 1023},
        {"vgacore.vertical_display_end", 399}, {"vgacore.charmap_address", 0x2000},
        {"vgacore.CRTC.write_protect", 1},     {"vgacore.y_doublescan", 1},
    };
    uint8_t crt[256] = {[7] = 0x1f,    [9] = 0x4f,    [0x11] = 0x8e, [0x12] = 0x8f,
                        [0x13] = 0x28, [0x17] = 0xa3, [0x18] = 0xff};
    static const uint8_t sequencer[8] = {3, 0, 3, 0x10, 2};
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = NULL;
    StateNode *vga;

    dice = g_rand_new_with_seed(3);
    vga = add_vga(state);
    g_rand_free(dice);
    state_set_bytes(vga, "crt", crt, sizeof crt);
    state_set_bytes(vga, "sequencer", sequencer, sizeof sequencer);
    state_set_number(vga, "vbe[4]", 0);
    wanted = bochs_form_from_state(state, fresh, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(expected); i++) {
        uint64_t value = 0;

        assert_true(bochs_tree_get(bochs_form_find(wanted, "vga"), expected[i].path, &value, NULL));
        assert_int_equal(value, expected[i].value);
    }
}

static void test_recorded_state(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(StateNode) back = go_round(state);
    const StateNode *pit = state_find_device(back, "intel,8254", NULL);
    const StateNode *pm = state_find_device(back, "intel,piix4-pm", NULL);
    const StateNode *pm_before = state_find_device(state, "intel,piix4-pm", NULL);

    expect_equal(state, back);
    /* 4A9h clocks are 1.000 ms. */
    assert_true(get_time(pit, "channels[0].since_load") < 1000000);
    assert_true(get_time(pit, "until_transition") <= 1000000);
    assert_in_range(state_number_or(pm, "pm_timer", 0),
                    state_number_or(pm_before, "pm_timer", 0) - 1,
                    state_number_or(pm_before, "pm_timer", 0) + 4);
}

/* The interval timer is at the same place of its period. */
static void test_pit_phase(void **unused)
{
    g_autoptr(StateNode) state = read_state();

    for (guint mode = 2; mode <= 3; mode++)
        for (uint64_t clocks = 0; clocks < 23; clocks++) {
            StateNode *pit = (StateNode *)state_find_device(state, "intel,8254", NULL);
            int64_t since = (int64_t)((clocks * 1000000000u + 1193181u) / 1193182u);
            g_autoptr(StateNode) back = NULL;
            const StateNode *seen;

            state_set_number(pit, "channels[0].mode", mode);
            state_set_number(pit, "channels[0].count", 23);
            state_set_time(pit, "channels[0].since_load", since);
            back = go_round(state);
            seen = state_find_device(back, "intel,8254", NULL);
            assert_int_equal(get_time(seen, "channels[0].since_load"), since);
        }
}

/* By the check that needs no Bochs as well, in the same words. */
static void expect_refused(const StateNode *state, VmferryErrorCode code, const char *wanted)
{
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(GError) error = NULL, checked = NULL;

    assert_null(bochs_form_from_state(state, fresh, &error));
    if (!error_is(error, code) || !strstr(error->message, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, error->message);
    assert_false(bochs_check_state(state, &checked));
    assert_true(error_is(checked, code));
    assert_string_equal(checked->message, error->message);
}

static void refuse_number(const char *path, uint64_t value, VmferryErrorCode code,
                          const char *wanted)
{
    g_autoptr(StateNode) state = read_state();

    state_set_number(state, path, value);
    expect_refused(state, code, wanted);
}

/* What only a machine of two processors can have. */
static void test_two_refused(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = NULL;
    g_autoptr(GError) error = NULL;

    refuse_number("cpus[1].smm", 1, VMFERRY_ERROR_UNSUPPORTED, "cpus[1].smm: system management");
    refuse_number("cpus[1].local_apic.id", 2, VMFERRY_ERROR_UNSUPPORTED,
                  "cpus[1].local_apic.id: Bochs's are numbered one after the other");
    refuse_number("cpus[1].injected_interrupt", 32, VMFERRY_ERROR_BUSY,
                  "cpus[1].injected_interrupt: an interrupt is being delivered");
    refuse_number("cpus[1].pending_sipi", 0x9a, VMFERRY_ERROR_BUSY,
                  "cpus[1].pending_sipi: a start-up IPI is being delivered");
    cpus = 1;
    fresh = read_fresh();
    assert_null(bochs_form_from_state(state, fresh, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message,
                        "cpus: the state is of 2 processors, this Bochs was started with 1");
    cpus = 9;
    g_clear_pointer(&state, state_free);
    state = read_state();
    g_clear_error(&error);
    assert_false(bochs_check_state(state, &error));
    assert_string_equal(error->message,
                        "cpus: the state of 1 to 8 processors is carried over to Bochs, not of 9");
}

static void refuse_of_device(const char *type, const char *path, uint64_t value,
                             VmferryErrorCode code, const char *wanted)
{
    g_autoptr(StateNode) state = read_state();
    StateNode *device = (StateNode *)state_find_device(state, type, NULL);

    state_set_number(device, path, value);
    expect_refused(state, code, wanted);
}

/* What Bochs cannot be is refused by name. */
static void test_refused(void **unused)
{
    const VmferryErrorCode unsupported = VMFERRY_ERROR_UNSUPPORTED;
    g_autoptr(StateNode) none = read_state();
    g_autoptr(StateNode) card = read_state();
    g_autoptr(StateNode) rate = read_state();
    g_autoptr(StateNode) display = read_state();
    StateNode *vga;
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(GError) error = NULL;

    refuse_number("cpus[0].smm", 1, unsupported, "cpus[0].smm: system management mode");
    refuse_number("cpus[0].xcr0", 0xe7, unsupported, "cpus[0].xcr0");
    refuse_number("cpus[0].cr4", 0x2020, unsupported, "cpus[0].cr4");
    refuse_number("cpus[0].ia32_efer", 0x1500, unsupported, "cpus[0].ia32_efer");
    refuse_number("machine.a20", 0, unsupported, "machine.a20");
    refuse_of_device("intel,8254", "channels[0].bcd", 1, unsupported,
                     "intel,8254 at io:40.channels[0].bcd");
    refuse_of_device("intel,8259a", "special_fully_nested", 1, unsupported, "intel,8259a at io:20");
    (void)state_remove(none, "cpus[0].local_apic");
    expect_refused(none, unsupported, "cpus[0].local_apic");
    (void)state_add_device(card, "ibm,port92", "io:92");
    state_set_text((StateNode *)state_find_device(card, "ibm,port92", NULL), "type",
                   "qemu,virtio-net");
    expect_refused(card, unsupported, "qemu,virtio-net");
    dice = g_rand_new_with_seed(4);
    vga = add_vga(display);
    g_rand_free(dice);
    state_set_number(vga, "vbe[1]", 2560);
    state_set_number(vga, "vbe[4]", 0x41);
    expect_refused(display, unsupported, "bochs,vbe at pci:00:02.0.vbe: a mode of 2560x");
    state_set_number(vga, "vbe[5]", 256);
    expect_refused(display, unsupported, "bochs,vbe at pci:00:02.0.vbe[5]");
    state_set_number(rate, "clock.tsc_hz", 2000000000);
    assert_true(bochs_check_state(rate, NULL));
    assert_null(bochs_form_from_state(rate, fresh, &error));
    assert_non_null(strstr(error->message, "this Bochs was started with 50000000"));
}

/* What passes is told from it, and comes after it. */
static void test_moments(void **unused)
{
    const VmferryErrorCode busy = VMFERRY_ERROR_BUSY;
    g_autoptr(StateNode) queue = read_state();
    g_autoptr(StateNode) both = read_state();
    g_autoptr(StateNode) held = read_state();
    StateNode *e1000;

    refuse_number("cpus[0].injected_interrupt", 32, busy, "an interrupt is being delivered");
    refuse_of_device("intel,8237a", "mask", 0xb, busy, "intel,8237a at io:00.mask");
    refuse_of_device("intel,8254", "channels[1].write_state", 4, busy, "half written");
    refuse_of_device("intel,8042", "status", 0x1d, busy, "waits to be read");
    refuse_of_device("intel,piix3-ide", "channels[0].bus_master_status", 1, busy,
                     "a transfer is under way");
    refuse_of_device("intel,piix3-ide", "channels[1].drives[0].status", 0x80, busy,
                     "a command is under way");
    state_set_bytes((StateNode *)state_find_device(queue, "intel,8042", NULL), "mouse.queue", "a",
                    1);
    expect_refused(queue, busy, "mouse.queue: bytes wait");
    dice = g_rand_new_with_seed(5);
    e1000 = add_e1000(held);
    g_rand_free(dice);
    state_set_number(e1000, "intx[0]", 0);
    expect_refused(held, busy, "an interrupt is held back");
    state_set_number(both, "cpus[0].injected_interrupt", 32);
    state_set_number(both, "cpus[0].smm", 1);
    expect_refused(both, VMFERRY_ERROR_UNSUPPORTED, "cpus[0].smm");
}

/* A bus master that has ended, and that the guest has not stopped yet, goes along. */
static void test_ended_transfer(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(StateNode) back = NULL;
    StateNode *ide = (StateNode *)state_find_device(state, "intel,piix3-ide", NULL);

    state_set_number(ide, "channels[0].bus_master_command", 9);
    state_set_number(ide, "channels[0].bus_master_status", 0x64);
    back = go_round(state);
    expect_equal(state, back);
}

/* An HPET that runs is started when all of it is set; what it counts goes on with the clock. */
static void test_hpet(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = NULL;
    g_autoptr(BochsForm) loaded = NULL;
    g_autoptr(StateNode) later = NULL;
    StateNode *hpet = (StateNode *)state_find_device(state, "intel,hpet", NULL);
    BochsNode *system;
    uint64_t value = 1;

    state_set_number(hpet, "config", 3);
    state_set_number(hpet, "counter", 1000);
    state_set_number(hpet, "timers[0].config", 4);
    state_set_number(hpet, "timers[0].comparator", 300000);
    wanted = bochs_form_from_state(state, fresh, NULL);
    assert_int_equal(wanted->hpet_start, 3);
    assert_true(bochs_tree_get(bochs_form_find(wanted, "hpet"), "config", &value, NULL));
    assert_int_equal(value, 0);
    loaded = apply(wanted);
    system = bochs_form_find(loaded, "pc_system");
    assert_true(bochs_tree_get(system, "ticksTotal", &value, NULL));
    bochs_tree_set(system, "ticksTotal", BOCHS_NODE_DECIMAL, value + IPS / 1000);
    later = bochs_form_to_state(loaded, state, NULL);
    hpet = (StateNode *)state_find_device(later, "intel,hpet", NULL);
    assert_int_equal(state_number_or(hpet, "counter", 0), 101000);
    assert_int_equal(get_time(hpet, "timers[0].until_fire"), 1990000);
    g_ptr_array_set_size(loaded->bytes, 0);
    assert_null(bochs_form_to_state(loaded, state, NULL));
}

/* One that has run is not loaded into. */
static void test_only_fresh(void **unused)
{
    g_autoptr(StateNode) state = read_state();
    g_autoptr(BochsForm) fresh = read_fresh();
    g_autoptr(BochsForm) wanted = bochs_form_from_state(state, fresh, NULL);
    g_autoptr(BochsForm) used = apply(wanted);
    g_autoptr(GError) error = NULL;

    assert_null(bochs_form_from_state(state, used, &error));
    assert_non_null(strstr(error->message, "that has not run yet"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_recorded_state),
        cmocka_unit_test(test_pit_phase),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_only_fresh),
        cmocka_unit_test(test_hpet),
        cmocka_unit_test(test_cards_round_trip),
        cmocka_unit_test(test_vga_derived),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_ended_transfer),
        cmocka_unit_test_setup_teardown(test_round_trip, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_only_fresh, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_two_timers, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_one_tsc, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_events, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_x2apic, with_two, with_one),
        cmocka_unit_test_setup_teardown(test_two_refused, with_two, with_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
