/* How it works: setsockopt(2), each option with its reason. What systems call by different names is in os. */
#include "sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "limits.h"
#include "os.h"

enum { REST_READS = 64 };

void sock_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

static int whole_seconds(int ms)
{
    return (ms + 999) / 1000;
}

void sock_keepalive(int fd, int ms)
{
    os_keepalive_period(fd, whole_seconds(ms));
}

static void send_at_once(int fd)
{
    /* Nagle's algorithm (RFC 896) holds small messages back to send fewer packets; whoever wrote into the
     * tunnel has made that choice already, and would wait twice. */
    sock_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* Urgent data (MSG_OOB), as old programs send it, is a byte like the others: tcp(7). */
    sock_option(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

void sock_tune(int fd)
{
    send_at_once(fd);
    /* Who is silent may be gone: only a question tells. */
    os_keepalive(fd);
    sock_keepalive(fd, KEEPALIVE_MS);
    /* One with bytes under way sends no keepalives but repeats the bytes. */
    os_give_up_the_dead(fd);
}

void sock_tune_local(int fd)
{
    send_at_once(fd);
    os_tune_local(fd);
}

bool sock_is_loopback(const struct sockaddr *address)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

    return address->sa_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr)
                                          : ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

bool sock_heard_lately(int fd, int keepalive_ms)
{
    return os_heard_within(fd, 2 * 1000 * (unsigned)whole_seconds(keepalive_ms));
}

static bool has_peer(int fd)
{
    return strcmp(sock_peer(fd).address, "unknown") != 0;
}

int sock_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

/* An error alone does not say so: a router that knows no way for a moment is one, too, and TCP goes on trying (RFC 1122,
 * 4.2.3.9). But what is broken has no peer any more. */
bool sock_is_broken(int fd)
{
    return sock_error(fd) != 0 && !has_peer(fd);
}

int sock_send_line(int fd, const char *format, ...)
{
    char line[256];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || length > (int)sizeof line - 2) {
        errno = EMSGSIZE;
        return -1;
    }
    line[length] = '\n';
    ssize_t sent = send(fd, line, (size_t)length + 1, 0);
    if (sent >= 0 && sent < length + 1)
        errno = EAGAIN;
    return sent == length + 1 ? 0 : -1;
}

void sock_reset_on_close(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0}; /* socket(7) */

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void sock_refuse(int fd, const char *line)
{
    char rest[256];

    sock_send_line(fd, "%s", line);
    shutdown(fd, SHUT_WR);
    /* Closing with bytes unread sends a reset, which can overtake the line. Who floods us gets it all the
     * same. */
    for (int i = 0; i < REST_READS && recv(fd, rest, sizeof rest, 0) > 0; i++)
        ;
    close(fd);
}

struct peer sock_peer(int fd)
{
    struct sockaddr_storage address = {0};
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
    socklen_t size = sizeof address;
    struct peer peer = {"unknown", "0", "an unknown address"};

    if (getpeername(fd, (struct sockaddr *)&address, &size) != 0)
        return peer; /* it is gone already */
    if (address.ss_family != AF_INET && address.ss_family != AF_INET6)
        return peer; /* a Unix socket */
    bool is_v6 = address.ss_family == AF_INET6;
    bool is_v4_in_v6 = is_v6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr); /* the last 4 of its 16 bytes */
    if (is_v6 && !is_v4_in_v6)
        inet_ntop(AF_INET6, &v6->sin6_addr, peer.address, sizeof peer.address);
    else
        inet_ntop(AF_INET, is_v6 ? (const void *)&v6->sin6_addr.s6_addr[12] : &v4->sin_addr, peer.address,
                  sizeof peer.address);
    snprintf(peer.port, sizeof peer.port, "%d", ntohs(is_v6 ? v6->sin6_port : v4->sin_port));
    snprintf(peer.text, sizeof peer.text, strchr(peer.address, ':') != NULL ? "[%s]:%s" : "%s:%s",
             peer.address, peer.port);
    return peer;
}

int sock_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return -1;
    switch (address.ss_family) {
    case AF_INET: return ntohs(((struct sockaddr_in *)&address)->sin_port);
    case AF_INET6: return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    default: return -1;
    }
}

/* Whether this is a connection to that port of ours; what listens there has nobody at its other end. */
static bool comes_to(int fd, int port)
{
    return sock_port(fd) == port && has_peer(fd);
}

/* Two passes over all descriptors. In the first, who is found more often than all others together stays (Boyer and Moore's
 * majority vote); the second counts. */
struct crowd sock_crowd(int port)
{
    struct crowd crowd = {.count = 0};
    int lead = 0, most = limits_descriptors();

    for (int fd = 0; fd < most; fd++) {
        if (!comes_to(fd, port))
            continue;
        struct peer peer = sock_peer(fd);
        if (lead == 0)
            crowd.peer = peer;
        lead += strcmp(peer.address, crowd.peer.address) == 0 ? 1 : -1;
    }
    for (int fd = 0; fd < most; fd++)
        crowd.count += comes_to(fd, port) && strcmp(sock_peer(fd).address, crowd.peer.address) == 0;
    return crowd;
}
