/* The schema of devices that a user would name: serial ports, keyboard, display, network card. */
#include "state/schema_tables.h"

#define NUMBER STATE_NUMBER_FIELD
#define OPTIONAL STATE_OPTIONAL_NUMBER
#define PCI_CONFIG STATE_BYTES_FIELD("config", 256, "configuration space (PCI 2.2, 6.1)")
#define PCI_INTX                                                                                   \
    STATE_OPTIONAL_NUMBERS("intx", 1, 4, "levels it drives INTA# to INTD# to, 1: asserted; 0")

static const StateField serial_fields[] = {
    NUMBER("divisor", 16, "DLL, DLM"),
    NUMBER("rbr", 8, "receiver buffer"),
    NUMBER("ier", 8, ""),
    NUMBER("iir", 8, ""),
    NUMBER("fcr", 8, ""),
    NUMBER("lcr", 8, ""),
    NUMBER("mcr", 8, ""),
    NUMBER("lsr", 8, ""),
    NUMBER("msr", 8, ""),
    NUMBER("scr", 8, ""),
    OPTIONAL("thr_interrupt", 1, "\"THR empty\" is pending; follows from IIR"),
    OPTIONAL("timeout_interrupt", 1, "\"character time-out\" is pending; 0"),
    OPTIONAL("shift_register", 8, "a byte that is being sent; none"),
    OPTIONAL("holding_register", 8, "a byte that waits to be sent; 0"),
    STATE_OPTIONAL_BYTES("receive_fifo", 0, "bytes that have come, the first one first; none"),
    STATE_OPTIONAL_BYTES("transmit_fifo", 0, "bytes that wait to be sent; none"),
    {NULL},
};

const StateGroup state_16550a_group = {"ns,16550a", "Serial port (National PC16550D).",
                                       "`io:3f8`, `io:2f8`, `io:3e8`, `io:2e8`", serial_fields};

static const StateField keyboard_fields[] = {
    OPTIONAL("pending_command", 8, "a command that waits for its parameter; none"),
    STATE_BYTES_FIELD("queue", 0, "bytes that wait to be read, the first one first"),
    NUMBER("scan_enabled", 1, ""),
    NUMBER("translate", 1, "scan codes become those of set 1"),
    NUMBER("scan_code_set", 8, "1 to 3"),
    OPTIONAL("leds", 8, "0"),
    {NULL},
};

static const StateGroup keyboard_group = {
    "keyboard", "A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference).", NULL,
    keyboard_fields};

static const StateField mouse_fields[] = {
    OPTIONAL("pending_command", 8, "a command that waits for its parameter; none"),
    STATE_BYTES_FIELD("queue", 0, "bytes that wait to be read, the first one first"),
    NUMBER("status", 8, "bit 6 remote mode, 5 enabled, 4 scaling 2:1"),
    NUMBER("resolution", 8, ""),
    NUMBER("sample_rate", 8, ""),
    NUMBER("wrap", 1, ""),
    NUMBER("type", 8, "0 PS/2, 3 with a wheel, 4 with five buttons"),
    NUMBER("detect_state", 8, "sample rates seen of those that turn the wheel on"),
    NUMBER("dx", 32, "moves not told yet, two's complement"),
    NUMBER("dy", 32, ""),
    NUMBER("dz", 32, ""),
    NUMBER("buttons", 8, ""),
    {NULL},
};

static const StateGroup mouse_group = {"mouse", "A PS/2 mouse.", NULL, mouse_fields};

static const StateField i8042_fields[] = {
    NUMBER("status", 8, "port 64h"),
    NUMBER("command_byte", 8, ""),
    OPTIONAL("pending_command", 8, "a controller's command that waits for its parameter; 0: none"),
    NUMBER("pending_output", 8, "1 of the keyboard, 2 of the mouse: who has bytes that wait"),
    OPTIONAL("output_port", 8, "port P2; bit 0 not reset, bit 1 A20"),
    OPTIONAL("output_source", 32,
             "whose byte is in the buffer: 1 keyboard, 2 mouse, 4 controller; 0"),
    OPTIONAL("output_byte", 8, "that byte; 0"),
    OPTIONAL("controller_byte", 8, "the controller's own; 0"),
    STATE_GROUP_FIELD("keyboard", &keyboard_group, ""),
    STATE_OPTIONAL_GROUP("mouse", &mouse_group, "none"),
    {NULL},
};

const StateGroup state_8042_group = {"intel,8042", "Keyboard controller (Intel 8042; IBM PS/2).",
                                     "`io:60`", i8042_fields};

static const StateField port92_fields[] = {
    NUMBER("value", 8, "bit 1: A20"),
    {NULL},
};

const StateGroup state_port92_group = {"ibm,port92", "System control port A (IBM PS/2).", "`io:92`",
                                       port92_fields};

static const StateField speaker_fields[] = {
    NUMBER("data_on", 1, "port 61h, bit 1"),
    NUMBER("refresh", 8, "port 61h, bit 4 of it, as it was read last"),
    {NULL},
};

const StateGroup state_speaker_group = {"ibm,speaker", "Speaker and port 61h (IBM PC/AT).",
                                        "`io:61`", speaker_fields};

static const StateField vga_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    NUMBER("latch", 32, "planes 0 to 3, the first in the lowest byte"),
    NUMBER("sequencer_index", 8, ""),
    STATE_BYTES_FIELD("sequencer", 8, ""),
    NUMBER("graphics_index", 8, ""),
    STATE_BYTES_FIELD("graphics", 16, ""),
    NUMBER("attribute_index", 8, ""),
    STATE_BYTES_FIELD("attribute", 21, ""),
    NUMBER("attribute_flip_flop", 1, "port 3C0h takes data next"),
    NUMBER("crt_index", 8, ""),
    STATE_BYTES_FIELD("crt", 256, "25 are VGA's"),
    NUMBER("miscellaneous_output", 8, ""),
    NUMBER("feature_control", 8, ""),
    NUMBER("input_status_0", 8, ""),
    NUMBER("input_status_1", 8, ""),
    NUMBER("dac_state", 8, "port 3C7h"),
    NUMBER("dac_component", 8, "of a colour: 0 red, 1 green, 2 blue"),
    NUMBER("dac_read_index", 8, ""),
    NUMBER("dac_write_index", 8, ""),
    STATE_BYTES_FIELD("dac_cache", 3, "components written of a colour that is not complete"),
    STATE_BYTES_FIELD("palette", 768, "256 colours of red, green, blue"),
    NUMBER("bank", 32, "offset of the window at A0000h, in bytes"),
    NUMBER("vbe_index", 16, "port 1CEh"),
    STATE_NUMBERS("vbe", 16, 10, "the registers behind port 1CFh (Bochs's VBE_DISPI_INDEX_*)"),
    {NULL},
};

const StateGroup state_vga_group = {
    "bochs,vbe",
    "VGA (IBM VGA/XGA Technical Reference) with Bochs's VBE extension; its memory is "
    "guest memory.",
    "`pci:00:02.0`", vga_fields};

static const StateField offload_fields[] = {
    NUMBER("ipcss", 8, ""),   NUMBER("ipcso", 8, ""),       NUMBER("ipcse", 16, ""),
    NUMBER("tucss", 8, ""),   NUMBER("tucso", 8, ""),       NUMBER("tucse", 16, ""),
    NUMBER("paylen", 32, ""), NUMBER("hdrlen", 8, ""),      NUMBER("mss", 16, ""),
    NUMBER("ip", 1, "IPv4"),  NUMBER("tcp", 1, "else UDP"), {NULL},
};

static const StateGroup offload_group = {"offload", "A transmit context descriptor (3.3.6).", NULL,
                                         offload_fields};

static const StateField eeprom_access_fields[] = {
    NUMBER("clock_in", 32, "bits shifted in"),
    NUMBER("bits_in", 16, ""),
    NUMBER("bits_out", 16, ""),
    NUMBER("reading", 16, ""),
    NUMBER("last_control", 32, "EECD as written last"),
    {NULL},
};

static const StateGroup eeprom_access_group = {
    "eeprom_access", "An access to the EEPROM by EECD, bit by bit.", NULL, eeprom_access_fields};

static const StateField e1000_fields[] = {
    PCI_CONFIG,
    PCI_INTX,
    STATE_BYTES_FIELD("registers", 131072, "little-endian, each at its offset (13.3)"),
    STATE_NUMBERS("phy", 16, 32, "the PHY's registers"),
    STATE_NUMBERS("eeprom", 16, 64, ""),
    STATE_GROUP_FIELD("eeprom_access", &eeprom_access_group, ""),
    STATE_GROUP_FIELD("checksum_offload", &offload_group, "the last one of these"),
    STATE_GROUP_FIELD("segmentation_offload", &offload_group, "the last one of these"),
    NUMBER("segments_sent", 16, "of the packet that is being cut"),
    NUMBER("checksums_needed", 8, "bit 0 IP, bit 1 TCP or UDP"),
    STATE_BYTES_FIELD("transmit_data", 0, "of a packet whose end has not come"),
    STATE_OPTIONAL_BYTES("transmit_header", 256, "its header, put before each segment; zero"),
    OPTIONAL("interrupt_delayed", 1, "its level is held back (ITR); 0"),
    {NULL},
};

const StateGroup state_82540em_group = {
    "intel,82540em",
    "Network card (Intel PCI/PCI-X Family of Gigabit Ethernet Controllers SDM, 8254x, 317453).",
    "`pci:00:03.0`", e1000_fields};
