/* Newstyle handshake: the client haggles over options until it chooses the export or leaves. */
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "disk/nbd_protocol.h"
#include "disk/nbd_server_private.h"

/* A name of 4096 bytes and a list of what is asked for. */
#define OPTION_MAX_BYTES 8192u
#define PREFERRED_BLOCK_BYTES 4096u
#define EXPORT_NAME_PADDING 124u
#define EXPORT_FLAGS                                                                               \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |           \
     NBD_FLAG_SEND_WRITE_ZEROES)

typedef enum { STEP_NEXT_OPTION, STEP_TRANSMIT, STEP_LEAVE, STEP_FAILED } HandshakeStep;

typedef struct {
    uint32_t number;
    uint32_t length;
    uint8_t data[OPTION_MAX_BYTES];
} Option;

typedef struct {
    NbdServer *server;
    gboolean no_zeroes;
    Option option;
} Handshake;

static gboolean greet(Handshake *handshake, GError **error)
{
    g_autoptr(GByteArray) greeting = g_byte_array_new();
    uint8_t raw[4];
    ByteReader reader;
    uint32_t flags;

    byte_write_be64(greeting, NBD_INIT_MAGIC);
    byte_write_be64(greeting, NBD_OPTION_MAGIC);
    byte_write_be16(greeting, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    nbd_send(handshake->server, greeting);
    if (!nbd_receive(handshake->server, raw, sizeof raw, error))
        return FALSE;
    reader = byte_reader_make(raw, sizeof raw);
    flags = byte_read_be32(&reader);
    handshake->no_zeroes = (flags & NBD_FLAG_NO_ZEROES) != 0;
    if ((flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "unknown flags 0x%x in the handshake", flags);
    return FALSE;
}

static gboolean receive_option(Handshake *handshake, GError **error)
{
    Option *option = &handshake->option;
    uint8_t raw[NBD_OPTION_HEADER_BYTES];
    ByteReader reader;

    if (!nbd_receive(handshake->server, raw, sizeof raw, error))
        return FALSE;
    reader = byte_reader_make(raw, sizeof raw);
    if (byte_read_be64(&reader) != NBD_OPTION_MAGIC) {
        error_set(error, VMFERRY_ERROR_INVALID, "an option does not begin as one");
        return FALSE;
    }
    option->number = byte_read_be32(&reader);
    option->length = byte_read_be32(&reader);
    if (option->length <= sizeof option->data)
        return nbd_receive(handshake->server, option->data, option->length, error);
    error_set(error, VMFERRY_ERROR_INVALID, "option %u of %u bytes is too long", option->number,
              option->length);
    return FALSE;
}

static void reply_to_option(Handshake *handshake, uint32_t kind, const GByteArray *content)
{
    g_autoptr(GByteArray) reply = g_byte_array_new();

    byte_write_be64(reply, NBD_OPTION_REPLY_MAGIC);
    byte_write_be32(reply, handshake->option.number);
    byte_write_be32(reply, kind);
    byte_write_be32(reply, content ? content->len : 0);
    if (content)
        byte_write_span(reply, content->data, content->len);
    nbd_send(handshake->server, reply);
}

static gboolean is_our_name(Handshake *handshake, const uint8_t *name, size_t length)
{
    const char *ours = handshake->server->options.export_name;

    return length == strlen(ours) && memcmp(name, ours, length) == 0;
}

static HandshakeStep list_exports(Handshake *handshake)
{
    const char *name = handshake->server->options.export_name;
    g_autoptr(GByteArray) entry = g_byte_array_new();

    if (handshake->option.length > 0) {
        reply_to_option(handshake, NBD_REP_ERR_INVALID, NULL);
        return STEP_NEXT_OPTION;
    }
    byte_write_be32(entry, (uint32_t)strlen(name));
    byte_write_span(entry, name, strlen(name));
    reply_to_option(handshake, NBD_REP_SERVER, entry);
    reply_to_option(handshake, NBD_REP_ACK, NULL);
    return STEP_NEXT_OPTION;
}

/* The old way, which knows no answer but the export itself. */
static HandshakeStep choose_export(Handshake *handshake, GError **error)
{
    g_autoptr(GByteArray) answer = g_byte_array_new();
    static const uint8_t padding[EXPORT_NAME_PADDING];

    if (!is_our_name(handshake, handshake->option.data, handshake->option.length)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "asked for an export of another name");
        return STEP_FAILED;
    }
    byte_write_be64(answer, handshake->server->options.bytes);
    byte_write_be16(answer, EXPORT_FLAGS);
    if (!handshake->no_zeroes)
        byte_write_span(answer, padding, sizeof padding);
    nbd_send(handshake->server, answer);
    return STEP_TRANSMIT;
}

static void describe_export(Handshake *handshake)
{
    g_autoptr(GByteArray) export = g_byte_array_new();
    g_autoptr(GByteArray) blocks = g_byte_array_new();

    byte_write_be16(export, NBD_INFO_EXPORT);
    byte_write_be64(export, handshake->server->options.bytes);
    byte_write_be16(export, EXPORT_FLAGS);
    reply_to_option(handshake, NBD_REP_INFO, export);
    byte_write_be16(blocks, NBD_INFO_BLOCK_SIZE);
    byte_write_be32(blocks, 1);
    byte_write_be32(blocks, PREFERRED_BLOCK_BYTES);
    byte_write_be32(blocks, NBD_MAX_REQUEST_BYTES);
    reply_to_option(handshake, NBD_REP_INFO, blocks);
}

/* The name in INFO and GO; NULL where the data is not of their form.  What the client wants to know
 * is told in any case, so the list of it is only measured. */
static const uint8_t *asked_name(const Option *option, uint32_t *ret_length)
{
    ByteReader reader = byte_reader_make(option->data, option->length);
    const uint8_t *name;
    uint16_t wishes;

    *ret_length = byte_read_be32(&reader);
    name = byte_read_span(&reader, *ret_length);
    wishes = byte_read_be16(&reader);
    byte_read_span(&reader, (size_t)wishes * 2);
    return byte_reader_ok(&reader) && reader.left == 0 ? name : NULL;
}

static HandshakeStep inform(Handshake *handshake)
{
    uint32_t length;
    const uint8_t *name = asked_name(&handshake->option, &length);
    uint32_t problem = 0;

    if (!name)
        problem = NBD_REP_ERR_INVALID;
    else if (!is_our_name(handshake, name, length))
        problem = NBD_REP_ERR_UNKNOWN;
    if (problem) {
        reply_to_option(handshake, problem, NULL);
        return STEP_NEXT_OPTION;
    }
    describe_export(handshake);
    reply_to_option(handshake, NBD_REP_ACK, NULL);
    return handshake->option.number == NBD_OPT_GO ? STEP_TRANSMIT : STEP_NEXT_OPTION;
}

static HandshakeStep take_option(Handshake *handshake, GError **error)
{
    if (!receive_option(handshake, error))
        return STEP_FAILED;
    switch (handshake->option.number) {
    case NBD_OPT_EXPORT_NAME:
        return choose_export(handshake, error);
    case NBD_OPT_LIST:
        return list_exports(handshake);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return inform(handshake);
    case NBD_OPT_ABORT:
        reply_to_option(handshake, NBD_REP_ACK, NULL);
        return STEP_LEAVE;
    default:
        reply_to_option(handshake, NBD_REP_ERR_UNSUP, NULL);
        return STEP_NEXT_OPTION;
    }
}

gboolean nbd_handshake(NbdServer *server, gboolean *ret_transmit, GError **error)
{
    g_autofree Handshake *handshake = g_new0(Handshake, 1);
    HandshakeStep step = STEP_NEXT_OPTION;

    handshake->server = server;
    if (!greet(handshake, error))
        return FALSE;
    while (step == STEP_NEXT_OPTION)
        step = take_option(handshake, error);
    *ret_transmit = step == STEP_TRANSMIT;
    return step != STEP_FAILED;
}
