/* Messages about disks that move along: round trips, each field malformed in turn, and limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "wire/messages.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define MOST_BYTES (1ULL << 60)
#define DIGEST "00112233445566778899aabbccddeeff"

typedef struct {
    const char *from, *to; /* replaced; *from* NULL: *to* is all */
    const char *words;     /* in the error */
} Damage;

typedef gboolean (*Decoder)(const char *text, size_t length, GError **error);

static char *damaged(const char *good, const Damage *damage)
{
    const char *at = damage->from ? strstr(good, damage->from) : good;

    if (!damage->from)
        return g_strdup(damage->to);
    if (!at)
        fail_msg("\"%s\" is not in %s", damage->from, good);
    return g_strdup_printf("%.*s%s%s", (int)(at - good), good, damage->to,
                           at + strlen(damage->from));
}

static void expect_refused(Decoder decode, const char *bad, const char *words)
{
    g_autoptr(GError) error = NULL;

    if (decode(bad, strlen(bad), &error))
        fail_msg("accepted: %s", bad);
    if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\" for %.200s", words, error->message, bad);
}

static void check(Decoder decode, const char *good, const Damage *damages, size_t count)
{
    g_autoptr(GError) error = NULL;

    if (!decode(good, strlen(good), &error))
        fail_msg("%s: %s", error->message, good);
    for (size_t i = 0; i < count; i++) {
        g_autofree char *bad = damaged(good, &damages[i]);

        expect_refused(decode, bad, damages[i].words);
    }
    /* Cut anywhere it is refused. */
    for (size_t length = 0; length < strlen(good); length++)
        assert_false(decode(good, length, NULL));
}

#define CHECK(decode, good, damages) check(decode, good, damages, G_N_ELEMENTS(damages))

/* ---- DISKS ---- */

static gboolean decode_disks(const char *text, size_t length, GError **error)
{
    g_auto(DisksMessage) message = {0};

    return disks_message_decode(text, length, &message, error);
}

static DisksMessage make_disks(WireDiskFile *files, guint count, ProcessIdentity *process)
{
    return (DisksMessage){
        .transaction = (char *)TRANSACTION,
        .guest = (char *)"web1",
        .vmm_kind = (char *)"qemu",
        .program = (char *)"/usr/bin/qemu",
        .working_directory = (char *)"/srv/guests",
        .process = process,
        .overwrite = TRUE,
        .files = files,
        .file_count = count,
    };
}

static void assert_same_file(const WireDiskFile *file, const WireDiskFile *back)
{
    assert_string_equal(back->path, file->path);
    assert_string_equal(back->format, file->format);
    assert_true(back->bytes == file->bytes && back->file_bytes == file->file_bytes &&
                back->allocated_bytes == file->allocated_bytes && back->lock == file->lock);
    assert_int_equal(back->mode, file->mode);
    assert_int_equal(g_strcmp0(back->backing, file->backing), 0);
    assert_int_equal(g_strcmp0(back->backing_format, file->backing_format), 0);
    assert_int_equal(back->options != NULL, file->options != NULL);
    assert_true(!file->options || json_equal(back->options, file->options));
}

static void test_disks_round_trip(void **state)
{
    g_autoptr(json_t) options = json_pack("{s:s, s:i}", "compat", "1.1", "cluster_size", 65536);
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    WireDiskFile files[] = {
        {(char *)"/srv/a \"b\" ü.qcow2", (char *)"qcow2", MOST_BYTES, MOST_BYTES, MOST_BYTES, 0777,
         G_MAXINT64, (char *)"base.img", (char *)"raw", options},
        {(char *)"r", (char *)"raw", 0, 0, 0, 0, 0, NULL, NULL, NULL},
    };
    DisksMessage message = make_disks(files, G_N_ELEMENTS(files), process);
    g_autofree char *text = disks_message_encode(&message);
    g_auto(DisksMessage) back = {0};

    assert_true(disks_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.transaction, TRANSACTION);
    assert_string_equal(back.guest, "web1");
    assert_string_equal(back.vmm_kind, "qemu");
    assert_string_equal(back.program, "/usr/bin/qemu");
    assert_string_equal(back.working_directory, "/srv/guests");
    assert_int_equal(back.process->user.id, process->user.id);
    assert_true(back.overwrite);
    assert_int_equal(back.file_count, 2);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        assert_same_file(&files[i], &back.files[i]);
}

/* Not what may be replaced, unless that is said. */
static void test_disks_without_files(void **state)
{
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    DisksMessage message = make_disks(NULL, 0, process);
    g_autofree char *text = disks_message_encode(&message);
    g_autofree char *unsaid = damaged(text, &(Damage){"\"overwrite\":true,", "", NULL});
    g_auto(DisksMessage) back = {0};

    assert_true(disks_message_decode(unsaid, strlen(unsaid), &back, NULL));
    assert_int_equal(back.file_count, 0);
    assert_false(back.overwrite);
}

static void test_disks_damages(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "DISKS: \"transaction\" is missing"},
        {NULL, "[]", "DISKS: "},
        {TRANSACTION, "0123", "is not of 32 hex digits"},
        {TRANSACTION, "0123456789ABCDEF0123456789abcdef", "is not of 32 hex digits"},
        {"\"web1\"", "\"\"", "\"guest\" is empty"},
        {"\"web1\"", "5", "\"guest\""},
        {"\"qemu\"", "\"\"", "\"vmm_kind\" is empty"},
        {"\"/usr/bin/qemu\"", "\"\\u0007\"", "\"program\" is empty"},
        {"\"/srv/guests\"", "\"guests\"", "\"working_directory\" is not an absolute path"},
        {"\"/srv/guests\"", "\"\"", "\"working_directory\" is empty"},
        {"\"process\":{", "\"process\":5,\"x\":{", "DISKS: "},
        {"\"files\":[", "\"files\":5,\"x\":[", "\"files\" is missing"},
        {"\"files\":[", "\"files\":[7,", "file 0: not an object"},
        {"\"files\":[", "\"files\":[null,", "file 0: not an object"},
        {"\"/srv/a\"", "\"\"", "file 0: \"path\" is empty"},
        {"\"/srv/a\"", "\"/srv/\\na\"", "file 0: \"path\" is empty"},
        {"\"/srv/a\"", "\"/srv/\\u0000a\"", "DISKS: "},
        {"\"qcow2\"", "\"\"", "file 0: \"format\" is empty"},
        {"\"bytes\":111", "\"bytes\":-1", "\"bytes\""},
        {"\"bytes\":111", "\"bytes\":1.5", "\"bytes\""},
        {"\"bytes\":111", "\"bytes\":1152921504606846977", "\"bytes\""},
        {"\"bytes\":111", "\"byte\":111", "\"bytes\" is missing"},
        {"\"file_bytes\":222", "\"file_bytes\":1152921504606846977", "\"file_bytes\""},
        {"\"allocated_bytes\":333", "\"allocated_bytes\":\"333\"", "\"allocated_bytes\""},
        {"\"mode\":420", "\"mode\":512", "\"mode\""},
        {"\"mode\":420", "\"mode\":2541", "\"mode\""},
        {"\"mode\":420", "\"mode\":-1", "\"mode\""},
        {"\"lock\":444", "\"lock\":-1", "\"lock\""},
        {"\"lock\":444", "\"lock\":9223372036854775808", "DISKS: "},
        {"\"base.img\"", "\"\"", "\"backing\" is empty"},
        {"\"backing\":\"base.img\"", "\"backing\":null", "\"backing\""},
        {"\"backing_format\":\"raw\"", "\"backing_forma\":\"raw\"",
         "\"backing_format\" is missing"},
        {"\"options\":{", "\"options\":7,\"x\":{", "\"options\" is not an object"},
        {"\"options\":{", "\"options\":null,\"x\":{", "\"options\" is not an object"},
    };
    g_autoptr(json_t) options = json_pack("{s:s}", "compat", "1.1");
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    WireDiskFile file = {(char *)"/srv/a",   (char *)"qcow2", 111,    222, 333, 0644, 444,
                         (char *)"base.img", (char *)"raw",   options};
    DisksMessage message = make_disks(&file, 1, process);
    g_autofree char *text = disks_message_encode(&message);

    CHECK(decode_disks, text, damages);
}

static char *encode_with(const WireDiskFile *file, guint count)
{
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    g_autofree WireDiskFile *files = g_new0(WireDiskFile, count);
    DisksMessage message = make_disks(files, count, process);

    for (guint i = 0; i < count; i++)
        files[i] = *file;
    return disks_message_encode(&message);
}

static void test_disks_limits(void **state)
{
    g_autofree char *long_path = g_strnfill(4095, 'p');
    g_autofree char *too_long_path = g_strnfill(4096, 'p');
    g_autofree char *value = g_strnfill(4096 - strlen("{\"o\":\"\"}"), 'v');
    g_autofree char *too_long_value = g_strconcat(value, "v", NULL);
    g_autoptr(json_t) options = json_pack("{s:s}", "o", value);
    g_autoptr(json_t) too_many_options = json_pack("{s:s}", "o", too_long_value);
    WireDiskFile file = {.path = long_path, .format = (char *)"raw", .options = options};
    g_autofree char *text = encode_with(&file, 1);
    g_autofree char *bad = NULL;

    assert_true(decode_disks(text, strlen(text), NULL));
    file.path = too_long_path;
    bad = encode_with(&file, 1);
    expect_refused(decode_disks, bad, "\"path\" is empty, longer");
    file =
        (WireDiskFile){.path = (char *)"a", .format = (char *)"raw", .options = too_many_options};
    g_free(bad);
    bad = encode_with(&file, 1);
    expect_refused(decode_disks, bad, "\"options\" is not an object of at most 4096");
    file.options = NULL;
    g_free(text);
    text = encode_with(&file, MESSAGE_MAX_DISK_FILES);
    assert_true(decode_disks(text, strlen(text), NULL));
    g_free(bad);
    bad = encode_with(&file, MESSAGE_MAX_DISK_FILES + 1);
    expect_refused(decode_disks, bad, "\"files\" is missing");
}

/* ---- DISKS_SEEN ---- */

static gboolean decode_seen(const char *text, size_t length, GError **error)
{
    g_auto(DisksSeenMessage) message = {0};

    return disks_seen_message_decode(text, length, &message, error);
}

static void test_seen(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "DISKS_SEEN: \"files\" is missing"},
        {"[{", "[5,{", "DISKS_SEEN: file 0: \"path\""},
        {"\"/a\"", "\"\"", "DISKS_SEEN: file 0: \"path\" is empty"},
        {"77", "-1", "DISKS_SEEN: file 0: \"bytes\""},
        {"\"/b\"", "\"\\u007f\"", "DISKS_SEEN: file 1: \"path\" is empty"},
    };
    DiskFileSeen files[] = {{(char *)"/a", TRUE, FALSE, 77}, {(char *)"/b", TRUE, TRUE, 0}};
    DisksSeenMessage message = {files, G_N_ELEMENTS(files)};
    g_autofree char *text = disks_seen_message_encode(&message);
    g_auto(DisksSeenMessage) back = {0};

    assert_true(disks_seen_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.count, 2);
    assert_string_equal(back.files[0].path, "/a");
    assert_true(back.files[0].exists && !back.files[0].same);
    assert_int_equal(back.files[0].bytes, 77);
    assert_true(back.files[1].exists && back.files[1].same);
    CHECK(decode_seen, text, damages);
}

static void test_seen_of_many(void **state)
{
    g_autofree DiskFileSeen *files = g_new0(DiskFileSeen, MESSAGE_MAX_DISK_FILES + 1);
    DisksSeenMessage message = {files, MESSAGE_MAX_DISK_FILES};
    g_autofree char *text = NULL, *bad = NULL;

    for (guint i = 0; i <= MESSAGE_MAX_DISK_FILES; i++)
        files[i].path = (char *)"x";
    text = disks_seen_message_encode(&message);
    assert_true(decode_seen(text, strlen(text), NULL));
    message.count++;
    bad = disks_seen_message_encode(&message);
    expect_refused(decode_seen, bad, "\"files\" is missing");
}

/* ---- DISKS_MAKE ---- */

static gboolean decode_make(const char *text, size_t length, GError **error)
{
    DiskMake makes[3];

    return disks_make_message_decode(text, length, 3, makes, error);
}

static void test_make(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "DISKS_MAKE: \"make\" is missing"},
        {"\"file\",", "", "2 entries for 3 files"},
        {"\"file\",", "\"file\",\"file\",", "4 entries for 3 files"},
        {"\"file\"", "\"File\"", "entry 1 is not a way to make a file"},
        {"\"image\"", "2", "entry 2 is not a way to make a file"},
        {"\"nothing\"", "null", "entry 0 is not a way to make a file"},
    };
    static const DiskMake makes[] = {DISK_MAKE_NOTHING, DISK_MAKE_FILE, DISK_MAKE_IMAGE};
    g_autofree char *text = disks_make_message_encode(makes, 3);
    g_autofree char *none = disks_make_message_encode(NULL, 0);
    DiskMake back[3];

    assert_true(disks_make_message_decode(text, strlen(text), 3, back, NULL));
    assert_memory_equal(back, makes, sizeof makes);
    assert_true(disks_make_message_decode(none, strlen(none), 0, NULL, NULL));
    CHECK(decode_make, text, damages);
}

static void test_make_names(void **state)
{
    DiskMake back;

    for (DiskMake make = DISK_MAKE_NOTHING; make <= DISK_MAKE_IMAGE; make++) {
        assert_true(disk_make_from_name(disk_make_name(make), &back));
        assert_int_equal(back, make);
    }
    assert_false(disk_make_from_name("", &back));
    assert_false(disk_make_from_name("everything", &back));
}

/* ---- DISKS_DIGESTS ---- */

static gboolean decode_digests(const char *text, size_t length, GError **error)
{
    char *digests[3] = {NULL};
    gboolean done = disks_digests_message_decode(text, length, 3, digests, error);

    for (guint i = 0; i < 3; i++)
        g_free(digests[i]);
    return done;
}

/* What is none is told apart: a digest that cannot be read must not count as equal to nothing. */
static void test_digests(void **state)
{
    static const Damage damages[] = {
        {NULL, "{}", "DISKS_DIGESTS: \"digests\" is missing"},
        {"null,", "", "2 entries for 3 files"},
        {"null,", "null,null,", "4 entries for 3 files"},
    };
    char *digests[] = {(char *)DIGEST, NULL, (char *)""};
    g_autofree char *text = disks_digests_message_encode(digests, 3);
    g_autofree char *other =
        damaged(text, &(Damage){DIGEST, "00112233445566778899AABBCCDDEEFF", ""});
    char *back[3];

    assert_true(disks_digests_message_decode(text, strlen(text), 3, back, NULL));
    assert_string_equal(back[0], DIGEST);
    assert_null(back[1]);
    assert_null(back[2]);
    g_free(back[0]);
    assert_true(disks_digests_message_decode(other, strlen(other), 3, back, NULL));
    assert_null(back[0]);
    CHECK(decode_digests, text, damages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disks_round_trip),
        cmocka_unit_test(test_disks_without_files),
        cmocka_unit_test(test_disks_damages),
        cmocka_unit_test(test_disks_limits),
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_seen_of_many),
        cmocka_unit_test(test_make),
        cmocka_unit_test(test_make_names),
        cmocka_unit_test(test_digests),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
