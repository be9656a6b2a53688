/*
 * What a Bochs cannot go on with
 *
 * First what it never can, then what passes: whoever meets the latter lets the machine run for a moment, and
 * tries again.  Both directions are checked here, so that they agree.
 */
#include "vmm/bochs/bochs.h"

#include <string.h>

#include "base/error.h"
#include "vmm/bochs/form_private.h"

/* A number of which other bits than these are set is refused. */
typedef struct {
    const char *path;
    uint64_t allowed;
    const char *why;
} Limit;

#define EFER_SVME 0x1000u
/* VMX, SMX, 57-bit addresses, protection keys, control-flow enforcement. */
#define CR4_UNKNOWN 0x1c07000u

static const Limit cpu_limits[] = {
    {"smm", 0, "system management mode"},
    {"xcr0", 7, "more than x87, SSE and AVX"},
    {"ia32_xss", 0, "supervisor state components"},
    {"pkru", 0, "protection keys"},
    {"activity", 3, "not an activity"},
    {"ia32_efer", ~(uint64_t)EFER_SVME, "AMD's virtualization is in use"},
    {"cr4", ~(uint64_t)CR4_UNKNOWN, "what is in use by it (VMX, keys, CET) is not carried over"},
    {"ia32_tsc", G_MAXINT64, "Bochs's clock takes 63 bits"},
    {NULL, 0, NULL},
};

static const Limit cpu_moments[] = {
    {"injected_nmi", 0, "an NMI is being delivered"},
    {NULL, 0, NULL},
};

static const Limit pic_limits[] = {
    {"special_fully_nested", 0, "a mode that Bochs has not"},
    {"single", 0, "a mode that Bochs has not"},
    {NULL, 0, NULL},
};

static const Limit pit_limits[] = {
    {"channels[0].bcd", 0, "BCD is not carried over to Bochs"},
    {"channels[1].bcd", 0, "BCD is not carried over to Bochs"},
    {"channels[2].bcd", 0, "BCD is not carried over to Bochs"},
    {NULL, 0, NULL},
};

static const Limit keyboard_moments[] = {
    {"status", ~(uint64_t)1, "a byte waits to be read"},
    {"pending_command", 0, "a command waits for its parameter"},
    {NULL, 0, NULL},
};

static gboolean fail(GError **error, VmferryErrorCode code, const char *what, const char *path,
                     const char *why)
{
    error_set(error, code, "%s.%s: %s", what, path, why);
    return FALSE;
}

static gboolean check_limits(const StateNode *group, const char *what, const Limit *limits,
                             VmferryErrorCode code, GError **error)
{
    for (; limits->path; limits++)
        if (state_number_or(group, limits->path, 0) & ~limits->allowed)
            return fail(error, code, what, limits->path, limits->why);
    return TRUE;
}

/* ---- processor ---- */

/* Of AVX-512 there is nothing in the parameters that are set (state_fpu.c). */
static gboolean check_vectors(const StateNode *fpu, const char *what, GError **error)
{
    static const char *const lists[] = {"k", "zmm_high", "zmm_upper"};

    if (!(state_number_or(fpu, "xstate_bv", 0) & 0xe0))
        return TRUE;
    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        if (state_find(fpu, lists[i]))
            return fail(error, VMFERRY_ERROR_UNSUPPORTED, what, lists[i], "AVX-512 is in use");
    return TRUE;
}

/* Bochs numbers their APICs from 0 on. */
static gboolean check_cpu(const StateNode *cpu, guint number, const char *what, GError **error)
{
    g_autofree char *fpu = g_strconcat(what, ".fpu", NULL);

    if (!state_find(cpu, "local_apic"))
        return fail(error, VMFERRY_ERROR_UNSUPPORTED, what, "local_apic", "Bochs has one always");
    if (state_number_or(cpu, "local_apic.id", number) != number)
        return fail(error, VMFERRY_ERROR_UNSUPPORTED, what, "local_apic.id",
                    "Bochs's are numbered one after the other");
    return check_limits(cpu, what, cpu_limits, VMFERRY_ERROR_UNSUPPORTED, error) &&
           check_vectors(state_find(cpu, "fpu"), fpu, error);
}

/* What is on its way to a processor while another one runs, too. */
static gboolean check_cpu_moment(const StateNode *cpu, guint number, const char *what,
                                 GError **error)
{
    static const struct {
        const char *path, *why;
    } delivered[] = {
        {"injected_interrupt", "an interrupt is being delivered"},
        {"injected_exception", "an interrupt is being delivered"},
        {"pending_sipi", "a start-up IPI is being delivered"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(delivered); i++)
        if (state_find(cpu, delivered[i].path))
            return fail(error, VMFERRY_ERROR_BUSY, what, delivered[i].path, delivered[i].why);
    return check_limits(cpu, what, cpu_moments, VMFERRY_ERROR_BUSY, error);
}

typedef gboolean (*CheckCpu)(const StateNode *cpu, guint number, const char *what, GError **error);

static gboolean check_cpus(const StateNode *state, CheckCpu check, GError **error)
{
    const StateNode *cpus = state_find(state, "cpus");
    guint count = cpus ? state_length(cpus) : 0;

    if (count == 0 || count > BOCHS_MAX_VCPUS) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cpus: the state of 1 to %u processors is carried over to Bochs, not of %u",
                  BOCHS_MAX_VCPUS, count);
        return FALSE;
    }
    for (guint i = 0; i < count; i++) {
        g_autofree char *what = g_strdup_printf("cpus[%u]", i);

        if (!check(state_child(cpus, i), i, what, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- devices ---- */

static gboolean check_pic(const StateNode *device, const char *what, GError **error)
{
    return check_limits(device, what, pic_limits, VMFERRY_ERROR_UNSUPPORTED, error);
}

/* A square wave or a rate of one clock does not fit into what Bochs counts. */
static gboolean check_pit(const StateNode *device, const char *what, GError **error)
{
    const StateNode *channels = state_find(device, "channels");

    for (guint i = 0; channels && i < state_length(channels); i++) {
        const StateNode *channel = state_child(channels, i);
        uint64_t mode = state_number_or(channel, "mode", 0);

        if (state_number_or(channel, "count", 0) == 1 && (mode == 2 || mode == 3))
            return fail(error, VMFERRY_ERROR_UNSUPPORTED, what, "channels",
                        "a count of 1 is not carried over to Bochs");
    }
    return check_limits(device, what, pit_limits, VMFERRY_ERROR_UNSUPPORTED, error);
}

static gboolean check_pit_moment(const StateNode *device, const char *what, GError **error)
{
    const StateNode *channels = state_find(device, "channels");

    for (guint i = 0; channels && i < state_length(channels); i++) {
        const StateNode *channel = state_child(channels, i);

        if (state_number_or(channel, "write_state", 0) == 4 ||
            state_number_or(channel, "count_latched", 0) == 4)
            return fail(error, VMFERRY_ERROR_BUSY, what, "channels",
                        "a count is half written, or half read");
    }
    return TRUE;
}

static gboolean check_hpet(const StateNode *device, const char *what, GError **error)
{
    const StateNode *timers = state_find(device, "timers");

    return (timers && state_length(timers) == BOCHS_HPET_TIMERS) ||
           fail(error, VMFERRY_ERROR_UNSUPPORTED, what, "timers", "Bochs has 3");
}

/* The channel of the second controller that is the cascade to the first one is always open. */
static gboolean check_dma_moment(const StateNode *device, const char *what, GError **error)
{
    gboolean second = g_strcmp0(state_get_text(device, "at"), "io:c0") == 0;

    return (state_number_or(device, "mask", 0) & 15) >= (second ? 14u : 15u) ||
           fail(error, VMFERRY_ERROR_BUSY, what, "mask", "a channel is open");
}

static gboolean has_bytes(const StateNode *device, const char *path)
{
    size_t length = 0;

    return state_get_bytes(device, path, &length) && length > 0;
}

static gboolean check_keyboard_moment(const StateNode *device, const char *what, GError **error)
{
    static const char *const queues[] = {"keyboard.queue", "mouse.queue"};
    static const char *const commands[] = {"keyboard.pending_command", "mouse.pending_command"};

    for (guint i = 0; i < G_N_ELEMENTS(queues); i++)
        if (has_bytes(device, queues[i]))
            return fail(error, VMFERRY_ERROR_BUSY, what, queues[i], "bytes wait to be read");
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++)
        if (state_find(device, commands[i]))
            return fail(error, VMFERRY_ERROR_BUSY, what, commands[i],
                        "a command waits for its parameter");
    return check_limits(device, what, keyboard_moments, VMFERRY_ERROR_BUSY, error);
}

static gboolean check_serial(const StateNode *device, const char *what, GError **error)
{
    return g_strcmp0(state_get_text(device, "at"), "io:3f8") == 0 ||
           fail(error, VMFERRY_ERROR_UNSUPPORTED, what, "at", "this Bochs has one at io:3f8 only");
}

#define LSR_DATA_READY 0x01u
#define LSR_EMPTY 0x40u

static gboolean check_serial_moment(const StateNode *device, const char *what, GError **error)
{
    uint64_t status = state_number_or(device, "lsr", 0);

    if (!(status & LSR_EMPTY) || has_bytes(device, "transmit_fifo"))
        return fail(error, VMFERRY_ERROR_BUSY, what, "lsr", "bytes wait to be sent");
    if (status & LSR_DATA_READY || has_bytes(device, "receive_fifo"))
        return fail(error, VMFERRY_ERROR_BUSY, what, "lsr", "bytes wait to be read");
    return TRUE;
}

#define STATUS_BUSY_OR_DRQ 0x88u
#define BUS_MASTER_ACTIVE 1u

/* A bus master that is still told to run, but has done all, is idle. */
static gboolean check_channel_moment(const StateNode *channel, const char *what, GError **error)
{
    const StateNode *drives = state_find(channel, "drives");

    if (state_number_or(channel, "bus_master_status", 0) & BUS_MASTER_ACTIVE)
        return fail(error, VMFERRY_ERROR_BUSY, what, "channels", "a transfer is under way");
    for (guint i = 0; drives && i < state_length(drives); i++) {
        const StateNode *drive = state_child(drives, i);

        if (state_number_or(drive, "status", 0) & STATUS_BUSY_OR_DRQ || state_find(drive, "pio"))
            return fail(error, VMFERRY_ERROR_BUSY, what, "channels", "a command is under way");
    }
    return TRUE;
}

static gboolean check_ide_moment(const StateNode *device, const char *what, GError **error)
{
    const StateNode *channels = state_find(device, "channels");

    for (guint i = 0; channels && i < state_length(channels); i++)
        if (!check_channel_moment(state_child(channels, i), what, error))
            return FALSE;
    return TRUE;
}

/* ---- all ---- */

typedef gboolean (*Check)(const StateNode *device, const char *what, GError **error);

static const struct {
    const char *type;
    Check never, moment; /* NULL: nothing to check */
} checks[] = {
    {"intel,8259a", check_pic, NULL},
    {"intel,8254", check_pit, check_pit_moment},
    {"intel,hpet", check_hpet, NULL},
    {"intel,8237a", NULL, check_dma_moment},
    {"intel,8042", NULL, check_keyboard_moment},
    {"ns,16550a", check_serial, check_serial_moment},
    {"intel,piix3-ide", NULL, check_ide_moment},
    {"bochs,vbe", bochs_vga_check, NULL},
    {"intel,82540em", bochs_e1000_check, NULL},
};

static gboolean check_device(const StateNode *device, gboolean moment, GError **error)
{
    const char *type = state_get_text(device, "type");
    g_autofree char *what = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(checks); i++) {
        Check check = moment ? checks[i].moment : checks[i].never;

        if (strcmp(checks[i].type, type) != 0 || !check)
            continue;
        what = g_strdup_printf("%s at %s", type, state_get_text(device, "at"));
        return check(device, what, error);
    }
    return TRUE;
}

static gboolean check_devices(const StateNode *state, gboolean moment, GError **error)
{
    const StateNode *devices = state_find(state, "devices");

    for (guint i = 0; devices && i < state_length(devices); i++) {
        const StateNode *device = state_child(devices, i);

        if (!moment && !bochs_has_device(state_get_text(device, "type"))) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "device %s at %s: the state of that is not carried over to Bochs",
                      state_get_text(device, "type"), state_get_text(device, "at"));
            return FALSE;
        }
        if (!check_device(device, moment, error))
            return FALSE;
    }
    return TRUE;
}

/* What each Bochs has. */
static gboolean check_fixed(const StateNode *state, GError **error)
{
    static const struct {
        const char *type, *at;
    } fixed[] = {{"intel,8259a", "io:20"},
                 {"intel,8259a", "io:a0"},
                 {"intel,8254", NULL},
                 {"intel,82093aa", NULL}};

    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        if (!state_find_device(state, fixed[i].type, fixed[i].at)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the machine has no %s%s%s", fixed[i].type,
                      fixed[i].at ? " at " : "", fixed[i].at ? fixed[i].at : "");
            return FALSE;
        }
    return TRUE;
}

static gboolean check_machine(const StateNode *state, GError **error)
{
    if (state_number_or(state, "machine.a20", 0))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "machine.a20: masking address line 20 is not carried over to Bochs");
    return FALSE;
}

gboolean bochs_check_told(const StateNode *state, GError **error)
{
    return state_check(state, error) && check_cpus(state, check_cpu, error) &&
           check_machine(state, error) && check_fixed(state, error) &&
           check_devices(state, FALSE, error) && check_cpus(state, check_cpu_moment, error) &&
           check_devices(state, TRUE, error);
}

gboolean bochs_check_state(const StateNode *state, GError **error)
{
    const StateNode *card = state_find_device(state, "intel,82540em", NULL);

    return bochs_check_told(state, error) && (!card || bochs_e1000_check_moment(card, error));
}
