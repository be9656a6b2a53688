#include "guard/action.h"

#include <string.h>

#include "base/error.h"
#include "base/unix_socket.h"

G_STATIC_ASSERT(sizeof(struct sockaddr_un) <= sizeof((GuardAddress){0}.address));

void guard_action_begin(GuardAction *action, guint attempts)
{
    memset(action, 0, sizeof *action);
    action->attempts = (uint16_t)attempts;
}

static void add_bytes(GuardAction *action, const void *bytes, size_t length)
{
    if (action->incomplete || length > sizeof action->steps - action->length) {
        action->incomplete = TRUE;
        return;
    }
    memcpy(action->steps + action->length, bytes, length);
    action->length = (uint16_t)(action->length + length);
}

static void add_step(GuardAction *action, GuardStep step)
{
    char byte = (char)step;

    add_bytes(action, &byte, 1);
}

static void add_text(GuardAction *action, const char *text)
{
    add_bytes(action, text, strlen(text) + 1);
}

void guard_action_add_write(GuardAction *action, const char *path, const char *text)
{
    add_step(action, GUARD_STEP_WRITE);
    add_text(action, path);
    add_text(action, text);
}

void guard_action_add_ready(GuardAction *action)
{
    add_step(action, GUARD_STEP_READY);
}

void guard_action_add_send(GuardAction *action, const char *text)
{
    add_step(action, GUARD_STEP_SEND);
    add_text(action, text);
}

void guard_action_add_kill(GuardAction *action)
{
    add_step(action, GUARD_STEP_KILL);
}

void guard_action_add_run(GuardAction *action, const char *name, const char *argument)
{
    add_step(action, GUARD_STEP_RUN);
    add_text(action, name);
    add_text(action, argument);
}

static void add_expected(GuardAction *action, const char *text)
{
    if (text && strlen(text) >= GUARD_EXPECT_BYTES)
        action->incomplete = TRUE;
    add_text(action, text ? text : "");
}

void guard_action_add_expect(GuardAction *action, const char *text, const char *other,
                             const char *unless)
{
    add_step(action, GUARD_STEP_EXPECT);
    add_expected(action, text);
    add_expected(action, other);
    add_expected(action, unless);
}

gboolean guard_action_add_connect(GuardAction *action, const char *where, GError **error)
{
    g_auto(UnixAddress) found = {.folder = -1, .netns = -1};
    GuardAddress address = {0};

    if (where && !unix_address_resolve(where, &found, error))
        return FALSE;
    if (!where || found.folder >= 0) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the path of the VMM's control socket is missing or too long: %s",
                  where ? where : "(none)");
        return FALSE;
    }
    address.foreign = found.netns >= 0;
    address.length = (uint8_t)found.length;
    memcpy(address.address, &found.address, sizeof found.address);
    add_step(action, GUARD_STEP_CONNECT);
    add_bytes(action, &address, sizeof address);
    return TRUE;
}

/* Makes system calls only, if any: the guard calls it, too. */
const char *guard_step_next(const char *step)
{
    static const uint8_t texts[] = {
        [GUARD_STEP_WRITE] = 2,  [GUARD_STEP_READY] = 0, [GUARD_STEP_SEND] = 1,
        [GUARD_STEP_EXPECT] = 3, [GUARD_STEP_KILL] = 0,  [GUARD_STEP_RUN] = 2,
    };
    const char *end = step + 1;

    if (*step == GUARD_STEP_CONNECT)
        return end + sizeof(GuardAddress);
    for (uint8_t i = 0; i < texts[(uint8_t)*step]; i++)
        end += strlen(end) + 1;
    return end;
}
