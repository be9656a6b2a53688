#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "policy/disk_pace.h"

#define MIB ((uint64_t)1 << 20)

static void test_bulk(void **state)
{
    DiskPaceFacts facts = {.stored_bytes = 800 * MIB, .sent_bytes = 799 * MIB};

    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
    facts.ready = TRUE;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_SYNCHRONOUS);
    facts.synchronous = TRUE;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
}

/* It writes what was copied again and again. */
static void test_fast_guest(void **state)
{
    DiskPaceFacts facts = {.stored_bytes = 800 * MIB, .sent_bytes = 964 * MIB};

    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
    facts.sent_bytes++;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_SYNCHRONOUS);
    facts.synchronous = TRUE;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
}

static void test_deadline(void **state)
{
    DiskPaceFacts facts = {.stored_bytes = MIB, .deadline_ms = 1000, .now_ms = 1000};

    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
    facts.now_ms = 1001;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GIVE_UP);
    facts.deadline_ms = 0;
    assert_int_equal(disk_pace_decide(&facts), DISK_PACE_GO_ON);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bulk),
        cmocka_unit_test(test_fast_guest),
        cmocka_unit_test(test_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
