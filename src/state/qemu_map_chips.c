/* A PC's chips: QEMU's sections of interrupt controllers, timers and the chipset. */
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
#define LEFT_OUT(own, why)                                                                         \
    {                                                                                              \
        QEMU_MAP_LEFT_OUT, why, own                                                                \
    }
#define CODE(own, read, write)                                                                     \
    {                                                                                              \
        QEMU_MAP_CODE, NULL, own, 0, 0, 0, NULL, read, write                                       \
    }

#define PCI(parent)                                                                                \
    {QEMU_MAP_BYTES, "config", parent "|config[0]"}, {QEMU_MAP_INTX, "intx", parent "|irq_state"}, \
        LEFT_OUT(parent "|version_id", "of QEMU's form")

static const QemuMapRow i8259_rows[] = {
    NUMBER("irr", "irr"),
    NUMBER("imr", "imr"),
    NUMBER("isr", "isr"),
    NUMBER("lines", "last_irr"),
    NUMBER("highest_priority", "priority_add"),
    NUMBER("vector_base", "irq_base"),
    NUMBER("read_isr", "read_reg_select"),
    NUMBER("poll", "poll"),
    NUMBER("special_mask", "special_mask"),
    NUMBER("init_step", "init_state"),
    NUMBER("auto_eoi", "auto_eoi"),
    NUMBER("rotate_on_auto_eoi", "rotate_on_auto_eoi"),
    NUMBER("special_fully_nested", "special_fully_nested_mode"),
    NUMBER("needs_icw4", "init4"),
    NUMBER("single", "single_mode"),
    NUMBER("elcr", "elcr"),
    LEFT_OUT("i8259/ltim", "no PC sets level triggering by ICW1"),
    {0},
};

static const QemuMapRow ioapic_rows[] = {
    NUMBER("id", "id"),
    NUMBER("register_select", "ioregsel"),
    NUMBER("lines", "irr"),
    {QEMU_MAP_NUMBERS, "redirection", "ioredtbl"},
    LEFT_OUT("unused", "of QEMU's form"),
    {0},
};

static const QemuMapRow pit_channel_rows[] = {
    NUMBER("count", "count"),
    NUMBER("latched_count", "latched_count"),
    NUMBER("count_latched", "count_latched"),
    NUMBER("status_latched", "status_latched"),
    NUMBER("status", "status"),
    NUMBER("read_state", "read_state"),
    NUMBER("write_state", "write_state"),
    NUMBER("write_latch", "write_latch"),
    NUMBER("access", "rw_mode"),
    NUMBER("mode", "mode"),
    NUMBER("bcd", "bcd"),
    NUMBER("gate", "gate"),
    {QEMU_MAP_SINCE, "since_load", "count_load_time"},
    LEFT_OUT("next_transition_time", "the one of channel 0 stands behind, too"),
    {0},
};

static gboolean write_transition(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    int64_t until;
    uint64_t next = state_get_time(node, "until_transition", &until)
                        ? context->now + (uint64_t)until
                        : G_MAXUINT64;

    return qemu_map_put(context, record, "channels[0]|next_transition_time", next);
}

static const QemuMapRow pit_rows[] = {
    NUMBER("irq_disabled", "channels[0].irq_disabled"),
    {QEMU_MAP_GROUPS, "channels", "channels", .rows = pit_channel_rows},
    {QEMU_MAP_UNTIL, "until_transition", "channels[0].next_transition_time"},
    CODE("channels", NULL, write_transition),
    {0},
};

#define HOST_CLOCK "follows from the CMOS; QEMU has it by the host's clock"

static const QemuMapRow rtc_rows[] = {
    {QEMU_MAP_BYTES, "cmos", "cmos_data"},
    NUMBER("index", "cmos_index"),
    LEFT_OUT("unused[0]", "of QEMU's form"),
    LEFT_OUT("unused[1]", "of QEMU's form"),
    LEFT_OUT("periodic_timer", HOST_CLOCK),
    LEFT_OUT("next_periodic_time", HOST_CLOCK),
    LEFT_OUT("irq_coalesced", "interrupts that QEMU makes up for with -rtc driftfix"),
    LEFT_OUT("period", HOST_CLOCK),
    LEFT_OUT("base_rtc", HOST_CLOCK),
    LEFT_OUT("last_update", HOST_CLOCK),
    LEFT_OUT("offset", HOST_CLOCK),
    LEFT_OUT("update_timer", HOST_CLOCK),
    LEFT_OUT("next_alarm_time", HOST_CLOCK),
    LEFT_OUT("mc146818rtc/irq_reinject_on_ack_count", "as irq_coalesced"),
    {0},
};

static const QemuMapRow hpet_timer_rows[] = {
    NUMBER("config", "config"),   NUMBER("comparator", "cmp"),
    NUMBER("period", "period"),   NUMBER("fsb", "fsb"),
    NUMBER("wrap", "wrap_flag"),  {QEMU_MAP_UNTIL, "until_fire", "qemu_timer"},
    LEFT_OUT("tn", "its number"), {0},
};

#define HPET_NS_A_TICK 10u

#define HPET_ENABLED 1u

/* The main counter is (virtual clock + offset) / 10 ns.  QEMU goes by the offset, and by that of a
 * machine that has not run where the subsection is missing. */
static gboolean write_hpet_counter(QemuMapContext *context, QemuRecord *record,
                                   const StateNode *node)
{
    uint64_t before = qemu_map_number(record, "hpet_counter");
    uint64_t counter = state_number_or(node, "counter", 0);

    if (!qemu_map_put(context, record, "hpet_counter", counter))
        return FALSE;
    return (counter == before && !context->moved) ||
           !(state_number_or(node, "config", 0) & HPET_ENABLED) ||
           qemu_map_put(context, record, "hpet/offset|hpet_offset",
                        counter * HPET_NS_A_TICK - context->now);
}

static gboolean read_hpet_counter(QemuMapContext *context, const QemuRecord *record,
                                  StateNode *node)
{
    state_set_number(node, "counter", qemu_map_number(record, "hpet_counter"));
    return TRUE;
}

static const QemuMapRow hpet_rows[] = {
    NUMBER("config", "config"),
    NUMBER("isr", "isr"),
    CODE("hpet_counter hpet/offset", read_hpet_counter, write_hpet_counter),
    {QEMU_MAP_GROUPS, "timers", "timer", .rows = hpet_timer_rows},
    LEFT_OUT("num_timers", "the length of the list"),
    LEFT_OUT("hpet/rtc_irq_level", "the real-time clock's, when the HPET replaces it"),
    {0},
};

static const QemuMapRow dma_channel_rows[] = {
    {QEMU_MAP_NUMBERS, "current", "now"},
    {QEMU_MAP_NUMBERS, "base", "base"},
    NUMBER("mode", "mode"),
    NUMBER("page", "page"),
    NUMBER("page_high", "pageh"),
    NUMBER("dack", "dack"),
    NUMBER("eop", "eop"),
    {0},
};

static const QemuMapRow dma_rows[] = {
    NUMBER("command", "command"),
    NUMBER("mask", "mask"),
    NUMBER("flip_flop", "flip_flop"),
    {QEMU_MAP_GROUPS, "channels", "regs", .rows = dma_channel_rows},
    LEFT_OUT("dshift", "which of the two controllers it is"),
    {0},
};

static const QemuMapRow i440fx_rows[] = {
    PCI("parent_obj"),
    LEFT_OUT("unused", "of QEMU's form"),
    {0},
};

static const QemuMapRow pcihost_rows[] = {NUMBER("config_address", "config_reg"), {0}};

static const QemuMapRow piix3_rows[] = {
    PCI("dev"),
    {QEMU_MAP_NUMBERS, "pirq_levels", "pci_irq_levels_vmstate"},
    OPTIONAL("reset_control", "PIIX3/rcr|rcr", 0),
    {0},
};

static const QemuMapRow smbus_rows[] = {
    NUMBER("status", "smb_stat"),
    NUMBER("control", "smb_ctl"),
    NUMBER("command", "smb_cmd"),
    NUMBER("address", "smb_addr"),
    NUMBER("data0", "smb_data0"),
    NUMBER("data1", "smb_data1"),
    NUMBER("index", "smb_index"),
    {QEMU_MAP_NUMBERS, "block_data", "smb_data"},
    LEFT_OUT("smb_auxctl", "the PIIX4 has no such register"),
    LEFT_OUT("smb_blkdata", "the PIIX4 has no such register"),
    LEFT_OUT("i2c_enable", "the PIIX4 has no such bit"),
    LEFT_OUT("op_done", "a transfer takes no time"),
    LEFT_OUT("in_i2c_block_read", "the PIIX4 has no such transfer"),
    LEFT_OUT("start_transaction_on_status_read", "a transfer takes no time"),
    {0},
};

#define PM_TIMER_HZ 3579545u
#define PM_TIMER_MASK 0xffffffu
#define NS_A_SECOND 1000000000u

static gboolean read_pm_timer(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    unsigned __int128 ticks = (unsigned __int128)context->now * PM_TIMER_HZ / NS_A_SECOND;

    state_set_number(node, "pm_timer", (uint64_t)ticks & PM_TIMER_MASK);
    return TRUE;
}

#define PM1_TIMER_ENABLED 1u
#define PM_TIMER_HALF 0x800000u

/* It interrupts when its highest bit changes.  QEMU counts that from its own clock. */
static gboolean write_pm_timer(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    gboolean enabled = (state_number_or(node, "pm1_enable", 0) & PM1_TIMER_ENABLED) != 0;
    unsigned __int128 ticks = (unsigned __int128)context->now * PM_TIMER_HZ / NS_A_SECOND;
    uint64_t overflow = ((uint64_t)ticks + PM_TIMER_HALF) & ~(uint64_t)(PM_TIMER_HALF - 1);
    uint64_t fire = (uint64_t)((unsigned __int128)overflow * NS_A_SECOND / PM_TIMER_HZ);

    return !context->moved ||
           (qemu_map_put(context, record, "ar.tmr.overflow_time", overflow) &&
            qemu_map_put(context, record, "ar.tmr.timer", enabled ? fire : G_MAXUINT64));
}

#define HOTPLUG "QEMU's own registers for plugging"

static const QemuMapRow piix4_pm_rows[] = {
    PCI("parent_obj"),
    NUMBER("pm1_status", "ar.pm1.evt.sts"),
    NUMBER("pm1_enable", "ar.pm1.evt.en"),
    NUMBER("pm1_control", "ar.pm1.cnt.cnt"),
    NUMBER("apm_control", "apm|apmc"),
    NUMBER("apm_status", "apm|apms"),
    NUMBER("gpe_status", "ar.gpe|sts"),
    NUMBER("gpe_enable", "ar.gpe|en"),
    {QEMU_MAP_GROUP, "smbus", "smb", .rows = smbus_rows},
    CODE("ar.tmr.timer ar.tmr.overflow_time", read_pm_timer, write_pm_timer),
    LEFT_OUT("acpi_pci_hotplug.hotplug_select", HOTPLUG),
    LEFT_OUT("acpi_pci_hotplug.acpi_pcihp_pci_status", HOTPLUG),
    LEFT_OUT("acpi_pci_hotplug.acpi_pcihp_pci_status[0x0]", HOTPLUG),
    LEFT_OUT("acpi_pci_hotplug.acpi_index", HOTPLUG),
    LEFT_OUT("piix4_pm/memhp", HOTPLUG),
    LEFT_OUT("piix4_pm/cpuhp", HOTPLUG),
    {0},
};

static const QemuMapRow port92_rows[] = {NUMBER("value", "outport"), {0}};

static const QemuMapRow speaker_rows[] = {
    NUMBER("data_on", "data_on"),
    NUMBER("refresh", "dummy_refresh_clock"),
    {0},
};

const QemuMap qemu_maps_chips[] = {
    {"i8259", "intel,8259a", {"io:20", "io:a0"}, NULL, i8259_rows},
    {"ioapic", "intel,82093aa", {"mmio:fec00000", "mmio:fec10000"}, NULL, ioapic_rows},
    {"i8254", "intel,8254", {"io:40"}, NULL, pit_rows},
    {"mc146818rtc", "motorola,mc146818", {"io:70"}, NULL, rtc_rows},
    {"hpet", "intel,hpet", {"mmio:fed00000"}, NULL, hpet_rows},
    {"dma", "intel,8237a", {"io:00", "io:c0"}, NULL, dma_rows},
    {"I440FX", "intel,440fx", {NULL}, NULL, i440fx_rows},
    {"PCIHost", "intel,440fx", {"pci:00:00.0"}, NULL, pcihost_rows},
    {"PIIX3", "intel,piix3", {NULL}, NULL, piix3_rows},
    {"piix4_pm", "intel,piix4-pm", {NULL}, NULL, piix4_pm_rows},
    {"port92", "ibm,port92", {"io:92"}, NULL, port92_rows},
    {"pcspk", "ibm,speaker", {"io:61"}, NULL, speaker_rows},
    {NULL},
};
