#include "model.h"

typedef enum {
    DRAW_LOSS,
    DRAW_JITTER,
    DRAW_REORDER,
    DRAW_DUPLICATE,
} Draw;

void link_settings_copy(LinkSettings *to, const LinkSettings *from)
{
    LinkTrace *old = to->trace;

    link_trace_ref(from->trace);
    *to = *from;
    link_trace_unref(old);
}

void link_settings_clear(LinkSettings *settings)
{
    link_trace_unref(settings->trace);
    *settings = (LinkSettings){0};
}

const char *link_fate_name(LinkFate fate)
{
    static const char *const names[LINK_FATES] = {
        [LINK_ARRIVES] = "arrives", [LINK_LOST] = "lost",     [LINK_QUEUE_FULL] = "queue-full",
        [LINK_TOO_BIG] = "too-big", [LINK_BROKEN] = "broken",
    };

    return names[fate];
}

/* The finalizer of SplitMix64: every bit of the result depends on every bit of *x*. */
static guint64 mix(guint64 x)
{
    x ^= x >> 30;
    x *= G_GUINT64_CONSTANT(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= G_GUINT64_CONSTANT(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* In [0, 1), for this packet and question alone. */
static double draw(const LinkModel *model, Draw what)
{
    guint64 hash = mix(model->seed + mix(model->packets * 8 + what + 1));

    return (double)(hash >> 11) / (double)(G_GUINT64_CONSTANT(1) << 53);
}

void link_model_init(LinkModel *model, guint64 seed, guint direction)
{
    *model = (LinkModel){.seed = mix(seed * 2 + direction + 1)};
}

void link_model_clear(LinkModel *model)
{
    link_settings_clear(&model->settings);
}

static gboolean is_unlimited(const LinkModel *model)
{
    return !model->settings.trace && model->settings.rate == 0;
}

/* All that the line has done, or could have done, until *now_ns*; with a limit only. */
static LinkWork work_until(const LinkModel *model, guint64 now_ns)
{
    guint64 passed = now_ns > model->since_ns ? now_ns - model->since_ns : 0;

    if (model->settings.trace)
        return model->base + link_trace_work(model->settings.trace, passed);
    return model->base + (LinkWork)model->settings.rate * passed;
}

/* When the line gets to a place in its work. */
static guint64 time_of(const LinkModel *model, LinkWork work)
{
    LinkWork more = work > model->base ? work - model->base : 0;

    if (is_unlimited(model))
        return model->since_ns;
    if (model->settings.trace)
        return model->since_ns + link_trace_time(model->settings.trace, more);
    return model->since_ns + (guint64)((more + model->settings.rate - 1) / model->settings.rate);
}

guint64 link_model_rate(const LinkModel *model, guint64 now_ns)
{
    if (!model->settings.trace)
        return model->settings.rate;
    return link_trace_rate(model->settings.trace,
                           now_ns > model->since_ns ? now_ns - model->since_ns : 0);
}

guint64 link_model_waiting(const LinkModel *model, guint64 now_ns)
{
    LinkWork done;

    if (is_unlimited(model))
        return 0;
    done = work_until(model, now_ns);
    return model->booked > done
               ? (guint64)((model->booked - done + LINK_NS_PER_S - 1) / LINK_NS_PER_S)
               : 0;
}

gboolean link_model_is_broken(const LinkModel *model, guint64 time_ns)
{
    const LinkSettings *settings = &model->settings;
    guint64 passed;

    if (settings->break_ns == 0 || time_ns < settings->break_from_ns)
        return FALSE;
    passed = time_ns - settings->break_from_ns;
    if (settings->break_every_ns > 0)
        passed %= settings->break_every_ns;
    return passed < settings->break_ns;
}

/* Without a burst each packet is lost for itself.  With one (Gilbert's model) there are two states,
 * one of which loses all: it is left after *burst* packets on average, and entered so often that
 * *loss* of all packets meet it. */
static gboolean is_lost(LinkModel *model)
{
    const LinkSettings *settings = &model->settings;
    double chance = draw(model, DRAW_LOSS);
    double leave, enter;

    if (settings->burst <= 1 || settings->loss <= 0 || settings->loss >= 1) {
        model->losing = FALSE;
        return chance < settings->loss;
    }
    leave = 1 / settings->burst;
    enter = settings->loss * leave / (1 - settings->loss);
    model->losing = model->losing ? chance >= leave : chance < enter;
    return model->losing;
}

static void put_in_order(LinkModel *model, LinkPacket *packet, guint64 leaves_ns)
{
    packet->arrives_ns = leaves_ns + packet->extra_ns;
    if (packet->held)
        return;
    packet->arrives_ns = MAX(packet->arrives_ns, model->order_ns);
    model->order_ns = packet->arrives_ns;
}

/* Its time behind the line. */
static void draw_extra(const LinkModel *model, LinkPacket *ret)
{
    const LinkSettings *settings = &model->settings;
    guint64 swing = (guint64)(draw(model, DRAW_JITTER) * 2 * (double)settings->jitter_ns);

    ret->extra_ns = settings->delay_ns - settings->jitter_ns + swing;
    ret->held = draw(model, DRAW_REORDER) < settings->reorder;
    if (ret->held)
        ret->extra_ns += settings->reorder_by_ns;
    ret->twice = draw(model, DRAW_DUPLICATE) < settings->duplicate;
}

/* Gives the packet its place in the line, and *ret_leaves* of it; FALSE where the queue is full. */
static gboolean book(LinkModel *model, guint64 now_ns, guint bytes, LinkPacket *ret,
                     guint64 *ret_leaves)
{
    const LinkSettings *settings = &model->settings;
    LinkWork start;

    *ret_leaves = now_ns;
    ret->end = model->booked;
    if (is_unlimited(model))
        return TRUE;
    start = MAX(model->booked, work_until(model, now_ns));
    if (settings->queue_bytes > 0 &&
        link_model_waiting(model, now_ns) + bytes > settings->queue_bytes)
        return FALSE;
    if (settings->queue_ns > 0 && time_of(model, start) > now_ns + settings->queue_ns)
        return FALSE;
    ret->end = model->booked = start + (LinkWork)bytes * LINK_NS_PER_S;
    *ret_leaves = time_of(model, ret->end);
    return TRUE;
}

static LinkFate decide(LinkModel *model, guint64 now_ns, guint bytes, LinkPacket *ret)
{
    const LinkSettings *settings = &model->settings;
    guint64 leaves_ns;

    /* The weather on the way goes on whether this packet gets there or not. */
    gboolean lost = is_lost(model);

    if (link_model_is_broken(model, now_ns))
        return LINK_BROKEN;
    if (settings->mtu > 0 && bytes > settings->mtu + LINK_HEADER_BYTES)
        return LINK_TOO_BIG;
    if (!book(model, now_ns, bytes, ret, &leaves_ns))
        return LINK_QUEUE_FULL;
    if (lost)
        return LINK_LOST;
    draw_extra(model, ret);
    put_in_order(model, ret, leaves_ns);
    return LINK_ARRIVES;
}

LinkFate link_model_offer(LinkModel *model, guint64 now_ns, guint bytes, LinkPacket *ret)
{
    LinkFate fate = decide(model, now_ns, bytes, ret);

    model->packets++;
    return fate;
}

/* The line begins anew at *now_ns* with the work it has done. */
static void rebase(LinkModel *model, guint64 now_ns)
{
    if (is_unlimited(model))
        model->base = model->booked;
    else
        model->base = work_until(model, now_ns);
    model->since_ns = now_ns;
}

void link_model_set(LinkModel *model, guint64 now_ns, const LinkSettings *settings,
                    LinkPacket *const *packets, guint count)
{
    gboolean other =
        settings->rate != model->settings.rate || settings->trace != model->settings.trace;

    if (!other) {
        /* A trace that goes on stays where it is. */
        link_settings_copy(&model->settings, settings);
        return;
    }
    rebase(model, now_ns);
    link_settings_copy(&model->settings, settings);
    model->order_ns = 0;
    for (guint i = 0; i < count; i++) {
        if (packets[i]->end > model->base)
            put_in_order(model, packets[i], time_of(model, packets[i]->end));
        else if (!packets[i]->held)
            model->order_ns = MAX(model->order_ns, packets[i]->arrives_ns);
    }
}
