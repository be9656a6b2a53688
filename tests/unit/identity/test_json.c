/* The form in which an identity travels: whole, and each field malformed in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/json.h"
#include "identity/identity.h"

#define GOOD                                                                                       \
    "{\"user\":{\"id\":64055,\"name\":\"libvirt-qemu\"},\"group\":{\"id\":103,\"name\":\"kvm\"},"  \
    "\"groups\":[{\"id\":103,\"name\":\"kvm\"},{\"id\":7000}],\"mixed_ids\":false,"                \
    "\"capabilities\":{\"effective\":\"0000000000001000\",\"permitted\":\"0000000000001000\","     \
    "\"inheritable\":\"0000000000001000\",\"bounding\":\"000001ffffffffff\","                      \
    "\"ambient\":\"0000000000001000\"},\"no_new_privs\":true,\"seccomp\":false,"                   \
    "\"label\":{\"kind\":\"apparmor\",\"text\":\"libvirt-5d\"},\"netns\":\"blue\","                \
    "\"namespaces\":[\"ipc\",\"mnt\"],\"cgroups\":[{\"hierarchy\":\"\",\"path\":\"/a/b\","         \
    "\"limits\":{\"memory.max\":\"1073741824\",\"cpu.max\":\"50000 100000\"}},"                    \
    "{\"hierarchy\":\"cpu,cpuacct\",\"path\":\"/c\",\"limits\":{}}],"                              \
    "\"limits\":{\"nofile\":[1024,4096],\"core\":[0,null]},\"oom_score_adj\":-500,\"nice\":5}"

static ProcessIdentity *decode(const char *text, GError **error)
{
    g_autoptr(json_t) object = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

    if (!object)
        fail_msg("not JSON: %s", text);
    return process_identity_from_json(object, error);
}

static void check_whole(const ProcessIdentity *identity)
{
    const IdentityCgroup *cgroup = identity->cgroups->pdata[0];
    const IdentityCgroupLimit *limit = cgroup->limits->pdata[1];
    const IdentityOwner *nameless = identity->groups->pdata[1];

    assert_string_equal(identity->user.name, "libvirt-qemu");
    assert_int_equal(identity->group.id, 103);
    assert_int_equal(nameless->id, 7000);
    assert_null(nameless->name);
    assert_true(identity->capabilities_told);
    assert_int_equal(identity->capabilities.ambient, 1 << 12);
    assert_int_equal(identity->capabilities.bounding, 0x1ffffffffff);
    assert_true(identity->no_new_privs);
    assert_string_equal(identity->label, "libvirt-5d");
    assert_string_equal(identity->netns, "blue");
    assert_int_equal(identity->namespaces, IDENTITY_NAMESPACE_IPC | IDENTITY_NAMESPACE_MNT);
    assert_int_equal(identity->cgroups->len, 2);
    assert_string_equal(limit->file, "cpu.max");
    assert_string_equal(limit->text, "50000 100000");
    assert_true(identity->limits[RLIMIT_CORE].told);
    assert_true(identity->limits[RLIMIT_CORE].hard == RLIM_INFINITY);
    assert_false(identity->limits[RLIMIT_AS].told);
    assert_int_equal(identity->oom_score_adj, -500);
    assert_int_equal(identity->nice, 5);
}

static void test_round_trip(void **unused)
{
    g_autoptr(ProcessIdentity) identity = decode(GOOD, NULL);
    g_autoptr(ProcessIdentity) copy = NULL, back = NULL;
    g_autoptr(json_t) object = NULL;

    assert_non_null(identity);
    check_whole(identity);
    copy = process_identity_copy(identity);
    check_whole(copy);
    object = process_identity_to_json(copy);
    back = process_identity_from_json(object, NULL);
    check_whole(back);
}

static void test_of_a_living_process(void **unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(ProcessIdentity) identity = process_identity_read(getpid(), NULL, &error);
    g_autoptr(ProcessIdentity) back = NULL;
    g_autoptr(json_t) object = NULL;

    if (!identity)
        fail_msg("%s", error->message);
    /* We are like ourselves: all of that goes without saying. */
    assert_int_equal(identity->user.id, getuid());
    assert_false(identity->capabilities_told);
    assert_false(identity->seccomp);
    assert_null(identity->netns);
    assert_int_equal(identity->namespaces, 0);
    assert_int_equal(identity->cgroups->len, 0);
    for (guint i = 0; i < RLIM_NLIMITS; i++)
        assert_false(identity->limits[i].told);
    object = process_identity_to_json(identity);
    back = process_identity_from_json(object, NULL);
    assert_non_null(back);
    assert_null(process_identity_read(0x3fffff, NULL, &error));
    assert_non_null(strstr(error->message, "who runs process 4194303"));
}

static void test_damages(void **unused)
{
    static const struct {
        const char *from, *to, *words;
    } damages[] = {
        {"\"user\":{\"id\":64055", "\"user\":{\"id\":4294967295", "user: \"id\" is 4294967295"},
        {"\"user\":{\"id\":64055", "\"user\":{\"id\":-1", "user: \"id\" is missing"},
        {"\"libvirt-qemu\"", "\"\"", "user: \"name\" is empty"},
        {"\"libvirt-qemu\"", "\"a\\nb\"", "control characters"},
        {"\"user\":{", "\"usr\":{", "\"user\" is missing"},
        {"{\"id\":7000}", "7000", "groups: entry 1"},
        {"\"mixed_ids\":false", "\"mixed_ids\":0", "\"mixed_ids\" is missing"},
        {"\"ambient\":\"0000", "\"ambient\":\"000", "\"ambient\" is not of 16"},
        {"\"effective\":\"0", "\"effective\":\"A", "\"effective\" is not of 16"},
        {"\"permitted\"", "\"permuted\"", "\"permitted\" is missing"},
        {"\"kind\":\"apparmor\"", "\"kind\":\"smack\"", "\"smack\" is not a valid kind"},
        {"\"text\":\"libvirt-5d\"", "\"text\":\"\"", "\"text\" is empty"},
        {"\"blue\"", "\"../blue\"", "\"netns\" is not a valid name"},
        {"\"blue\"", "\"..\"", "\"netns\" is not a valid name"},
        {"\"ipc\",", "\"ipx\",", "entry 0 does not name"},
        {"\"/a/b\"", "\"/a/../../b\"", "entry 0: \"path\" is not a valid"},
        {"\"/a/b\"", "\"/\"", "\"path\" is not a valid"},
        {"\"/a/b\"", "\"/a//b\"", "\"path\" is not a valid"},
        {"\"/a/b\"", "\"a/b\"", "\"path\" is not a valid"},
        {"\"cpu,cpuacct\"", "\"cpu/..\"", "\"hierarchy\" is not a valid"},
        {"\"memory.max\"", "\"cgroup.procs\"", "\"cgroup.procs\" is not a valid limit"},
        {"\"1073741824\"", "\"1\\n2\"", "\"memory.max\" is empty"},
        {"\"nofile\":[1024,4096]", "\"nofile\":[4097,4096]", "\"nofile\" is not a valid limit"},
        {"\"nofile\":[1024,4096]", "\"nofile\":[1024]", "\"nofile\" is not a valid limit"},
        {"\"core\":[0,null]", "\"core\":[-1,null]", "\"core\" is not a valid limit"},
        {"\"core\":", "\"corn\":", "\"corn\" is not a valid limit"},
        {"-500", "-1001", "\"oom_score_adj\" is missing or not from -1000"},
        {"\"nice\":5", "\"nice\":20", "\"nice\" is missing or not from -20"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        GString *text = g_string_new(GOOD);
        g_autoptr(GError) error = NULL;

        assert_int_equal(g_string_replace(text, damages[i].from, damages[i].to, 1), 1);
        if (decode(text->str, &error))
            fail_msg("taken: %s", text->str);
        if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, damages[i].words) ||
            !g_str_has_prefix(error->message, "process: "))
            fail_msg("expected \"%s\", got \"%s\"", damages[i].words, error->message);
        g_string_free(text, TRUE);
    }
}

static void test_too_many(void **unused)
{
    g_autoptr(json_t) object = json_loads(GOOD, 0, NULL);
    json_t *groups = json_object_get(object, "groups");
    g_autoptr(GError) error = NULL;

    while (json_array_size(groups) <= IDENTITY_MAX_GROUPS)
        json_array_append_new(groups, json_pack("{s:i}", "id", 1));
    assert_null(process_identity_from_json(object, &error));
    assert_non_null(strstr(error->message, "longer than 256 entries"));
}

static void test_names_of_kinds(void **unused)
{
    g_autofree char *names = identity_capability_names(1ULL << 12 | 1ULL << 62);
    g_autoptr(GError) error = NULL;
    guint set;

    assert_string_equal(names, "CAP_NET_ADMIN, capability 62");
    assert_true(confinement_parse_list("cgroup, apparmor\tuser", &set, NULL));
    assert_int_equal(set, CONFINEMENT_CGROUP | CONFINEMENT_APPARMOR | CONFINEMENT_USER);
    assert_false(confinement_parse_list("cgroup, cgroups", &set, &error));
    assert_non_null(strstr(error->message, "\"cgroups\""));
    assert_false(confinement_parse_list(" , ", &set, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_of_a_living_process),
        cmocka_unit_test(test_damages),        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_names_of_kinds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
