#include "vmm/bochs/tree.h"

#include <string.h>

#include "base/error.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
#define BINARY_PREFIX "'binary data size="

void bochs_node_free(BochsNode *node)
{
    if (!node)
        return;
    g_free(node->name);
    g_free(node->text);
    if (node->children)
        g_ptr_array_unref(node->children);
    g_free(node);
}

static void free_node(gpointer node)
{
    bochs_node_free(node);
}

/* Takes *name*. */
static BochsNode *new_node(char *name, BochsNodeKind kind)
{
    BochsNode *node = g_new0(BochsNode, 1);

    node->name = name;
    node->kind = kind;
    if (kind == BOCHS_NODE_LIST)
        node->children = g_ptr_array_new_with_free_func(free_node);
    return node;
}

BochsNode *bochs_tree_new(const char *name)
{
    return new_node(g_strdup(name), BOCHS_NODE_LIST);
}

/* ---- one value ---- */

/* All of *text* is a number, which fits 64 bits. */
static gboolean parse_digits(const char *text, guint base, uint64_t *ret)
{
    const char *digits = base == 16 ? "0123456789abcdefABCDEF" : "0123456789";

    return *text && text[strspn(text, digits)] == '\0' &&
           g_ascii_string_to_unsigned(text, base, 0, G_MAXUINT64, ret, NULL);
}

static gboolean parse_decimal(const char *text, BochsNode *node)
{
    node->negative = *text == '-';
    if (!parse_digits(text + node->negative, 10, &node->number))
        return FALSE;
    if (node->negative && node->number > (uint64_t)G_MAXINT64 + 1)
        return FALSE;
    if (node->negative)
        node->number = 0 - node->number;
    return TRUE;
}

static gboolean parse_binary(const char *text, BochsNode *node)
{
    g_autofree char *digits = NULL;

    if (!g_str_has_prefix(text, BINARY_PREFIX) || !g_str_has_suffix(text, "'"))
        return FALSE;
    digits = g_strndup(text + strlen(BINARY_PREFIX), strlen(text) - strlen(BINARY_PREFIX) - 1);
    return parse_digits(digits, 10, &node->number);
}

static gboolean parse_boolean(const char *text, BochsNode *node)
{
    node->number = strcmp(text, "true") == 0;
    return node->number || strcmp(text, "false") == 0;
}

/* What looks like a number and is none is a text. */
static void parse_value(const char *text, BochsNode *node)
{
    if (g_str_has_prefix(text, "0x") && parse_digits(text + 2, 16, &node->number))
        node->kind = BOCHS_NODE_HEX;
    else if (parse_decimal(text, node))
        node->kind = BOCHS_NODE_DECIMAL;
    else if (parse_boolean(text, node))
        node->kind = BOCHS_NODE_BOOLEAN;
    else if (parse_binary(text, node))
        node->kind = BOCHS_NODE_BINARY;
    else {
        node->kind = BOCHS_NODE_TEXT;
        node->number = 0;
        node->negative = FALSE;
        node->text = g_strdup(text);
    }
}

/* ---- lines ---- */

typedef struct {
    const char *at, *end;
    guint line;      /* number of the one that was read last, from 1 */
    guint nodes;     /* so far */
    GPtrArray *open; /* of BochsNode: lists from the root down; borrowed */
    BochsNode *root;
} Parser;

static void parser_clear(Parser *parser)
{
    g_ptr_array_unref(parser->open);
    bochs_node_free(parser->root);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Parser, parser_clear)

static void set_error(const Parser *parser, const char *problem, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "Bochs's state, line %u: %s", parser->line, problem);
}

static gboolean is_printable(const char *text)
{
    for (; *text; text++)
        if (!g_ascii_isprint(*text))
            return FALSE;
    return TRUE;
}

/* The next line without blanks around it in *line*, of BOCHS_TREE_MAX_TEXT + 1 bytes; *ret_end: there is
 * none. */
static gboolean read_line(Parser *parser, char *line, gboolean *ret_end, GError **error)
{
    size_t left = (size_t)(parser->end - parser->at), length;
    const char *newline = memchr(parser->at, '\n', left);

    *ret_end = left == 0;
    if (*ret_end)
        return TRUE;
    parser->line++;
    length = newline ? (size_t)(newline - parser->at) : left;
    if (length > BOCHS_TREE_MAX_TEXT) {
        set_error(parser, "too long", error);
        return FALSE;
    }
    memcpy(line, parser->at, length);
    line[length] = '\0';
    parser->at += newline ? length + 1 : length;
    if (strlen(line) == length && is_printable(g_strstrip(line)))
        return TRUE;
    set_error(parser, "not a text", error);
    return FALSE;
}

/* Cuts "NAME = VALUE" in two. */
static gboolean split_line(const Parser *parser, char *line, char **ret_value, GError **error)
{
    size_t length = strspn(line, NAME_CHARACTERS);

    if (length == 0 || length > BOCHS_TREE_MAX_NAME || !g_str_has_prefix(line + length, " = ")) {
        set_error(parser, "not \"NAME = VALUE\"", error);
        return FALSE;
    }
    *ret_value = line + length + strlen(" = ");
    line[length] = '\0';
    return TRUE;
}

static BochsNode *get_open(const Parser *parser)
{
    return parser->open->len ? parser->open->pdata[parser->open->len - 1] : NULL;
}

/* Takes *node*. */
static gboolean add_node(Parser *parser, BochsNode *node, GError **error)
{
    BochsNode *parent = get_open(parser);

    if (parent)
        g_ptr_array_add(parent->children, node);
    else
        parser->root = node;
    if (++parser->nodes > BOCHS_TREE_MAX_NODES) {
        set_error(parser, "too many parameters", error);
        return FALSE;
    }
    if (node->kind != BOCHS_NODE_LIST)
        return TRUE;
    if (parser->open->len >= BOCHS_TREE_MAX_DEPTH) {
        set_error(parser, "nested too deeply", error);
        return FALSE;
    }
    g_ptr_array_add(parser->open, node);
    return TRUE;
}

static gboolean take_line(Parser *parser, char *line, GError **error)
{
    BochsNode *node;
    char *value;

    if (strcmp(line, "}") == 0 && parser->open->len) {
        g_ptr_array_set_size(parser->open, (gint)parser->open->len - 1);
        return TRUE;
    }
    if (parser->root && !parser->open->len) {
        set_error(parser, "behind the end of the tree", error);
        return FALSE;
    }
    if (!split_line(parser, line, &value, error))
        return FALSE;
    if (strcmp(value, "{") == 0)
        return add_node(parser, bochs_tree_new(line), error);
    node = new_node(g_strdup(line), BOCHS_NODE_TEXT);
    parse_value(value, node);
    return add_node(parser, node, error);
}

BochsNode *bochs_tree_parse(const char *text, size_t length, GError **error)
{
    g_auto(Parser) parser = {.at = text, .end = text + length, .open = g_ptr_array_new()};
    char line[BOCHS_TREE_MAX_TEXT + 1];

    for (;;) {
        gboolean end;

        if (!read_line(&parser, line, &end, error))
            return NULL;
        if (end)
            break;
        if (!take_line(&parser, line, error))
            return NULL;
    }
    if (parser.root && !parser.open->len)
        return g_steal_pointer(&parser.root);
    set_error(&parser, "it ends within the tree", error);
    return NULL;
}

/* ---- finding and setting ---- */

static BochsNode *find_child(const BochsNode *list, const char *name, size_t length)
{
    for (guint i = 0; list->children && i < list->children->len; i++) {
        BochsNode *child = list->children->pdata[i];

        if (child->name[0] == name[0] && strncmp(child->name, name, length) == 0 &&
            child->name[length] == '\0')
            return child;
    }
    return NULL;
}

BochsNode *bochs_tree_find(const BochsNode *root, const char *path)
{
    const BochsNode *node = root;

    while (node && *path) {
        size_t length = strcspn(path, ".");

        node = find_child(node, path, length);
        path += length + (path[length] == '.');
    }
    return (BochsNode *)node;
}

gboolean bochs_tree_get(const BochsNode *root, const char *path, uint64_t *ret, GError **error)
{
    const BochsNode *node = bochs_tree_find(root, path);

    if (!node) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "Bochs shows no %s.%s", root->name, path);
        return FALSE;
    }
    if (node->kind == BOCHS_NODE_LIST || node->kind == BOCHS_NODE_TEXT) {
        error_set(error, VMFERRY_ERROR_INVALID, "Bochs's %s.%s is not a number", root->name, path);
        return FALSE;
    }
    *ret = node->number;
    return TRUE;
}

/* The node at *path*, made where it is missing. */
static BochsNode *make_leaf(BochsNode *root, const char *path, BochsNodeKind kind)
{
    BochsNode *list = root, *node;
    size_t length;

    for (; path[length = strcspn(path, ".")] == '.'; path += length + 1) {
        node = find_child(list, path, length);
        if (!node) {
            node = new_node(g_strndup(path, length), BOCHS_NODE_LIST);
            g_ptr_array_add(list->children, node);
        }
        g_return_val_if_fail(node->kind == BOCHS_NODE_LIST, NULL);
        list = node;
    }
    node = find_child(list, path, length);
    if (!node) {
        node = new_node(g_strdup(path), kind);
        g_ptr_array_add(list->children, node);
    }
    g_return_val_if_fail(node->kind != BOCHS_NODE_LIST, NULL);
    node->kind = kind;
    node->negative = FALSE;
    g_clear_pointer(&node->text, g_free);
    return node;
}

void bochs_tree_set(BochsNode *root, const char *path, BochsNodeKind kind, uint64_t number)
{
    BochsNode *node;

    g_return_if_fail(kind == BOCHS_NODE_DECIMAL || kind == BOCHS_NODE_HEX ||
                     kind == BOCHS_NODE_BOOLEAN);
    node = make_leaf(root, path, kind);
    if (node)
        node->number = kind == BOCHS_NODE_BOOLEAN ? number != 0 : number;
}

void bochs_tree_set_text(BochsNode *root, const char *path, const char *text)
{
    BochsNode *node = make_leaf(root, path, BOCHS_NODE_TEXT);

    if (node)
        node->text = g_strdup(text);
}

/* A byte array and what is shown as unknown are read from a file, whose name is a text. */
static gboolean takes(const BochsNode *shown, const BochsNode *wanted)
{
    gboolean number = wanted->kind == BOCHS_NODE_DECIMAL || wanted->kind == BOCHS_NODE_HEX;

    switch (shown->kind) {
    case BOCHS_NODE_LIST:
        return wanted->kind == BOCHS_NODE_LIST;
    case BOCHS_NODE_DECIMAL:
    case BOCHS_NODE_HEX:
        return number;
    case BOCHS_NODE_BOOLEAN:
        return wanted->kind == BOCHS_NODE_BOOLEAN;
    case BOCHS_NODE_BINARY:
    case BOCHS_NODE_TEXT:
        return wanted->kind == BOCHS_NODE_TEXT;
    }
    return FALSE;
}

gboolean bochs_tree_check_known(const BochsNode *wanted, const BochsNode *shown, GError **error)
{
    if (!takes(shown, wanted)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs's %s is not of that kind", shown->name);
        return FALSE;
    }
    for (guint i = 0; wanted->children && i < wanted->children->len; i++) {
        const BochsNode *child = wanted->children->pdata[i];
        const BochsNode *known = find_child(shown, child->name, strlen(child->name));

        if (!known) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this Bochs has no %s.%s", shown->name,
                      child->name);
            return FALSE;
        }
        if (!bochs_tree_check_known(child, known, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- writing ---- */

static void format_value(const BochsNode *node, GString *out)
{
    switch (node->kind) {
    case BOCHS_NODE_DECIMAL:
        if (node->negative)
            g_string_append_printf(out, "%" G_GINT64_FORMAT, (gint64)node->number);
        else
            g_string_append_printf(out, "%" G_GUINT64_FORMAT, node->number);
        break;
    case BOCHS_NODE_HEX:
        g_string_append_printf(out, "0x%" G_GINT64_MODIFIER "x", node->number);
        break;
    case BOCHS_NODE_BOOLEAN:
        g_string_append(out, node->number ? "true" : "false");
        break;
    case BOCHS_NODE_TEXT:
    case BOCHS_NODE_BINARY:
    case BOCHS_NODE_LIST:
        g_string_append(out, node->text ? node->text : "");
        break;
    }
}

static void format_node(const BochsNode *node, int depth, GString *out)
{
    if (node->kind == BOCHS_NODE_BINARY)
        return;
    g_string_append_printf(out, "%*s%s = ", depth * 2, "", node->name);
    if (node->kind != BOCHS_NODE_LIST) {
        format_value(node, out);
        g_string_append_c(out, '\n');
        return;
    }
    g_string_append(out, "{\n");
    for (guint i = 0; i < node->children->len; i++)
        format_node(node->children->pdata[i], depth + 1, out);
    g_string_append_printf(out, "%*s}\n", depth * 2, "");
}

char *bochs_tree_format(const BochsNode *root)
{
    g_autoptr(GString) out = g_string_new(NULL);

    format_node(root, 0, out);
    return g_string_free(g_steal_pointer(&out), FALSE);
}
