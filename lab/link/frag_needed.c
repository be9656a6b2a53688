#include "frag_needed.h"

#include <string.h>

#define ETHERNET 14
#define IP 20
#define ICMP 8
#define QUOTED 8 /* bytes behind the IP header */
#define PROTOCOL_ICMP 1
#define DONT_FRAGMENT 0x40

static void put16(guint8 *at, guint value)
{
    at[0] = (guint8)(value >> 8);
    at[1] = (guint8)value;
}

/* The Internet check sum (RFC 1071). */
static guint checksum(const guint8 *data, guint length)
{
    guint32 sum = 0;

    for (guint i = 0; i < length; i++)
        sum += i % 2 == 0 ? (guint32)data[i] << 8 : data[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

/* Of errors nobody is told: an ICMP packet other than echo and its answer. */
static gboolean is_icmp_error(const guint8 *ip, guint header)
{
    return ip[9] == PROTOCOL_ICMP && ip[header] != 8 && ip[header] != 0;
}

/* Length of the IP header; 0: nothing to answer. */
static guint answerable(const guint8 *frame, guint length)
{
    const guint8 *ip = frame + ETHERNET;
    guint header;

    if (length < ETHERNET + IP || frame[12] != 0x08 || frame[13] != 0x00 || ip[0] >> 4 != 4)
        return 0;
    header = (ip[0] & 15u) * 4;
    if (header < IP || length < ETHERNET + header + QUOTED || !(ip[6] & DONT_FRAGMENT))
        return 0;
    if ((ip[6] & 0x1f) != 0 || ip[7] != 0 || is_icmp_error(ip, header))
        return 0;
    return header;
}

guint link_frag_needed(const guint8 *frame, guint length, guint mtu,
                       guint8 ret[LINK_FRAG_NEEDED_MOST])
{
    const guint8 *from = frame + ETHERNET;
    guint header = answerable(frame, length);
    guint quoted = header + QUOTED;
    guint8 *ip = ret + ETHERNET, *icmp = ip + IP;

    if (header == 0)
        return 0;
    memset(ret, 0, ETHERNET + IP + ICMP);
    memcpy(ret, frame + 6, 6);
    memcpy(ret + 6, frame, 6);
    memcpy(ret + 12, frame + 12, 2);
    ip[0] = 0x45;
    put16(ip + 2, IP + ICMP + quoted);
    ip[8] = 64;
    ip[9] = PROTOCOL_ICMP;
    memcpy(ip + 12, from + 16, 4);
    memcpy(ip + 16, from + 12, 4);
    put16(ip + 10, checksum(ip, IP));
    icmp[0] = 3;
    icmp[1] = 4;
    put16(icmp + 6, mtu);
    memcpy(icmp + ICMP, from, quoted);
    put16(icmp + 2, checksum(icmp, ICMP + quoted));
    return ETHERNET + IP + ICMP + quoted;
}
