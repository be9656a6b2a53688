/*
 * The control engine: sees hot spots, decides, moves, and says why
 *
 * Theory of operation:
 *
 *     poller ──► Model ──► planner ──► plan ──────────────► executor ──► source's agent
 *     (a thread   (model.h)  (planner.h: can do nothing)     (executor.h: a thread a move)
 *      a host)                                   │             │
 *                                                ▼             ▼
 *                                          GET /v1/plan      journal (store.h)
 *
 * A thread "thinks" once a second: it finds the hosts' problems, sees moves that nobody here has ordered, makes a plan,
 * and, where the engine may act, hands the executor what is to be done: first the steps of hosts that are drained, then
 * the plan's.  It may not act while it is frozen (by a user, or because its store cannot be written to), not `automatic`,
 * or not the leader.
 *
 * Of several engines one leads (leadership.h; store.h says what they share): it alone does that, and notices what others do
 * to guests.  The others look, plan and show the same.  Once a second, before it thinks, each reads what others have
 * written and sees who leads (engine_lead.c): one that has come to lead takes up what the journal has open, as after a
 * restart; one that does not any more lets go of its moves.  While etcd does not answer it keeps following them, begins
 * nothing once its lease is over, and writes their outcome down later.
 *
 * One lock holds the model, the plan and what users have said; it is never held across a request to an agent.  Order of
 * locks: engine, executor, store.
 *
 * Limits: with etcd a user's change, and what the leader notes of others, is written with that lock held, for up to a third
 * of the lease, at most 3 s, where etcd has just gone.  A thread a host.  What a guest needed at which hour of the day is written once an hour and
 * when the engine ends: one that is killed has lost up to an hour of that.
 */
#pragma once

#include "agent/events.h"
#include "base/json.h"
#include "engine/settings.h"

typedef struct Engine Engine;

/* Opens the store, takes up what the journal has open, begins to look.  *settings* must outlive it. */
Engine *engine_new(const EngineSettings *settings, GError **error);
void engine_free(Engine *engine);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Engine, engine_free)

EventLog *engine_get_events(Engine *engine);

/* ---- what there is (engine_view.c): objects as docs/api-engine.md shows them ---- */

json_t *engine_show_cluster(Engine *engine);
json_t *engine_show_hosts(Engine *engine);
json_t *engine_show_guests(Engine *engine);
json_t *engine_show_plan(Engine *engine);
json_t *engine_show_moves(Engine *engine, GError **error);
json_t *engine_show_move(Engine *engine, gint64 id, GError **error);
json_t *engine_show_history(Engine *engine, const char *host, guint minutes, GError **error);
json_t *engine_show_rules(Engine *engine);
json_t *engine_show_slas(Engine *engine);

/* Prometheus' text format (engine_metrics.c); free with g_free(). */
char *engine_show_metrics(Engine *engine);

/* ---- what users want (engine_wishes.c) ---- */

json_t *engine_drain(Engine *engine, const char *host, gboolean dry_run, GError **error);
json_t *engine_undrain(Engine *engine, const char *host, GError **error);

/* *guest* NULL: all of them. */
json_t *engine_freeze(Engine *engine, const char *guest, GError **error);
json_t *engine_thaw(Engine *engine, const char *guest, GError **error);

json_t *engine_order_move(Engine *engine, const char *guest, const char *to, GError **error);
json_t *engine_cancel_move(Engine *engine, gint64 id, GError **error);

json_t *engine_add_rule(Engine *engine, json_t *object, GError **error);
json_t *engine_remove_rule(Engine *engine, const char *id, GError **error);
json_t *engine_set_sla(Engine *engine, const char *guest, json_t *object, GError **error);
