#include "agent/admission.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"

/* Of connections that were cut the threads are still to end: of one address, and in all. */
#define ENDING_PER_ADDRESS ADMISSION_PER_ADDRESS
#define ENDING_MOST (4 * ADMISSION_PENDING)
#define ORIGIN_BYTES 16

struct AdmissionPlace {
    Admission *admission;
    GList link;                  /* in pending or ending, oldest first */
    guint8 origin[ORIGIN_BYTES]; /* what counts as one address */
    int fd;                      /* our own copy: it is ours to shut down until we close it */
    gboolean pending, cut;
    int kind; /* AdmittedKind, -1 before */
};

struct Admission {
    GMutex lock; /* protects all below, and the places */
    GQueue pending, ending;
    guint passed[ADMITTED_KINDS];
};

Admission *admission_new(void)
{
    Admission *admission = g_new0(Admission, 1);

    g_mutex_init(&admission->lock);
    return admission;
}

void admission_free(Admission *admission)
{
    if (!admission)
        return;
    g_mutex_clear(&admission->lock);
    g_free(admission);
}

/* IPv4 as an IPv4-mapped address, IPv6 without its interface's half. */
static void set_origin(guint8 *origin, const struct sockaddr *address)
{
    static const guint8 mapped[12] = {[10] = 0xff, [11] = 0xff};
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;

    memset(origin, 0, ORIGIN_BYTES);
    if (address->sa_family == AF_INET) {
        memcpy(origin, mapped, sizeof mapped);
        memcpy(origin + sizeof mapped, &four->sin_addr, 4);
    } else if (address->sa_family == AF_INET6) {
        memcpy(origin, &six->sin6_addr, IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) ? ORIGIN_BYTES : 8);
    }
}

static guint count_of(const GQueue *places, const guint8 *origin)
{
    guint count = 0;

    for (GList *at = places->head; at; at = at->next)
        count += memcmp(((AdmissionPlace *)at->data)->origin, origin, ORIGIN_BYTES) == 0;
    return count;
}

static AdmissionPlace *oldest_of(const Admission *admission, const guint8 *origin)
{
    for (GList *at = admission->pending.head; at; at = at->next)
        if (memcmp(((AdmissionPlace *)at->data)->origin, origin, ORIGIN_BYTES) == 0)
            return at->data;
    return NULL;
}

/* The oldest one of the address that has the most. */
static AdmissionPlace *oldest_of_most(const Admission *admission)
{
    AdmissionPlace *found = NULL;
    guint most = 0;

    for (GList *at = admission->pending.head; at; at = at->next) {
        guint count = count_of(&admission->pending, ((AdmissionPlace *)at->data)->origin);

        if (count > most) {
            most = count;
            found = at->data;
        }
    }
    return found;
}

static void cut(AdmissionPlace *place)
{
    Admission *admission = place->admission;

    g_queue_unlink(&admission->pending, &place->link);
    place->pending = FALSE;
    place->cut = TRUE;
    g_queue_push_tail_link(&admission->ending, &place->link);
    shutdown(place->fd, SHUT_RDWR);
}

static void make_room(Admission *admission, const guint8 *origin)
{
    if (count_of(&admission->pending, origin) >= ADMISSION_PER_ADDRESS)
        cut(oldest_of(admission, origin));
    else if (admission->pending.length >= ADMISSION_PENDING)
        cut(oldest_of_most(admission));
}

/* Who opens connections faster than they end waits; others do not wait for that. */
static gboolean is_too_fast(const Admission *admission, const guint8 *origin)
{
    return admission->ending.length >= ENDING_MOST ||
           count_of(&admission->ending, origin) >= ENDING_PER_ADDRESS;
}

AdmissionPlace *admission_enter(Admission *admission, int fd, const struct sockaddr *address)
{
    lock_guard(&admission->lock);
    guint8 origin[ORIGIN_BYTES];
    AdmissionPlace *place;
    int copy;

    set_origin(origin, address);
    if (is_too_fast(admission, origin) || (copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        return NULL;
    place = g_new0(AdmissionPlace, 1);
    place->admission = admission;
    place->link.data = place;
    place->fd = copy;
    place->pending = TRUE;
    place->kind = -1;
    memcpy(place->origin, origin, ORIGIN_BYTES);
    make_room(admission, origin);
    g_queue_push_tail_link(&admission->pending, &place->link);
    return place;
}

static void stop_pending(AdmissionPlace *place)
{
    if (place->pending)
        g_queue_unlink(&place->admission->pending, &place->link);
    else if (place->cut)
        g_queue_unlink(&place->admission->ending, &place->link);
    place->pending = FALSE;
    place->cut = FALSE;
    fd_close(&place->fd);
}

gboolean admission_pass(AdmissionPlace *place, AdmittedKind kind, GError **error)
{
    static const struct {
        guint most;
        const char *name;
    } kinds[ADMITTED_KINDS] = {
        [ADMITTED_MOVE] = {ADMISSION_MOVES, "moves"},
        [ADMITTED_QUESTION] = {ADMISSION_QUESTIONS, "questions"},
        [ADMITTED_WITNESS] = {ADMISSION_WITNESSED, "hosts of witnessed guests"},
        [ADMITTED_MEASURING] = {ADMISSION_MEASURING, "measurements of a path"},
    };
    Admission *admission = place->admission;
    lock_guard(&admission->lock);

    if (admission->passed[kind] >= kinds[kind].most) {
        error_set(error, VMFERRY_ERROR_BUSY, "%u %s are served here already; try again later",
                  kinds[kind].most, kinds[kind].name);
        return FALSE;
    }
    stop_pending(place);
    admission->passed[kind]++;
    place->kind = (int)kind;
    return TRUE;
}

gboolean admission_was_cut(AdmissionPlace *place)
{
    lock_guard(&place->admission->lock);

    return place->cut;
}

void admission_leave(AdmissionPlace *place)
{
    Admission *admission = place->admission;

    g_mutex_lock(&admission->lock);
    stop_pending(place);
    if (place->kind >= 0)
        admission->passed[place->kind]--;
    g_mutex_unlock(&admission->lock);
    g_free(place);
}
