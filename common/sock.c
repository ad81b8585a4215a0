/*
 * How it works: one listening socket serves IPv6 and IPv4 (ipv6(7), IPV6_V6ONLY off: an IPv4 peer shows up
 * as ::ffff:192.0.2.7); where IPv6 is switched off, it is an IPv4 socket. Options are set on the listening
 * socket, since on Linux accepted ones inherit them: that saves six calls for each connection.
 *
 * Connections are accepted in batches, until there are none, or the others in the loop should have a turn.
 * When the system has no descriptor or memory left, the socket stays readable all the time; so it is not
 * watched for a moment, and the connections wait in the kernel's backlog until there is room again.
 */
#include "sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44 /* linux/tcp.h, since Linux 6.15 */
#endif

enum {
    BATCH = 64,     /* of one thing are done in a row, then others have their turn */
    PAUSE_MS = 100, /* until the next try, when there is no room for a connection */
    KEEPALIVE_MS = 12000,
    LOCAL_WINDOW_BYTES = 1 << 20, /* what a turn of the relay moves; the scale (RFC 7323) may double it */
};

static void set_option(int fd, int level, int name, int value)
{
    /* A socket that lacks one of these still works: not worth losing the connection for. */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

static int whole_seconds(int ms)
{
    return (ms + 999) / 1000;
}

void sock_keepalive(int fd, int ms)
{
    int seconds = whole_seconds(ms);

    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

static void send_at_once(int fd)
{
    /* Nagle's algorithm (RFC 896) holds small messages back to send fewer packets; whoever wrote into the
     * tunnel has made that choice already, and would wait twice. */
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* Urgent data (MSG_OOB), as old programs send it, is a byte like the others: tcp(7). */
    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

bool sock_is_loopback(const struct sockaddr *address)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

    return address->sa_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr)
                                          : ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

void sock_tune_local(int fd)
{
    static const char plainest[] = "reno";

    send_at_once(fd);
    /* A sender on this machine is as quick as we are. With the window that the kernel would grow for it, tens
     * of megabytes, it wakes us for each piece it has written. With this one it is stopped now and then, and
     * a turn moves many pieces: twice the speed, measured, for less than half the processor time. */
    set_option(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, LOCAL_WINDOW_BYTES);
    /* Congestion control (RFC 5681) finds out how much a line can carry, and shares it with others. Here is no
     * line. BBR, which many systems have for the real ones, paces what is sent with a timer: half the speed,
     * measured, of the plainest, which any program may choose (tcp(7), TCP_CONGESTION). */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, plainest, sizeof plainest);
}

void sock_tune(int fd)
{
    send_at_once(fd);
    /* An idle connection: home routers may forget one after a few minutes of silence, some after 30 s. */
    sock_keepalive(fd, KEEPALIVE_MS);
    /* One with bytes under way sends no keepalives but repeats the bytes, with pauses growing to two
     * minutes, for a quarter of an hour (tcp(7), tcp_retries2). With pauses of at most 4 s the same 15
     * tries take 50 s. Not TCP_USER_TIMEOUT: that would also end a peer which is there but reads nothing
     * for a while. */
    set_option(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, 4000);
}

bool sock_heard_lately(int fd, int keepalive_ms)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    unsigned limit_ms = 2 * 1000 * (unsigned)whole_seconds(keepalive_ms);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return false;
    return info.tcpi_last_ack_recv <= limit_ms || info.tcpi_last_data_recv <= limit_ms;
}

int sock_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

int sock_unacknowledged(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

int sock_say(int fd, const char *format, ...)
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
    return send(fd, line, (size_t)length + 1, MSG_NOSIGNAL) == length + 1 ? 0 : -1;
}

void sock_reset_on_close(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0}; /* socket(7) */

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void sock_refuse(int fd, const char *text)
{
    char rest[256];

    sock_say(fd, "%s", text);
    shutdown(fd, SHUT_WR);
    /* Closing with bytes unread sends a reset, which can overtake the line. Who floods us gets it all the
     * same. */
    for (int i = 0; i < BATCH && recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0; i++)
        ;
    close(fd);
}

struct peer_text sock_peer(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    struct peer_text peer = {"an unknown address"};
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getpeername(fd, (struct sockaddr *)&address, &size) != 0 ||
        getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return peer; /* it is gone already */
    bool is_v4_in_v6 = strncmp(host, "::ffff:", 7) == 0 && strchr(host, '.') != NULL;
    const char *plain = is_v4_in_v6 ? host + 7 : host;
    snprintf(peer.text, sizeof peer.text, strchr(plain, ':') != NULL ? "[%s]:%s" : "%s:%s", plain, port);
    return peer;
}

static void on_connection(void *owner, unsigned ready);

static void on_pause_over(void *owner)
{
    struct listener *listener = owner;

    if (watch_change(listener->loop, &listener->watch, WATCH_READ) != 0)
        timer_start(listener->loop, &listener->pause, PAUSE_MS, on_pause_over, listener);
}

static void pause_listening(struct listener *listener)
{
    watch_stop(listener->loop, &listener->watch);
    timer_start(listener->loop, &listener->pause, PAUSE_MS, on_pause_over, listener);
}

/* Errors that speak of the one connection, which is lost, and not of the listening socket: accept(2). */
static bool is_about_one_connection(int error)
{
    return error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM;
}

/* Accepts one connection. Returns false when that's enough for now. */
static bool accept_one(struct listener *listener)
{
    if (listener->may_accept != NULL && !listener->may_accept(listener->owner)) {
        pause_listening(listener);
        return false;
    }
    int fd = accept4(listener->watch.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        listener->on_accept(listener->owner, fd);
        return true;
    }
    if (errno == EAGAIN)
        return false;
    complain("cannot accept a connection: %s", errno_text());
    if (!is_about_one_connection(errno))
        pause_listening(listener);
    return false;
}

static void on_connection(void *owner, unsigned ready)
{
    struct listener *listener = owner;

    (void)ready;
    for (int i = 0; i < BATCH && listener->watch.active; i++)
        if (!accept_one(listener))
            break;
}

/* A socket that listens on this address, or -1. */
static int listening_socket(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (address->ai_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    /* A restarted server gets its port back although old connections still linger in TIME_WAIT (tcp(7)). */
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    sock_tune(fd);
    if (sock_is_loopback(address->ai_addr))
        sock_tune_local(fd);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* IPv6 first: without an address to listen on it stands for all of them, and takes IPv4 along. */
static int listening_socket_on(const char *address, int port)
{
    static const int families[] = {AF_INET6, AF_INET};
    char service[8];
    int fd = -1;

    snprintf(service, sizeof service, "%d", port);
    errno = 0;
    for (int i = 0; i < 2 && fd < 0 && errno != EADDRINUSE; i++) {
        struct addrinfo hints = {
            .ai_family = families[i], .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
        struct addrinfo *found;

        if (getaddrinfo(address, service, &hints, &found) != 0) {
            errno = EADDRNOTAVAIL;
            continue;
        }
        fd = listening_socket(found);
        int error = errno;
        freeaddrinfo(found);
        errno = error;
    }
    return fd;
}

static int real_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return -1;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

int listener_open(struct listener *listener, struct loop *loop, const char *address, int port,
                  const char *whom, void (*on_accept)(void *owner, int fd), void *owner)
{
    *listener = (struct listener){.loop = loop, .on_accept = on_accept, .owner = owner};
    int fd = listening_socket_on(address, port);

    listener->port = fd >= 0 ? real_port(fd) : -1;
    if (listener->port < 0 ||
        watch_start(loop, &listener->watch, fd, WATCH_READ, on_connection, listener) != 0) {
        complain("cannot listen on port %d%s%s: %s", port, address ? " of " : "", address ? address : "",
                 errno_text());
        if (fd >= 0)
            close(fd);
        *listener = (struct listener){0};
        return -1;
    }
    say("listening for %s on port %d", whom, listener->port);
    return 0;
}

void listener_close(struct listener *listener)
{
    if (listener->loop == NULL)
        return;
    for (int i = 0; i < SOMAXCONN && listener->watch.active; i++)
        if (!accept_one(listener))
            break;
    timer_stop(&listener->pause);
    watch_close(listener->loop, &listener->watch);
    *listener = (struct listener){0};
}
