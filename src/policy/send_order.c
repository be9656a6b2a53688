#include "policy/send_order.h"

#include <math.h>
#include <string.h>

/* Heat classes: class 0 is never written; class c from 2^(c - CLASS_BASE) writes to a page per ms
 * on.  The coldest class takes all that is written less than once in 2^24 ms, about 5 hours. */
#define CLASS_BASE 24
#define CLASSES 26

struct SendOrder {
    const GroupAccount *account;
    guint group_count;
    guint *groups;                      /* coldest first */
    guint cursor;                       /* into *groups* */
    guint probes[GROUP_ACCOUNT_PROBES]; /* the last one is taken first */
    guint probe_count;
};

SendOrder *send_order_new(const GroupAccount *account, guint group_count)
{
    SendOrder *order = g_new0(SendOrder, 1);

    order->account = account;
    order->group_count = group_count;
    order->groups = g_new(guint, MAX(group_count, 1));
    for (guint i = 0; i < group_count; i++)
        order->groups[i] = i;
    return order;
}

void send_order_free(SendOrder *order)
{
    if (!order)
        return;
    g_free(order->groups);
    g_free(order);
}

static guint heat_class(const SendOrder *order, guint group)
{
    double rate = group_account_get_heat(order->account, group);

    return rate > 0 ? (guint)CLAMP(ilogb(rate) + CLASS_BASE, 1, CLASSES - 1) : 0;
}

void send_order_sort(SendOrder *order)
{
    guint start[CLASSES + 1] = {0};

    for (guint i = 0; i < order->group_count; i++)
        start[heat_class(order, i) + 1]++;
    for (guint i = 0; i < CLASSES; i++)
        start[i + 1] += start[i];
    for (guint i = 0; i < order->group_count; i++)
        order->groups[start[heat_class(order, i)]++] = i;
    order->cursor = 0;
}

void send_order_rewind(SendOrder *order)
{
    order->cursor = 0;
}

void send_order_set_probes(SendOrder *order, const guint *groups, guint count)
{
    order->probe_count = MIN(count, GROUP_ACCOUNT_PROBES);
    memcpy(order->probes, groups, order->probe_count * sizeof *groups);
}

gboolean send_order_take_probe(SendOrder *order, guint *ret_group)
{
    if (order->probe_count == 0)
        return FALSE;
    *ret_group = order->probes[--order->probe_count];
    return TRUE;
}

gboolean send_order_get_next(SendOrder *order, gboolean paused, guint *ret_group)
{
    while (!paused && order->cursor < order->group_count &&
           group_account_is_deferred(order->account, order->groups[order->cursor]))
        order->cursor++;
    if (order->cursor >= order->group_count)
        return FALSE;
    *ret_group = order->groups[order->cursor];
    return TRUE;
}

void send_order_pass(SendOrder *order)
{
    order->cursor++;
}
