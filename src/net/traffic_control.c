#include "net/traffic_control.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/classifier.h>
#include <netlink/route/cls/matchall.h>
#include <netlink/route/link.h>
#include <netlink/route/link/inet6.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <string.h>

#include "base/error.h"

#define INGRESS_HANDLE TC_H_MAKE(TC_H_INGRESS, 0)
#define FILTER_PRIORITY 1
/* Of an ifb interface, between its queueing discipline and where packets go back. */
#define IFB_QUEUE_PACKETS 1000
/* IN6_ADDR_GEN_MODE_NONE */
#define NO_ADDRESSES 1

typedef struct rtnl_link Link;
typedef struct rtnl_qdisc Qdisc;
typedef struct rtnl_cls Filter;
typedef struct rtnl_act Action;
typedef struct nl_cache Cache;
typedef struct nl_msg Message;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Link, rtnl_link_put)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qdisc, rtnl_qdisc_put)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Filter, rtnl_cls_put)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Action, rtnl_act_put)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Cache, nl_cache_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Message, nlmsg_free)

/* ---- errors ---- */

static VmferryErrorCode code_of(int failure)
{
    switch (failure) {
    case NLE_EXIST:
        return VMFERRY_ERROR_EXISTS;
    case NLE_OBJ_NOTFOUND:
    case NLE_NODEV:
        return VMFERRY_ERROR_NOT_FOUND;
    case NLE_PERM:
    case NLE_NOACCESS:
        return VMFERRY_ERROR_PERMISSION;
    case NLE_OPNOTSUPP:
        return VMFERRY_ERROR_UNSUPPORTED;
    default:
        return VMFERRY_ERROR_FAILED;
    }
}

/* TRUE for 0 and more, as libnl's functions return. */
static gboolean take_result(int result, const char *what, GError **error)
{
    int failure = result < 0 ? -result : 0;

    if (failure)
        error_set(error, code_of(failure), "%s: %s", what, nl_geterror(failure));
    return !failure;
}

/* The same of something that a module does: the kernel says "not found" or "not supported" of a kind
 * that it does not know. */
static gboolean take_result_of(int result, const char *module, const char *what, GError **error)
{
    if (result != -NLE_OBJ_NOTFOUND && result != -NLE_OPNOTSUPP)
        return take_result(result, what, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "needs %s, which this kernel does not have",
              module);
    return FALSE;
}

/* ---- interfaces ---- */

TrafficSocket *traffic_connect(GError **error)
{
    g_autoptr(TrafficSocket) socket = nl_socket_alloc();

    if (take_result(socket ? nl_connect(socket, NETLINK_ROUTE) : -NLE_NOMEM, "netlink socket",
                    error))
        return g_steal_pointer(&socket);
    return NULL;
}

void traffic_link_free(TrafficLink *link)
{
    if (!link)
        return;
    g_free(link->name);
    g_free(link->kind);
    g_free(link->alias);
    g_free(link);
}

static TrafficLink *copy_link(Link *link)
{
    TrafficLink *copy = g_new0(TrafficLink, 1);
    uint64_t came = rtnl_link_get_stat(link, RTNL_LINK_RX_PACKETS);
    uint64_t gone = rtnl_link_get_stat(link, RTNL_LINK_TX_PACKETS) +
                    rtnl_link_get_stat(link, RTNL_LINK_RX_DROPPED) +
                    rtnl_link_get_stat(link, RTNL_LINK_TX_DROPPED);

    copy->index = rtnl_link_get_ifindex(link);
    copy->name = g_strdup(rtnl_link_get_name(link));
    copy->kind = g_strdup(rtnl_link_get_type(link));
    copy->alias = g_strdup(rtnl_link_get_ifalias(link));
    copy->under_way = came > gone ? came - gone : 0;
    return copy;
}

TrafficLink *traffic_find_link(TrafficSocket *socket, const char *name, GError **error)
{
    g_autoptr(Link) link = NULL;

    if (take_result(rtnl_link_get_kernel(socket, 0, name, &link), name, error))
        return copy_link(link);
    return NULL;
}

GPtrArray *traffic_list_links(TrafficSocket *socket, const char *kind, GError **error)
{
    GPtrArray *links;
    g_autoptr(Cache) cache = NULL;

    if (!take_result(rtnl_link_alloc_cache(socket, AF_UNSPEC, &cache), "list interfaces", error))
        return NULL;
    links = g_ptr_array_new_with_free_func((GDestroyNotify)traffic_link_free);
    for (struct nl_object *at = nl_cache_get_first(cache); at; at = nl_cache_get_next(at))
        if (g_strcmp0(rtnl_link_get_type((Link *)at), kind) == 0)
            g_ptr_array_add(links, copy_link((Link *)at));
    return links;
}

gboolean traffic_make_ifb(TrafficSocket *socket, const char *name, GError **error)
{
    g_autoptr(Link) link = rtnl_link_alloc();

    rtnl_link_set_name(link, name);
    rtnl_link_set_type(link, "ifb");
    rtnl_link_set_num_tx_queues(link, 1);
    rtnl_link_set_num_rx_queues(link, 1);
    rtnl_link_set_txqlen(link, IFB_QUEUE_PACKETS);
    return take_result_of(rtnl_link_add(socket, link, NLM_F_CREATE | NLM_F_EXCL), "ifb",
                          "make an ifb interface", error);
}

static int change_link(TrafficSocket *socket, int index, Link *change)
{
    g_autoptr(Link) link = rtnl_link_alloc();

    rtnl_link_set_ifindex(link, index);
    return rtnl_link_change(socket, link, change, 0);
}

gboolean traffic_set_alias(TrafficSocket *socket, int index, const char *alias, GError **error)
{
    g_autoptr(Link) change = rtnl_link_alloc();

    rtnl_link_set_ifalias(change, alias);
    return take_result(change_link(socket, index, change), "name what an interface is for", error);
}

gboolean traffic_set_up(TrafficSocket *socket, int index, GError **error)
{
    g_autoptr(Link) quiet = rtnl_link_alloc(), up = rtnl_link_alloc();

    /* Without IPv6 this fails, and is not needed. */
    if (rtnl_link_inet6_set_addr_gen_mode(quiet, NO_ADDRESSES) == 0)
        (void)change_link(socket, index, quiet);
    rtnl_link_set_flags(up, IFF_UP);
    return take_result(change_link(socket, index, up), "set an interface up", error);
}

gboolean traffic_remove_link(TrafficSocket *socket, int index, GError **error)
{
    g_autoptr(Link) link = rtnl_link_alloc();

    rtnl_link_set_ifindex(link, index);
    return take_result(rtnl_link_delete(socket, link), "remove an interface", error);
}

/* ---- queueing disciplines ---- */

static Qdisc *make_qdisc(int index, uint32_t parent, uint32_t handle, const char *kind)
{
    Qdisc *qdisc = rtnl_qdisc_alloc();

    rtnl_tc_set_ifindex(TC_CAST(qdisc), index);
    rtnl_tc_set_parent(TC_CAST(qdisc), parent);
    rtnl_tc_set_handle(TC_CAST(qdisc), handle);
    rtnl_tc_set_kind(TC_CAST(qdisc), kind);
    return qdisc;
}

typedef struct {
    gboolean came;
    uint32_t handle, queued;
} Answer;

static int read_answer(struct nl_msg *message, void *user)
{
    const struct nlmsghdr *header = nlmsg_hdr(message);
    struct nlattr *attributes[TCA_MAX + 1];
    struct tc_stats stats;
    Answer *answer = user;

    if (header->nlmsg_type != RTM_NEWQDISC ||
        nlmsg_parse((struct nlmsghdr *)header, sizeof(struct tcmsg), attributes, TCA_MAX, NULL) < 0)
        return NL_SKIP;
    answer->came = TRUE;
    answer->handle = ((const struct tcmsg *)nlmsg_data(header))->tcm_handle;
    if (attributes[TCA_STATS] &&
        nla_memcpy(&stats, attributes[TCA_STATS], sizeof stats) >= (int)sizeof stats)
        answer->queued = stats.qlen;
    return NL_OK;
}

/* Of the root's one alone: libnl can list those of all interfaces only.  By NLM_F_ECHO older kernels
 * answer to who has asked. */
static int ask_root(TrafficSocket *socket, int index, Answer *answer)
{
    struct tcmsg what = {.tcm_family = AF_UNSPEC, .tcm_ifindex = index, .tcm_parent = TC_H_ROOT};
    g_autoptr(Message) message = nlmsg_alloc_simple(RTM_GETQDISC, NLM_F_ECHO);
    int result = message ? nlmsg_append(message, &what, sizeof what, NLMSG_ALIGNTO) : -NLE_NOMEM;

    *answer = (Answer){0};
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, read_answer, answer);
    if (result >= 0)
        result = nl_send_auto(socket, message);
    if (result >= 0)
        result = nl_recvmsgs_default(socket);
    if (result >= 0 && answer->came)
        result = nl_wait_for_ack(socket);
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_DEFAULT, NULL, NULL);
    return result;
}

/* With a handle of its own, or the kernel would take it for a change of the one that is there. */
uint32_t traffic_put_plug(TrafficSocket *socket, int index, uint32_t limit_bytes, GError **error)
{
    g_autoptr(Qdisc) qdisc = NULL;
    uint32_t handle;
    Answer before;
    int result = ask_root(socket, index, &before);

    /* So it answers of an interface that has none yet. */
    if (result != -NLE_INVAL && !take_result(result, "ask for a queueing discipline", error))
        return 0;
    handle = TC_H_MAKE(before.handle == TC_H_MAKE(1u << 16, 0) ? 2u << 16 : 1u << 16, 0);
    qdisc = make_qdisc(index, TC_H_ROOT, handle, "plug");
    rtnl_qdisc_plug_set_limit(qdisc, (int)limit_bytes);
    return take_result_of(rtnl_qdisc_add(socket, qdisc, NLM_F_CREATE | NLM_F_REPLACE), "sch_plug",
                          "plug an interface", error)
               ? handle
               : 0;
}

gboolean traffic_command_plug(TrafficSocket *socket, int index, uint32_t handle,
                              TrafficPlugCommand command, GError **error)
{
    g_autoptr(Qdisc) qdisc = make_qdisc(index, TC_H_ROOT, handle, "plug");

    switch (command) {
    case TRAFFIC_PLUG_CUT:
        rtnl_qdisc_plug_buffer(qdisc);
        break;
    case TRAFFIC_PLUG_RELEASE:
        rtnl_qdisc_plug_release_one(qdisc);
        break;
    case TRAFFIC_PLUG_PASS:
        rtnl_qdisc_plug_release_indefinite(qdisc);
        break;
    }
    return take_result(rtnl_qdisc_add(socket, qdisc, 0), "the plug of an interface", error);
}

gboolean traffic_count_queued(TrafficSocket *socket, int index, uint32_t *ret, GError **error)
{
    Answer answer;

    if (!take_result(ask_root(socket, index, &answer), "ask for a queueing discipline", error))
        return FALSE;
    *ret = answer.queued;
    return TRUE;
}

/* ---- what an interface receives ---- */

gboolean traffic_add_ingress(TrafficSocket *socket, int index, GError **error)
{
    g_autoptr(Qdisc) qdisc = make_qdisc(index, TC_H_INGRESS, INGRESS_HANDLE, "ingress");

    return take_result_of(rtnl_qdisc_add(socket, qdisc, NLM_F_CREATE | NLM_F_EXCL), "sch_ingress",
                          "classify what an interface receives", error);
}

gboolean traffic_remove_ingress(TrafficSocket *socket, int index, GError **error)
{
    g_autoptr(Qdisc) qdisc = make_qdisc(index, TC_H_INGRESS, INGRESS_HANDLE, "ingress");

    return take_result(rtnl_qdisc_delete(socket, qdisc),
                       "classify what an interface receives no more", error);
}

static Action *make_redirect(int to)
{
    Action *action = rtnl_act_alloc();

    rtnl_tc_set_kind(TC_CAST(action), "mirred");
    rtnl_mirred_set_action(action, TCA_EGRESS_REDIR);
    rtnl_mirred_set_policy(action, TC_ACT_STOLEN);
    rtnl_mirred_set_ifindex(action, (uint32_t)to);
    return action;
}

gboolean traffic_add_redirect(TrafficSocket *socket, int index, int to, GError **error)
{
    g_autoptr(Filter) filter = rtnl_cls_alloc();
    g_autoptr(Action) action = make_redirect(to);
    int result;

    rtnl_tc_set_ifindex(TC_CAST(filter), index);
    rtnl_tc_set_parent(TC_CAST(filter), INGRESS_HANDLE);
    rtnl_tc_set_kind(TC_CAST(filter), "matchall");
    rtnl_cls_set_prio(filter, FILTER_PRIORITY);
    rtnl_cls_set_protocol(filter, ETH_P_ALL);
    result = rtnl_mall_append_action(filter, action);
    if (result >= 0)
        result = rtnl_cls_add(socket, filter, NLM_F_CREATE | NLM_F_EXCL);
    return result == -NLE_EXIST || take_result_of(result, "cls_matchall and act_mirred",
                                                  "redirect what an interface receives", error);
}
