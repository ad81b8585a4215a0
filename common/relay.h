/*
 * relay: joins two connections, so that each talks to the other as if directly connected.
 *
 *            +-------------- relay --------------+
 *   left --->| source        pump 0      sink    |---> right
 *   left <---| sink          pump 1      source  |<--- right
 *            +-----------------------------------+
 *
 * What each side sees is what it would see without a tunnel:
 * - all bytes in order; a side that doesn't read stops the other from sending, and nobody else;
 * - the end of one direction (FIN) at once, while the other direction goes on for as long as it likes;
 * - a reset as a reset, after the bytes that came ahead of it have arrived;
 * - an answer, even if it comes before the question is over and nobody reads the rest of that.
 * A peer that can't be told any more, and one that takes nothing after the other is gone, is given up within a minute or
 * two. One that is slow is not.
 */
#ifndef COMMON_RELAY_H
#define COMMON_RELAY_H

#include "bucket.h"
#include "loop.h"
#include "round.h"

/* What became of a joined pair. */
struct relay_report {
    unsigned number;  /* as given when it was joined */
    uint64_t up;      /* bytes from left to right */
    uint64_t down;    /* bytes from right to left */
    uint64_t time_ms; /* since it was joined */
};

/* All pairs of a program. */
struct relays {
    struct loop *loop;
    int count;            /* pairs now, with those that leave; for your decisions */
    struct link joined;   /* those at work */
    struct round asked;   /* those at work, with a sink that is full and is asked for room now and then */
    struct round leaving; /* those that are broken, and still deliver what came before */
    struct buckets buckets;
    void (*on_done)(void *owner, const struct relay_report *report);
    void *owner;
};

/* on_done is told of each pair that has ended; both its descriptors are closed by then. */
void relays_init(struct relays *relays, struct loop *loop,
                 void (*on_done)(void *owner, const struct relay_report *report), void *owner);
/* Logs a report: "NAME 7 done: 412 B up, 1.2 MB down, 0.3 s". */
void relay_say_done(const char *name, const struct relay_report *report);
/* Resets all pairs, without a report. */
void relays_close(struct relays *relays);

/* Joins left and right and takes both over. On failure (no memory), says so in the log, closes both and
 * returns -1. */
int relay_join(struct relays *relays, int left, int right, unsigned number);
/* Sends all that fd says back to it: a pair with itself, with one pump. */
int relay_echo(struct relays *relays, int fd, unsigned number);

#endif
