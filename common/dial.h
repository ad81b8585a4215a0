/*
 * dial: opens a connection to a target, without waiting for it.
 *
 * A dial tries the target's addresses in turn, each for a limited time, and hands over the first connection that comes
 * about.
 */
#ifndef COMMON_DIAL_H
#define COMMON_DIAL_H

#include <stdbool.h>

#include "attempt.h"
#include "loop.h"
#include "target.h"

enum {
    DIAL_MS = 5000,       /* for a host: there are others, and it will be dialed again */
    DIAL_LONG_MS = 30000, /* for a program that may be busy */
};

/* Whose fault a failure is. The further down, the more it tells of why nobody can be reached. */
enum blame {
    BLAME_NOBODY,  /* no address was tried */
    BLAME_FAMILY,  /* this machine has no address of that kind: "no IPv6 here" */
    BLAME_WAY,     /* there is no way to the address: "network is unreachable" */
    BLAME_ADDRESS, /* there is, but nobody answers there: "refused" */
    BLAME_GOOD,    /* the address that was good before */
    BLAME_HERE,    /* what this side lacks: a descriptor, a port, memory: other addresses would fail, too */
};

struct dial {
    struct loop *loop;
    struct target *target;
    struct timer timer;          /* for what has to be waited for before an address is tried */
    struct target_waiter waiter; /* for the look-up */
    uint64_t patience_ends_ms;   /* with what this side lacks */
    struct address address;      /* the one being tried */
    struct attempt attempt;      /* to connect to it */
    int ms;                      /* the time for each */
    unsigned tries_left;         /* so that it ends, whatever becomes of the addresses meanwhile */
    bool has_waited;             /* for the look-up */
    enum blame blame;            /* of the failure so far that tells most */
    int error;                   /* its errno; EHOSTUNREACH if there was none */
    void (*on_dialed)(void *owner, int fd);
    void *owner;
};

/* Connects to target, which must live on meanwhile, and gives each address ms milliseconds. Then calls on_dialed once,
 * never before dial_start returns: with a descriptor, which is the callee's, or with -1 and errno. A look-up is
 * waited for if there is no address at all, and for ms milliseconds at most if all have been tried in vain.
 * Whether the right one answers is not known here: see dial_good.
 * If it fails for what this side lacks, a descriptor, a port or memory, later dials to the target wait for half a second
 * before they try, but no longer than ms altogether. */
void dial_start(struct dial *dial, struct loop *loop, struct target *target, int ms,
                void (*on_dialed)(void *owner, int fd), void *owner);
/* Gives up; on_dialed will not be called. Does nothing if none is under way; all zeros is one that never
 * was. */
void dial_stop(struct dial *dial);

/* ---- after on_dialed ---- */

/* It was the right one who answered: later dials to the target begin with this address. Without that they go on to
 * the next one, and after the last the name is looked up again. */
void dial_good(struct dial *dial);
/* Why it failed, in words: the failure that tells most, of several such the last. */
struct dial_text {
    char text[400];
};
struct dial_text dial_error(const struct dial *dial);

#endif
