#include "agent/shell_text.h"

#include <string.h>

/* ---- loops ---- */

static const char *const loops[] = {"while", "until", "for", NULL};

/* Behind these a command begins. */
static const char *const openers[] = {"do", "then", "else", "elif", "if", "!", "{", "time", NULL};

static gboolean is_separator(char c)
{
    return strchr("\n;&|()`", c) != NULL;
}

/* The end of what is quoted from *at* on; or of all. */
static const char *skip_quoted(const char *at)
{
    char quote = *at++;

    while (*at && *at != quote) {
        if (*at == '\\' && quote == '"' && at[1])
            at++;
        at++;
    }
    return *at ? at + 1 : at;
}

/* The end of the word at *at*, which may hold quoted parts. */
static const char *skip_word(const char *at)
{
    while (*at && !g_ascii_isspace(*at) && !is_separator(*at)) {
        if (*at == '\'' || *at == '"')
            at = skip_quoted(at);
        else if (*at == '\\' && at[1])
            at += 2;
        else
            at++;
    }
    return at;
}

/* ---- the script itself ---- */

/* What may stand before a command that is run in their stead. */
static const char *const runners[] = {
    "exec", ".",     "source", "command", "eval", "sh",     "bash", "dash",    "ash",  "ksh",
    "zsh",  "nohup", "setsid", "env",     "nice", "ionice", "time", "timeout", "sudo", NULL,
};

static gboolean is_zero(const char *word)
{
    static const char *const names[] = {
        "$0", "${0}", "$BASH_SOURCE", "${BASH_SOURCE}", "${BASH_SOURCE[0]}", NULL,
    };

    return g_strv_contains(names, word);
}

static gboolean is_own_name(const char *word, const char *own_name)
{
    g_autofree char *name = g_path_get_basename(word);

    return strcmp(name, own_name) == 0;
}

/* An option, a number, an assignment: the command is still to come. */
static gboolean is_before_command(const char *word)
{
    return g_strv_contains(runners, word) || word[0] == '-' || g_ascii_isdigit(word[0]) ||
           strchr(word, '=');
}

/* ---- reading a script ---- */

/* After || these start nothing. */
static const char *const harmless[] = {
    "exit", "return", "true",  "false",    ":",      "echo", "printf",
    "[",    "[[",     "break", "continue", "logger", "test", NULL,
};

typedef struct {
    char *name;
    guint depth; /* of its braces */
} Body;

typedef struct {
    const char *own_name; /* of the script; NULL: $0 is something else */
    gboolean at_command;
    gboolean in_runner; /* the command that a runner runs is still to come */
    gboolean runs;      /* a runner's command line */
    gboolean after_or;
    char *defined; /* a function's name whose body is still to come */
    guint depth;
    GArray *bodies; /* those that are open */
} Reader;

static void clear_body(gpointer data)
{
    g_free(((Body *)data)->name);
}

static gboolean calls_itself(const Reader *reader, const char *word)
{
    for (guint i = 0; i < reader->bodies->len; i++)
        if (strcmp(g_array_index(reader->bodies, Body, i).name, word) == 0)
            return TRUE;
    return FALSE;
}

static void open_brace(Reader *reader)
{
    Body body = {g_steal_pointer(&reader->defined), ++reader->depth};

    if (body.name)
        g_array_append_val(reader->bodies, body);
}

static void close_brace(Reader *reader)
{
    guint last = reader->bodies->len;

    if (last > 0 && g_array_index(reader->bodies, Body, last - 1).depth == reader->depth)
        g_array_set_size(reader->bodies, last - 1);
    reader->depth -= reader->depth > 0;
}

static const char *judge_command(const Reader *reader, const char *word)
{
    if (g_strv_contains(loops, word))
        return "runs it in a loop";
    if (calls_itself(reader, word))
        return "runs it in a function that calls itself";
    if (reader->after_or && !g_strv_contains(harmless, word))
        return "runs something else when it fails (||)";
    return NULL;
}

static gboolean starts_script(const Reader *reader, const char *word)
{
    gboolean first = reader->at_command || reader->in_runner;

    return reader->own_name && (first || reader->runs) &&
           (is_zero(word) || (first && is_own_name(word, reader->own_name)));
}

/* One word with what follows it; quotes are gone. */
static const char *read_word(Reader *reader, const char *word, const char *rest)
{
    const char *found = reader->at_command ? judge_command(reader, word) : NULL;
    gboolean defines = reader->at_command && g_str_has_prefix(rest + strspn(rest, " \t"), "(");

    if (found)
        return found;
    if (!defines && starts_script(reader, word))
        return "starts itself again";
    if (reader->at_command && strcmp(word, "{") == 0)
        open_brace(reader);
    else if (reader->at_command && strcmp(word, "}") == 0)
        close_brace(reader);
    else if (defines || (reader->at_command && strcmp(word, "function") == 0)) {
        g_free(reader->defined);
        reader->defined = defines ? g_strdup(word) : g_strdup("");
        return NULL; /* "function": its name comes at a command's place */
    } else if (reader->defined && !*reader->defined) {
        g_free(reader->defined);
        reader->defined = g_strdup(word);
        return NULL;
    }
    reader->runs = reader->runs || (reader->at_command && g_strv_contains(runners, word));
    reader->in_runner =
        reader->runs && (reader->at_command || reader->in_runner) && is_before_command(word);
    reader->at_command = reader->at_command && g_strv_contains(openers, word);
    reader->after_or = FALSE;
    return NULL;
}

static const char *read_separator(Reader *reader, const char *at)
{
    gboolean is_or = at[0] == '|' && at[1] == '|';

    reader->at_command = TRUE;
    reader->in_runner = reader->runs = FALSE;
    reader->after_or = reader->after_or || is_or;
    return at + (is_or ? 2 : 1);
}

static char *copy_word(const char *from, const char *to)
{
    GString *word = g_string_new(NULL);

    for (; from < to; from++)
        if (*from != '"')
            g_string_append_c(word, *from);
    return g_string_free(word, FALSE);
}

static const char *read_text(Reader *reader, const char *text)
{
    const char *found = NULL;

    for (const char *at = text; *at && !found;) {
        const char *end = skip_word(at);

        if (*at == '#') {
            at += strcspn(at, "\n");
        } else if (is_separator(*at)) {
            at = read_separator(reader, at);
        } else if (g_ascii_isspace(*at)) {
            at++;
        } else {
            g_autofree char *word = copy_word(at, end);

            found = read_word(reader, word, end);
            at = end;
        }
    }
    return found;
}

const char *shell_text_find_repeat(const char *text, const char *own_name)
{
    Reader reader = {.own_name = own_name, .at_command = TRUE};
    const char *found;

    reader.bodies = g_array_new(FALSE, FALSE, sizeof(Body));
    g_array_set_clear_func(reader.bodies, clear_body);
    found = read_text(&reader, text);
    g_array_unref(reader.bodies);
    g_free(reader.defined);
    return found;
}

/* ---- command lines ---- */

/* Options whose value is a word of its own. */
static gboolean takes_word(const char *option)
{
    static const char *const names[] = {"-o", "+o", "-O", "+O", "--rcfile", "--init-file", NULL};

    return g_strv_contains(names, option);
}

static gboolean is_short_option_with(const char *word, char letter)
{
    return word[0] == '-' && word[1] != '-' && strchr(word, letter);
}

ShellKind shell_kind(char *const *argv, const char **ret_what)
{
    gboolean text = FALSE, interactive = FALSE, input = FALSE;
    guint at = argv[0] ? 1 : 0;

    *ret_what = NULL;
    for (; argv[at] && (argv[at][0] == '-' || argv[at][0] == '+'); at++) {
        if (strcmp(argv[at], "--") == 0 || strcmp(argv[at], "-") == 0) {
            at++;
            break;
        }
        if (takes_word(argv[at]) && argv[at + 1]) {
            at++;
            continue;
        }
        text = text || is_short_option_with(argv[at], 'c');
        interactive = interactive || is_short_option_with(argv[at], 'i');
        input = input || is_short_option_with(argv[at], 's');
    }
    if (text || (argv[at] && !input)) {
        *ret_what = argv[at];
        return text ? SHELL_TEXT : SHELL_SCRIPT;
    }
    return interactive ? SHELL_INTERACTIVE : SHELL_INPUT;
}
