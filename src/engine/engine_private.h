/* What the parts of the engine share; see engine.h. */
#pragma once

#include "engine/engine.h"
#include "engine/executor.h"
#include "engine/model.h"
#include "engine/planner.h"
#include "engine/poller.h"
#include "engine/store.h"
#include "policy/cluster_govern.h"

/* Of each host: sums of a minute's figures, for the history. */
typedef struct {
    gint64 minute;
    guint count[4];
    double sum[4]; /* CPU, memory, network, pressure */
} EngineMinute;

/* The newest figures in short steps, of the last hour. */
#define ENGINE_RING_STEP_S 10
#define ENGINE_RING_LENGTH 360
typedef struct {
    HistoryPoint points[ENGINE_RING_LENGTH];
    guint first, length;
} EngineRing;

/* What a move is expected to cost, as its agent says. */
typedef struct {
    double ms, bytes, pause_ms;
    double asked_ms;
    gboolean pending;
} EngineEstimate;

/* A host that would not take a guest. */
typedef struct {
    guint host;
    double until_ms;
} EngineClosed;

/* A move of a plan that is to follow another one. */
typedef struct EnginePending EnginePending;
struct EnginePending {
    MoveRecord *record;
    gint64 after;
    EnginePending *next; /* what is to follow this one, or NULL */
};

typedef struct {
    ClusterGovernor governor;
    GHashTable *missed; /* names of guests that missed their SLA when it began */
    /* What its agent said when its rate was made lower last: what it takes is measured from there. */
    double since_ms, since_bytes;
} EngineGoverned;

struct Engine {
    const EngineSettings *settings;
    EngineStore *store;
    EventLog *events;
    Executor *executor;
    Poller *poller;
    GThreadPool *estimators;
    GCancellable *stop; /* cancelled when it ends: no agent is waited for any more */

    GMutex lock; /* of all below */
    GCond wake;
    gboolean stopping;
    Model *model;
    GPtrArray *rules;      /* of Rule */
    GHashTable *slas;      /* guest → ClusterSla */
    GHashTable *frozen;    /* guest ("": all) → reason */
    GHashTable *drained;   /* set of hosts */
    GPtrArray *recent;     /* of MoveRecord that have ended in the last day, the newest last */
    GHashTable *estimates; /* guest's id → EngineEstimate */
    GHashTable *closed;    /* guest's id → GArray of EngineClosed */
    GHashTable *governed;  /* move's id → EngineGoverned */
    GPtrArray *pending;    /* of EnginePending */
    EngineMinute *minutes; /* a host */
    EngineRing *rings;     /* a host */
    EnginePlan *plan; /* the newest, or NULL; its names may be gone: what is shown of it is below */
    json_t *plan_json;
    json_t *hot; /* a list of texts a host */
    double plan_wall;
    double thought_ms; /* how long the newest took */
    double since_wall;
    char *broken; /* why the store cannot be written to, or NULL */
    /* Who leads (engine_lead.c): */
    gint64 lead_term; /* of the store's, whose moves this engine follows; 0: another engine's */
    gboolean leader;  /* and it is sure of it */
    char *standing;   /* why it is not, or NULL */
    char *led_by;     /* whoever leads, of several; or NULL */
    guint lease_left_ms;
    gint64 pruned_s; /* wall clock */
    double kept_ms;  /* when engine_keep_daily() wrote last */

    GThread *thinker;
};

/* ---- with the engine's lock held ---- */

/* A view of now; *except*: a move that is not counted (0: none); *thaws*: as if nothing was frozen. */
EngineView *engine_make_view(Engine *engine, gint64 except, gboolean thaws);

/* The limits of now; *by*: what binds depends on who wants the move. */
ClusterLimits engine_limits(Engine *engine, MoveBy by);

/* Why nothing is begun by itself; NULL: it may be.  Borrowed. */
const char *engine_find_hold(Engine *engine);
/* The same of what users order. */
const char *engine_find_bar(Engine *engine);
/* A user wants that, or the store fails: whether or not it leads. */
gboolean engine_is_frozen(const Engine *engine);

/* engine_lead.c: what users have said, and where it does not lead the moves of the last day, as the store has them. */
gboolean engine_reload(Engine *engine, GError **error);

/* Of MoveRecord: the moves under way, whoever follows them; free with g_ptr_array_unref(). */
GPtrArray *engine_list_open(Engine *engine);

/* The frozen guests and drained hosts, as the model has them. */
void engine_apply_wishes(Engine *engine);

MoveRecord *engine_make_record(Engine *engine, const ModelGuest *guest, guint to, MoveBy by);

/* The most that a move between these hosts may take, bytes/s; 0: not known. */
double engine_bandwidth(Engine *engine, guint from, guint to);

/* With what it begins, by what their guests leave free; 0: not known. */
double engine_first_rate(Engine *engine, guint from, guint to);

void engine_pending_free(gpointer pending);

/* Has the guest's agent asked, soon, what a move there would cost. */
void engine_ask_estimate(Engine *engine, const ModelGuest *guest, guint to);

/* engine_past.c: the host's newest figures into its history. */
void engine_note_history(Engine *engine, guint index);

/* ---- without ---- */

/* engine_past.c: what was at which hour of the day, read at the start … */
gboolean engine_read_daily(Engine *engine, GError **error);
/* … and written once an hour, or *at_once*; what is too old to be kept goes then. */
void engine_keep_daily(Engine *engine, gboolean at_once);

/* engine_think.c: once a second. */
void engine_think(Engine *engine);

/* engine_lead.c: before that: reads what others have written, and notices who leads; leads itself, or stands down.  FALSE
 * with *error*: what the store has cannot be used.  One that does not answer is no error: the engine waits. */
gboolean engine_follow_store(Engine *engine, GError **error);

/* The executor's hooks (engine_govern.c has the third). */
gboolean engine_find_host(const char *host, char **ret_address, char **ret_moves_to, gpointer user,
                          GError **error);
gboolean engine_check_move(const MoveRecord *record, gpointer user, GError **error);
void engine_govern_move(const MoveRecord *record, json_t *progress, ExecutorWord *word,
                        gpointer user);
void engine_note_move(const MoveRecord *record, gpointer user);

/* In ms since 1970, by the wall clock as it was when this was first called and CLOCK_BOOTTIME since: never jumps. */
double engine_now_ms(void);
/* Since 1970. */
gint64 engine_wall_ms(void);
