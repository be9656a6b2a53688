/* The processors: QEMU's sections "cpu_common", "cpu" and "apic". */
#include <string.h>

#include "state/qemu_map.h"

#define NUMBER(neutral, own)                                                                       \
    {                                                                                              \
        QEMU_MAP_NUMBER, neutral, own                                                              \
    }
#define OPTIONAL(neutral, own, otherwise)                                                          \
    {                                                                                              \
        QEMU_MAP_OPTIONAL, neutral, own, .value = (otherwise)                                      \
    }
#define BITS(neutral, own, low, ones)                                                              \
    {                                                                                              \
        QEMU_MAP_BITS, neutral, own, .shift = (low), .mask = (ones)                                \
    }
#define LEFT_OUT(own, why)                                                                         \
    {                                                                                              \
        QEMU_MAP_LEFT_OUT, why, own                                                                \
    }
#define CODE(own, read, write)                                                                     \
    {                                                                                              \
        QEMU_MAP_CODE, NULL, own, 0, 0, 0, NULL, read, write                                       \
    }

/* ---- segments ---- */

/* QEMU's flags are the whole second word of the descriptor; only the rights in it count. */
static const QemuMapRow segment_rows[] = {
    NUMBER("selector", "selector"),
    NUMBER("base", "base"),
    NUMBER("limit", "limit"),
    BITS("access", "flags", 8, 0xf0ff),
    {0},
};

static const QemuMapRow table_rows[] = {
    NUMBER("base", "base"),
    NUMBER("limit", "limit"),
    LEFT_OUT("selector", "a table's register has none"),
    LEFT_OUT("flags", "a table's register has none"),
    {0},
};

static const QemuMapRow mtrr_rows[] = {NUMBER("base", "base"), NUMBER("mask", "mask"), {0}};

/* ---- x87, SSE, AVX ---- */

enum { REGISTERS = 16, X87_REGISTERS = 8, OPMASKS = 8 };

/* One family of vector registers: parts of 8 bytes each, in QEMU's struct. */
typedef struct {
    const char *neutral, *own; /* "[n]" is put behind both */
    const char *parts[9];
} VectorFamily;

static const VectorFamily vectors[] = {
    {"xmm", "env.xmm_regs[0]", {"_q_ZMMReg[0]", "_q_ZMMReg[1]"}},
    {"ymm_high", "env.xmm_regs[1]", {"_q_ZMMReg[2]", "_q_ZMMReg[3]"}},
    {"zmm_high",
     "cpu/avx512|zmm_high",
     {"_q_ZMMReg[4]", "_q_ZMMReg[5]", "_q_ZMMReg[6]", "_q_ZMMReg[7]"}},
    {"zmm_upper",
     "cpu/avx512|zmm_upper",
     {"_q_ZMMReg[0]", "_q_ZMMReg[1]", "_q_ZMMReg[2]", "_q_ZMMReg[3]", "_q_ZMMReg[4]",
      "_q_ZMMReg[5]", "_q_ZMMReg[6]", "_q_ZMMReg[7]"}},
};

static guint family_bytes(const VectorFamily *family)
{
    guint parts = 0;

    while (family->parts[parts])
        parts++;
    return 8 * parts;
}

static gboolean read_vectors(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    for (guint f = 0; f < G_N_ELEMENTS(vectors); f++)
        for (guint i = 0; i < REGISTERS; i++) {
            g_autofree char *own = g_strdup_printf("%s[%u]", vectors[f].own, i);
            g_autofree char *path = g_strdup_printf("fpu.%s[%u]", vectors[f].neutral, i);
            const QemuRecord *inner = qemu_get_record(record, own);
            guint8 bytes[64];

            if (!inner)
                break;
            qemu_map_span(inner, vectors[f].parts, 8, bytes);
            state_set_bytes(node, path, bytes, family_bytes(&vectors[f]));
        }
    return TRUE;
}

static gboolean write_vector(QemuMapContext *context, QemuRecord *record, const StateNode *node,
                             const VectorFamily *family, guint i)
{
    g_autofree char *path = g_strdup_printf("fpu.%s[%u]", family->neutral, i);
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(node, path, &length);

    if (!bytes)
        return TRUE;
    if (length != family_bytes(family))
        return qemu_map_refuse(context, "does not fit into QEMU's state", path);
    for (guint part = 0; family->parts[part]; part++) {
        g_autofree char *own = g_strdup_printf("%s[%u]|%s", family->own, i, family->parts[part]);
        uint64_t value;

        memcpy(&value, bytes + 8 * part, sizeof value);
        if (!qemu_map_put(context, record, own, GUINT64_FROM_LE(value)))
            return FALSE;
    }
    return TRUE;
}

static gboolean write_vectors(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    for (guint f = 0; f < G_N_ELEMENTS(vectors); f++)
        for (guint i = 0; i < REGISTERS; i++)
            if (!write_vector(context, record, node, &vectors[f], i))
                return FALSE;
    return TRUE;
}

static const char *const mantissa[] = {"tmp|tmp_mant", NULL};
static const char *const exponent[] = {"tmp|tmp_exp", NULL};

static gboolean read_x87(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    for (guint i = 0; i < X87_REGISTERS; i++) {
        g_autofree char *own = g_strdup_printf("env.fpregs[%u]", i);
        g_autofree char *path = g_strdup_printf("fpu.r[%u]", i);
        const QemuRecord *inner = qemu_get_record(record, own);
        guint8 bytes[10];

        if (!inner)
            return qemu_map_refuse(context, "is not in QEMU's state", own);
        qemu_map_span(inner, mantissa, 8, bytes);
        qemu_map_span(inner, exponent, 2, bytes + 8);
        state_set_bytes(node, path, bytes, sizeof bytes);
    }
    return TRUE;
}

static gboolean write_x87(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    for (guint i = 0; i < X87_REGISTERS; i++) {
        g_autofree char *own = g_strdup_printf("env.fpregs[%u]", i);
        g_autofree char *path = g_strdup_printf("fpu.r[%u]", i);
        QemuRecord *inner = qemu_get_record(record, own);
        size_t length = 0;
        const uint8_t *bytes = state_get_bytes(node, path, &length);

        if (!inner || !bytes || length != 10)
            return qemu_map_refuse(context, "does not fit into QEMU's state", path);
        if (!qemu_map_put_span(context, inner, mantissa, 8, bytes) ||
            !qemu_map_put_span(context, inner, exponent, 2, bytes + 8))
            return FALSE;
    }
    return TRUE;
}

/* ---- the time-stamp counter ---- */

/* Under KVM each processor has its own; under TCG it is the machine's, and that one is 0. */
static gboolean read_tsc(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    const QemuSection *timer = qemu_form_find(context->form, "timer", 0);
    uint64_t tsc = qemu_map_number(record, "env.tsc");

    if (tsc == 0 && timer && timer->record)
        tsc = qemu_map_number(timer->record, "cpu_ticks_offset") +
              qemu_map_number(record, "env.tsc_offset");
    state_set_number(node, "ia32_tsc", tsc);
    return TRUE;
}

static gboolean write_tsc(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    uint64_t tsc = 0;

    if (!state_get_number(node, "ia32_tsc", &tsc))
        return qemu_map_refuse(context, "is missing", "ia32_tsc");
    /* Of the machine, it is written with the clock. */
    return qemu_map_number(record, "env.tsc") == 0 || qemu_map_put(context, record, "env.tsc", tsc);
}

#define HZ_A_KHZ 1000u

static gboolean read_tsc_hz(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    uint64_t khz;

    if (qemu_get_number(record, "cpu/tsc_khz|env.tsc_khz", &khz))
        state_set_number(node, "tsc_hz", khz * HZ_A_KHZ);
    return TRUE;
}

static gboolean write_tsc_hz(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    uint64_t khz = state_number_or(node, "tsc_hz", 0) / HZ_A_KHZ;

    return (khz == 0 && !qemu_get_record(record, "cpu/tsc_khz")) ||
           qemu_map_put(context, record, "cpu/tsc_khz|env.tsc_khz", khz);
}

/* ---- what QEMU keeps of modes, which follows from the registers ---- */

enum {
    HF_CS32 = 4,
    HF_SS32 = 5,
    HF_ADDSEG = 6,
    HF_PE = 7,
    HF_MP = 9, /* MP, EM and TS as in CR0 */
    HF_LMA = 14,
    HF_CS64 = 15,
    HF_SVME = 20,
    HF_OSFXSR = 22,
    HF_AVX_EN = 28,
};

#define CR0_PE 1u
#define CR0_MP_EM_TS 0xeu
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXSAVE (1u << 18)
#define EFER_LMA (1u << 10)
#define EFER_SVME (1u << 12)
#define XCR0_AVX 6u
#define RFLAGS_VM (1u << 17)
#define ACCESS_L (1u << 13)
#define ACCESS_DB (1u << 14)

/* The guest's view of SS, DS and ES: does an address need its base added? */
static gboolean adds_segments(const StateNode *node)
{
    if (!(state_number_or(node, "cr0", 0) & CR0_PE) ||
        (state_number_or(node, "rflags", 0) & RFLAGS_VM) ||
        !(state_number_or(node, "cs.access", 0) & ACCESS_DB))
        return TRUE;
    return (state_number_or(node, "ds.base", 0) | state_number_or(node, "es.base", 0) |
            state_number_or(node, "ss.base", 0)) != 0;
}

static uint32_t mode_of_code(const StateNode *node, gboolean long_mode)
{
    uint64_t code = state_number_or(node, "cs.access", 0);
    uint64_t stack = state_number_or(node, "ss.access", 0);

    if (long_mode && (code & ACCESS_L))
        return 1u << HF_CS32 | 1u << HF_SS32 | 1u << HF_CS64;
    return (uint32_t)((code & ACCESS_DB) != 0) << HF_CS32 |
           (uint32_t)((stack & ACCESS_DB) != 0) << HF_SS32 |
           (uint32_t)adds_segments(node) << HF_ADDSEG;
}

static uint32_t modes_of(const StateNode *node)
{
    uint64_t cr0 = state_number_or(node, "cr0", 0), cr4 = state_number_or(node, "cr4", 0);
    uint64_t efer = state_number_or(node, "ia32_efer", 0);
    uint64_t xcr0 = state_number_or(node, "xcr0", 1);
    gboolean long_mode = (efer & EFER_LMA) != 0;
    gboolean avx = (cr4 & CR4_OSXSAVE) && (xcr0 & XCR0_AVX) == XCR0_AVX;

    return mode_of_code(node, long_mode) | (uint32_t)(cr0 & CR0_PE) << HF_PE |
           (uint32_t)(cr0 & CR0_MP_EM_TS) << (HF_MP - 1) | (uint32_t)long_mode << HF_LMA |
           (uint32_t)((efer & EFER_SVME) != 0) << HF_SVME |
           (uint32_t)((cr4 & CR4_OSFXSR) != 0) << HF_OSFXSR | (uint32_t)avx << HF_AVX_EN;
}

#define MODES                                                                                      \
    (1u << HF_CS32 | 1u << HF_SS32 | 1u << HF_ADDSEG | 1u << HF_PE | 7u << HF_MP | 1u << HF_LMA |  \
     1u << HF_CS64 | 1u << HF_SVME | 1u << HF_OSFXSR | 1u << HF_AVX_EN)

/* QEMU's TCG goes by them and does not make them anew when it loads. */
static gboolean write_modes(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    uint64_t hflags = qemu_map_number(record, "env.hflags");

    return qemu_map_put(context, record, "env.hflags",
                        (hflags & ~(uint64_t)MODES) | modes_of(node));
}

/* ---- activity ---- */

enum { ACTIVE = 0, HALTED = 1, WAITS_FOR_SIPI = 3 };
enum { MP_UNINITIALIZED = 1, MP_INIT_RECEIVED = 2, MP_HALTED = 3 };

static guint position_of(const QemuMapContext *context, const QemuRecord *record, const char *kind)
{
    guint position = 0;

    for (guint i = 0; i < context->form->sections->len; i++) {
        const QemuSection *section = context->form->sections->pdata[i];

        if (section->record == record)
            break;
        position += strcmp(section->name, kind) == 0;
    }
    return position;
}

/* The record of the same processor in sections of another kind, or NULL. */
static QemuRecord *beside(const QemuMapContext *context, const QemuRecord *record, const char *here,
                          const char *there)
{
    const QemuSection *section =
        qemu_form_find(context->form, there, position_of(context, record, here));

    return section ? section->record : NULL;
}

static const char waits_for_sipi[] = "apic_sipi|wait_for_sipi";

/* Its TSC is the machine's. */
static gboolean is_of_tcg(const QemuRecord *cpu)
{
    return qemu_map_number(cpu, "env.tsc") == 0;
}

/* KVM has it in the mp_state, and what waits_for_sipi says stays what it was at the reset.  TCG has it in the other two, and keeps
 * whatever mp_state it was once given: a processor that is taken for one that has halted would not wake up in code that keeps
 * interrupts off. */
static guint activity_of(const QemuMapContext *context, const QemuRecord *cpu)
{
    const QemuRecord *common = beside(context, cpu, "cpu", "cpu_common");
    const QemuRecord *apic = beside(context, cpu, "cpu", "apic");
    uint64_t mp = is_of_tcg(cpu) ? 0 : qemu_map_number(cpu, "env.mp_state");

    if (mp == MP_UNINITIALIZED || mp == MP_INIT_RECEIVED)
        return WAITS_FOR_SIPI;
    if (mp == MP_HALTED)
        return HALTED;
    if (!common || !qemu_map_number(common, "halted"))
        return ACTIVE;
    return apic && qemu_map_number(apic, waits_for_sipi) != 0 ? WAITS_FOR_SIPI : HALTED;
}

static gboolean read_activity(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    state_set_number(node, "activity", activity_of(context, record));
    return TRUE;
}

/* Both ways of saying it are set, that of KVM for KVM only, but for what says the same already. */
static gboolean write_activity(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    static const guint mp_states[] = {
        [ACTIVE] = 0, [HALTED] = MP_HALTED, [WAITS_FOR_SIPI] = MP_UNINITIALIZED};
    uint64_t activity = state_number_or(node, "activity", ACTIVE);
    QemuRecord *common = beside(context, record, "cpu", "cpu_common");
    QemuRecord *apic = beside(context, record, "cpu", "apic");

    if (activity == activity_of(context, record))
        return TRUE;
    if (activity > WAITS_FOR_SIPI || activity == 2)
        return qemu_map_refuse(context, "is not one that QEMU can be in", "activity");
    return (is_of_tcg(record) ||
            qemu_map_put(context, record, "env.mp_state", mp_states[activity])) &&
           (!common || qemu_map_put(context, common, "halted", activity != ACTIVE)) &&
           (!apic || qemu_map_put(context, apic, waits_for_sipi, activity == WAITS_FOR_SIPI));
}

enum { REQUESTS_NMI = 0x200, REQUESTS_INIT = 0x400, REQUESTS_SIPI = 0x800 };

/* TCG has it among what is requested, and does not look at the other, which is KVM's. */
static gboolean read_nmi(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    const QemuRecord *common = beside(context, record, "cpu", "cpu_common");
    uint64_t pending = is_of_tcg(record) && common
                           ? qemu_map_number(common, "interrupt_request") & REQUESTS_NMI
                           : qemu_map_number(record, "env.nmi_pending");

    state_set_number(node, "nmi_pending", pending != 0);
    return TRUE;
}

static gboolean write_nmi(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    QemuRecord *common = beside(context, record, "cpu", "cpu_common");
    uint64_t requests = common ? qemu_map_number(common, "interrupt_request") : 0, pending = 0;

    if (!state_get_number(node, "nmi_pending", &pending))
        return qemu_map_refuse(context, "is missing", "nmi_pending");
    if (!is_of_tcg(record) || !common)
        return qemu_map_put(context, record, "env.nmi_pending", pending);
    requests &= ~(uint64_t)REQUESTS_NMI;
    return qemu_map_put(context, common, "interrupt_request",
                        pending ? requests | REQUESTS_NMI : requests);
}

static const char sipi_vector[] = "apic_sipi|sipi_vector";

/* TCG: a processor that has halted takes an INIT when its start-up IPI comes, not before.  KVM has none that is under way when it tells,
 * and does not take one. */
static gboolean read_requests(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    const QemuRecord *apic = beside(context, record, "cpu_common", "apic");
    uint64_t requests = qemu_map_number(record, "interrupt_request");

    if (requests & REQUESTS_INIT)
        state_set_number(node, "pending_init", 1);
    if (requests & REQUESTS_SIPI && apic)
        state_set_number(node, "pending_sipi", qemu_map_number(apic, sipi_vector) & 0xff);
    return TRUE;
}

static gboolean write_requests(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    QemuRecord *apic = beside(context, record, "cpu_common", "apic");
    uint64_t requests = qemu_map_number(record, "interrupt_request"), vector = 0;

    if (qemu_form_find(context->form, "kvmclock", 0) &&
        (state_number_or(node, "pending_init", 0) || state_find(node, "pending_sipi")))
        return qemu_map_refuse(context, "is not one that QEMU can be in with KVM", "pending_init");
    requests &= ~(uint64_t)(REQUESTS_INIT | REQUESTS_SIPI);
    if (state_number_or(node, "pending_init", 0))
        requests |= REQUESTS_INIT;
    if (state_get_number(node, "pending_sipi", &vector)) {
        requests |= REQUESTS_SIPI;
        if (apic && !qemu_map_put(context, apic, sipi_vector, vector))
            return FALSE;
    }
    return qemu_map_put(context, record, "interrupt_request", requests);
}

static const QemuMapRow common_rows[] = {
    BITS("interrupt_request", "interrupt_request", 1, 1),
    CODE("interrupt_request", read_requests, write_requests),
    LEFT_OUT("halted", "in the activity"),
    {0},
};

#define NESTED "of a nested guest, which is not represented"

static const QemuMapRow cpu_rows[] = {
    NUMBER("rax", "env.regs[0]"),
    NUMBER("rcx", "env.regs[1]"),
    NUMBER("rdx", "env.regs[2]"),
    NUMBER("rbx", "env.regs[3]"),
    NUMBER("rsp", "env.regs[4]"),
    NUMBER("rbp", "env.regs[5]"),
    NUMBER("rsi", "env.regs[6]"),
    NUMBER("rdi", "env.regs[7]"),
    NUMBER("r8", "env.regs[8]"),
    NUMBER("r9", "env.regs[9]"),
    NUMBER("r10", "env.regs[10]"),
    NUMBER("r11", "env.regs[11]"),
    NUMBER("r12", "env.regs[12]"),
    NUMBER("r13", "env.regs[13]"),
    NUMBER("r14", "env.regs[14]"),
    NUMBER("r15", "env.regs[15]"),
    NUMBER("rip", "env.eip"),
    NUMBER("rflags", "env.eflags"),
    {QEMU_MAP_GROUP, "es", "env.segs[0]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "cs", "env.segs[1]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "ss", "env.segs[2]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "ds", "env.segs[3]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "fs", "env.segs[4]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "gs", "env.segs[5]", .rows = segment_rows},
    {QEMU_MAP_GROUP, "ldtr", "env.ldt", .rows = segment_rows},
    {QEMU_MAP_GROUP, "tr", "env.tr", .rows = segment_rows},
    {QEMU_MAP_GROUP, "gdtr", "env.gdt", .rows = table_rows},
    {QEMU_MAP_GROUP, "idtr", "env.idt", .rows = table_rows},
    BITS("cpl", "env.hflags", 0, 3),
    BITS("interrupt_shadow", "env.hflags", 3, 1),
    BITS("smm", "env.hflags", 19, 1),
    BITS("nmi_blocked", "env.hflags2", 2, 1),
    NUMBER("cr0", "env.cr[0]"),
    NUMBER("cr2", "env.cr[2]"),
    NUMBER("cr3", "env.cr[3]"),
    NUMBER("cr4", "env.cr[4]"),
    NUMBER("xcr0", "env.xcr0"),
    NUMBER("dr0", "env.dr[0]"),
    NUMBER("dr1", "env.dr[1]"),
    NUMBER("dr2", "env.dr[2]"),
    NUMBER("dr3", "env.dr[3]"),
    NUMBER("dr6", "env.dr[6]"),
    NUMBER("dr7", "env.dr[7]"),
    LEFT_OUT("env.dr", "DR4 and DR5 are others by CR4.DE"),
    NUMBER("smbase", "env.smbase"),
    CODE("env.nmi_pending", read_nmi, write_nmi),
    NUMBER("injected_nmi", "env.nmi_injected"),
    {QEMU_MAP_NONE, "injected_interrupt", "env.interrupt_injected"},
    NUMBER("injected_software", "env.soft_interrupt"),
    {QEMU_MAP_NONE, "injected_exception", "env.exception_nr"},
    NUMBER("injected_error_code", "env.has_error_code"),
    NUMBER("sipi_vector", "env.sipi_vector"),
    NUMBER("ia32_efer", "env.efer"),
    NUMBER("ia32_star", "env.star"),
    NUMBER("ia32_lstar", "env.lstar"),
    NUMBER("ia32_cstar", "env.cstar"),
    NUMBER("ia32_fmask", "env.fmask"),
    NUMBER("ia32_kernel_gs_base", "env.kernelgsbase"),
    NUMBER("ia32_sysenter_cs", "env.sysenter_cs"),
    NUMBER("ia32_sysenter_esp", "env.sysenter_esp"),
    NUMBER("ia32_sysenter_eip", "env.sysenter_eip"),
    NUMBER("ia32_pat", "env.pat"),
    CODE("env.tsc env.tsc_offset", read_tsc, write_tsc),
    CODE("cpu/tsc_khz", read_tsc_hz, write_tsc_hz),
    NUMBER("ia32_tsc_aux", "env.tsc_aux"),
    OPTIONAL("ia32_tsc_adjust", "cpu/msr_tsc_adjust|env.tsc_adjust", 0),
    OPTIONAL("ia32_tsc_deadline", "cpu/msr_tscdeadline|env.tsc_deadline", 0),
    OPTIONAL("ia32_misc_enable", "cpu/msr_ia32_misc_enable|env.msr_ia32_misc_enable", 1),
    OPTIONAL("ia32_feature_control", "cpu/msr_ia32_feature_control|env.msr_ia32_feature_control",
             0),
    OPTIONAL("ia32_spec_ctrl", "cpu/spec_ctrl|env.spec_ctrl", 0),
    OPTIONAL("amd_virt_ssbd", "cpu/virt_ssbd|env.virt_ssbd", 0),
    OPTIONAL("ia32_xss", "cpu/xss|env.xss", 0),
    OPTIONAL("ia32_smi_count", "cpu/msr_smi_count|env.msr_smi_count", 0),
    OPTIONAL("ia32_umwait_control", "cpu/umwait|env.umwait", 0),
    OPTIONAL("ia32_tsx_ctrl", "cpu/msr_tsx_ctrl|env.tsx_ctrl", 0),
    OPTIONAL("pkru", "cpu/pkru|env.pkru", 0),
    NUMBER("ia32_mtrr_def_type", "env.mtrr_deftype"),
    {QEMU_MAP_NUMBERS, "ia32_mtrr_fixed", "env.mtrr_fixed"},
    {QEMU_MAP_GROUPS, "ia32_mtrr_variable", "env.mtrr_var", .rows = mtrr_rows},
    NUMBER("ia32_mcg_cap", "env.mcg_cap"),
    NUMBER("ia32_mcg_status", "env.mcg_status"),
    NUMBER("ia32_mcg_ctl", "env.mcg_ctl"),
    {QEMU_MAP_NUMBERS, "ia32_mc", "env.mce_banks"},
    NUMBER("kvm_system_time", "env.system_time_msr"),
    NUMBER("kvm_wall_clock", "env.wall_clock_msr"),
    OPTIONAL("kvm_async_pf_en", "cpu/async_pf_msr|env.async_pf_en_msr", 0),
    OPTIONAL("kvm_async_pf_int", "cpu/async_pf_int_msr|env.async_pf_int_msr", 0),
    OPTIONAL("kvm_steal_time", "cpu/steal_time_msr|env.steal_time_msr", 0),
    OPTIONAL("kvm_eoi_en", "cpu/async_pv_eoi_msr|env.pv_eoi_en_msr", 0),
    OPTIONAL("kvm_poll_control", "cpu/poll_control_msr|env.poll_control_msr", 1),
    NUMBER("fpu.control", "env.fpuc"),
    NUMBER("fpu.status", "env.fpus_vmstate"),
    NUMBER("fpu.tag", "env.fptag_vmstate"),
    OPTIONAL("fpu.opcode", "cpu/fpop_ip_dp|env.fpop", 0),
    OPTIONAL("fpu.instruction_pointer", "cpu/fpop_ip_dp|env.fpip", 0),
    OPTIONAL("fpu.data_pointer", "cpu/fpop_ip_dp|env.fpdp", 0),
    NUMBER("fpu.mxcsr", "env.mxcsr"),
    NUMBER("fpu.xstate_bv", "env.xstate_bv"),
    CODE("env.fpregs", read_x87, write_x87),
    CODE("env.xmm_regs[0] env.xmm_regs[1] cpu/avx512|zmm_high cpu/avx512|zmm_upper", read_vectors,
         write_vectors),
    {QEMU_MAP_NUMBERS, "fpu.k", "cpu/avx512|env.opmask_regs", .value = OPMASKS},
    CODE("env.mp_state", read_activity, write_activity),
    CODE("env.hflags", NULL, write_modes),
    LEFT_OUT("env.fpregs_format_vmstate", "0: 80 bits a register"),
    LEFT_OUT("env.a20_mask", "in the machine"),
    LEFT_OUT("env.hflags2", "but for blocked NMIs: " NESTED),
    LEFT_OUT("env.vm_hsave", NESTED),
    LEFT_OUT("env.vm_vmcb", NESTED),
    LEFT_OUT("env.intercept", NESTED),
    LEFT_OUT("env.intercept_cr_read", NESTED),
    LEFT_OUT("env.intercept_cr_write", NESTED),
    LEFT_OUT("env.intercept_dr_read", NESTED),
    LEFT_OUT("env.intercept_dr_write", NESTED),
    LEFT_OUT("env.intercept_exceptions", NESTED),
    LEFT_OUT("env.v_tpr", NESTED),
    {0},
};

/* ---- local APIC ---- */

enum { LDR_SHIFT = 24, DFR_SHIFT = 28 };

#define DFR_ONES 0x0fffffffu

static gboolean read_apic_parts(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    state_set_number(node, "ldr", qemu_map_number(record, "log_dest") << LDR_SHIFT);
    state_set_number(node, "dfr", qemu_map_number(record, "dest_mode") << DFR_SHIFT | DFR_ONES);
    state_set_number(node, "icr",
                     qemu_map_number(record, "icr[1]") << 32 | qemu_map_number(record, "icr[0]"));
    return TRUE;
}

/* 0 divides by 2, 1 by 4, … 7 by 1. */
static guint shift_of_divider(uint64_t configuration)
{
    return (guint)(((configuration & 3) | (configuration >> 1 & 4)) + 1) & 7;
}

/* A divider that was never written shifts by 0 in QEMU. */
static gboolean write_divider(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    uint64_t divide = state_number_or(node, "divide_configuration", 0);

    return divide == qemu_map_number(record, "divide_conf") ||
           qemu_map_put(context, record, "count_shift", shift_of_divider(divide));
}

static gboolean write_apic_parts(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    uint64_t icr = state_number_or(node, "icr", 0);

    return qemu_map_put(context, record, "log_dest",
                        state_number_or(node, "ldr", 0) >> LDR_SHIFT) &&
           qemu_map_put(context, record, "dest_mode",
                        state_number_or(node, "dfr", 0) >> DFR_SHIFT) &&
           qemu_map_put(context, record, "icr[0]", icr & G_MAXUINT32) &&
           qemu_map_put(context, record, "icr[1]", icr >> 32) &&
           write_divider(context, record, node);
}

/* While the timer is armed, they are the same. */
static gboolean write_next_time(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    int64_t until;

    return !state_get_time(node, "until_fire", &until) ||
           qemu_map_put(context, record, "next_time", context->now + (uint64_t)until);
}

/* The first row writes before the divider's own does, and sees whether it changes. */
static const QemuMapRow apic_rows[] = {
    CODE("log_dest dest_mode icr count_shift", read_apic_parts, write_apic_parts),
    NUMBER("ia32_apic_base", "apicbase"),
    NUMBER("id", "id"),
    NUMBER("arbitration_id", "arb_id"),
    NUMBER("tpr", "tpr"),
    NUMBER("svr", "spurious_vec"),
    {QEMU_MAP_NUMBERS, "isr", "isr"},
    {QEMU_MAP_NUMBERS, "tmr", "tmr"},
    {QEMU_MAP_NUMBERS, "irr", "irr"},
    NUMBER("lvt_timer", "lvt[0]"),
    NUMBER("lvt_thermal", "lvt[1]"),
    NUMBER("lvt_performance", "lvt[2]"),
    NUMBER("lvt_lint0", "lvt[3]"),
    NUMBER("lvt_lint1", "lvt[4]"),
    NUMBER("lvt_error", "lvt[5]"),
    NUMBER("esr", "esr"),
    NUMBER("divide_configuration", "divide_conf"),
    NUMBER("initial_count", "initial_count"),
    {QEMU_MAP_SINCE, "since_load", "initial_count_load_time"},
    {QEMU_MAP_UNTIL, "until_fire", "timer_expiry"},
    CODE("next_time", NULL, write_next_time),
    LEFT_OUT("apic_sipi|sipi_vector", "of a start-up IPI, with what is requested"),
    LEFT_OUT("apic_sipi|wait_for_sipi", "in the activity"),
    {0},
};

const QemuMap qemu_maps_cpu[] = {
    {"cpu_common", .rows = common_rows},
    {"cpu", .rows = cpu_rows},
    {"apic", .group = "local_apic", .rows = apic_rows},
    {NULL},
};
