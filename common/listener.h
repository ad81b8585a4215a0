/*
 * listener: a port that is open to the world.
 */
#ifndef COMMON_LISTENER_H
#define COMMON_LISTENER_H

#include "loop.h"

/* Where to listen. */
struct endpoint {
    char address[64];       /* "": all addresses, IPv6 and IPv4 */
    int port;               /* 0: any free one */
    const char *option;     /* on the command line, for complaints: "-u" */
    const char *congestion; /* NULL: the system's */
};

/* on_accept gets each new connection: the descriptor is then its own. It may close the listener, but not while listener_close
 * calls it. */
struct listener {
    struct loop *loop;
    struct watch watch;
    struct timer pause;              /* runs while there is no room for another connection */
    int port;                        /* the real one, where 0 was asked for; once closed, what it was */
    bool (*may_accept)(void *owner); /* if set: asked before each; on "no" connections wait in the backlog */
    void (*on_accept)(void *owner, int fd);
    void *owner;
};

/* Listens, and logs "listening for WHOM on port N", or why it can't and what would help; returns 0 or -1. All zeros is a
 * closed listener, which may be closed again. */
int listener_open(struct listener *listener, struct loop *loop, const struct endpoint *where,
                  const char *whom, void (*on_accept)(void *owner, int fd), void *owner);
/* Hands on the connections that are complete already, then closes: nobody who got in is turned away, unless
 * there is no room. */
void listener_close(struct listener *listener);

#endif
