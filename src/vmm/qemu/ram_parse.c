/* Readers of the texts that tell about QEMU's RAM blocks. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "vmm/qemu/ram_blocks.h"

#define MAX_NAME_BYTES 255u
#define MAX_BLOCK_BYTES (1ull << 46)
#define MAX_TREE_LINES 65536

void qemu_ram_block_free(QemuRamBlock *block)
{
    if (!block)
        return;
    g_free(block->name);
    g_free(block);
}

uint64_t qemu_ram_block_mapped(const QemuRamBlock *block)
{
    return (block->total + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

void qemu_mappings_free(QemuMappings *mappings)
{
    if (!mappings)
        return;
    g_clear_pointer(&mappings->ram, g_array_unref);
    g_clear_pointer(&mappings->heap, g_array_unref);
    g_free(mappings);
}

void qemu_tree_range_free(QemuTreeRange *range)
{
    if (!range)
        return;
    g_free(range->region);
    g_free(range->device);
    g_free(range);
}

static gboolean parse_hex(const char *text, uint64_t *ret)
{
    if (g_str_has_prefix(text, "0x"))
        text += 2;
    return *text && g_ascii_string_to_unsigned(text, 16, 0, G_MAXUINT64, ret, NULL);
}

/* The words of a line, without empty ones. */
static GPtrArray *split_words(const char *line)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) pieces = g_strsplit_set(line, " \t\r", -1);

    for (guint i = 0; pieces[i]; i++)
        if (pieces[i][0])
            g_ptr_array_add(words, g_strdup(pieces[i]));
    return words;
}

/* Columns behind "Total": 0 in QEMU 7, "HVA" and more later. */
typedef struct {
    guint behind_total;
    gboolean host_address;
} BlockColumns;

static gboolean parse_block_header(const char *line, BlockColumns *ret)
{
    g_autoptr(GPtrArray) words = split_words(line);
    guint total = 0;

    while (total < words->len && strcmp(words->pdata[total], "Total") != 0)
        total++;
    if (total == words->len || !strstr(line, "Block Name"))
        return FALSE;
    ret->behind_total = words->len - 1 - total;
    ret->host_address = ret->behind_total > 0 && strcmp(words->pdata[total + 1], "HVA") == 0;
    return TRUE;
}

static gboolean block_valid(const QemuRamBlock *block)
{
    uint64_t end;

    return strlen(block->name) <= MAX_NAME_BYTES && g_str_is_ascii(block->name) &&
           block->total > 0 && block->total <= MAX_BLOCK_BYTES && block->used <= block->total &&
           block->host_address % PAGE_BYTES == 0 &&
           !__builtin_add_overflow(block->host_address, block->total + PAGE_BYTES, &end);
}

/* A line is: [name] size unit offset used total [host address …]. */
static QemuRamBlock *parse_block(const char *line, const BlockColumns *columns)
{
    g_autoptr(GPtrArray) words = split_words(line);
    guint fixed = 5 + columns->behind_total;
    QemuRamBlock *block;
    guint at;

    if (words->len < fixed || words->len > fixed + 1)
        return NULL;
    at = words->len - fixed; /* 1 with a name, 0 without */
    block = g_new0(QemuRamBlock, 1);
    block->name = g_strdup(at > 0 ? words->pdata[0] : "");
    if (parse_hex(words->pdata[at + 2], &block->offset) &&
        parse_hex(words->pdata[at + 3], &block->used) &&
        parse_hex(words->pdata[at + 4], &block->total) &&
        (!columns->host_address || parse_hex(words->pdata[at + 5], &block->host_address)) &&
        block_valid(block))
        return block;
    qemu_ram_block_free(block);
    return NULL;
}

static gboolean has_name(const GPtrArray *blocks, const char *name)
{
    for (guint i = 0; i < blocks->len; i++)
        if (strcmp(((QemuRamBlock *)blocks->pdata[i])->name, name) == 0)
            return TRUE;
    return FALSE;
}

static gboolean add_block(GPtrArray *blocks, const char *line, const BlockColumns *columns,
                          GError **error)
{
    QemuRamBlock *block = parse_block(line, columns);
    gboolean twice;

    if (!block) {
        error_set(error, VMFERRY_ERROR_INVALID, "info ramblock: cannot read \"%.200s\"", line);
        return FALSE;
    }
    twice = block->name[0] && has_name(blocks, block->name);
    if (twice || blocks->len >= QEMU_MAX_RAM_BLOCKS) {
        error_set(error, VMFERRY_ERROR_INVALID, "info ramblock: %s \"%s\"",
                  twice ? "two blocks called" : "too many blocks, from", block->name);
        qemu_ram_block_free(block);
        return FALSE;
    }
    g_ptr_array_add(blocks, block);
    return TRUE;
}

GPtrArray *qemu_parse_ram_blocks(const char *text, GError **error)
{
    g_autoptr(GPtrArray) blocks =
        g_ptr_array_new_with_free_func((GDestroyNotify)qemu_ram_block_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", QEMU_MAX_RAM_BLOCKS * 2);
    BlockColumns columns = {0};

    if (!lines[0] || !parse_block_header(lines[0], &columns)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "info ramblock: unknown format");
        return NULL;
    }
    for (guint i = 1; lines[i]; i++) {
        g_strchomp(lines[i]);
        if (lines[i][0] && !add_block(blocks, lines[i], &columns, error))
            return NULL;
    }
    return g_steal_pointer(&blocks);
}

/* A mapping as its first line tells it. */
typedef struct {
    QemuMapping range;
    gboolean is_data; /* private, writable, not code, of no file */
} MappingHead;

static gboolean parse_mapping_head(const char *line, MappingHead *ret)
{
    unsigned long long start, end, inode;
    int behind = 0;
    char mode[5];

    if (sscanf(line, "%llx-%llx %4s %*s %*s %llu%n", &start, &end, mode, &inode, &behind) != 4 ||
        end <= start || strlen(mode) != 4)
        return FALSE;
    line += behind;
    line += strspn(line, " ");
    ret->range = (QemuMapping){.start = start, .length = end - start};
    ret->is_data =
        strcmp(mode, "rw-p") == 0 && inode == 0 &&
        (line[0] == '\0' || strcmp(line, "[heap]") == 0 || g_str_has_prefix(line, "[anon:"));
    return TRUE;
}

static gboolean has_flag(const char *line, const char *flag)
{
    g_autoptr(GPtrArray) words = split_words(line);

    for (guint i = 1; i < words->len; i++)
        if (strcmp(words->pdata[i], flag) == 0)
            return TRUE;
    return FALSE;
}

/* One block can be several mappings (a userfaultfd over a part of it). */
static void add_ram(GArray *ram, const QemuMapping *mapping)
{
    QemuMapping *last = ram->len > 0 ? &g_array_index(ram, QemuMapping, ram->len - 1) : NULL;

    if (!last || mapping->start > last->start + last->length)
        g_array_append_val(ram, *mapping);
    else if (mapping->start == last->start + last->length)
        last->length += mapping->length;
}

static void add_mapping(QemuMappings *mappings, const MappingHead *head, const char *flags)
{
    if (has_flag(flags, "pf"))
        return;
    if (has_flag(flags, "dc"))
        add_ram(mappings->ram, &head->range);
    else if (head->is_data && mappings->heap->len < QEMU_MAX_MAPPINGS)
        g_array_append_val(mappings->heap, head->range);
}

QemuMappings *qemu_parse_smaps(const char *text, GError **error)
{
    g_autoptr(QemuMappings) mappings = g_new0(QemuMappings, 1);
    MappingHead current = {0};
    const char *line = text;

    mappings->ram = g_array_new(FALSE, FALSE, sizeof(QemuMapping));
    mappings->heap = g_array_new(FALSE, FALSE, sizeof(QemuMapping));
    while (*line) {
        const char *end = strchrnul(line, '\n');
        g_autofree char *copy = g_strndup(line, (gsize)(end - line));

        if (g_str_has_prefix(copy, "VmFlags:")) {
            if (current.range.length > 0)
                add_mapping(mappings, &current, copy);
            current.range.length = 0;
        } else {
            (void)parse_mapping_head(copy, &current);
        }
        if (mappings->ram->len > QEMU_MAX_MAPPINGS) {
            error_set(error, VMFERRY_ERROR_INVALID, "QEMU has too many mappings");
            return NULL;
        }
        line = *end ? end + 1 : end;
    }
    return g_steal_pointer(&mappings);
}

/* "  c0000-c3fff (prio 1, ram): alias pam-ram @pc.ram c0000-c3fff" is a part of
 * "pc.ram"; NULL for other kinds and what is disabled. */
static QemuTreeRange *parse_tree_line(const char *line)
{
    unsigned long long first, last, offset = 0;
    g_autofree char *rest = NULL;
    const char *region;
    QemuTreeRange *range;
    char kind[16];
    int priority, behind = 0;
    char *at;

    if (sscanf(line, " %16llx-%16llx (prio %d, %15[^)]): %n", &first, &last, &priority, kind,
               &behind) != 4 ||
        behind == 0 || last < first)
        return NULL;
    at = g_str_has_prefix(kind, "nv-") ? kind + 3 : kind;
    if (strcmp(at, "ram") != 0 && strcmp(at, "rom") != 0 && strcmp(at, "romd") != 0)
        return NULL;
    rest = g_strdup(line + behind);
    g_strchomp(rest);
    if (g_str_has_suffix(rest, " [disabled]"))
        return NULL;
    region = rest;
    if (g_str_has_prefix(rest, "alias ")) {
        region = strrchr(rest, '@');
        at = strrchr(rest, ' ');
        if (!region || at < region || sscanf(at, " %16llx-", &offset) != 1)
            return NULL;
        *at = '\0';
        region++;
    }
    range = g_new0(QemuTreeRange, 1);
    range->region = g_strndup(region, MAX_NAME_BYTES);
    range->address = first;
    range->bytes = last - first < G_MAXUINT64 ? last - first + 1 : last;
    range->offset = offset;
    return range;
}

/* The lines below "address-space: memory". */
static char *find_memory_tree(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_TREE_LINES);
    GString *tree = NULL;

    for (guint i = 0; lines[i]; i++) {
        g_strchomp(lines[i]);
        if (strcmp(lines[i], "address-space: memory") == 0)
            tree = tree ? tree : g_string_new(NULL);
        else if (tree && lines[i][0] == ' ')
            g_string_append_printf(tree, "%s\n", lines[i]);
        else if (tree && tree->len > 0)
            break;
    }
    return tree ? g_string_free(tree, FALSE) : NULL;
}

GPtrArray *qemu_parse_memory_tree(const char *text, GError **error)
{
    g_autoptr(GPtrArray) ranges =
        g_ptr_array_new_with_free_func((GDestroyNotify)qemu_tree_range_free);
    g_autofree char *tree = find_memory_tree(text);
    g_auto(GStrv) lines = NULL;

    if (!tree) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "info mtree: unknown format");
        return NULL;
    }
    lines = g_strsplit(tree, "\n", MAX_TREE_LINES);
    for (guint i = 0; lines[i] && ranges->len < QEMU_MAX_TREE_RANGES; i++) {
        QemuTreeRange *range = parse_tree_line(lines[i]);

        if (range)
            g_ptr_array_add(ranges, range);
    }
    return g_steal_pointer(&ranges);
}

gboolean qemu_parse_host_address(const char *text, const char *region, uint64_t *ret)
{
    g_autofree char *name = g_strdup_printf(" (%s) is ", region);
    const char *at = strstr(text, name);
    g_autofree char *number = NULL;

    if (!at || !g_str_has_prefix(text, "Host virtual address for "))
        return FALSE;
    number = g_strdup(at + strlen(name));
    g_strstrip(number);
    return parse_hex(number, ret) && *ret != 0;
}

static const QemuRamBlock *find_block(const GPtrArray *blocks, const QemuRamBlock *wanted)
{
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];

        if (block->offset == wanted->offset && strcmp(block->name, wanted->name) == 0)
            return block;
    }
    return NULL;
}

gboolean qemu_check_same_blocks(const GPtrArray *before, const GPtrArray *now, GError **error)
{
    for (guint i = 0; i < before->len; i++) {
        const QemuRamBlock *block = before->pdata[i], *same = find_block(now, block);

        if (same && same->used == block->used && same->total == block->total)
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "RAM block \"%s\" of %" G_GUINT64_FORMAT
                  " bytes %s during the move: did the guest "
                  "reboot? Try again",
                  block->name, block->used, same ? "was resized" : "has gone");
        return FALSE;
    }
    if (now->len == before->len)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "the guest has got RAM blocks during the move");
    return FALSE;
}
