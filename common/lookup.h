/*
 * lookup: asks which addresses a name has, without waiting for the answer.
 */
#ifndef COMMON_LOOKUP_H
#define COMMON_LOOKUP_H

#include <stdbool.h>

#include "loop.h"

struct addrinfo;
struct question;

/* What the name service said. */
struct answer {
    const struct addrinfo *found; /* the addresses; NULL: none */
    const char *why;              /* if so: in words */
    bool no_such_name; /* if so: it is sure that there is none, and to ask again is of little use */
};

/* All zeros is none under way. */
struct lookup {
    struct watch watch;
    struct loop *loop;
    struct question *question; /* shared with the thread that asks */
    void (*on_answer)(void *owner, const struct answer *answer);
    void *owner;
};

/* Asks for host's addresses, with this port; none may be under way in lookup. Then calls on_answer once, never before it
 * returns. What answer points to is gone when on_answer returns. Returns 0, or -1 with errno if there is no memory, no descriptor
 * or no thread for it. */
int lookup_start(struct lookup *lookup, struct loop *loop, const char *host, int port,
                 void (*on_answer)(void *owner, const struct answer *answer), void *owner);
/* on_answer will not be called. Waits for nobody: the thread ends by itself. Does nothing if none is under way. */
void lookup_stop(struct lookup *lookup);
bool lookup_is_running(const struct lookup *lookup);

#endif
