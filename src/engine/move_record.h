/*
 * One move, in the journal
 *
 * Theory of operation: what the engine is about to order is written down first, so that it can be told after a
 * crash what may be under way, and nothing is ordered twice:
 *
 *     INTENDED ──► ORDERED ──► COMPLETED | FAILED | CANCELLED | SPLIT
 *         │            └─────► LOST      (what came of it cannot be found out any more)
 *         └──► REFUSED                   (a precondition did not hold any more, or the agent said no)
 *         └──► ABANDONED                 (the engine ended in between; the agents know of no such move)
 *
 * INTENDED: the agent may have been told, or not.  It is settled by asking: a move of this guest (by id and
 * term) to this destination is this one.  Nothing else is begun with the guest until it is settled.
 * ORDERED: the agent has said which activity it is.
 */
#pragma once

#include "base/json.h"

typedef enum {
    MOVE_INTENDED,
    MOVE_ORDERED,
    MOVE_COMPLETED,
    MOVE_FAILED,
    MOVE_CANCELLED,
    MOVE_SPLIT, /* it runs at its destination, and lacks pages that are at its source */
    MOVE_LOST,
    MOVE_REFUSED,
    MOVE_ABANDONED,
} MoveState;

typedef enum { MOVE_BY_ENGINE, MOVE_BY_DRAIN, MOVE_BY_USER, MOVE_BY_OTHER } MoveBy;

typedef struct {
    gint64 id; /* 0: not in the store yet */
    char *guest, *guest_id;
    gint64 term;
    char *from, *to; /* names of hosts */
    MoveBy by;
    MoveState state;
    char *activity;                           /* its agent's id of it, or NULL */
    gint64 last_event;                        /* the agent's newest one before it was ordered */
    gint64 made_ms, ordered_ms, ended_ms;     /* wall clock; 0: not yet */
    char *problem;                            /* why it came to nothing, or NULL */
    json_t *forecast, *outcome, *explanation; /* objects, or NULL */
    gint64 lead_term; /* the term in which it is written (store.h); not part of the record */
    int hit;          /* whether the forecast came true: 1, 0; -1: not known (yet) */
} MoveRecord;

MoveRecord *move_record_new(const char *guest, const char *from, const char *to, MoveBy by);
MoveRecord *move_record_copy(const MoveRecord *record);
void move_record_free(MoveRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MoveRecord, move_record_free)

/* As GET /v1/moves shows it. */
json_t *move_record_to_json(const MoveRecord *record);

/* All of it, for a journal of texts (store_etcd.c), and back; NULL with *error*. */
json_t *move_record_encode(const MoveRecord *record);
MoveRecord *move_record_decode(json_t *object, GError **error);

/* TRUE while it is not settled. */
gboolean move_state_is_open(MoveState state);

const char *move_state_name(MoveState value);
gboolean move_state_from_name(const char *name, MoveState *ret);
const char *move_by_name(MoveBy value);
gboolean move_by_from_name(const char *name, MoveBy *ret);
