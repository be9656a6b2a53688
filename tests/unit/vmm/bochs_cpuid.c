#include "bochs_cpuid.h"

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/parameters.h"

#define MEMORY (16u << 20)
#define CODE_PAGE 7u
#define QUESTION_PAGE 8u
#define ANSWER_PAGE 9u
#define DONE_PAGE 10u
#define WAIT_MS 20000

extern const uint8_t cpuid_guest[], cpuid_guest_end[];

static gboolean put_page(GuestMemory *memory, guint page, const void *content, size_t bytes,
                         GError **error)
{
    const PageSpan span = {page, 1};
    uint8_t buffer[PAGE_BYTES] = {0};

    if (bytes > 0)
        memcpy(buffer, content, bytes);
    return guest_memory_write(memory, 0, &span, 1, buffer, error);
}

static gboolean get_page(GuestMemory *memory, guint page, void *ret, GError **error)
{
    const PageSpan span = {page, 1};

    return guest_memory_read(memory, 0, &span, 1, ret, error);
}

static gboolean enter(Vmm *vmm, GError **error)
{
    const BochsProcess *process = ((BochsVmm *)vmm)->process;
    g_autoptr(BochsNode) cpu = bochs_tree_new("cpu0");

    bochs_tree_set(cpu, "RIP", BOCHS_NODE_HEX, CODE_PAGE * PAGE_BYTES);
    bochs_tree_set(cpu, "CS.selector", BOCHS_NODE_HEX, 0);
    bochs_tree_set(cpu, "CS.base", BOCHS_NODE_HEX, 0);
    return bochs_restore(process->console, process->state_folder, cpu, error) &&
           vmm_resume(vmm, error);
}

static gboolean await_end(GuestMemory *memory, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    uint8_t page[PAGE_BYTES] = {0};

    while (get_page(memory, DONE_PAGE, page, error)) {
        if (page[0] == 1)
            return TRUE;
        if (g_get_monotonic_time() > deadline) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "the guest has not come to its end");
            return FALSE;
        }
        usleep(1000);
    }
    return FALSE;
}

/* Leaf 0, leaf 80000000h, then those of the table. */
static gboolean ask(Vmm *vmm, GuestMemory *memory, uint32_t *ret_answers, GError **error)
{
    uint32_t questions[2 * (BOCHS_CPUID_WORDS + 3)] = {0, 0, 0x80000000, 0};
    guint last = 4 + 2 * BOCHS_CPUID_WORDS;

    for (guint i = 0; i < BOCHS_CPUID_WORDS; i++) {
        questions[4 + 2 * i] = bochs_cpuid_places[i].leaf;
        questions[5 + 2 * i] = bochs_cpuid_places[i].subleaf;
    }
    questions[last] = questions[last + 1] = 0xffffffff;
    return put_page(memory, CODE_PAGE, cpuid_guest, (size_t)(cpuid_guest_end - cpuid_guest),
                    error) &&
           put_page(memory, QUESTION_PAGE, questions, sizeof questions, error) &&
           put_page(memory, DONE_PAGE, NULL, 0, error) && enter(vmm, error) &&
           await_end(memory, error) && get_page(memory, ANSWER_PAGE, ret_answers, error);
}

static void pick_words(const uint32_t *answers, uint32_t *ret)
{
    static const char *const registers[] = {"EAX", "EBX", "ECX", "EDX"};

    for (guint i = 0; i < BOCHS_CPUID_WORDS; i++) {
        const BochsCpuidPlace *place = &bochs_cpuid_places[i];
        uint32_t highest = answers[place->leaf >> 31 ? 4 : 0];

        ret[i] = 0;
        for (guint j = 0; j < 4; j++)
            if (strcmp(place->reg, registers[j]) == 0 && place->leaf <= highest)
                ret[i] = answers[8 + 4 * i + j];
    }
}

gboolean bochs_cpuid_read(const char *directory, const char *model, uint32_t *ret, GError **error)
{
    const BochsMachine machine = {.memory_bytes = MEMORY,
                                  .vcpus = 1,
                                  .cpu_model = model,
                                  .ips = 50000000,
                                  .start_time = 1000};
    const BochsLaunch launch = {.name = "cpuid", .directory = directory, .machine = &machine};
    Vmm *vmm = bochs_launch(&launch, error);
    g_autoptr(VmmDescription) description = vmm ? vmm_describe(vmm, error) : NULL;
    g_autoptr(GuestMemory) memory =
        description ? guest_memory_open(vmm_get_pid(vmm), description->ram_regions, error) : NULL;
    uint32_t answers[PAGE_BYTES / 4];
    gboolean done = memory && ask(vmm, memory, answers, error);

    if (done)
        pick_words(answers, ret);
    if (vmm)
        done = vmm_quit(vmm, done ? error : NULL) && done;
    vmm_free(vmm);
    return done;
}
