/* Layouts of QEMU's sections: a PC's chips (qemu_layout.h). */
#include "state/qemu_layout_tables.h"

static const QemuField qemu_pci_device_layout_fields[] = {
    {"version_id", QEMU_INT32_LE},
    {"config[0]", QEMU_PCI_CONFIG},
    {"irq_state", QEMU_PCI_IRQ},
    {NULL},
};
const QemuLayout qemu_pci_device_layout = {"PCIDevice", 2, qemu_pci_device_layout_fields, NULL};

static const QemuField i440fx_fields[] = {
    {"parent_obj", QEMU_STRUCT, .layout = &qemu_pci_device_layout},
    {"unused", QEMU_UNUSED, 1},
    {NULL},
};
static const QemuLayout i440fx = {"I440FX", 3, i440fx_fields, NULL};

static const QemuField pcihost_fields[] = {
    {"config_reg", QEMU_UINT32},
    {NULL},
};
static const QemuLayout pcihost = {"PCIHost", 1, pcihost_fields, NULL};

static const QemuField pcibus_fields[] = {
    {"nirq", QEMU_INT32_EQUAL},
    {"irq_count", QEMU_INT32, 4},
    {NULL},
};
static const QemuLayout pcibus = {"PCIBUS", 1, pcibus_fields, NULL};

static const QemuField dma_regs_fields[] = {
    {"now", QEMU_INT32, 2}, {"base", QEMU_UINT16, 2}, {"mode", QEMU_UINT8}, {"page", QEMU_UINT8},
    {"pageh", QEMU_UINT8},  {"dack", QEMU_UINT8},     {"eop", QEMU_UINT8},  {NULL},
};
static const QemuLayout dma_regs = {"dma_regs", 1, dma_regs_fields, NULL};

static const QemuField dma_fields[] = {
    {"command", QEMU_UINT8},
    {"mask", QEMU_UINT8},
    {"flip_flop", QEMU_UINT8},
    {"dshift", QEMU_INT32},
    {"regs", QEMU_STRUCT, 4, .layout = &dma_regs},
    {NULL},
};
static const QemuLayout dma = {"dma", 1, dma_fields, NULL};

static const QemuField mc146818rtc_irq_reinject_on_ack_count_fields[] = {
    {"irq_reinject_on_ack_count", QEMU_UINT16},
    {NULL},
};
static const QemuLayout mc146818rtc_irq_reinject_on_ack_count = {
    "mc146818rtc/irq_reinject_on_ack_count", 1, mc146818rtc_irq_reinject_on_ack_count_fields, NULL};

static const QemuField mc146818rtc_fields[] = {
    {"cmos_data", QEMU_BUFFER, 128},
    {"cmos_index", QEMU_UINT8},
    {"unused[0]", QEMU_UNUSED, 28},
    {"periodic_timer", QEMU_TIMER},
    {"next_periodic_time", QEMU_INT64},
    {"unused[1]", QEMU_UNUSED, 24},
    {"irq_coalesced", QEMU_UINT32},
    {"period", QEMU_UINT32},
    {"base_rtc", QEMU_UINT64},
    {"last_update", QEMU_UINT64},
    {"offset", QEMU_INT64},
    {"update_timer", QEMU_TIMER},
    {"next_alarm_time", QEMU_UINT64},
    {NULL},
};
static const QemuLayout *const mc146818rtc_subsections[] = {&mc146818rtc_irq_reinject_on_ack_count,
                                                            NULL};
static const QemuLayout mc146818rtc = {"mc146818rtc", 3, mc146818rtc_fields,
                                       mc146818rtc_subsections};

static const QemuField i2c_bus_fields[] = {
    {"saved_address", QEMU_UINT8},
    {NULL},
};
static const QemuLayout i2c_bus = {"i2c_bus", 1, i2c_bus_fields, NULL};

static const QemuField apm_state_fields[] = {
    {"apmc", QEMU_UINT8},
    {"apms", QEMU_UINT8},
    {NULL},
};
static const QemuLayout apm_state = {"APM State", 1, apm_state_fields, NULL};

static const QemuField pmsmb_fields[] = {
    {"smb_stat", QEMU_UINT8},
    {"smb_ctl", QEMU_UINT8},
    {"smb_cmd", QEMU_UINT8},
    {"smb_addr", QEMU_UINT8},
    {"smb_data0", QEMU_UINT8},
    {"smb_data1", QEMU_UINT8},
    {"smb_index", QEMU_UINT32},
    {"smb_data", QEMU_UINT8, 32},
    {"smb_auxctl", QEMU_UINT8},
    {"smb_blkdata", QEMU_UINT8},
    {"i2c_enable", QEMU_BOOL},
    {"op_done", QEMU_BOOL},
    {"in_i2c_block_read", QEMU_BOOL},
    {"start_transaction_on_status_read", QEMU_BOOL},
    {NULL},
};
static const QemuLayout pmsmb = {"pmsmb", 1, pmsmb_fields, NULL};

static const QemuField gpe_fields[] = {
    {"sts", QEMU_UINT16},
    {"en", QEMU_UINT16},
    {NULL},
};
static const QemuLayout gpe = {"gpe", 1, gpe_fields, NULL};

static const QemuField acpi_pcihp_pci_status_fields[] = {
    {"up", QEMU_UINT32},
    {"down", QEMU_UINT32},
    {NULL},
};
static const QemuLayout acpi_pcihp_pci_status = {"acpi_pcihp_pci_status", 1,
                                                 acpi_pcihp_pci_status_fields, NULL};

static const QemuField memory_hotplug_state_fields[] = {
    {"selector", QEMU_UINT32},
    {NULL},
};
static const QemuLayout memory_hotplug_state = {"memory hotplug state", 1,
                                                memory_hotplug_state_fields, NULL};

static const QemuField piix4_pm_memhp_fields[] = {
    {"acpi_memory_hotplug", QEMU_STRUCT, .layout = &memory_hotplug_state},
    {NULL},
};
static const QemuLayout piix4_pm_memhp = {"piix4_pm/memhp", 1, piix4_pm_memhp_fields, NULL};

static const QemuField cpu_hotplug_device_state_fields[] = {
    {"is_inserting", QEMU_BOOL},
    {"is_removing", QEMU_BOOL},
    {"ost_event", QEMU_UINT32},
    {"ost_status", QEMU_UINT32},
    {NULL},
};
static const QemuLayout cpu_hotplug_device_state = {"CPU hotplug device state", 1,
                                                    cpu_hotplug_device_state_fields, NULL};

static const QemuField cpu_hotplug_state_fields[] = {
    {"selector", QEMU_UINT32},
    {"command", QEMU_UINT8},
    {"devs", QEMU_STRUCT, QEMU_COUNT_FITS, .layout = &cpu_hotplug_device_state},
    {NULL},
};
static const QemuLayout cpu_hotplug_state = {"CPU hotplug state", 1, cpu_hotplug_state_fields,
                                             NULL};

static const QemuField piix4_pm_cpuhp_fields[] = {
    {"cpuhp_state", QEMU_STRUCT, .layout = &cpu_hotplug_state},
    {NULL},
};
static const QemuLayout piix4_pm_cpuhp = {"piix4_pm/cpuhp", 1, piix4_pm_cpuhp_fields, NULL};

/* What all variants begin with. */
#define PIIX4_PM_FIELDS                                                                            \
    {"parent_obj", QEMU_STRUCT, .layout = &qemu_pci_device_layout},                                \
        {"ar.pm1.evt.sts", QEMU_UINT16}, {"ar.pm1.evt.en", QEMU_UINT16},                           \
        {"ar.pm1.cnt.cnt", QEMU_UINT16}, {"apm", QEMU_STRUCT, .layout = &apm_state},               \
        {"smb", QEMU_STRUCT, .layout = &pmsmb}, {"ar.tmr.timer", QEMU_TIMER},                      \
        {"ar.tmr.overflow_time", QEMU_INT64},                                                      \
    {                                                                                              \
        "ar.gpe", QEMU_STRUCT, .layout = &gpe                                                      \
    }
#define PIIX4_PM_HOTPLUG                                                                           \
    {"acpi_pci_hotplug.hotplug_select", QEMU_UINT32},                                              \
    {                                                                                              \
        "acpi_pci_hotplug.acpi_pcihp_pci_status", QEMU_STRUCT, 256,                                \
            .layout = &acpi_pcihp_pci_status                                                       \
    }

static const QemuField piix4_pm_fields[] = {
    PIIX4_PM_FIELDS,
    PIIX4_PM_HOTPLUG,
    {"acpi_pci_hotplug.acpi_index", QEMU_UINT32},
    {NULL},
};
/* Machines without acpi-index (before 6.1). */
static const QemuField piix4_pm_no_index_fields[] = {PIIX4_PM_FIELDS, PIIX4_PM_HOTPLUG, {NULL}};
/* With acpi-pci-hotplug-with-bridge-support=off. */
static const QemuField piix4_pm_no_bridge_fields[] = {
    PIIX4_PM_FIELDS,
    {"acpi_pci_hotplug.acpi_pcihp_pci_status[0x0]", QEMU_STRUCT, .layout = &acpi_pcihp_pci_status},
    {NULL},
};
static const QemuLayout *const piix4_pm_subsections[] = {&piix4_pm_memhp, &piix4_pm_cpuhp, NULL};
static const QemuLayout piix4_pm = {"piix4_pm", 3, piix4_pm_fields, piix4_pm_subsections};
static const QemuLayout piix4_pm_no_index = {"piix4_pm", 3, piix4_pm_no_index_fields,
                                             piix4_pm_subsections};
static const QemuLayout piix4_pm_no_bridge = {"piix4_pm", 3, piix4_pm_no_bridge_fields,
                                              piix4_pm_subsections};

static const QemuField piix3_rcr_fields[] = {
    {"rcr", QEMU_UINT8},
    {NULL},
};
static const QemuLayout piix3_rcr = {"PIIX3/rcr", 1, piix3_rcr_fields, NULL};

static const QemuField piix3_fields[] = {
    {"dev", QEMU_STRUCT, .layout = &qemu_pci_device_layout},
    {"pci_irq_levels_vmstate", QEMU_INT32, 4},
    {NULL},
};
static const QemuLayout *const piix3_subsections[] = {&piix3_rcr, NULL};
static const QemuLayout piix3 = {"PIIX3", 3, piix3_fields, piix3_subsections};

static const QemuField i8259_ltim_fields[] = {
    {"ltim", QEMU_UINT8},
    {NULL},
};
static const QemuLayout i8259_ltim = {"i8259/ltim", 1, i8259_ltim_fields, NULL};

static const QemuField i8259_fields[] = {
    {"last_irr", QEMU_UINT8},
    {"irr", QEMU_UINT8},
    {"imr", QEMU_UINT8},
    {"isr", QEMU_UINT8},
    {"priority_add", QEMU_UINT8},
    {"irq_base", QEMU_UINT8},
    {"read_reg_select", QEMU_UINT8},
    {"poll", QEMU_UINT8},
    {"special_mask", QEMU_UINT8},
    {"init_state", QEMU_UINT8},
    {"auto_eoi", QEMU_UINT8},
    {"rotate_on_auto_eoi", QEMU_UINT8},
    {"special_fully_nested_mode", QEMU_UINT8},
    {"init4", QEMU_UINT8},
    {"single_mode", QEMU_UINT8},
    {"elcr", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const i8259_subsections[] = {&i8259_ltim, NULL};
static const QemuLayout i8259 = {"i8259", 1, i8259_fields, i8259_subsections};

static const QemuField ioapic_fields[] = {
    {"id", QEMU_UINT8},   {"ioregsel", QEMU_UINT8},      {"unused", QEMU_UNUSED, 8},
    {"irr", QEMU_UINT32}, {"ioredtbl", QEMU_UINT64, 24}, {NULL},
};
static const QemuLayout ioapic = {"ioapic", 3, ioapic_fields, NULL};

static const QemuField hpet_timer_fields[] = {
    {"tn", QEMU_UINT8},         {"config", QEMU_UINT64},
    {"cmp", QEMU_UINT64},       {"fsb", QEMU_UINT64},
    {"period", QEMU_UINT64},    {"wrap_flag", QEMU_UINT8},
    {"qemu_timer", QEMU_TIMER}, {NULL},
};
static const QemuLayout hpet_timer = {"hpet_timer", 1, hpet_timer_fields, NULL};

static const QemuField hpet_offset_fields[] = {
    {"hpet_offset", QEMU_UINT64},
    {NULL},
};
static const QemuLayout hpet_offset = {"hpet/offset", 1, hpet_offset_fields, NULL};

static const QemuField hpet_rtc_irq_level_fields[] = {
    {"rtc_irq_level", QEMU_UINT8},
    {NULL},
};
static const QemuLayout hpet_rtc_irq_level = {"hpet/rtc_irq_level", 1, hpet_rtc_irq_level_fields,
                                              NULL};

static const QemuField hpet_fields[] = {
    {"config", QEMU_UINT64},
    {"isr", QEMU_UINT64},
    {"hpet_counter", QEMU_UINT64},
    {"num_timers,num_timers_save", QEMU_UINT8},
    {"timer", QEMU_STRUCT, 32, .count_from = "num_timers,num_timers_save", .layout = &hpet_timer},
    {NULL},
};
static const QemuLayout *const hpet_subsections[] = {&hpet_offset, &hpet_rtc_irq_level, NULL};
static const QemuLayout hpet = {"hpet", 2, hpet_fields, hpet_subsections};

static const QemuField pit_channel_fields[] = {
    {"count", QEMU_INT32},
    {"latched_count", QEMU_UINT16},
    {"count_latched", QEMU_UINT8},
    {"status_latched", QEMU_UINT8},
    {"status", QEMU_UINT8},
    {"read_state", QEMU_UINT8},
    {"write_state", QEMU_UINT8},
    {"write_latch", QEMU_UINT8},
    {"rw_mode", QEMU_UINT8},
    {"mode", QEMU_UINT8},
    {"bcd", QEMU_UINT8},
    {"gate", QEMU_UINT8},
    {"count_load_time", QEMU_INT64},
    {"next_transition_time", QEMU_INT64},
    {NULL},
};
static const QemuLayout pit_channel = {"pit channel", 2, pit_channel_fields, NULL};

static const QemuField i8254_fields[] = {
    {"channels[0].irq_disabled", QEMU_UINT32},
    {"channels", QEMU_STRUCT, 3, .layout = &pit_channel},
    {"channels[0].next_transition_time", QEMU_INT64},
    {NULL},
};
static const QemuLayout i8254 = {"i8254", 3, i8254_fields, NULL};

static const QemuField pcspk_fields[] = {
    {"data_on", QEMU_UINT8},
    {"dummy_refresh_clock", QEMU_UINT8},
    {NULL},
};
static const QemuLayout pcspk = {"pcspk", 1, pcspk_fields, NULL};

static const QemuField port92_fields[] = {
    {"outport", QEMU_UINT8},
    {NULL},
};
static const QemuLayout port92 = {"port92", 1, port92_fields, NULL};

static const QemuField acpi_build_fields[] = {
    {"patched", QEMU_UINT8},
    {NULL},
};
static const QemuLayout acpi_build = {"acpi_build", 1, acpi_build_fields, NULL};

static const QemuField acpi_ged_state_fields[] = {
    {"sel", QEMU_UINT32},
    {NULL},
};
static const QemuLayout acpi_ged_state = {"acpi-ged-state", 1, acpi_ged_state_fields, NULL};

static const QemuField acpi_ged_memhp_fields[] = {
    {"memhp_state", QEMU_STRUCT, .layout = &memory_hotplug_state},
    {NULL},
};
static const QemuLayout acpi_ged_memhp = {"acpi-ged/memhp", 1, acpi_ged_memhp_fields, NULL};

static const QemuField acpi_ged_fields[] = {
    {"ged_state", QEMU_STRUCT, .layout = &acpi_ged_state},
    {NULL},
};
static const QemuLayout *const acpi_ged_subsections[] = {&acpi_ged_memhp, NULL};
static const QemuLayout acpi_ged = {"acpi-ged", 1, acpi_ged_fields, acpi_ged_subsections};

static const QemuField fw_cfg_dma_fields[] = {
    {"dma_addr", QEMU_UINT64},
    {NULL},
};
static const QemuLayout fw_cfg_dma = {"fw_cfg/dma", 0, fw_cfg_dma_fields, NULL};

static const QemuField fw_cfg_acpi_mr_fields[] = {
    {"table_mr_size", QEMU_UINT64},
    {"linker_mr_size", QEMU_UINT64},
    {"rsdp_mr_size", QEMU_UINT64},
    {NULL},
};
static const QemuLayout fw_cfg_acpi_mr = {"fw_cfg/acpi_mr", 1, fw_cfg_acpi_mr_fields, NULL};

static const QemuField fw_cfg_fields[] = {
    {"cur_entry", QEMU_UINT16},
    {"cur_offset[1]", QEMU_UINT32},
    {NULL},
};
static const QemuLayout *const fw_cfg_subsections[] = {&fw_cfg_dma, &fw_cfg_acpi_mr, NULL};
static const QemuLayout fw_cfg = {"fw_cfg", 2, fw_cfg_fields, fw_cfg_subsections};

static const QemuField globalstate_fields[] = {
    {"size", QEMU_UINT32},
    {"runstate", QEMU_BUFFER, 32},
    {"has_vm_was_suspended", QEMU_UINT8},
    {"vm_was_suspended", QEMU_UINT8},
    {"unused", QEMU_BUFFER, 66},
    {NULL},
};
static const QemuLayout globalstate = {"globalstate", 1, globalstate_fields, NULL};

const QemuLayoutEntry qemu_layouts_chips[] = {
    {"I440FX", {&i440fx}},
    {"PCIHost", {&pcihost}},
    {"PCIBUS", {&pcibus}},
    {"dma", {&dma}},
    {"mc146818rtc", {&mc146818rtc}},
    {"i2c_bus", {&i2c_bus}},
    {"piix4_pm", {&piix4_pm, &piix4_pm_no_index, &piix4_pm_no_bridge}},
    {"PIIX3", {&piix3}},
    {"i8259", {&i8259}},
    {"ioapic", {&ioapic}},
    {"hpet", {&hpet}},
    {"i8254", {&i8254}},
    {"pcspk", {&pcspk}},
    {"port92", {&port92}},
    {"acpi_build", {&acpi_build}},
    {"acpi-ged", {&acpi_ged}},
    {"fw_cfg", {&fw_cfg}},
    {"globalstate", {&globalstate}},
    {NULL}};
