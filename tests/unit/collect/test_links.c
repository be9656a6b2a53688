/* Answers of rtnetlink, whole and cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/gen_stats.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "collect/link_messages.h"

/* ---- a writer of messages ---- */

static void pad(GByteArray *out)
{
    while (out->len % 4 != 0)
        g_byte_array_append(out, (const guint8 *)"", 1);
}

/* Begins an attribute or a message; close() sets its length. */
static guint open_attribute(GByteArray *out, guint16 type)
{
    struct rtattr head = {.rta_type = type};

    g_byte_array_append(out, (const guint8 *)&head, sizeof head);
    return out->len - (guint)sizeof head;
}

static void close_attribute(GByteArray *out, guint start)
{
    guint16 length = (guint16)(out->len - start);

    memcpy(out->data + start, &length, sizeof length);
    pad(out);
}

static void add_attribute(GByteArray *out, guint16 type, const void *data, size_t length)
{
    guint start = open_attribute(out, type);

    g_byte_array_append(out, data, (guint)length);
    close_attribute(out, start);
}

static guint open_message(GByteArray *out, guint16 type, const void *body, size_t length)
{
    struct nlmsghdr head = {.nlmsg_type = type};
    guint start = out->len;

    g_byte_array_append(out, (const guint8 *)&head, sizeof head);
    if (body)
        g_byte_array_append(out, body, (guint)length);
    pad(out);
    return start;
}

static void close_message(GByteArray *out, guint start)
{
    guint32 length = out->len - start;

    memcpy(out->data + start, &length, sizeof length);
}

static void write_link(GByteArray *out, int index, const char *name, const char *kind, guint flags)
{
    struct ifinfomsg body = {.ifi_index = index, .ifi_flags = flags};
    struct rtnl_link_stats64 stats = {.rx_bytes = 1000,
                                      .tx_bytes = 2000,
                                      .rx_dropped = 3,
                                      .tx_dropped = 4,
                                      .rx_missed_errors = 5};
    guint message = open_message(out, RTM_NEWLINK, &body, sizeof body), info;

    add_attribute(out, IFLA_IFNAME, name, strlen(name) + 1);
    if (kind) {
        info = open_attribute(out, IFLA_LINKINFO | NLA_F_NESTED);
        add_attribute(out, IFLA_INFO_KIND, kind, strlen(kind));
        close_attribute(out, info);
    }
    add_attribute(out, IFLA_STATS64, &stats, sizeof stats);
    close_message(out, message);
}

static void write_queue(GByteArray *out, int index, const char *kind, guint32 parent, guint32 rate,
                        guint32 backlog, guint32 drops)
{
    struct tcmsg body = {.tcm_ifindex = index, .tcm_parent = parent};
    struct gnet_stats_queue stats = {.backlog = backlog, .drops = drops};
    struct tc_tbf_qopt shape = {.rate = {.rate = rate}};
    guint message = open_message(out, RTM_NEWQDISC, &body, sizeof body), outer;

    add_attribute(out, TCA_KIND, kind, strlen(kind) + 1);
    outer = open_attribute(out, TCA_OPTIONS);
    add_attribute(out, TCA_TBF_PARMS, &shape, sizeof shape);
    close_attribute(out, outer);
    outer = open_attribute(out, TCA_STATS2);
    add_attribute(out, TCA_STATS_QUEUE, &stats, sizeof stats);
    close_attribute(out, outer);
    close_message(out, message);
}

static void write_done(GByteArray *out)
{
    int code = 0;

    close_message(out, open_message(out, NLMSG_DONE, &code, sizeof code));
}

static GByteArray *write_all(void)
{
    GByteArray *out = g_byte_array_new();

    write_link(out, 1, "lo", NULL, IFF_UP | IFF_LOOPBACK);
    write_link(out, 2, "eth0", NULL, IFF_UP);
    write_link(out, 3, "guests", "bridge", IFF_UP);
    write_link(out, 4, "tap0", "tun", IFF_UP);
    write_link(out, 5, "veth0", "veth", 0);
    write_queue(out, 2, "tbf", TC_H_ROOT, 12500000, 0, 10);
    write_queue(out, 4, "fq_codel", TC_H_ROOT, 777, 1500, 20);
    write_queue(out, 4, "ingress", TC_H_INGRESS, 0, 99, 40);
    write_queue(out, 4, "pfifo", 0x10001, 0, 5000, 500);
    write_queue(out, 99, "tbf", TC_H_ROOT, 1, 1, 1);
    write_done(out);
    return out;
}

/* ---- tests ---- */

static void test_all(void **state)
{
    g_autoptr(GByteArray) out = write_all();
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));
    const Link *link;
    gboolean done;

    assert_true(link_messages_parse(out->data, out->len, links, &done));
    assert_true(done);
    assert_int_equal(links->len, 5);
    assert_int_equal(links_find(links, "lo")->kind, LINK_OTHER);
    assert_int_equal(links_find(links, "guests")->kind, LINK_OTHER);
    assert_int_equal(links_find(links, "veth0")->kind, LINK_LEADS_OUT);
    assert_false(links_find(links, "veth0")->up);
    assert_null(links_find(links, "tap"));

    link = links_find(links, "eth0");
    assert_int_equal(link->kind, LINK_PHYSICAL);
    assert_true(link->up);
    assert_int_equal(link->received_bytes, 1000);
    assert_int_equal(link->sent_bytes, 2000);
    assert_int_equal(link->dropped, 3 + 4 + 5 + 10);
    assert_float_equal(link->limit, 12500000, 0);

    /* The queue below the root's is counted by that. */
    link = links_find(links, "tap0");
    assert_int_equal(link->kind, LINK_TAP);
    assert_int_equal(link->backlog_bytes, 1500);
    assert_int_equal(link->dropped, 3 + 4 + 5 + 20 + 40);
    assert_true(link->limit < 0);
}

/* Cut anywhere it is refused or shorter; nothing beyond its end is read (AddressSanitizer sees that). */
static void test_cut(void **state)
{
    g_autoptr(GByteArray) out = write_all();

    for (guint length = 0; length < out->len; length++) {
        g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));
        g_autofree guint8 *copy = g_memdup2(out->data, length);
        gboolean done;

        (void)link_messages_parse(copy, length, links, &done);
        assert_false(done);
    }
}

static void test_errors(void **state)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));
    struct nlmsgerr refusal = {.error = -1};
    gboolean done;

    close_message(out, open_message(out, NLMSG_ERROR, &refusal, sizeof refusal));
    assert_false(link_messages_parse(out->data, out->len, links, &done));
    g_byte_array_set_size(out, 0);
    /* Attributes that claim more than there is; a name that is too long, or none. */
    write_link(out, 2, "a-name-of-sixteen", NULL, IFF_UP);
    write_link(out, 3, "", NULL, IFF_UP);
    assert_true(link_messages_parse(out->data, out->len, links, &done));
    assert_int_equal(links->len, 0);
    assert_false(done);
    g_byte_array_set_size(out, 0);
    write_link(out, 2, "eth0", NULL, IFF_UP);
    out->data[NLMSG_HDRLEN + sizeof(struct ifinfomsg)] = 255;
    assert_true(link_messages_parse(out->data, out->len, links, &done));
    assert_int_equal(links->len, 0);
    out->data[0] = 4;
    assert_false(link_messages_parse(out->data, out->len, links, &done));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
