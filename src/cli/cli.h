/*
 * The vmferry command
 *
 * Theory of operation: main.c finds the verb; each verb has a file of its own
 * with a function of the type VerbMain that gets the arguments from the verb's
 * name on.  A verb parses its options with cli_parse(), asks the
 * agent (of this host, or of another) through client/client.h, and prints: for users by default, one JSON
 * object (or one a line) with --json.  Answers go to standard output, errors
 * and progress to standard error.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

#include "base/error.h"
#include "base/json.h"
#include "client/client.h"

/* A contract with scripts; see vmferry(1). */
typedef enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* and the guest still runs where it was */
    EXIT_USAGE = 2,
    EXIT_ATTENTION = 3, /* the guest's place changed, or is in doubt: needs attention */
    EXIT_ENDED = 4,     /* the guest has ended by itself meanwhile */
} CliExit;

typedef int (*VerbMain)(int argc, char **argv);

typedef struct {
    const char *name;
    const char *summary; /* one line for `vmferry help` */
    VerbMain main;
} Verb;

/* Options that verbs share. */
typedef struct {
    char *socket;
    char *host, *pki; /* the agent of another host */
    char *engine, *token_file;
    gboolean json;
} CommonOptions;

void common_options_clear(CommonOptions *common);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CommonOptions, common_options_clear)

typedef struct {
    const char *parameters;      /* "NAME HOST[:PORT]", for the usage line */
    const char *description;     /* the help's text */
    const GOptionEntry *entries; /* of this verb, or NULL */
    CommonOptions *common;       /* where --json and (with talks) --socket go */
    gboolean talks;              /* to the agent: takes --socket */
    gboolean remote;             /* also to one of another host: takes --host and --pki */
    gboolean engine;             /* to the engine: takes --engine, --token-file and --pki */
    gboolean stops_at_argument;  /* options end at the first other argument */
} CliSpec;

/* Parses and removes the options.  FALSE: EXIT_USAGE, after the error was
 * shown.  Prints the help and exits where it is asked for.  A verb does nothing
 * that can be noticed before it calls this. */
gboolean cli_parse(const CliSpec *spec, int *argc, char ***argv);

/* What a verb takes: {"verb", "summary", "arguments", "options": [{"name", "short", "value", "text"}]}, where "value" is
 * null for an option that takes none, a word for its kind (FILE), or what it may be (a|b|c).  A new object. */
json_t *cli_describe(const Verb *verb);

/* The agent that the options, or VMFERRY_HOST, name; by default this host's. */
Client *cli_connect(const CommonOptions *common, GError **error);

/* client_call() of that one.  *body* (may be NULL) is taken. */
json_t *cli_call(const CommonOptions *common, const char *method, const char *path, json_t *body,
                 GError **error);

/* The same for the engine. */
Client *cli_connect_engine(const CommonOptions *common, GError **error);
json_t *cli_call_engine(const CommonOptions *common, const char *method, const char *path,
                        json_t *body, GError **error);

/* TRUE where that is the agent of another host. */
gboolean cli_is_remote(const CommonOptions *common);

/* Shows a usage error of the running verb; returns EXIT_USAGE. */
int cli_usage_error(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* Checks that there are between *min* and *max* arguments behind the verb. */
gboolean cli_check_arguments(int argc, int min, int max, const char *wanted);

/* Adds what to do to an error of this kind: "(*hint*)" behind its text. */
void cli_add_hint(GError **error, VmferryErrorCode code, const char *hint);

/* Shows an error (on standard error; with --json also as an object on standard
 * output); returns EXIT_FAILED. */
int cli_fail(const CommonOptions *common, const GError *error);

/* Warns (on standard error) where the agent says that this guest of its answer
 * could not be moved. */
void cli_warn_not_movable(json_t *guest);

/* "/v1/guests/NAME" with *suffix* behind; NULL, after a usage error was shown, where the name is
 * not valid.  Free with g_free(). */
char *cli_guest_path(const char *name, const char *suffix);

/* Prints one line of JSON. */
void cli_print_json(json_t *object);

int verb_agent(int argc, char **argv);
int verb_pki(int argc, char **argv);
int verb_run(int argc, char **argv);
int verb_adopt(int argc, char **argv);
int verb_list(int argc, char **argv);
int verb_status(int argc, char **argv);
int verb_disk(int argc, char **argv);
int verb_image(int argc, char **argv);
int verb_state(int argc, char **argv);
int verb_debug(int argc, char **argv);
int verb_stop(int argc, char **argv);
int verb_events(int argc, char **argv);
int verb_migrate(int argc, char **argv);
int verb_save(int argc, char **argv);
int verb_restore(int argc, char **argv);
int verb_protect(int argc, char **argv);
int verb_unprotect(int argc, char **argv);
int verb_failover(int argc, char **argv);
int verb_bandwidth(int argc, char **argv);
int verb_estimate(int argc, char **argv);
int verb_cancel(int argc, char **argv);
int verb_resolve(int argc, char **argv);
int verb_check(int argc, char **argv);
int verb_top(int argc, char **argv);
int verb_engine(int argc, char **argv);
int verb_cluster(int argc, char **argv);
int verb_drain(int argc, char **argv);
int verb_undrain(int argc, char **argv);
int verb_freeze(int argc, char **argv);
int verb_thaw(int argc, char **argv);
int verb_rule(int argc, char **argv);
int verb_sla(int argc, char **argv);
