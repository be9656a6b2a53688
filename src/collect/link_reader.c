#include "collect/link_reader.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"

/* A card's driver may ask the card, which takes its time: only now and then. */
#define SPEED_LOOKS 15u
#define DATAGRAM_BYTES (64u << 10)
#define ANSWER_S 2
/* A dump that others' changes disturb is repeated. */
#define ATTEMPTS 3u
#define MEGABIT_BYTES 125000.0

struct LinkReader {
    GHashTable *speeds; /* interface index → bytes/s (double *); NULL value: unknown */
    guint looks;        /* until they are asked for anew */
    uint8_t *datagram;
};

LinkReader *link_reader_new(void)
{
    LinkReader *reader = g_new0(LinkReader, 1);

    reader->speeds = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    reader->datagram = g_malloc(DATAGRAM_BYTES);
    return reader;
}

void link_reader_free(LinkReader *reader)
{
    if (!reader)
        return;
    g_hash_table_unref(reader->speeds);
    g_free(reader->datagram);
    g_free(reader);
}

/* ---- rtnetlink ---- */

static int open_netlink(GError **error)
{
    autofd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    const struct timeval limit = {.tv_sec = ANSWER_S};

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0) {
        error_set_errno(error, errno, "open a netlink socket");
        return -1;
    }
    return fd_steal(&fd);
}

static gboolean ask(int fd, guint16 type, GError **error)
{
    /* Both requests begin with a family, or lack it, and are otherwise empty. */
    struct {
        struct nlmsghdr head;
        union {
            struct ifinfomsg link;
            struct tcmsg queue;
        } body;
    } request = {0};

    request.head.nlmsg_len =
        NLMSG_LENGTH(type == RTM_GETLINK ? sizeof request.body.link : sizeof request.body.queue);
    request.head.nlmsg_type = type;
    request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    if (send(fd, &request, request.head.nlmsg_len, 0) == (ssize_t)request.head.nlmsg_len)
        return TRUE;
    error_set_errno(error, errno, "ask for the network interfaces");
    return FALSE;
}

static gboolean take_answer(LinkReader *reader, int fd, GArray *links, GError **error)
{
    gboolean done = FALSE;

    while (!done) {
        ssize_t got = recv(fd, reader->datagram, DATAGRAM_BYTES, MSG_TRUNC);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            error_set_errno(error, got < 0 ? errno : EIO, "receive the network interfaces");
            return FALSE;
        }
        if (got > (ssize_t)DATAGRAM_BYTES ||
            !link_messages_parse(reader->datagram, (size_t)got, links, &done)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "the kernel's list of network interfaces cannot be read");
            return FALSE;
        }
    }
    return TRUE;
}

static GArray *dump(LinkReader *reader, GError **error)
{
    autofd int fd = open_netlink(error);
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));

    if (fd < 0 || !ask(fd, RTM_GETLINK, error) || !take_answer(reader, fd, links, error) ||
        !ask(fd, RTM_GETQDISC, error) || !take_answer(reader, fd, links, error))
        return NULL;
    return g_steal_pointer(&links);
}

/* ---- speed ---- */

/* FIGURE_UNKNOWN where it does not tell one: a virtual card, or one without a cable. */
static double ask_speed(int fd, const char *name)
{
    union {
        struct ethtool_link_settings settings;
        uint8_t room[sizeof(struct ethtool_link_settings) + 3 * 4 * INT8_MAX];
    } answer = {.settings = {.cmd = ETHTOOL_GLINKSETTINGS}};
    struct ifreq request = {.ifr_data = (char *)&answer};

    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    /* The kernel says first how long its masks are, as a negative number. */
    if (ioctl(fd, SIOCETHTOOL, &request) < 0 || answer.settings.link_mode_masks_nwords >= 0)
        return FIGURE_UNKNOWN;
    answer.settings.cmd = ETHTOOL_GLINKSETTINGS;
    answer.settings.link_mode_masks_nwords = (int8_t)-answer.settings.link_mode_masks_nwords;
    if (ioctl(fd, SIOCETHTOOL, &request) < 0 || answer.settings.speed == 0 ||
        answer.settings.speed >= INT32_MAX)
        return FIGURE_UNKNOWN;
    return answer.settings.speed * MEGABIT_BYTES;
}

static void ask_speeds(LinkReader *reader, const GArray *links)
{
    autofd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    g_hash_table_remove_all(reader->speeds);
    for (guint i = 0; fd >= 0 && i < links->len; i++) {
        const Link *link = &g_array_index(links, Link, i);
        double speed = FIGURE_UNKNOWN;

        if (link->kind == LINK_PHYSICAL || link->kind == LINK_LEADS_OUT)
            speed = ask_speed(fd, link->name);
        g_hash_table_insert(reader->speeds, GUINT_TO_POINTER(link->index),
                            speed > 0 ? g_memdup2(&speed, sizeof speed) : NULL);
    }
}

static void set_speed(LinkReader *reader, Link *link)
{
    const double *hardware = g_hash_table_lookup(reader->speeds, GUINT_TO_POINTER(link->index));

    link->speed = hardware ? *hardware : FIGURE_UNKNOWN;
    if (link->limit > 0 && (link->speed < 0 || link->limit < link->speed))
        link->speed = link->limit;
}

GArray *link_reader_read(LinkReader *reader, GError **error)
{
    GArray *links = NULL;

    for (guint i = 0; i < ATTEMPTS && !links; i++) {
        g_clear_error(error);
        links = dump(reader, error);
    }
    if (!links)
        return NULL;
    if (reader->looks-- == 0) {
        ask_speeds(reader, links);
        reader->looks = SPEED_LOOKS;
    }
    for (guint i = 0; i < links->len; i++)
        set_speed(reader, &g_array_index(links, Link, i));
    return links;
}
