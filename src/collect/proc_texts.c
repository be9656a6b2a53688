#include "collect/proc_texts.h"

#include <string.h>

#define KIB 1024u

/* Fields of /proc/PID/stat, counted from the one behind the name. */
enum { FIELD_MAJOR_FAULTS = 9, FIELD_USER = 11, FIELD_SYSTEM = 12, FIELD_START = 19 };

/* Columns of a line of /proc/net/dev. */
enum {
    COLUMN_RECEIVED = 0,
    COLUMN_RECEIVED_DROPPED = 3,
    COLUMN_SENT = 8,
    COLUMN_SENT_DROPPED = 11
};

/* ---- pieces ---- */

static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

/* A number at *at*, which moves behind it; COUNTER_UNKNOWN, and *at* stays, where none is there.  One that
 * does not fit is unknown, too. */
static uint64_t take_number(const char **at)
{
    const char *digit = skip_blanks(*at);
    uint64_t value = 0;
    gboolean fits = TRUE;

    if (!g_ascii_isdigit(*digit))
        return COUNTER_UNKNOWN;
    for (; g_ascii_isdigit(*digit); digit++)
        fits = fits && !__builtin_mul_overflow(value, 10u, &value) &&
               !__builtin_add_overflow(value, (uint64_t)(*digit - '0'), &value);
    *at = digit;
    return fits ? value : COUNTER_UNKNOWN;
}

/* Skips words, whatever they are; FALSE where the line has fewer. */
static gboolean skip_words(const char **at, guint count)
{
    const char *word = skip_blanks(*at);

    for (; count > 0; count--) {
        if (*word == '\0' || *word == '\n')
            return FALSE;
        word += strcspn(word, " \t\n");
        word = skip_blanks(word);
    }
    *at = word;
    return TRUE;
}

static const char *next_line(const char *at)
{
    const char *end = strchr(at, '\n');

    return end ? end + 1 : NULL;
}

/* What is behind *key* in the line that begins with it; NULL: no line does. */
static const char *find_line(const char *text, const char *key)
{
    size_t length = strlen(key);

    for (const char *line = text; line; line = next_line(line))
        if (strncmp(line, key, length) == 0)
            return line + length;
    return NULL;
}

uint64_t keyed_text_get(const char *text, const char *key)
{
    size_t length = strlen(key);

    for (const char *line = text; line; line = next_line(line)) {
        const char *at = line + length;

        if (strncmp(line, key, length) == 0 && (*at == ' ' || *at == '\t'))
            return take_number(&at);
    }
    return COUNTER_UNKNOWN;
}

/* ---- the host ---- */

/* user nice system idle iowait irq softirq steal; guests' time is in user's. */
static uint64_t parse_busy(const char *at)
{
    enum { IDLE = 3, IOWAIT = 4, STEAL = 7, COUNT };
    uint64_t busy = 0;

    for (guint i = 0; i < COUNT; i++) {
        uint64_t ticks = take_number(&at);

        if (i != IDLE && i != IOWAIT && i != STEAL)
            busy = counter_add(busy, ticks);
    }
    return busy;
}

gboolean stat_text_parse(const char *text, StatText *ret)
{
    const char *all = find_line(text, "cpu ");

    if (!all)
        return FALSE;
    *ret =
        (StatText){.busy_ticks = parse_busy(all), .running = keyed_text_get(text, "procs_running")};
    for (const char *line = text; line; line = next_line(line))
        ret->cpus += strncmp(line, "cpu", 3) == 0 && g_ascii_isdigit(line[3]);
    return TRUE;
}

gboolean meminfo_text_parse(const char *text, MeminfoText *ret)
{
    *ret = (MeminfoText){
        .total = counter_scale(keyed_text_get(text, "MemTotal:"), KIB),
        .available = counter_scale(keyed_text_get(text, "MemAvailable:"), KIB),
        .swap_total = counter_scale(keyed_text_get(text, "SwapTotal:"), KIB),
        .swap_free = counter_scale(keyed_text_get(text, "SwapFree:"), KIB),
    };
    return ret->total != COUNTER_UNKNOWN;
}

static uint64_t parse_total(const char *line)
{
    const char *end, *total;

    if (!line)
        return COUNTER_UNKNOWN;
    end = strchrnul(line, '\n');
    total = strstr(line, " total=");
    if (!total || total > end)
        return COUNTER_UNKNOWN;
    total += strlen(" total=");
    return take_number(&total);
}

gboolean pressure_text_parse(const char *text, PressureText *ret)
{
    *ret = (PressureText){.some_us = parse_total(find_line(text, "some ")),
                          .full_us = parse_total(find_line(text, "full "))};
    return ret->some_us != COUNTER_UNKNOWN;
}

/* ---- processes ---- */

static uint64_t get_field(const char *fields, guint index)
{
    return skip_words(&fields, index) ? take_number(&fields) : COUNTER_UNKNOWN;
}

gboolean process_stat_text_parse(const char *text, ProcessStatText *ret)
{
    /* The name is the process's own choice, and may hold anything. */
    const char *name_end = strrchr(text, ')');

    if (!name_end)
        return FALSE;
    *ret = (ProcessStatText){
        .start_time = get_field(name_end + 1, FIELD_START),
        .cpu_ticks =
            counter_add(get_field(name_end + 1, FIELD_USER), get_field(name_end + 1, FIELD_SYSTEM)),
        .major_faults = get_field(name_end + 1, FIELD_MAJOR_FAULTS),
    };
    return ret->start_time != COUNTER_UNKNOWN;
}

gboolean process_memory_text_parse(const char *text, ProcessMemoryText *ret)
{
    *ret = (ProcessMemoryText){
        .resident = counter_scale(keyed_text_get(text, "VmRSS:"), KIB),
        .swapped = counter_scale(keyed_text_get(text, "VmSwap:"), KIB),
    };
    return ret->resident != COUNTER_UNKNOWN;
}

gboolean schedstat_text_parse(const char *text, SchedstatText *ret)
{
    ret->ran_ns = take_number(&text);
    ret->waited_ns = take_number(&text);
    return ret->ran_ns != COUNTER_UNKNOWN && ret->waited_ns != COUNTER_UNKNOWN;
}

gboolean tun_fdinfo_text_parse(const char *text, char ret[IFNAMSIZ])
{
    const char *name = find_line(text, "iff:");
    size_t length;

    if (!name)
        return FALSE;
    name = skip_blanks(name);
    length = strcspn(name, " \t\n");
    if (length == 0 || length >= IFNAMSIZ)
        return FALSE;
    memcpy(ret, name, length);
    ret[length] = '\0';
    return TRUE;
}

static const char *find_interface(const char *text, const char *name)
{
    size_t length = strlen(name);

    for (const char *line = text; line; line = next_line(line)) {
        const char *at = skip_blanks(line);

        if (strncmp(at, name, length) == 0 && at[length] == ':')
            return at + length + 1;
    }
    return NULL;
}

gboolean net_dev_text_find(const char *text, const char *name, NetDevText *ret)
{
    const char *columns = find_interface(text, name);

    if (!columns)
        return FALSE;
    *ret = (NetDevText){
        .received_bytes = get_field(columns, COLUMN_RECEIVED),
        .received_dropped = get_field(columns, COLUMN_RECEIVED_DROPPED),
        .sent_bytes = get_field(columns, COLUMN_SENT),
        .sent_dropped = get_field(columns, COLUMN_SENT_DROPPED),
    };
    return TRUE;
}

/* ---- control groups ---- */

uint64_t limit_text_parse(const char *text)
{
    return g_str_has_prefix(text, "max") ? G_MAXINT64 : take_number(&text);
}

double cpu_max_text_parse(const char *text)
{
    uint64_t quota = take_number(&text);
    uint64_t period = take_number(&text);

    if (quota == COUNTER_UNKNOWN || period == COUNTER_UNKNOWN || quota == 0 || period == 0)
        return FIGURE_UNKNOWN;
    return (double)quota / (double)period;
}

guint cpu_list_text_count(const char *text)
{
    enum { MOST = 1 << 16 };
    uint64_t count = 0;

    for (;;) {
        uint64_t first = take_number(&text), last = first;

        if (*text == '-') {
            text++;
            last = take_number(&text);
        }
        if (first > last || last >= MOST)
            return 0;
        count += last - first + 1;
        if (*text != ',' || count > MOST)
            return (*text == '\0' || *text == '\n') && count <= MOST ? (guint)count : 0;
        text++;
    }
}
