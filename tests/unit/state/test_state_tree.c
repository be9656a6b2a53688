#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/json.h"
#include "state/schema.h"

/* ---- states that the schema has: everything in it, or what is required, with drawn values ---- */

static void fill_group(StateNode *node, const StateGroup *group, GRand *draw, gboolean all);

static void fill_leaf(StateNode *node, const char *path, const StateField *field, GRand *draw)
{
    guint64 number = (guint64)g_rand_int(draw) << 32 | g_rand_int(draw);
    guint8 bytes[4] = {1, 2, 3, (guint8)number};
    g_autofree guint8 *many = g_malloc0(field->bytes + 4);

    memcpy(many, bytes, sizeof bytes);
    if (field->kind == STATE_NUMBER)
        state_set_number(node, path, number >> (64 - field->bits));
    else if (field->kind == STATE_TIME)
        state_set_time(node, path, (gint64)number);
    else if (field->kind == STATE_BYTES)
        state_set_bytes(node, path, many, field->bytes ? field->bytes : number % 4);
    else
        state_set_text(node, path, "a text");
}

static void fill_one(StateNode *node, const char *path, const StateField *field, GRand *draw,
                     gboolean all)
{
    if (field->kind == STATE_GROUP)
        fill_group(state_set_group(node, path), field->group, draw, all);
    else
        fill_leaf(node, path, field, draw);
}

static void fill_field(StateNode *node, const StateField *field, GRand *draw, gboolean all)
{
    guint count = field->entries ? field->entries : (guint)g_rand_int_range(draw, 0, 3);

    if (!field->is_list) {
        fill_one(node, field->name, field, draw, all);
        return;
    }
    state_set_list(node, field->name);
    for (guint i = 0; i < count; i++) {
        g_autofree char *path = g_strdup_printf("%s[%u]", field->name, i);

        if (field->kind == STATE_GROUP)
            fill_group(state_append_group(node, field->name), field->group, draw, all);
        else
            fill_one(node, path, field, draw, all);
    }
}

static void fill_group(StateNode *node, const StateGroup *group, GRand *draw, gboolean all)
{
    for (const StateField *field = group->fields; field->name; field++)
        if (strcmp(field->name, "devices") != 0 && (all || !field->optional))
            fill_field(node, field, draw, all);
}

static StateNode *drawn_state(guint seed, gboolean all)
{
    g_autoptr(GRand) draw = g_rand_new_with_seed(seed);
    StateNode *root = state_new();

    fill_group(root, state_schema_root(), draw, all);
    state_set_list(root, "devices");
    for (const StateGroup *const *device = state_schema_devices(); *device; device++)
        fill_group(state_add_device(root, (*device)->name, "io:0"), *device, draw, all);
    return root;
}

static void expect_equal(const StateNode *left, const StateNode *right)
{
    g_autoptr(GPtrArray) found = state_compare(left, right);
    const StateDifference *first = found->len ? found->pdata[0] : NULL;

    if (first)
        fail_msg("%s: %s, %s", first->path, first->left, first->right);
}

static void test_forms_keep_every_value(void **unused)
{
    for (guint seed = 0; seed < 20; seed++) {
        g_autoptr(StateNode) root = drawn_state(seed, seed % 2);
        g_autoptr(GBytes) bytes = state_encode(root);
        g_autoptr(json_t) json = state_to_json(root);
        g_autoptr(GError) error = NULL;
        g_autoptr(StateNode) decoded =
            state_decode(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), &error);
        g_autoptr(StateNode) parsed = state_from_json(json, &error);
        g_autoptr(GBytes) again = NULL;

        if (error)
            fail_msg("%s", error->message);
        assert_true(state_check(root, &error));
        expect_equal(root, decoded);
        expect_equal(root, parsed);
        again = state_encode(parsed);
        assert_true(g_bytes_equal(bytes, again));
    }
}

/* Equal states have equal digests, in whatever order they were made. */
static void test_order_of_making_does_not_count(void **unused)
{
    g_autoptr(StateNode) left = state_new(), right = state_new();
    g_autofree char *left_digest = NULL, *right_digest = NULL, *other_digest = NULL;

    state_set_number(left, "machine.a20", 1);
    state_set_number(left, "clock.tsc", 5);
    state_set_number(right, "clock.tsc", 5);
    state_set_number(right, "machine.a20", 1);
    left_digest = state_digest(left);
    right_digest = state_digest(right);
    assert_string_equal(left_digest, right_digest);
    state_set_number(right, "machine.a20", 0);
    other_digest = state_digest(right);
    assert_string_not_equal(left_digest, other_digest);
}

static void expect_refused(const StateNode *root, VmferryErrorCode code, const char *text)
{
    g_autoptr(GError) error = NULL;

    assert_false(state_check(root, &error));
    assert_true(error_is(error, code));
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static void test_unknown_nodes(void **unused)
{
    g_autoptr(StateNode) root = drawn_state(1, TRUE);
    g_autoptr(json_t) json = NULL;
    g_autoptr(StateNode) carried = NULL;

    state_set_number(root, "devices[0].x-colour", 3);
    assert_true(state_check(root, NULL));
    json = state_to_json(root);
    carried = state_from_json(json, NULL);
    assert_int_equal(state_number_or(carried, "devices[0].x-colour", 0), 3);
    state_set_number(root, "devices[0].colour", 3);
    expect_refused(root, VMFERRY_ERROR_UNSUPPORTED, "devices[0].colour is not known");
    assert_true(state_remove(root, "devices[0].colour"));
    (void)state_add_device(root, "acme,rocket", "io:1");
    expect_refused(root, VMFERRY_ERROR_UNSUPPORTED, "\"acme,rocket\"");
}

static void test_checks_name_the_place(void **unused)
{
    g_autoptr(StateNode) root = drawn_state(2, TRUE);

    state_set_number(root, "devices[0].irr", 0x100);
    expect_refused(root, VMFERRY_ERROR_INVALID, "devices[0].irr is 0x100, and has 8 bits");
    assert_true(state_remove(root, "devices[0].irr"));
    expect_refused(root, VMFERRY_ERROR_INVALID, "devices[0] lacks \"irr\"");
    state_set_text(root, "devices[0].irr", "a text");
    expect_refused(root, VMFERRY_ERROR_INVALID, "devices[0].irr is a text instead of a number");
    assert_true(state_remove(root, "devices[0].irr"));
    state_set_number(root, "devices[0].irr", 0);
    assert_true(state_remove(root, "devices[1].redirection[23]"));
    expect_refused(root, VMFERRY_ERROR_INVALID, "devices[1].redirection has 23 entries");
}

static void test_damage_is_found(void **unused)
{
    g_autoptr(StateNode) root = drawn_state(3, FALSE);
    g_autoptr(GBytes) bytes = state_encode(root);
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    g_autofree guint8 *copy = g_memdup2(data, length);
    g_autoptr(json_t) json = state_to_json(root);
    g_autoptr(GError) error = NULL;

    copy[length / 2] ^= 1;
    assert_null(state_decode(copy, length, NULL));
    for (gsize cut = 0; cut < length; cut += 97)
        assert_null(state_decode(data, cut, NULL));
    json_object_set_new(json_object_get(json, "clock"), "tsc", json_string("0x1"));
    assert_null(state_from_json(json, &error));
    assert_non_null(strstr(error->message, "was changed"));
}

static void test_differences_are_named(void **unused)
{
    g_autoptr(StateNode) left = drawn_state(4, TRUE), right = state_copy(left);
    g_autoptr(GPtrArray) found = NULL;
    const StateDifference *first;

    state_set_number(left, "devices[2].channels[1].mode", 2);
    state_set_number(right, "devices[2].channels[1].mode", 3);
    found = state_compare(left, right);
    assert_int_equal(found->len, 1);
    first = found->pdata[0];
    assert_string_equal(first->path, "devices[2].channels[1].mode");
    assert_string_equal(first->left, "0x2");
    assert_string_equal(first->right, "0x3");
}

/* The place of a device in its list does not count. */
static void test_devices_are_compared_by_what_they_are(void **unused)
{
    g_autoptr(StateNode) left = state_new(), right = state_new();
    g_autoptr(GPtrArray) found = NULL;
    const StateDifference *first;

    state_set_number(state_add_device(left, "intel,8259a", "io:20"), "imr", 1);
    state_set_number(state_add_device(left, "intel,8254", "io:40"), "imr", 2);
    (void)state_add_device(right, "intel,hpet", "mmio:fed00000");
    state_set_number(state_add_device(right, "intel,8254", "io:40"), "imr", 2);
    state_set_number(state_add_device(right, "intel,8259a", "io:20"), "imr", 3);
    found = state_compare(left, right);
    assert_int_equal(found->len, 2);
    first = found->pdata[0];
    assert_string_equal(first->path, "devices[0].imr");
    assert_string_equal(first->right, "0x3");
    first = found->pdata[1];
    assert_null(first->left);
    assert_string_equal(first->right, "intel,hpet");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_keep_every_value),
        cmocka_unit_test(test_order_of_making_does_not_count),
        cmocka_unit_test(test_unknown_nodes),
        cmocka_unit_test(test_checks_name_the_place),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_differences_are_named),
        cmocka_unit_test(test_devices_are_compared_by_what_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
