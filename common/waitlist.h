/*
 * waitlist: connections that wait for their turn, first come first served.
 *
 * One that breaks while it waits leaves the list, and one that has waited too long is reset. Bytes that it
 * sends meanwhile stay in the kernel, for whoever gets it later; and so does the end of its stream:
 * a user that has said everything and closed its side still wants the answer.
 */
#ifndef COMMON_WAITLIST_H
#define COMMON_WAITLIST_H

#include "loop.h"

struct waitlist {
    struct loop *loop;
    struct link waiting; /* the one that has waited the longest is the first */
    int count;
    int patience_ms;    /* how long one waits at most; 0: for ever */
    bool silent;        /* its members have nothing to say: one that sends anything, even its end, leaves */
    struct timer timer; /* for the first; the others came later and have the same patience */
    void (*on_left)(void *owner, unsigned number, const char *why);
    void *owner;
};

/* on_left is told the number of a connection that left before its turn, and why; it is closed already. All zeros is an empty list,
 * for waitlist_clear alone. */
void waitlist_init(struct waitlist *list, struct loop *loop, int patience_ms, bool silent,
                   void (*on_left)(void *owner, unsigned number, const char *why), void *owner);

/* Takes fd over; number is for you to tell them apart. Returns 0, or -1 with errno; fd is then still yours. */
int waitlist_push(struct waitlist *list, int fd, unsigned number);
/* The first one's descriptor, which stays the list's. The list must not be empty. */
int waitlist_first(const struct waitlist *list);
/* The first one's descriptor, which is yours again; and its number, unless NULL. The list must not be
 * empty. */
int waitlist_pop(struct waitlist *list, unsigned *number);
/* Closes them all, without a word. */
void waitlist_clear(struct waitlist *list);

#endif
