/*
 * sock: TCP sockets that are set up the way a tunnel needs them, and ports to listen on.
 *
 * Every descriptor that comes from here is non-blocking, is not inherited by child processes, sends small
 * messages at once, and notices within about a minute that its peer has vanished without a word (before Linux 6.15:
 * within a quarter of an hour, if bytes were under way).
 */
#ifndef COMMON_SOCK_H
#define COMMON_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "loop.h"

/* A port that is open to the world. on_accept gets each new connection: the descriptor is then its own. */
struct listener {
    struct loop *loop;
    struct watch watch;
    struct timer pause; /* runs while the system has no descriptor or memory for another connection */
    int port;           /* the real one, where 0 was asked for */
    bool (*may_accept)(void *owner); /* if set: asked before each; on "no" connections wait in the backlog */
    void (*on_accept)(void *owner, int fd);
    void *owner;
};

/* Listens on port (0: any free one) of address, or of all addresses, IPv6 and IPv4, if that is NULL. Logs
 * "listening for WHOM on port N" or why it can't; returns 0 or -1. All zeros is a closed listener, which
 * may be closed again. */
int listener_open(struct listener *listener, struct loop *loop, const char *address, int port,
                  const char *whom, void (*on_accept)(void *owner, int fd), void *owner);
/* Hands on the connections that are complete already, then closes: nobody who got in is turned away, unless
 * there is no room. */
void listener_close(struct listener *listener);

/* Sets all that this header's first lines promise. For listening sockets too: what they accept
 * inherits it. */
void sock_tune(int fd);
/* Sets what a connection within one machine needs: nobody vanishes without a word, and there is no line to be
 * shared. On top of sock_tune, or instead; before connect or listen. Ports that listen on all addresses go
 * without: they can't know. */
void sock_tune_local(int fd);
/* Whether this address, IPv4 or IPv6, is one of 127.0.0.0/8 or ::1. */
bool sock_is_loopback(const struct sockaddr *address);
/* Has the kernel ask the peer's for a sign of life after ms milliseconds of silence, rounded up to seconds,
 * and again and again; after three that were not answered the connection is broken. */
void sock_keepalive(int fd, int ms);
/* Whether the peer's kernel has sent or answered anything lately: within two periods of that keepalive. */
bool sock_heard_lately(int fd, int keepalive_ms);

/* The error that the kernel holds for this socket, an errno, or 0; asking clears it. */
int sock_error(int fd);
/* Bytes that were written but not yet acknowledged by the peer's kernel. */
int sock_unacknowledged(int fd);
/* Sends one line; the format has no '\n'. Returns 0, or -1 with errno if it can't all go at once. */
__attribute__((format(printf, 2, 3))) int sock_say(int fd, const char *format, ...);
/* Has close() send a reset: the peer learns that this was no orderly end. */
void sock_reset_on_close(int fd);
/* Says one last line, then closes in a way that lets the line arrive. */
void sock_refuse(int fd, const char *text);

/* "192.0.2.7:41234" or "[2001:db8::7]:41234": who is at the other end. */
struct peer_text {
    char text[80];
};
struct peer_text sock_peer(int fd);

#endif
