/*
 * attempt: connects to one address, without waiting for it. It is a part of dial, which knows what to try next.
 */
#ifndef COMMON_ATTEMPT_H
#define COMMON_ATTEMPT_H

#include <stdint.h>

#include "addresses.h"
#include "loop.h"

/* All zeros is none under way. */
struct attempt {
    struct loop *loop;
    struct watch watch; /* its fd is -1 while there is no socket */
    struct timer timer;
    uint64_t end_ms; /* until then the address may answer */
    const struct address *address;
    const char *congestion;
    void (*on_attempted)(void *owner, int fd);
    void *owner;
};

/* Connects to address, which must live on meanwhile, within ms milliseconds; congestion is for hosts other than this one, NULL:
 * the system's. Returns a connected descriptor, which is yours and set up for a tunnel; or -1 with errno. EINPROGRESS is no
 * failure: then on_attempted will be called once, with the descriptor, or with -1 and errno. */
int attempt_start(struct attempt *attempt, struct loop *loop, const struct address *address,
                  const char *congestion, int ms, void (*on_attempted)(void *owner, int fd), void *owner);
/* Gives up; on_attempted will not be called. Does nothing if none is under way. */
void attempt_stop(struct attempt *attempt);

#endif
