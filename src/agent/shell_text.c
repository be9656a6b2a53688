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

gboolean shell_text_has_loop(const char *text)
{
    gboolean at_command = TRUE;

    for (const char *at = text; *at;) {
        const char *end;
        g_autofree char *word = NULL;

        if (*at == '#') {
            at += strcspn(at, "\n");
        } else if (is_separator(*at)) {
            at_command = TRUE;
            at++;
        } else if (g_ascii_isspace(*at)) {
            at++;
        } else {
            end = skip_word(at);
            word = g_strndup(at, (gsize)(end - at));
            if (at_command && g_strv_contains(loops, word))
                return TRUE;
            at_command = at_command && g_strv_contains(openers, word);
            at = end;
        }
    }
    return FALSE;
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
