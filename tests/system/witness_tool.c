/*
 * One side of a witnessed guest, for test_witness.py
 *
 *     witness_tool ADDRESS PKI-FOLDER AGENT-ID
 *
 * Speaks to the witness at ADDRESS as the agent with this id.  Reads questions, one a line, and answers
 * each with one line of JSON:
 *
 *     register TRANSACTION DESTINATION-ID DESTINATION-NAME LEASE-MS
 *     renew|claim|give-back|forget|ask TRANSACTION
 *
 * `lease` in the answer: TRUE where by all leases so far the guest may run now.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"
#include "wire/tls.h"

#define TIMEOUT_MS 3000
#define GUEST_ID "fedcba9876543210fedcba9876543210"

typedef struct {
    TlsIdentity *identity;
    const char *agent;
} Us;

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    Us *us = user;

    *ret = (ChannelOptions){.tls = us->identity, .agent = us->agent};
    return TRUE;
}

static gboolean make_request(char **words, WitnessRequest *ret)
{
    guint count = g_strv_length(words);

    if (count < 2 || !witness_request_kind_from_name(words[0], &ret->kind))
        return FALSE;
    ret->transaction = words[1];
    if (ret->kind != WITNESS_REGISTER)
        return TRUE;
    if (count != 5)
        return FALSE;
    ret->guest = (char *)"web1";
    ret->guest_id = (char *)GUEST_ID;
    ret->term = 2;
    ret->destination = words[2];
    ret->destination_name = words[3];
    ret->lease_ms = (guint)atoi(words[4]);
    return TRUE;
}

static void say(const WitnessReply *reply, const GError *error, gboolean lease)
{
    json_t *object = json_pack("{s:b, s:s, s:i, s:i, s:b}", "answered", reply->answered, "state",
                               witness_state_name(reply->state), "lease_ms", (int)reply->lease_ms,
                               "wait_ms", (int)reply->wait_ms, "lease", lease);
    char *text;

    if (error) {
        json_object_set_new(object, "code",
                            json_string(vmferry_error_code_name((VmferryErrorCode)error->code)));
        json_object_set_new(object, "message", json_string(error->message));
    }
    text = json_dumps(object, JSON_LINE);
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(object);
}

static void answer(Witness *witness, LeaseHolder *holder, char *line)
{
    g_auto(GStrv) words = g_strsplit(g_strstrip(line), " ", -1);
    WitnessRequest request = {0};
    g_autoptr(GError) error = NULL;
    WitnessReply reply = {0};

    if (!make_request(words, &request))
        error_set(&error, VMFERRY_ERROR_INVALID, "not a question: %s", line);
    else if (witness_call(witness, &request, TIMEOUT_MS, &reply, &error) && reply.lease_ms > 0)
        lease_holder_grant(holder, LEASE_OF_WITNESS, reply.sent_ns, reply.lease_ms);
    say(&reply, error, lease_holder_may_run(holder, clock_boot_ns()));
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    WitnessClientOptions options = {.get_channel = get_channel};
    g_autoptr(Witness) witness = NULL;
    LeaseHolder holder = {0};
    char line[1024];
    Us us = {0};

    if (argc != 4)
        return 2;
    us.identity = tls_identity_load(argv[2], &error);
    if (!us.identity) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    us.agent = argv[3];
    options.address = argv[1];
    options.user = &us;
    witness = witness_new(&options);
    while (fgets(line, sizeof line, stdin))
        answer(witness, &holder, line);
    tls_identity_unref(us.identity);
    return 0;
}
