/* What is said of the machine in its state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "state/state_machine.h"

#define MIB (1u << 20)

static void add_disk(MachineDescription *machine, const char *at, uint64_t bytes, gboolean cdrom)
{
    MachineDisk *disk = g_new0(MachineDisk, 1);

    disk->at = g_strdup(at);
    disk->bytes = bytes;
    disk->cdrom = cdrom;
    machine_description_add_disk(machine, disk);
}

static MachineDescription *make_machine(void)
{
    MachineDescription *machine = machine_description_new();
    const MachineMemory parts[] = {{0, 96 * MIB}, {(uint64_t)4 << 30, 32 * MIB}};

    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = 128 * MIB;
    machine->video_bytes = 16 * MIB;
    g_array_append_vals(machine->memory, parts, G_N_ELEMENTS(parts));
    add_disk(machine, "pci:00:01.1/1/0", 0, TRUE);
    add_disk(machine, "pci:00:01.1/0/0", 4 * MIB, FALSE);
    return machine;
}

/* *command*: 2 where the card answers. */
static StateNode *make_state(uint8_t command)
{
    uint8_t config[256] = {0x34, 0x12, 0x11, 0x11, command};
    StateNode *state = state_new();
    StateNode *card = state_add_device(state, "bochs,vbe", "pci:00:02.0");

    state_set_text(state, "machine.architecture", "x86-64");
    config[0x10] = 8;
    config[0x13] = 0xfd;
    state_set_bytes(card, "config", config, sizeof config);
    return state;
}

static void expect_number(const StateNode *state, const char *path, uint64_t wanted)
{
    uint64_t value = 0;

    assert_true(state_get_number(state, path, &value));
    assert_int_equal(value, wanted);
}

static void expect_noted(const StateNode *state)
{
    assert_int_equal(state_length(state_find(state, "memory")), 3);
    expect_number(state, "memory[0].base", 0);
    expect_number(state, "memory[0].bytes", 96 * MIB);
    expect_number(state, "memory[1].base", (uint64_t)4 << 30);
    expect_number(state, "memory[1].bytes", 32 * MIB);
    assert_string_equal(state_get_text(state, "memory[1].kind"), "ram");
    expect_number(state, "memory[2].base", 0xfd000000);
    expect_number(state, "memory[2].bytes", 16 * MIB);
    assert_string_equal(state_get_text(state, "memory[2].kind"), "video");
    expect_number(state, "machine.ram_bytes", 128 * MIB);
    assert_string_equal(state_get_text(state, "machine.chipset"), "intel,440fx");
    assert_int_equal(state_length(state_find(state, "disks")), 2);
    assert_string_equal(state_get_text(state, "disks[0].at"), "pci:00:01.1/0/0");
    assert_string_equal(state_get_text(state, "disks[0].kind"), "disk");
    expect_number(state, "disks[0].bytes", 4 * MIB);
    assert_string_equal(state_get_text(state, "disks[1].kind"), "cdrom");
    assert_null(state_find(state, "disks[1].bytes"));
}

/* In the place of what was said before. */
static void test_noted(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(StateNode) state = make_state(2);

    state_note_machine(state, machine);
    expect_noted(state);
    state_note_machine(state, machine);
    expect_noted(state);
    state_note_machine(state, NULL);
    expect_noted(state);
}

static void test_not_known(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(StateNode) state = make_state(0);

    state_note_machine(state, machine);
    assert_int_equal(state_length(state_find(state, "memory")), 2);
    g_array_set_size(machine->memory, 0);
    g_ptr_array_set_size(machine->disks, 0);
    state_note_machine(state, machine);
    assert_null(state_find(state, "memory"));
    assert_null(state_find(state, "disks"));
    expect_number(state, "machine.ram_bytes", 128 * MIB);
}

static void test_compared(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(StateNode) left = make_state(2), right = make_state(2);
    g_autoptr(GPtrArray) none = NULL, one = NULL;

    state_note_machine(left, machine);
    state_drop_unknown(left, right);
    none = state_compare(left, right);
    assert_int_equal(none->len, 0);
    state_note_machine(left, machine);
    machine->ram_bytes = 64 * MIB;
    state_note_machine(right, machine);
    state_drop_unknown(left, right);
    one = state_compare(left, right);
    assert_int_equal(one->len, 1);
    assert_string_equal(((StateDifference *)one->pdata[0])->path, "machine.ram_bytes");
}

static void expect_refused(const StateNode *state, uint64_t bytes, const char *told)
{
    g_autoptr(GError) error = NULL;

    assert_false(state_check_ram(state, bytes, "Bochs", &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_string_equal(error->message, told);
}

static void test_other_size(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(StateNode) state = make_state(2);

    assert_true(state_check_ram(state, 7, "Bochs", NULL));
    state_note_machine(state, machine);
    assert_true(state_check_ram(state, 128 * MIB, "Bochs", NULL));
    expect_refused(state, 64 * MIB,
                   "machine.ram_bytes: the guest has 128 MiB of RAM, and this Bochs has 64 MiB");
    state_set_number(state, "memory[1].bytes", G_MAXUINT64);
    expect_refused(
        state, 128 * MIB,
        "memory: the guest has 17592186044416.000 MiB of RAM, and this Bochs has 128 MiB");
    state_set_number(state, "memory[1].bytes", 4096);
    expect_refused(state, 128 * MIB,
                   "memory: the guest has 96.004 MiB of RAM, and this Bochs has 128 MiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_noted),
        cmocka_unit_test(test_not_known),
        cmocka_unit_test(test_compared),
        cmocka_unit_test(test_other_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
