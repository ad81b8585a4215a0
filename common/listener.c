/*
 * How it works: one listening socket serves IPv6 and IPv4 (ipv6(7), IPV6_V6ONLY off: an IPv4 peer shows up
 * as ::ffff:192.0.2.7); where IPv6 is switched off, it is an IPv4 socket. Options are set on the listening
 * socket, since accepted ones inherit them: that saves some calls for each connection.
 *
 * Connections are accepted several at a time, until there are none, or the others in the loop should have a turn.
 * When the system has no descriptor or memory left, the socket stays readable all the time; so it is not
 * watched for a moment, and the connections wait in the kernel's backlog until there is room again.
 */
#include "listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "congestion.h"
#include "limits.h"
#include "log.h"
#include "os.h"
#include "sock.h"

enum {
    ACCEPTED_IN_A_ROW = 64,
    NO_ROOM_MS = 100, /* until the next try, when there is no room for a connection */
    /* Connections that nobody has accepted yet; a system that allows fewer takes fewer: listen(2). */
    BACKLOG = 4096,
};

static void on_connection(void *owner, unsigned ready);

static void on_pause_over(void *owner)
{
    struct listener *listener = owner;

    if (watch_change(listener->loop, &listener->watch, WATCH_READ) != 0)
        timer_start(listener->loop, &listener->pause, NO_ROOM_MS, on_pause_over, listener);
}

static void pause_listening(struct listener *listener)
{
    watch_stop(listener->loop, &listener->watch);
    timer_start(listener->loop, &listener->pause, NO_ROOM_MS, on_pause_over, listener);
}

/* Accepts one connection. Returns false when that's enough for now. */
static bool accept_one(struct listener *listener)
{
    if (listener->may_accept != NULL && !listener->may_accept(listener->owner)) {
        pause_listening(listener);
        return false;
    }
    int fd = os_accept(listener->watch.fd);
    if (fd >= 0) {
        listener->on_accept(listener->owner, fd);
        return true;
    }
    int error = errno;
    if (error == EAGAIN)
        return false;
    complain("cannot accept a connection: %s", errno_text());
    if (limits_are_reached(error)) /* else it is about this one connection, which is lost: accept(2) */
        pause_listening(listener);
    return false;
}

static void on_connection(void *owner, unsigned ready)
{
    struct listener *listener = owner;

    (void)ready;
    for (int i = 0; i < ACCEPTED_IN_A_ROW && listener->watch.active; i++)
        if (!accept_one(listener))
            break;
}

/* A socket that listens on this address, or -1. */
static int listening_socket(const struct addrinfo *address, const char *congestion)
{
    int fd = os_socket(address->ai_family);

    if (fd < 0)
        return -1;
    if (address->ai_family == AF_INET6)
        sock_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    /* A restarted server gets its port back although old connections still linger in TIME_WAIT (tcp(7)). */
    sock_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    sock_tune(fd);
    if (sock_is_loopback(address->ai_addr))
        sock_tune_local(fd);
    else
        congestion_choose(fd, congestion);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* The same for an endpoint, with an address of this family. */
static int listening_socket_of(int family, const struct endpoint *where)
{
    const char *host = where->address[0] != '\0' ? where->address : NULL;
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found;
    char service[8];

    snprintf(service, sizeof service, "%d", where->port);
    if (getaddrinfo(host, service, &hints, &found) != 0) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    int fd = listening_socket(found, where->congestion);
    int error = errno;
    freeaddrinfo(found);
    errno = error;
    return fd;
}

static bool is_no_such_family(int error)
{
    return error == EAFNOSUPPORT || error == EPROTONOSUPPORT; /* the latter in a jail of FreeBSD: socket(2) */
}

/* IPv6 first: without an address to listen on it stands for all of them, and takes IPv4 along, if the system knows that.
 * IPv4 alone is for where there is no IPv6, and for an address of its own. */
static int listening_socket_on(const struct endpoint *where)
{
    if (where->address[0] != '\0' || os_has_dual_sockets()) {
        int fd = listening_socket_of(AF_INET6, where);
        if (fd >= 0 || (!is_no_such_family(errno) && errno != EADDRNOTAVAIL))
            return fd;
    }
    return listening_socket_of(AF_INET, where);
}

static const char *what_would_help(int error)
{
    switch (error) {
    case EADDRINUSE: return "; another program listens there: end it, or choose another port with ";
    case EACCES:
        return "; below 1024 it takes root or the capability CAP_NET_BIND_SERVICE, or another port with ";
    case EADDRNOTAVAIL: return "; it takes an address that this machine has, see ";
    default: return ", see ";
    }
}

static void complain_of(const struct endpoint *where)
{
    const char *why = errno_text(), *help = what_would_help(errno);
    const char *of = where->address[0] != '\0' ? " of " : "";

    complain("cannot listen on port %d%s%s: %s%s%s", where->port, of, where->address, why, help,
             where->option != NULL ? where->option : "--help");
}

int listener_open(struct listener *listener, struct loop *loop, const struct endpoint *where,
                  const char *whom, void (*on_accept)(void *owner, int fd), void *owner)
{
    *listener = (struct listener){.loop = loop, .on_accept = on_accept, .owner = owner};
    int fd = listening_socket_on(where);

    listener->port = fd >= 0 ? sock_port(fd) : -1;
    if (listener->port < 0 ||
        watch_start(loop, &listener->watch, fd, WATCH_READ, on_connection, listener) != 0) {
        complain_of(where);
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
    for (int i = 0; i < BACKLOG && listener->watch.active; i++)
        if (!accept_one(listener))
            break;
    timer_stop(&listener->pause);
    watch_close(listener->loop, &listener->watch);
    *listener = (struct listener){.port = listener->port};
}
