#include "content.h"

#include <string.h>

const char *const kind_names[KIND_COUNT] = {"zero", "random", "text"};

uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t hash3(uint64_t a, uint64_t b, uint64_t c)
{
    return mix(a + 0x9e3779b97f4a7c15u +
               mix(b + 0x632be59bd9b4e019u + mix(c + 0x5851f42d4c957f2du)));
}

uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* ---- text ---- */

typedef struct {
    char *at, *end;
} Cursor;

static void put(Cursor *out, const char *text, size_t length)
{
    size_t room = out->end - out->at;

    memcpy(out->at, text, length < room ? length : room);
    out->at += length < room ? length : room;
}

static void put_string(Cursor *out, const char *text)
{
    put(out, text, strlen(text));
}

/* The last *digits* digits of *number*. */
static void put_number(Cursor *out, uint64_t number, int digits)
{
    char text[8] = "";

    for (int i = digits; i > 0; number /= 10)
        text[--i] = '0' + number % 10;
    put(out, text, digits);
}

static void put_hex(Cursor *out, uint64_t number, int digits)
{
    char text[16] = "";

    for (int i = 0; i < digits; i++, number >>= 4)
        text[i] = "0123456789abcdef"[number & 15];
    put(out, text, digits);
}

static void put_line(Cursor *out, uint64_t *random)
{
    static const char *const orders[] = {"GET /", "GET /", "GET /", "POST /"};
    static const char *const places[] = {"api/v2/orders/",    "images/thumbnails/", "account/",
                                         "search?query=",     "static/scripts/",    "cart/items/",
                                         "api/v2/customers/", "reports/daily/"};
    static const char *const results[] = {" 200 ", " 200 ", " 200 ", " 304 ",
                                          " 301 ", " 404 ", " 200 ", " 500 "};
    static const char *const agents[] = {"\"Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0\"\n",
                                         "\"Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/126.0\"\n",
                                         "\"curl/7.88.1\"\n", "\"health-check/1.4 (internal)\"\n"};
    uint64_t a = next_random(random), b = next_random(random);

    put_string(out, "10.77.");
    put_number(out, a % 250, 3);
    put_string(out, ".");
    put_number(out, a >> 8 & 63, 2);
    put_string(out, " [22/Nov/2026:10:");
    put_number(out, (a >> 16) % 60, 2);
    put_string(out, ":");
    put_number(out, (a >> 24) % 60, 2);
    put_string(out, "] \"");
    put_string(out, orders[a >> 32 & 3]);
    put_string(out, places[a >> 40 & 7]);
    put_hex(out, b, 8);
    put_string(out, " HTTP/1.1\"");
    put_string(out, results[a >> 48 & 7]);
    put_number(out, b >> 32, 5);
    put_string(out, " ");
    put_string(out, agents[a >> 56 & 3]);
}

static void fill_text(char *page, uint64_t random)
{
    Cursor out = {page, page + PAGE_SIZE};

    while (out.at < out.end)
        put_line(&out, &random);
}

/* ---- pages ---- */

void content_fill(uint64_t *words, uint64_t page, const PageState *state)
{
    uint64_t x = hash3(page, state->version, 0) | 1;

    switch (state->kind) {
    case KIND_RANDOM:
        for (int i = 0; i < PAGE_WORDS; i++)
            words[i] = next_random(&x);
        break;
    case KIND_TEXT:
        fill_text((char *)words, x);
        break;
    default:
        memset(words, 0, PAGE_SIZE);
        break;
    }
}

void content_patch(uint64_t *words, uint64_t page, const PageState *state)
{
    uint64_t where = hash3(page, state->version, 1) % PAGE_WORDS;

    words[where] = hash3(page, state->version, state->patches + 1);
}
