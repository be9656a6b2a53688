/* Layouts of QEMU's sections: disks, display, network, keyboard, serial and parallel ports (qemu_layout.h). */
#include "state/qemu_layout_tables.h"

static const QemuField vga_fields[] = {
    {"latch", QEMU_UINT32},
    {"sr_index", QEMU_UINT8},
    {"sr", QEMU_BUFFER, 8},
    {"gr_index", QEMU_UINT8},
    {"gr", QEMU_BUFFER, 16},
    {"ar_index", QEMU_UINT8},
    {"ar", QEMU_BUFFER, 21},
    {"ar_flip_flop", QEMU_INT32},
    {"cr_index", QEMU_UINT8},
    {"cr", QEMU_BUFFER, 256},
    {"msr", QEMU_UINT8},
    {"fcr", QEMU_UINT8},
    {"st00", QEMU_UINT8},
    {"st01", QEMU_UINT8},
    {"dac_state", QEMU_UINT8},
    {"dac_sub_index", QEMU_UINT8},
    {"dac_read_index", QEMU_UINT8},
    {"dac_write_index", QEMU_UINT8},
    {"dac_cache", QEMU_BUFFER, 3},
    {"palette", QEMU_BUFFER, 768},
    {"bank_offset", QEMU_INT32},
    {"is_vbe_vmstate", QEMU_UINT8_EQUAL},
    {"vbe_index", QEMU_UINT16},
    {"vbe_regs", QEMU_UINT16, 10},
    {"vbe_start_addr", QEMU_UINT32},
    {"vbe_line_offset", QEMU_UINT32},
    {"vbe_bank_mask", QEMU_UINT32},
    {NULL},
};
static const QemuLayout vga = {"vga", 2, vga_fields, NULL};

static const QemuField vga_device_fields[] = {
    {"dev", QEMU_STRUCT, .layout = &qemu_pci_device_layout},
    {"vga", QEMU_STRUCT, .layout = &vga},
    {NULL},
};
static const QemuLayout vga_device = {"vga", 2, vga_device_fields, NULL};

static const QemuField serial_thr_ipending_fields[] = {
    {"thr_ipending", QEMU_INT32},
    {NULL},
};
static const QemuLayout serial_thr_ipending = {"serial/thr_ipending", 1, serial_thr_ipending_fields,
                                               NULL};

static const QemuField serial_tsr_fields[] = {
    {"tsr_retry", QEMU_UINT32},
    {"thr", QEMU_UINT8},
    {"tsr", QEMU_UINT8},
    {NULL},
};
static const QemuLayout serial_tsr = {"serial/tsr", 1, serial_tsr_fields, NULL};

static const QemuField fifo8_fields[] = {
    {"data", QEMU_BUFFER, 16},
    {"head", QEMU_UINT32},
    {"num", QEMU_UINT32},
    {NULL},
};
static const QemuLayout fifo8 = {"Fifo8", 1, fifo8_fields, NULL};

static const QemuField serial_recv_fifo_fields[] = {
    {"recv_fifo", QEMU_STRUCT, .layout = &fifo8},
    {NULL},
};
static const QemuLayout serial_recv_fifo = {"serial/recv_fifo", 1, serial_recv_fifo_fields, NULL};

static const QemuField serial_xmit_fifo_fields[] = {
    {"xmit_fifo", QEMU_STRUCT, .layout = &fifo8},
    {NULL},
};
static const QemuLayout serial_xmit_fifo = {"serial/xmit_fifo", 1, serial_xmit_fifo_fields, NULL};

static const QemuField serial_fifo_timeout_timer_fields[] = {
    {"fifo_timeout_timer", QEMU_TIMER},
    {NULL},
};
static const QemuLayout serial_fifo_timeout_timer = {"serial/fifo_timeout_timer", 1,
                                                     serial_fifo_timeout_timer_fields, NULL};

static const QemuField serial_timeout_ipending_fields[] = {
    {"timeout_ipending", QEMU_INT32},
    {NULL},
};
static const QemuLayout serial_timeout_ipending = {"serial/timeout_ipending", 1,
                                                   serial_timeout_ipending_fields, NULL};

static const QemuField serial_poll_fields[] = {
    {"poll_msl", QEMU_INT32},
    {"modem_status_poll", QEMU_TIMER},
    {NULL},
};
static const QemuLayout serial_poll = {"serial/poll", 1, serial_poll_fields, NULL};

static const QemuField serial_fields[] = {
    {"divider", QEMU_UINT16},
    {"rbr", QEMU_UINT8},
    {"ier", QEMU_UINT8},
    {"iir", QEMU_UINT8},
    {"lcr", QEMU_UINT8},
    {"mcr", QEMU_UINT8},
    {"lsr", QEMU_UINT8},
    {"msr", QEMU_UINT8},
    {"scr", QEMU_UINT8},
    {"fcr_vmstate", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const serial_subsections[] = {&serial_thr_ipending,
                                                       &serial_tsr,
                                                       &serial_recv_fifo,
                                                       &serial_xmit_fifo,
                                                       &serial_fifo_timeout_timer,
                                                       &serial_timeout_ipending,
                                                       &serial_poll,
                                                       NULL};
static const QemuLayout serial = {"serial", 3, serial_fields, serial_subsections};

static const QemuField serial_device_fields[] = {
    {"state", QEMU_STRUCT, .layout = &serial},
    {NULL},
};
static const QemuLayout serial_device = {"serial", 3, serial_device_fields, NULL};

static const QemuField parallel_isa_fields[] = {
    {"state.dataw", QEMU_UINT8},
    {"state.datar", QEMU_UINT8},
    {"state.status", QEMU_UINT8},
    {"state.control", QEMU_UINT8},
    {"state.irq_pending", QEMU_INT32},
    {"state.epp_timeout", QEMU_INT32},
    {NULL},
};
static const QemuLayout parallel_isa = {"parallel_isa", 1, parallel_isa_fields, NULL};

static const QemuField fdrive_media_rate_fields[] = {
    {"media_rate", QEMU_UINT8},
    {NULL},
};
static const QemuLayout fdrive_media_rate = {"fdrive/media_rate", 1, fdrive_media_rate_fields,
                                             NULL};

static const QemuField fdrive_media_changed_fields[] = {
    {"media_changed", QEMU_UINT8},
    {NULL},
};
static const QemuLayout fdrive_media_changed = {"fdrive/media_changed", 1,
                                                fdrive_media_changed_fields, NULL};

static const QemuField fdrive_perpendicular_fields[] = {
    {"perpendicular", QEMU_UINT8},
    {NULL},
};
static const QemuLayout fdrive_perpendicular = {"fdrive/perpendicular", 1,
                                                fdrive_perpendicular_fields, NULL};

static const QemuField fdrive_fields[] = {
    {"head", QEMU_UINT8},
    {"track", QEMU_UINT8},
    {"sect", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const fdrive_subsections[] = {&fdrive_media_rate, &fdrive_media_changed,
                                                       &fdrive_perpendicular, NULL};
static const QemuLayout fdrive = {"fdrive", 1, fdrive_fields, fdrive_subsections};

static const QemuField fdc_reset_sensei_fields[] = {
    {"reset_sensei", QEMU_INT32},
    {NULL},
};
static const QemuLayout fdc_reset_sensei = {"fdc/reset_sensei", 1, fdc_reset_sensei_fields, NULL};

static const QemuField fdc_result_timer_fields[] = {
    {"result_timer", QEMU_TIMER},
    {NULL},
};
static const QemuLayout fdc_result_timer = {"fdc/result_timer", 1, fdc_result_timer_fields, NULL};

static const QemuField fdc_phase_fields[] = {
    {"phase", QEMU_UINT8},
    {NULL},
};
static const QemuLayout fdc_phase = {"fdc/phase", 1, fdc_phase_fields, NULL};

static const QemuField fdc_fields[] = {
    {"sra", QEMU_UINT8},
    {"srb", QEMU_UINT8},
    {"dor_vmstate", QEMU_UINT8},
    {"tdr", QEMU_UINT8},
    {"dsr", QEMU_UINT8},
    {"msr", QEMU_UINT8},
    {"status0", QEMU_UINT8},
    {"status1", QEMU_UINT8},
    {"status2", QEMU_UINT8},
    {"fifo", QEMU_UINT8, 512},
    {"data_pos", QEMU_UINT32},
    {"data_len", QEMU_UINT32},
    {"data_state", QEMU_UINT8},
    {"data_dir", QEMU_UINT8},
    {"eot", QEMU_UINT8},
    {"timer0", QEMU_UINT8},
    {"timer1", QEMU_UINT8},
    {"precomp_trk", QEMU_UINT8},
    {"config", QEMU_UINT8},
    {"lock", QEMU_UINT8},
    {"pwrd", QEMU_UINT8},
    {"num_floppies", QEMU_UINT8_EQUAL},
    {"drives", QEMU_STRUCT, 2, .layout = &fdrive},
    {NULL},
};
static const QemuLayout *const fdc_subsections[] = {&fdc_reset_sensei, &fdc_result_timer,
                                                    &fdc_phase, NULL};
static const QemuLayout fdc = {"fdc", 2, fdc_fields, fdc_subsections};

static const QemuField fdc_device_fields[] = {
    {"state", QEMU_STRUCT, .layout = &fdc},
    {NULL},
};
static const QemuLayout fdc_device = {"fdc", 2, fdc_device_fields, NULL};

static const QemuField ps2_common_state_fields[] = {
    {"write_cmd", QEMU_INT32},   {"queue.rptr", QEMU_INT32},       {"queue.wptr", QEMU_INT32},
    {"queue.count", QEMU_INT32}, {"queue.data", QEMU_BUFFER, 256}, {NULL},
};
static const QemuLayout ps2_common_state = {"PS2 Common State", 3, ps2_common_state_fields, NULL};

static const QemuField ps2kbd_ledstate_fields[] = {
    {"ledstate", QEMU_INT32},
    {NULL},
};
static const QemuLayout ps2kbd_ledstate = {"ps2kbd/ledstate", 3, ps2kbd_ledstate_fields, NULL};

static const QemuField ps2kbd_need_high_bit_fields[] = {
    {"need_high_bit", QEMU_BOOL},
    {NULL},
};
static const QemuLayout ps2kbd_need_high_bit = {"ps2kbd/need_high_bit", 1,
                                                ps2kbd_need_high_bit_fields, NULL};

static const QemuField ps2kbd_command_reply_queue_fields[] = {
    {"parent_obj.queue.cwptr", QEMU_INT32},
    {NULL},
};
static const QemuLayout ps2kbd_command_reply_queue = {"ps2kbd/command_reply_queue", 0,
                                                      ps2kbd_command_reply_queue_fields, NULL};

static const QemuField ps2kbd_fields[] = {
    {"parent_obj", QEMU_STRUCT, .layout = &ps2_common_state},
    {"scan_enabled", QEMU_INT32},
    {"translate", QEMU_INT32},
    {"scancode_set", QEMU_INT32},
    {NULL},
};
static const QemuLayout *const ps2kbd_subsections[] = {&ps2kbd_ledstate, &ps2kbd_need_high_bit,
                                                       &ps2kbd_command_reply_queue, NULL};
static const QemuLayout ps2kbd = {"ps2kbd", 3, ps2kbd_fields, ps2kbd_subsections};

static const QemuField ps2mouse_fields[] = {
    {"parent_obj", QEMU_STRUCT, .layout = &ps2_common_state},
    {"mouse_status", QEMU_UINT8},
    {"mouse_resolution", QEMU_UINT8},
    {"mouse_sample_rate", QEMU_UINT8},
    {"mouse_wrap", QEMU_UINT8},
    {"mouse_type", QEMU_UINT8},
    {"mouse_detect_state", QEMU_UINT8},
    {"mouse_dx", QEMU_INT32},
    {"mouse_dy", QEMU_INT32},
    {"mouse_dz", QEMU_INT32},
    {"mouse_buttons", QEMU_UINT8},
    {NULL},
};
static const QemuLayout ps2mouse = {"ps2mouse", 2, ps2mouse_fields, NULL};

static const QemuField pckbd_extended_state_fields[] = {
    {"migration_flags", QEMU_UINT32},
    {"obsrc", QEMU_UINT32},
    {"obdata", QEMU_UINT8},
    {"cbdata", QEMU_UINT8},
    {NULL},
};
static const QemuLayout pckbd_extended_state = {"pckbd/extended_state", 0,
                                                pckbd_extended_state_fields, NULL};

static const QemuField pckbd_outport_fields[] = {
    {"outport", QEMU_UINT8},
    {NULL},
};
static const QemuLayout pckbd_outport = {"pckbd_outport", 1, pckbd_outport_fields, NULL};

static const QemuField pckbd_fields[] = {
    {"write_cmd", QEMU_UINT8},
    {"status", QEMU_UINT8},
    {"mode", QEMU_UINT8},
    {"pending_tmp", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const pckbd_subsections[] = {&pckbd_extended_state, &pckbd_outport, NULL};
static const QemuLayout pckbd = {"pckbd", 3, pckbd_fields, pckbd_subsections};

static const QemuField pckbd_device_fields[] = {
    {"kbd", QEMU_STRUCT, .layout = &pckbd},
    {NULL},
};
static const QemuLayout pckbd_device = {"pckbd", 3, pckbd_device_fields, NULL};

static const QemuField vmmouse_fields[] = {
    {"queue_size", QEMU_INT32_EQUAL}, {"queue", QEMU_UINT32, 1024}, {"nb_queue", QEMU_UINT16},
    {"status", QEMU_UINT16},          {"absolute", QEMU_UINT8},     {NULL},
};
static const QemuLayout vmmouse = {"vmmouse", 0, vmmouse_fields, NULL};

static const QemuField e1000_mit_state_fields[] = {
    {"mac_reg[RDTR]", QEMU_UINT32}, {"mac_reg[RADV]", QEMU_UINT32}, {"mac_reg[TADV]", QEMU_UINT32},
    {"mac_reg[ITR]", QEMU_UINT32},  {"mit_irq_level", QEMU_BOOL},   {NULL},
};
static const QemuLayout e1000_mit_state = {"e1000/mit_state", 1, e1000_mit_state_fields, NULL};

static const QemuField e1000_full_mac_state_fields[] = {
    {"mac_reg", QEMU_UINT32, 32768},
    {NULL},
};
static const QemuLayout e1000_full_mac_state = {"e1000/full_mac_state", 1,
                                                e1000_full_mac_state_fields, NULL};

static const QemuField e1000_tx_tso_state_fields[] = {
    {"tx.tso_props.ipcss", QEMU_UINT8},   {"tx.tso_props.ipcso", QEMU_UINT8},
    {"tx.tso_props.ipcse", QEMU_UINT16},  {"tx.tso_props.tucss", QEMU_UINT8},
    {"tx.tso_props.tucso", QEMU_UINT8},   {"tx.tso_props.tucse", QEMU_UINT16},
    {"tx.tso_props.paylen", QEMU_UINT32}, {"tx.tso_props.hdr_len", QEMU_UINT8},
    {"tx.tso_props.mss", QEMU_UINT16},    {"tx.tso_props.ip", QEMU_INT8},
    {"tx.tso_props.tcp", QEMU_INT8},      {NULL},
};
static const QemuLayout e1000_tx_tso_state = {"e1000/tx_tso_state", 1, e1000_tx_tso_state_fields,
                                              NULL};

static const QemuField e1000_fields[] = {
    {"parent_obj", QEMU_STRUCT, .layout = &qemu_pci_device_layout},
    {"unused[1]", QEMU_UNUSED, 4},
    {"rxbuf_size", QEMU_UINT32},
    {"rxbuf_min_shift", QEMU_UINT32},
    {"eecd_state.val_in", QEMU_UINT32},
    {"eecd_state.bitnum_in", QEMU_UINT16},
    {"eecd_state.bitnum_out", QEMU_UINT16},
    {"eecd_state.reading", QEMU_UINT16},
    {"eecd_state.old_eecd", QEMU_UINT32},
    {"mig_props.ipcss", QEMU_UINT8},
    {"mig_props.ipcso", QEMU_UINT8},
    {"mig_props.ipcse", QEMU_UINT16},
    {"mig_props.tucss", QEMU_UINT8},
    {"mig_props.tucso", QEMU_UINT8},
    {"mig_props.tucse", QEMU_UINT16},
    {"mig_props.paylen", QEMU_UINT32},
    {"mig_props.hdr_len", QEMU_UINT8},
    {"mig_props.mss", QEMU_UINT16},
    {"tx.size", QEMU_UINT16},
    {"tx.tso_frames", QEMU_UINT16},
    {"tx.sum_needed", QEMU_UINT8},
    {"mig_props.ip", QEMU_INT8},
    {"mig_props.tcp", QEMU_INT8},
    {"tx.header", QEMU_BUFFER, 256},
    {"tx.data", QEMU_BUFFER, 65536},
    {"eeprom_data", QEMU_UINT16, 64},
    {"phy_reg", QEMU_UINT16, 32},
    {"mac_reg[CTRL]", QEMU_UINT32},
    {"mac_reg[EECD]", QEMU_UINT32},
    {"mac_reg[EERD]", QEMU_UINT32},
    {"mac_reg[GPRC]", QEMU_UINT32},
    {"mac_reg[GPTC]", QEMU_UINT32},
    {"mac_reg[ICR]", QEMU_UINT32},
    {"mac_reg[ICS]", QEMU_UINT32},
    {"mac_reg[IMC]", QEMU_UINT32},
    {"mac_reg[IMS]", QEMU_UINT32},
    {"mac_reg[LEDCTL]", QEMU_UINT32},
    {"mac_reg[MANC]", QEMU_UINT32},
    {"mac_reg[MDIC]", QEMU_UINT32},
    {"mac_reg[MPC]", QEMU_UINT32},
    {"mac_reg[PBA]", QEMU_UINT32},
    {"mac_reg[RCTL]", QEMU_UINT32},
    {"mac_reg[RDBAH]", QEMU_UINT32},
    {"mac_reg[RDBAL]", QEMU_UINT32},
    {"mac_reg[RDH]", QEMU_UINT32},
    {"mac_reg[RDLEN]", QEMU_UINT32},
    {"mac_reg[RDT]", QEMU_UINT32},
    {"mac_reg[STATUS]", QEMU_UINT32},
    {"mac_reg[SWSM]", QEMU_UINT32},
    {"mac_reg[TCTL]", QEMU_UINT32},
    {"mac_reg[TDBAH]", QEMU_UINT32},
    {"mac_reg[TDBAL]", QEMU_UINT32},
    {"mac_reg[TDH]", QEMU_UINT32},
    {"mac_reg[TDLEN]", QEMU_UINT32},
    {"mac_reg[TDT]", QEMU_UINT32},
    {"mac_reg[TORH]", QEMU_UINT32},
    {"mac_reg[TORL]", QEMU_UINT32},
    {"mac_reg[TOTH]", QEMU_UINT32},
    {"mac_reg[TOTL]", QEMU_UINT32},
    {"mac_reg[TPR]", QEMU_UINT32},
    {"mac_reg[TPT]", QEMU_UINT32},
    {"mac_reg[TXDCTL]", QEMU_UINT32},
    {"mac_reg[WUFC]", QEMU_UINT32},
    {"mac_reg[VET]", QEMU_UINT32},
    {"mac_reg[0]", QEMU_UINT32, 32},
    {"mac_reg[1]", QEMU_UINT32, 128},
    {"mac_reg[2]", QEMU_UINT32, 128},
    {NULL},
};
static const QemuLayout *const e1000_subsections[] = {&e1000_mit_state, &e1000_full_mac_state,
                                                      &e1000_tx_tso_state, NULL};
static const QemuLayout e1000 = {"e1000", 2, e1000_fields, e1000_subsections};

static const QemuField ide_bmdma_current_fields[] = {
    {"cur_addr", QEMU_UINT32},
    {"cur_prd_last", QEMU_UINT32},
    {"cur_prd_addr", QEMU_UINT32},
    {"cur_prd_len", QEMU_UINT32},
    {NULL},
};
static const QemuLayout ide_bmdma_current = {"ide bmdma_current", 1, ide_bmdma_current_fields,
                                             NULL};

static const QemuField ide_bmdma_status_fields[] = {
    {"status", QEMU_UINT8},
    {NULL},
};
static const QemuLayout ide_bmdma_status = {"ide bmdma/status", 1, ide_bmdma_status_fields, NULL};

static const QemuField ide_bmdma_fields[] = {
    {"cmd", QEMU_UINT8},
    {"migration_compat_status", QEMU_UINT8},
    {"addr", QEMU_UINT32},
    {"migration_retry_sector_num", QEMU_INT64},
    {"migration_retry_nsector", QEMU_UINT32},
    {"migration_retry_unit", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const ide_bmdma_subsections[] = {&ide_bmdma_current, &ide_bmdma_status,
                                                          NULL};
static const QemuLayout ide_bmdma = {"ide bmdma", 3, ide_bmdma_fields, ide_bmdma_subsections};

static const QemuField ide_bus_error_fields[] = {
    {"error_status", QEMU_INT32},
    {"retry_sector_num", QEMU_INT64},
    {"retry_nsector", QEMU_UINT32},
    {"retry_unit", QEMU_UINT8},
    {NULL},
};
static const QemuLayout ide_bus_error = {"ide_bus/error", 2, ide_bus_error_fields, NULL};

static const QemuField ide_bus_fields[] = {
    {"cmd", QEMU_UINT8},
    {"unit", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const ide_bus_subsections[] = {&ide_bus_error, NULL};
static const QemuLayout ide_bus = {"ide_bus", 1, ide_bus_fields, ide_bus_subsections};

static const QemuField ide_drive_pio_state_fields[] = {
    {"req_nb_sectors", QEMU_INT32},       {"io_buffer", QEMU_UINT8, 131076},
    {"cur_io_buffer_offset", QEMU_INT32}, {"cur_io_buffer_len", QEMU_INT32},
    {"end_transfer_fn_idx", QEMU_UINT8},  {"elementary_transfer_size", QEMU_INT32},
    {"packet_transfer_size", QEMU_INT32}, {NULL},
};
static const QemuLayout ide_drive_pio_state = {"ide_drive/pio_state", 1, ide_drive_pio_state_fields,
                                               NULL};

static const QemuField ide_drive_tray_state_fields[] = {
    {"tray_open", QEMU_BOOL},
    {"tray_locked", QEMU_BOOL},
    {NULL},
};
static const QemuLayout ide_drive_tray_state = {"ide_drive/tray_state", 1,
                                                ide_drive_tray_state_fields, NULL};

static const QemuField ide_drive_atapi_gesn_state_fields[] = {
    {"events.new_media", QEMU_BOOL},
    {"events.eject_request", QEMU_BOOL},
    {NULL},
};
static const QemuLayout ide_drive_atapi_gesn_state = {"ide_drive/atapi/gesn_state", 1,
                                                      ide_drive_atapi_gesn_state_fields, NULL};

static const QemuField ide_drive_fields[] = {
    {"mult_sectors", QEMU_INT32},
    {"identify_set", QEMU_INT32},
    {"identify_data", QEMU_BUFFER, 512, .when = "identify_set", .when_mask = 0xffffffff},
    {"feature", QEMU_UINT8},
    {"error", QEMU_UINT8},
    {"nsector", QEMU_UINT32},
    {"sector", QEMU_UINT8},
    {"lcyl", QEMU_UINT8},
    {"hcyl", QEMU_UINT8},
    {"hob_feature", QEMU_UINT8},
    {"hob_sector", QEMU_UINT8},
    {"hob_nsector", QEMU_UINT8},
    {"hob_lcyl", QEMU_UINT8},
    {"hob_hcyl", QEMU_UINT8},
    {"select", QEMU_UINT8},
    {"status", QEMU_UINT8},
    {"lba48", QEMU_UINT8},
    {"sense_key", QEMU_UINT8},
    {"asc", QEMU_UINT8},
    {"cdrom_changed", QEMU_UINT8},
    {NULL},
};
static const QemuLayout *const ide_drive_subsections[] = {
    &ide_drive_pio_state, &ide_drive_tray_state, &ide_drive_atapi_gesn_state, NULL};
static const QemuLayout ide_drive = {"ide_drive", 3, ide_drive_fields, ide_drive_subsections};

static const QemuField ide_fields[] = {
    {"parent_obj", QEMU_STRUCT, .layout = &qemu_pci_device_layout},
    {"bmdma", QEMU_STRUCT, 2, .layout = &ide_bmdma},
    {"bus", QEMU_STRUCT, 2, .layout = &ide_bus},
    {"bus[0].ifs", QEMU_STRUCT, 2, .layout = &ide_drive},
    {"bus[1].ifs", QEMU_STRUCT, 2, .layout = &ide_drive},
    {NULL},
};
static const QemuLayout ide = {"ide", 3, ide_fields, NULL};

const QemuLayoutEntry qemu_layouts_devices[] = {{"vga", {&vga_device}},
                                                {"serial", {&serial_device}},
                                                {"parallel_isa", {&parallel_isa}},
                                                {"fdc", {&fdc_device}},
                                                {"ps2kbd", {&ps2kbd}},
                                                {"ps2mouse", {&ps2mouse}},
                                                {"pckbd", {&pckbd_device}},
                                                {"vmmouse", {&vmmouse}},
                                                {"e1000", {&e1000}},
                                                {"ide", {&ide}},
                                                {NULL}};
