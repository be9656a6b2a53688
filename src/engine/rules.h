/*
 * Rules and promises, as users give them
 *
 * Theory of operation: a rule is read strictly (an unknown key is an error) and held against those that are
 * there (policy/cluster_rules.h): rules that cannot all be kept are refused, and the refusal names both.  Only strict
 * rules contradict each other: one that is preferred costs a placement something, and forbids none.
 */
#pragma once

#include "base/json.h"
#include "policy/cluster.h"

#define RULE_MAX_NAMES 256u
#define RULES_MAX 1024u

typedef enum { RULE_TOGETHER, RULE_APART, RULE_HOSTS, RULE_NEVER } RuleKind;

typedef struct {
    char *id; /* given by the store; NULL before */
    RuleKind kind;
    char **guests;
    char **hosts; /* of RULE_HOSTS; else empty */
    gboolean strict;
} Rule;

void rule_free(Rule *rule);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rule, rule_free)

/* The policy's; RULE_NEVER has none there. */
ClusterRuleKind rule_cluster_kind(RuleKind kind);

/* NULL with *error*. */
Rule *rule_from_json(json_t *object, GError **error);
json_t *rule_to_json(const Rule *rule);

/* "rule 3 (apart: a, b)"; free with g_free(). */
char *rule_describe(const Rule *rule);

/* FALSE with *error* where *rule* contradicts one of *rules* (of Rule; VMFERRY_ERROR_REFUSED, naming both), or names a
 * host that is none of *hosts* (names, NULL-terminated; VMFERRY_ERROR_NOT_FOUND). */
gboolean rules_agree(const GPtrArray *rules, const Rule *rule, const char *const *hosts,
                     GError **error);

/* {"cpu_wait": 0.05, "network_bytes_per_s": 25000000, "no_swap": true}; all may be left out. */
gboolean sla_from_json(json_t *object, ClusterSla *ret, GError **error);
json_t *sla_to_json(const ClusterSla *sla);
