#include "migrate/etcd.h"

#include <curl/curl.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "wire/address.h"

#define NS_PER_MS ((uint64_t)1000000)
#define MAX_SHOWN_BYTES 200

struct Etcd {
    GPtrArray *endpoints; /* of URLs */
    guint current;        /* the one that answered last */
    CURL *curl;
    struct curl_slist *headers;
    GString *body; /* of the answer that comes */
    size_t limit;  /* of its bytes */
};

/* ---- addresses ---- */

gboolean etcd_is_address(const char *address)
{
    return address && g_str_has_prefix(address, ETCD_SCHEME);
}

static gboolean add_endpoint(GPtrArray *endpoints, const char *text, GError **error)
{
    g_auto(Address) address = {0};

    if (!address_parse(text, ETCD_DEFAULT_PORT, &address, error))
        return FALSE;
    if (strpbrk(address.host, "@?#%\\\"<>")) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not the name of a host", address.host);
        return FALSE;
    }
    g_ptr_array_add(endpoints, g_strdup_printf("http://%s", address.label));
    return TRUE;
}

static GPtrArray *parse_endpoints(const char *address, GError **error)
{
    g_autoptr(GPtrArray) endpoints = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) texts = NULL;

    if (!etcd_is_address(address)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an address of etcd (%sHOST)",
                  address, ETCD_SCHEME);
        return NULL;
    }
    texts = g_strsplit(address + strlen(ETCD_SCHEME), ",", ETCD_MAX_ENDPOINTS + 1);
    if (g_strv_length(texts) > ETCD_MAX_ENDPOINTS) {
        error_set(error, VMFERRY_ERROR_INVALID, "at most %d members of etcd are asked",
                  ETCD_MAX_ENDPOINTS);
        return NULL;
    }
    for (guint i = 0; texts[i]; i++)
        if (!add_endpoint(endpoints, texts[i], error)) {
            g_prefix_error(error, "\"%s\": ", address);
            return NULL;
        }
    return g_steal_pointer(&endpoints);
}

gboolean etcd_address_check(const char *address, GError **error)
{
    g_autoptr(GPtrArray) endpoints = parse_endpoints(address, error);

    return endpoints && endpoints->len > 0;
}

/* ---- what is sent ---- */

static json_t *make_key(const char *key)
{
    g_autofree char *text = g_base64_encode((const guchar *)key, strlen(key));

    return json_pack("{s:s}", "key", text);
}

static json_t *make_compare(const EtcdKey *key)
{
    char revision[24];
    json_t *compare = make_key(key->key);

    g_snprintf(revision, sizeof revision, "%" G_GUINT64_FORMAT, key->revision);
    json_object_set_new(compare, "target", json_string("MOD"));
    json_object_set_new(compare, "result", json_string("EQUAL"));
    json_object_set_new(compare, "mod_revision", json_string(revision));
    return compare;
}

static json_t *make_write(const EtcdKey *key)
{
    json_t *write = make_key(key->key);
    g_autofree char *text = NULL;

    if (!key->value)
        return json_pack("{s:o}", "request_delete_range", write);
    text = g_base64_encode((const guchar *)key->value, strlen(key->value));
    json_object_set_new(write, "value", json_string(text));
    return json_pack("{s:o}", "request_put", write);
}

static json_t *make_read(const EtcdKey *key)
{
    return json_pack("{s:o}", "request_range", make_key(key->key));
}

static gboolean writes_any(const EtcdKey *keys, guint count)
{
    for (guint i = 0; i < count; i++)
        if (keys[i].is_written)
            return TRUE;
    return FALSE;
}

char *etcd_transaction_encode(const EtcdKey *keys, guint count)
{
    json_t *compares = json_array(), *writes = json_array(), *reads = json_array();
    g_autoptr(json_t) object = NULL;

    for (guint i = 0; i < count; i++) {
        if (keys[i].is_compared)
            json_array_append_new(compares, make_compare(&keys[i]));
        if (keys[i].is_written)
            json_array_append_new(writes, make_write(&keys[i]));
        json_array_append_new(reads, make_read(&keys[i]));
    }
    object = json_pack("{s:o, s:O, s:o}", "compare", compares, "success",
                       json_array_size(writes) > 0 ? writes : reads, "failure", reads);
    json_decref(writes);
    return json_dumps(object, JSON_LINE);
}

/* ---- what comes ---- */

void etcd_answer_clear(EtcdAnswer *answer)
{
    for (guint i = 0; i < ETCD_MAX_KEYS; i++)
        g_free(answer->entries[i].value);
    *answer = (EtcdAnswer){0};
}

gboolean etcd_get_number(json_t *object, const char *key, uint64_t max, uint64_t *ret,
                         GError **error)
{
    const char *text;
    guint64 number;

    *ret = 0;
    if (!json_object_get(object, key))
        return TRUE;
    if (!json_get_text(object, key, &text, error))
        return FALSE;
    if (!g_ascii_isdigit(text[0]) || !g_ascii_string_to_unsigned(text, 10, 0, max, &number, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a number", key);
        return FALSE;
    }
    *ret = number;
    return TRUE;
}

static gboolean get_revision(json_t *object, const char *key, uint64_t *ret, GError **error)
{
    if (!etcd_get_number(object, key, G_MAXINT64, ret, error))
        return FALSE;
    if (*ret > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing", key);
    return FALSE;
}

guchar *etcd_get_bytes(json_t *object, const char *key, size_t limit, size_t *ret_length,
                       GError **error)
{
    const char *text = json_text_or(object, key, "");
    g_autofree guchar *bytes = NULL;
    g_autofree char *again = NULL;

    if (strlen(text) / 2 > limit) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is too long", key);
        return NULL;
    }
    bytes = g_base64_decode(text, ret_length);
    again = g_base64_encode(bytes, *ret_length);
    if (strcmp(again, text) == 0 && *ret_length <= limit)
        return g_steal_pointer(&bytes);
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not base64, or too long", key);
    return NULL;
}

static gboolean is_key(json_t *object, const char *expected, GError **error)
{
    size_t length = 0;
    g_autofree guchar *key = etcd_get_bytes(object, "key", ETCD_MAX_VALUE_BYTES, &length, error);

    if (!key)
        return FALSE;
    if (length == strlen(expected) && memcmp(key, expected, length) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "another key than %s", expected);
    return FALSE;
}

static gboolean decode_entry(json_t *object, const char *key, EtcdEntry *ret, GError **error)
{
    guchar *value;

    if (!is_key(object, key, error) || !get_revision(object, "mod_revision", &ret->revision, error))
        return FALSE;
    value = etcd_get_bytes(object, "value", ETCD_MAX_VALUE_BYTES, &ret->length, error);
    if (!value)
        return FALSE;
    ret->value = g_strndup((const char *)value, ret->length);
    g_free(value);
    return TRUE;
}

static gboolean decode_read(json_t *response, const char *key, EtcdEntry *ret, GError **error)
{
    json_t *range = json_object_get(response, "response_range");
    json_t *kvs = NULL;

    if (!json_is_object(range)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"response_range\" is missing");
        return FALSE;
    }
    if (!json_object_get(range, "kvs"))
        return TRUE;
    if (!json_get_array(range, "kvs", 1, &kvs, error))
        return FALSE;
    return json_array_size(kvs) == 0 || decode_entry(json_array_get(kvs, 0), key, ret, error);
}

static gboolean decode_reads(json_t *object, const EtcdKey *keys, guint count, EtcdAnswer *ret,
                             GError **error)
{
    json_t *responses;

    if (!json_get_array(object, "responses", count, &responses, error))
        return FALSE;
    if (json_array_size(responses) != count) {
        error_set(error, VMFERRY_ERROR_INVALID, "fewer answers than questions");
        return FALSE;
    }
    for (guint i = 0; i < count; i++)
        if (!decode_read(json_array_get(responses, i), keys[i].key, &ret->entries[i], error))
            return FALSE;
    return TRUE;
}

static gboolean decode_header(json_t *object, EtcdAnswer *ret, GError **error)
{
    json_t *header = json_object_get(object, "header");

    if (!json_is_object(header)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"header\" is missing");
        return FALSE;
    }
    if (!etcd_get_number(header, "cluster_id", G_MAXUINT64, &ret->cluster, error) ||
        !get_revision(header, "revision", &ret->revision, error))
        return FALSE;
    if (ret->cluster > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"cluster_id\" is missing");
    return FALSE;
}

static gboolean decode_outcome(json_t *object, const EtcdKey *keys, guint count, EtcdAnswer *ret,
                               GError **error)
{
    json_t *succeeded = json_object_get(object, "succeeded");

    if (succeeded && !json_is_boolean(succeeded)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"succeeded\" is neither true nor false");
        return FALSE;
    }
    ret->written = json_is_true(succeeded) && writes_any(keys, count);
    return ret->written || decode_reads(object, keys, count, ret, error);
}

gboolean etcd_answer_decode(const char *text, size_t length, const EtcdKey *keys, guint count,
                            EtcdAnswer *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, ETCD_MAX_ANSWER_BYTES, error);

    *ret = (EtcdAnswer){0};
    if (object && decode_header(object, ret, error) &&
        decode_outcome(object, keys, count, ret, error))
        return TRUE;
    etcd_answer_clear(ret);
    return FALSE;
}

/* ---- one request ---- */

/* Of a member that has no leader, no room, or has never heard of such a request. */
static void error_from_status(Etcd *etcd, long status, GError **error)
{
    g_autoptr(json_t) object =
        json_parse_object(etcd->body->str, etcd->body->len, ETCD_MAX_ANSWER_BYTES, NULL);
    g_autofree char *shown = g_strndup(json_text_or(object, "error", ""), MAX_SHOWN_BYTES);
    g_autofree char *text = g_strescape(shown, NULL);

    error_set(error, VMFERRY_ERROR_FAILED, "HTTP status %ld%s%s", status, *text ? ": " : "", text);
}

static void error_from_curl(CURLcode code, GError **error)
{
    VmferryErrorCode ours = code == CURLE_OPERATION_TIMEDOUT ? VMFERRY_ERROR_TIMEOUT
                            : code == CURLE_WRITE_ERROR      ? VMFERRY_ERROR_INVALID
                                                             : VMFERRY_ERROR_DISCONNECTED;

    error_set(error, ours, "%s",
              code == CURLE_WRITE_ERROR ? "its answer is too long" : curl_easy_strerror(code));
}

static gboolean post(Etcd *etcd, const char *path, const char *text, int timeout_ms, GError **error)
{
    g_autofree char *url = g_strconcat(etcd->endpoints->pdata[etcd->current], path, NULL);
    CURLcode code;
    long status = 0;

    g_string_truncate(etcd->body, 0);
    curl_easy_setopt(etcd->curl, CURLOPT_URL, url);
    curl_easy_setopt(etcd->curl, CURLOPT_POSTFIELDS, text);
    curl_easy_setopt(etcd->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(etcd->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
    code = curl_easy_perform(etcd->curl);
    if (code != CURLE_OK) {
        error_from_curl(code, error);
        return FALSE;
    }
    curl_easy_getinfo(etcd->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200)
        return TRUE;
    error_from_status(etcd, status, error);
    return FALSE;
}

static int left_ms(uint64_t end_ns)
{
    uint64_t now = clock_now_ns();

    return now < end_ns ? (int)((end_ns - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
}

/* Whether what has come is an answer; it goes to *user*. */
typedef gboolean (*Accept)(Etcd *etcd, gpointer user, GError **error);

/* One member after the other, until one's answer is accepted. */
static gboolean ask_members(Etcd *etcd, const char *path, const char *text, uint64_t end_ns,
                            uint64_t *ret_sent_ns, Accept accept, gpointer user, GError **error)
{
    guint endpoints = etcd->endpoints->len;
    g_autoptr(GError) failure = NULL;

    for (guint tried = 0; tried < endpoints && left_ms(end_ns) > 0; tried++) {
        int share_ms = MAX(left_ms(end_ns) / (int)(endpoints - tried), 1);

        g_clear_error(&failure);
        *ret_sent_ns = clock_boot_ns();
        if (post(etcd, path, text, share_ms, &failure) && accept(etcd, user, &failure))
            return TRUE;
        etcd->current = (etcd->current + 1) % endpoints;
    }
    if (failure)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        error_set(error, VMFERRY_ERROR_TIMEOUT, "no answer in time");
    return FALSE;
}

typedef struct {
    const EtcdKey *keys;
    guint count;
    EtcdAnswer *answer;
} Commit;

static gboolean accept_commit(Etcd *etcd, gpointer user, GError **error)
{
    const Commit *commit = user;

    return etcd_answer_decode(etcd->body->str, etcd->body->len, commit->keys, commit->count,
                              commit->answer, error);
}

gboolean etcd_commit(Etcd *etcd, const EtcdKey *keys, guint count, uint64_t end_ns,
                     uint64_t *ret_sent_ns, EtcdAnswer *ret, GError **error)
{
    g_autofree char *text = etcd_transaction_encode(keys, count);
    Commit commit = {keys, count, ret};

    *ret = (EtcdAnswer){0};
    etcd->limit = ETCD_MAX_ANSWER_BYTES;
    return ask_members(etcd, "/v3/kv/txn", text, end_ns, ret_sent_ns, accept_commit, &commit,
                       error);
}

static gboolean accept_object(Etcd *etcd, gpointer user, GError **error)
{
    json_t **ret = user;

    *ret = json_parse_object(etcd->body->str, etcd->body->len, etcd->limit, error);
    return *ret != NULL;
}

json_t *etcd_request(Etcd *etcd, const char *path, json_t *body, size_t limit, uint64_t end_ns,
                     uint64_t *ret_sent_ns, GError **error)
{
    char *text = json_dumps(body, JSON_LINE);
    json_t *answer = NULL;

    etcd->limit = limit;
    ask_members(etcd, path, text, end_ns, ret_sent_ns, accept_object, &answer, error);
    free(text);
    return answer;
}

/* ---- making it ---- */

static size_t on_bytes(char *bytes, size_t size, size_t count, void *user)
{
    Etcd *etcd = user;
    GString *body = etcd->body;

    if (body->len + size * count > etcd->limit)
        return 0;
    g_string_append_len(body, bytes, (gssize)(size * count));
    return size * count;
}

/* Guests and guards that are started meanwhile do not get it. */
static curl_socket_t on_open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static gpointer initialize(gpointer unused)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? GINT_TO_POINTER(1) : NULL;
}

/* Straight to the members, whatever the environment says of proxies. */
static void set_options(Etcd *etcd)
{
    CURL *curl = etcd->curl;

    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, etcd->headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, etcd);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
}

static gboolean make_curl(Etcd *etcd, GError **error)
{
    static GOnce once = G_ONCE_INIT;

    if (g_once(&once, initialize, NULL))
        etcd->curl = curl_easy_init();
    if (etcd->curl) {
        set_options(etcd);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_FAILED, "libcurl cannot be used");
    return FALSE;
}

Etcd *etcd_new(const char *address, GError **error)
{
    GPtrArray *endpoints = parse_endpoints(address, error);
    g_autoptr(Etcd) etcd = NULL;

    if (!endpoints)
        return NULL;
    etcd = g_new0(Etcd, 1);
    etcd->endpoints = endpoints;
    etcd->body = g_string_new(NULL);
    etcd->headers = curl_slist_append(NULL, "Content-Type: application/json");
    return make_curl(etcd, error) ? g_steal_pointer(&etcd) : NULL;
}

void etcd_free(Etcd *etcd)
{
    if (!etcd)
        return;
    curl_easy_cleanup(etcd->curl);
    curl_slist_free_all(etcd->headers);
    g_string_free(etcd->body, TRUE);
    g_ptr_array_unref(etcd->endpoints);
    g_free(etcd);
}
