/*
 * target: where to connect to, as somebody typed it, and the addresses that it stands for.
 *
 * A name is looked up while everything else goes on, one look-up at a time. It is looked up again when the answer
 * is older than ten seconds, since a host may move, or when no address in it was of any use. The old addresses
 * serve until the new ones are there; if the name service fails, they stay. Numbers, localhost (RFC 6761, 6.3) and
 * paths are no names: their addresses are known for good.
 */
#ifndef COMMON_TARGET_H
#define COMMON_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "addresses.h"
#include "list.h"
#include "lookup.h"
#include "loop.h"

struct target {
    char text[280]; /* "example.org port 80" or "the socket /run/app.sock", for the log */
    char host[256]; /* the name to look up; empty: none */
    int port;
    const char *congestion; /* of connections to it, unless it is this machine; NULL: the system's */
    struct addresses addresses;
    struct lookup lookup;
    uint64_t answered_ms;   /* the time of the last answer */
    char trouble[120];      /* in words, if that was a failure; else empty */
    struct link waiting;    /* for an answer: see target_wait */
    int lack;               /* what this side lacked at the last dial that failed for that: an errno */
    uint64_t lack_until_ms; /* until then nobody dials */
};

/* Takes "host:port", "[::1]:port", "port" (of localhost) or the path of a Unix socket, which has a '/' in it and at
 * most 103 bytes; or, if default_port isn't 0, "host", "host:port" or an IPv6 address, with or without brackets.
 * Returns 0, or -1 for anything else. */
int target_parse(struct target *target, const char *text, int default_port);
/* The host at the other end of fd, with another port. What target was before is cleared. Returns 0, or -1 with errno,
 * if that end is gone or there is no memory. */
int target_of_peer(struct target *target, int fd, int port);
/* Ends a look-up, and frees the addresses. All zeros may be cleared, too. */
void target_clear(struct target *target);

/* Begins to look a name up, if it is one. Returns 0, or -1 and says in the log why it can't. If it turns out
 * that no such name exists, and none ever did, this is said in the log, and loop_stop ends the program with
 * status 1: most likely it is mistyped. Any other failure may be over the next time. */
int target_lookup(struct target *target, struct loop *loop);

/* ---- for dial ---- */

/* To be called before addresses are picked. Looks the name up again, if it is time; if all addresses were tried in vain and
 * nothing is to be expected from a look-up, they are all new again. */
void target_refresh(struct target *target, struct loop *loop);

/* One who waits for the look-up that is under way. */
struct target_waiter {
    struct link place;
    void (*on_answer)(void *owner);
    void *owner;
};
/* Calls on_answer once when it is over, whatever came of it. Returns false if none is under way.
 * list_remove(&waiter->place) ends the waiting. */
bool target_wait(struct target *target, struct target_waiter *waiter, void (*on_answer)(void *owner),
                 void *owner);

#endif
