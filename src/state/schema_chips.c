/* The schema of a PC's chips: interrupts, timers, the chipset. */
#include "state/schema_tables.h"

#define NUMBER STATE_NUMBER_FIELD
#define OPTIONAL STATE_OPTIONAL_NUMBER
#define PCI_CONFIG STATE_BYTES_FIELD("config", 256, "configuration space (PCI 2.2, 6.1)")
#define PCI_INTX                                                                                   \
    STATE_OPTIONAL_NUMBERS("intx", 1, 4, "levels it drives INTA# to INTD# to, 1: asserted; 0")

static const StateField i8259a_fields[] = {
    NUMBER("irr", 8, "interrupt request register"),
    NUMBER("imr", 8, "mask (OCW1)"),
    NUMBER("isr", 8, "in-service register"),
    NUMBER("lines", 8, "levels of the inputs, as last seen"),
    NUMBER("highest_priority", 3, "the input that comes first; 0 unless rotated"),
    NUMBER("vector_base", 8, "ICW2"),
    NUMBER("read_isr", 1, "a read yields ISR, else IRR (OCW3)"),
    NUMBER("poll", 1, "the next read is a poll"),
    NUMBER("special_mask", 1, ""),
    NUMBER("init_step", 8, "0: initialized, else the ICW that is waited for, minus 1"),
    NUMBER("auto_eoi", 1, ""),
    NUMBER("rotate_on_auto_eoi", 1, ""),
    NUMBER("special_fully_nested", 1, ""),
    NUMBER("needs_icw4", 1, ""),
    NUMBER("single", 1, "not cascaded (ICW1)"),
    NUMBER("elcr", 8, "edge/level control (82371SB, ports 4D0h, 4D1h)"),
    {NULL},
};

const StateGroup state_8259a_group = {"intel,8259a", "Interrupt controller (Intel 8259A, 231468).",
                                      "`io:20`, `io:a0`", i8259a_fields};

static const StateField i82093aa_fields[] = {
    NUMBER("id", 8, ""),
    NUMBER("register_select", 8, "IOREGSEL"),
    NUMBER("lines", 32, "requests of level inputs, one bit each"),
    STATE_NUMBERS("redirection", 64, 24, "IOREDTBL"),
    {NULL},
};

const StateGroup state_82093aa_group = {"intel,82093aa", "I/O APIC (Intel 82093AA, 290566).",
                                        "`mmio:fec00000`", i82093aa_fields};

static const StateField pit_channel_fields[] = {
    NUMBER("count", 32, "what it counts from, 1 to 10000h"),
    NUMBER("mode", 8, "0 to 5"),
    NUMBER("bcd", 1, ""),
    NUMBER("gate", 1, ""),
    NUMBER("access", 8, "1 LSB, 2 MSB, 3 LSB and MSB"),
    NUMBER("read_state", 8,
           "what the next read yields: 1 LSB, 2 MSB, 3 LSB then MSB, 4 MSB of these"),
    NUMBER("write_state", 8, "the same of writes"),
    NUMBER("write_latch", 8, "an LSB that waits for its MSB"),
    NUMBER("latched_count", 16, ""),
    NUMBER("count_latched", 8, "as read_state; 0: not latched"),
    NUMBER("status", 8, "latched status"),
    NUMBER("status_latched", 1, ""),
    STATE_TIME_FIELD("since_load", "since the count was loaded; it counts 1,193,182 a second"),
    {NULL},
};

static const StateGroup pit_channel_group = {"channel", "A counter.", NULL, pit_channel_fields};

static const StateField i8254_fields[] = {
    STATE_GROUPS("channels", &pit_channel_group, 3, ""),
    NUMBER("irq_disabled", 1, "channel 0 drives no interrupt: an HPET replaces it"),
    STATE_OPTIONAL_TIME("until_transition",
                        "until OUT of channel 0 changes next; not there where it does not"),
    {NULL},
};

const StateGroup state_8254_group = {"intel,8254", "Interval timer (Intel 8254, 231164).",
                                     "`io:40`", i8254_fields};

static const StateField mc146818_fields[] = {
    STATE_BYTES_FIELD("cmos", 128, "registers and RAM; the time of the pause is in them"),
    NUMBER("index", 8, "port 70h, without bit 7"),
    {NULL},
};

const StateGroup state_mc146818_group = {
    "motorola,mc146818", "Real-time clock (Motorola MC146818A).", "`io:70`", mc146818_fields};

static const StateField hpet_timer_fields[] = {
    NUMBER("config", 64, "configuration and capabilities"),
    NUMBER("comparator", 64, ""),
    NUMBER("period", 64, "last value written to the comparator of a periodic timer"),
    NUMBER("fsb", 64, "FSB interrupt route"),
    OPTIONAL("wrap", 1, "the next event is that a 32-bit counter wraps; 0"),
    STATE_OPTIONAL_TIME("until_fire", "not there where the timer is not armed"),
    {NULL},
};

static const StateGroup hpet_timer_group = {"timer", "A comparator.", NULL, hpet_timer_fields};

static const StateField hpet_fields[] = {
    NUMBER("config", 64, "general configuration"),
    NUMBER("isr", 64, "general interrupt status"),
    NUMBER("counter", 64, "main counter, as the guest would read it at the pause"),
    STATE_GROUPS("timers", &hpet_timer_group, 0, ""),
    {NULL},
};

const StateGroup state_hpet_group = {
    "intel,hpet", "IA-PC HPET Specification 1.0a, 2.3; it counts 100,000,000 a second.",
    "`mmio:fed00000`", hpet_fields};

static const StateField dma_channel_fields[] = {
    STATE_NUMBERS("current", 32, 2, "address and count of the transfer"),
    STATE_NUMBERS("base", 16, 2, "base address and count"),
    NUMBER("mode", 8, ""),
    NUMBER("page", 8, "page register"),
    NUMBER("page_high", 8, ""),
    NUMBER("dack", 8, ""),
    NUMBER("eop", 8, "terminal count reached"),
    {NULL},
};

static const StateGroup dma_channel_group = {"channel", "A channel.", NULL, dma_channel_fields};

static const StateField i8237a_fields[] = {
    NUMBER("command", 8, ""),
    NUMBER("mask", 8, ""),
    NUMBER("flip_flop", 8, ""),
    STATE_GROUPS("channels", &dma_channel_group, 4, ""),
    {NULL},
};

const StateGroup state_8237a_group = {"intel,8237a", "DMA controller (Intel 8237A, 231466).",
                                      "`io:00`, `io:c0`", i8237a_fields};

static const StateField i440fx_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    NUMBER("config_address", 32, "port CF8h (PCI 2.2, 3.2.2.3.2)"),
    {NULL},
};

const StateGroup state_440fx_group = {
    "intel,440fx", "Host bridge (Intel 82441FX, 290549); PAM is in its configuration.",
    "`pci:00:00.0`", i440fx_fields};

static const StateField piix3_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    STATE_NUMBERS("pirq_levels", 32, 4, "devices that assert PIRQA# to PIRQD#"),
    OPTIONAL("reset_control", 8, "port CF9h; 0"),
    {NULL},
};

const StateGroup state_piix3_group = {"intel,piix3", "ISA bridge (Intel 82371SB, 290550).",
                                      "`pci:00:01.0`", piix3_fields};

static const StateField pio_fields[] = {
    NUMBER("sectors", 32, "of the command, still to be moved"),
    NUMBER("offset", 32, "in the buffer, of the next byte"),
    NUMBER("length", 32, "bytes that are still to be moved"),
    NUMBER("then", 8, "what follows: as QEMU numbers it"),
    NUMBER("block_bytes", 32, "of a packet, still to be moved in this block"),
    NUMBER("packet_bytes", 32, "of a packet, still to be moved"),
    STATE_BYTES_FIELD("buffer", 131076, ""),
    {NULL},
};

static const StateGroup pio_group = {"pio", "A transfer by the data port that has not ended.", NULL,
                                     pio_fields};

static const StateField drive_fields[] = {
    NUMBER("features", 8, ""),
    NUMBER("error", 8, ""),
    NUMBER("sector_count", 32, "100h for 256"),
    NUMBER("sector", 8, "LBA 7:0"),
    NUMBER("cylinder_low", 8, "LBA 15:8"),
    NUMBER("cylinder_high", 8, "LBA 23:16"),
    NUMBER("previous_features", 8, "of the 48-bit registers, the byte written before"),
    NUMBER("previous_sector", 8, ""),
    NUMBER("previous_sector_count", 8, ""),
    NUMBER("previous_cylinder_low", 8, ""),
    NUMBER("previous_cylinder_high", 8, ""),
    NUMBER("device", 8, ""),
    NUMBER("status", 8, ""),
    NUMBER("lba48", 1, "the command uses 48-bit addresses"),
    NUMBER("multiple_sectors", 32, "of READ MULTIPLE"),
    STATE_OPTIONAL_BYTES("identify", 512, "what IDENTIFY DEVICE yields; none yet"),
    NUMBER("sense_key", 8, "of a CD-ROM drive"),
    NUMBER("sense_code", 8, "additional sense code"),
    NUMBER("medium_changed", 8, ""),
    OPTIONAL("tray_open", 1, "0"),
    OPTIONAL("tray_locked", 1, "0"),
    OPTIONAL("event_new_medium", 1, "0"),
    OPTIONAL("event_eject_request", 1, "0"),
    STATE_OPTIONAL_GROUP("pio", &pio_group, "none"),
    {NULL},
};

static const StateGroup drive_group = {
    "drive", "The registers of a drive (ATA/ATAPI-6, T13/1410D, 7).", NULL, drive_fields};

static const StateField ide_dma_fields[] = {
    NUMBER("address", 32, "of the next descriptor"),
    NUMBER("last", 32, "that one is the last"),
    NUMBER("data_address", 32, ""),
    NUMBER("data_bytes", 32, "still to be moved of it"),
    {NULL},
};

static const StateGroup ide_dma_group = {"dma", "How far the bus master is in its descriptors.",
                                         NULL, ide_dma_fields};

static const StateField ide_channel_fields[] = {
    NUMBER("bus_master_command", 8, "BMICX"),
    NUMBER("bus_master_status", 8, "BMISX"),
    NUMBER("descriptor_table", 32, "BMIDTPX"),
    NUMBER("device_control", 8, "port 3F6h"),
    NUMBER("selected", 1, "the drive that answers"),
    STATE_GROUPS("drives", &drive_group, 2, ""),
    STATE_OPTIONAL_GROUP("dma", &ide_dma_group, "at the beginning"),
    {NULL},
};

static const StateGroup ide_channel_group = {"channel", "Primary, secondary.", NULL,
                                             ide_channel_fields};

static const StateField piix3_ide_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    STATE_GROUPS("channels", &ide_channel_group, 2, ""),
    {NULL},
};

const StateGroup state_piix3_ide_group = {"intel,piix3-ide",
                                          "IDE controller (Intel 82371SB, 290550, 2.7).",
                                          "`pci:00:01.1`", piix3_ide_fields};

static const StateField smbus_fields[] = {
    NUMBER("status", 8, "SMBHSTSTS"),
    NUMBER("control", 8, ""),
    NUMBER("command", 8, ""),
    NUMBER("address", 8, ""),
    NUMBER("data0", 8, ""),
    NUMBER("data1", 8, ""),
    NUMBER("index", 32, "in block data"),
    STATE_NUMBERS("block_data", 8, 32, ""),
    {NULL},
};

static const StateGroup smbus_group = {"smbus", "The SMBus host.", NULL, smbus_fields};

static const StateField piix4_pm_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    NUMBER("pm1_status", 16, "PMSTS"),
    NUMBER("pm1_enable", 16, "PMEN"),
    NUMBER("pm1_control", 16, "PMCNTRL"),
    NUMBER("pm_timer", 24, "as the guest would read it at the pause; it counts 3,579,545 a second"),
    NUMBER("apm_control", 8, "port B2h"),
    NUMBER("apm_status", 8, "port B3h"),
    NUMBER("gpe_status", 16, ""),
    NUMBER("gpe_enable", 16, ""),
    STATE_GROUP_FIELD("smbus", &smbus_group, ""),
    {NULL},
};

const StateGroup state_piix4_pm_group = {"intel,piix4-pm",
                                         "Power management (Intel 82371AB, 290562; ACPI 1.0, 4.7).",
                                         "`pci:00:01.3`", piix4_pm_fields};
