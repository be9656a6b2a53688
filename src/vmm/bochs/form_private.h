/* The parts of the translation (form.h). */
#pragma once

#include "vmm/bochs/fields.h"
#include "vmm/bochs/form.h"

#define BOCHS_HPET_TIMERS 3u
#define BOCHS_CONFIG_BYTES 256u /* a PCI configuration space */

/* The clock of Bochs, and times as its ticks. */
typedef struct {
    uint64_t now; /* ticks at the pause */
    uint64_t tsc; /* what is loaded: the TSC of all processors */
    uint32_t ips;
    guint cpus;
} BochsClock;

/* What the clock is to be set to for this state. */
gboolean bochs_clock_choose(const StateNode *state, uint32_t ips, BochsClock *ret, GError **error);

/* What it shows. */
gboolean bochs_clock_read(const BochsForm *shown, BochsClock *ret, GError **error);

/* Ticks of a time of the guest's clock, rounded down; 0 for what is below 0. */
uint64_t bochs_clock_ticks(const BochsClock *clock, int64_t ns);
int64_t bochs_clock_ns(const BochsClock *clock, uint64_t ticks);
/* Whole microseconds that have passed on it. */
uint64_t bochs_clock_usec(const BochsClock *clock);

/* Shifts all timers to it, and sets it. */
gboolean bochs_clock_write(const BochsClock *clock, const BochsForm *shown, BochsForm *wanted,
                           GError **error);

/* Among the timers in ticks that of a processor's APIC. */
guint bochs_clock_apic_timer(guint cpu);

/* Arms one of them, or the interval timer, to fire so many ticks, or microseconds, from now; 0: disarms it. */
void bochs_clock_arm(const BochsClock *clock, BochsForm *wanted, uint64_t timer, uint64_t ticks);
void bochs_clock_arm_virtual(const BochsClock *clock, BochsForm *wanted, guint timer,
                             uint64_t usec);
/* After all are armed: when the first of them fires. */
gboolean bochs_clock_finish(const BochsClock *clock, const BochsForm *shown, BochsForm *wanted,
                            GError **error);

/* The processor of that number. */
gboolean bochs_cpu_write(const StateNode *cpu, guint number, const BochsClock *clock,
                         const BochsForm *shown, BochsForm *wanted, GError **error);
gboolean bochs_cpu_read(const BochsForm *shown, guint number, const BochsClock *clock,
                        StateNode *cpu, GError **error);

/* Errors name the path from the processor on. */
gboolean bochs_fpu_write(const StateNode *fpu, BochsNode *cpu, GError **error);
gboolean bochs_fpu_read(const BochsNode *cpu, StateNode *fpu, GError **error);

/* A device of the neutral state that is registers. */
typedef struct {
    const char *type;
    gboolean (*write)(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                      GError **error);
    /* Into the device, which has what it was loaded with. */
    gboolean (*read)(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                     GError **error);
} BochsDevice;

/* The device of that type at that place, added where it is missing. */
StateNode *bochs_state_device(StateNode *state, const char *type, const char *at);

/* What the PM timer reads. */
uint64_t bochs_clock_pm_timer(const BochsClock *clock);

/* Of PCI cards; when all devices are there. */
void bochs_interrupts_write(const StateNode *state, BochsForm *wanted);
gboolean bochs_interrupts_read(const BochsForm *shown, StateNode *state, GError **error);

/* TRUE where the state of such a device is carried over. */
gboolean bochs_has_device(const char *type);

/* Each up to NULL. */
extern const BochsDevice bochs_port_devices[], bochs_pci_devices[];
extern const BochsDevice bochs_vga_device, bochs_e1000_device;

/* UNSUPPORTED with the mode that Bochs's display does not take. */
gboolean bochs_vga_check(const StateNode *device, const char *what, GError **error);

gboolean bochs_e1000_check(const StateNode *device, const char *what, GError **error);
/* BUSY while its interrupt is held back. */
gboolean bochs_e1000_check_moment(const StateNode *device, GError **error);

/* bochs_check_state() but for that: of a state that Bochs tells. */
gboolean bochs_check_told(const StateNode *state, GError **error);

gboolean bochs_chips_write(const StateNode *state, const BochsClock *clock, const BochsForm *shown,
                           BochsForm *wanted, GError **error);
gboolean bochs_chips_read(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                          GError **error);

gboolean bochs_pit_write(const StateNode *pit, const BochsClock *clock, BochsForm *wanted,
                         GError **error);
gboolean bochs_pit_read(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                        GError **error);
