/*
 * The JSON messages: round trips, and each field malformed in turn
 *
 * The malformed ones are made from a good message by replacing one piece of
 * its text, so that nothing else can be what is refused.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "wire/error_message.h"
#include "wire/messages.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define GUEST_ID "fedcba9876543210fedcba9876543210"

typedef struct {
    const char *from, *to; /* replaced; *from* NULL: *to* is all */
    const char *words;     /* in the error */
} Damage;

typedef gboolean (*Decoder)(const char *text, size_t length, GError **error);

static char *damaged(const char *good, const Damage *damage)
{
    const char *at;

    if (!damage->from)
        return g_strdup(damage->to);
    at = strstr(good, damage->from);
    if (!at)
        fail_msg("\"%s\" is not in %s", damage->from, good);
    return g_strdup_printf("%.*s%s%s", (int)(at - good), good, damage->to,
                           at + strlen(damage->from));
}

static void check_damages(Decoder decode, const char *good, const Damage *damages, size_t n)
{
    GError *error = NULL;

    assert_true(decode(good, strlen(good), &error));
    for (size_t i = 0; i < n; i++) {
        g_autofree char *bad = damaged(good, &damages[i]);

        error = NULL;
        if (decode(bad, strlen(bad), &error))
            fail_msg("accepted: %s", bad);
        if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, damages[i].words))
            fail_msg("expected \"%s\", got \"%s\" for %s", damages[i].words, error->message, bad);
        g_error_free(error);
    }
    /* Cut anywhere it is refused. */
    for (size_t length = 0; length < strlen(good); length++)
        assert_false(decode(good, length, NULL));
}

#define CHECK(decode, good, damages) check_damages(decode, good, damages, G_N_ELEMENTS(damages))

/* ---- HELLO ---- */

static gboolean decode_hello(const char *text, size_t length, GError **error)
{
    HelloMessage message = {0};

    if (!hello_message_decode(text, length, &message, error))
        return FALSE;
    hello_message_clear(&message);
    return TRUE;
}

#define TOKEN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_hello_round_trip(void **state)
{
    char *features[] = {(char *)"zstd", (char *)"new-thing", NULL};
    HelloMessage message = {1,
                            3,
                            features,
                            (char *)"vmferry 0.1.0",
                            (char *)"hôst",
                            (char *)"ping",
                            (char *)"0a1b",
                            (char *)"00112233445566778899aabbccddeeff",
                            (char *)TOKEN,
                            (char *)"ffeeddccbbaa99887766554433221100",
                            (char *)"bulk"};
    g_autofree char *text = hello_message_encode(&message);
    HelloMessage back = {0};

    assert_true(hello_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.version_min, 1);
    assert_int_equal(back.version_max, 3);
    assert_string_equal(back.features[1], "new-thing");
    assert_null(back.features[2]);
    assert_true(peer_has_feature(&back, "zstd"));
    assert_false(peer_has_feature(&back, "zst"));
    assert_false(peer_has_feature(&back, FEATURE_SEGMENTS));
    assert_false(peer_has_feature(&(HelloMessage){0}, FEATURE_SEGMENTS));
    assert_string_equal(back.software, "vmferry 0.1.0");
    assert_string_equal(back.host, "hôst");
    assert_string_equal(back.purpose, "ping");
    assert_string_equal(back.instance, "0a1b");
    assert_string_equal(back.agent, "00112233445566778899aabbccddeeff");
    assert_string_equal(back.token, TOKEN);
    assert_string_equal(back.transaction, "ffeeddccbbaa99887766554433221100");
    assert_string_equal(back.traffic, "bulk");
    hello_message_clear(&back);
    hello_message_clear(&back);
}

static void test_hello_damages(void **state)
{
    static const char good[] = "{\"version_min\":1,\"version_max\":2,\"features\":[\"a\"],"
                               "\"software\":\"s\",\"host\":\"h\",\"purpose\":\"p\",\"instance\":"
                               "\"i\",\"agent\":\"00112233445566778899aabbccddeeff\","
                               "\"token\":\"" TOKEN "\",\"transaction\":"
                               "\"ffeeddccbbaa99887766554433221100\",\"class\":\"bulk\"}";
    static const Damage damages[] = {
        {NULL, "", "HELLO: not JSON"},
        {NULL, "[]", "HELLO: JSON is not an object"},
        {"\"version_min\":1,", "", "\"version_min\" is missing"},
        {"\"version_min\":1", "\"version_min\":0", "not a valid range"},
        {"\"version_min\":1", "\"version_min\":-1", "no count"},
        {"\"version_min\":1", "\"version_min\":3", "not a valid range"},
        {"\"version_min\":1", "\"version_min\":1.5", "no count"},
        {"\"version_max\":2", "\"version_max\":65536", "the limit is 65535"},
        {"[\"a\"]", "[1]", "entry 0 is not a text"},
        {"[\"a\"]", "\"a\"", "no array"},
        {"[\"a\"]", "[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]",
         "longer than 64"},
        {"\"s\"", "1", "\"software\" is missing or no text"},
        {"\"h\"", "\"a\\nb\"", "\"host\" is empty, longer than 255 bytes or has control"},
        {"\"p\"", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "\"purpose\" is"},
        {"\"host\"", "\"software\"", "not JSON: duplicate"},
        {"\"i\"", "1", "\"instance\" is missing or no text"},
        {"\"i\"", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
         "\"instance\" is empty, longer than 64 bytes"},
        {"\"00112233445566778899aabbccddeeff\"", "1", "\"agent\" is missing or no text"},
        {"00112233445566778899aabbccddeeff", "0011", "\"agent\" is not of 32 hex digits"},
        {"00112233", "0011223X", "\"agent\" is not of 32 hex digits"},
        {"\"" TOKEN "\"", "1", "\"token\" is missing or no text"},
        {TOKEN, "0a1b", "\"token\" is not of 64 hex digits"},
        {TOKEN, TOKEN "0", "\"token\" is empty, longer than 64 bytes"},
        {"ffeeddcc", "FFeeddcc", "\"transaction\" is not of 32 hex digits"},
        {"\"bulk\"", "[]", "\"class\" is missing or no text"},
        {"\"bulk\"", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "\"class\" is empty, longer than 32"},
    };
    static const char short_one[] = "{\"version_min\":1,\"version_max\":1,\"features\":[]}";

    CHECK(decode_hello, good, damages);
    assert_true(decode_hello(short_one, strlen(short_one), NULL));
}

/* ---- GUEST ---- */

static gboolean decode_guest(const char *text, size_t length, GError **error)
{
    g_autoptr(GuestMessage) message = guest_message_decode(text, length, error);

    return message != NULL;
}

static void test_guest_round_trip(void **state)
{
    char *command_line[] = {(char *)"/usr/bin/qemu-system-x86_64", (char *)"-name",
                            (char *)"a \"b\"\n\xe2\x82\xac", (char *)"", NULL};
    WireRegion regions[] = {{(char *)"pc.ram", 1ULL << 40}, {(char *)"vga.vram", 4096}};
    g_autoptr(json_t) live = json_pack("{s:[i,i]}", "nodes", 1, 2);
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    GuestMessage message = {.transaction = (char *)TRANSACTION,
                            .guest = (char *)"web1",
                            .guest_id = (char *)GUEST_ID,
                            .term = MESSAGE_MAX_TERM,
                            .live = live,
                            .process = process,
                            .vmm_kind = (char *)"qemu",
                            .vmm_version = (char *)"7.2.9",
                            .machine = (char *)"pc-i440fx-7.2",
                            .accelerator = (char *)"tcg",
                            .command_line = command_line,
                            .vcpus = 2,
                            .working_directory = (char *)"/srv/guests",
                            .memory_bytes = 1ULL << 40,
                            .verify = TRUE,
                            .postcopy = TRUE,
                            .balloon_bytes = 1ULL << 46,
                            .store = (char *)"hostc:4747",
                            .store_agent = (char *)GUEST_ID,
                            .checkpoint_ms = 50,
                            .lease_ms = 3000,
                            .regions = regions,
                            .region_count = 2};
    g_autofree char *text = guest_message_encode(&message);
    g_autoptr(GuestMessage) back = guest_message_decode(text, strlen(text), NULL);

    assert_non_null(back);
    assert_string_equal(back->transaction, TRANSACTION);
    assert_string_equal(back->guest, "web1");
    assert_string_equal(back->guest_id, GUEST_ID);
    assert_int_equal(back->term, MESSAGE_MAX_TERM);
    assert_string_equal(back->vmm_kind, "qemu");
    assert_string_equal(back->vmm_version, "7.2.9");
    assert_string_equal(back->machine, "pc-i440fx-7.2");
    assert_string_equal(back->accelerator, "tcg");
    assert_int_equal(g_strv_length(back->command_line), 4);
    assert_string_equal(back->command_line[2], command_line[2]);
    assert_int_equal(back->vcpus, 2);
    assert_string_equal(back->working_directory, "/srv/guests");
    assert_int_equal(back->memory_bytes, 1ULL << 40);
    assert_true(back->verify);
    assert_true(back->postcopy);
    assert_int_equal(back->balloon_bytes, 1ULL << 46);
    assert_string_equal(back->store, "hostc:4747");
    assert_string_equal(back->store_agent, GUEST_ID);
    assert_int_equal(back->lease_ms, 3000);
    assert_true(json_equal(back->live, live));
    assert_int_equal(back->process->user.id, process->user.id);
    assert_int_equal(back->process->oom_score_adj, process->oom_score_adj);
    assert_int_equal(back->region_count, 2);
    assert_string_equal(back->regions[0].name, "pc.ram");
    assert_int_equal(back->regions[0].bytes, 1ULL << 40);
    assert_string_equal(back->regions[1].name, "vga.vram");
    assert_int_equal(back->regions[1].bytes, 4096);
}

/* A guest of another VMM: its machine instead of a command line. */
static char *encode_neutral_guest(void)
{
    WireRegion region = {(char *)"ram", 4096};
    char *line[] = {(char *)"qemu-system-x86_64", (char *)"-m", (char *)"1", NULL};
    g_autoptr(MachineDescription) machine = machine_description_new();
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    GuestMessage message = {.transaction = (char *)TRANSACTION,
                            .guest = (char *)"web1",
                            .guest_id = (char *)GUEST_ID,
                            .term = 2,
                            .process = process,
                            .vmm_kind = (char *)"bochs",
                            .command_line = line,
                            .neutral = machine,
                            .vcpus = 1,
                            .memory_bytes = 4096,
                            .regions = &region,
                            .region_count = 1};

    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = 4096;
    machine->vcpus = 1;
    machine->origin_kind = g_strdup("qemu");
    machine->origin_line = g_strdupv(line);
    return guest_message_encode(&message);
}

static void test_guest_of_another_vmm(void **state)
{
    g_autofree char *text = encode_neutral_guest();
    g_autoptr(GuestMessage) back = guest_message_decode(text, strlen(text), NULL);
    g_autoptr(GError) error = NULL;

    assert_null(strstr(text, "command_line"));
    assert_non_null(back);
    assert_null(back->command_line);
    assert_null(back->live);
    assert_string_equal(back->vmm_kind, "bochs");
    assert_int_equal(back->neutral->ram_bytes, 4096);
    assert_string_equal(back->neutral->origin_line[1], "-m");
    assert_false(guest_message_check_own_form(back, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
}

static void test_guest_of_another_vmm_damaged(void **state)
{
    static const Damage damages[] = {
        {"\"version\":1", "\"version\":\"1\"", "version"},
        {"\"architecture\":\"x86-64\"", "\"architecture\":1", "architecture"},
        {"\"verify\":false", "\"verify\":false,\"postcopy\":true", "postcopy"},
    };
    g_autofree char *text = encode_neutral_guest();
    const Damage other = {"\"version\":1", "\"version\":2", NULL};
    g_autofree char *later = damaged(text, &other);
    g_autoptr(GError) error = NULL;

    CHECK(decode_guest, text, damages);
    assert_false(decode_guest(later, strlen(later), &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "version 2"));
}

/* A balloon that is left alone is not named, nor is post-copy where it may not be: older agents
 * know no such keys. */
static void test_guest_without_extras(void **state)
{
    WireRegion region = {(char *)"pc.ram", 4096};
    char *command_line[] = {(char *)"qemu", NULL};
    g_autoptr(json_t) live = json_object();
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    GuestMessage message = {.transaction = (char *)TRANSACTION,
                            .guest = (char *)"web1",
                            .guest_id = (char *)GUEST_ID,
                            .term = MESSAGE_MAX_TERM,
                            .process = process,
                            .vmm_kind = (char *)"qemu",
                            .command_line = command_line,
                            .live = live,
                            .vcpus = 1,
                            .memory_bytes = 4096,
                            .regions = &region,
                            .region_count = 1};
    g_autofree char *text = guest_message_encode(&message);
    g_autoptr(GuestMessage) back = guest_message_decode(text, strlen(text), NULL);

    assert_null(strstr(text, "balloon"));
    assert_null(strstr(text, "postcopy"));
    assert_null(strstr(text, "store"));
    assert_null(strstr(text, "lease"));
    assert_non_null(back);
    assert_false(back->postcopy);
    assert_int_equal(back->balloon_bytes, 0);
}

#define PROCESS                                                                                    \
    "{\"user\":{\"id\":5,\"name\":\"games\"},\"group\":{\"id\":60},\"groups\":[],"                 \
    "\"mixed_ids\":false,\"no_new_privs\":false,\"seccomp\":false,\"namespaces\":[],"              \
    "\"cgroups\":[],\"limits\":{},\"oom_score_adj\":0,\"nice\":0}"

static const char good_guest[] =
    "{\"transaction\":\"" TRANSACTION "\",\"guest\":\"web1\",\"guest_id\":\"" GUEST_ID
    "\",\"term\":7,"
    "\"vmm_kind\":\"qemu\",\"vmm_version\":\"7.2\",\"machine\":\"pc\",\"accelerator\":\"tcg\","
    "\"command_line\":[\"qemu\"],\"live\":{},\"vcpus\":1,\"memory_bytes\":4096,\"verify\":false,"
    "\"regions\":[{\"name\":\"a\",\"bytes\":4096},"
    "{\"name\":\"b\",\"bytes\":8192}],\"process\":" PROCESS "}";

static void test_guest_damages(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "GUEST: \"transaction\" is missing"},
        {"f\",\"guest\"", "\",\"guest\"", "\"transaction\" is not of 32 hex digits"},
        {TRANSACTION, "0123456789ABCDEF0123456789ABCDEF", "\"transaction\" is not of 32"},
        {TRANSACTION, TRANSACTION "0", "\"transaction\" is empty, longer than 32"},
        {"\"guest_id\":", "\"other\":", "\"guest_id\" is missing or no text"},
        {GUEST_ID, "ffff", "\"guest_id\" is not of 32 hex digits"},
        {"\"term\":7,", "", "\"term\" is missing or no count"},
        {"\"term\":7", "\"term\":0", "\"term\" is 0"},
        {"\"term\":7", "\"term\":-1", "\"term\" is missing or no count"},
        {"\"term\":7", "\"term\":9007199254740993", "the limit is 9007199254740992"},
        {"\"web1\"", "\"\"", "\"guest\" is empty"},
        {"\"web1\"", "\"..\"", "not a valid guest name"},
        {"\"web1\"", "\"../x\"", "not a valid guest name"},
        {"\"web1\"", "\"a/b\"", "not a valid guest name"},
        {"\"web1\"", "\"-x\"", "not a valid guest name"},
        {"\"web1\"", "\"a\\u001bb\"", "\"guest\" is"},
        {"\"web1\"", "7", "\"guest\" is missing or no text"},
        {"\"qemu\",\"vmm_version\"", "\"\",\"vmm_version\"", "\"vmm_kind\" is empty"},
        {"\"7.2\"", "7.2", "\"vmm_version\" is missing or no text"},
        {"\"pc\"", "null", "\"machine\" is missing or no text"},
        {"\"tcg\"", "[]", "\"accelerator\" is missing or no text"},
        {"[\"qemu\"]", "[]", "names no program"},
        {"[\"qemu\"]", "[\"\"]", "names no program"},
        {"[\"qemu\"]", "[\"qemu\",{}]", "entry 1 is not a text"},
        {"[\"qemu\"]", "[\"qe\\u0000mu\"]", "not JSON"},
        {"[\"qemu\"]", "\"qemu\"", "\"command_line\" is missing, no array"},
        {"\"vcpus\":1", "\"vcpus\":0", "without CPU"},
        {"\"vcpus\":1", "\"vcpus\":5000", "the limit is 4096"},
        {"\"vcpus\":1", "\"vcpus\":1,\"working_directory\":\"a/b\"", "not an absolute path"},
        {"\"vcpus\":1", "\"vcpus\":1,\"working_directory\":7", "working_directory"},
        {",\"process\":" PROCESS, "", "GUEST: process: missing or not an object"},
        {"\"process\":" PROCESS, "\"process\":[]", "process: missing or not an object"},
        {"\"nice\":0", "\"nice\":99", "GUEST: process: \"nice\" is missing or not from"},
        {"\"live\":{},", "", "\"live\" is missing or not an object"},
        {"\"live\":{}", "\"live\":[]", "\"live\" is missing or not an object"},
        {"\"memory_bytes\":4096", "\"memory_bytes\":0", "without CPU or memory"},
        {"\"memory_bytes\":4096", "\"memory_bytes\":99999999999999999", "the limit is"},
        {"\"memory_bytes\":4096", "\"memory_bytes\":99999999999999999999", "not JSON"},
        {"false", "0", "\"verify\" is missing or neither"},
        {"false", "false,\"postcopy\":1", "\"postcopy\" is neither true nor false"},
        {"false", "false,\"postcopy\":null", "\"postcopy\" is neither true nor false"},
        {"false", "false,\"balloon_bytes\":0", "\"balloon_bytes\" leaves the guest nothing"},
        {"false", "false,\"balloon_bytes\":-1", "\"balloon_bytes\" is missing or no count"},
        {"false", "false,\"balloon_bytes\":1.5", "\"balloon_bytes\" is missing or no count"},
        {"false", "false,\"balloon_bytes\":\"1\"", "\"balloon_bytes\" is missing or no count"},
        {"false", "false,\"balloon_bytes\":null", "\"balloon_bytes\" is missing or no count"},
        {"false", "false,\"balloon_bytes\":70368744177665", "the limit is 70368744177664"},
        {"false", "false,\"balloon_bytes\":99999999999999999999", "not JSON"},
        {"{\"name\":\"a\",\"bytes\":4096}", "1", "region 0: not an object"},
        {"\"a\"", "\"\"", "region 0: \"name\" is empty"},
        {"\"a\"", "\"b\"", "two regions with the name \"b\""},
        {"\"bytes\":4096", "\"bytes\":0", "region 0: \"bytes\" is not a number of whole pages"},
        {"\"bytes\":4096", "\"bytes\":4097", "whole pages"},
        {"\"bytes\":8192", "\"bytes\":99999999999999999", "region 1: \"bytes\" is"},
    };

    CHECK(decode_guest, good_guest, damages);
}

static void test_images_round_trip(void **state)
{
    uint64_t samples[] = {0, 4096, 1ULL << 40};
    ImageQuestion questions[] = {{1ULL << 50, samples, 3, FALSE, 0},
                                 {0, NULL, 0, FALSE, 0},
                                 {0, NULL, 0, TRUE, 1ULL << 40},
                                 {0, NULL, 0, TRUE, 0}};
    ImagesMessage message = {questions, 4};
    g_autofree char *text = images_message_encode(&message);
    g_auto(ImagesMessage) back = {0};

    assert_true(images_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.count, 4);
    assert_int_equal(back.images[0].lock, 1ULL << 50);
    assert_int_equal(back.images[0].sample_count, 3);
    assert_int_equal(back.images[0].samples[2], 1ULL << 40);
    assert_int_equal(back.images[1].sample_count, 0);
    assert_false(back.images[0].content || back.images[1].content);
    assert_true(back.images[2].content && back.images[2].bytes == 1ULL << 40);
    assert_true(back.images[3].content && back.images[3].bytes == 0);
}

static void test_images_seen_round_trip(void **state)
{
    ImageSeen seen[] = {{.file = (char *)"/srv/a \"b\"",
                         .local = TRUE,
                         .device = TRUE,
                         .sees_lock = TRUE,
                         .bytes = 1ULL << 41,
                         .token_s = 2000000000,
                         .token_ms = 999,
                         .device_id = (char *)"naa.5000",
                         .digest = (char *)"0123456789abcdef0123456789abcdef"},
                        {.file = (char *)"nbd://h/x"}};
    ImagesSeenMessage message = {seen, 2};
    g_autofree char *text = images_seen_message_encode(&message);
    g_auto(ImagesSeenMessage) back = {0};

    assert_true(images_seen_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.count, 2);
    assert_string_equal(back.images[0].file, "/srv/a \"b\"");
    assert_true(back.images[0].local && back.images[0].device && back.images[0].sees_lock);
    assert_int_equal(back.images[0].bytes, 1ULL << 41);
    assert_int_equal(back.images[0].token_s, 2000000000);
    assert_int_equal(back.images[0].token_ms, 999);
    assert_string_equal(back.images[0].device_id, "naa.5000");
    assert_string_equal(back.images[0].digest, "0123456789abcdef0123456789abcdef");
    assert_false(back.images[1].local || back.images[1].sees_lock);
    assert_null(back.images[1].digest);
}

static gboolean decode_images(const char *text, size_t length, GError **error)
{
    g_auto(ImagesMessage) message = {0};

    return images_message_decode(text, length, &message, error);
}

static gboolean decode_images_seen(const char *text, size_t length, GError **error)
{
    g_auto(ImagesSeenMessage) message = {0};

    return images_seen_message_decode(text, length, &message, error);
}

static void test_images_damages(void **state)
{
    static const char good[] =
        "{\"images\":[{\"lock\":5,\"samples\":[1,2]},{\"lock\":0,\"samples\":[],\"content\":77}]}";
    static const Damage damages[] = {
        {NULL, "{}", "IMAGES: \"images\" is missing"},
        {"[{\"lock\":5,\"samples\":[1,2]},{\"lock\":0,\"samples\":[],\"content\":77}]", "7",
         "\"images\" is missing, no array"},
        {":77", ":-7", "image 1: \"content\" is missing or no count"},
        {":77", ":{}", "image 1: \"content\" is missing or no count"},
        {"{\"lock\":5,\"samples\":[1,2]}", "3", "IMAGES: image 0: \"lock\" is missing"},
        {"\"lock\":5", "\"lock\":-5", "\"lock\" is missing or no count"},
        {"[1,2]", "{}", "\"samples\" is missing, no array"},
        {"[1,2]", "[1,-2]", "\"samples\" holds something else at 1"},
        {"[1,2]", "[\"1\"]", "\"samples\" holds something else at 0"},
    };

    CHECK(decode_images, good, damages);
}

static void test_images_seen_damages(void **state)
{
    static const char good[] =
        "{\"images\":[{\"file\":\"/a\",\"local\":true,\"device\":false,\"sees_lock\":true,"
        "\"bytes\":5,\"token_s\":1,\"token_ms\":2,\"device_id\":\"\","
        "\"digest\":\"0123456789abcdef0123456789abcdef\"}]}";
    static const Damage damages[] = {
        {NULL, "{}", "IMAGES_SEEN: \"images\" is missing"},
        {"\"/a\"", "7", "image 0: \"file\" is missing or no text"},
        {"\"bytes\":5", "\"bytes\":-1", "\"bytes\" is missing or no count"},
        {"\"token_ms\":2", "\"token_ms\":1000", "\"token_ms\" is 1000, the limit is 999"},
        {"0123456789abcdef0", "0123456789ABCDEF0", "\"digest\" is not of 32 hex digits"},
        {"0123456789abcdef0", "0", "\"digest\" is not of 32 hex digits"},
        {"\"device_id\":\"\"", "\"device_id\":[]", "\"device_id\" is missing or no text"},
    };

    CHECK(decode_images_seen, good, damages);
}

/* A JSON array of *n* times *head*, a number, *tail*. */
static char *many(guint n, const char *head, const char *tail)
{
    g_autoptr(GString) text = g_string_new("[");

    for (guint i = 0; i < n; i++)
        g_string_append_printf(text, "%s%s%u%s", i ? "," : "", head, i, tail);
    g_string_append(text, "]");
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void test_guest_counts(void **state)
{
    g_autofree char *arguments = many(1025, "\"", "\"");
    g_autofree char *regions = many(257, "{\"name\":\"r", "\",\"bytes\":4096}");
    g_autofree char *long_argument = g_strnfill(65537, 'x');
    g_autofree char *quoted = g_strdup_printf("[\"%s\"]", long_argument);
    const Damage damages[] = {
        {"[\"qemu\"]", arguments, "longer than 1024 entries"},
        {"[\"qemu\"]", quoted, "longer than 65536 bytes"},
        {"[{\"name\":\"a\",\"bytes\":4096},"
         "{\"name\":\"b\",\"bytes\":8192}]",
         regions, "longer than 256 entries"},
    };

    CHECK(decode_guest, good_guest, damages);
}

static void test_encoding_cannot_fail(void **state)
{
    char *command_line[] = {(char *)"/x\xff\xfe", NULL};
    WireRegion region = {.name = (char *)"\xc3"};
    GuestMessage message = {.command_line = command_line, .regions = &region, .region_count = 1};
    g_autofree char *text = guest_message_encode(&message);

    assert_non_null(strstr(text, "\"/x"));
}

/* ---- READY, RESOLVE, OUTCOME ---- */

static gboolean decode_ready(const char *text, size_t length, GError **error)
{
    ReadyMessage message;

    return ready_message_decode(text, length, &message, error);
}

static gboolean decode_resolve(const char *text, size_t length, GError **error)
{
    g_auto(ResolveMessage) message = {0};

    return resolve_message_decode(text, length, &message, error);
}

static gboolean decode_outcome(const char *text, size_t length, GError **error)
{
    OutcomeMessage message;

    return outcome_message_decode(text, length, TRANSACTION, &message, error);
}

static void test_ready(void **state)
{
    static const Damage damages[] = {
        {NULL, "x", "READY: not JSON"},
        {"true", "1", "\"verified\""},
        {"4.5", "-1", "\"load_ms\""},
        {"4.5", "\"4\"", "\"load_ms\""},
        {"\"load_ms\"", "\"x\"", "\"load_ms\""},
    };
    ReadyMessage message = {.verified = TRUE, .load_ms = 4.5}, back;
    g_autofree char *text = ready_message_encode(&message);

    assert_true(ready_message_decode(text, strlen(text), &back, NULL));
    assert_true(back.verified);
    assert_true(back.load_ms == 4.5);
    CHECK(decode_ready, text, damages);
}

static void test_start(void **state)
{
    StartMessage message = {.run = TRUE, .term = MESSAGE_MAX_TERM}, back;
    uint8_t payload[START_MESSAGE_BYTES + 1];
    GError *error = NULL;

    start_message_encode(&message, payload);
    assert_true(start_message_decode(payload, START_MESSAGE_BYTES, &back, NULL));
    assert_true(back.run);
    assert_int_equal(back.term, MESSAGE_MAX_TERM);
    message = (StartMessage){.run = FALSE, .term = 0x0102};
    start_message_encode(&message, payload);
    assert_memory_equal(payload, "\0\2\1\0\0\0\0\0\0", START_MESSAGE_BYTES);
    assert_true(start_message_decode(payload, START_MESSAGE_BYTES, &back, NULL));
    assert_false(back.run);
    assert_int_equal(back.term, 0x0102);
    assert_false(start_message_decode(payload, START_MESSAGE_BYTES - 1, &back, NULL));
    assert_false(start_message_decode(payload, START_MESSAGE_BYTES + 1, &back, NULL));
    payload[0] = 2;
    assert_false(start_message_decode(payload, START_MESSAGE_BYTES, &back, &error));
    assert_string_equal(error->message, "malformed START frame");
    g_clear_error(&error);
    message = (StartMessage){.run = TRUE, .term = 0};
    start_message_encode(&message, payload);
    assert_false(start_message_decode(payload, START_MESSAGE_BYTES, &back, NULL));
    message.term = MESSAGE_MAX_TERM + 1;
    start_message_encode(&message, payload);
    assert_false(start_message_decode(payload, START_MESSAGE_BYTES, &back, NULL));
}

static void test_resolve(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "RESOLVE: \"transaction\" is missing"},
        {TRANSACTION, "0123", "is not of 32 hex digits"},
        {TRANSACTION, "../../../../etc/passwd/aaaaaaaaa", "is not of 32 hex digits"},
        {GUEST_ID, "0123", "\"guest_id\" is not of 32 hex digits"},
        {"\"term\":4", "\"term\":0", "RESOLVE: \"term\" is 0"},
        {"\"term\":4", "\"term\":\"4\"", "\"term\" is missing or no count"},
    };
    ResolveMessage message = {(char *)TRANSACTION, (char *)GUEST_ID, 4};
    g_autofree char *text = resolve_message_encode(&message);
    g_auto(ResolveMessage) back = {0};

    assert_true(resolve_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.transaction, TRANSACTION);
    assert_string_equal(back.guest_id, GUEST_ID);
    assert_int_equal(back.term, 4);
    CHECK(decode_resolve, text, damages);
}

static void test_outcome(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "OUTCOME: \"transaction\" is missing"},
        {"0123456789", "aaaaaaaaaa", "OUTCOME: it is about transaction aaaaaaaaaa"},
        {"\"committed\"", "\"found\"", "\"outcome\" is \"found\", which is none"},
        {"\"committed\"", "3", "\"outcome\" is missing or no text"},
        {",\"term\":9", "", "\"term\" is missing or no count"},
        {"\"term\":9", "\"term\":0", "\"term\" is 0"},
    };
    OutcomeMessage committed = {OUTCOME_COMMITTED, 9};
    g_autofree char *good = outcome_message_encode(TRANSACTION, &committed);

    for (guint i = OUTCOME_COMMITTED; i <= OUTCOME_LOST; i++) {
        /* Only of what is committed a term must be told. */
        OutcomeMessage message = {(TransactionOutcome)i, i == OUTCOME_COMMITTED ? 9 : 0}, back;
        g_autofree char *text = outcome_message_encode(TRANSACTION, &message);

        assert_true(outcome_message_decode(text, strlen(text), TRANSACTION, &back, NULL));
        assert_int_equal(back.outcome, i);
        assert_int_equal(back.term, message.term);
    }
    assert_string_equal(transaction_outcome_name(OUTCOME_COMMITTED), "committed");
    CHECK(decode_outcome, good, damages);
}

static void test_who_gives_up(void **state)
{
    for (guint i = OUTCOME_COMMITTED; i <= OUTCOME_LOST; i++) {
        OutcomeMessage message = {(TransactionOutcome)i, 5};

        assert_int_equal(outcome_takes_guest(&message, 4), i == OUTCOME_COMMITTED);
        assert_false(outcome_takes_guest(&message, 5));
        assert_false(outcome_takes_guest(&message, 6));
    }
}

/* ---- ERROR ---- */

static void test_error_round_trip(void **state)
{
    for (guint code = VMFERRY_ERROR_FAILED; code <= VMFERRY_ERROR_IN_DOUBT; code++) {
        g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, (gint)code, "web1: no %s", "päge");
        g_autofree char *text = error_message_encode(cause);
        g_autoptr(GError) back = NULL;

        error_message_decode(text, strlen(text), "hostb", &back);
        assert_true(error_is(back, (VmferryErrorCode)code));
        assert_string_equal(back->message, "hostb: web1: no päge");
    }
}

static void test_error_is_cut_and_tamed(void **state)
{
    g_autofree char *long_text = g_strnfill(ERROR_MESSAGE_MAX_BYTES - 1, 'x');
    g_autoptr(GError) cause =
        g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_FAILED, "%sä and more", long_text);
    g_autofree char *text = error_message_encode(cause);
    g_autoptr(GError) back = NULL;
    static const char evil[] = "{\"code\":\"busy\",\"message\":\"a\\u001b[31m\\rb\\nc\"}";
    g_autoptr(GError) tamed = NULL;

    error_message_decode(text, strlen(text), "h", &back);
    /* The two bytes of the umlaut would not fit in: both are gone. */
    assert_int_equal(strlen(back->message), strlen("h: ") + ERROR_MESSAGE_MAX_BYTES - 1);
    error_message_decode(evil, strlen(evil), "h", &tamed);
    assert_true(error_is(tamed, VMFERRY_ERROR_BUSY));
    assert_string_equal(tamed->message, "h: a?[31m?b\nc");
}

static void test_error_that_makes_no_sense(void **state)
{
    static const char *const texts[] = {"", "[]", "{", "{}", "{\"code\":7,\"message\":[]}"};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        error_message_decode(texts[i], strlen(texts[i]), "h", &error);
        assert_true(error_is(error, VMFERRY_ERROR_FAILED));
        assert_true(g_str_has_prefix(error->message, "h"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_round_trip),
        cmocka_unit_test(test_hello_damages),
        cmocka_unit_test(test_guest_round_trip),
        cmocka_unit_test(test_guest_of_another_vmm),
        cmocka_unit_test(test_guest_of_another_vmm_damaged),
        cmocka_unit_test(test_guest_without_extras),
        cmocka_unit_test(test_guest_damages),
        cmocka_unit_test(test_images_round_trip),
        cmocka_unit_test(test_images_seen_round_trip),
        cmocka_unit_test(test_images_damages),
        cmocka_unit_test(test_images_seen_damages),
        cmocka_unit_test(test_guest_counts),
        cmocka_unit_test(test_encoding_cannot_fail),
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_outcome),
        cmocka_unit_test(test_who_gives_up),
        cmocka_unit_test(test_error_round_trip),
        cmocka_unit_test(test_error_is_cut_and_tamed),
        cmocka_unit_test(test_error_that_makes_no_sense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
