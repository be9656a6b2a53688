#include "wire/resend_buffer.h"

#include <string.h>

#include "base/lock_guard.h"

#define FIRST_CAPACITY ((size_t)256 << 10)

struct ResendBuffer {
    GMutex lock;
    GCond confirmed;
    uint8_t *ring;
    size_t capacity, limit;
    uint64_t first, end; /* held: [first, end); a byte lies at its number modulo the capacity */
};

ResendBuffer *resend_buffer_new(uint64_t first, size_t limit)
{
    ResendBuffer *buffer = g_new0(ResendBuffer, 1);

    g_mutex_init(&buffer->lock);
    g_cond_init(&buffer->confirmed);
    buffer->limit = limit;
    buffer->first = buffer->end = first;
    return buffer;
}

void resend_buffer_free(ResendBuffer *buffer)
{
    if (!buffer)
        return;
    g_mutex_clear(&buffer->lock);
    g_cond_clear(&buffer->confirmed);
    g_free(buffer->ring);
    g_free(buffer);
}

static void put(uint8_t *ring, size_t capacity, uint64_t number, const uint8_t *data, size_t length)
{
    size_t at = (size_t)(number % capacity);
    size_t here = MIN(length, capacity - at);

    if (here > 0)
        memcpy(ring + at, data, here);
    if (length > here)
        memcpy(ring, data + here, length - here);
}

static void get(const ResendBuffer *buffer, uint64_t number, uint8_t *out, size_t length)
{
    size_t at = (size_t)(number % buffer->capacity);
    size_t here = MIN(length, buffer->capacity - at);

    memcpy(out, buffer->ring + at, here);
    if (length > here)
        memcpy(out + here, buffer->ring, length - here);
}

/* A byte's place depends on the capacity: all are put where they belong in the larger one. */
static void grow(ResendBuffer *buffer, size_t need)
{
    size_t held = (size_t)(buffer->end - buffer->first);
    size_t capacity = MAX(buffer->capacity, FIRST_CAPACITY);
    uint8_t *ring;

    while (capacity < need)
        capacity *= 2;
    ring = g_malloc(capacity);
    for (size_t done = 0; done < held;) {
        size_t at = (size_t)((buffer->first + done) % buffer->capacity);
        size_t here = MIN(held - done, buffer->capacity - at);

        put(ring, capacity, buffer->first + done, buffer->ring + at, here);
        done += here;
    }
    g_free(buffer->ring);
    buffer->ring = ring;
    buffer->capacity = capacity;
}

gboolean resend_buffer_append(ResendBuffer *buffer, const struct iovec *pieces, size_t count)
{
    size_t length = 0, held;
    lock_guard(&buffer->lock);

    for (size_t i = 0; i < count; i++)
        length += pieces[i].iov_len;
    held = (size_t)(buffer->end - buffer->first);
    if (held > 0 && held + length > buffer->limit)
        return FALSE;
    if (held + length > buffer->capacity)
        grow(buffer, held + length);
    for (size_t i = 0; i < count; i++) {
        put(buffer->ring, buffer->capacity, buffer->end, pieces[i].iov_base, pieces[i].iov_len);
        buffer->end += pieces[i].iov_len;
    }
    return TRUE;
}

void resend_buffer_set_limit(ResendBuffer *buffer, size_t limit)
{
    lock_guard(&buffer->lock);

    buffer->limit = limit;
    g_cond_broadcast(&buffer->confirmed);
}

gboolean resend_buffer_confirm(ResendBuffer *buffer, uint64_t number)
{
    lock_guard(&buffer->lock);

    if (number > buffer->end)
        return FALSE;
    if (number > buffer->first) {
        buffer->first = number;
        g_cond_broadcast(&buffer->confirmed);
    }
    return TRUE;
}

gboolean resend_buffer_holds_from(ResendBuffer *buffer, uint64_t number)
{
    lock_guard(&buffer->lock);

    return number >= buffer->first && number <= buffer->end;
}

size_t resend_buffer_copy(ResendBuffer *buffer, uint64_t *number, void *out, size_t length)
{
    lock_guard(&buffer->lock);

    *number = CLAMP(*number, buffer->first, buffer->end);
    length = (size_t)MIN(length, buffer->end - *number);
    if (length > 0)
        get(buffer, *number, out, length);
    *number += length;
    return length;
}

gboolean resend_buffer_replace(ResendBuffer *buffer, uint64_t number, const uint8_t *before,
                               const uint8_t *bytes, size_t length)
{
    g_autofree uint8_t *held = g_malloc(length);
    lock_guard(&buffer->lock);

    if (number < buffer->first || number > buffer->end || buffer->end - number < length)
        return FALSE;
    get(buffer, number, held, length);
    if (memcmp(held, before, length) != 0)
        return FALSE;
    put(buffer->ring, buffer->capacity, number, bytes, length);
    return TRUE;
}

void resend_buffer_wait(ResendBuffer *buffer, guint timeout_ms)
{
    lock_guard(&buffer->lock);

    g_cond_wait_until(&buffer->confirmed, &buffer->lock,
                      g_get_monotonic_time() + (gint64)timeout_ms * 1000);
}

void resend_buffer_wake(ResendBuffer *buffer)
{
    lock_guard(&buffer->lock);

    g_cond_broadcast(&buffer->confirmed);
}

uint64_t resend_buffer_count_unconfirmed(ResendBuffer *buffer)
{
    lock_guard(&buffer->lock);

    return buffer->end - buffer->first;
}
