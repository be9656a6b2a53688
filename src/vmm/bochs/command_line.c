#include "vmm/bochs/command_line.h"

#include <string.h>

#include "base/error.h"

#define MAX_WORDS 32u
#define MAX_WORD_BYTES 1000u
#define MAX_PARAMETERS 16u
#define MEBIBYTE (1u << 20)

gboolean bochs_is_program(const char *program)
{
    g_autofree char *name = g_path_get_basename(program);

    return strcmp(name, "bochs") == 0 || strcmp(name, "bochs-bin") == 0;
}

void bochs_command_line_free(BochsCommandLine *line)
{
    if (!line)
        return;
    g_free(line->program);
    g_ptr_array_unref(line->texts);
    g_free(line);
}

/* ---- a word: "KEY: NAME=VALUE, NAME=VALUE" ---- */

typedef struct {
    char *key;
    char **names, **values; /* each as long as the other */
    guint used;             /* a bit for each that was asked for */
} Word;

static void word_clear(Word *word)
{
    g_free(word->key);
    g_strfreev(word->names);
    g_strfreev(word->values);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Word, word_clear)

/* Without its quotes; NULL where it is nothing that Bochs reads as it stands. */
static char *read_value(const char *text)
{
    size_t length = strlen(text);
    gboolean quoted = length >= 2 && text[0] == '"' && text[length - 1] == '"';
    char *value = quoted ? g_strndup(text + 1, length - 2) : g_strdup(text);
    gboolean valid = *value != '\0' && (quoted || !strpbrk(value, " \t"));

    for (const char *c = value; *c; c++)
        valid = valid && g_ascii_isprint(*c) && !strchr("\"'$#\\", *c);
    if (valid)
        return value;
    g_free(value);
    return NULL;
}

static gboolean read_parameter(Word *word, guint index, char *text)
{
    char *equals = strchr(text, '=');

    if (!equals)
        return FALSE;
    *equals = '\0';
    word->names[index] = g_strdup(g_strstrip(text));
    word->values[index] = read_value(g_strstrip(equals + 1));
    for (guint i = 0; i < index; i++)
        if (strcmp(word->names[i], word->names[index]) == 0)
            return FALSE;
    return word->values[index] != NULL;
}

static gboolean read_word(const char *text, Word *ret)
{
    const char *colon = strchr(text, ':');
    g_auto(GStrv) parts = colon ? g_strsplit(colon + 1, ",", MAX_PARAMETERS + 1) : NULL;
    guint count = parts ? g_strv_length(parts) : 0;

    ret->key = colon ? g_strndup(text, (gsize)(colon - text)) : NULL;
    if (count == 0 || count > MAX_PARAMETERS || strlen(text) > MAX_WORD_BYTES)
        return FALSE;
    ret->names = g_new0(char *, count + 1);
    ret->values = g_new0(char *, count + 1);
    for (guint i = 0; i < count; i++)
        if (!read_parameter(ret, i, parts[i]))
            return FALSE;
    return TRUE;
}

/* The value of that name, which counts as known from now on; NULL: there is none. */
static const char *take(Word *word, const char *name)
{
    for (guint i = 0; word->names[i]; i++)
        if (strcmp(word->names[i], name) == 0) {
            word->used |= 1u << i;
            return word->values[i];
        }
    return NULL;
}

/* TRUE where it has this value, or is missing and may be. */
static gboolean take_fixed(Word *word, const char *name, const char *wanted, gboolean required)
{
    const char *value = take(word, name);

    return value ? strcmp(value, wanted) == 0 : !required;
}

static gboolean take_number(Word *word, const char *name, uint64_t max, uint64_t *ret)
{
    const char *value = take(word, name);

    return value && g_ascii_string_to_unsigned(value, 10, 0, max, ret, NULL);
}

/* A copy that lives as long as the line; NULL: there is none. */
static const char *take_text(BochsCommandLine *line, Word *word, const char *name)
{
    char *copy = g_strdup(take(word, name));

    if (copy)
        g_ptr_array_add(line->texts, copy);
    return copy;
}

/* ---- what each means; FALSE: it is not of the form ---- */

static gboolean read_memory(BochsCommandLine *line, Word *word)
{
    uint64_t guest, host = 0;

    if (!take_number(word, "guest", G_MAXUINT32, &guest))
        return FALSE;
    line->machine.memory_bytes = guest * MEBIBYTE;
    return take_number(word, "host", G_MAXUINT32, &host) ? host == guest : !take(word, "host");
}

/* "2", or "1:2:1": sockets, cores of each, threads of each of these. */
static gboolean read_count(const char *text, BochsMachine *machine)
{
    g_auto(GStrv) parts = g_strsplit(text ? text : "1", ":", 4);
    guint count = g_strv_length(parts);
    uint64_t numbers[3] = {1, 1, 1};

    if (count != 1 && count != 3)
        return FALSE;
    for (guint i = 0; i < count; i++)
        if (!g_ascii_string_to_unsigned(parts[i], 10, count > 1,
                                        count > 1 ? G_MAXUINT8 : G_MAXUINT16, &numbers[i], NULL))
            return FALSE;
    machine->vcpus = (guint)(numbers[0] * numbers[1] * numbers[2]);
    machine->cores = (guint)numbers[1];
    machine->threads = (guint)numbers[2];
    return TRUE;
}

static gboolean read_cpu(BochsCommandLine *line, Word *word)
{
    uint64_t ips;

    line->machine.cpu_model = take_text(line, word, "model");
    if (!line->machine.cpu_model || !take_number(word, "ips", G_MAXUINT32, &ips))
        return FALSE;
    line->machine.ips = (uint32_t)ips;
    return read_count(take(word, "count"), &line->machine);
}

static gboolean read_clock(BochsCommandLine *line, Word *word)
{
    return take_fixed(word, "sync", "none", TRUE) &&
           take_number(word, "time0", G_MAXINT64, &line->machine.start_time);
}

static gboolean read_slot(BochsMachine *machine, guint slot, const char *card)
{
    if (card && strcmp(card, "pcivga") == 0)
        machine->slots[slot] = BOCHS_SLOT_VGA;
    else if (card && strcmp(card, "e1000") == 0)
        machine->slots[slot] = BOCHS_SLOT_E1000;
    else if (card)
        return FALSE;
    return TRUE;
}

static gboolean read_pci(BochsCommandLine *line, Word *word)
{
    gboolean valid =
        take_fixed(word, "enabled", "1", TRUE) && take_fixed(word, "chipset", "i440fx", TRUE);

    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++) {
        g_autofree char *name = g_strdup_printf("slot%u", i + 1);

        valid = valid && read_slot(&line->machine, i, take(word, name));
    }
    return valid;
}

static gboolean read_mac(const char *text, guint8 *ret)
{
    gboolean valid = text && strlen(text) == 17;

    for (guint i = 0; valid && i < 6; i++) {
        int high = g_ascii_xdigit_value(text[3 * i]), low = g_ascii_xdigit_value(text[3 * i + 1]);

        valid = high >= 0 && low >= 0 && (i == 5 || text[3 * i + 2] == ':');
        if (valid)
            ret[i] = (guint8)(high << 4 | low);
    }
    return valid;
}

static gboolean read_e1000(BochsCommandLine *line, Word *word)
{
    return take_fixed(word, "card", "0", FALSE) && take_fixed(word, "enabled", "1", TRUE) &&
           take_fixed(word, "ethmod", "null", TRUE) &&
           read_mac(take(word, "mac"), line->machine.mac);
}

/* "ata1-slave" */
static gboolean read_disk_place(const char *key, BochsDisk *ret)
{
    if (strlen(key) < 6 || (key[3] != '0' && key[3] != '1'))
        return FALSE;
    ret->channel = key[3] == '1';
    ret->unit = strcmp(key + 4, "-slave") == 0;
    return ret->unit || strcmp(key + 4, "-master") == 0;
}

static gboolean read_disk(BochsCommandLine *line, Word *word)
{
    BochsDisk *disk = &line->disks[line->machine.disk_count];
    const char *type, *mode;

    if (line->machine.disk_count == BOCHS_MAX_DISKS || !read_disk_place(word->key, disk))
        return FALSE;
    line->machine.disk_count++;
    type = take(word, "type");
    disk->path = take_text(line, word, "path");
    disk->cdrom = type && strcmp(type, "cdrom") == 0;
    if (disk->cdrom)
        return take_fixed(word, "status", disk->path ? "inserted" : "ejected", TRUE);
    if (!disk->path || !type || strcmp(type, "disk") != 0)
        return FALSE;
    mode = take(word, "mode");
    if (!mode || (strcmp(mode, "flat") != 0 && strcmp(mode, "volatile") != 0))
        return FALSE;
    if (strcmp(mode, "volatile") == 0)
        disk->journal = take_text(line, word, "journal");
    return strcmp(mode, "flat") == 0 || disk->journal;
}

static gboolean read_serial(BochsCommandLine *line, Word *word)
{
    const char *mode = take(word, "mode");

    if (!take_fixed(word, "enabled", "1", TRUE) || !mode)
        return FALSE;
    if (strcmp(mode, "null") == 0)
        return TRUE;
    line->machine.serial_file = take_text(line, word, "dev");
    return strcmp(mode, "file") == 0 && line->machine.serial_file;
}

static gboolean read_bios(BochsCommandLine *line, Word *word)
{
    return (line->machine.bios = take_text(line, word, "file")) != NULL;
}

static gboolean read_vga_bios(BochsCommandLine *line, Word *word)
{
    return (line->machine.vga_bios = take_text(line, word, "file")) != NULL;
}

static const struct {
    const char *key;
    gboolean (*read)(BochsCommandLine *line, Word *word);
    gboolean required;
} kinds[] = {
    {"memory", read_memory, TRUE},    {"cpu", read_cpu, TRUE},
    {"clock", read_clock, FALSE},     {"pci", read_pci, FALSE},
    {"e1000", read_e1000, FALSE},     {"ata0-master", read_disk, FALSE},
    {"ata0-slave", read_disk, FALSE}, {"ata1-master", read_disk, FALSE},
    {"ata1-slave", read_disk, FALSE}, {"com1", read_serial, FALSE},
    {"romimage", read_bios, FALSE},   {"vgaromimage", read_vga_bios, FALSE},
};

static gboolean all_used(const Word *word)
{
    return word->used == (1u << g_strv_length(word->names)) - 1;
}

static gboolean apply_word(BochsCommandLine *line, const char *text, guint *seen, GError **error)
{
    g_auto(Word) word = {NULL, NULL, NULL, 0};
    gboolean read = read_word(text, &word);

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_strcmp0(kinds[i].key, word.key) != 0)
            continue;
        if (*seen & 1u << i) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\": there are two of it", word.key);
            return FALSE;
        }
        *seen |= 1u << i;
        if (read && kinds[i].read(line, &word) && all_used(&word))
            return TRUE;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\": not in the form that is taken for a Bochs guest (see vmferry-run(1))",
                  text);
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "\"%s\": a Bochs guest is told by lines of its configuration file, and this is none "
              "that is taken (see vmferry-run(1))",
              text);
    return FALSE;
}

static gboolean check_complete(const BochsCommandLine *line, guint seen, GError **error)
{
    gboolean has_card = FALSE;

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (kinds[i].required && !(seen & 1u << i)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s: …\" is missing", kinds[i].key);
            return FALSE;
        }
    }
    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        has_card |= line->machine.slots[i] == BOCHS_SLOT_E1000;
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (kinds[i].read == read_e1000 && has_card != !!(seen & 1u << i)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "\"e1000: …\" and a slot that has it go together");
            return FALSE;
        }
    }
    return TRUE;
}

BochsCommandLine *bochs_command_line_parse(char *const *words, GError **error)
{
    g_autoptr(BochsCommandLine) line = g_new0(BochsCommandLine, 1);
    guint seen = 0;

    line->texts = g_ptr_array_new_with_free_func(g_free);
    line->machine.disks = line->disks;
    if (!words || !words[0] || g_strv_length((char **)words) > MAX_WORDS) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty, or too long");
        return NULL;
    }
    line->program = g_strdup(words[0]);
    for (guint i = 1; words[i]; i++)
        if (!apply_word(line, words[i], &seen, error))
            return NULL;
    if (!check_complete(line, seen, error))
        return NULL;
    if (line->machine.start_time == 0)
        line->machine.start_time = (uint64_t)(g_get_real_time() / G_USEC_PER_SEC);
    return bochs_machine_check(&line->machine, error) ? g_steal_pointer(&line) : NULL;
}

/* ---- the other way ---- */

static void add(GPtrArray *words, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void add(GPtrArray *words, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_ptr_array_add(words, g_strdup_vprintf(format, arguments));
    va_end(arguments);
}

static char *quote(const char *path)
{
    return strchr(path, ' ') ? g_strdup_printf("\"%s\"", path) : g_strdup(path);
}

static void add_disk(GPtrArray *words, const BochsDisk *disk)
{
    const char *unit = disk->unit ? "slave" : "master";
    g_autofree char *path = disk->path ? quote(disk->path) : NULL;
    g_autofree char *journal = disk->journal ? quote(disk->journal) : NULL;

    if (disk->cdrom && !path)
        add(words, "ata%u-%s: type=cdrom, status=ejected", disk->channel, unit);
    else if (disk->cdrom)
        add(words, "ata%u-%s: type=cdrom, path=%s, status=inserted", disk->channel, unit, path);
    else if (journal)
        add(words, "ata%u-%s: type=disk, mode=volatile, path=%s, journal=%s", disk->channel, unit,
            path, journal);
    else
        add(words, "ata%u-%s: type=disk, mode=flat, path=%s", disk->channel, unit, path);
}

static void add_cards(GPtrArray *words, const BochsMachine *machine)
{
    static const char *const cards[] = {NULL, "pcivga", "e1000"};
    const guint8 *mac = machine->mac;
    GString *pci = g_string_new("pci: enabled=1, chipset=i440fx");
    gboolean has_card = FALSE;

    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++) {
        if (cards[machine->slots[i]])
            g_string_append_printf(pci, ", slot%u=%s", i + 1, cards[machine->slots[i]]);
        has_card |= machine->slots[i] == BOCHS_SLOT_E1000;
    }
    g_ptr_array_add(words, g_string_free(pci, FALSE));
    if (has_card)
        add(words, "e1000: enabled=1, mac=%02x:%02x:%02x:%02x:%02x:%02x, ethmod=null", mac[0],
            mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static void add_file(GPtrArray *words, const char *before, const char *path)
{
    g_autofree char *quoted = path ? quote(path) : NULL;

    if (quoted)
        add(words, "%s=%s", before, quoted);
}

char **bochs_command_line_format(const char *program, const BochsMachine *machine)
{
    guint mib = (guint)(machine->memory_bytes / MEBIBYTE);
    g_autofree char *count = bochs_machine_format_count(machine);
    GPtrArray *words = g_ptr_array_new();

    g_ptr_array_add(words, g_strdup(program));
    add(words, "memory: guest=%u, host=%u", mib, mib);
    add(words, "cpu: model=%s, count=%s, ips=%u", machine->cpu_model, count, machine->ips);
    if (machine->start_time > 0)
        add(words, "clock: sync=none, time0=%" G_GUINT64_FORMAT, machine->start_time);
    add_cards(words, machine);
    for (guint i = 0; i < machine->disk_count; i++)
        add_disk(words, &machine->disks[i]);
    add_file(words, "com1: enabled=1, mode=file, dev", machine->serial_file);
    add_file(words, "romimage: file", machine->bios);
    add_file(words, "vgaromimage: file", machine->vga_bios);
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(words, FALSE);
}
