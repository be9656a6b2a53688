#include <stdio.h>

#include "base/json.h"
#include "cli/check.h"

struct Findings {
    json_t *list;
    gboolean bad;
};

static const char *const grade_names[] = {
    [FINDING_GOOD] = "ok",
    [FINDING_NOTE] = "note",
    [FINDING_BAD] = "problem",
};

Findings *findings_new(void)
{
    Findings *findings = g_new0(Findings, 1);

    findings->list = json_array();
    return findings;
}

void findings_free(Findings *findings)
{
    if (!findings)
        return;
    json_decref(findings->list);
    g_free(findings);
}

void findings_add(Findings *findings, const char *topic, FindingGrade grade, const char *detail,
                  const char *advice)
{
    g_autofree char *shown = g_utf8_make_valid(detail, -1);

    json_array_append_new(findings->list,
                          json_pack("{s:s, s:s, s:s, s:s?}", "topic", topic, "grade",
                                    grade_names[grade], "detail", shown, "advice", advice));
    findings->bad |= grade == FINDING_BAD;
}

void findings_print(Findings *findings, const char *verdict)
{
    json_t *finding;
    size_t i;

    json_array_foreach(findings->list, i, finding)
    {
        const char *advice = json_text_or(finding, "advice", NULL);

        printf("%-8s %-18s %s\n", json_text_or(finding, "grade", ""),
               json_text_or(finding, "topic", ""), json_text_or(finding, "detail", ""));
        if (advice)
            printf("%-8s %-18s -> %s\n", "", "", advice);
    }
    printf("\n%s\n", verdict);
}

json_t *findings_to_json(Findings *findings)
{
    return json_pack("{s:O, s:b}", "findings", findings->list, "moves_possible", !findings->bad);
}

json_t *findings_to_path_json(Findings *findings, json_t *report)
{
    json_object_set(report, "findings", findings->list);
    json_object_set_new(report, "path_usable", json_boolean(!findings->bad));
    return report;
}

gboolean findings_are_good(Findings *findings)
{
    return !findings->bad;
}
