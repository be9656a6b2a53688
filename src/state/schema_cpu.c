/* The schema of a processor.  "SDM" is the Intel 64 and IA-32 Architectures Software Developer's
 * Manual, "APM" the AMD64 Architecture Programmer's Manual. */
#include "state/schema_tables.h"

#define NUMBER STATE_NUMBER_FIELD
#define OPTIONAL STATE_OPTIONAL_NUMBER

static const StateField segment_fields[] = {
    NUMBER("selector", 16, ""),
    NUMBER("base", 64, ""),
    NUMBER("limit", 32, "in bytes, the granularity bit applied"),
    NUMBER(
        "access", 16,
        "access rights: bits 8 to 23 of the descriptor's second word, as in VMX (SDM 3, 25.4.1): "
        "3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G; 11:8 are zero"),
    {NULL},
};

const StateGroup state_segment_group = {
    "segment", "A segment register with its hidden part (SDM 3, 3.4.3).", NULL, segment_fields};

static const StateField table_fields[] = {
    NUMBER("base", 64, ""),
    NUMBER("limit", 16, ""),
    {NULL},
};

static const StateGroup table_group = {"table", "A descriptor table's register (SDM 3, 2.4).", NULL,
                                       table_fields};

static const StateField mtrr_fields[] = {
    NUMBER("base", 64, "IA32_MTRR_PHYSBASE"),
    NUMBER("mask", 64, "IA32_MTRR_PHYSMASK"),
    {NULL},
};

static const StateGroup mtrr_group = {"mtrr", "A variable range (SDM 3, 12.11.2.3).", NULL,
                                      mtrr_fields};

static const StateField fpu_fields[] = {
    NUMBER("control", 16, "FCW"),
    NUMBER("status", 16, "FSW, with TOP"),
    NUMBER("tag", 8, "as FXSAVE has it: bit n is set where R*n* is not empty"),
    STATE_BYTES_LIST("r", 10, 8, "R0 to R7: physical registers, not counted from TOP"),
    OPTIONAL("opcode", 16, "FOP; 0"),
    OPTIONAL("instruction_pointer", 64, "FIP; 0"),
    OPTIONAL("data_pointer", 64, "FDP; 0"),
    NUMBER("mxcsr", 32, ""),
    STATE_BYTES_LIST("xmm", 16, 0, "XMM0 on: 16 of them"),
    STATE_OPTIONAL_BYTES_LIST("ymm_high", 16, 16, "bits 255:128 of YMM0 to YMM15; 0"),
    STATE_OPTIONAL_NUMBERS("k", 64, 8, "opmask registers; 0"),
    STATE_OPTIONAL_BYTES_LIST("zmm_high", 32, 16, "bits 511:256 of ZMM0 to ZMM15; 0"),
    STATE_OPTIONAL_BYTES_LIST("zmm_upper", 64, 16, "ZMM16 to ZMM31; 0"),
    OPTIONAL("xstate_bv", 64, "components that are not in their first state (SDM 1, 13.4.2)"),
    {NULL},
};

static const StateGroup fpu_group = {"fpu", "x87 (SDM 1, 8.1), SSE, AVX.", NULL, fpu_fields};

static const StateField apic_fields[] = {
    NUMBER("ia32_apic_base", 64, "MSR 1Bh"),
    NUMBER("id", 32, "as the guest numbers it: not shifted"),
    NUMBER("arbitration_id", 8, ""),
    NUMBER("tpr", 8, "also what CR8 shows, in its upper four bits"),
    NUMBER("ldr", 32, ""),
    NUMBER("dfr", 32, ""),
    NUMBER("svr", 32, ""),
    STATE_NUMBERS("isr", 32, 8, "vectors 0 to 31 first"),
    STATE_NUMBERS("tmr", 32, 8, ""),
    STATE_NUMBERS("irr", 32, 8, ""),
    NUMBER("esr", 32, ""),
    NUMBER("icr", 64, ""),
    NUMBER("lvt_timer", 32, ""),
    NUMBER("lvt_thermal", 32, ""),
    NUMBER("lvt_performance", 32, ""),
    NUMBER("lvt_lint0", 32, ""),
    NUMBER("lvt_lint1", 32, ""),
    NUMBER("lvt_error", 32, ""),
    NUMBER("divide_configuration", 32, ""),
    NUMBER("initial_count", 32, ""),
    STATE_TIME_FIELD("since_load", "since the initial count was written"),
    STATE_OPTIONAL_TIME("until_fire", "until it reaches 0; not there where the timer is not armed"),
    OPTIONAL("timer_hz", 64, "before the divider; 1,000,000,000"),
    {NULL},
};

static const StateGroup apic_group = {"local_apic", "A local APIC (SDM 3, 11.4).", NULL,
                                      apic_fields};

static const StateField cpu_fields[] = {
    NUMBER("activity", 32, "0 active, 1 halted, 2 shutdown, 3 waits for SIPI (SDM 3, 25.4.2)"),
    NUMBER("rax", 64, ""),
    NUMBER("rcx", 64, ""),
    NUMBER("rdx", 64, ""),
    NUMBER("rbx", 64, ""),
    NUMBER("rsp", 64, ""),
    NUMBER("rbp", 64, ""),
    NUMBER("rsi", 64, ""),
    NUMBER("rdi", 64, ""),
    NUMBER("r8", 64, ""),
    NUMBER("r9", 64, ""),
    NUMBER("r10", 64, ""),
    NUMBER("r11", 64, ""),
    NUMBER("r12", 64, ""),
    NUMBER("r13", 64, ""),
    NUMBER("r14", 64, ""),
    NUMBER("r15", 64, ""),
    NUMBER("rip", 64, ""),
    NUMBER("rflags", 64, ""),
    STATE_GROUP_FIELD("es", &state_segment_group, ""),
    STATE_GROUP_FIELD("cs", &state_segment_group, ""),
    STATE_GROUP_FIELD("ss", &state_segment_group, ""),
    STATE_GROUP_FIELD("ds", &state_segment_group, ""),
    STATE_GROUP_FIELD("fs", &state_segment_group, "its base is IA32_FS_BASE"),
    STATE_GROUP_FIELD("gs", &state_segment_group, "its base is IA32_GS_BASE"),
    STATE_GROUP_FIELD("ldtr", &state_segment_group, ""),
    STATE_GROUP_FIELD("tr", &state_segment_group, ""),
    STATE_GROUP_FIELD("gdtr", &table_group, ""),
    STATE_GROUP_FIELD("idtr", &table_group, ""),
    NUMBER("cpl", 2, "current privilege level"),
    NUMBER("cr0", 64, ""),
    NUMBER("cr2", 64, ""),
    NUMBER("cr3", 64, ""),
    NUMBER("cr4", 64, "CR8 is local_apic.tpr"),
    NUMBER("xcr0", 64, ""),
    NUMBER("dr0", 64, ""),
    NUMBER("dr1", 64, ""),
    NUMBER("dr2", 64, ""),
    NUMBER("dr3", 64, ""),
    NUMBER("dr6", 64, ""),
    NUMBER("dr7", 64, ""),
    NUMBER("smm", 1, "in system management mode"),
    NUMBER("smbase", 32, ""),
    NUMBER("interrupt_shadow", 1, "the instruction before was STI or MOV SS (SDM 3, 6.8.3)"),
    NUMBER("nmi_blocked", 1, "until IRET"),
    NUMBER("nmi_pending", 1, ""),
    NUMBER("interrupt_request", 1, "an interrupt controller asserts INTR"),
    OPTIONAL("injected_interrupt", 8, "vector of an interrupt that is being delivered; none"),
    OPTIONAL("injected_software", 1, "that one comes from an INT instruction; 0"),
    OPTIONAL("injected_exception", 8, "vector of an exception that is being delivered; none"),
    OPTIONAL("injected_error_code", 1, "that one pushes an error code; 0"),
    OPTIONAL("injected_nmi", 1, "an NMI is being delivered; 0"),
    OPTIONAL("sipi_vector", 32, "of a start-up IPI that has come; 0"),
    OPTIONAL("pending_init", 1, "an INIT is being delivered; 0"),
    OPTIONAL("pending_sipi", 8, "vector of a start-up IPI that is being delivered; none"),
    NUMBER("ia32_efer", 64, ""),
    NUMBER("ia32_star", 64, ""),
    NUMBER("ia32_lstar", 64, ""),
    NUMBER("ia32_cstar", 64, ""),
    NUMBER("ia32_fmask", 64, ""),
    NUMBER("ia32_kernel_gs_base", 64, ""),
    NUMBER("ia32_sysenter_cs", 32, ""),
    NUMBER("ia32_sysenter_esp", 64, ""),
    NUMBER("ia32_sysenter_eip", 64, ""),
    NUMBER("ia32_pat", 64, ""),
    NUMBER("ia32_tsc", 64, "what RDTSC would read at the pause"),
    NUMBER("ia32_tsc_aux", 64, ""),
    OPTIONAL("ia32_tsc_adjust", 64, "0"),
    OPTIONAL("ia32_tsc_deadline", 64, "0: not armed"),
    OPTIONAL("ia32_misc_enable", 64, "1: fast strings"),
    OPTIONAL("ia32_feature_control", 64, "0"),
    OPTIONAL("ia32_spec_ctrl", 64, "0"),
    OPTIONAL("amd_virt_ssbd", 64, "VIRT_SPEC_CTRL (APM 2, 3.2.9); 0"),
    OPTIONAL("ia32_xss", 64, "0"),
    OPTIONAL("ia32_smi_count", 64, "MSR 34h; 0"),
    OPTIONAL("ia32_umwait_control", 32, "0"),
    OPTIONAL("ia32_tsx_ctrl", 32, "0"),
    OPTIONAL("pkru", 32, "0"),
    NUMBER("ia32_mtrr_def_type", 64, ""),
    STATE_NUMBERS("ia32_mtrr_fixed", 64, 11, "64K_00000, 16K_80000, 16K_A0000, 4K_C0000 on"),
    STATE_GROUPS("ia32_mtrr_variable", &mtrr_group, 8, ""),
    NUMBER("ia32_mcg_cap", 64, ""),
    NUMBER("ia32_mcg_status", 64, ""),
    NUMBER("ia32_mcg_ctl", 64, ""),
    STATE_NUMBERS("ia32_mc", 64, 40, "CTL, STATUS, ADDR, MISC of bank 0, and so on"),
    OPTIONAL("tsc_hz", 64, "what its TSC counts a second; not known"),
    OPTIONAL("kvm_system_time", 64, "MSR 4B564D01h of a KVM guest; 0"),
    OPTIONAL("kvm_wall_clock", 64, "MSR 4B564D00h; 0"),
    OPTIONAL("kvm_async_pf_en", 64, "MSR 4B564D02h; 0"),
    OPTIONAL("kvm_async_pf_int", 64, "MSR 4B564D06h; 0"),
    OPTIONAL("kvm_steal_time", 64, "MSR 4B564D03h; 0"),
    OPTIONAL("kvm_eoi_en", 64, "MSR 4B564D04h; 0"),
    OPTIONAL("kvm_poll_control", 64, "MSR 4B564D05h; 1"),
    STATE_GROUP_FIELD("fpu", &fpu_group, ""),
    STATE_OPTIONAL_GROUP("local_apic", &apic_group, "not there where the machine has none"),
    {NULL},
};

const StateGroup state_cpu_group = {
    "cpu",
    "A processor.  Registers have their names of SDM 1, 3.4 and SDM 3, 2; model-specific ones "
    "those of SDM 4; the KVM guest's those of the kernel's Documentation/virt/kvm/x86/msr.rst.",
    NULL, cpu_fields};
