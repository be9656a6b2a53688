/* Pieces of pages, written into another process: private and shared memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/guest_memory.h"

#define PAGES 300u
#define BYTES (PAGES * (size_t)PAGE_BYTES)

typedef struct {
    uint8_t *memory; /* of the child, at the same place here */
    uint8_t *model;  /* what it should hold */
    pid_t pid;
    GuestMemory *guest;
} Fixture;

static int setup(void **state, int sharing)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | sharing, -1, 0);
    assert_true(fixture->memory != MAP_FAILED);
    memset(fixture->memory, 7, BYTES);
    fixture->model = g_malloc(BYTES);
    memset(fixture->model, 7, BYTES);
    fixture->pid = fork();
    if (fixture->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            poll(NULL, 0, -1);
    }
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)fixture->memory, BYTES));
    fixture->guest = guest_memory_open(fixture->pid, regions, &error);
    if (!fixture->guest)
        fail_msg("%s", error->message);
    *state = fixture;
    return 0;
}

static int setup_private(void **state)
{
    return setup(state, MAP_PRIVATE);
}

static int setup_shared(void **state)
{
    return setup(state, MAP_SHARED);
}

static void end_child(Fixture *fixture)
{
    kill(fixture->pid, SIGKILL);
    waitpid(fixture->pid, NULL, 0);
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    guest_memory_free(fixture->guest);
    if (fixture->pid > 0)
        end_child(fixture);
    munmap(fixture->memory, BYTES);
    g_free(fixture->model);
    g_free(fixture);
    return 0;
}

static void assert_like_model(Fixture *fixture)
{
    g_autofree uint8_t *there = g_malloc(BYTES);
    PageSpan all = {0, PAGES};

    assert_true(guest_memory_read(fixture->guest, 0, &all, 1, there, NULL));
    assert_memory_equal(there, fixture->model, BYTES);
}

/* More pieces than one system call takes, some over page borders, some empty. */
static void test_many_pieces(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    static uint8_t bytes[8192];
    static GuestPiece pieces[5000];

    for (guint i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)g_rand_int(random);
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        GuestPiece *piece = &pieces[i];

        piece->length = (uint32_t)g_rand_int_range(random, 0, i % 50 ? 40 : 6000);
        piece->offset = (uint64_t)g_rand_int_range(random, 0, (gint32)(BYTES - piece->length + 1));
        piece->bytes = bytes + g_rand_int_range(random, 0, 2000);
        memcpy(fixture->model + piece->offset, piece->bytes, piece->length);
    }
    assert_true(guest_memory_write_pieces(fixture->guest, 0, pieces, G_N_ELEMENTS(pieces), NULL));
    assert_like_model(fixture);
}

static void test_ends_of_the_region(void **state)
{
    static const uint8_t bytes[] = "abc";
    const GuestPiece pieces[] = {{0, 1, bytes}, {BYTES - 2, 2, bytes + 1}, {BYTES, 0, NULL}};
    Fixture *fixture = *state;

    fixture->model[0] = 'a';
    fixture->model[BYTES - 2] = 'b';
    fixture->model[BYTES - 1] = 'c';
    assert_true(guest_memory_write_pieces(fixture->guest, 0, pieces, 3, NULL));
    assert_true(guest_memory_write_pieces(fixture->guest, 0, NULL, 0, NULL));
    assert_like_model(fixture);
}

/* Not even the good pieces before it are written. */
static void test_outside(void **state)
{
    static const uint8_t bytes[16];
    const GuestPiece outside[] = {
        {BYTES, 1, bytes},         {BYTES - 1, 2, bytes},
        {0, BYTES + 1, bytes},     {UINT64_MAX, 1, bytes},
        {UINT64_MAX, 2, bytes},    {1, UINT32_MAX, bytes},
        {1ULL << 63, 4096, bytes}, {0, GUEST_PIECE_MAX_BYTES + 1, bytes},
        {BYTES + 1, 0, bytes},
    };
    Fixture *fixture = *state;

    for (guint i = 0; i < G_N_ELEMENTS(outside); i++) {
        const GuestPiece pieces[] = {{0, 5, bytes}, outside[i]};
        g_autoptr(GError) error = NULL;

        assert_false(guest_memory_write_pieces(fixture->guest, 0, pieces, 2, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, "write guest RAM ram: "));
    }
    assert_like_model(fixture);
}

/* The process has ended: said so. */
static void test_process_gone(void **state)
{
    static const uint8_t bytes[] = "abc";
    const GuestPiece piece = {5, 3, bytes};
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;

    end_child(fixture);
    fixture->pid = 0;
    assert_false(guest_memory_write_pieces(fixture->guest, 0, &piece, 1, &error));
    assert_non_null(strstr(error->message, "its process has ended"));
}

#define BOTH(function)                                                                             \
    cmocka_unit_test_setup_teardown(function, setup_private, teardown),                            \
        cmocka_unit_test_setup_teardown(function, setup_shared, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_many_pieces),
        BOTH(test_ends_of_the_region),
        BOTH(test_outside),
        cmocka_unit_test_setup_teardown(test_process_gone, setup_private, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
