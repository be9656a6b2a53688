#include "flight.h"

#include <stdlib.h>
#include <sys/mman.h>

struct LinkFlight {
    guint most, count;
    guint64 sent;
    FlightPacket *packets;
    /* All buffers: those under way, as a heap, and behind them the free ones, the next one first. */
    FlightPacket **order;
};

LinkFlight *link_flight_new(guint most)
{
    LinkFlight *flight = g_new0(LinkFlight, 1);

    flight->most = most;
    flight->packets = mmap(NULL, most * sizeof(FlightPacket), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (flight->packets == MAP_FAILED)
        g_error("no address space for %u packets", most);
    flight->order = g_new(FlightPacket *, most);
    for (guint i = 0; i < most; i++)
        flight->order[i] = &flight->packets[i];
    return flight;
}

void link_flight_free(LinkFlight *flight)
{
    if (!flight)
        return;
    munmap(flight->packets, flight->most * sizeof(FlightPacket));
    g_free(flight->order);
    g_free(flight);
}

static gboolean arrives_before(const FlightPacket *a, const FlightPacket *b)
{
    if (a->model.arrives_ns != b->model.arrives_ns)
        return a->model.arrives_ns < b->model.arrives_ns;
    return a->number < b->number;
}

static void swap(LinkFlight *flight, guint a, guint b)
{
    FlightPacket *packet = flight->order[a];

    flight->order[a] = flight->order[b];
    flight->order[b] = packet;
}

static void sift_up(LinkFlight *flight, guint at)
{
    while (at > 0 && arrives_before(flight->order[at], flight->order[(at - 1) / 2])) {
        swap(flight, at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
}

static void sift_down(LinkFlight *flight, guint at)
{
    for (;;) {
        guint child = 2 * at + 1;

        if (child >= flight->count)
            return;
        if (child + 1 < flight->count &&
            arrives_before(flight->order[child + 1], flight->order[child]))
            child++;
        if (!arrives_before(flight->order[child], flight->order[at]))
            return;
        swap(flight, at, child);
        at = child;
    }
}

FlightPacket *link_flight_next(LinkFlight *flight)
{
    return flight->count < flight->most ? flight->order[flight->count] : NULL;
}

void link_flight_add(LinkFlight *flight)
{
    flight->order[flight->count]->number = flight->sent++;
    sift_up(flight, flight->count++);
}

FlightPacket *link_flight_first(LinkFlight *flight)
{
    return flight->count > 0 ? flight->order[0] : NULL;
}

void link_flight_pop(LinkFlight *flight)
{
    swap(flight, 0, --flight->count);
    sift_down(flight, 0);
}

guint link_flight_count(const LinkFlight *flight)
{
    return flight->count;
}

static int by_number(const void *a, const void *b)
{
    const FlightPacket *const *left = a, *const *right = b;

    return (*left)->number < (*right)->number ? -1 : 1;
}

void link_flight_set(LinkFlight *flight, LinkModel *model, guint64 now_ns,
                     const LinkSettings *settings)
{
    g_autofree LinkPacket **packets = g_new(LinkPacket *, flight->count + 1);

    qsort(flight->order, flight->count, sizeof(FlightPacket *), by_number);
    for (guint i = 0; i < flight->count; i++)
        packets[i] = &flight->order[i]->model;
    link_model_set(model, now_ns, settings, packets, flight->count);
    for (guint i = flight->count / 2; i-- > 0;)
        sift_down(flight, i);
}
