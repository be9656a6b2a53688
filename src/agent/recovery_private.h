/* The steps of care, shared by its files. */
#pragma once

#include "agent/recovery.h"

typedef enum {
    CARE_AGAIN, /* not settled: try again later */
    CARE_DONE,  /* settled; the claim is given back or the guest removed */
} CareVerdict;

typedef struct {
    AgentContext *context;
    Guest *guest;
    guint attempts;
    Decision seen_decision; /* when the present step began */
    gboolean told;          /* that it is in doubt */
    gboolean cleaned;       /* of what a dead agent left in it */
} Care;

/* It is ours and runs (is resumed first where that is needed). */
CareVerdict care_keep(Care *care, const char *why, GError **error);

/* The process is gone (its pid may be somebody else's by now). */
CareVerdict care_forget(Care *care, const char *type, const char *why);

/* Ends our copy and forgets the guest. */
CareVerdict care_let_go(Care *care, const char *type, const char *why, GError **error);

/* Makes sure that the VMM answers. */
gboolean care_reach(Care *care, GError **error);

/* HANDING_OVER and IN_DOUBT (recovery_in_doubt.c). */
CareVerdict care_settle_doubt(Care *care, GError **error);

/* INCOMING (recovery_incoming.c). */
CareVerdict care_settle_incoming(Care *care, GError **error);
CareVerdict care_incoming_gone(Care *care);
