/*
 * dial: opens a connection to another host, without waiting for it.
 *
 * A target is a host and a port as somebody typed them, and the addresses that they stand for. A dial is
 * one attempt to connect to it: it tries the addresses in turn, each for a few seconds at most, and
 * begins with the one that answered the last time.
 */
#ifndef COMMON_DIAL_H
#define COMMON_DIAL_H

#include <sys/socket.h>

#include "loop.h"

enum { TARGET_ADDRESSES = 8 };

struct target {
    char host[256];
    int port;
    struct sockaddr_storage addresses[TARGET_ADDRESSES];
    unsigned count; /* of addresses; 0: the name is to be looked up */
    unsigned first; /* the one to begin with */
};

/* Takes "host:port", "[::1]:port", "port" (of localhost), or, if default_port isn't 0, "host" or a bare
 * IPv6 address. Returns 0, or -1 for anything else. */
int target_parse(struct target *target, const char *text, int default_port);

/* Looks the name up. Returns 0, or -1 and says in the log what was wrong. Blocks while the name service is
 * asked, which for a numeric address it never is. */
int target_lookup(struct target *target);

/* The host at the other end of fd, with another port. Returns 0, or -1 if that end is gone. */
int target_of_peer(struct target *target, int fd, int port);

struct dial {
    struct loop *loop;
    struct watch watch;
    struct timer timer;
    struct target *target;
    unsigned first; /* the address that this dial began with */
    unsigned tried; /* addresses so far */
    unsigned at;    /* the address being tried */
    int error;      /* the last one's errno */
    void (*on_dialed)(void *owner, int fd);
    void *owner;
};

/* Connects to target, which must live on meanwhile, and then calls on_dialed once, never before dial_start
 * returns: with a descriptor, which is the callee's, or with -1 and errno. If no address answers, the next
 * dial looks the name up again. */
void dial_start(struct dial *dial, struct loop *loop, struct target *target,
                void (*on_dialed)(void *owner, int fd), void *owner);
/* Gives up; on_dialed will not be called. Does nothing if none is under way; all zeros is one that never
 * was. */
void dial_stop(struct dial *dial);

/* How long to wait before another try: *last_ms is doubled each time, from 0.5 s up to 30 s; 0 starts over.
 * The result is that, give or take a quarter by chance, so that many who lost the same host don't come back
 * at once. */
int backoff_ms(int *last_ms);

#endif
