/*
 * poller: asks the system which descriptors are ready. The part of the loop of which every system has its own kind.
 *
 * poller_epoll.c is Linux's, poller_poll.c that of macOS, the BSDs and all others; the Makefile picks one. Only loop.c
 * uses this.
 */
#ifndef COMMON_POLLER_H
#define COMMON_POLLER_H

#include "loop.h"

struct poller;

/* A watch, and the WATCH_ bits of what it is ready for. */
struct event {
    struct watch *watch;
    unsigned ready;
};

/* NULL, with errno, if the system refuses. */
struct poller *poller_open(void);
void poller_close(struct poller *poller);

/* From now on watch->fd is waited for with this interest. watch->active tells whether it was before. Returns 0, or -1 with
 * errno. */
int poller_set(struct poller *poller, struct watch *watch, unsigned interest);
/* No longer; its descriptor lives on. */
void poller_remove(struct poller *poller, struct watch *watch);
/* This descriptor has been closed. */
void poller_closed(struct poller *poller, int fd);

/* Waits until something is ready, for ms milliseconds at most (-1: for ever). Fills in events, no more than `most`, and
 * returns how many, 0 if the time is over; or -1 with errno. */
int poller_wait(struct poller *poller, struct event *events, int most, int ms);

#endif
