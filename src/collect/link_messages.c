#include "collect/link_messages.h"

#include <linux/gen_stats.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>

#define LINKS_LIMIT 65536u

/* ---- attributes ---- */

typedef struct {
    const uint8_t *at;
    size_t left;
} Attributes;

typedef struct {
    guint type;
    const uint8_t *data;
    size_t length;
} Attribute;

static gboolean next_attribute(Attributes *attributes, Attribute *ret)
{
    struct rtattr head;
    size_t step;

    if (attributes->left < sizeof head)
        return FALSE;
    memcpy(&head, attributes->at, sizeof head);
    if (head.rta_len < RTA_LENGTH(0) || head.rta_len > attributes->left)
        return FALSE;
    *ret = (Attribute){.type = head.rta_type & (guint)~NLA_F_NESTED,
                       .data = attributes->at + RTA_LENGTH(0),
                       .length = head.rta_len - RTA_LENGTH(0)};
    step = MIN((size_t)RTA_ALIGN(head.rta_len), attributes->left);
    attributes->at += step;
    attributes->left -= step;
    return TRUE;
}

static gboolean find_attribute(Attributes attributes, guint type, Attribute *ret)
{
    while (next_attribute(&attributes, ret))
        if (ret->type == type)
            return TRUE;
    return FALSE;
}

static gboolean find_inside(const Attribute *outer, guint type, Attribute *ret)
{
    return find_attribute((Attributes){outer->data, outer->length}, type, ret);
}

/* A text of the kernel's, with or without its end. */
static gboolean is_text(const Attribute *attribute, const char *text)
{
    size_t length = strnlen((const char *)attribute->data, attribute->length);

    return length == strlen(text) && memcmp(attribute->data, text, length) == 0;
}

/* ---- interfaces ---- */

static LinkKind find_kind(Attributes attributes, guint flags)
{
    static const char *const out[] = {"veth", "macvlan", "ipvlan", NULL};
    Attribute info, kind;

    if (flags & IFF_LOOPBACK)
        return LINK_OTHER;
    if (!find_attribute(attributes, IFLA_LINKINFO, &info) ||
        !find_inside(&info, IFLA_INFO_KIND, &kind))
        return LINK_PHYSICAL;
    if (is_text(&kind, "tun"))
        return LINK_TAP;
    for (const char *const *name = out; *name; name++)
        if (is_text(&kind, *name))
            return LINK_LEADS_OUT;
    return LINK_OTHER;
}

static void read_counters(Attributes attributes, Link *link)
{
    struct rtnl_link_stats64 stats = {0};
    Attribute found;

    link->received_bytes = link->sent_bytes = link->dropped = COUNTER_UNKNOWN;
    if (!find_attribute(attributes, IFLA_STATS64, &found) ||
        found.length < offsetof(struct rtnl_link_stats64, multicast))
        return;
    /* Older kernels tell less of it. */
    memcpy(&stats, found.data, MIN(found.length, sizeof stats));
    link->received_bytes = stats.rx_bytes;
    link->sent_bytes = stats.tx_bytes;
    link->dropped =
        counter_add(counter_add(stats.rx_dropped, stats.tx_dropped), stats.rx_missed_errors);
}

static void add_link(const uint8_t *data, size_t length, GArray *links)
{
    struct ifinfomsg head;
    Link link = {.limit = FIGURE_UNKNOWN, .speed = FIGURE_UNKNOWN};
    Attributes attributes;
    Attribute name;
    size_t name_length;

    if (length < NLMSG_ALIGN(sizeof head) || links->len >= LINKS_LIMIT)
        return;
    memcpy(&head, data, sizeof head);
    attributes = (Attributes){data + NLMSG_ALIGN(sizeof head), length - NLMSG_ALIGN(sizeof head)};
    if (!find_attribute(attributes, IFLA_IFNAME, &name))
        return;
    name_length = strnlen((const char *)name.data, name.length);
    if (name_length == 0 || name_length >= sizeof link.name)
        return;
    memcpy(link.name, name.data, name_length);
    link.index = (guint)head.ifi_index;
    link.up = (head.ifi_flags & IFF_UP) != 0;
    link.kind = find_kind(attributes, head.ifi_flags);
    read_counters(attributes, &link);
    g_array_append_val(links, link);
}

/* ---- queues ---- */

static Link *find_index(GArray *links, guint index)
{
    for (guint i = 0; i < links->len; i++)
        if (g_array_index(links, Link, i).index == index)
            return &g_array_index(links, Link, i);
    return NULL;
}

/* Token bucket filters: how links are shaped. */
static void read_limit(Attributes attributes, Link *link)
{
    Attribute kind, options, found;
    struct tc_tbf_qopt shape;
    uint64_t rate;

    if (!find_attribute(attributes, TCA_KIND, &kind) || !is_text(&kind, "tbf") ||
        !find_attribute(attributes, TCA_OPTIONS, &options))
        return;
    if (find_inside(&options, TCA_TBF_RATE64, &found) && found.length >= sizeof rate) {
        memcpy(&rate, found.data, sizeof rate);
    } else if (find_inside(&options, TCA_TBF_PARMS, &found) && found.length >= sizeof shape) {
        memcpy(&shape, found.data, sizeof shape);
        rate = shape.rate.rate;
    } else {
        return;
    }
    if (rate > 0)
        link->limit = (double)rate;
}

static void read_queue(Attributes attributes, gboolean is_root, Link *link)
{
    struct gnet_stats_queue queue;
    Attribute stats, found;

    if (!find_attribute(attributes, TCA_STATS2, &stats) ||
        !find_inside(&stats, TCA_STATS_QUEUE, &found) || found.length < sizeof queue)
        return;
    memcpy(&queue, found.data, sizeof queue);
    link->dropped = counter_add(link->dropped, queue.drops);
    if (is_root)
        link->backlog_bytes = counter_add(link->backlog_bytes, queue.backlog);
}

static void add_queue(const uint8_t *data, size_t length, GArray *links)
{
    struct tcmsg head;
    Attributes attributes;
    gboolean is_root;
    Link *link;

    if (length < NLMSG_ALIGN(sizeof head))
        return;
    memcpy(&head, data, sizeof head);
    is_root = head.tcm_parent == TC_H_ROOT;
    link = find_index(links, (guint)head.tcm_ifindex);
    /* Queues below another one are counted by that; what is dropped as it comes in has its own. */
    if (!link || (!is_root && head.tcm_parent != TC_H_INGRESS))
        return;
    attributes = (Attributes){data + NLMSG_ALIGN(sizeof head), length - NLMSG_ALIGN(sizeof head)};
    read_queue(attributes, is_root, link);
    if (is_root)
        read_limit(attributes, link);
}

/* ---- messages ---- */

gboolean link_messages_parse(const void *data, size_t length, GArray *links, gboolean *ret_done)
{
    const uint8_t *at = data;

    *ret_done = FALSE;
    while (length > 0) {
        struct nlmsghdr head;
        const uint8_t *body = at + NLMSG_HDRLEN;
        size_t step;

        if (length < sizeof head)
            return FALSE;
        memcpy(&head, at, sizeof head);
        if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > length ||
            head.nlmsg_type == NLMSG_ERROR)
            return FALSE;
        *ret_done = *ret_done || head.nlmsg_type == NLMSG_DONE;
        if (head.nlmsg_type == RTM_NEWLINK)
            add_link(body, head.nlmsg_len - NLMSG_HDRLEN, links);
        else if (head.nlmsg_type == RTM_NEWQDISC)
            add_queue(body, head.nlmsg_len - NLMSG_HDRLEN, links);
        step = MIN((size_t)NLMSG_ALIGN(head.nlmsg_len), length);
        at += step;
        length -= step;
    }
    return TRUE;
}

const Link *links_find(const GArray *links, const char *name)
{
    for (guint i = 0; links && i < links->len; i++)
        if (strcmp(g_array_index(links, Link, i).name, name) == 0)
            return &g_array_index(links, Link, i);
    return NULL;
}
