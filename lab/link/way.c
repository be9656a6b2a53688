#include "way.h"

#include <errno.h>
#include <unistd.h>

#include "frag_needed.h"
#include "settings.h"

#define READ_MOST 256

void way_init(Way *way, int from, int to, guint64 seed, guint direction, guint buffers)
{
    *way = (Way){.from = from, .to = to};
    link_model_init(&way->model, seed, direction);
    link_settings_init(&way->model.settings);
    way->flight = link_flight_new(buffers);
}

void way_clear(Way *way)
{
    link_model_clear(&way->model);
    link_flight_free(way->flight);
    way->flight = NULL;
}

static gboolean is_ip(const FlightPacket *packet)
{
    guint type;

    if (packet->length < LINK_HEADER_BYTES)
        return FALSE;
    type = (guint)packet->frame[12] << 8 | packet->frame[13];
    return type == 0x0800 || type == 0x86dd;
}

static gboolean send_frame(Way *way, int tap, const guint8 *frame, guint length)
{
    if (write(tap, frame, length) == (ssize_t)length)
        return TRUE;
    way->not_taken++;
    return FALSE;
}

static void deliver(Way *way, const FlightPacket *packet)
{
    if (!send_frame(way, way->to, packet->frame, packet->length))
        return;
    way->delivered++;
    way->delivered_bytes += packet->length;
}

static void tell_too_big(Way *way, const FlightPacket *packet)
{
    guint8 answer[LINK_FRAG_NEEDED_MOST];
    guint mtu = way->model.settings.mtu;
    guint length = link_frag_needed(packet->frame, packet->length, mtu, answer);

    if (length > 0 && send_frame(way, way->from, answer, length))
        way->told++;
}

static void pass_other(Way *way, const FlightPacket *packet, guint64 now_ns)
{
    way->other++;
    if (!link_model_is_broken(&way->model, now_ns))
        send_frame(way, way->to, packet->frame, packet->length);
}

static void offer(Way *way, FlightPacket *packet, guint64 now_ns)
{
    LinkFate fate = link_model_offer(&way->model, now_ns, packet->length, &packet->model);

    way->packets[fate]++;
    way->bytes[fate] += packet->length;
    if (fate == LINK_TOO_BIG && way->model.settings.frag_needed)
        tell_too_big(way, packet);
    if (fate != LINK_ARRIVES)
        return;
    way->twice += packet->model.twice;
    way->held += packet->model.held;
    link_flight_add(way->flight);
}

/* The next frame of the tap; FALSE: there is none. */
static gboolean read_one(Way *way, guint64 now_ns)
{
    FlightPacket *packet = link_flight_next(way->flight);
    FlightPacket scrap;
    ssize_t length;

    if (!packet) {
        length = read(way->from, scrap.frame, sizeof scrap.frame);
        way->no_buffer += length > 0;
        return length > 0;
    }
    length = read(way->from, packet->frame, sizeof packet->frame);
    if (length <= 0)
        return FALSE;
    packet->length = (guint)length;
    if (is_ip(packet))
        offer(way, packet, now_ns);
    else
        pass_other(way, packet, now_ns);
    return TRUE;
}

guint way_read(Way *way, guint64 now_ns)
{
    guint count = 0;

    while (count < READ_MOST && read_one(way, now_ns))
        count++;
    return count;
}

guint64 way_next_ns(const Way *way)
{
    const FlightPacket *first = link_flight_first(way->flight);

    return first ? first->model.arrives_ns : G_MAXUINT64;
}

static void arrive(Way *way, const FlightPacket *packet, guint64 now_ns)
{
    guint64 late_ns = now_ns - packet->model.arrives_ns;

    if (link_model_is_broken(&way->model, packet->model.arrives_ns)) {
        way->broken_late++;
        return;
    }
    way->late_ns += late_ns;
    way->latest_ns = MAX(way->latest_ns, late_ns);
    deliver(way, packet);
    if (packet->model.twice)
        deliver(way, packet);
}

guint way_deliver(Way *way, guint64 now_ns)
{
    guint count = 0;

    for (; way_next_ns(way) <= now_ns; count++) {
        arrive(way, link_flight_first(way->flight), now_ns);
        link_flight_pop(way->flight);
    }
    return count;
}

void way_set(Way *way, const LinkSettings *settings, guint64 now_ns)
{
    link_flight_set(way->flight, &way->model, now_ns, settings);
}

static void set_number(json_t *object, const char *name, guint64 value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static guint64 sum(const guint64 *values)
{
    guint64 all = 0;

    for (guint i = 0; i < LINK_FATES; i++)
        all += values[i];
    return all;
}

static json_t *dropped(const Way *way)
{
    json_t *object = json_object();

    for (guint fate = LINK_ARRIVES + 1; fate < LINK_FATES; fate++)
        set_number(object, link_fate_name(fate), way->packets[fate]);
    set_number(object, "broken-on-the-way", way->broken_late);
    set_number(object, "no-buffer", way->no_buffer);
    set_number(object, "not-taken", way->not_taken);
    return object;
}

json_t *way_stats(const Way *way, guint64 now_ns)
{
    json_t *object = json_object();
    guint64 arrived =
        way->packets[LINK_ARRIVES] - link_flight_count(way->flight) - way->broken_late;

    set_number(object, "packets", sum(way->packets));
    set_number(object, "bytes", sum(way->bytes));
    set_number(object, "delivered", way->delivered);
    set_number(object, "delivered_bytes", way->delivered_bytes);
    json_object_set_new(object, "dropped", dropped(way));
    set_number(object, "duplicated", way->twice);
    set_number(object, "reordered", way->held);
    set_number(object, "told_mtu", way->told);
    set_number(object, "not_ip", way->other);
    set_number(object, "under_way", link_flight_count(way->flight));
    set_number(object, "waiting_bytes", link_model_waiting(&way->model, now_ns));
    set_number(object, "rate", link_model_rate(&way->model, now_ns));
    json_object_set_new(object, "broken", json_boolean(link_model_is_broken(&way->model, now_ns)));
    set_number(object, "late_us", arrived > 0 ? way->late_ns / arrived / 1000 : 0);
    set_number(object, "latest_us", way->latest_ns / 1000);
    return object;
}
