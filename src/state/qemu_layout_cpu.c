/* Layouts of QEMU's sections: the processors and their clocks (qemu_layout.h). */
#include "state/qemu_layout_tables.h"

static const QemuField timer_fields[] = {
    {"cpu_ticks_offset", QEMU_INT64},
    {"unused", QEMU_UNUSED, 8},
    {"cpu_clock_offset", QEMU_INT64},
    {NULL},
};
static const QemuLayout timer = {"timer", 2, timer_fields, NULL};

static const QemuField cpu_common_fields[] = {
    {"halted", QEMU_UINT32},
    {"interrupt_request", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_common = {"cpu_common", 1, cpu_common_fields, NULL};

static const QemuField fpreg_tmp_fields[] = {
    {"tmp_mant", QEMU_UINT64},
    {"tmp_exp", QEMU_UINT16},
    {NULL},
};
static const QemuLayout fpreg_tmp = {"fpreg_tmp", 0, fpreg_tmp_fields, NULL};

static const QemuField fpreg_fields[] = {
    {"tmp", QEMU_TEMPORARY, .layout = &fpreg_tmp},
    {NULL},
};
static const QemuLayout fpreg = {"fpreg", 0, fpreg_fields, NULL};

static const QemuField segment_fields[] = {
    {"selector", QEMU_UINT32},
    {"base", QEMU_UINT64},
    {"limit", QEMU_UINT32},
    {"flags", QEMU_UINT32},
    {NULL},
};
static const QemuLayout segment = {"segment", 1, segment_fields, NULL};

static const QemuField xmm_reg_fields[] = {
    {"_q_ZMMReg[0]", QEMU_UINT64},
    {"_q_ZMMReg[1]", QEMU_UINT64},
    {NULL},
};
static const QemuLayout xmm_reg = {"xmm_reg", 1, xmm_reg_fields, NULL};

static const QemuField mtrr_var_fields[] = {
    {"base", QEMU_UINT64},
    {"mask", QEMU_UINT64},
    {NULL},
};
static const QemuLayout mtrr_var = {"mtrr_var", 1, mtrr_var_fields, NULL};

static const QemuField ymmh_reg_fields[] = {
    {"_q_ZMMReg[2]", QEMU_UINT64},
    {"_q_ZMMReg[3]", QEMU_UINT64},
    {NULL},
};
static const QemuLayout ymmh_reg = {"ymmh_reg", 1, ymmh_reg_fields, NULL};

static const QemuField cpu_poll_control_msr_fields[] = {
    {"env.poll_control_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_poll_control_msr = {"cpu/poll_control_msr", 1,
                                                cpu_poll_control_msr_fields, NULL};

static const QemuField cpu_msr_ia32_misc_enable_fields[] = {
    {"env.msr_ia32_misc_enable", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_ia32_misc_enable = {"cpu/msr_ia32_misc_enable", 1,
                                                    cpu_msr_ia32_misc_enable_fields, NULL};

static const QemuField cpu_msr_smi_count_fields[] = {
    {"env.msr_smi_count", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_smi_count = {"cpu/msr_smi_count", 1, cpu_msr_smi_count_fields,
                                             NULL};

static const QemuField cpu_pkru_fields[] = {
    {"env.pkru", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_pkru = {"cpu/pkru", 1, cpu_pkru_fields, NULL};

static const QemuField cpu_fpop_ip_dp_fields[] = {
    {"env.fpop", QEMU_UINT16},
    {"env.fpip", QEMU_UINT64},
    {"env.fpdp", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_fpop_ip_dp = {"cpu/fpop_ip_dp", 1, cpu_fpop_ip_dp_fields, NULL};

static const QemuField cpu_exception_info_fields[] = {
    {"env.exception_pending", QEMU_UINT8},
    {"env.exception_injected", QEMU_UINT8},
    {"env.exception_has_payload", QEMU_UINT8},
    {"env.exception_payload", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_exception_info = {"cpu/exception_info", 1, cpu_exception_info_fields,
                                              NULL};

static const QemuField cpu_async_pf_msr_fields[] = {
    {"env.async_pf_en_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_async_pf_msr = {"cpu/async_pf_msr", 1, cpu_async_pf_msr_fields, NULL};

static const QemuField cpu_async_pf_int_msr_fields[] = {
    {"env.async_pf_int_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_async_pf_int_msr = {"cpu/async_pf_int_msr", 1,
                                                cpu_async_pf_int_msr_fields, NULL};

static const QemuField cpu_async_pv_eoi_msr_fields[] = {
    {"env.pv_eoi_en_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_async_pv_eoi_msr = {"cpu/async_pv_eoi_msr", 1,
                                                cpu_async_pv_eoi_msr_fields, NULL};

static const QemuField cpu_steal_time_msr_fields[] = {
    {"env.steal_time_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_steal_time_msr = {"cpu/steal_time_msr", 1, cpu_steal_time_msr_fields,
                                              NULL};

static const QemuField cpu_msr_tsc_adjust_fields[] = {
    {"env.tsc_adjust", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_tsc_adjust = {"cpu/msr_tsc_adjust", 1, cpu_msr_tsc_adjust_fields,
                                              NULL};

static const QemuField cpu_msr_tscdeadline_fields[] = {
    {"env.tsc_deadline", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_tscdeadline = {"cpu/msr_tscdeadline", 1, cpu_msr_tscdeadline_fields,
                                               NULL};

static const QemuField cpu_msr_ia32_feature_control_fields[] = {
    {"env.msr_ia32_feature_control", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_ia32_feature_control = {"cpu/msr_ia32_feature_control", 1,
                                                        cpu_msr_ia32_feature_control_fields, NULL};

static const QemuField cpu_msr_architectural_pmu_fields[] = {
    {"env.msr_fixed_ctr_ctrl", QEMU_UINT64},    {"env.msr_global_ctrl", QEMU_UINT64},
    {"env.msr_global_status", QEMU_UINT64},     {"env.msr_global_ovf_ctrl", QEMU_UINT64},
    {"env.msr_fixed_counters", QEMU_UINT64, 3}, {"env.msr_gp_counters", QEMU_UINT64, 18},
    {"env.msr_gp_evtsel", QEMU_UINT64, 18},     {NULL},
};
static const QemuLayout cpu_msr_architectural_pmu = {"cpu/msr_architectural_pmu", 1,
                                                     cpu_msr_architectural_pmu_fields, NULL};

static const QemuField bnd_regs_fields[] = {
    {"lb", QEMU_UINT64},
    {"ub", QEMU_UINT64},
    {NULL},
};
static const QemuLayout bnd_regs = {"bnd_regs", 1, bnd_regs_fields, NULL};

static const QemuField cpu_mpx_fields[] = {
    {"env.bnd_regs", QEMU_STRUCT, 4, .layout = &bnd_regs},
    {"env.bndcs_regs.cfgu", QEMU_UINT64},
    {"env.bndcs_regs.sts", QEMU_UINT64},
    {"env.msr_bndcfgs", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_mpx = {"cpu/mpx", 1, cpu_mpx_fields, NULL};

static const QemuField cpu_msr_hyperv_hypercall_fields[] = {
    {"env.msr_hv_guest_os_id", QEMU_UINT64},
    {"env.msr_hv_hypercall", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_hypercall = {"cpu/msr_hyperv_hypercall", 1,
                                                    cpu_msr_hyperv_hypercall_fields, NULL};

static const QemuField cpu_msr_hyperv_vapic_fields[] = {
    {"env.msr_hv_vapic", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_vapic = {"cpu/msr_hyperv_vapic", 1,
                                                cpu_msr_hyperv_vapic_fields, NULL};

static const QemuField cpu_msr_hyperv_time_fields[] = {
    {"env.msr_hv_tsc", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_time = {"cpu/msr_hyperv_time", 1, cpu_msr_hyperv_time_fields,
                                               NULL};

static const QemuField cpu_msr_hyperv_crash_fields[] = {
    {"env.msr_hv_crash_params", QEMU_UINT64, 5},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_crash = {"cpu/msr_hyperv_crash", 1,
                                                cpu_msr_hyperv_crash_fields, NULL};

static const QemuField cpu_msr_hyperv_runtime_fields[] = {
    {"env.msr_hv_runtime", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_runtime = {"cpu/msr_hyperv_runtime", 1,
                                                  cpu_msr_hyperv_runtime_fields, NULL};

static const QemuField cpu_msr_hyperv_synic_fields[] = {
    {"env.msr_hv_synic_control", QEMU_UINT64},
    {"env.msr_hv_synic_evt_page", QEMU_UINT64},
    {"env.msr_hv_synic_msg_page", QEMU_UINT64},
    {"env.msr_hv_synic_sint", QEMU_UINT64, 16},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_synic = {"cpu/msr_hyperv_synic", 1,
                                                cpu_msr_hyperv_synic_fields, NULL};

static const QemuField cpu_msr_hyperv_stimer_fields[] = {
    {"env.msr_hv_stimer_config", QEMU_UINT64, 4},
    {"env.msr_hv_stimer_count", QEMU_UINT64, 4},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_stimer = {"cpu/msr_hyperv_stimer", 1,
                                                 cpu_msr_hyperv_stimer_fields, NULL};

static const QemuField cpu_msr_hyperv_reenlightenment_fields[] = {
    {"env.msr_hv_reenlightenment_control", QEMU_UINT64},
    {"env.msr_hv_tsc_emulation_control", QEMU_UINT64},
    {"env.msr_hv_tsc_emulation_status", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hyperv_reenlightenment = {
    "cpu/msr_hyperv_reenlightenment", 1, cpu_msr_hyperv_reenlightenment_fields, NULL};

static const QemuField zmmh_reg_fields[] = {
    {"_q_ZMMReg[4]", QEMU_UINT64},
    {"_q_ZMMReg[5]", QEMU_UINT64},
    {"_q_ZMMReg[6]", QEMU_UINT64},
    {"_q_ZMMReg[7]", QEMU_UINT64},
    {NULL},
};
static const QemuLayout zmmh_reg = {"zmmh_reg", 1, zmmh_reg_fields, NULL};

static const QemuField hi16_zmm_reg_fields[] = {
    {"_q_ZMMReg[0]", QEMU_UINT64}, {"_q_ZMMReg[1]", QEMU_UINT64}, {"_q_ZMMReg[2]", QEMU_UINT64},
    {"_q_ZMMReg[3]", QEMU_UINT64}, {"_q_ZMMReg[4]", QEMU_UINT64}, {"_q_ZMMReg[5]", QEMU_UINT64},
    {"_q_ZMMReg[6]", QEMU_UINT64}, {"_q_ZMMReg[7]", QEMU_UINT64}, {NULL},
};
static const QemuLayout hi16_zmm_reg = {"hi16_zmm_reg", 1, hi16_zmm_reg_fields, NULL};

static const QemuField cpu_avx512_fields[] = {
    {"env.opmask_regs", QEMU_UINT64, 8},
    {"env.xmm_regs,zmm_high", QEMU_STRUCT, 16, .layout = &zmmh_reg},
    {"env.xmm_regs,zmm_upper", QEMU_STRUCT, 16, .layout = &hi16_zmm_reg},
    {NULL},
};
static const QemuLayout cpu_avx512 = {"cpu/avx512", 1, cpu_avx512_fields, NULL};

static const QemuField cpu_xss_fields[] = {
    {"env.xss", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_xss = {"cpu/xss", 1, cpu_xss_fields, NULL};

static const QemuField cpu_umwait_fields[] = {
    {"env.umwait", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_umwait = {"cpu/umwait", 1, cpu_umwait_fields, NULL};

static const QemuField cpu_tsc_khz_fields[] = {
    {"env.tsc_khz", QEMU_INT64},
    {NULL},
};
static const QemuLayout cpu_tsc_khz = {"cpu/tsc_khz", 1, cpu_tsc_khz_fields, NULL};

static const QemuField cpu_pkrs_fields[] = {
    {"env.pkrs", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_pkrs = {"cpu/pkrs", 1, cpu_pkrs_fields, NULL};

static const QemuField cpu_spec_ctrl_fields[] = {
    {"env.spec_ctrl", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_spec_ctrl = {"cpu/spec_ctrl", 1, cpu_spec_ctrl_fields, NULL};

static const QemuField cpu_amd_tsc_scale_msr_fields[] = {
    {"env.amd_tsc_scale_msr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_amd_tsc_scale_msr = {"cpu/amd_tsc_scale_msr", 1,
                                                 cpu_amd_tsc_scale_msr_fields, NULL};

static const QemuField cpu_mcg_ext_ctl_fields[] = {
    {"env.mcg_ext_ctl", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_mcg_ext_ctl = {"cpu/mcg_ext_ctl", 1, cpu_mcg_ext_ctl_fields, NULL};

static const QemuField cpu_intel_pt_fields[] = {
    {"env.msr_rtit_ctrl", QEMU_UINT64},
    {"env.msr_rtit_status", QEMU_UINT64},
    {"env.msr_rtit_output_base", QEMU_UINT64},
    {"env.msr_rtit_output_mask", QEMU_UINT64},
    {"env.msr_rtit_cr3_match", QEMU_UINT64},
    {"env.msr_rtit_addrs", QEMU_UINT64, 8},
    {NULL},
};
static const QemuLayout cpu_intel_pt = {"cpu/intel_pt", 1, cpu_intel_pt_fields, NULL};

static const QemuField cpu_virt_ssbd_fields[] = {
    {"env.virt_ssbd", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_virt_ssbd = {"cpu/virt_ssbd", 1, cpu_virt_ssbd_fields, NULL};

static const QemuField cpu_svn_npt_fields[] = {
    {"env.nested_cr3", QEMU_UINT64},
    {"env.nested_pg_mode", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_svn_npt = {"cpu/svn_npt", 1, cpu_svn_npt_fields, NULL};

static const QemuField cpu_svm_guest_fields[] = {
    {"env.int_ctl", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_svm_guest = {"cpu/svm_guest", 1, cpu_svm_guest_fields, NULL};

static const QemuField cpu_xen_vcpu_fields[] = {
    {"env.xen_vcpu_info_gpa", QEMU_UINT64},
    {"env.xen_vcpu_info_default_gpa", QEMU_UINT64},
    {"env.xen_vcpu_time_info_gpa", QEMU_UINT64},
    {"env.xen_vcpu_runstate_gpa", QEMU_UINT64},
    {"env.xen_vcpu_callback_vector", QEMU_UINT8},
    {"env.xen_virq", QEMU_UINT16, 24},
    {"env.xen_singleshot_timer_ns", QEMU_UINT64},
    {"env.xen_periodic_timer_period", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_xen_vcpu = {"cpu/xen_vcpu", 1, cpu_xen_vcpu_fields, NULL};

static const QemuField cpu_msr_tsx_ctrl_fields[] = {
    {"env.tsx_ctrl", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_msr_tsx_ctrl = {"cpu/msr_tsx_ctrl", 1, cpu_msr_tsx_ctrl_fields, NULL};

static const QemuField cpu_intel_sgx_fields[] = {
    {"env.msr_ia32_sgxlepubkeyhash", QEMU_UINT64, 4},
    {NULL},
};
static const QemuLayout cpu_intel_sgx = {"cpu/intel_sgx", 1, cpu_intel_sgx_fields, NULL};

static const QemuField cpu_pdptrs_fields[] = {
    {"env.pdptrs", QEMU_UINT64, 4},
    {NULL},
};
static const QemuLayout cpu_pdptrs = {"cpu/pdptrs", 1, cpu_pdptrs_fields, NULL};

static const QemuField cpu_msr_xfd_fields[] = {
    {"env.msr_xfd", QEMU_UINT64},
    {"env.msr_xfd_err", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_xfd = {"cpu/msr_xfd", 1, cpu_msr_xfd_fields, NULL};

static const QemuField cpu_msr_hwcr_fields[] = {
    {"env.msr_hwcr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout cpu_msr_hwcr = {"cpu/msr_hwcr", 1, cpu_msr_hwcr_fields, NULL};

static const QemuField cpu_fred_fields[] = {
    {"env.fred_rsp0", QEMU_UINT64},    {"env.fred_rsp1", QEMU_UINT64},
    {"env.fred_rsp2", QEMU_UINT64},    {"env.fred_rsp3", QEMU_UINT64},
    {"env.fred_stklvls", QEMU_UINT64}, {"env.fred_ssp1", QEMU_UINT64},
    {"env.fred_ssp2", QEMU_UINT64},    {"env.fred_ssp3", QEMU_UINT64},
    {"env.fred_config", QEMU_UINT64},  {NULL},
};
static const QemuLayout cpu_fred = {"cpu/fred", 1, cpu_fred_fields, NULL};

static const QemuField cpu_intel_amx_xtile_fields[] = {
    {"env.xtilecfg", QEMU_UINT8, 64},
    {"env.xtiledata", QEMU_UINT8, 8192},
    {NULL},
};
static const QemuLayout cpu_intel_amx_xtile = {"cpu/intel_amx_xtile", 1, cpu_intel_amx_xtile_fields,
                                               NULL};

static const QemuField lbr_records_var_fields[] = {
    {"from", QEMU_UINT64},
    {"to", QEMU_UINT64},
    {"info", QEMU_UINT64},
    {NULL},
};
static const QemuLayout lbr_records_var = {"lbr_records_var", 1, lbr_records_var_fields, NULL};

static const QemuField cpu_arch_lbr_fields[] = {
    {"env.msr_lbr_ctl", QEMU_UINT64},
    {"env.msr_lbr_depth", QEMU_UINT64},
    {"env.lbr_records", QEMU_STRUCT, 32, .layout = &lbr_records_var},
    {NULL},
};
static const QemuLayout cpu_arch_lbr = {"cpu/arch_lbr", 1, cpu_arch_lbr_fields, NULL};

static const QemuField cpu_triple_fault_fields[] = {
    {"env.triple_fault_pending", QEMU_UINT8},
    {NULL},
};
static const QemuLayout cpu_triple_fault = {"cpu/triple_fault", 1, cpu_triple_fault_fields, NULL};

static const QemuField cpu_fields[] = {
    {"env.regs", QEMU_UINT64, 16},
    {"env.eip", QEMU_UINT64},
    {"env.eflags", QEMU_UINT64},
    {"env.hflags", QEMU_UINT32},
    {"env.fpuc", QEMU_UINT16},
    {"env.fpus_vmstate", QEMU_UINT16},
    {"env.fptag_vmstate", QEMU_UINT16},
    {"env.fpregs_format_vmstate", QEMU_UINT16},
    {"env.fpregs", QEMU_STRUCT, 8, .layout = &fpreg},
    {"env.segs", QEMU_STRUCT, 6, .layout = &segment},
    {"env.ldt", QEMU_STRUCT, .layout = &segment},
    {"env.tr", QEMU_STRUCT, .layout = &segment},
    {"env.gdt", QEMU_STRUCT, .layout = &segment},
    {"env.idt", QEMU_STRUCT, .layout = &segment},
    {"env.sysenter_cs", QEMU_UINT32},
    {"env.sysenter_esp", QEMU_UINT64},
    {"env.sysenter_eip", QEMU_UINT64},
    {"env.cr[0]", QEMU_UINT64},
    {"env.cr[2]", QEMU_UINT64},
    {"env.cr[3]", QEMU_UINT64},
    {"env.cr[4]", QEMU_UINT64},
    {"env.dr", QEMU_UINT64, 8},
    {"env.a20_mask", QEMU_INT32},
    {"env.mxcsr", QEMU_UINT32},
    {"env.xmm_regs[0]", QEMU_STRUCT, 16, .layout = &xmm_reg},
    {"env.efer", QEMU_UINT64},
    {"env.star", QEMU_UINT64},
    {"env.lstar", QEMU_UINT64},
    {"env.cstar", QEMU_UINT64},
    {"env.fmask", QEMU_UINT64},
    {"env.kernelgsbase", QEMU_UINT64},
    {"env.smbase", QEMU_UINT32},
    {"env.pat", QEMU_UINT64},
    {"env.hflags2", QEMU_UINT32},
    {"env.vm_hsave", QEMU_UINT64},
    {"env.vm_vmcb", QEMU_UINT64},
    {"env.tsc_offset", QEMU_UINT64},
    {"env.intercept", QEMU_UINT64},
    {"env.intercept_cr_read", QEMU_UINT16},
    {"env.intercept_cr_write", QEMU_UINT16},
    {"env.intercept_dr_read", QEMU_UINT16},
    {"env.intercept_dr_write", QEMU_UINT16},
    {"env.intercept_exceptions", QEMU_UINT32},
    {"env.v_tpr", QEMU_UINT8},
    {"env.mtrr_fixed", QEMU_UINT64, 11},
    {"env.mtrr_deftype", QEMU_UINT64},
    {"env.mtrr_var", QEMU_STRUCT, 8, .layout = &mtrr_var},
    {"env.interrupt_injected", QEMU_INT32},
    {"env.mp_state", QEMU_UINT32},
    {"env.tsc", QEMU_UINT64},
    {"env.exception_nr", QEMU_INT32},
    {"env.soft_interrupt", QEMU_UINT8},
    {"env.nmi_injected", QEMU_UINT8},
    {"env.nmi_pending", QEMU_UINT8},
    {"env.has_error_code", QEMU_UINT8},
    {"env.sipi_vector", QEMU_UINT32},
    {"env.mcg_cap", QEMU_UINT64},
    {"env.mcg_status", QEMU_UINT64},
    {"env.mcg_ctl", QEMU_UINT64},
    {"env.mce_banks", QEMU_UINT64, 40},
    {"env.tsc_aux", QEMU_UINT64},
    {"env.system_time_msr", QEMU_UINT64},
    {"env.wall_clock_msr", QEMU_UINT64},
    {"env.xcr0", QEMU_UINT64},
    {"env.xstate_bv", QEMU_UINT64},
    {"env.xmm_regs[1]", QEMU_STRUCT, 16, .layout = &ymmh_reg},
    {NULL},
};
static const QemuLayout *const cpu_subsections[] = {&cpu_poll_control_msr,
                                                    &cpu_msr_ia32_misc_enable,
                                                    &cpu_msr_smi_count,
                                                    &cpu_pkru,
                                                    &cpu_fpop_ip_dp,
                                                    &cpu_exception_info,
                                                    &cpu_async_pf_msr,
                                                    &cpu_async_pf_int_msr,
                                                    &cpu_async_pv_eoi_msr,
                                                    &cpu_steal_time_msr,
                                                    &cpu_msr_tsc_adjust,
                                                    &cpu_msr_tscdeadline,
                                                    &cpu_msr_ia32_feature_control,
                                                    &cpu_msr_architectural_pmu,
                                                    &cpu_mpx,
                                                    &cpu_msr_hyperv_hypercall,
                                                    &cpu_msr_hyperv_vapic,
                                                    &cpu_msr_hyperv_time,
                                                    &cpu_msr_hyperv_crash,
                                                    &cpu_msr_hyperv_runtime,
                                                    &cpu_msr_hyperv_synic,
                                                    &cpu_msr_hyperv_stimer,
                                                    &cpu_msr_hyperv_reenlightenment,
                                                    &cpu_avx512,
                                                    &cpu_xss,
                                                    &cpu_umwait,
                                                    &cpu_tsc_khz,
                                                    &cpu_pkrs,
                                                    &cpu_spec_ctrl,
                                                    &cpu_amd_tsc_scale_msr,
                                                    &cpu_mcg_ext_ctl,
                                                    &cpu_intel_pt,
                                                    &cpu_virt_ssbd,
                                                    &cpu_svn_npt,
                                                    &cpu_svm_guest,
                                                    &cpu_xen_vcpu,
                                                    &cpu_msr_tsx_ctrl,
                                                    &cpu_intel_sgx,
                                                    &cpu_pdptrs,
                                                    &cpu_msr_xfd,
                                                    &cpu_msr_hwcr,
                                                    &cpu_fred,
                                                    &cpu_intel_amx_xtile,
                                                    &cpu_arch_lbr,
                                                    &cpu_triple_fault,
                                                    NULL};
static const QemuLayout cpu = {"cpu", 12, cpu_fields, cpu_subsections};

static const QemuField apic_sipi_fields[] = {
    {"sipi_vector", QEMU_INT32},
    {"wait_for_sipi", QEMU_INT32},
    {NULL},
};
static const QemuLayout apic_sipi = {"apic_sipi", 1, apic_sipi_fields, NULL};

static const QemuField apic_fields[] = {
    {"apicbase", QEMU_UINT32},
    {"id", QEMU_UINT8},
    {"arb_id", QEMU_UINT8},
    {"tpr", QEMU_UINT8},
    {"spurious_vec", QEMU_UINT32},
    {"log_dest", QEMU_UINT8},
    {"dest_mode", QEMU_UINT8},
    {"isr", QEMU_UINT32, 8},
    {"tmr", QEMU_UINT32, 8},
    {"irr", QEMU_UINT32, 8},
    {"lvt", QEMU_UINT32, 6},
    {"esr", QEMU_UINT32},
    {"icr", QEMU_UINT32, 2},
    {"divide_conf", QEMU_UINT32},
    {"count_shift", QEMU_INT32},
    {"initial_count", QEMU_UINT32},
    {"initial_count_load_time", QEMU_INT64},
    {"next_time", QEMU_INT64},
    {"timer_expiry", QEMU_INT64},
    {NULL},
};
static const QemuLayout *const apic_subsections[] = {&apic_sipi, NULL};
static const QemuLayout apic = {"apic", 3, apic_fields, apic_subsections};

static const QemuField kvmvapic_handlers_fields[] = {
    {"set_tpr", QEMU_UINT32},
    {"set_tpr_eax", QEMU_UINT32},
    {"get_tpr", QEMU_UINT32, 8},
    {"get_tpr_stack", QEMU_UINT32},
    {NULL},
};
static const QemuLayout kvmvapic_handlers = {"kvmvapic-handlers", 1, kvmvapic_handlers_fields,
                                             NULL};

static const QemuField kvmvapic_guest_rom_fields[] = {
    {"unused", QEMU_UNUSED, 8},
    {"vaddr", QEMU_UINT32},
    {"fixup_start", QEMU_UINT32},
    {"fixup_end", QEMU_UINT32},
    {"vapic_vaddr", QEMU_UINT32},
    {"vapic_size", QEMU_UINT32},
    {"vcpu_shift", QEMU_UINT32},
    {"real_tpr_addr", QEMU_UINT32},
    {"up", QEMU_STRUCT, .layout = &kvmvapic_handlers},
    {"mp", QEMU_STRUCT, .layout = &kvmvapic_handlers},
    {NULL},
};
static const QemuLayout kvmvapic_guest_rom = {"kvmvapic-guest-rom", 1, kvmvapic_guest_rom_fields,
                                              NULL};

static const QemuField kvm_tpr_opt_fields[] = {
    {"rom_state", QEMU_STRUCT, .layout = &kvmvapic_guest_rom},
    {"state", QEMU_UINT32},
    {"real_tpr_addr", QEMU_UINT32},
    {"rom_state_vaddr", QEMU_UINT32},
    {"vapic_paddr", QEMU_UINT32},
    {"rom_state_paddr", QEMU_UINT32},
    {NULL},
};
static const QemuLayout kvm_tpr_opt = {"kvm-tpr-opt", 1, kvm_tpr_opt_fields, NULL};

static const QemuField kvmclock_clock_is_reliable_fields[] = {
    {"clock_is_reliable", QEMU_BOOL},
    {NULL},
};
static const QemuLayout kvmclock_clock_is_reliable = {"kvmclock/clock_is_reliable", 1,
                                                      kvmclock_clock_is_reliable_fields, NULL};

static const QemuField kvmclock_fields[] = {
    {"clock", QEMU_UINT64},
    {NULL},
};
static const QemuLayout *const kvmclock_subsections[] = {&kvmclock_clock_is_reliable, NULL};
static const QemuLayout kvmclock = {"kvmclock", 1, kvmclock_fields, kvmclock_subsections};

const QemuLayoutEntry qemu_layouts_cpu[] = {{"timer", {&timer}},
                                            {"cpu_common", {&cpu_common}},
                                            {"cpu", {&cpu}},
                                            {"apic", {&apic}},
                                            {"kvm-tpr-opt", {&kvm_tpr_opt}},
                                            {"kvmclock", {&kvmclock}},
                                            {NULL}};
