/* Records of guests, good and hostile, and the store they are in. */
#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/record.h"
#include "agent/store.h"
#include "base/error.h"

#define ID "0123456789abcdef0123456789abcdef"

/* A good record as a starting point for bad ones. */
static const char good[] =
    "{\"format\":1,\"name\":\"web1\",\"id\":\"" ID
    "\",\"term\":3,\"role\":\"ours\",\"origin\":\"run\",\"boot_id\":\"b\","
    "\"directory\":\"/run/x/guest-a\",\"pid\":77,\"start_time\":12345,"
    "\"vmm_kind\":\"qemu\",\"qmp_path\":\"/q\","
    "\"log_path\":\"/"
    "l\",\"command_line\":[\"qemu-system-x86_64\",\"-m\",\"1G\"],\"resume\":false,\"since\":99}";

static GuestRecord *parse(const char *text, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, strlen(text), STORE_RECORD_LIMIT, error);

    return object ? guest_record_from_json(object, error) : NULL;
}

static void test_round_trip(void **state)
{
    g_autoptr(GuestRecord) record = parse(good, NULL);
    g_autoptr(GuestRecord) copy = NULL;
    g_autoptr(GuestRecord) again = NULL;
    g_autoptr(json_t) object = NULL;

    assert_non_null(record);
    copy = guest_record_copy(record);
    copy->role = GUEST_IN_DOUBT;
    copy->transaction = g_strdup(ID);
    copy->destination = g_strdup("hostb:4747");
    assert_int_equal(copy->balloon_bytes, 0);
    copy->term = (uint64_t)1 << 53;
    copy->balloon_bytes = 1ULL << 46;
    copy->resume = TRUE;
    copy->working_directory = g_strdup("/srv");
    copy->process = process_identity_read(getpid(), NULL, NULL);
    copy->cgroups = g_strsplit("/sys/fs/cgroup/a", " ", -1);
    copy->moved_images = g_strsplit("/srv/a.img /srv/b.img", " ", -1);
    copy->removes_images = TRUE;
    copy->supervisor = g_strdup("a shell");
    copy->store = g_strdup("hostc:4747");
    copy->store_agent = g_strdup(ID);
    copy->renewal = json_pack("{s:b}", "clock", TRUE);
    object = guest_record_to_json(copy);
    again = guest_record_from_json(object, NULL);
    assert_non_null(again);
    assert_string_equal(again->name, "web1");
    assert_string_equal(again->id, ID);
    assert_int_equal(record->term, 3);
    assert_int_equal(again->term, (uint64_t)1 << 53);
    assert_int_equal(again->role, GUEST_IN_DOUBT);
    assert_int_equal(again->origin, GUEST_ORIGIN_RUN);
    assert_int_equal(again->pid, 77);
    assert_int_equal(again->start_time, 12345);
    assert_int_equal(again->since, 99);
    assert_int_equal(again->balloon_bytes, 1ULL << 46);
    assert_true(again->resume);
    assert_string_equal(again->directory, "/run/x/guest-a");
    assert_string_equal(again->command_line[2], "1G");
    assert_null(again->command_line[3]);
    assert_string_equal(again->transaction, ID);
    assert_string_equal(again->destination, "hostb:4747");
    assert_string_equal(again->vmm_kind, "qemu");
    assert_string_equal(again->working_directory, "/srv");
    assert_int_equal(again->process->user.id, getuid());
    assert_string_equal(again->cgroups[0], "/sys/fs/cgroup/a");
    assert_string_equal(again->moved_images[1], "/srv/b.img");
    assert_string_equal(again->store, "hostc:4747");
    assert_string_equal(again->store_agent, ID);
    assert_null(again->moved_images[2]);
    assert_true(again->removes_images);
    assert_true(json_is_true(json_object_get(again->renewal, "clock")));
    assert_string_equal(again->supervisor, "a shell");
}

/* *from* of the good record becomes *to*; the error must say *words*. */
static void assert_bad(const char *from, const char *to, const char *words)
{
    g_auto(GStrv) parts = g_strsplit(good, from, 2);
    g_autofree char *text = g_strjoinv(to, parts);
    GError *error = NULL;

    assert_int_equal(g_strv_length(parts), 2);
    if (parse(text, &error))
        fail_msg("was taken: %s", text);
    assert_error_says(error, VMFERRY_ERROR_INVALID, words);
}

static void test_hostile_records(void **state)
{
    assert_bad("\"web1\"", "\"../x\"", "is not a valid name for a guest");
    assert_bad("\"web1\"", "7", "\"name\" is missing or no text");
    assert_bad("\"ours\"", "\"theirs\"", "\"theirs\" is not a valid role of a guest");
    assert_bad("\"id\":\"0123", "\"id\":\"012x", "\"id\" is not of 32 hexadecimal digits");
    assert_bad("\"id\":", "\"di\":", "\"id\" is missing or no text");
    assert_bad("\"term\":3", "\"term\":0", "or \"term\" is 0");
    assert_bad("\"term\":3,", "", "\"term\" is missing or no count");
    assert_bad("\"term\":3", "\"term\":9007199254740993", "the limit is 9007199254740992");
    assert_bad("\"run\"", "\"jump\"", "\"jump\" is not a valid origin of a guest");
    assert_bad("\"format\":1", "\"format\":2", "\"format\" is 2, the limit is 1");
    assert_bad("\"format\":1", "\"format\":0", "record format 0");
    assert_bad("\"pid\":77", "\"pid\":-1", "\"pid\" is missing or no count");
    assert_bad("\"pid\":77", "\"pid\":99999999", "\"pid\" is 99999999, the limit is");
    assert_bad("\"pid\":77", "\"pid\":0", "role \"ours\" without a pid");
    assert_bad("\"/q\"", "\"q\"", "\"qmp_path\" is not an absolute path");
    assert_bad("\"/q\"", "\"libvirt:q\"", "does not name a domain of libvirt's");
    assert_bad("\"qmp_path\":\"/q\",", "", "a pid without \"qmp_path\"");
    assert_bad("\"/run/x/guest-a\"", "\"guest-a\"", "\"directory\" is not an absolute path");
    assert_bad("\"-m\"", "5", "\"command_line\" does not hold text at 1");
    assert_bad("[\"qemu-system-x86_64\",\"-m\",\"1G\"]", "[]", "\"command_line\" is empty");
    assert_bad("[\"qemu-system-x86_64\",\"-m\",\"1G\"]", "{}", "\"command_line\" is missing");
    assert_bad("\"ours\"", "\"in-doubt\"", "role \"in-doubt\" without a transaction");
    assert_bad("\"ours\"", "\"incoming\"", "role \"incoming\" without a transaction");
    assert_bad("\"since\":99", "\"since\":99,\"transaction\":\"x\"", "not a transaction id");
    assert_bad("\"since\":99", "\"since\":99,\"balloon_bytes\":-1", "\"balloon_bytes\" is");
    assert_bad("\"since\":99", "\"since\":99,\"balloon_bytes\":\"1\"", "\"balloon_bytes\" is");
    assert_bad("\"since\":99", "\"since\":99,\"balloon_bytes\":70368744177665", "the limit is");
    assert_bad("\"resume\":false,", "", "\"resume\" is missing or neither true nor false");
    assert_bad("\"resume\":false", "\"resume\":0", "\"resume\" is missing or neither");
    assert_bad("\"since\":99", "\"since\":99,\"working_directory\":\"x\"", "not an absolute path");
    assert_bad("\"since\":99", "\"since\":99,\"process\":{}", "process: \"user\" is missing");
    assert_bad("\"since\":99", "\"since\":99,\"moved_images\":7", "\"moved_images\" is");
    assert_bad("\"since\":99", "\"since\":99,\"cgroups\":[7]",
               "\"cgroups\" does not hold text at 0");
    assert_bad("{\"format\"", "[{\"format\"", "not JSON");
}

static void test_role_names(void **state)
{
    for (guint i = GUEST_STARTING; i <= GUEST_INCOMING; i++)
        assert_non_null(guest_role_name((GuestRole)i));
}

static void test_store(void **state)
{
    char *folder = scratch_new();
    g_autoptr(StateStore) store = state_store_open(folder, NULL);
    g_autoptr(json_t) object = json_pack("{s:i}", "x", 1);
    g_autoptr(json_t) back = NULL;
    g_autoptr(GPtrArray) keys = NULL;
    GError *error = NULL;

    assert_non_null(store);
    assert_null(state_store_open(folder, &error));
    assert_error_says(error, VMFERRY_ERROR_BUSY, "another agent uses the state directory");
    assert_true(state_store_write(store, STORE_GUEST, "web1", object, FALSE, NULL));
    assert_true(state_store_write(store, STORE_TRANSACTION, ID, object, TRUE, NULL));
    assert_false(state_store_write(store, STORE_GUEST, "../x", object, FALSE, NULL));
    back = state_store_read(store, STORE_GUEST, "web1", NULL);
    assert_true(json_equal(back, object));
    scratch_write(folder, "guests/a b.json", "{}");
    scratch_write(folder, "guests/web2.json.new", "{}");
    scratch_write(folder, "guests/abc.json", "{}");
    keys = state_store_list(store, STORE_GUEST, NULL);
    assert_int_equal(keys->len, 2);
    assert_string_equal(keys->pdata[0], "abc");
    assert_string_equal(keys->pdata[1], "web1");
    state_store_remove(store, STORE_GUEST, "web1");
    assert_false(scratch_exists(folder, "guests/web1.json"));
    scratch_remove(folder);
}

static void test_lock_is_given_back(void **state)
{
    char *folder = scratch_new();

    state_store_close(state_store_open(folder, NULL));
    state_store_close(state_store_open(folder, NULL));
    scratch_remove(folder);
}

static void test_disk_full(void **state)
{
    char *folder = scratch_new();
    g_autoptr(StateStore) store = state_store_open(folder, NULL);
    g_autofree char *temporary = g_build_filename(folder, "guests", "web1.json.new", NULL);
    g_autoptr(json_t) object = json_pack("{s:i}", "x", 1);
    GError *error = NULL;

    assert_int_equal(symlink("/dev/full", temporary), 0);
    assert_false(state_store_write(store, STORE_GUEST, "web1", object, FALSE, &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "is full; free space there and try again");
    assert_false(scratch_exists(folder, "guests/web1.json"));
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),         cmocka_unit_test(test_hostile_records),
        cmocka_unit_test(test_role_names),         cmocka_unit_test(test_store),
        cmocka_unit_test(test_lock_is_given_back), cmocka_unit_test(test_disk_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
