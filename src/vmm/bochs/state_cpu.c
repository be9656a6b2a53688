/* The processors, with their local APICs. */
#include "vmm/bochs/form_private.h"

#include "base/error.h"

#define RFLAGS_IF 0x200u
#define RFLAGS_VM 0x20000u
#define CR0_PE 1u
#define EFER_LMA 0x400u
#define ACCESS_L 0x2000u
#define APIC_GLOBAL_ENABLE 0x800u
#define APIC_X2APIC 0x400u
#define LVT_TSC_DEADLINE 0x40000u

/* Of Bochs's pending_event and event_mask. */
#define EVENT_NMI 0x1u
#define EVENT_INIT 0x4u
#define EVENTS_OF_SIPI_WAIT 0x7u /* SMI, too */
#define EVENT_PIC 0x400u
#define EVENT_APIC 0x800u
#define EVENTS_WITHOUT_IF 0xf40u

#define NUMBERED(neutral, bochs)                                                                   \
    BOCHS_HEX(neutral "[0]", bochs "0"), BOCHS_HEX(neutral "[1]", bochs "1"),                      \
        BOCHS_HEX(neutral "[2]", bochs "2"), BOCHS_HEX(neutral "[3]", bochs "3"),                  \
        BOCHS_HEX(neutral "[4]", bochs "4"), BOCHS_HEX(neutral "[5]", bochs "5"),                  \
        BOCHS_HEX(neutral "[6]", bochs "6"), BOCHS_HEX(neutral "[7]", bochs "7")
#define MTRR(number)                                                                               \
    BOCHS_HEX("ia32_mtrr_variable[" #number "].base", "MSR.mtrrphysbase" #number),                 \
        BOCHS_HEX("ia32_mtrr_variable[" #number "].mask", "MSR.mtrrphysmask" #number)

static const BochsField cpu_fields[] = {
    BOCHS_HEX("rax", "RAX"),
    BOCHS_HEX("rcx", "RCX"),
    BOCHS_HEX("rdx", "RDX"),
    BOCHS_HEX("rbx", "RBX"),
    BOCHS_HEX("rsp", "RSP"),
    BOCHS_HEX("rbp", "RBP"),
    BOCHS_HEX("rsi", "RSI"),
    BOCHS_HEX("rdi", "RDI"),
    BOCHS_HEX("r8", "R8"),
    BOCHS_HEX("r9", "R9"),
    BOCHS_HEX("r10", "R10"),
    BOCHS_HEX("r11", "R11"),
    BOCHS_HEX("r12", "R12"),
    BOCHS_HEX("r13", "R13"),
    BOCHS_HEX("r14", "R14"),
    BOCHS_HEX("r15", "R15"),
    BOCHS_HEX("rip", "RIP"),
    BOCHS_HEX("rflags", "EFLAGS"),
    BOCHS_HEX("gdtr.base", "GDTR.base"),
    BOCHS_HEX("gdtr.limit", "GDTR.limit"),
    BOCHS_HEX("idtr.base", "IDTR.base"),
    BOCHS_HEX("idtr.limit", "IDTR.limit"),
    BOCHS_HEX("cr0", "CR0"),
    BOCHS_HEX("cr2", "CR2"),
    BOCHS_HEX("cr3", "CR3"),
    BOCHS_HEX("cr4", "CR4"),
    BOCHS_HEX("xcr0", "XCR0"),
    BOCHS_HEX("dr0", "DR0"),
    BOCHS_HEX("dr1", "DR1"),
    BOCHS_HEX("dr2", "DR2"),
    BOCHS_HEX("dr3", "DR3"),
    BOCHS_HEX("dr6", "DR6"),
    BOCHS_HEX("dr7", "DR7"),
    BOCHS_FLAG("smm", "in_smm", 0),
    BOCHS_HEX("smbase", "smbase"),
    BOCHS_HEX("ia32_efer", "MSR.EFER"),
    BOCHS_HEX("ia32_star", "MSR.star"),
    BOCHS_HEX("ia32_lstar", "MSR.lstar"),
    BOCHS_HEX("ia32_cstar", "MSR.cstar"),
    BOCHS_HEX("ia32_fmask", "MSR.fmask"),
    BOCHS_HEX("ia32_kernel_gs_base", "MSR.kernelgsbase"),
    BOCHS_HEX("ia32_sysenter_cs", "MSR.sysenter_cs_msr"),
    BOCHS_HEX("ia32_sysenter_esp", "MSR.sysenter_esp_msr"),
    BOCHS_HEX("ia32_sysenter_eip", "MSR.sysenter_eip_msr"),
    BOCHS_HEX("ia32_pat", "MSR.pat"),
    BOCHS_HEX("ia32_tsc_aux", "MSR.tsc_aux"),
    BOCHS_HEX("ia32_mtrr_def_type", "MSR.mtrr_deftype"),
    BOCHS_HEX("ia32_mtrr_fixed[0]", "MSR.mtrrfix64k"),
    BOCHS_HEX("ia32_mtrr_fixed[1]", "MSR.mtrrfix16k_80000"),
    BOCHS_HEX("ia32_mtrr_fixed[2]", "MSR.mtrrfix16k_a0000"),
    BOCHS_HEX("ia32_mtrr_fixed[3]", "MSR.mtrrfix4k_c0000"),
    BOCHS_HEX("ia32_mtrr_fixed[4]", "MSR.mtrrfix4k_c8000"),
    BOCHS_HEX("ia32_mtrr_fixed[5]", "MSR.mtrrfix4k_d0000"),
    BOCHS_HEX("ia32_mtrr_fixed[6]", "MSR.mtrrfix4k_d8000"),
    BOCHS_HEX("ia32_mtrr_fixed[7]", "MSR.mtrrfix4k_e0000"),
    BOCHS_HEX("ia32_mtrr_fixed[8]", "MSR.mtrrfix4k_e8000"),
    BOCHS_HEX("ia32_mtrr_fixed[9]", "MSR.mtrrfix4k_f0000"),
    BOCHS_HEX("ia32_mtrr_fixed[10]", "MSR.mtrrfix4k_f8000"),
    MTRR(0),
    MTRR(1),
    MTRR(2),
    MTRR(3),
    MTRR(4),
    MTRR(5),
    MTRR(6),
    MTRR(7),
    BOCHS_HEX("local_apic.ia32_apic_base", "MSR.apicbase"),
    BOCHS_HEX("local_apic.id", "local_apic.apic_id"),
    BOCHS_HEX("local_apic.tpr", "local_apic.task_priority"),
    BOCHS_BITS("local_apic.svr", "local_apic.spurious_vector", 0, 8),
    BOCHS_FLAG("local_apic.svr", "local_apic.software_enabled", 8),
    BOCHS_FLAG("local_apic.svr", "local_apic.focus_disable", 9),
    NUMBERED("local_apic.isr", "local_apic.isr"),
    NUMBERED("local_apic.tmr", "local_apic.tmr"),
    NUMBERED("local_apic.irr", "local_apic.irr"),
    BOCHS_HEX("local_apic.esr", "local_apic.error_status"),
    BOCHS_BITS("local_apic.icr", "local_apic.icr_lo", 0, 32),
    BOCHS_BITS("local_apic.icr", "local_apic.icr_hi", 32, 32),
    BOCHS_HEX("local_apic.lvt_timer", "local_apic.lvt0"),
    BOCHS_HEX("local_apic.lvt_thermal", "local_apic.lvt1"),
    BOCHS_HEX("local_apic.lvt_performance", "local_apic.lvt2"),
    BOCHS_HEX("local_apic.lvt_lint0", "local_apic.lvt3"),
    BOCHS_HEX("local_apic.lvt_lint1", "local_apic.lvt4"),
    BOCHS_HEX("local_apic.lvt_error", "local_apic.lvt5"),
    BOCHS_HEX("local_apic.divide_configuration", "local_apic.timer_divconf"),
    BOCHS_HEX("local_apic.initial_count", "local_apic.timer_initial"),
    BOCHS_END,
};

/* LDTR and TR. */
static const BochsField system_segment_fields[] = {
    BOCHS_HEX("selector", "selector"),
    BOCHS_HEX("base", "base"),
    BOCHS_HEX("limit", "limit_scaled"),
    BOCHS_BITS("access", "type", 0, 4),
    BOCHS_FLAG("access", "segment", 4),
    BOCHS_BITS("access", "dpl", 5, 2),
    BOCHS_FLAG("access", "p", 7),
    BOCHS_DERIVED("access", "valid", 7, 1),
    BOCHS_FLAG("access", "avl", 12),
    BOCHS_FLAG("access", "d_b", 14),
    BOCHS_FLAG("access", "granularity", 15),
    BOCHS_END,
};

static const BochsField long_fields[] = {BOCHS_FLAG("access", "l", 13), BOCHS_END};

static const struct {
    const char *neutral, *bochs;
    gboolean system;
} segments[] = {
    {"es", "ES", FALSE}, {"cs", "CS", FALSE}, {"ss", "SS", FALSE},    {"ds", "DS", FALSE},
    {"fs", "FS", FALSE}, {"gs", "GS", FALSE}, {"ldtr", "LDTR", TRUE}, {"tr", "TR", TRUE},
};

/* ---- what follows from the rest ---- */

#define WAITS_FOR_SIPI 3u

/* As Bochs numbers them. */
typedef enum { MODE_REAL, MODE_VIRTUAL_8086, MODE_PROTECTED, MODE_COMPATIBILITY, MODE_64 } Mode;

static Mode mode_of(const StateNode *cpu)
{
    if (!(state_number_or(cpu, "cr0", 0) & CR0_PE))
        return MODE_REAL;
    if (state_number_or(cpu, "ia32_efer", 0) & EFER_LMA)
        return state_number_or(cpu, "cs.access", 0) & ACCESS_L ? MODE_64 : MODE_COMPATIBILITY;
    return state_number_or(cpu, "rflags", 0) & RFLAGS_VM ? MODE_VIRTUAL_8086 : MODE_PROTECTED;
}

/* The highest vector that is set, or -1. */
static int highest(const StateNode *cpu, const char *list)
{
    for (int i = 7; i >= 0; i--) {
        g_autofree char *path = g_strdup_printf("local_apic.%s[%d]", list, i);
        uint64_t bits = state_number_or(cpu, path, 0);

        if (bits)
            return i * 32 + (int)g_bit_nth_msf(bits, 32);
    }
    return -1;
}

/* An interrupt of the local APIC can be delivered (SDM 3, 11.8.3). */
static gboolean apic_interrupts(const StateNode *cpu)
{
    int request = highest(cpu, "irr"), service = highest(cpu, "isr");

    return request >= 0 && (service < 0 || request / 16 > service / 16) &&
           (uint64_t)request / 16 > state_number_or(cpu, "local_apic.tpr", 0) / 16;
}

/* The 8259A interrupts the first processor only. */
static void write_events(const StateNode *cpu, guint number, const BochsForm *wanted, BochsNode *to)
{
    const BochsNode *pic = bochs_form_find(wanted, "pic");
    gboolean enabled = (state_number_or(cpu, "rflags", 0) & RFLAGS_IF) != 0;
    uint64_t mask = enabled ? 0 : EVENTS_WITHOUT_IF, pending = 0, raised = 0;

    if (state_number_or(cpu, "nmi_blocked", 0))
        mask |= EVENT_NMI;
    if (state_number_or(cpu, "activity", 0) == WAITS_FOR_SIPI)
        mask |= EVENTS_OF_SIPI_WAIT;
    else if (state_number_or(cpu, "pending_init", 0))
        pending |= EVENT_INIT;
    if (state_number_or(cpu, "nmi_pending", 0))
        pending |= EVENT_NMI;
    if (number == 0 && pic && bochs_tree_get(pic, "master.INT", &raised, NULL) && raised)
        pending |= EVENT_PIC;
    if (apic_interrupts(cpu))
        pending |= EVENT_APIC;
    bochs_tree_set(to, "event_mask", BOCHS_NODE_HEX, mask);
    bochs_tree_set(to, "pending_event", BOCHS_NODE_HEX, pending);
    /* Makes Bochs look at all of that before it goes on. */
    bochs_tree_set(to, "async_event", BOCHS_NODE_HEX, 1);
}

/* ---- the local APIC ---- */

/* SDM 3, 11.5.4. */
static uint64_t divisor_of(uint64_t configuration)
{
    guint code = (guint)((configuration & 8) >> 1 | (configuration & 3));

    return code == 7 ? 1 : 2u << code;
}

/* A logical address in x2APIC mode follows from the id (SDM 3, 11.12.10.2), and is not in all states. */
static uint64_t x2apic_ldr(uint64_t id)
{
    return id >> 4 << 16 | (uint64_t)1 << (id & 15);
}

static void write_apic(const StateNode *cpu, BochsNode *to)
{
    uint64_t base = state_number_or(cpu, "local_apic.ia32_apic_base", 0);
    gboolean x2 = (base & APIC_X2APIC) != 0;
    uint64_t ldr = state_number_or(cpu, "local_apic.ldr", 0);

    bochs_tree_set(to, "local_apic.base_addr", BOCHS_NODE_HEX, base & ~(uint64_t)0xfff);
    bochs_tree_set(to, "local_apic.mode", BOCHS_NODE_HEX,
                   !(base & APIC_GLOBAL_ENABLE) ? 0
                   : x2                         ? 3
                                                : 2);
    bochs_tree_set(to, "local_apic.ldr", BOCHS_NODE_HEX,
                   x2 ? x2apic_ldr(state_number_or(cpu, "local_apic.id", 0)) : ldr >> 24);
    bochs_tree_set(to, "local_apic.dest_format", BOCHS_NODE_HEX,
                   state_number_or(cpu, "local_apic.dfr", 0) >> 28 & 15);
    bochs_tree_set(to, "local_apic.timer_divide_factor", BOCHS_NODE_DECIMAL,
                   divisor_of(state_number_or(cpu, "local_apic.divide_configuration", 0)));
}

static gboolean read_apic(const BochsNode *from, StateNode *cpu, GError **error)
{
    uint64_t mode, ldr, format;

    if (!bochs_tree_get(from, "local_apic.mode", &mode, error) ||
        !bochs_tree_get(from, "local_apic.ldr", &ldr, error) ||
        !bochs_tree_get(from, "local_apic.dest_format", &format, error))
        return FALSE;
    state_set_number(cpu, "local_apic.arbitration_id", 0);
    state_set_number(cpu, "local_apic.ldr", mode == 3 ? ldr : (ldr & 0xff) << 24);
    state_set_number(cpu, "local_apic.dfr", (format & 15) << 28 | 0x0fffffff);
    return TRUE;
}

/* It counts with Bochs's clock, whatever the source's counted with. */
static void write_timer(const StateNode *cpu, guint number, const BochsClock *clock,
                        BochsForm *wanted, BochsNode *to)
{
    uint64_t deadline = state_number_or(cpu, "ia32_tsc_deadline", 0), loaded, after = 0;
    gboolean by_deadline = state_number_or(cpu, "local_apic.lvt_timer", 0) & LVT_TSC_DEADLINE;
    int64_t until = 0, since = 0;

    (void)state_get_time(cpu, "local_apic.since_load", &since);
    loaded = bochs_clock_ticks(clock, since);
    loaded = loaded < clock->now ? clock->now - loaded : 0;
    if (by_deadline && deadline)
        after = deadline > clock->now ? deadline - clock->now : 1;
    else if (!by_deadline && state_get_time(cpu, "local_apic.until_fire", &until))
        after = MAX(1, bochs_clock_ticks(clock, until));
    bochs_tree_set(to, "local_apic.ticksInitial", BOCHS_NODE_HEX, by_deadline ? deadline : loaded);
    bochs_tree_set(to, "local_apic.timer_active", BOCHS_NODE_BOOLEAN, after > 0);
    bochs_tree_set(to, "local_apic.timer_current", BOCHS_NODE_HEX,
                   after > 0 ? state_number_or(cpu, "local_apic.initial_count", 0) : 0);
    bochs_clock_arm(clock, wanted, bochs_clock_apic_timer(number), after);
}

static gboolean read_timer(const BochsForm *shown, guint number, const BochsNode *from,
                           const BochsClock *clock, StateNode *cpu, GError **error)
{
    const BochsNode *system = bochs_form_find(shown, "pc_system");
    g_autofree char *path = g_strdup_printf("timer.%u.timeToFire", bochs_clock_apic_timer(number));
    uint64_t active, loaded, fires, lvt = state_number_or(cpu, "local_apic.lvt_timer", 0);

    if (!bochs_tree_get(from, "local_apic.timer_active", &active, error) ||
        !bochs_tree_get(from, "local_apic.ticksInitial", &loaded, error) ||
        !bochs_tree_get(system, path, &fires, error))
        return FALSE;
    state_set_number(cpu, "local_apic.timer_hz", clock->ips);
    (void)state_remove(cpu, "ia32_tsc_deadline");
    (void)state_remove(cpu, "local_apic.until_fire");
    if (lvt & LVT_TSC_DEADLINE) {
        state_set_time(cpu, "local_apic.since_load", 0);
        if (active)
            state_set_number(cpu, "ia32_tsc_deadline", loaded);
        return TRUE;
    }
    state_set_time(cpu, "local_apic.since_load",
                   clock->now > loaded ? bochs_clock_ns(clock, clock->now - loaded) : 0);
    if (active)
        state_set_time(cpu, "local_apic.until_fire",
                       fires > clock->now ? bochs_clock_ns(clock, fires - clock->now) : 0);
    return TRUE;
}

/* ---- the whole ---- */

/* TSC, and what holds interrupts back for an instruction. */
static gboolean write_rest(const StateNode *cpu, const BochsClock *clock, const BochsNode *shown,
                           BochsNode *to, GError **error)
{
    uint64_t icount, shadow = state_number_or(cpu, "interrupt_shadow", 0);

    if (!bochs_tree_get(shown, "icount", &icount, error))
        return FALSE;
    bochs_tree_set(to, "tsc_adjust", BOCHS_NODE_HEX, clock->tsc - clock->now);
    bochs_tree_set(to, "inhibit_mask", BOCHS_NODE_HEX, shadow);
    bochs_tree_set(to, "inhibit_icount", BOCHS_NODE_HEX, shadow ? icount : 0);
    bochs_tree_set(to, "cpu_mode", BOCHS_NODE_DECIMAL, mode_of(cpu));
    bochs_tree_set(to, "activity_state", BOCHS_NODE_HEX, state_number_or(cpu, "activity", 0));
    return TRUE;
}

gboolean bochs_cpu_write(const StateNode *cpu, guint number, const BochsClock *clock,
                         const BochsForm *shown, BochsForm *wanted, GError **error)
{
    const StateNode *fpu = state_find(cpu, "fpu");
    const char *name = bochs_form_cpu(number);
    BochsNode *to = bochs_form_get(wanted, name);

    bochs_fields_write(cpu_fields, cpu, to, "");
    for (guint i = 0; i < G_N_ELEMENTS(segments); i++) {
        const StateNode *segment = state_find(cpu, segments[i].neutral);

        bochs_fields_write(system_segment_fields, segment, to, segments[i].bochs);
        if (!segments[i].system)
            bochs_fields_write(long_fields, segment, to, segments[i].bochs);
    }
    write_apic(cpu, to);
    write_timer(cpu, number, clock, wanted, to);
    write_events(cpu, number, wanted, to);
    return write_rest(cpu, clock, bochs_form_find(shown, name), to, error) &&
           bochs_fpu_write(fpu, to, error);
}

static gboolean read_segments(const BochsNode *from, StateNode *cpu, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(segments); i++) {
        StateNode *segment = state_set_group(cpu, segments[i].neutral);
        g_autofree char *path = bochs_path(segments[i].bochs, "l");
        uint64_t access, is_long = 0;

        if (!bochs_fields_read(system_segment_fields, from, segments[i].bochs, segment, error) ||
            (!segments[i].system && !bochs_tree_get(from, path, &is_long, error)))
            return FALSE;
        access = state_number_or(segment, "access", 0);
        state_set_number(segment, "access", is_long ? access | ACCESS_L : access);
    }
    return TRUE;
}

static uint64_t privilege_of(const StateNode *cpu)
{
    Mode mode = mode_of(cpu);

    if (mode == MODE_REAL)
        return 0;
    return mode == MODE_VIRTUAL_8086 ? 3 : state_number_or(cpu, "cs.selector", 0) & 3;
}

static gboolean read_rest(const BochsNode *from, const BochsClock *clock, StateNode *cpu,
                          GError **error)
{
    uint64_t adjust, activity, inhibited, until, icount, mask, pending;

    if (!bochs_tree_get(from, "tsc_adjust", &adjust, error) ||
        !bochs_tree_get(from, "activity_state", &activity, error) ||
        !bochs_tree_get(from, "inhibit_mask", &inhibited, error) ||
        !bochs_tree_get(from, "inhibit_icount", &until, error) ||
        !bochs_tree_get(from, "icount", &icount, error) ||
        !bochs_tree_get(from, "event_mask", &mask, error) ||
        !bochs_tree_get(from, "pending_event", &pending, error))
        return FALSE;
    state_set_number(cpu, "ia32_tsc", clock->now + adjust);
    /* One that waits for a store (MWAIT) wakes up when it likes. */
    state_set_number(cpu, "activity", activity > 3 ? 0 : activity);
    state_set_number(cpu, "interrupt_shadow", inhibited && icount <= until);
    /* One that waits for a start-up IPI is reset by that. */
    state_set_number(cpu, "nmi_blocked", activity != WAITS_FOR_SIPI && mask & EVENT_NMI);
    state_set_number(cpu, "nmi_pending", (pending & EVENT_NMI) != 0);
    state_set_number(cpu, "interrupt_request", (pending & (EVENT_PIC | EVENT_APIC)) != 0);
    (void)state_remove(cpu, "pending_init");
    (void)state_remove(cpu, "pending_sipi");
    if (pending & EVENT_INIT)
        state_set_number(cpu, "pending_init", 1);
    state_set_number(cpu, "cpl", privilege_of(cpu));
    return TRUE;
}

/* Bochs has no machine check banks: they stay as they were loaded. */
static void read_machine_check(StateNode *cpu)
{
    if (state_find(cpu, "ia32_mcg_cap"))
        return;
    state_set_number(cpu, "ia32_mcg_cap", 0);
    state_set_number(cpu, "ia32_mcg_status", 0);
    state_set_number(cpu, "ia32_mcg_ctl", 0);
    for (guint i = 0; i < 40; i++) {
        g_autofree char *path = g_strdup_printf("ia32_mc[%u]", i);

        state_set_number(cpu, path, 0);
    }
}

gboolean bochs_cpu_read(const BochsForm *shown, guint number, const BochsClock *clock,
                        StateNode *cpu, GError **error)
{
    const BochsNode *from = bochs_form_find(shown, bochs_form_cpu(number));

    if (!bochs_fields_read(cpu_fields, from, "", cpu, error) || !read_segments(from, cpu, error) ||
        !read_apic(from, cpu, error) || !read_timer(shown, number, from, clock, cpu, error) ||
        !read_rest(from, clock, cpu, error))
        return FALSE;
    read_machine_check(cpu);
    return bochs_fpu_read(from, state_set_group(cpu, "fpu"), error);
}
