/*
 * A path's rate over time
 *
 * Theory of operation: a trace is a step function, from time 0 to its end, and then again from its
 * start.  What a line has carried until a time is an integral of it, kept as a sum for each step, so
 * that both questions (how much until then, when that much) are one binary search, and exact: work
 * is counted in bytes per second times nanoseconds, in 128 bits.
 *
 * The text, one step a line (`#` begins a comment):
 *
 *     0.0    12mbit       from this second on, as rates are written elsewhere; 0: nothing is carried
 *     0.5    900kbit
 *     60.0   end          the last line: the whole length
 */
#pragma once

#include <glib.h>

/* 1e-9 bytes. */
typedef unsigned __int128 LinkWork;

#define LINK_NS_PER_S G_GUINT64_CONSTANT(1000000000)

typedef struct LinkTrace LinkTrace;

/* NULL with *error*, which names the line.  Unref with link_trace_unref(). */
LinkTrace *link_trace_parse(const char *text, GError **error);
LinkTrace *link_trace_load(const char *path, GError **error);

LinkTrace *link_trace_ref(LinkTrace *trace);
void link_trace_unref(LinkTrace *trace); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LinkTrace, link_trace_unref)

guint64 link_trace_length_ns(const LinkTrace *trace);

/* The rate at a time since its start, in bytes per second. */
guint64 link_trace_rate(const LinkTrace *trace, guint64 time_ns);

/* What it carries from its start until *time_ns*. */
LinkWork link_trace_work(const LinkTrace *trace, guint64 time_ns);

/* The first nanosecond by which it has carried as much. */
guint64 link_trace_time(const LinkTrace *trace, LinkWork work);
