#include "vmm/qemu/cpu_features.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "state/cpu_feature_names.h"

#define MOST_WORDS 256

static json_t *get_property(Qmp *qmp, const char *path, const char *name, GError **error)
{
    return qmp_execute(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", name),
                       QMP_COMMAND_MS, error);
}

/* JSON null where QEMU says that there is no such thing. */
static json_t *null_if_unknown(GError *failure, GError **error)
{
    if (!error_is(failure, VMFERRY_ERROR_DISCONNECTED) &&
        !error_is(failure, VMFERRY_ERROR_TIMEOUT)) {
        g_error_free(failure);
        return json_null();
    }
    g_propagate_error(error, failure);
    return NULL;
}

json_t *qemu_query_cpu_features(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) cpus = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, error);
    const char *path = json_text_or(json_array_get(cpus, 0), "qom-path", NULL);
    g_autoptr(json_t) type = NULL, words = NULL;
    GError *failure = NULL;

    if (!cpus)
        return NULL;
    if (!path)
        return json_null();
    words = get_property(qmp, path, "feature-words", &failure);
    type = words ? get_property(qmp, path, "type", &failure) : NULL;
    if (!type)
        return null_if_unknown(failure, error);
    return json_pack("{s:O, s:O}", "type", type, "words", words);
}

typedef struct {
    uint64_t eax, ecx, features;
    const char *reg;
} Word;

static gboolean read_word(json_t *entry, Word *ret, GError **error)
{
    ret->ecx = json_count_or(entry, "cpuid-input-ecx", 0);
    return json_get_count(entry, "cpuid-input-eax", G_MAXUINT32, &ret->eax, error) &&
           json_get_count(entry, "features", G_MAXUINT32, &ret->features, error) &&
           json_get_text(entry, "cpuid-register", &ret->reg, error);
}

/* Of a word of the same place; 0 where there is none. */
static gboolean find_features(json_t *words, const Word *wanted, uint64_t *ret, GError **error)
{
    json_t *entry;
    size_t i;

    *ret = 0;
    json_array_foreach(words, i, entry)
    {
        Word word;

        if (!read_word(entry, &word, error))
            return FALSE;
        if (word.eax == wanted->eax && word.ecx == wanted->ecx &&
            strcmp(word.reg, wanted->reg) == 0)
            *ret |= word.features;
    }
    return TRUE;
}

static gboolean get_words(json_t *cpu, json_t **ret, GError **error)
{
    *ret = NULL;
    return !json_is_object(cpu) || json_get_array(cpu, "words", MOST_WORDS, ret, error);
}

GPtrArray *qemu_list_missing_features(json_t *source, json_t *here, GError **error)
{
    g_autoptr(GPtrArray) missing = g_ptr_array_new_with_free_func(g_free);
    json_t *words, *words_here, *entry;
    size_t i;

    if (!get_words(source, &words, error) || !get_words(here, &words_here, error))
        return NULL;
    if (!words || !words_here)
        return g_steal_pointer(&missing);
    json_array_foreach(words, i, entry)
    {
        uint64_t features;
        Word word;

        if (!read_word(entry, &word, error) || !find_features(words_here, &word, &features, error))
            return NULL;
        for (guint bit = 0; bit < 32; bit++)
            if ((word.features & ~features) >> bit & 1)
                g_ptr_array_add(missing,
                                cpu_feature_tell((guint)word.eax, (guint)word.ecx, word.reg, bit));
    }
    return g_steal_pointer(&missing);
}
